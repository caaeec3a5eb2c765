"""For which operator a promise holds: a torus, and the factor by which the operator may exceed it.

    norm(operator) <= factor * norm(torus)

| guarantee  | operator                                    | torus                      | factor         |
| ---------- | ------------------------------------------- | -------------------------- | -------------- |
| `torus`    | the layer, its boundary wrapped (the paper) | its input                  | 1              |
| `layer`    | the layer as it pads                        | its input, or one around   | `sqrt(copies)` |
| `any_size` | the layer as it pads, at every input size   | samples of all frequencies | > 1            |

(`copies`: of one input point by the padding, 1 for zeros; see `bounds/copy_count.py`),

so that whoever holds the norm of a torus at `max_norm / factor` keeps the promise. `torus` takes a
zero-padded layer for the wrapped one, as the paper does; of a layer that pads by reflection or replication it
says nothing and is refused, and one that wraps at sizes where it is not circulant is held as it wraps.
Factors are proven in real arithmetic; what rounding adds is decided by `Target.keeps`, and nowhere else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, get_args

import numpy as np

from ._compat import Array, is_concrete, is_on_gpu, is_torch, namespace, real_kernel, to_numpy, untracked
from .bounds.copy_count import copies_at_any_size, covering_tori
from .bounds.pfister2018 import sampling_torus
from .compute import Compute
from .errors import GeometryError, InputError, RangeError
from .geometry import ConvGeometry, Correlation
from .results import Projection
from .rounding import norm_error
from .spectrum import exceeds, top_block
from .symbol import in_correlation_order

Guarantee = Literal["torus", "layer", "any_size"]

OVERSAMPLING = 8
"""Of `any_size`, as `bounds.pfister2018` has it: its factor is 1.02 an axis."""

_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Target:
    """A kernel in correlation order, the torus it is held to, and what that says of the operator."""

    kernel: Array
    geometry: ConvGeometry
    torus: Correlation
    guarantee: Guarantee
    factor: float
    compute: Compute

    def norm(self, kernel: Array) -> Array:
        """The operator's norm: exact up to rounding where the factor is 1, else an upper bound.

        Raises:
            RangeError: it is too large for the precision, so that nothing can be promised.
        """
        norm = top_block(untracked(kernel), self.torus, compute=self.compute).norm
        if self.factor != 1:
            with np.errstate(over="ignore"):
                norm = (norm + norm_error(kernel, self.torus, norm)) * self.factor
        if is_concrete(norm) and not math.isfinite(float(norm)):
            largest = float(namespace(kernel).max(abs(untracked(kernel))))
            raise RangeError(
                f"the operator's norm is beyond the range of {kernel.dtype}, the kernel's largest entry is "
                f"{largest:.3g}: divide the kernel, or give it in a wider precision"
            )
        return norm

    def keeps(self, kernel: Array, max_norm: float, norm: Array | None = None) -> bool:
        """Whether the norm of the operator with these very entries is proven to be at most `max_norm`.

        By the norm in the kernel's precision and what that may be off by; where this cannot decide, by a
        certificate in double precision; at the limit itself by exact sums of the moduli.

        Arguments:
            norm: `self.norm(kernel)`, if it is known.
        """
        kernel = untracked(kernel)
        norm = float(self.norm(kernel) if norm is None else norm)
        error = norm_error(kernel, self.torus, norm / self.factor) * self.factor
        if norm > max_norm:
            return False
        upper = (norm + error if self.factor == 1 else norm) * (1 + 4 * _EPS)
        if upper <= max_norm:
            return True
        if upper - 2 * error > max_norm:
            return False
        wide = in_doubles(kernel)
        level = max_norm if self.factor == 1 else max_norm / self.factor * (1 - 4 * _EPS)
        level -= norm_error(wide, self.torus, level)
        if wide.dtype != kernel.dtype and not exceeds(wide, self.torus, level, compute=self.compute):
            return True
        return _is_at_most_by_sums(
            to_numpy(wide), self.torus.groups, Fraction(max_norm) / Fraction(self.factor)
        )

    def inside(self, kernel: Array, max_norm: float, norm: Array | None = None) -> tuple[Array, Array]:
        """A kernel that was changed anyway, scaled into the ball if it is not, and its norm.

        To slightly less than the limit, so that other engines and the dense matrix, which round
        otherwise, agree.

        Arguments:
            norm: `self.norm(kernel)`, if it is known.
        """
        norm = self.norm(kernel) if norm is None else norm
        xp = namespace(kernel)
        eps = float(xp.finfo(kernel.dtype).eps)
        edge, margin = max_norm * (1 - 32 * eps), 64 * eps
        if not is_concrete(norm):
            # Twice the error: the second is what rounding of the scaled entries adds.
            upper = norm + 2 * self.factor * norm_error(kernel, self.torus, norm / self.factor)
            over = upper > edge
            factor = xp.where(over, max_norm * (1 - margin) / xp.where(over, upper, 1 + upper), 1 + 0 * norm)
            return kernel * factor, norm * factor
        while not (float(norm) <= edge and self.keeps(kernel, max_norm, norm)):
            kernel = kernel * (max_norm * (1 - margin) / max(float(norm), edge))
            norm, margin = self.norm(kernel), min(1.0, 4 * margin)  # at worst the kernel ends at zero
        return kernel, norm

    def projection(self, kernel: Array, **fields: Any) -> Projection:
        """The record of what became of the kernel; the norms that `fields` lacks are computed."""
        for name, one in (("norm_before", self.kernel), ("norm", kernel)):
            if name not in fields:
                fields[name] = self.norm(one)
        axes = tuple(int(axis) for axis in np.argsort(self.geometry.kernel_axes))
        given = namespace(kernel).permute_dims(kernel, axes)
        return Projection(kernel=given, guarantee=self.guarantee, **fields)


def target_of(kernel: Array, geometry: ConvGeometry, guarantee: Guarantee, compute: Compute) -> Target:
    """The promise of a layer.

    Raises:
        InputError: an unknown guarantee.
        GeometryError: `torus` for padding by reflection or replication, or for a zero-padded layer whose
            stride does not divide the input; `layer` for padding by reflection over an axis of one point;
            `any_size` for padding that wraps, mirrors or repeats over thousands of points.
        KernelError: as `singular_values`.
    """
    check_guarantee(guarantee)
    kernel = real_kernel(kernel)
    if guarantee == "torus":
        geometry = _wrapped(geometry, kernel.shape)
    correlation = geometry.correlation(kernel.shape)
    ready = in_correlation_order(kernel, geometry.kernel_axes)
    if guarantee == "any_size":
        torus, factor = sampling_torus(correlation, OVERSAMPLING)
        # The sine and the products of the factor are rounded, too.
        factor = 1.0 if factor == 1 else factor * (1 + 8 * _EPS)
        copies = copies_at_any_size(correlation, geometry.padding == "same" and not geometry.transposed)
    elif correlation.is_circulant:
        torus, factor, copies = correlation, 1.0, 1
    else:
        (torus, *_), copies = covering_tori(correlation, 1)
        factor = 1 + 2 * _EPS  # proven, not exact: the layer is less than its torus
    if copies > 1:
        factor *= math.sqrt(copies) * (1 + 2 * _EPS)
    return Target(ready, geometry, torus, guarantee, factor, compute)


def _wrapped(geometry: ConvGeometry, kernel_shape: tuple[int, ...]) -> ConvGeometry:
    """The geometry that `torus` is about."""
    correlation = geometry.correlation(kernel_shape)
    if correlation.is_circulant or geometry.padding_mode == "circular":
        return geometry
    if geometry.padding_mode != "zeros" and any(map(any, correlation.padding)):
        raise GeometryError(
            f"guarantee='torus' says nothing about padding_mode={geometry.padding_mode!r}, which copies the "
            "input: take guarantee='layer' or 'any_size', or geometry.on_torus() for the wrapped operator"
        )
    geometry = geometry.on_torus()
    geometry.correlation(kernel_shape).require_circulant()
    return geometry


def in_doubles(kernel: Array) -> Array:
    """The same values in float64, where there are such: on the kernel's device, or as a NumPy array."""
    if is_torch(kernel) and is_on_gpu(kernel):
        return kernel.double()
    return to_numpy(kernel).astype(np.float64, copy=False)


def _is_at_most_by_sums(kernel: np.ndarray[Any, Any], groups: int, limit: Fraction) -> bool:
    """Schur's test in exact arithmetic: `norm^2 <= largest row sum * largest column sum` of all taps' moduli.

    It decides what sums of products cannot: kernels whose norm is the limit itself, such as an identity.
    """
    moduli = np.abs(kernel).reshape(groups, kernel.shape[0] // groups, kernel.shape[1], -1)
    for group in moduli:
        rows, columns = group.reshape(len(group), -1), np.swapaxes(group, 0, 1).reshape(group.shape[1], -1)
        with np.errstate(over="ignore"):
            about = [float(lines.sum(axis=1).max()) / float(limit) for lines in (rows, columns)]
        if not about[0] * about[1] <= 1 + 1e-12:  # what exact sums, which take long, could not change
            return False
        sums = [max(sum(map(Fraction, map(float, line))) for line in lines) for lines in (rows, columns)]
        if sums[0] * sums[1] > limit * limit:
            return False
    return True


def check_guarantee(guarantee: object) -> None:
    """Raise the InputError of a word that is no guarantee."""
    if guarantee not in get_args(Guarantee):
        raise InputError(f"guarantee must be one of {', '.join(get_args(Guarantee))}; got {guarantee!r}")


def check_limit(name: str, value: object) -> float:
    """`value` as a float, if it is a positive and finite number.

    Raises:
        InputError: it is not.
    """
    try:
        number = math.nan if isinstance(value, (str, bytes, bool)) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise InputError(f"{name} must be positive and finite; got {value!r}")
    return number
