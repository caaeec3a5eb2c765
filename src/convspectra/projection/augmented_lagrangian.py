"""The augmented Lagrangian of the projection, minimised over kernels by quasi-Newton steps.

    L(K; Y) = ||K - W||^2 / 2 + rho / 2 sum || max(sigma(S K + Y / rho) - 1, 0) ||^2

is convex and differentiable in the kernel, however few its taps, and one sweep of soft thresholds gives its
value, its gradient `K - W + S* Y'` and the next multiplier `Y' = rho [S K + Y / rho lowered by 1]`, which
is a dual point as well: every step tightens the lower bound. Steps live in the space of kernels, where their
history is small.

Reference: Rockafellar (1976); Liu and Nocedal (1989).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .search import NumpyArray, Search

# In units of 1 / curvature, where 1 is the step of Dykstra's algorithm: weak at first, so that the first
# multipliers are found in a few steps; a warm start has them already.
_FIRST, _FIRST_WARM, _GROWTH, _LAST = 4.0, 32.0, 2.0, 1e4
_STEPS, _DECREASE, _MEMORY = 10, 0.3, 20
"""Steps for one multiplier at most; the decrease of the gradient that ends them; steps remembered."""


@dataclass(frozen=True)
class _Point:
    """A kernel, and what one sweep tells about it."""

    kernel: NumpyArray
    value: float
    gradient: NumpyArray
    multiplier: NumpyArray


@dataclass(frozen=True)
class _Step:
    """A step of the kernel and what it did to the gradient: `change = step + rho H step`."""

    step: NumpyArray
    change: NumpyArray

    @property
    def curvature(self) -> float:
        return float(np.vdot(self.step, self.change))


def augmented_lagrangian(search: Search, dual: NumpyArray | None) -> NumpyArray | None:
    """Improve the search until it is done; the multiplier to start from next time."""
    start = search.given if dual is None else search.given - search.adjoint(dual)
    penalty = (_FIRST if dual is None else _FIRST_WARM) / search.curvature
    history: list[_Step] = []
    point = _evaluate(search, start, dual, penalty)
    search.propose(point.kernel)
    while not search.done:
        point = _minimise(search, point, dual, penalty, history)
        search.propose(point.kernel)
        if search.done:
            break
        dual = point.multiplier
        stronger = min(_GROWTH * penalty, _LAST / search.curvature)
        # What a step would have done to the gradient under the stronger penalty is known.
        scaled = [replace(s, change=s.step + stronger / penalty * (s.change - s.step)) for s in history]
        history[:] = [s for s in scaled if s.curvature > 0]
        penalty = stronger
        point = _evaluate(search, point.kernel, dual, penalty)
    return point.multiplier


def _evaluate(search: Search, kernel: NumpyArray, dual: NumpyArray | None, penalty: float) -> _Point:
    blocks = search.symbol(kernel)
    if dual is not None:
        blocks += dual / penalty
    over, nuclear = search.excess(blocks, 1.0)
    shift = penalty * search.adjoint(over)
    search.propose_dual(shift, penalty * nuclear)
    moved = kernel - search.given
    squares = float(np.sum(search.weights * (over.real**2 + over.imag**2)))
    value = (float(np.sum(moved**2)) + penalty * squares) / 2
    return _Point(kernel, value, moved + shift, penalty * over)


def _minimise(
    search: Search, point: _Point, dual: NumpyArray | None, penalty: float, history: list[_Step]
) -> _Point:
    """A few L-BFGS steps, until the gradient is smaller."""
    enough = _DECREASE * float(np.linalg.norm(point.gradient))
    for _ in range(_STEPS):
        direction = _direction(point.gradient, history, 1 / (1 + penalty * search.curvature))
        slope, length = float(np.vdot(point.gradient, direction)), 1.0
        while True:
            following = _evaluate(search, point.kernel + length * direction, dual, penalty)
            allowed = point.value + 1e-4 * length * slope + 1e-14 * abs(point.value)
            if following.value <= allowed or length < 1e-3 or search.done:
                break
            length /= 2
        step = _Step(following.kernel - point.kernel, following.gradient - point.gradient)
        if step.curvature > 1e-12 * float(np.vdot(step.step, step.step)):
            history.append(step)
            del history[:-_MEMORY]
        point = following
        if search.done or float(np.linalg.norm(point.gradient)) <= enough:
            break
    return point


def _direction(gradient: NumpyArray, history: list[_Step], scale: float) -> NumpyArray:
    """Minus the inverse Hessian of the history, applied to the gradient: the two-loop recursion."""
    direction, shares = -gradient, []
    for one in reversed(history):
        share = float(np.vdot(one.step, direction)) / one.curvature
        direction = direction - share * one.change
        shares.append(share)
    if history:
        last = history[-1]
        scale = last.curvature / float(np.vdot(last.change, last.change))
    direction = scale * direction
    for one, share in zip(history, reversed(shares), strict=True):
        back = float(np.vdot(one.change, direction)) / one.curvature
        direction = direction + (share - back) * one.step
    return direction
