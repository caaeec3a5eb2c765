"""Zero-padded convolutions as they run: matrix-free, NumPy, any geometry.

The operator reads a padded copy of its input through one window a tap; its adjoint adds into those
windows and drops the padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .geometry import Correlation

NumpyArray = np.ndarray[Any, Any]


def apply(kernel: NumpyArray, correlation: Correlation, x: NumpyArray) -> NumpyArray:
    """`y[o, r] = sum_{i,p} W[o, i, p] x[i, s r + d p - a]`, zeros beyond the input.

    Arguments:
        kernel: axes in the order of `Correlation`, one group.
        x: shape (in_channels, *input_shape), real or complex.

    Returns:
        Shape (out_channels, *output_shape).
    """
    padded = np.zeros((len(x), *_padded_shape(correlation)), dtype=x.dtype)
    padded[_interior(correlation)] = x
    y = np.zeros((correlation.out_channels, *correlation.output_shape), dtype=x.dtype)
    for tap, window in _windows(correlation):
        y += np.tensordot(kernel[tap], padded[window], axes=1)
    return y


def adjoint(kernel: NumpyArray, correlation: Correlation, y: NumpyArray) -> NumpyArray:
    """The adjoint of `apply`: shape (out_channels, *output_shape) to (in_channels, *input_shape)."""
    padded = np.zeros((correlation.in_channels, *_padded_shape(correlation)), dtype=y.dtype)
    for tap, window in _windows(correlation):
        padded[window] += np.tensordot(kernel[tap].T, y, axes=1)
    return padded[_interior(correlation)]


def _padded_shape(correlation: Correlation) -> list[int]:
    return [
        max(n + before + after, s * (outputs - 1) + reach + 1)
        for n, (before, after), s, outputs, reach in zip(
            correlation.input_shape,
            correlation.padding,
            correlation.stride,
            correlation.output_shape,
            correlation.reach,
            strict=True,
        )
    ]


def _interior(correlation: Correlation) -> tuple[slice, ...]:
    sides = zip(correlation.input_shape, correlation.padding, strict=True)
    return (slice(None), *(slice(before, before + n) for n, (before, _) in sides))


def _windows(correlation: Correlation) -> Iterator[tuple[tuple[Any, ...], tuple[slice, ...]]]:
    """For each tap its index into the kernel, and what the outputs read through it."""
    axes = list(zip(correlation.dilation, correlation.stride, correlation.output_shape, strict=True))
    for p in np.ndindex(*correlation.kernel_size):
        window = [slice(d * q, d * q + s * (m - 1) + 1, s) for q, (d, s, m) in zip(p, axes, strict=True)]
        yield (slice(None), slice(None), *p), (slice(None), *window)
