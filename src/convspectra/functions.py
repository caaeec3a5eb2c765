"""Functions of a convolution's singular values, with finite derivatives.

Two ways to apply a function to the singular values of every block `S(g) = U diag(sigma) V^H`:

    kernel = S^+ [ U f(sigma) V^H ]          (`mapped`: the nearest kernel with the same taps)
    number = sum multiplicity_g g(sigma)     (with the gradient S* [ U g'(sigma) V^H ])

Differentiating through the SVD itself gives NaN where singular values coincide or vanish, which is where
projections lead. The derivative of `X -> U f(sigma) V^H` is finite: with `M = U^H H V`, `M = M_s + M_a` its
Hermitian and skew parts,

    D[H] = U ( P o M_s + Q o M_a ) V^H + (parts of H outside of U and V, times f(sigma) / sigma)
    P_ij = (f_i - f_j) / (sigma_i - sigma_j),   Q_ij = (f_i + f_j) / (sigma_i + sigma_j)

with `f'` where the denominator of P vanishes, and `f'(0)` (0 where `f(0) > 0`, which has no derivative
there) where that of Q does, up to rounding. D is its own adjoint.

Reference: Daleckii and Krein (1965); for singular values, Lewis and Sendov (2005) and Ding, Sun, Sun and Toh
(2018).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np

from ._compat import (
    Array,
    eps_of,
    in_range,
    in_range_again,
    is_concrete,
    is_for_host,
    is_untracked_on_cpu,
    like,
    namespace,
    to_numpy,
    with_vjp,
)
from ._solvers import array_api, threshold
from .compute import DEFAULT, Compute
from .geometry import Correlation
from .spectrum import (
    Ready,
    TopBlock,
    made_ready,
    over_blocks,
    over_grid,
    pair_gradient,
    spectrum_values,
    top_block,
)
from .symbol import FrequencyGrid, frequency_grid, polyphase, symbol_adjoint, symbol_blocks, tap_scale

ROUNDING = 8
"""Singular values of at most so many epsilons times the norm are what rounding made of zero."""


def rounding_level(norm: Array) -> Array:
    """Up to which value a singular value of an operator of this norm is taken for zero."""
    level = ROUNDING * eps_of(norm) * norm
    return float(to_numpy(level)) if is_concrete(level) else level


@dataclass(frozen=True)
class SpectralFunction:
    """A function of singular values, elementwise, and its derivative."""

    of: Callable[[Array], Array]
    slope: Callable[[Array], Array]


def norm(
    kernel: Array, correlation: Correlation, compute: Compute = DEFAULT, top: TopBlock | None = None
) -> Array:
    """The operator norm, with the gradient `S* [ u v^H ]` of one singular pair that reaches it.

    Where several do, that is one of the subgradients; for the zero operator it is zero.

    Arguments:
        top: where it is reached, if that is known.
    """
    if not is_concrete(kernel):  # which pair cannot be looked up
        return top_block(kernel, correlation, compute).norm

    def forward(given: Array) -> tuple[Array, Any]:
        found = top or top_block(given, correlation, compute)
        # Computed when first asked for, and once for all passes through one graph.
        gradient = cache(lambda: pair_gradient(given, correlation, found.frequency, found.group, 0))
        second = partial(_top_second, given, correlation, found.frequency, found.group)
        return 1 * found.norm, (gradient, second)  # not the given norm, which autograd would mark

    return with_vjp(
        forward,
        lambda found, cotangent: cotangent * found[0](),
        kernel,
        second=lambda found, direction: found[1](direction),
    )


def _top_second(
    kernel: Array, correlation: Correlation, frequency: int, group: int, direction: Array
) -> Array:
    """The derivative of the gradient `S* [ u v^H ]` in a direction: of the function that is 1 at the top.

    Raises:
        RuntimeError: another singular value of the block is as large, up to rounding: there is none.
    """
    grid = frequency_grid(correlation)
    alone = replace(grid.at(slice(frequency, frequency + 1)), multiplicity=np.ones(1, dtype=np.int64))
    inside, power = in_range(kernel)
    blocks, moved = (symbol_blocks(one, correlation, alone) for one in (inside, direction))
    xp = namespace(blocks)
    left, sigma, right = array_api.svd(blocks[:, group : group + 1])
    values = to_numpy(sigma).reshape(-1)
    apart = values[0] - values[1] if len(values) > 1 else values[0]
    if not apart > math.sqrt(eps_of(sigma)) * values[0]:
        raise RuntimeError(
            "the norm has no second derivative here: its singular value is attained more than once, or is 0"
        )
    top = like((np.arange(len(values)) == 0).astype(values.dtype), sigma, sigma.dtype)
    function = SpectralFunction(lambda sigma: 0 * sigma + top, lambda sigma: 0 * sigma)
    level = 0 * xp.max(sigma)
    found = frechet(left, sigma, right, level, function, moved[:, group : group + 1]) / power
    whole = [found if number == group else 0 * moved[:, :1] for number in range(correlation.groups)]
    return symbol_adjoint(xp.concat(whole, axis=1), correlation, alone)


def smallest(kernel: Array, correlation: Correlation, compute: Compute = DEFAULT) -> Array:
    """The smallest singular value, with the gradient `S* [ u v^H ]` of one singular pair that has it.

    Where several do it is that of one of them; where the value is zero, so is the gradient.
    """
    if not is_concrete(kernel) and not is_for_host():
        return namespace(kernel).min(_values(kernel, correlation, compute))

    def forward(given: Array) -> tuple[Array, Array]:
        values = _values(given, correlation, compute)[:, -1]
        place = int(to_numpy(values).argmin())
        return values[place], (given, divmod(place, correlation.groups))

    def backward(saved: tuple[Array, tuple[int, int]], cotangent: Array) -> Array:
        given, (frequency, group) = saved
        if min(correlation.block_shape) > rank_with_taps(correlation):
            return 0 * given
        return cotangent * pair_gradient(given, correlation, frequency, group, -1)

    return with_vjp(forward, backward, kernel, ())


def _values(kernel: Array, correlation: Correlation, compute: Compute) -> Array:
    inside, power = in_range(kernel)
    return in_range_again(spectrum_values(inside, correlation, compute), power)


def rank_with_taps(correlation: Correlation) -> int:
    """How many singular values a block has, columns that no tap reads left out."""
    rows, columns = correlation.group_shape
    return min(rows, columns * len(polyphase(correlation)))


def mapped(
    kernel: Array, correlation: Correlation, function: SpectralFunction, compute: Compute = DEFAULT
) -> Array:
    """`S^+ [ U f(sigma) V^H ]`, axes in the order of `Correlation`; differentiable."""

    def forward(given: Array) -> tuple[Array, Array]:
        kernel, power = in_range(given)

        def relative(sigma: Array) -> Array:
            return function.of(in_range_again(sigma, power)) / power

        found = adjoint_of_function(kernel, correlation, relative, compute)[0]
        return _over_scale(found, correlation) * power, given

    return with_vjp(forward, partial(_derivative, correlation, function, compute), kernel)


def lowered(kernel: Array, correlation: Correlation, level: float, compute: Compute = DEFAULT) -> Array:
    """`S^+ [ U max(sigma - level, 0) V^H ]`: what of a layer is above `level`; differentiable."""

    def forward(given: Array) -> tuple[Array, Array]:
        return excess(given, correlation, level, compute).kernel, given

    function = SpectralFunction(partial(lower, level), partial(is_above, level))
    shape = tuple(kernel.shape) if is_concrete(level) else None
    return with_vjp(forward, partial(_derivative, correlation, function, compute), kernel, shape)


def total_squares_above(
    kernel: Array, correlation: Correlation, level: float, compute: Compute = DEFAULT
) -> Array:
    """`sum multiplicity max(sigma - level, 0)^2`; differentiable."""

    def forward(given: Array) -> tuple[Array, tuple[Array, Array]]:
        found = excess(given, correlation, level, compute, squares=True)
        return like(found.squares, given, given.dtype), (2 * found.adjoint, given)

    function = SpectralFunction(partial(lower, level), partial(is_above, level))

    def second(found: tuple[Array, Array], direction: Array) -> Array:
        return 2 * _along(correlation, function, compute, found[1], direction)

    shape = () if is_concrete(level) else None
    return with_vjp(forward, lambda found, cotangent: cotangent * found[0], kernel, shape, second)


@dataclass(frozen=True)
class Excess:
    """What of a layer lies outside of the ball of radius `level`.

    Attributes:
        adjoint: `S* [ U max(sigma - level, 0) V^H ]`, and `kernel`, the same by the pseudoinverse `S^+`.
        squares: the sum of the squares of the lowered values; None unless asked for.
        top: the largest singular value of the layer.
    """

    adjoint: Array
    kernel: Array
    squares: Array | None
    top: Array


def excess(
    kernel: Array, correlation: Correlation, level: float, compute: Compute = DEFAULT, squares: bool = False
) -> Excess:
    """What lies above `level`, without a derivative; blocks inside are not decomposed."""
    kernel, power = in_range(kernel)
    level = min(level / power, 2.0**90) if is_concrete(kernel) else level / power  # beyond that nothing is
    ready, grid = made_ready(kernel, correlation, compute), frequency_grid(correlation)
    mostly = ready.engine == "native" and threshold.is_mostly_outside(ready.source, grid, level)
    task = partial(_excess, ready, correlation, level, mostly, squares)
    parts = over_grid(task, ready, correlation, compute, makes_blocks=True)
    adjoint = _back(sum([part[0] for part in parts]), kernel)
    total = sum([part[1] for part in parts]) if squares else None
    top = namespace(parts[0][2]).max(namespace(parts[0][2]).stack([part[2] for part in parts]))
    top = in_range_again(_back(top, kernel), power)
    moved = _over_scale(adjoint, correlation) * power
    with np.errstate(over="ignore"):  # sums over all frequencies, unlike what is moved, may leave the range
        return Excess(adjoint * power, moved, total * power**2 if squares else None, top)


def _excess(
    ready: Ready,
    correlation: Correlation,
    level: float,
    mostly_outside: bool,
    squares: bool,
    part: FrequencyGrid,
) -> tuple[Array, Any, Any]:
    blocks = partial(symbol_blocks, ready.kernel, correlation)
    if ready.engine == "native":
        found = threshold.lowered_symbol(ready.source, part, level, blocks, mostly_outside)
    else:
        found = threshold.lowered(ready.engine, blocks(part), level)
    xp, total = namespace(found.blocks), None
    if squares:
        weights = like(part.multiplicity[:, None], found.sums, found.sums.dtype)
        each = xp.astype(xp.sum(xp.abs(found.blocks) ** 2, axis=(-2, -1)), found.sums.dtype)
        total = xp.sum(weights * each)
    return symbol_adjoint(found.blocks, correlation, part), total, xp.max(found.tops)


def adjoint_of_function(
    kernel: Array,
    correlation: Correlation,
    function: Callable[[Array], Array],
    compute: Compute,
    value: Callable[[Array], Array] | None = None,
) -> tuple[Array, Array]:
    """`S* [ U f(sigma) V^H ]` and `sum multiplicity g(sigma)`, by SVDs of all blocks."""
    given, (kernel, power) = kernel, in_range(_decomposed_as(kernel, compute))

    def task(part: FrequencyGrid) -> tuple[Array, Array]:
        left, sigma, right = array_api.svd(symbol_blocks(kernel, correlation, part))
        xp, sigma = namespace(sigma), in_range_again(sigma, power)
        new = function(sigma)
        adjoint = symbol_adjoint(_join(left, new, right), correlation, part)
        weights = like(part.multiplicity[:, None, None], sigma, sigma.dtype)
        return adjoint, xp.sum(weights * (new if value is None else value(sigma)))

    parts = over_blocks(task, kernel, correlation, compute)
    adjoint, number = (sum([part[i] for part in parts]) for i in range(2))
    return _back(adjoint, given), _back(number, given)


def _derivative(
    correlation: Correlation, function: SpectralFunction, compute: Compute, kernel: Array, cotangent: Array
) -> Array:
    """The adjoint of the derivative of `mapped`, applied to a kernel."""
    return _along(correlation, function, compute, kernel, _over_scale(cotangent, correlation))


def _along(
    correlation: Correlation, function: SpectralFunction, compute: Compute, kernel: Array, direction: Array
) -> Array:
    """The derivative of `S* [ U f(sigma) V^H ]` in a direction."""
    given, kernel = kernel, _decomposed_as(kernel, compute)
    direction = like(to_numpy(direction), kernel) if kernel is not given else direction
    kernel, power = in_range(kernel)
    level = rounding_level(in_range_again(top_block(kernel, correlation, compute).norm, power))

    def task(part: FrequencyGrid) -> Array:
        left, sigma, right = array_api.svd(symbol_blocks(kernel, correlation, part))
        sigma = in_range_again(sigma, power)
        moved = frechet(left, sigma, right, level, function, symbol_blocks(direction, correlation, part))
        return symbol_adjoint(moved, correlation, part)

    return _back(sum(over_blocks(task, kernel, correlation, compute)), given)


def frechet(
    left: Array, sigma: Array, right: Array, level: Array, function: SpectralFunction, direction: Array
) -> Array:
    """`D[direction]` of this module's head; values of at most `level` are taken for zero."""
    xp = namespace(left)
    f, slope = function.of(sigma), function.slope(sigma)
    a, b = sigma[..., :, None], sigma[..., None, :]
    # Nearer than this the quotient loses more to rounding than the slope is off.
    near = math.sqrt(eps_of(sigma))
    zero = a + b <= level
    tied = zero | (xp.abs(a - b) <= near * (a + b))
    gap = xp.where(tied, 1 + 0 * a + 0 * b, a - b)
    symmetric = xp.where(
        tied, (slope[..., :, None] + slope[..., None, :]) / 2, (f[..., :, None] - f[..., None, :]) / gap
    )
    at_zero = xp.where(f > 0, 0 * f, slope)
    both = xp.where(zero, 1 + 0 * a + 0 * b, a + b)
    skew = xp.where(zero, at_zero[..., :, None] + 0 * b, (f[..., :, None] + f[..., None, :]) / both)
    left_h, right_h = xp.conj(xp.matrix_transpose(left)), xp.conj(xp.matrix_transpose(right))
    inner = xp.matmul(xp.matmul(left_h, direction), right_h)
    flipped = xp.conj(xp.matrix_transpose(inner))
    complex_type = left.dtype
    core = (
        xp.astype(symmetric, complex_type) * (inner + flipped) / 2
        + xp.astype(skew, complex_type) * (inner - flipped) / 2
    )
    rows, columns = direction.shape[-2:]
    ratio = xp.where(sigma > level, f / xp.where(sigma > level, sigma, 1 + sigma), at_zero)
    ratio = xp.astype(ratio, complex_type)
    found = xp.matmul(xp.matmul(left, core), right)
    if rows > columns:
        outside = direction - xp.matmul(left, xp.matmul(left_h, direction))
        found = found + xp.matmul(xp.matmul(outside, right_h) * ratio[..., None, :], right)
    elif columns > rows:
        outside = direction - xp.matmul(xp.matmul(direction, right_h), right)
        found = found + xp.matmul(left * ratio[..., None, :], xp.matmul(left_h, outside))
    return found


def _decomposed_as(kernel: Array, compute: Compute) -> Array:
    """The kernel as the kind of array whose library finds singular vectors fastest."""
    return to_numpy(kernel) if compute.solver != "torch" and is_untracked_on_cpu(kernel) else kernel


def _back(array: Array, kernel: Array) -> Array:
    return array if type(array) is type(kernel) else like(to_numpy(array), kernel, kernel.dtype)


def _join(left: Array, values: Array, right: Array) -> Array:
    xp = namespace(left)
    return xp.matmul(left * xp.astype(values, left.dtype)[..., None, :], right)


def _over_scale(adjoint: Array, correlation: Correlation) -> Array:
    return adjoint / like(tap_scale(correlation), adjoint, adjoint.dtype)


def lower(level: float, sigma: Array) -> Array:
    return namespace(sigma).where(sigma > level, sigma - level, 0 * sigma)


def is_above(level: float, sigma: Array) -> Array:
    """The slope of `lower`; at the level it is that below, wherever rounding put the value."""
    above = sigma > level * (1 + 64 * eps_of(sigma))
    return namespace(sigma).where(above, 1 + 0 * sigma, 0 * sigma)
