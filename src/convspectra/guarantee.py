"""Which operator a norm is about: a torus, and the factor by which the operator may exceed it.

    norm(operator) <= factor * norm(torus)

| guarantee  | operator                                     | torus                      | factor         |
| ---------- | -------------------------------------------- | -------------------------- | -------------- |
| `layer`    | the layer with its own padding (the default) | its input, or one around   | `sqrt(copies)` |
| `torus`    | the layer, its boundary wrapped (the paper)  | its input                  | 1              |
| `any_size` | with its own padding, at every input size    | samples of all frequencies | > 1            |

(`copies`: of one input point by the padding, 1 for zeros; see `bounds/copy_count.py`). A norm of the torus
of at most `max_norm / factor` proves one of the operator of at most `max_norm`. Between samples of
`any_size` the norm may be larger, by 2 % an axis at the most; where values can be looked at, and no
derivative is wanted, the search over all frequencies (`supremum.py`) says how much it is. For a layer whose
boundary wraps `layer` and `torus` are the same; `geometry.on_torus()` is the wrapped version of any layer.
Where padding copies the input and that takes no more than a second, `layer` is decided by a factorisation
(`bounds/rump2006.py`), within 1 % and not within the factor. `torus` takes a zero-padded layer for the
wrapped one, as the paper does; of a layer that pads by reflection or replication it says nothing and is
refused, and one that wraps at sizes where it is not circulant is held as it wraps.
Factors are proven in real arithmetic; what rounding adds is decided by `Target.keeps`, and nowhere else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal, cast, get_args

import numpy as np

from . import functions
from ._compat import (
    Array,
    eps_of,
    is_concrete,
    is_on_gpu,
    is_tracked,
    like,
    namespace,
    to_numpy,
)
from .bounds.copy_count import copies_at_any_size, covering_tori
from .bounds.duffin1938 import searched
from .bounds.pfister2018 import OVERSAMPLING, sampling_torus
from .bounds.rump2006 import ProvenNorm, quick_certificate
from .checks import check_word
from .compute import Compute
from .errors import GeometryError, RangeError
from .geometry import ConvGeometry, Correlation
from .problem import Problem, in_doubles, problem_of, scaled, without_gradient
from .results import Projection
from .rounding import rounded_up
from .spectrum import TopBlock, exceeds, top_on
from .supremum import Supremum

Guarantee = Literal["torus", "layer", "any_size"]

_EPS = float(np.finfo(np.float64).eps)

_WIDTH = 0.01
"""Within which a factorisation proves a norm."""


@dataclass(frozen=True, eq=False)
class Target:
    """A problem, the torus it is measured on, and what that says of the operator.

    Attributes:
        problem: the kernel; of a wrapped layer where the guarantee is `torus`.
        torus, factor: `norm(operator) <= factor * norm(torus)`.
        copied: the share of the factor that copies of the input have: `norm(operator) <= copied * sup`, the
            largest norm at any frequency; `factor` where the torus has all frequencies that count, or where a
            derivative is wanted.
        certified: the norm is proven by a factorisation where the factor does not suffice.
        known: an upper bound of the norm that is proven already.
    """

    problem: Problem
    torus: Correlation
    guarantee: Guarantee
    factor: float
    copied: float
    certified: bool = False
    known: float = math.inf

    @property
    def kernel(self) -> Array:
        """In the order of `Correlation`."""
        return self.problem.kernel

    @property
    def compute(self) -> Compute:
        return self.problem.compute

    def moved(self, kernel: Array) -> Target:
        """The same operator with another kernel."""
        if kernel is self.kernel:
            return self
        return replace(self, problem=self.problem.moved(kernel), known=math.inf)

    def times(self, factor: float) -> Target:
        """The same operator with the kernel multiplied by a number, and what is proven of its norm."""
        found = self.moved(self.kernel * factor)
        if self._proven is None:
            return found
        rounding = found.problem.symbol_error() * self.copied  # of entries below the normal numbers, too
        return replace(found, known=(self._proven.upper * factor + rounding) * (1 + 8 * _EPS))

    def level(self, max_norm: float) -> float:
        """What the norm of the torus has to be at most.

        Where a factorisation decides this proves nothing: it takes the torus and the operator to keep their
        ratio.
        """
        norm = float(self.norm) if self._proven is not None else 0.0
        if not norm > 0:
            return max_norm / self.copied
        torus = float(top_on(without_gradient(self.problem), self.torus).norm)
        return max(torus / norm, 1 / self.copied) * max_norm

    @property
    def norm(self) -> Array:
        """The operator's norm: exact up to rounding where the factor is 1, else an upper bound.

        Without gradient.

        Raises:
            RangeError: it is too large for the precision, so that nothing can be promised.
        """
        upper, kernel = self._at_any_size, self.problem.kernel
        if self._proven is not None:
            upper = self._proven.upper if math.isfinite(self.known) else self._proven.narrowed(_WIDTH)
        if upper is None:
            return self._norm_by_factor
        with np.errstate(over="ignore"):
            return self._in_range(
                like(rounded_up(np.float64(upper), 1.0, to_numpy(kernel)), kernel, kernel.dtype)
            )

    @cached_property
    def _norm_by_factor(self) -> Array:
        return self.norm_from(top_on(without_gradient(self.problem), self.torus).norm)

    @cached_property
    def _proven(self) -> ProvenNorm | None:
        if not self.certified:
            return None
        upper = min(self.known, float(self._norm_by_factor) * (1 + 4 * _EPS))
        return ProvenNorm(without_gradient(self.problem), upper)

    def norm_from(self, norm: Array) -> Array:
        """What a norm of the torus says of the operator; as `norm`, without a search.

        Raises:
            RangeError: as `norm`.
        """
        if self.factor != 1:
            with np.errstate(over="ignore"):
                norm = (norm + self.problem.norm_error(norm)) * self.factor
        return self._in_range(norm)

    def differentiable_norm(self, top: TopBlock | None = None) -> Array:
        """The norm by the factor, with the gradient of a singular pair that reaches it: `top`, if known."""
        return functions.norm(self.kernel, self.torus, self.compute, top) * self.factor

    def _in_range(self, norm: Array) -> Array:
        if is_concrete(norm) and not math.isfinite(float(norm)):
            kernel = without_gradient(self.problem).kernel
            largest = float(namespace(kernel).max(abs(kernel)))
            raise RangeError(
                f"the operator's norm is beyond the range of {kernel.dtype}, the kernel's largest "
                f"entry is {largest:.3g}: divide the kernel, or give it in a wider precision"
            )
        return norm

    @cached_property
    def _supremum(self) -> Supremum | None:
        """None where the torus has all frequencies that count, and where a derivative is wanted."""
        if self.copied == self.factor or not is_concrete(self.kernel):
            return None
        inside, _ = scaled(without_gradient(self.problem))
        return searched(inside)

    @cached_property
    def _at_any_size(self) -> float | None:
        """An upper bound by the search over all frequencies."""
        if self._supremum is None:
            return None
        _, power = scaled(without_gradient(self.problem))
        return math.nextafter(self._supremum.upper * float(power) * self.copied, math.inf)

    def keeps(self, max_norm: float) -> bool:
        """Whether the norm of the operator with these very entries is proven to be at most `max_norm`.

        By the norm in the kernel's precision and what that may be off by; where this cannot decide, by a
        certificate in double precision; at the limit itself by exact sums of the moduli.
        """
        if self._at_any_size is not None:
            return self._at_any_size <= max_norm or self._is_below_by_sums(max_norm)
        if self._proven is not None:  # a little less, as the norm is rounded up to the kernel's precision
            return self._proven.is_at_most(max_norm * (1 - 4 * eps_of(self.kernel)))
        problem, norm = without_gradient(self.problem), float(self.norm)
        error = problem.norm_error(norm / self.factor) * self.factor
        if norm > max_norm:
            return False
        upper = (norm + error if self.factor == 1 else norm) * (1 + 4 * _EPS)
        if upper <= max_norm:
            return True
        if upper - 2 * error > max_norm:
            return False
        wide = in_doubles(problem)
        level = max_norm if self.factor == 1 else max_norm / self.factor * (1 - 4 * _EPS)
        level -= wide.norm_error(level)
        narrow = wide.kernel.dtype != problem.kernel.dtype
        if narrow and not exceeds(wide.kernel, self.torus, level, self.compute):
            return True
        return self._is_below_by_sums(max_norm)

    def _is_below_by_sums(self, max_norm: float) -> bool:
        exact = Fraction(max_norm) / Fraction(self.copied)
        return _is_at_most_by_sums(to_numpy(in_doubles(self.problem).kernel), self.torus.groups, exact)

    def inside(self, max_norm: float) -> tuple[Target, Array]:
        """A kernel that was changed anyway, scaled into the ball if it is not, and its norm.

        To slightly less than the limit, so that other engines and the dense matrix, which round
        otherwise, agree.
        """
        here, eps = self, eps_of(self.kernel)
        edge, margin = max_norm * (1 - 32 * eps), 64 * eps
        while not (here.keeps(max_norm) and float(here.norm) <= edge):
            here = here.times(max_norm * (1 - margin) / max(float(here.norm), edge))
            margin = min(1.0, 4 * margin)  # at worst the kernel ends at zero
        return here, here.norm

    def projection(self, given: Target, **fields: Any) -> Projection:
        """The record of what became of a given kernel; the norms that `fields` lacks are computed."""
        for name, one in (("norm_before", given), ("norm", self)):
            if name not in fields:
                fields[name] = one.norm
        return Projection(kernel=self.problem.in_layout(self.kernel), guarantee=self.guarantee, **fields)


def target_from(kernel: Array, geometry: ConvGeometry, guarantee: Guarantee, compute: Compute) -> Target:
    """`target_of` a kernel in the layout of its geometry, which is checked here; errors as of both."""
    return target_of(problem_of(kernel, geometry, compute), guarantee)


def target_of(problem: Problem, guarantee: Guarantee) -> Target:
    """Which operator a guarantee is about, of a problem's layer.

    Raises:
        InputError: an unknown guarantee.
        GeometryError: `torus` for padding by reflection or replication, or for a zero-padded layer whose
            stride does not divide the input; `layer` for padding by reflection over an axis of one point;
            `any_size` for padding that wraps, mirrors or repeats over thousands of points.
    """
    guarantee = guarantee_of(guarantee)
    correlation = _wrapped(problem) if guarantee == "torus" else problem.correlation
    if guarantee == "any_size":
        torus, factor = sampling_torus(correlation, OVERSAMPLING)
        # The sine and the products of the factor are rounded, too.
        factor = 1.0 if factor == 1 else factor * (1 + 8 * _EPS)
        same = problem.geometry.padding == "same" and not correlation.transposed
        copies = copies_at_any_size(correlation, same)
    elif correlation.is_circulant:
        torus, factor, copies = correlation, 1.0, 1
    else:
        (torus, *_), copies = covering_tori(correlation, 1)
        factor = 1 + 2 * _EPS  # proven, not exact: the layer is less than its torus
    copied = 1.0 if copies == 1 else math.sqrt(copies) * (1 + 2 * _EPS)
    factor *= copied
    if guarantee == "any_size":
        # A search has no derivative, so that the factor stands where one is wanted.
        return Target(problem, torus, guarantee, factor, factor if is_tracked(problem.kernel) else copied)
    return Target(problem, torus, guarantee, factor, factor, copies > 1 and _is_certified(problem))


def _is_certified(problem: Problem) -> bool:
    """Whether a factorisation can prove the norm, without a gradient, in a time that is not noticed."""
    if is_tracked(problem.kernel) or is_on_gpu(problem.kernel):
        return False
    return quick_certificate(problem.correlation, problem.compute.memory).seconds > 0


def _wrapped(problem: Problem) -> Correlation:
    """The operator that `torus` is about."""
    geometry, correlation = problem.geometry, problem.correlation
    if correlation.is_circulant or geometry.padding_mode == "circular":
        return correlation
    if geometry.padding_mode != "zeros" and any(map(any, correlation.padding)):
        raise GeometryError(
            f"guarantee='torus' says nothing about padding_mode={geometry.padding_mode!r}, which copies the "
            "input: take guarantee='layer' or 'any_size', or geometry.on_torus() for the wrapped operator"
        )
    wrapped = problem.wrapped
    wrapped.require_circulant()
    return wrapped


def _is_at_most_by_sums(kernel: np.ndarray[Any, Any], groups: int, limit: Fraction) -> bool:
    """Schur's test in exact arithmetic: `norm^2 <= largest row sum * largest column sum` of all taps' moduli.

    It decides what sums of products cannot: kernels whose norm is the limit itself, such as an identity.
    """
    moduli = np.abs(kernel).reshape(groups, kernel.shape[0] // groups, kernel.shape[1], -1)
    for group in moduli:
        rows, columns = group.reshape(len(group), -1), np.swapaxes(group, 0, 1).reshape(group.shape[1], -1)
        with np.errstate(over="ignore"):
            about = [float(lines.sum(axis=1).max()) for lines in (rows, columns)]
        # What exact sums, which take long, could not change; the limit may be below all floats.
        if not all(map(math.isfinite, about)) or math.prod(map(Fraction, about)) > limit**2 * (
            1 + Fraction(1e-12)
        ):
            return False
        sums = [max(sum(map(Fraction, map(float, line))) for line in lines) for lines in (rows, columns)]
        if sums[0] * sums[1] > limit * limit:
            return False
    return True


def guarantee_of(word: object) -> Guarantee:
    """The guarantee of a word, which may have a hyphen, as on the command line.

    Raises:
        InputError: there is none.
    """
    found = word.replace("-", "_") if isinstance(word, str) else word
    check_word("guarantee", found, get_args(Guarantee))
    return cast(Guarantee, found)
