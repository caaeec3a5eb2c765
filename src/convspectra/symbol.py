"""Kernel to symbol and back: the blocks of a block-circulant operator at their frequencies.

A strided correlation is a stride-1 correlation of the polyphase components of its input: tap `p`
reads `x[s r + d p - a]`, and `d p = s u + t` sends it to component `t` at offset `u`. So with

    S(g) = [ sum_{p in class t} W[:, :, p] exp(2 pi i g.u_p / N) ]_t,    N = n / s,

one block an output frequency `g`, of shape `(C_out, C_in * classes)`, the operator is unitarily
equivalent to the direct sum of the `S(g)`, whatever the stride and dilation. Three special cases
need no code of their own. Classes that hold no tap are zero columns and are left out. If every
offset `u` along an axis is a multiple of `h`, the symbol repeats every `N / gcd(h, N)` frequencies:
that is all of them for a 1x1 kernel or for patches that do not overlap (one block in all), and it
undoes dilation. And a real kernel has `S(-g) = conj(S(g))`, so half of the frequencies will do.

Reference: Sedghi, Gupta and Long (2019), Theorem 6, for stride and dilation 1; Vaidyanathan (1993),
chapter 4, for polyphase components.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from ._compat import Array, complex_dtype, like, namespace
from .cost import Cost, check_sizes, classes_of, of_torus
from .geometry import Correlation

IntArray = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class PolyphaseClass:
    """The taps that read one polyphase component of the input.

    Attributes:
        origin: input offset of the component, per axis, relative to the first tap.
        taps: shape (T,), flat indices into the kernel's taps.
        offsets: shape (T, D), how many strides each tap lies beyond `origin`.
    """

    origin: tuple[int, ...]
    taps: IntArray
    offsets: IntArray


def _frozen(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Read-only: cached and shared."""
    array.flags.writeable = False
    return array


@lru_cache(maxsize=64)
def polyphase(correlation: Correlation) -> tuple[PolyphaseClass, ...]:
    """The taps of a correlation, sorted into the polyphase components that they read."""
    axes = []
    for k, s, d in zip(correlation.kernel_size, correlation.stride, correlation.dilation, strict=True):
        classes: dict[int, list[int]] = {}
        for p in range(k):
            classes.setdefault(d * p % s, []).append(p)
        axes.append(
            [(d * taps[0], taps, [d * (p - taps[0]) // s for p in taps]) for taps in classes.values()]
        )
    found = []
    for choice in itertools.product(*axes):
        taps = np.ravel_multi_index(np.ix_(*(axis[1] for axis in choice)), correlation.kernel_size)
        offsets = np.stack(np.meshgrid(*(axis[2] for axis in choice), indexing="ij"), axis=-1)
        found.append(
            PolyphaseClass(
                origin=tuple(axis[0] for axis in choice),
                taps=_frozen(taps.reshape(-1)),
                offsets=_frozen(offsets.reshape(-1, len(choice))),
            )
        )
    return tuple(found)


@dataclass(frozen=True)
class FrequencyGrid:
    """The frequencies at which blocks differ, and how often each block occurs.

    Attributes:
        shape: the output grid `N = n / s`: there are `prod(shape)` blocks a group in all.
        repeat: per axis, how many times the symbol repeats along it.
        index: shape (F, D), one representative frequency for each pair `g, -g` of one period.
        multiplicity: shape (F,): how many frequencies of the output grid it stands for.
        block_shape: rows and columns of a block, the zero columns counted.
        first: the place of the first frequency in the grid that this is a range of.
    """

    shape: tuple[int, ...]
    repeat: tuple[int, ...]
    index: IntArray
    multiplicity: IntArray
    block_shape: tuple[int, int]
    first: int = 0

    def __len__(self) -> int:
        return len(self.index)

    @property
    def period(self) -> tuple[int, ...]:
        """Frequencies in one period of the symbol, per axis."""
        return tuple(n // h for n, h in zip(self.shape, self.repeat, strict=True))

    def phases(self, offsets: IntArray) -> np.ndarray[Any, Any]:
        """`exp(2 pi i g.u / N)`, shape (T, F): read-only."""
        steps = offsets // np.asarray(self.repeat)
        if len(steps) * len(self) > _MOST_PHASES_KEPT:
            return _phases(self.period, self.index, steps)
        return _kept_phases(self.period, self.index.tobytes(), steps.tobytes())

    def at(self, places: IntArray | slice) -> FrequencyGrid:
        """Only the frequencies at these places of `index`; the whole grid is no longer covered."""
        return replace(self, index=self.index[places], multiplicity=self.multiplicity[places])

    def between(self, start: int, stop: int) -> FrequencyGrid:
        """Only those from start to stop."""
        if (start, stop) == (0, len(self)):
            return self
        return replace(self.at(slice(start, stop)), first=self.first + start)

    def spread(self, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """One value a representative frequency, shape (F,), put on the whole grid, shape `shape`."""
        one_period = np.empty(self.period, dtype=values.dtype)
        one_period[tuple(self.index.T)] = values
        one_period[tuple((-self.index % np.asarray(self.period)).T)] = values
        return np.tile(one_period, self.repeat)


_MOST_PHASES_KEPT = 2**14
"""Phases that are kept together: 256 KiB; those of small layers are asked for several times a call."""


@lru_cache(maxsize=64)
def _kept_phases(period: tuple[int, ...], index: bytes, steps: bytes) -> np.ndarray[Any, Any]:
    flat = (np.frombuffer(part, dtype=np.int64).reshape(-1, len(period)) for part in (index, steps))
    return _frozen(_phases(period, *flat))


def _phases(period: tuple[int, ...], index: IntArray, steps: IntArray) -> np.ndarray[Any, Any]:
    """`exp(2 pi i sum_axes steps index / period)`, shape (steps, frequencies)."""
    found = np.ones((len(steps), len(index)), dtype=np.complex128)
    for axis, points in enumerate(period):
        different, inverse = np.unique(steps[:, axis], return_inverse=True)
        turns = np.multiply.outer(different, index[:, axis]) % points  # wrap exactly
        # A table of roots of unity where angles repeat; not for each piece of a long axis.
        few = points < turns.size
        roots = np.exp(2j * np.pi * ((np.arange(points) if few else turns) / points))
        found *= (roots[turns] if few else roots)[inverse]
    return found


_LARGEST_KEPT = 2**18
"""Points of a grid that is kept: sixteen of the largest, in two dimensions, take 50 MB."""


def frequency_grid(correlation: Correlation) -> FrequencyGrid:
    """The frequencies of a block-circulant correlation.

    Raises:
        GeometryError: the operator is not block-circulant; the message says what would be.
        CostError: it is too large; the message says what it would take.
    """
    large = math.prod(correlation.output_shape) > _LARGEST_KEPT
    return (_grid if large else _kept_grid)(correlation)


def _grid(correlation: Correlation) -> FrequencyGrid:
    cost_of(correlation)
    shape, repeat = correlation.output_shape, _repeat(correlation)
    period = [n // h for n, h in zip(shape, repeat, strict=True)]
    flat = np.arange(math.prod(period))
    index = np.stack(np.unravel_index(flat, period), axis=-1)
    mirror = np.ravel_multi_index(tuple((-index % np.asarray(period)).T), period)
    kept = flat <= mirror
    return FrequencyGrid(
        shape=shape,
        repeat=repeat,
        index=_frozen(index[kept]),
        multiplicity=_frozen(np.where(flat == mirror, 1, 2)[kept] * math.prod(repeat)),
        block_shape=correlation.block_shape,
    )


_kept_grid = lru_cache(maxsize=16)(_grid)


def bytes_of_blocks(correlation: Correlation) -> float:
    """Of the blocks at half of the frequencies as doubles, without the columns that no tap reads."""
    c = correlation
    points = math.prod(n // h for n, h in zip(c.output_shape, _repeat(c), strict=True))
    columns = c.in_channels * classes_of(c)
    return 16.0 * (points // 2 + 1) * c.out_channels // c.groups * columns


def cost_of(correlation: Correlation, itemsize: int = 8) -> Cost:
    """Of all singular values of a block-circulant correlation; errors as of `frequency_grid`.

    `itemsize`: bytes of a number of the kernel.
    """
    correlation.require_circulant()
    check_sizes(correlation)
    shape = correlation.output_shape
    return of_torus(correlation, [n // h for n, h in zip(shape, _repeat(correlation), strict=True)], itemsize)


def is_constant(correlation: Correlation) -> bool:
    """Whether the symbol is the same at all frequencies, on a torus of any size: 1x1 kernels, patches."""
    return not any(part.offsets.any() for part in polyphase(correlation))


def _repeat(correlation: Correlation) -> tuple[int, ...]:
    """How many times the symbol repeats along each axis."""
    offsets = np.concatenate([part.offsets for part in polyphase(correlation)])
    sides = enumerate(correlation.output_shape)
    return tuple(math.gcd(n, *map(int, offsets[:, axis])) for axis, n in sides)


def symbol_blocks(kernel: Array, correlation: Correlation, grid: FrequencyGrid) -> Array:
    """The blocks `S(g)` at the frequencies of a grid.

    Arguments:
        kernel: real, axes in the order of `Correlation`.
        correlation: a block-circulant one.
        grid: some or all of its frequencies.

    Returns:
        Complex, shape `(F, groups, C_out / groups, C_in / groups * classes)`, the columns of one polyphase
        class side by side.
    """
    xp = namespace(kernel)
    groups, (rows, columns) = correlation.groups, correlation.group_shape
    taps = xp.astype(xp.reshape(kernel, (groups * rows * columns, -1)), complex_dtype(kernel))
    parts = []
    for part in polyphase(correlation):
        phases = like(grid.phases(part.offsets).T, kernel, taps.dtype)
        selected = taps if len(part.taps) == taps.shape[1] else xp.take(taps, like(part.taps, kernel), axis=1)
        blocks = xp.matmul(phases, xp.matrix_transpose(selected))
        parts.append(xp.reshape(blocks, (len(grid), groups, rows, columns)))
    return parts[0] if len(parts) == 1 else xp.concat(parts, axis=-1)


def symbol_adjoint(blocks: Array, correlation: Correlation, grid: FrequencyGrid) -> Array:
    """The adjoint of `symbol_blocks`, as a real kernel in the order of `Correlation`.

    For the inner product `sum_g multiplicity_g Re tr(X_g^H Y_g)` of symbols and the usual one of
    kernels, `<S(W), T> = <W, S*(T)>`; `S* S` multiplies by `prod(N)` as long as no tap wraps onto
    another. Ranges of frequencies add up.

    Arguments:
        blocks: as `symbol_blocks` gives them.
        correlation: a block-circulant one.
        grid: some or all of its frequencies.

    Returns:
        Shape (C_out, C_in / groups, *kernel_size).
    """
    xp = namespace(blocks)
    groups, (rows, columns) = correlation.groups, correlation.group_shape
    classes = polyphase(correlation)
    parts = []
    for place, part in enumerate(classes):
        columns_of_class = blocks[..., place * columns : (place + 1) * columns]
        phases = like(np.conj(grid.phases(part.offsets)) * grid.multiplicity, blocks, blocks.dtype)
        flat = xp.reshape(columns_of_class, (len(grid), groups * rows * columns))
        parts.append(xp.real(xp.matmul(phases, flat)))
    order = np.argsort(np.concatenate([part.taps for part in classes]), kind="stable")
    taps = xp.take(xp.concat(parts, axis=0), like(order, blocks), axis=0)
    shape = (correlation.out_channels, columns, *correlation.kernel_size)
    return xp.reshape(xp.matrix_transpose(taps), shape)


def tap_copies(correlation: Correlation) -> IntArray:
    """How many taps land on the same point of the torus as each of them: 1 unless the kernel wraps."""
    counts = np.ones((), dtype=np.int64)
    for k, d, n in zip(correlation.kernel_size, correlation.dilation, correlation.input_shape, strict=True):
        landing = d * np.arange(k) % n
        counts = np.multiply.outer(counts, (landing[:, None] == landing).sum(axis=1))
    return counts


@lru_cache(maxsize=64)
def tap_scale(correlation: Correlation) -> np.ndarray[Any, Any]:
    """What `symbol_adjoint` is divided by, by tap, to give a symbol's nearest kernel: `S^+ = S* / scale`."""
    return _frozen(np.asarray(correlation.points * tap_copies(correlation)))


def plane_wave(grid: FrequencyGrid, index: IntArray) -> np.ndarray[Any, Any]:
    """`exp(2 pi i g.r / N) / sqrt(prod(N))` over the output grid, for the frequency `index`."""
    turns = np.zeros(grid.shape)
    for axis, points in enumerate(np.indices(grid.shape, sparse=True)):
        turns = turns + (index[axis] * points % grid.shape[axis]) / grid.shape[axis]
    return np.asarray(np.exp(2j * np.pi * turns)) / math.sqrt(math.prod(grid.shape))


def input_wave(
    vector: np.ndarray[Any, Any], grid: FrequencyGrid, correlation: Correlation, index: IntArray
) -> np.ndarray[Any, Any]:
    """The input of one group that a block sees as `vector`.

    Arguments:
        vector: shape (channels * classes,), a column of `symbol_blocks` order.
        grid: of the correlation.
        correlation: a block-circulant one.
        index: the block's frequency.

    Returns:
        Shape (channels, *input_shape).
    """
    columns = correlation.group_shape[1]
    wave = np.zeros((columns, *correlation.input_shape), dtype=vector.dtype)
    outputs = plane_wave(grid, index).astype(vector.dtype)
    for place, part in enumerate(polyphase(correlation)):
        points = [
            (s * np.arange(m) + origin - before) % n
            for s, m, origin, (before, _), n in zip(
                correlation.stride,
                correlation.output_shape,
                part.origin,
                correlation.padding,
                correlation.input_shape,
                strict=True,
            )
        ]
        of_class = vector[place * columns : (place + 1) * columns]
        wave[np.ix_(np.arange(columns), *points)] = np.multiply.outer(of_class, outputs)
    return wave
