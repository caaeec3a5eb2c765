"""The nearest kernel in an operator-norm ball, with a proof of how near it is.

    min ||K - W||^2 / 2  subject to  ||S(K)(g)|| <= 1  for all frequencies g

in units of the limit. Every symbol Y bounds the optimum from below,

    max_t D(t Y) = (<W, S* Y> - sum ||Y(g)||_nuclear)^2 / (2 ||S* Y||^2),

every kernel, scaled into the ball, from above. A method proposes both; `Search` keeps the best of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from .._compat import Array, in_range, is_concrete, like, to_numpy, with_vjp
from ..checks import check_count, check_limit, check_word
from ..compute import DEFAULT, Compute
from ..errors import InputError, KernelError
from ..geometry import ConvGeometry
from ..guarantee import Guarantee, Target, target_from
from ..results import Projection
from ..symbol import frequency_grid, polyphase
from .augmented_lagrangian import augmented_lagrangian
from .dykstra import accelerated_dual, alternate, dykstra
from .implicit import derivative
from .search import Search

Method = Literal["augmented_lagrangian", "accelerated_dual", "dykstra", "alternate"]

_METHODS: dict[str, Callable[[Search, Any], Any]] = {
    "augmented_lagrangian": augmented_lagrangian,
    "accelerated_dual": accelerated_dual,
    "dykstra": dykstra,
    "alternate": alternate,
}


def project(
    kernel: Array,
    geometry: ConvGeometry,
    max_norm: float,
    *,
    tolerance: float = 1e-2,
    max_iterations: int = 1000,
    dual: Array | None = None,
    method: Method = "augmented_lagrangian",
    guarantee: Guarantee = "layer",
    compute: Compute = DEFAULT,
) -> Projection:
    """The nearest kernel with the same taps and operator norm at most `max_norm`.

        min ||K - W||  subject to  ||S(K)(g)|| <= c  for all frequencies g

    It stops when the duality gap proves that the kernel, scaled back into the ball, is near the
    nearest one.

    Arguments:
        kernel: as `singular_values`; values that can be looked at. Differentiable (see `implicit.py`; not
            with `"alternate"`): the derivative is that of the nearest kernel itself, which the tolerance
            decides how near this one comes to.
        geometry: any that has the guarantee.
        max_norm: the radius `c`, positive.
        tolerance: stop when `gap` is at most this times half of the squared distance moved.
        max_iterations: sweeps of decompositions; stop then at the latest, and say what was reached.
        dual: `Projection.dual` of an earlier call with the same geometry, for a kernel that has changed
            little.
        method: `"augmented_lagrangian"`, quasi-Newton steps on kernels; `"accelerated_dual"`, proximal
            gradient on the dual with Nesterov's momentum; for comparison `"dykstra"`, the same without
            momentum, and `"alternate"`, the paper's suggestion, which converges to another kernel of the
            ball.
        guarantee: which operator's norm: `"layer"` with its own padding, `"torus"` with its boundary wrapped,
            or `"any_size"`, with its own padding at every input size; see `guarantee.py`.
        compute: how; see `Compute`.

    Returns:
        `Projection`, `norm` at most `max_norm` in exact comparison. `gap` is about the nearest kernel
        of norm at most `max_norm` on the guarantee's torus.

    Raises:
        InputError: max_norm is not positive and finite, tolerance not positive, max_iterations below 1, an
            unknown method, or a dual of another shape.
        GeometryError, KernelError, InputError: as `singular_values`, or no such guarantee; a norm of more
            than 1e120 times max_norm.

    Notes:
        Not guaranteed: bounded memory. A few symbols stand in it, in double precision. A proof of nearness
        below rounding: the gap includes the kernel's own, and that of the bounds, so that a tolerance below
        about 1e-9 is not reached.

    References:
        Rockafellar (1976), augmented Lagrangian; Liu and Nocedal (1989), L-BFGS; Dykstra (1983); Beck and
        Teboulle (2009); restarts, O'Donoghue and Candes (2015); Sedghi, Gupta and Long (2019), Section 3,
        for alternating projections.

    Examples:
        >>> import numpy as np
        >>> twice = 2 * np.eye(3).reshape(3, 3, 1, 1)
        >>> geometry = ConvGeometry((8, 8), padding="same", padding_mode="circular")
        >>> nearest = project(twice, geometry, max_norm=1.0)
        >>> bool(np.allclose(nearest.kernel, twice / 2)), bool(nearest.norm <= 1)
        (True, True)
    """
    limit = check_limit("max_norm", max_norm)
    tolerance = check_limit("tolerance", tolerance)
    check_count("max_iterations", max_iterations)
    check_word("method", method, get_args(Method))
    target = target_from(kernel, geometry, guarantee, compute)
    return projected(target, limit, tolerance, dual, max_iterations, method)


def projected(
    target: Target,
    limit: float,
    tolerance: float,
    dual: Array | None,
    max_iterations: int = 1000,
    method: Method = "augmented_lagrangian",
) -> Projection:
    """`project` of a target."""
    torus, (rows, columns) = target.torus, target.torus.group_shape
    shape = (len(frequency_grid(torus)), torus.groups, rows, columns * len(polyphase(torus)))
    if dual is not None and tuple(dual.shape) != shape:
        raise InputError(
            f"dual must come from a call with the same geometry, {shape}; got shape {dual.shape}"
        )
    found: list[_Found] = []

    def forward(concrete: Array) -> tuple[Array, Array]:
        if not is_concrete(concrete):
            raise InputError("project looks at values to know when to stop: call it outside jax.jit")
        one = _find(concrete, target, limit, method, dual, tolerance, max_iterations)
        found.append(one)
        return one.kernel, concrete

    def backward(_: Array, cotangent: Array) -> Array:
        one = found[-1]
        if one.search is None:
            return cotangent  # inside the ball
        if one.state is None:
            raise InputError(f"method={method!r} gives no gradient; use another one")
        kernel, moved = one.search.kernel, to_numpy(cotangent).astype(np.float64)
        return like(derivative(one.search, kernel, one.state, moved), cotangent, cotangent.dtype)

    nearest = with_vjp(forward, backward, target.kernel)
    one = found[-1]
    return target.moved(nearest).projection(
        target,
        norm_before=one.norm_before,
        norm=one.norm,
        iterations=0 if one.search is None else one.search.sweeps,
        gap=one.gap,
        dual=None if one.state is None else like(one.state, one.kernel),
    )


_FARTHEST = 1e120
"""By which the norm may exceed the limit: squares of the quotient, times the points, are computed."""


@dataclass(frozen=True)
class _Found:
    """The nearest kernel and how it was found; no search for a kernel inside the ball."""

    kernel: Array
    norm_before: Array
    norm: Array
    gap: float = 0.0
    search: Search | None = None
    state: np.ndarray[Any, Any] | None = None


def _find(
    given: Array,
    target: Target,
    limit: float,
    method: Method,
    dual: Array | None,
    tolerance: float,
    max_iterations: int,
) -> _Found:
    target = target.moved(given)
    kept, norm_before = target.keeps(limit), target.norm
    if kept:
        return _Found(given, norm_before, norm_before)
    if float(norm_before) / _FARTHEST > limit:
        raise KernelError(
            f"the operator's norm {float(norm_before):.3g} is so far above max_norm={limit:.3g} that squares "
            "of their quotient leave the range of numbers: rescale the kernel first, or take rescale"
        )
    # In units of the torus's limit, so that tiny and huge kernels stay in range, and so do limits.
    scaled, power = in_range(given)
    unit = target.level(limit) / power
    start = to_numpy(scaled).astype(np.float64) / unit
    search = Search(start, target.torus, target.compute, tolerance, max_iterations)
    state = _METHODS[method](search, None if dual is None else to_numpy(dual))
    best = search.kernel
    nearest, norm = target.moved(like(best * unit, given, given.dtype) * power).inside(limit)
    inside = nearest.kernel
    # What rounding to the kernel's precision and the last division added to the distance.
    drift = float(np.linalg.norm(to_numpy(inside).astype(np.float64) / power / unit - best))
    gap = max(search.upper - search.lower, 0.0) + drift * math.sqrt(2 * search.upper) + drift**2 / 2
    return _Found(inside, norm_before, norm, gap * (unit * power) * (unit * power), search, state)
