"""What rounding can do to a computed norm, so that a proven bound stays one in floating point."""

from __future__ import annotations

import math

from .._compat import Array, namespace
from ..geometry import Correlation


def allowance(kernel: Array, correlation: Correlation) -> float:
    """A factor slightly above 1: the computed norm of a block times it is at least the true one.

    A block is a sum over `T` taps, whose entries carry errors of `(T + 4) eps` times the sum of the
    taps' moduli, in norm at most `sqrt(T)` times the Frobenius norm that a block can have; the
    eigenvalue solver adds a few `max(m, n) eps`. The constants are generous, as the result is still
    within 1e-4 (float32) and 1e-13 (float64) for kernels of common sizes.
    """
    eps = float(namespace(kernel).finfo(kernel.dtype).eps)
    rows = correlation.out_channels // correlation.groups
    columns = correlation.in_channels // correlation.groups * math.prod(correlation.stride)
    taps = math.prod(correlation.kernel_size)
    side = min(rows, columns)
    return 1 + eps * ((taps + 4) * math.sqrt(taps * side) + 8 * max(rows, columns))
