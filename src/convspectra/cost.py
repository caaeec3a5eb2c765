"""What an operator takes, estimated before memory is taken; what is absurd is refused with the estimate.

Seconds are of one core, by the native solver, at the rates of an AMD EPYC with AVX-512: measured for blocks
of 1 x 1 to 512 x 512, and within a factor of 2 of that. Rates are of double precision; where a function takes
the bytes of a number, single precision has half of the arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from .checks import check_limit
from .errors import CostError
from .geometry import Correlation

MEMORY = 3 * 2**29
"""Bytes that one operator may take beside its blocks, which have a limit of their own: see `max_memory`."""
_limit = ContextVar("max_memory", default=float(MEMORY))

_LARGEST_SIZE = 2**31
_MAX_CLASSES = 2**16

_FREQUENCY, _PHASE, _GROUP, _MULTIPLY_ADD = 2e-7, 1e-8, 1.5e-8, 3e-10
"""Seconds for a frequency, each of its taps, each of its blocks, and a multiplication in a decomposition."""

_READ, _PRODUCT = 6e-9, 1e-10
"""Seconds for an input entry that a tap reads, and for its product with one weight."""

_CALL, _EIGENVALUE, _ENTRY = 2e-4, 5e-10, 3e-10
"""Seconds for the calls of one application; of a Gram matrix, for its rows to the third power; and for an
entry of a matrix that is written down, through each weight."""

_COLUMN, _BAND = 1e-5, 1.7e-11
"""Seconds for a column of a banded matrix that is factorised in single precision, and for each entry of it
with each other."""

_TEST, _TEST_NUMBER, _FACTOR = 1e-5, 5e-7, 1e-10
"""Seconds for a Gram matrix at a frequency, or for a number, and for its rows to the third power and its
coefficients."""

_FIRST_TESTS = 16
"""Of each group, in a search over all frequencies, for a kernel of 3 x 3 taps."""

LAPACK, WITH_VECTORS = 10, 5
"""How much longer blocks take by LAPACK or another library than by the native solver; and with vectors."""

LARGEST_MATRIX = 1536
"""The smaller side of a matrix that is decomposed: some seconds, and tens of megabytes."""

_WINDOWS = 2**27
"""Bytes of windows that are laid side by side at once, and their products."""


@dataclass(frozen=True)
class Cost:
    """Of a computation, roughly.

    Attributes:
        seconds: of one core.
        memory: bytes, the most at any time.
        kept: bytes of its results.
    """

    seconds: float = 0.0
    memory: float = 0.0
    kept: float = 0.0

    def then(self, other: Cost) -> Cost:
        """Of both, one after the other."""
        return Cost(
            self.seconds + other.seconds, max(self.memory, other.memory + self.kept), self.kept + other.kept
        )

    def __str__(self) -> str:
        return f"about {self.seconds:,.0f} s of one core and {self.memory / 2**30:,.1f} GiB of memory"


@contextmanager
def max_memory(limit: float | None) -> Iterator[None]:
    """Another limit than `MEMORY` for each operator inside the block, as `numpy.errstate` is one.

    Arguments:
        limit: bytes; None for the limit as it is.

    Returns:
        A context manager; the limit holds in its block, in the thread that entered it.

    Raises:
        InputError: it is no positive number.

    Examples:
        >>> import convspectra as cs
        >>> import numpy as np
        >>> with cs.max_memory(8 * 2**30):
        ...     print(cs.operator_norm(np.ones((1, 1, 1, 1)), cs.ConvGeometry((4000, 4000))).upper)
        1.0
    """
    if limit is None:
        yield
        return
    token = _limit.set(allowed("max_memory", limit))
    try:
        yield
    finally:
        _limit.reset(token)


def allowed(name: str, limit: float) -> float:
    """A limit, which may be infinite.

    Raises:
        InputError: it is no positive number.
    """
    return limit if limit == math.inf else check_limit(name, limit)


def memory_limit() -> float:
    """Bytes that one operator may take here."""
    return _limit.get()


def of_torus(correlation: Correlation, period: Sequence[int], itemsize: int = 8) -> Cost:
    """Of all singular values on a torus whose symbol has this period, a part of which they take alone.

    Raises:
        CostError: its frequencies, blocks or singular values do not fit into `MEMORY`.
    """
    c, points = correlation, math.prod(period)
    rows, columns = _block_shape(c)
    frequencies = points // 2 + 1
    values = frequencies * c.groups * min(c.block_shape)
    # Frequencies with their mirror images, one block, and the values: in parts, joined, and in range again.
    memory = points * 24 * (1 + len(period)) + 16 * c.groups * rows * columns + 24 * values
    kept = 8 * (values + frequencies * (c.groups + len(period) + 1))
    return _checked(c.output_shape, Cost(seconds_of_blocks(c, frequencies, itemsize), memory, kept))


def seconds_of_blocks(correlation: Correlation, frequencies: float, itemsize: int = 8) -> float:
    """Of the singular values of the blocks at so many frequencies, by numbers of so many bytes."""
    rows, columns = _block_shape(correlation)
    each = _FREQUENCY + _PHASE * math.prod(correlation.kernel_size)
    arithmetic = _MULTIPLY_ADD * itemsize / 8 * rows * columns * (min(rows, columns) + 8)
    each += correlation.groups * (_GROUP + arithmetic)
    return frequencies * each


def of_search(correlation: Correlation, tests: float) -> Cost:
    """Of so many factorisations of Gram matrices, in the search for the largest norm over all frequencies."""
    c = correlation
    rows, columns = _block_shape(c)
    short, long = sorted((rows, columns))
    degrees = [
        d * (k - 1) // s // (d // math.gcd(d, s))
        for k, s, d in zip(c.kernel_size, c.stride, c.dilation, strict=True)
    ]
    waves = math.prod(2 * degree + 1 for degree in degrees) // 2
    entries = short * (short + 1) // 2
    # Every pair of taps has a product.
    pairs = 0.5 * math.prod((degree + 1) ** 2 for degree in degrees)
    making = _CALL + c.groups * _PRODUCT * pairs * short**2 * long
    each = (_TEST if short > 1 else _TEST_NUMBER) + _FACTOR * (short**3 + 4 * entries * (waves + 1))
    each += 2 * _PHASE * waves
    # The first cells, of which those of kernels that reach far are many.
    first = math.prod(max(1, 4 * degree) for degree in degrees) / 4
    # The groups that do not have the largest norm are soon settled.
    found = (tests + _FIRST_TESTS * (c.groups - 1)) * max(1.0, first / _FIRST_TESTS) if waves else c.groups
    return Cost(making + found * each, 16.0 * c.groups * entries * (2 * waves + 1))


def of_applications(correlation: Correlation, count: int) -> Cost:
    """Of applying a layer, or its adjoint, so many times to one vector.

    Raises:
        CostError: its input, padded, and output do not fit into `MEMORY`.
    """
    check_sizes(correlation)
    c = correlation
    padded = [n + sum(pad) for n, pad in zip(c.input_shape, c.padding, strict=True)]
    inputs, outputs = c.in_channels * math.prod(padded), c.out_channels * c.points
    reads = c.in_channels * math.prod(c.kernel_size) * c.points
    seconds = count * (_CALL + reads * (_READ + _PRODUCT * c.out_channels / c.groups))
    # A vector, padded and of length 1; its image in parts, joined, and squared. A packet is complex, twice.
    memory = max(32 * inputs, 24 * (inputs + outputs)) + 80 * c.points + min(24 * reads, _WINDOWS)
    return _checked(c.input_shape, Cost(seconds, memory))


def of_vectors(count: int, rows: int, columns: int) -> Cost:
    """Of so many vectors on either side of an operator.

    Raises:
        CostError: they do not fit into `MEMORY`.
    """
    return _checked((rows, columns), Cost(0.0, 8 * count * (rows + columns)))


def of_matrix(correlation: Correlation) -> Cost:
    """Of the largest singular value of the matrix of one group; infinite where it should not be tried."""
    c = correlation
    rows, columns = c.group_shape
    short, long = sorted((rows * c.points, columns * math.prod(c.input_shape)))
    if short > LARGEST_MATRIX:
        return Cost(math.inf, math.inf)
    applying = math.prod(c.kernel_size) * rows * columns * c.points
    seconds = _CALL + short**3 * _EIGENVALUE + short**2 * long * _PRODUCT + short * applying * _ENTRY
    return Cost(seconds, 24.0 * short * long)  # the matrix, its making and its Gram matrix


def of_factorisation(columns: int, half_width: int) -> Cost:
    """Of a Cholesky factorisation of a banded matrix, in single precision; in double about twice that."""
    return Cost(columns * (_COLUMN + _BAND * half_width**2), 8.0 * (half_width + 256) ** 2)


def check_sizes(correlation: Correlation) -> None:
    """Refuse sizes, strides and dilations beyond all indices.

    Raises:
        CostError: they are.
    """
    padding = [side for pair in correlation.padding for side in pair]
    sizes = (*correlation.input_shape, *correlation.output_shape, *correlation.reach, *padding)
    if max(sizes) >= _LARGEST_SIZE or math.prod(correlation.stride) > _MAX_CLASSES:
        raise CostError(
            f"an input of {by_axis(correlation.input_shape)} with stride {correlation.stride}, dilation "
            f"{correlation.dilation} and padding {correlation.padding} is beyond what can be computed; "
            "give the sizes, stride and dilation of the layer"
        )


def by_axis(sizes: Sequence[int]) -> str:
    """Sizes as one says them."""
    return " x ".join(map(str, sizes))


def classes_of(c: Correlation) -> int:
    """Polyphase components of the input that a tap reads."""
    axes = zip(c.kernel_size, c.stride, c.dilation, strict=True)
    return math.prod(min(k, s // math.gcd(s, d)) for k, s, d in axes)


def _block_shape(c: Correlation) -> tuple[int, int]:
    """Of one group, without the columns that no tap reads."""
    rows, columns = c.group_shape
    return rows, columns * classes_of(c)


def _checked(shape: Sequence[int], cost: Cost) -> Cost:
    if cost.memory > memory_limit():
        raise CostError(
            f"a map of {by_axis(shape)} points takes {cost}; max_memory is "
            f"{memory_limit() / 2**30:,.1f} GiB: raise it, give a smaller input shape, or take the bound for "
            "any size"
        )
    return cost
