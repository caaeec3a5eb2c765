"""Tori that hold a zero-padded correlation."""

from __future__ import annotations

from ..geometry import Correlation


def enclosing_tori(correlation: Correlation, sizes: int) -> list[Correlation]:
    """The smallest torus that holds a zero-padded correlation, and the next larger ones.

    `N >= max(n + a, s (n_out - 1) + 1 + d (k - 1) - a)` points, a multiple of `s`: then every read
    that wraps falls on a point beyond the input.
    """
    smallest = []
    for n, outputs, s, reach, (before, _) in zip(
        correlation.input_shape,
        correlation.output_shape,
        correlation.stride,
        correlation.reach,
        correlation.padding,
        strict=True,
    ):
        points = max(n + before, s * (outputs - 1) + 1 + reach - before)
        smallest.append(-(-points // s))
    return [correlation.embedded([m + more for m in smallest]) for more in range(max(1, sizes))]
