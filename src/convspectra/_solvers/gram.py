"""Gram matrices of a symbol as trigonometric polynomials, and whether their eigenvalues exceed a level.

    G(theta) = S(theta) S(theta)^H = sum_q G_q exp(i q.theta),    G_q = sum_u A_{u+q} A_u^T

(or of the transposes, whichever is smaller), with the taps `A_u` of the polyphase form. The coefficients are
made once; then a frequency costs their sum and a Cholesky factorisation of `level I - G`, which exists if no
eigenvalue exceeds the level: a quarter of a decomposition, and nothing has to converge. In double precision
whatever the kernel's, so that what rounding can do is far below any width that is asked for.

Source: the factorisation as a proof, Rump (2006), Verification of positive definiteness, BIT 46.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from ..compute import Compute
from ..geometry import Correlation
from ..symbol import polyphase
from . import native, pool

NumpyArray = np.ndarray[Any, Any]

_EPS = float(np.finfo(np.float64).eps)

LARGEST_IN_LANES = 128
"""Matrices of more rows are left to LAPACK: a group of lanes of them does not stay in the second cache."""


@dataclass(frozen=True, eq=False)
class Gram:
    """The Gram matrices of the blocks of a symbol.

    Attributes:
        coefficients: shape (groups, side (side + 1) / 2, 1 + 2 waves): for each entry of the lower triangle
            its mean, then for each wave that of the cosine in its real part and that of the sine in its
            imaginary part.
        waves: shape (waves, axes): the whole numbers `q` of one half, of axes along which the symbol changes.
        rows, side: rows of a matrix, and with zero rows up to a multiple of four.
        half_degrees: shape (axes,): times a phase, `S` is of this exponential type.
        axes, repeats: which axes of the layer those are, and how often the symbol repeats along each axis of
            the layer: its angles are these parts of those here.
        transposed: the matrices are those of the columns of `S`, conjugated.
        error: how far a computed matrix may be from the true one, in operator norm.
        compute: the executor and the memory.
    """

    coefficients: NumpyArray
    waves: NumpyArray
    rows: int
    side: int
    half_degrees: NumpyArray
    axes: tuple[int, ...]
    repeats: tuple[int, ...]
    transposed: bool
    error: float
    compute: Compute

    @property
    def groups(self) -> int:
        """Of the layer."""
        return len(self.coefficients)

    def slack(self, value: float) -> float:
        """What a factorisation at this level may be off by, and a quotient of this size.

        `L L^H` is within `2 (rows + 1) eps ||L||_F^2` of what was factorised, and that trace is at most
        `rows level`.
        """
        return float(_EPS * (8 * self.rows + 64) * self.rows * value + self.error)

    def matrix(self, cell: Cells) -> NumpyArray:
        """At the first frequency, shape (rows, rows); the upper triangle is left zero, for LAPACK."""
        return np.asarray(self._matrices(int(cell.groups[0]), _phases(self.waves, cell.angles[:1]))[0])

    def symbol_angles(self, angles: NumpyArray) -> NumpyArray:
        """The angles of the symbol, along all axes of the layer, that belong to one row of `Cells.angles`."""
        found = np.zeros(len(self.repeats))
        found[list(self.axes)] = angles / np.array(self.repeats)[list(self.axes)]
        return found

    def slope(self, cell: Cells) -> tuple[NumpyArray, NumpyArray]:
        """First and second derivatives of `v^H G(theta) v` at the first cell, `v` its vector."""
        angles, vector = cell.angles[0], cell.vectors[0]
        i, j = _triangle(self.rows)
        weights = vector[i].conj() * vector[j] * np.where(i == j, 1.0, 2.0)  # the other triangle
        sums = np.stack([weights.real, -weights.imag]) @ self.coefficients[cell.groups[0], : len(i)]
        cosines, sines = sums[0, 1::2], sums[1, 2::2]
        turns = self.waves @ angles
        cosine, sine = np.cos(turns), np.sin(turns)
        first = self.waves.T @ (sines * cosine - cosines * sine)
        return first, -(self.waves.T * (cosines * cosine + sines * sine)) @ self.waves

    def test(self, cells: Cells, level: float, steps: int) -> Tested:
        """Whether no eigenvalue exceeds the level, up to `slack`, at each of these frequencies.

        Arguments:
            cells: frequencies.
            level: at 0 nothing is factorised.
            steps: of power iteration, from the vectors of the cells.
        """
        by_lanes = native.tests_grams() and 1 < self.rows <= LARGEST_IN_LANES
        way = self._test_in_lanes if by_lanes else self._test_by_lapack
        task = partial(self._test_numbers if self.rows == 1 else way, cells, level, steps)
        entries = self.coefficients.shape[1]
        bytes_each = 16 * (1 + len(self.waves)) + (0 if by_lanes else 64 * entries)
        seconds_each = 1e-10 * (self.rows**3 + 4 * entries * len(self.waves))
        workers = pool.workers_of(self.compute.executor)
        pieces = pool.ranges(len(cells.groups), workers, bytes_each, seconds_each, self.compute.memory, 8)
        parts = pool.run(task, pieces, self.compute.executor, uses_blas=not by_lanes)
        return Tested(*(np.concatenate(each) for each in zip(*parts, strict=True)))

    def _test_in_lanes(self, cells: Cells, level: float, steps: int, start: int, stop: int) -> Tested:
        groups, count = cells.groups[start:stop], stop - start
        vectors = np.zeros((count, self.side), dtype=np.complex128)
        vectors[:, : self.rows] = cells.vectors[start:stop]
        quotients, below = np.empty(count), np.empty(count, dtype=np.uint8)
        native.gram_test(
            self.coefficients,
            _phases(self.waves, cells.angles[start:stop]),
            np.searchsorted(groups, np.arange(self.groups + 1)),
            level,
            steps,
            quotients,
            below,
            vectors.view(np.float64).reshape(count, self.side, 2),
        )
        return Tested(quotients, below != 0, vectors[:, : self.rows])

    def _test_numbers(self, cells: Cells, level: float, steps: int, start: int, stop: int) -> Tested:
        """Of matrices of one row."""
        phases, entries = _phases(self.waves, cells.angles[start:stop]), self.coefficients[:, 0]
        entries = entries[cells.groups[start:stop]]
        values = np.maximum(entries[:, 0] + np.einsum("cw,cw->c", phases[..., 0], entries[:, 1::2]), 0.0)
        return Tested(values, values <= level, np.ones((stop - start, 1), dtype=np.complex128))

    def _test_by_lapack(self, cells: Cells, level: float, steps: int, start: int, stop: int) -> Tested:
        angles, groups = cells.angles[start:stop], cells.groups[start:stop]
        quotients, vectors = np.empty(stop - start), np.empty((stop - start, self.rows), np.complex128)
        below = np.zeros(stop - start, dtype=bool)
        for group in np.unique(groups):
            (places,) = np.nonzero(groups == group)
            matrices = self._matrices(int(group), _phases(self.waves, angles[places]))
            for place, lower in zip(places, matrices, strict=True):
                quotients[place], vectors[place] = _power(lower, cells.vectors[start + place], steps)
                if quotients[place] <= level:
                    below[place] = _is_below(lower, level)
        return Tested(quotients, below, vectors)

    def _matrices(self, group: int, phases: NumpyArray) -> NumpyArray:
        entries = self.coefficients[group, : self.rows * (self.rows + 1) // 2]
        found = np.zeros((len(phases), self.rows, self.rows), dtype=np.complex128)
        lower = (slice(None), *_triangle(self.rows))
        real = phases[..., 0] @ entries[:, 1::2].T + entries[:, 0]
        found[lower] = real + 1j * (phases[..., 1] @ entries[:, 2::2].T)
        return found


class Cells(NamedTuple):
    """Frequencies, in the order of their groups.

    Attributes:
        angles: shape (count, axes), in radians, along the axes of `Gram.waves`.
        groups: shape (count,), of channels.
        vectors: shape (count, rows), complex: what is known of the eigenvector of the largest eigenvalue.
    """

    angles: NumpyArray
    groups: NumpyArray
    vectors: NumpyArray

    def at(self, places: Any) -> Cells:
        """Those of a mask, or of ascending places."""
        return Cells(*(each[places] for each in self))


class Tested(NamedTuple):
    """What a test found, a row for each frequency.

    Attributes:
        quotients: `||G x|| / ||x||` for the last `x` of the power iteration: at most the largest eigenvalue.
        below: whether no eigenvalue exceeds the level.
        vectors: shape (count, rows): where the power iteration ended.
    """

    quotients: NumpyArray
    below: NumpyArray
    vectors: NumpyArray


def gram_of(kernel: NumpyArray, correlation: Correlation, moduli: float, compute: Compute) -> Gram | None:
    """The Gram matrices of a kernel, None where their coefficients do not fit into half of the memory.

    Arguments:
        kernel: axes in the order of `Correlation`, its entries in range.
        correlation: on whatever torus.
        moduli: an upper bound of the norms of all blocks, whatever the signs of the taps.
        compute: the executor and the memory.
    """
    wide = kernel.astype(np.float64, copy=False)
    taps, repeats = _taps(wide, correlation)
    transposed = taps.shape[1] > taps.shape[2]
    if transposed:
        taps = np.swapaxes(taps, 1, 2)
    groups, rows, others = taps.shape[:3]
    degrees = [size - 1 for size in taps.shape[3:]]
    sizes = [degree + 1 for degree in degrees]
    waves = np.array(list(_half(degrees)), dtype=np.int64).reshape(-1, len(sizes))
    side = -(-rows // 4) * 4 if rows > 1 else 1
    shape = (groups, side * (side + 1) // 2, 1 + 2 * len(waves))
    if 16 * math.prod(shape) > compute.memory:
        return None
    products = np.empty((1 + len(waves), groups, rows, rows))
    for place, wave in enumerate([(0,) * len(sizes), *map(tuple, waves)]):
        pairs = list(zip(wave, sizes, strict=True))
        later = (slice(None), slice(None), slice(None), *(slice(max(q, 0), n + min(q, 0)) for q, n in pairs))
        earlier = (
            slice(None),
            slice(None),
            slice(None),
            *(slice(max(-q, 0), n - max(q, 0)) for q, n in pairs),
        )
        first, second = (taps[part].reshape(groups, rows, -1) for part in (later, earlier))
        np.matmul(first, np.swapaxes(second, 1, 2), out=products[place])
    i, j = _triangle(rows)
    lower, upper = (np.moveaxis(products[:, :, *pair], 0, -1) for pair in ((i, j), (j, i)))
    coefficients = np.zeros(shape)
    coefficients[:, : len(i), 0] = lower[..., 0]
    coefficients[:, : len(i), 1::2] = lower[..., 1:] + upper[..., 1:]
    coefficients[:, : len(i), 2::2] = lower[..., 1:] - upper[..., 1:]
    changing = [axis for axis, degree in enumerate(degrees) if degree]
    # Of sums over channels and taps, of those over waves, of angles times waves, cosines and sines.
    roundings = others * math.prod(sizes) + 2 * len(waves) + 32 * (sum(degrees) + 2)
    return Gram(
        coefficients=coefficients,
        waves=waves[:, changing].astype(np.float64),
        rows=rows,
        side=side,
        half_degrees=np.array([degrees[axis] / 2 for axis in changing]),
        axes=tuple(changing),
        repeats=repeats,
        transposed=transposed,
        error=_EPS * roundings * moduli**2,
        compute=compute,
    )


def _taps(kernel: NumpyArray, correlation: Correlation) -> tuple[NumpyArray, tuple[int, ...]]:
    """Shape (groups, rows, columns, *degrees + 1), and how often the symbol repeats an axis."""
    classes = polyphase(correlation)
    offsets = np.concatenate([part.offsets for part in classes])
    # Offsets that share a divisor (dilation) only make the symbol repeat.
    repeats = tuple(math.gcd(*map(int, axis)) or 1 for axis in offsets.T)
    sizes = [int(axis.max()) // repeat + 1 for axis, repeat in zip(offsets.T, repeats, strict=True)]
    groups = correlation.groups
    rows, columns = correlation.out_channels // groups, correlation.in_channels // groups
    flat = kernel.reshape(groups, rows, columns, -1)
    taps = np.zeros((groups, rows, len(classes), columns, math.prod(sizes)))
    for place, part in enumerate(classes):
        at = np.ravel_multi_index(tuple((part.offsets // repeats).T), sizes)
        taps[:, :, place, :, at] = np.moveaxis(flat[..., part.taps], -1, 0)
    taps = taps.reshape(groups, rows, len(classes) * columns, *sizes)
    for axis in range(3, taps.ndim):
        # What is zero at either end only shifts the phase.
        others = tuple(other for other in range(taps.ndim) if other != axis)
        (read,) = np.nonzero(np.any(taps, axis=others))
        if len(read):
            taps = np.take(taps, np.arange(read[0], read[-1] + 1), axis=axis)
    return taps, repeats


def _half(degrees: list[int]) -> Iterator[tuple[int, ...]]:
    """One of each pair `q, -q` other than zero."""
    zero = (0,) * len(degrees)
    return (wave for wave in itertools.product(*(range(-top, top + 1) for top in degrees)) if wave > zero)


@lru_cache(maxsize=16)
def _triangle(rows: int) -> tuple[NumpyArray, NumpyArray]:
    return np.tril_indices(rows)


def _phases(waves: NumpyArray, angles: NumpyArray) -> NumpyArray:
    """Cosines and sines, shape (cells, waves, 2)."""
    turns = angles @ waves.T
    found = np.empty((*turns.shape, 2))
    np.cos(turns, out=found[..., 0])
    np.sin(turns, out=found[..., 1])
    return found


def _power(lower: NumpyArray, start: NumpyArray, steps: int) -> tuple[float, NumpyArray]:
    strict = np.tril(lower, -1) if steps else lower
    quotient, vector = 0.0, start
    for _ in range(steps):
        image = lower @ vector + strict.conj().T @ vector
        length, before = float(np.linalg.norm(image)), float(np.linalg.norm(vector))
        if not length > 0:
            return 0.0, vector
        quotient, vector = length / before, image / length
    return quotient, vector


def _is_below(lower: NumpyArray, level: float) -> bool:
    shifted = -lower
    shifted.flat[:: len(lower) + 1] += level
    try:
        np.linalg.cholesky(shifted)
    except np.linalg.LinAlgError:
        return False
    return True
