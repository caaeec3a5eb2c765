"""For which operator a promise holds: a torus, and the factor by which the operator may exceed it.

    norm(operator) <= factor * norm(torus)

| guarantee  | operator                                    | torus                      | factor         |
| ---------- | ------------------------------------------- | -------------------------- | -------------- |
| `torus`    | the layer, its boundary wrapped (the paper) | its input                  | 1              |
| `layer`    | the layer as it pads                        | its input, or one around   | `sqrt(copies)` |
| `any_size` | all sizes, wrapped, zero-padded or unpadded | samples of all frequencies | > 1            |

(`copies`: of one input point by the padding, 1 for zeros; see `bounds/copy_count.py`),

so that whoever holds the norm of a torus at `max_norm / factor` keeps the promise. Where the factor is
proven in real arithmetic, rounding has its own (`bounds/rounding.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from .._compat import Array, is_concrete, namespace, untracked
from ..bounds.copy_count import covering_tori
from ..bounds.pfister2018 import sampling_torus
from ..bounds.rounding import allowance
from ..errors import KernelError
from ..geometry import ConvGeometry, Correlation
from ..results import Projection
from ..spectral_map import Solve
from ..spectrum import prepare, top_block

Guarantee = Literal["torus", "layer", "any_size"]

OVERSAMPLING = 8
"""Of `any_size`, as `bounds.pfister2018` has it: its factor is 1.02 an axis."""


@dataclass(frozen=True)
class Promise:
    """A kernel in correlation order, the torus it is held to, and what that says of the operator."""

    kernel: Array
    geometry: ConvGeometry
    torus: Correlation
    guarantee: Guarantee
    factor: float
    solve: Solve

    def norm(self, kernel: Array) -> Array:
        """What is proven of the operator's norm: exact where the factor is 1, else an upper bound.

        Raises:
            KernelError: it is too large for the precision, so that nothing can be promised.
        """
        norm = top_block(untracked(kernel), self.torus, **self.solve).norm * self.factor
        if is_concrete(norm) and not math.isfinite(float(norm)):
            largest = float(namespace(kernel).max(abs(untracked(kernel))))
            raise KernelError(
                f"the operator's norm is beyond the range of {kernel.dtype}, the kernel's largest entry is "
                f"{largest:.3g}: divide the kernel, or give it in a wider precision"
            )
        return norm

    def inside(self, kernel: Array, max_norm: float) -> tuple[Array, Array]:
        """A kernel that was changed anyway, scaled into the ball if it is not, and its norm.

        To slightly less than the limit, so that other engines and the dense matrix, which round
        otherwise, agree.
        """
        norm = self.norm(kernel)
        xp = namespace(kernel)
        eps = float(xp.finfo(kernel.dtype).eps)
        edge, margin = max_norm * (1 - 32 * eps), 64 * eps
        if not is_concrete(norm):
            over = norm > edge
            target = max_norm * (1 - margin)
            factor = xp.where(over, target / xp.where(over, norm, 1 + norm), 1 + 0 * norm)
            return kernel * factor, norm * factor
        while float(norm) > edge:
            kernel = kernel * (max_norm * (1 - margin) / float(norm))
            norm, margin = self.norm(kernel), min(1.0, 4 * margin)  # subnormal kernels end at zero
        return kernel, norm

    def projection(self, kernel: Array, **fields: Any) -> Projection:
        """The record of what became of the kernel; the norms that `fields` lacks are computed."""
        for name, one in (("norm_before", self.kernel), ("norm", kernel)):
            if name not in fields:
                fields[name] = self.norm(one)
        axes = tuple(int(axis) for axis in np.argsort(self.geometry.kernel_axes))
        given = namespace(kernel).permute_dims(kernel, axes)
        return Projection(kernel=given, guarantee=self.guarantee, **fields)


def promise(kernel: Array, geometry: ConvGeometry, guarantee: Guarantee, solve: Solve) -> Promise:
    """The promise of a layer.

    Raises:
        ValueError: an unknown guarantee.
        GeometryError: `torus` for a stride that does not divide the input, `layer` for padding by
            reflection over an axis of one point.
        KernelError: as `singular_values`.
    """
    if guarantee not in get_args(Guarantee):
        raise ValueError(f"guarantee must be one of {', '.join(get_args(Guarantee))}; got {guarantee!r}")
    if guarantee == "torus" and not geometry.correlation(kernel.shape).is_circulant:
        geometry = geometry.on_torus()
    ready, correlation = prepare(kernel, geometry)
    if guarantee == "any_size":
        torus, factor = sampling_torus(correlation, OVERSAMPLING)
        if factor > 1:
            factor *= allowance(ready, correlation)
    elif guarantee == "torus" or correlation.is_circulant:
        correlation.require_circulant()
        torus, factor = correlation, 1.0
    else:
        (torus, *_), copies = covering_tori(correlation, 1)
        factor = math.sqrt(copies) * allowance(ready, correlation)
    return Promise(ready, geometry, torus, guarantee, factor, solve)


def check_limit(name: str, value: float) -> float:
    """`value` as a float, if it is positive and finite.

    Raises:
        ValueError: it is not.
    """
    number = float(value)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name} must be positive and finite; got {value}")
    return number
