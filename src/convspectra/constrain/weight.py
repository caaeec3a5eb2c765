"""One weight moved into the operator-norm ball of all its uses, in its own precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from .._compat import Array, eps_of, like, namespace, untracked
from ..compute import DEFAULT, Compute
from ..geometry import ConvGeometry
from ..guarantee import Guarantee, Target, target_from
from ..models.batch_norm import factors
from ..projection.clipping import clipped
from ..projection.matrix_clip import clipped_reshaped
from ..projection.nearest import projected
from ..projection.rescaling import rescaled
from ..results import Projection
from .limits import KEEPS_THE_LIMIT, Limits

Norms = list[Any] | None


class Location(Protocol):
    """How a kernel lies in a weight that is kept in another shape."""

    def kernel(self, weight: Array) -> Array: ...

    def weight(self, kernel: Array) -> Array: ...


@dataclass(frozen=True)
class Use:
    """One operator that a weight stands for.

    Attributes:
        geometry: of the layer.
        scale: shape (C_out,), float64: what the batch norm that follows multiplies its output channels by;
            None where none is taken into account.
        location: of the kernel in the weight; None where the weight is the kernel.
        guarantee: where it is another one than that of the limits.
    """

    geometry: ConvGeometry
    scale: np.ndarray[Any, Any] | None = None
    location: Location | None = None
    guarantee: Guarantee | None = None

    def kernel(self, weight: Array) -> Array:
        """The kernel that lies in a weight.

        Arguments:
            weight: of the shape in which it is kept.

        Returns:
            An array in the geometry's layout.
        """
        return weight if self.location is None else self.location.kernel(weight)

    def operator(self, weight: Array) -> Array:
        """The kernel as it acts, with the batch norm behind it.

        Arguments:
            weight: of the shape in which it is kept.

        Returns:
            An array in the geometry's layout.
        """
        kernel = self.kernel(weight)
        return kernel if self.scale is None else kernel * self.factors(kernel)

    def factors(self, kernel: Array) -> Array:
        """What the batch norm multiplies each entry by.

        Arguments:
            kernel: in the geometry's layout.

        Returns:
            An array that broadcasts to the kernel.
        """
        if self.scale is None:
            return namespace(kernel).ones_like(kernel)
        axes = self.geometry.kernel_axes
        shape = tuple(int(kernel.shape[axis]) for axis in axes)
        found = factors(self.scale, shape, self.geometry.transposed, self.geometry.groups)
        return like(np.transpose(found, np.argsort(axes)), kernel, kernel.dtype)

    def weight(self, kernel: Array) -> Array:
        """The weight that makes a kernel.

        Arguments:
            kernel: in the geometry's layout.

        Returns:
            An array of the shape in which the weight is kept.
        """
        return kernel if self.location is None else self.location.weight(kernel)


@dataclass(frozen=True)
class Precision:
    """The numbers that a weight is kept in.

    Attributes:
        eps: the distance from 1 to the next one.
        rounded: an array of the same type, with the nearest such numbers.
    """

    eps: float
    rounded: Callable[[Array], Array]


Dual = tuple[tuple[int, ...], Array]
"""`Projection.dual`, and the input size that it belongs to."""


@dataclass(frozen=True)
class Constrained:
    """A weight in the ball of all its uses.

    Attributes:
        weight: of the given one's shape and type.
        norms_before: of the given weight, one for each use; None where nobody asked.
        norms: of this one.
        moved: the use that it was moved for first.
        gap: as `Projection.gap`, for this use, of the weight as it is here; None where nothing is proven.
        iterations: sweeps of decompositions.
        dual: to start the next call from.
    """

    weight: Array
    norms_before: tuple[Array | float, ...] | None
    norms: tuple[Array | float, ...] | None
    moved: int = 0
    gap: float | None = None
    iterations: int = 0
    dual: Dual | None = None


def constrain(
    weight: Array,
    uses: Sequence[Use],
    limits: Limits,
    *,
    precision: Precision | None = None,
    dual: Dual | None = None,
    measure: bool = True,
    compute: Compute = DEFAULT,
) -> Constrained:
    """The weight moved into the ball of all its uses by the method that `limits` names.

    The use that exceeds the limit most is moved first, then that which exceeds it most now, each at most
    once; what is above the limit after that, or by rounding, is scaled off. Output channels that a batch norm
    scales by 0 stay as they are.

    Arguments:
        weight: a kernel, or what the uses' locations make kernels of; computed with in its own type.
        uses: at least one.
        limits: what is asked.
        precision: what the weight will be rounded to; None for its own type.
        dual: `Constrained.dual` of an earlier call; not used where another size is moved first.
        measure: also compute norms that the method does not need.
        compute: how; see `Compute`.

    Returns:
        `Constrained`. Methods of `KEEPS_THE_LIMIT` leave every norm at most `limits.max_norm`, in exact
        comparison, and a weight that is proven to be there already as it was.

    Raises:
        GeometryError, KernelError, InputError: as the functions of `convspectra.projection`.
    """
    alone, keeps = len(uses) == 1, limits.method in KEEPS_THE_LIMIT
    before: Norms = None if alone else [norm_of(weight, use, limits, compute) for use in uses]
    after, current, steps, moved = before, weight, list[Projection](), 0
    for _ in uses:
        at = 0 if after is None else max(range(len(uses)), key=after.__getitem__)
        if after is not None and after[at] <= limits.max_norm:
            break
        current, result = _moved(current, uses[at], limits, None if steps else dual, measure, compute)
        moved = moved if steps else at
        steps.append(result)
        if not alone:
            after = [norm_of(current, use, limits, compute) for use in uses]
    if alone:
        before, after = ([norm] if norm is not None else None for norm in (result.norm_before, result.norm))
    gap = steps[0].gap if len(steps) == 1 else None
    warm = steps[0].dual if steps else None
    if precision is not None or not alone or uses[0].scale is not None:
        precision = precision or Precision(eps_of(weight), lambda same: same)
        if keeps:
            current, after = _round_within_limit(current, uses, limits, precision, compute)
        else:
            current = precision.rounded(current)
            after = [norm_of(current, use, limits, compute) for use in uses] if measure else None
        if gap is not None:
            gap = _gap_after(gap, uses[moved], weight, steps[0], current)
    return Constrained(
        weight=current,
        norms_before=None if before is None else tuple(before),
        norms=None if after is None else tuple(after),
        moved=moved,
        gap=gap,
        iterations=sum(step.iterations for step in steps),
        dual=(uses[moved].geometry.input_shape, warm) if warm is not None else None,
    )


def norm_of(weight: Array, use: Use, limits: Limits, compute: Compute = DEFAULT) -> float:
    """What is known of the operator's norm for this use."""
    return float(target_for(weight, use, limits, compute).norm)


def measured(weight: Array, use: Use, limits: Limits, compute: Compute = DEFAULT) -> tuple[float, bool]:
    """The operator's norm for this use, and whether it is proven to be at most the limit."""
    target = target_for(weight, use, limits, compute)
    kept = target.keeps(limits.max_norm)  # first: what proves it may say more of the norm
    return float(target.norm), kept


def target_for(weight: Array, use: Use, limits: Limits, compute: Compute = DEFAULT) -> Target:
    """What the limit is about for this use."""
    return target_from(use.operator(weight), use.geometry, use.guarantee or limits.guarantee, compute)


def _moved(
    weight: Array, use: Use, limits: Limits, dual: Dual | None, measure: bool, compute: Compute
) -> tuple[Array, Projection]:
    """The weight after one method for one use."""
    warm = dual[1] if dual is not None and dual[0] == use.geometry.input_shape else None
    target = target_for(weight, use, limits, compute)
    result = _applied(target, limits, warm, measure)
    if use.scale is None:
        return use.weight(result.kernel), result
    # As a difference, so that channels that did not move stay as they are.
    xp, kernel = namespace(weight), use.kernel(weight)
    scale = use.factors(kernel)
    alive = scale != 0
    change = (result.kernel - kernel * scale) / xp.where(alive, scale, xp.ones_like(scale))
    return use.weight(kernel + xp.where(alive, change, xp.zeros_like(change))), result


def _round_within_limit(
    weight: Array, uses: Sequence[Use], limits: Limits, precision: Precision, compute: Compute
) -> tuple[Array, list[float]]:
    """The weight in its precision, scaled down until every norm is at most the limit; and the norms."""
    xp = namespace(weight)
    # Another engine, which rounds otherwise, must find the norm inside as well.
    margin = max(precision.eps / 4, 64 * 2.0**-52)
    alive = None
    if all(use.scale is not None for use in uses):
        alive = xp.zeros_like(weight, dtype=xp.bool)
        for use in uses:
            kernel = use.kernel(weight)
            moves = xp.ones_like(kernel) * (use.factors(kernel) != 0)
            alive = alive | (use.weight(moves) != 0)
    final = precision.rounded(weight)
    while True:
        found = [measured(final, use, limits, compute) for use in uses]
        norm = max(one for one, _ in found)
        if norm <= limits.max_norm and all(kept for _, kept in found):
            return final, [one for one, _ in found]
        # Rounding moves the norm by about as much as the margin is; it grows until that is enough.
        smaller = weight * ((1 - min(margin, 1.0)) * min(1.0, limits.max_norm / norm))
        weight = smaller if alive is None else xp.where(alive, smaller, weight)
        final, margin = precision.rounded(weight), 2 * margin


def _gap_after(gap: float, use: Use, given: Array, result: Projection, final: Array) -> float:
    """The gap of the weight as it was rounded: half of what that added to the squared distance is added."""
    start = use.operator(given)
    away, moved = (_length(kernel - start) for kernel in (use.operator(final), result.kernel))
    return max(gap + (away - moved) * (away + moved) / 2, 0.0)


def _length(kernel: Array) -> float:
    xp = namespace(kernel)
    return float(xp.sqrt(xp.sum(untracked(kernel) ** 2)))


def _applied(target: Target, limits: Limits, dual: Any, measure: bool) -> Projection:
    """The kernel after the method that the limits name."""
    match limits.method:
        case "project":
            return projected(target, limits.max_norm, limits.tolerance, dual)
        case "rescale":
            return rescaled(target, limits.max_norm, one_pass=True)
        case "reshaped":
            return clipped_reshaped(target, limits.max_norm, measure)
    moved, norms = clipped(target, limits.max_norm)
    if limits.method == "appendix_a":
        norms = norms if measure else {"norm": None, **norms}
        return moved.projection(target, iterations=1, **norms)
    inside = rescaled(moved, limits.max_norm, one_pass=True)
    return replace(inside, norm_before=norms["norm_before"] if norms else target.norm, iterations=1)
