"""The C++ core: singular values of a range of symbol blocks, which never stand in memory.

Complex Householder bidiagonalisation with one matrix in each vector lane (small blocks) or a row
across the lanes (larger ones), then dqds in double precision (where clusters stall it,
implicit QR), one matrix a lane. Errors are absolute: a few
epsilons of the kernel's precision times the largest singular value of the block.

Source: Golub and Kahan (1965); Fernando and Parlett (1994); Demmel and Kahan (1990).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from .._compat import Array
from ..geometry import Correlation
from ..symbol import FrequencyGrid, polyphase

try:
    from .._native import core
except ImportError as error:
    core = None  # type: ignore[assignment]
    _why_not = (
        "the native core was not built when the package was installed, for want of a C++20 compiler; "
        "install one and reinstall"
        if find_spec("convspectra._native.core") is None
        else f"the native core cannot be loaded: {error}"
    )

NumpyArray = np.ndarray[Any, Any]

LARGEST_SIDE = 1024
"""Blocks whose smaller side is beyond this are left to LAPACK, whose matrix products win there."""

# Phases are made for so many taps and frequencies at a time: few enough to stay in the cache; and always
# for a multiple of the most matrices that the core has in its lanes at once.
_PHASES = 2**14
_LANES = 32


LARGEST_IN_LANES = 12_000
FEWEST_TO_CERTIFY = 256
"""Certificates pay for blocks of no more entries than the first, if there are as many as the second."""


def taken_together(rows: int, columns: int) -> int:
    """How many blocks of this shape the core takes at once: pieces of work should be multiples of it."""
    return 16 if rows * columns <= 40_000 else 1


def why_unavailable() -> str | None:
    """Why the native core cannot be used, or None if it can."""
    return None if core is not None else _why_not


def instruction_sets() -> list[str]:
    """Those that this build has and this processor supports, the one in use first."""
    return core.instruction_sets() if core is not None else []


@dataclass(frozen=True)
class NativeTaps:
    """A kernel in the order in which the core reads it.

    Attributes:
        taps: flat, by class, tap, group, row and column, scaled by `2**-exponent`.
        taps_of_class: how many taps each polyphase class has.
        offsets: of all taps, class after class, as in `PolyphaseClass`.
        part_shape: rows and columns that one class contributes; exchanged where `stacked`.
        stacked: classes stand below each other: blocks are taken transposed, so that they are tall.
    """

    taps: NumpyArray
    taps_of_class: NumpyArray
    offsets: NumpyArray
    groups: int
    part_shape: tuple[int, int]
    stacked: bool
    exponent: int

    @property
    def block_shape(self) -> tuple[int, int]:
        """Rows and columns of a block as it is solved, rows at least columns."""
        rows, columns = self.part_shape
        classes = len(self.taps_of_class)
        return (rows * classes, columns) if self.stacked else (rows, columns * classes)


def prepare(kernel: NumpyArray, correlation: Correlation) -> NativeTaps:
    """`kernel`, with its axes in the order of `Correlation`, for `singular_values`."""
    classes = polyphase(correlation)
    groups, (rows, columns) = correlation.groups, correlation.group_shape
    stacked = rows < columns * len(classes)
    # Scaled by a power of two, so that sums of tiny or huge taps stay in range.
    exponent = int(np.frexp(np.abs(kernel).max(initial=0.0))[1])
    flat = np.ldexp(kernel, -exponent).reshape(groups, rows, columns, -1)
    order = (3, 0, 2, 1) if stacked else (3, 0, 1, 2)
    taps = [np.transpose(flat[..., part.taps], order).reshape(-1) for part in classes]
    return NativeTaps(
        taps=np.concatenate(taps),
        taps_of_class=np.array([len(part.taps) for part in classes], dtype=np.int64),
        offsets=np.concatenate([part.offsets for part in classes]),
        groups=groups,
        part_shape=(columns, rows) if stacked else (rows, columns),
        stacked=stacked,
        exponent=exponent,
    )


def singular_values(
    prepared: NativeTaps,
    grid: FrequencyGrid,
    *,
    instruction_set: str = "",
    sweeps: int | None = None,
    layout: int = 0,
) -> NumpyArray:
    """Of the blocks at the frequencies of a grid, shape (F, groups, r), descending.

    Arguments:
        instruction_set: one of `instruction_sets()`; empty for the best.
        sweeps: of the bidiagonal iteration before bisection takes over; for tests.
        layout: 0 by size, 1 a matrix a lane, 2 a row across the lanes; for tests.
    """
    first, second = prepared.part_shape
    side = prepared.block_shape[1]
    found = np.empty((len(grid), prepared.groups, side), dtype=prepared.taps.dtype)
    for begin, end, phases in _phases(prepared, grid):
        values = np.empty((prepared.groups, end - begin, side), dtype=prepared.taps.dtype)
        core.values_of_symbol(
            prepared.taps,
            prepared.taps_of_class,
            phases,
            first,
            second,
            prepared.stacked,
            values,
            instruction_set,
            _sweeps(side) if sweeps is None else sweeps,
            layout,
        )
        found[begin:end] = np.swapaxes(values, 0, 1)
    return np.ldexp(found, prepared.exponent)


def pays_to_certify(correlation: Correlation, frequencies: int) -> bool:
    """Whether `largest` is faster than all singular values."""
    entries = math.prod(correlation.group_shape) * len(polyphase(correlation))
    return entries <= LARGEST_IN_LANES and frequencies * correlation.groups >= FEWEST_TO_CERTIFY


def largest(
    prepared: NativeTaps,
    grid: FrequencyGrid,
    floor: float,
    *,
    instruction_set: str = "",
) -> tuple[float, int, int]:
    """The largest singular value of these blocks; its frequency, in the whole grid, and its group.

    Exact up to 1e-6 (float32) or 1e-14 (float64) of itself: a block is decomposed only if the
    factorisation of `(1 + 2e-6) c^2 I - S^H S` (2e-14 in float64) shows that it has a singular value
    above the largest so far, `c`.

    Arguments:
        prepared: any blocks, but see `pays_to_certify`.
        floor: a value known before. If no block here exceeds it, the frequency is -1.
    """
    columns = prepared.block_shape[1]
    best = (0.0, -1, -1)
    for begin, end, phases in _phases(prepared, grid):
        value, place = core.largest_of_symbol(
            prepared.taps,
            prepared.taps_of_class,
            phases,
            prepared.groups,
            *prepared.part_shape,
            prepared.stacked,
            math.ldexp(max(floor, best[0]), -prepared.exponent),
            instruction_set,
            _sweeps(columns),
        )
        if place >= 0:
            group, frequency = divmod(place, end - begin)
            best = (math.ldexp(value, prepared.exponent), grid.first + begin + frequency, group)
    return best


def _phases(prepared: NativeTaps, grid: FrequencyGrid) -> Iterator[tuple[int, int, NumpyArray]]:
    """The phases as the core reads them, for some frequencies at a time, and which these are."""
    count = max(1, _PHASES // len(prepared.offsets) // _LANES) * _LANES
    for begin in range(0, len(grid), count):
        end = min(begin + count, len(grid))
        phases = grid.between(begin, end).phases(prepared.offsets)
        yield begin, end, phases.view(np.float64).reshape(*phases.shape, 2)


def singular_values_of_blocks(
    blocks: NumpyArray, *, instruction_set: str = "", sweeps: int | None = None, layout: int = 0
) -> tuple[NumpyArray, int]:
    """Of a stack of complex matrices, shape (B, r), and how many of them bisection had to finish."""
    blocks = np.ascontiguousarray(blocks)
    real = np.float32 if blocks.dtype == np.complex64 else np.float64
    side = min(blocks.shape[1:])
    values = np.empty((len(blocks), side), dtype=real)
    bisected = core.values_of_blocks(
        blocks.view(real).reshape(*blocks.shape, 2),
        values,
        instruction_set,
        _sweeps(side) if sweeps is None else sweeps,
        layout,
    )
    return values, bisected


def tests_grams() -> bool:
    """Whether `gram_test` is there: a core that was built from older sources does not have it."""
    return core is not None and hasattr(core, "test_gram")


def gram_test(
    coefficients: NumpyArray,
    phases: NumpyArray,
    first_cells: NumpyArray,
    level: float,
    steps: int,
    quotients: NumpyArray,
    below: NumpyArray,
    vectors: NumpyArray,
    *,
    instruction_set: str = "",
) -> None:
    """Whether Gram matrices have no eigenvalue above a level, and power iteration; see `gram.py`.

    Arguments:
        coefficients: shape (groups, side (side + 1) / 2, 1 + 2 waves), the side a multiple of four.
        phases: shape (cells, waves, 2).
        first_cells: shape (groups + 1,): from which cell to which each group goes.
        level, steps: as `Gram.test`.
        quotients, below, vectors: results, shapes (cells,), (cells,) of 8 bits, and (cells, side, 2): also
            where power iterations start.
        instruction_set: one of `instruction_sets()`; empty for the best.
    """
    core.test_gram(
        coefficients, phases, first_cells, level, steps, quotients, below, vectors, instruction_set
    )


class _Workspace(threading.local):
    """Memory that each thread keeps: fresh pages would cost as much as what is computed in them."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, dtype=np.uint8)

    def take(self, size: int) -> NumpyArray:
        if size > len(self._bytes):
            self._bytes = np.empty(size, dtype=np.uint8)
        return self._bytes[:size]


_workspace = _Workspace()


class Lowered(NamedTuple):
    """Blocks whose singular values were lowered.

    Attributes:
        blocks: `U max(sigma - level, 0) V^H`, shape (..., m, n).
        sums: of the lowered values, shape (...); NaN where the iteration did not end (none is known).
        tops: the largest singular value of each block before, shape (...).
    """

    blocks: Array
    sums: Array
    tops: Array


def lowered(
    prepared: NativeTaps,
    grid: FrequencyGrid,
    level: float,
    *,
    instruction_set: str = "",
    sweeps: int | None = None,
    layout: int = 0,
) -> Lowered:
    """The blocks of a grid with each singular value lowered by `level`; shapes begin with (F, groups).

    They lie in this thread's workspace, until its next call.
    """
    rows, columns = prepared.block_shape[::-1] if prepared.stacked else prepared.block_shape
    frequencies, real = len(grid), prepared.taps.dtype
    shape = (frequencies, prepared.groups, rows, columns, 2)
    found = _workspace.take(math.prod(shape) * real.itemsize).view(real).reshape(shape)
    stats = np.empty((frequencies, prepared.groups, 2))
    for begin, end, phases in _phases(prepared, grid):
        core.lowered_symbol(
            prepared.taps,
            prepared.taps_of_class,
            phases,
            *prepared.part_shape,
            prepared.stacked,
            math.ldexp(level, -prepared.exponent),
            found[begin:end],
            stats[begin:end],
            instruction_set,
            _sweeps(prepared.block_shape[1]) if sweeps is None else sweeps,
            layout,
        )
    if prepared.exponent:
        np.ldexp(found, prepared.exponent, out=found)
        np.ldexp(stats, prepared.exponent, out=stats)
    complex_dtype = np.complex64 if real == np.float32 else np.complex128
    return Lowered(found.view(complex_dtype)[..., 0], stats[..., 0], stats[..., 1])


def lowered_of_blocks(
    blocks: NumpyArray, level: float, *, instruction_set: str = "", sweeps: int | None = None, layout: int = 0
) -> Lowered:
    """The same of a stack of complex matrices, shape (B, m, n)."""
    blocks = np.ascontiguousarray(blocks)
    real = np.float32 if blocks.dtype == np.complex64 else np.float64
    found, stats = np.empty_like(blocks), np.empty((len(blocks), 2))
    core.lowered_blocks(
        blocks.view(real).reshape(*blocks.shape, 2),
        float(level),
        found.view(real).reshape(*blocks.shape, 2),
        stats,
        instruction_set,
        _sweeps(min(blocks.shape[1:])) if sweeps is None else sweeps,
        layout,
    )
    return Lowered(found, stats[..., 0], stats[..., 1])


def _sweeps(side: int) -> int:
    # Of dqds, 8 a value at most, where 4.5 are usual; then of implicit QR, where 2.5 are.
    return 40 * side + 100
