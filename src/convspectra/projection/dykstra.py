"""Projections in turn: Dykstra's algorithm, the same with momentum, and the paper's without memory.

The projection's dual is `max <W, S* Y> - ||S* Y||^2 / 2 - sum ||Y(g)||_nuclear`, with `K = W - S* Y`. A
proximal gradient step on it soft-thresholds the singular values of all blocks; with the step `1 / ||S* S||`
these are the iterations of Dykstra's algorithm for the taps and the ball.

Reference: Dykstra (1983); Beck and Teboulle (2009); restarts, O'Donoghue and Candes (2015); Sedghi, Gupta and
Long (2019), Section 3, for `alternate`.
"""

from __future__ import annotations

import math

import numpy as np

from .search import NumpyArray, Search

_BETWEEN_CHECKS = 5
"""Sweeps between two looks at the gap, each of which costs a norm."""


def dykstra(search: Search, dual: NumpyArray | None) -> NumpyArray:
    """Dykstra's algorithm; the dual to start from next time."""
    return _proximal_gradient(search, dual, accelerated=False)


def accelerated_dual(search: Search, dual: NumpyArray | None) -> NumpyArray:
    """The same with Nesterov's momentum, begun anew whenever it points away from the optimum."""
    return _proximal_gradient(search, dual, accelerated=True)


def alternate(search: Search, dual: NumpyArray | None) -> None:
    """Clip, cut back to the taps, and again: to some kernel of the ball, not the nearest one."""
    kernel = search.given
    while not search.done:
        over, nuclear = search.excess(search.symbol(kernel), 1.0)
        shift = search.adjoint(over)
        search.propose_dual(shift, nuclear)
        kernel = kernel - shift / search.curvature
        search.propose(kernel)


def _proximal_gradient(search: Search, dual: NumpyArray | None, accelerated: bool) -> NumpyArray:
    state = np.zeros_like(search.symbol(search.given)) if dual is None else dual
    step = 1 / search.curvature
    ahead, momentum = state, 1.0
    while not search.done:
        for _ in range(_BETWEEN_CHECKS):
            current = search.given - search.adjoint(ahead)
            following, nuclear = search.excess(ahead + step * search.symbol(current), step)
            if accelerated:
                away = (ahead - following).conj() * (following - state)
                momentum = 1.0 if float(np.sum(search.weights * away.real)) > 0 else momentum
                faster = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
                ahead = following + (momentum - 1) / faster * (following - state)
                momentum = faster
            else:
                ahead = following
            state = following
            if search.done:
                break
        shift = search.adjoint(state)
        search.propose_dual(shift, nuclear)
        search.propose(search.given - shift)
    return state
