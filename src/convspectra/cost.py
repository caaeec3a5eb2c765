"""What an operator takes, estimated before memory is taken; what is absurd is refused with the estimate."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .errors import CostError
from .geometry import Correlation

MEMORY = 3 * 2**29
"""Bytes that one operator may take beside its blocks, which have a limit of their own."""

_LARGEST_SIZE = 2**31
_MAX_CLASSES = 2**16
_PER_SECOND = 1e9


def check_sizes(correlation: Correlation) -> None:
    """Refuse sizes, strides and dilations beyond all indices.

    Raises:
        CostError: they are.
    """
    padding = [side for pair in correlation.padding for side in pair]
    sizes = (*correlation.input_shape, *correlation.output_shape, *correlation.reach, *padding)
    if max(sizes) >= _LARGEST_SIZE or math.prod(correlation.stride) > _MAX_CLASSES:
        raise CostError(
            f"an input of {_shape(correlation.input_shape)} with stride {correlation.stride}, dilation "
            f"{correlation.dilation} and padding {correlation.padding} is beyond what can be computed; "
            "give the sizes, stride and dilation of the layer"
        )


def check_grid(correlation: Correlation, period: Sequence[int], block_shape: tuple[int, int]) -> None:
    """Refuse a torus whose frequencies, blocks or singular values do not fit.

    Raises:
        CostError: they do not.
    """
    rows, columns = block_shape
    points = math.prod(period)
    blocks = points / 2 * correlation.groups
    # Frequencies with their mirror images, all singular values and one block.
    needed = points * 24 * (1 + len(period)) + blocks * min(block_shape) * 8
    needed += correlation.groups * rows * columns * 16
    _check(correlation.output_shape, needed, blocks * rows * columns * (min(block_shape) + 8))


def check_vectors(correlation: Correlation) -> None:
    """Refuse an operator whose input, padded, and output do not fit.

    Raises:
        CostError: they do not.
    """
    check_sizes(correlation)
    padded = [n + sum(pad) for n, pad in zip(correlation.input_shape, correlation.padding, strict=True)]
    entries = correlation.in_channels * math.prod(padded)
    entries += correlation.out_channels * math.prod(correlation.output_shape)
    _check(correlation.input_shape, entries * 32, entries * math.prod(correlation.kernel_size) * 1000)


def _check(shape: tuple[int, ...], needed: float, work: float) -> None:
    if needed > MEMORY:
        raise CostError(
            f"a map of {_shape(shape)} points takes about {needed / 2**30:,.1f} GiB of memory and "
            f"{work / _PER_SECOND:,.0f} s; the limit is {MEMORY / 2**30:.1f} GiB: give a smaller input "
            "shape, or take the bound for any size"
        )


def _shape(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))
