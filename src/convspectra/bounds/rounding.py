"""What rounding can do to a computed norm, so that a proven bound stays one in floating point."""

from __future__ import annotations

import math

from .._compat import Array, is_numpy, is_torch, namespace
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


def matrix_allowance(array: Array, rows: int, columns: int) -> float:
    """The same for the norm of a given matrix, from its Gram matrix.

    A product of `rows x columns` carries an error of at most `columns eps / 2` times the square of the
    Frobenius norm, that is `rows columns eps / 2` times that of the norm.
    """
    eps = float(namespace(array).finfo(array.dtype).eps)
    return 1 + eps * (rows * columns + 16 * max(rows, columns) + 64)


def near_one(kernel: Array) -> tuple[Array, Array]:
    """A kernel in double precision, divided by its largest entry in modulus, and that entry (or 1).

    What is proven by products of entries must not lose them to underflow, nor a bound to the rounding of
    long products in single precision. Precision stays what it is where the library or device has no other.
    """
    xp = namespace(kernel)
    wide = xp.astype(kernel, xp.float64) if _has_doubles(kernel) else kernel
    scale = xp.max(xp.abs(wide))
    scale = xp.where(scale > 0, scale, 1 + scale)
    return wide / scale, scale


def rounded_up(value: Array, slack: float, kernel: Array) -> Array:
    """`value * slack` in the precision of the kernel, not below it."""
    xp = namespace(kernel)
    if value.dtype != kernel.dtype:
        slack *= 1 + 2 * float(xp.finfo(kernel.dtype).eps)
    return xp.astype(value * slack, kernel.dtype)


def rounded_down(value: Array, slack: float, kernel: Array) -> Array:
    """`value / slack` in the precision of the kernel, not above it."""
    xp = namespace(kernel)
    if value.dtype != kernel.dtype:
        slack *= 1 + 2 * float(xp.finfo(kernel.dtype).eps)
    return xp.astype(value / slack, kernel.dtype)


def root(value: Array) -> Array:
    """The square root, with derivative zero at zero instead of none."""
    xp = namespace(value)
    positive = value > 0
    return xp.where(positive, xp.sqrt(xp.where(positive, value, 1 + 0 * value)), 0 * value)


def length(array: Array, axes: tuple[int, ...]) -> Array:
    """The Euclidean norm over these axes, with derivative zero at zero in every library."""
    xp = namespace(array)
    if xp.isdtype(array.dtype, "complex floating"):
        squares = xp.real(array) ** 2 + xp.imag(array) ** 2
    else:
        squares = array**2
    return root(xp.sum(squares, axis=axes))


def _has_doubles(kernel: Array) -> bool:
    # JAX has them by a global switch, some accelerators never.
    return is_numpy(kernel) or (is_torch(kernel) and kernel.device.type in ("cpu", "cuda"))
