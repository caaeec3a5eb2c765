"""The plainest way into the ball: the kernel divided by what its norm exceeds the limit by."""

from __future__ import annotations

from .. import functions
from .._compat import Array, is_tracked, namespace
from ..compute import DEFAULT, Compute
from ..geometry import ConvGeometry
from ..guarantee import Guarantee, check_limit, target_of
from ..problem import problem_of
from ..results import Projection


def rescale(
    kernel: Array,
    geometry: ConvGeometry,
    max_norm: float,
    *,
    guarantee: Guarantee = "layer",
    compute: Compute = DEFAULT,
) -> Projection:
    """`W min(1, c / ||W||)`: the kernel divided by what its norm exceeds `max_norm` by, if it does.

    Arguments:
        kernel: as `singular_values`. Differentiable; at a norm that several singular values share the
            gradient is that of one of them, at the limit that of the inside.
        geometry: any that has the guarantee.
        max_norm: the radius `c`, positive.
        guarantee: which operator's norm: `"layer"` as it pads, `"torus"` with its boundary wrapped, or
            `"any_size"`, as it pads at every input size; see `guarantee.py`.
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
    target = target_of(problem_of(kernel, geometry, compute), guarantee)
    if not is_tracked(target.kernel):
        if target.keeps(limit):
            return target.projection(target)
        inside, norm = target.inside(limit)
        return inside.projection(target, norm=norm)
    # The scaling itself carries the derivative; what `inside` still takes off is rounding.
    norm = functions.norm(target.kernel, target.torus, target.compute) * target.factor
    xp = namespace(target.kernel)
    # At the limit the derivative is that of the inside, wherever rounding put the norm.
    over = norm > limit * (1 + 64 * float(xp.finfo(norm.dtype).eps))
    factor = xp.where(over, limit / xp.where(over, norm, 1 + norm), 1 + 0 * norm)
    inside, after = target.moved(target.kernel * factor).inside(limit)
    return inside.projection(target, norm=after)
