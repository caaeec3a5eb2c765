"""The plainest way into the ball: the kernel divided by what its norm exceeds the limit by."""

from __future__ import annotations

import numpy as np

from .._compat import Array, eps_of, is_concrete, is_tracked, like, namespace, untracked
from ..checks import check_limit
from ..compute import DEFAULT, Compute
from ..geometry import ConvGeometry
from ..guarantee import Guarantee, Target, target_from
from ..problem import without_gradient
from ..results import Projection
from ..spectrum import top_on


def rescale(
    kernel: Array,
    geometry: ConvGeometry,
    max_norm: float,
    *,
    guarantee: Guarantee = "layer",
    one_pass: bool = False,
    compute: Compute = DEFAULT,
) -> Projection:
    """`W min(1, c / ||W||)`: the kernel divided by what its norm exceeds `max_norm` by, if it does.

    Arguments:
        kernel: as `singular_values`. Differentiable; at a norm that several singular values share the
            gradient is that of one of them, at the limit that of the inside.
        geometry: any that has the guarantee.
        max_norm: the radius `c`, positive.
        guarantee: which operator's norm: `"layer"` with its own padding, `"torus"` with its boundary wrapped,
            or `"any_size"`, with its own padding at every input size; see `guarantee.py`.
        one_pass: decide by one norm in the kernel's own precision, which takes a third to a half of the time:
            the result is up to twice the norm's error below the limit (1e-4 of it in float32), and its `norm`
            is `norm_before` times what the kernel was multiplied by.
        compute: how; see `Compute`.

    Returns:
        `Projection`, `norm` at most `max_norm` in exact comparison.

    Raises:
        InputError: max_norm is not positive and finite.
        GeometryError, KernelError, InputError: as `singular_values`, or no such guarantee.

    Notes:
        Not guaranteed: to be near the nearest kernel in the ball; `project` is.

    Examples:
        >>> import numpy as np
        >>> twice = 2 * np.eye(3).reshape(3, 3, 1, 1)
        >>> geometry = ConvGeometry((8, 8), padding="same", padding_mode="circular")
        >>> scaled = rescale(twice, geometry, max_norm=1.0)
        >>> float(scaled.norm_before), bool(scaled.norm <= 1), bool(np.allclose(scaled.kernel, twice / 2))
        (2.0, True, True)
    """
    limit = check_limit("max_norm", max_norm)
    return rescaled(target_from(kernel, geometry, guarantee, compute), limit, one_pass)


def rescaled(target: Target, limit: float, one_pass: bool) -> Projection:
    """`rescale` of a target."""
    if is_concrete(target.kernel) and target.keeps(limit):
        return target.projection(target)
    before = norm = target.norm
    if is_tracked(target.kernel):  # the scaling itself carries the derivative
        top = top_on(without_gradient(target.problem), target.torus)
        norm = target.differentiable_norm(top)
    xp = namespace(target.kernel)
    eps = eps_of(norm)
    # At the limit the derivative is that of the inside, wherever rounding put the norm.
    over = norm > limit * (1 + 64 * eps)
    # An array: PyTorch takes a number over an array for the number times the reciprocal, which may overflow.
    edge = like(np.asarray(min(limit, float(xp.finfo(norm.dtype).max))), norm, norm.dtype)
    factor = xp.where(over, edge / xp.where(over, norm, 1 + norm), 1 + 0 * norm)
    # What the norm may be off by, and as much again for rounding of the entries: no second norm is needed.
    error = 2 * target.factor * target.problem.norm_error(before / target.factor)
    if is_concrete(norm) and not (one_pass and float(error) <= _DECISIVE * float(before)):
        start = target.moved(target.kernel * factor) if is_tracked(target.kernel) else target
        inside, after = start.inside(limit)
        return inside.projection(target, norm=after)
    rest = untracked(limit * (1 - 64 * eps) / ((before + error) * factor))
    factor = factor * xp.where(rest < 1, rest, 1 + 0 * untracked(before))  # of a zero kernel it is infinite
    return target.moved(target.kernel * factor).projection(target, norm=before * untracked(factor))


_DECISIVE = 1e-3
"""A norm whose error is at most this, relative to it, is near enough to decide."""
