"""The derivative of the nearest kernel, from the conditions that it satisfies.

With the multiplier Y, `K = W - S* Y` and `Y = rho T(S K + Y / rho)`, T the soft threshold of singular values
by 1. Their derivatives, with P that of T at this point (`functions.frechet`), are

    dK = dW - S* dY,    dY = P (rho S dK + dY)

which the method of multipliers solves: dK from `(I + rho S* P S) dK = dW - S* P dY` by conjugate gradients,
then dY. As the derivative of a projection onto a convex set, the map from dW to dK is its own adjoint. It
exists wherever each singular value at the limit is held there by a multiplier that is not zero; elsewhere
this is one of the limits that it has nearby.

Reference: Griewank and Walther (2008), chapter 15, for implicit derivatives; Hestenes and Stiefel (1952).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from .. import functions
from .._solvers import array_api
from .search import NumpyArray, Search

_PENALTY = 1000.0
"""rho in units of 1 / curvature: large, so that few multiplier steps are needed; each is a longer solve."""

_PRECISION, _MOST_STEPS, _MOST_SOLVES = 1e-10, 1000, 50


def derivative(search: Search, kernel: NumpyArray, dual: NumpyArray, direction: NumpyArray) -> NumpyArray:
    """What the nearest kernel moves by, if the given one moves in a direction (kernels, unit limit)."""
    penalty = _PENALTY / search.curvature
    left, sigma, right = array_api.svd(search.symbol(kernel) + dual / penalty)
    function = functions.SpectralFunction(partial(functions.lower, 1.0), partial(functions.is_above, 1.0))

    def smooth(blocks: NumpyArray) -> NumpyArray:
        return np.asarray(functions.frechet(left, sigma, right, np.zeros(()), function, blocks))

    def hessian(moved: NumpyArray) -> NumpyArray:
        return moved + penalty * search.adjoint(smooth(search.symbol(moved)))

    moved, multiplier = np.zeros_like(direction), np.zeros_like(dual)
    scale = float(np.linalg.norm(direction))
    for _ in range(_MOST_SOLVES):
        right_hand = direction - search.adjoint(smooth(multiplier))
        before, moved = moved, _solve(hessian, right_hand, moved, _PRECISION * scale)
        multiplier = smooth(penalty * search.symbol(moved) + multiplier)
        if float(np.linalg.norm(moved - before)) <= math.sqrt(_PRECISION) * 1e-2 * scale:
            break
    return moved


def _solve(
    apply: Callable[[NumpyArray], NumpyArray], right_hand: NumpyArray, start: NumpyArray, precision: float
) -> NumpyArray:
    """Conjugate gradients for a positive definite map, until the residual's norm is below the precision."""
    found = start
    residual = right_hand - apply(found)
    direction, square = residual, float(np.vdot(residual, residual))
    for _ in range(_MOST_STEPS):
        if math.sqrt(square) <= precision:
            break
        image = apply(direction)
        length = square / float(np.vdot(direction, image))
        found, residual = found + length * direction, residual - length * image
        square, last = float(np.vdot(residual, residual)), square
        direction = residual + square / last * direction
    return found
