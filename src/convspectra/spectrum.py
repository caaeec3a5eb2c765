"""Singular values, singular vectors and the norm of a convolution on the torus: exact."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np

from . import grid_search
from ._compat import (
    Array,
    in_range,
    in_range_again,
    is_concrete,
    is_for_host,
    is_numpy,
    like,
    namespace,
    to_numpy,
    with_vjp,
)
from ._solvers import array_api, choice, native, pool, products
from ._solvers.choice import Engine
from .compute import DEFAULT, Compute
from .cost import LAPACK, seconds_of_blocks
from .geometry import ConvGeometry, Correlation
from .problem import Problem, known, once, problem_of, scaled
from .results import Spectrum
from .sampled import Sample, Sampling, norm_interval, sample_of, sampling_error
from .symbol import (
    FrequencyGrid,
    frequency_grid,
    input_wave,
    plane_wave,
    polyphase,
    symbol_adjoint,
    symbol_blocks,
)

Result = TypeVar("Result")


def singular_values(
    kernel: Array, geometry: ConvGeometry, *, spectrum: Sampling = "exact", compute: Compute = DEFAULT
) -> Spectrum:
    """All singular values of a block-circulant convolution.

    They are those of the blocks of its symbol (see `symbol.py`): one small SVD for each frequency
    that differs. Blocks with one row or column need none, a kernel without spatial extent one.
    The symbol is smooth: of a large map some frequencies can stand for all, with a proven error.

    Arguments:
        kernel: real array in the layout of `geometry`, of any array-API namespace; the result is of the
            same. Half precision is computed in float32.
        geometry: with a wrapped boundary, or none that is ever read. `geometry.on_torus()` is the circular
            version of any layer.
        spectrum: `"exact"` takes all frequencies. `"sampled"` takes those of a smaller torus, at most 4,096
            and what takes about 5 s of one core; each stands for the frequencies that it is the nearest of.
            `"auto"` takes all where that is estimated to take at most 5 s of one core, else as many.
        compute: the executor, the bytes in flight, the solver; see `Compute`.

    Returns:
        `Spectrum`: its `error` bounds that of each value, in descending order. Exact up to rounding unless it
        is `sampled`; as many values either way.

    Raises:
        GeometryError: the operator is not block-circulant, or kernel and geometry do not fit.
        KernelError: the kernel is no real array, or has NaN or infinite entries.
        RangeError: the norm is beyond the range of the kernel's precision.
        InputError: the solver is not installed or does not take this array; another word for `spectrum`, or
            one but `"exact"` for a kernel that is traced or whose derivative is wanted.
        CostError: all frequencies take too much memory.

    Notes:
        The error of a sampled value is that of Weyl's inequality (`sampled.py`): half of the spacing of the
        frequencies times the largest derivative of the symbol. It bounds sorted values, not those at one
        frequency; the norm itself is exact by `operator_norm`.

    References:
        Sedghi, Gupta and Long (2019), Theorem 6, for stride 1; for the rest `symbol.py`. Horn and Johnson
        (1991), Topics in matrix analysis, Corollary 3.4.3, for Weyl's inequality.

    Examples:
        >>> import numpy as np
        >>> geometry = ConvGeometry(input_shape=4, padding="same", padding_mode="circular")
        >>> difference = np.array([[[1.0, -1.0]]])
        >>> np.round(singular_values(difference, geometry).sorted(), 6)
        array([2.      , 1.414214, 1.414214, 0.      ])
        >>> large = ConvGeometry(input_shape=10**6, padding="same", padding_mode="circular")
        >>> sampled = singular_values(difference, large, spectrum="sampled")
        >>> sampled.count, len(sampled.values), round(float(sampled.error), 5)
        (1000000, 2049, 0.00077)
    """
    problem = problem_of(kernel, geometry, compute)
    return sampled_spectrum_on(problem, problem.correlation, spectrum)


def spectrum_on(problem: Problem, torus: Correlation) -> Spectrum:
    """All singular values of a problem's kernel on a torus, computed once."""
    return _spectrum(problem, _standing_for(problem, torus))


def sampled_spectrum_on(problem: Problem, torus: Correlation, sampling: Sampling) -> Spectrum:
    """All of them, or those at some frequencies for all: as `singular_values` has it."""
    sample = sample_of(torus, sampling, problem.itemsize)
    if sample is None:
        return spectrum_on(problem, torus)
    error = sampling_error(problem, sample)
    found = spectrum_on(problem, sample.torus)
    norms = norm_interval(problem, torus, float(found.norm), found.error + error)
    return spectrum_from_sample(found, sample, error, norms)


def spectrum_from_sample(
    found: Spectrum, sample: Sample, error: float, norms: tuple[float, float]
) -> Spectrum:
    """The spectrum of a small torus as that of the large one, with the error of sampling beside its own."""
    grid = sample.grid
    return replace(
        found,
        multiplicity=np.repeat(grid.multiplicity, found.groups),
        grid=grid,
        error=found.error + error,
        norm_interval=norms,
    )


def top_on(problem: Problem, torus: Correlation) -> TopBlock:
    """The largest of them and where it is reached, computed once.

    Raises:
        RangeError: it is beyond the range of the kernel's precision.
    """
    inside, power = scaled(problem)
    found = _top(inside, _standing_for(problem, torus))
    return found if inside is problem else replace(found, norm=in_range_again(found.norm, power))


def _standing_for(problem: Problem, torus: Correlation) -> Correlation:
    """One of all correlations that have the same blocks: padding plays no part in them."""
    torus.require_circulant()
    return problem.correlation.embedded(torus.output_shape)


@once
def _spectrum(problem: Problem, torus: Correlation) -> Spectrum:
    inside, power = scaled(problem)
    values = spectrum_values(inside.kernel, torus, problem.compute)
    return spectrum_from(problem, in_range_again(values, power), torus)


@once
def _top(problem: Problem, torus: Correlation) -> TopBlock:
    spectrum = known(problem, _spectrum, torus)
    if spectrum is None:
        return _searched(problem, torus) or _top_block(problem.kernel, torus, problem.compute)
    return _top_of(namespace(spectrum.values).reshape(spectrum.values[:, 0], (-1, torus.groups)))


def spectrum_from(problem: Problem, values: Array, torus: Correlation) -> Spectrum:
    """The record of the values, and of what they may be off by."""
    grid = frequency_grid(torus)
    return Spectrum(
        values=values,
        multiplicity=np.repeat(grid.multiplicity, torus.groups),
        grid=grid,
        groups=torus.groups,
        error=problem.norm_error(namespace(values).max(values)),
        zero_columns=zero_columns_of(torus),
    )


def zero_columns_of(torus: Correlation) -> int:
    """Singular values of each block that are zero as no tap reads so many of its columns."""
    rows, columns = torus.group_shape
    return min(torus.block_shape) - min(rows, columns * len(polyphase(torus)))


def spectrum_values(kernel: Array, torus: Correlation, compute: Compute = DEFAULT) -> Array:
    """The values of a kernel in the order of `Correlation` whose entries are in range."""
    if not is_concrete(kernel) and is_for_host():
        return _values_on_host(kernel, torus, compute)
    return _solved(_values, made_ready(kernel, torus, compute), kernel, torus, compute)


def _values_on_host(kernel: Array, torus: Correlation, compute: Compute) -> Array:
    """The same where JAX traces, each with the gradient `S* [ u v^H ]` of its singular pair."""
    count, (groups, rank) = len(frequency_grid(torus)), (torus.groups, min(torus.block_shape))

    def forward(given: Array) -> tuple[Array, Array]:
        return spectrum_values(given, torus, compute), given

    def backward(given: Array, cotangent: Array) -> Array:
        each = cotangent.reshape(count, groups, 1, rank)

        def task(part: FrequencyGrid) -> Array:
            left, _, right = array_api.svd(symbol_blocks(given, torus, part))
            pairs = np.matmul(left * each[part.first : part.first + len(part)], right)
            return symbol_adjoint(pairs, torus, replace(part, multiplicity=np.ones_like(part.multiplicity)))

        return sum(over_blocks(task, given, torus, compute))

    return with_vjp(forward, backward, kernel, (count * groups, rank))


def _norm_on_host(kernel: Array, torus: Correlation, compute: Compute) -> Array:
    """The norm where JAX traces, with the gradient `S* [ u v^H ]` of one pair that reaches it."""

    def forward(given: Array) -> tuple[Array, Callable[[], Array]]:
        top = top_block(given, torus, compute)
        return top.norm, partial(pair_gradient, given, torus, top.frequency, top.group, 0)

    return with_vjp(forward, lambda gradient, cotangent: cotangent * gradient(), kernel, ())


def _searched(problem: Problem, torus: Correlation) -> TopBlock | None:
    """By a search, where the torus is so large that it is cheaper."""
    kernel, compute = problem.kernel, problem.compute
    if not (is_concrete(kernel) and grid_search.pays(torus)):
        return None
    ready = made_ready(kernel, torus, compute)
    found = grid_search.searched_top(problem, torus, ready.source) if ready.engine == "native" else None
    return None if found is None else TopBlock(like([found[0]], kernel, kernel.dtype)[0], *found[1:])


@dataclass(frozen=True)
class TopBlock:
    """The block that has the largest singular value of all.

    Attributes:
        norm: that value, a scalar array.
        frequency, group: which block; -1 where values cannot be looked at (a traced JAX array).
    """

    norm: Array
    frequency: int
    group: int


_SAMPLE_BLOCKS = 16
"""Blocks that are solved first, for a floor: one filling of the lanes."""


def top_block(kernel: Array, correlation: Correlation, compute: Compute = DEFAULT) -> TopBlock:
    """The operator norm of a kernel in the order of `Correlation`, and where it is reached.

    Raises:
        RangeError: it is beyond the range of the kernel's precision.
    """
    kernel, power = in_range(kernel)
    found = _top_block(kernel, correlation, compute)
    return replace(found, norm=in_range_again(found.norm, power))


def _top_block(kernel: Array, correlation: Correlation, compute: Compute) -> TopBlock:
    if not is_concrete(kernel) and is_for_host():
        return TopBlock(_norm_on_host(kernel, correlation, compute), -1, -1)
    ready, grid = made_ready(kernel, correlation, compute), frequency_grid(correlation)
    if not (ready.engine == "native" and native.pays_to_certify(correlation, len(grid))):
        return _top_of(_solved(_largest, ready, kernel, correlation, compute))
    # A few blocks first, for a floor that all pieces share: what is found must not depend on which
    # piece is done first.
    every = max(1, len(grid) // _SAMPLE_BLOCKS)
    norm, frequency, group = native.largest(ready.source, grid.at(slice(None, None, every)), 0.0)
    found = max(over_grid(partial(native.largest, ready.source, floor=norm), ready, correlation, compute))
    norm, frequency, group = found if found[1] >= 0 else (norm, frequency * every, group)
    return TopBlock(like([norm], kernel, kernel.dtype)[0], max(frequency, 0), max(group, 0))


def pair_gradient(kernel: Array, correlation: Correlation, frequency: int, group: int, rank: int) -> Array:
    """`S* [ u v^H ]` of one singular pair of one block; zero where its value is."""
    grid = frequency_grid(correlation)
    alone = replace(grid.at(slice(frequency, frequency + 1)), multiplicity=np.ones(1, dtype=np.int64))
    blocks = symbol_blocks(in_range(kernel)[0], correlation, alone)
    xp = namespace(blocks)
    left, sigma, right = array_api.svd(blocks[:, group : group + 1])
    place = rank % sigma.shape[-1]
    one = slice(place, place + 1)
    pair = xp.matmul(left[..., :, one], right[..., one, :])
    pair = pair * xp.astype(sigma[..., one, None] > 0, pair.dtype)
    whole = [pair if number == group else 0 * blocks[:, :1] for number in range(correlation.groups)]
    return symbol_adjoint(xp.concat(whole, axis=1), correlation, alone)


def _top_of(largest: Array) -> TopBlock:
    """That of the largest value of each block, shape (frequencies, groups)."""
    norm = namespace(largest).max(largest)
    if not is_concrete(largest):
        return TopBlock(norm, -1, -1)
    place = np.unravel_index(to_numpy(largest).argmax(), largest.shape)
    return TopBlock(norm, int(place[0]), int(place[1]))


def exceeds(kernel: Array, correlation: Correlation, level: float, compute: Compute = DEFAULT) -> bool:
    """Whether a computed singular value is above a level: cheaper than which, where none is."""
    kernel, power = in_range(kernel)
    level /= power
    if level > _BEYOND:
        return False
    ready = made_ready(kernel, correlation, compute)
    if level > 0 and ready.engine == "native":
        parts = over_grid(partial(native.largest, ready.source, floor=level), ready, correlation, compute)
        return any(frequency >= 0 for _, frequency, _ in parts)
    return float(_top_block(kernel, correlation, compute).norm) > level


_BEYOND = 2.0**90
"""No norm of a kernel in range is as large."""


class Ready(NamedTuple):
    """A kernel as its engine takes it.

    Attributes:
        engine: that solves its blocks.
        kernel: as an array that the engine takes.
        source: what the engine makes blocks of.
    """

    engine: Engine
    kernel: Array
    source: Any


def made_ready(kernel: Array, correlation: Correlation, compute: Compute) -> Ready:
    """A kernel in the order of `Correlation` for the engine that `compute` names, or that suits it."""
    grid = frequency_grid(correlation)
    engine = choice.choose(compute, kernel, grid.block_shape, len(grid))
    taken = choice.taken_by(engine, kernel)
    return Ready(engine, taken, native.prepare(taken, correlation) if engine == "native" else taken)


def _solved(
    task: Callable[..., Array], ready: Ready, kernel: Array, correlation: Correlation, compute: Compute
) -> Array:
    """`task` over all blocks by an engine, as an array of the kernel's kind."""
    of_part = partial(task, ready.engine, ready.source, correlation)
    values = namespace(ready.kernel).concat(over_grid(of_part, ready, correlation, compute), axis=0)
    return values if ready.kernel is kernel else like(to_numpy(values), kernel, kernel.dtype)


def over_blocks(
    task: Callable[[FrequencyGrid], Result], kernel: Array, correlation: Correlation, compute: Compute
) -> list[Result]:
    """`over_grid` of tasks that make blocks of the kernel as it is, and solve them by its own library."""
    return over_grid(task, Ready("namespace", kernel, kernel), correlation, compute)


def over_grid(
    task: Callable[[FrequencyGrid], Result],
    ready: Ready,
    correlation: Correlation,
    compute: Compute,
    makes_blocks: bool = False,
) -> list[Result]:
    """A task of some frequencies over all of them, in pieces that fit the memory.

    `makes_blocks`: the native engine's blocks stand in memory, which they do not for values only.
    """
    grid, (engine, kernel, _) = frequency_grid(correlation), ready
    rows, columns = grid.block_shape
    entries = correlation.groups * rows * columns
    taps = math.prod(correlation.kernel_size)
    real_bytes = 4 if kernel.dtype == namespace(kernel).float32 else 8
    seconds_each = seconds_of_blocks(correlation, 1)
    if engine == "native":
        # No blocks: phases, and the values twice. Whole lanes.
        bytes_each = 48 * taps + 2 * real_bytes * correlation.groups * min(rows, columns)
        unit = native.taken_together(rows, columns)
        if makes_blocks:
            bytes_each += 6 * real_bytes * entries
    else:
        # Blocks, their parts before joining, the solver's copy and its vectors; phases and their index.
        bytes_each = 8 * real_bytes * entries + 48 * taps
        unit, seconds_each = 1, LAPACK * seconds_each
    workers = pool.workers_of(compute.executor) if is_numpy(kernel) else 1
    pieces = pool.ranges(len(grid), workers, bytes_each, seconds_each, compute.memory, unit)
    of_range = partial(_on_range, task, grid)
    if is_numpy(kernel):
        return pool.run(of_range, pieces, compute.executor, uses_blas=engine != "native" or makes_blocks)
    return [of_range(start, stop) for start, stop in pieces]


def _on_range(task: Callable[[FrequencyGrid], Result], grid: FrequencyGrid, start: int, stop: int) -> Result:
    """No closure, so that other processes can be given it."""
    return task(grid.between(start, stop))


def _values(engine: Engine, source: Any, correlation: Correlation, grid: FrequencyGrid) -> Array:
    if engine == "native":
        values = native.singular_values(source, grid)
    else:
        values = array_api.singular_values(_blocks(source, correlation, grid))
    xp = namespace(values)
    values = xp.reshape(values, (-1, values.shape[-1]))
    # Polyphase components that no tap reads are zero columns, which count as singular values too.
    missing = min(grid.block_shape) - values.shape[1]
    if missing:
        zeros = like(np.zeros((values.shape[0], missing)), values, values.dtype)
        values = xp.concat([values, zeros], axis=1)
    return values


def _largest(engine: Engine, source: Any, correlation: Correlation, grid: FrequencyGrid) -> Array:
    if engine == "native":
        return native.singular_values(source, grid)[..., 0]
    blocks = _blocks(source, correlation, grid)
    by = products if products.pay(blocks) else array_api
    return by.largest_singular_value(blocks)


def _blocks(kernel: Array, correlation: Correlation, grid: FrequencyGrid) -> Array:
    blocks = symbol_blocks(kernel, correlation, grid)
    # A symbol without frequencies (1x1 kernels) is real.
    return namespace(blocks).real(blocks) if math.prod(grid.period) == 1 else blocks


@dataclass(frozen=True)
class Decomposition:
    """A singular value decomposition of a block-circulant convolution, block by block.

    Attributes:
        left: shape (F, groups, m, r), the left singular vectors of each block as columns.
        values: shape (F, groups, r), descending.
        right: shape (F, groups, r, n), the right singular vectors as conjugated rows.
        grid: the frequencies that the blocks belong to.
        correlation: the layer that they belong to.

    Blocks are those of the half grid: each also stands for its conjugate at the opposite frequency,
    and for the repeats that `grid` counts. Vectors belong to a real operator but are complex: the
    two real ones of a conjugate pair are `sqrt(2)` times the real and the imaginary part.
    """

    left: Array
    values: Array
    right: Array
    grid: FrequencyGrid
    correlation: Correlation

    def vectors(self, frequency: int, group: int, rank: int) -> tuple[Array, Array, Array]:
        """One singular triplet `(u, sigma, v)` of the layer as maps over space.

        `v` has the shape (channels, *points) of what goes into the layer, `u` that of what comes
        out, both of norm 1: the layer takes `v` to `sigma u`, and its adjoint `u` to `sigma v`.

        Arguments:
            frequency: row of `left`, `values` and `right`, in the order of `grid.index`.
            group: which group of channels.
            rank: which singular value of the block, 0 the largest.

        Returns:
            `u`, shape (channels, *points) of what comes out of the layer; `sigma`, a scalar; `v`, of the
            shape of what goes in. Both maps are complex and of norm 1.
        """
        xp = namespace(self.values)
        c, index = self.correlation, self.grid.index[frequency]
        u = np.multiply.outer(to_numpy(self.left[frequency, group, :, rank]), plane_wave(self.grid, index))
        incoming = np.conj(to_numpy(self.right[frequency, group, rank, :]))
        v = input_wave(incoming, self.grid, c, index)
        u, v = (_in_group(wave, group, c.groups) for wave in (u, v))
        if c.transposed:
            u, v = v, u
        return like(u, self.values), xp.asarray(self.values[frequency, group, rank]), like(v, self.values)


def _in_group(wave: np.ndarray[Any, Any], group: int, groups: int) -> np.ndarray[Any, Any]:
    """The channels of one group among those of all."""
    channels = len(wave)
    whole = np.zeros((channels * groups, *wave.shape[1:]), dtype=wave.dtype)
    whole[group * channels : (group + 1) * channels] = wave
    return whole


def svd(kernel: Array, geometry: ConvGeometry) -> Decomposition:
    """Singular values and vectors of a block-circulant convolution.

    `S(g) = left diag(values) right` at each frequency of `grid`; `Decomposition.vectors` makes
    the vectors of the layer itself from them. All blocks are held at once: the memory is that of
    the symbol, three times. Polyphase components that no tap reads have no columns here, so the
    zeros that `singular_values` counts for them are missing.

    Arguments:
        kernel: real array in the layout of `geometry`.
        geometry: with a wrapped boundary, or none that is ever read.

    Returns:
        `Decomposition`: the singular values and vectors of each block.

    Raises:
        GeometryError, KernelError, RangeError: as `singular_values`.

    Notes:
        Not guaranteed: which basis is returned for a repeated singular value.
    """
    problem = problem_of(kernel, geometry)
    correlation, grid = problem.correlation, frequency_grid(problem.correlation)
    inside, power = scaled(problem)
    left, values, right = array_api.svd(symbol_blocks(inside.kernel, correlation, grid))
    return Decomposition(
        left=left, values=in_range_again(values, power), right=right, grid=grid, correlation=correlation
    )
