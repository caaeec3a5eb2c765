"""What rounding can do to a computed norm, so that a proven bound stays one in floating point."""

from __future__ import annotations

import math
from typing import Any

from .._compat import Array, in_range, is_concrete, is_jax, is_numpy, is_torch, namespace, untracked
from ..geometry import Correlation


def norm_error(kernel: Array, correlation: Correlation, norm: Array | None = None) -> Any:
    """How far a computed norm of a torus may be from the true one: absolute, in the kernel's precision.

        symbol_error + eps (2 max(m, n) + 64) (norm + symbol_error)

    It is a multiple of the taps' moduli, not of the norm: taps that cancel leave a norm that is little more
    than their rounding. The second term is that of the decomposition of `m x n` blocks, by any engine, and of
    the certificates that leave some out (1e-6 of the norm in float32, 1e-14 in float64).

    Arguments:
        kernel: as `spectrum.prepare` returns it, any scale.
        correlation: of the layer, on whatever torus.
        norm: as it was computed, if it is known: the bound is tighter with it.

    Returns:
        A float; while JAX traces, a scalar array.

    Reference: Higham (2002), sections 3.1 and 3.5; Golub and Van Loan (2013), 8.1 and 8.6.
    """
    eps = float(namespace(kernel).finfo(kernel.dtype).eps)
    rows, columns = _block_shape(correlation)
    moduli = _moduli(kernel, correlation)
    symbol = _symbol_error(moduli, kernel, correlation)
    if norm is not None:
        known = untracked(norm)
        moduli = float(known) if is_concrete(known) else known
    return symbol + eps * (2 * max(rows, columns) + 64) * (moduli + symbol)


def symbol_error(kernel: Array, correlation: Correlation) -> Any:
    """How far the blocks of a computed symbol may be from the true ones, in operator norm.

    An entry is a sum over the `T` taps of a polyphase class: with the roundings of products, sums and phases
    it is off by at most `(T + 16 D + 4) eps` times the sum of the moduli. So a block is by as much of the
    norm of the block of these sums, which is at most the root of its largest row sum times its largest
    column sum (Schur's test).
    """
    return _symbol_error(_moduli(kernel, correlation), kernel, correlation)


def _symbol_error(moduli: Any, kernel: Array, correlation: Correlation) -> Any:
    limits = namespace(kernel).finfo(kernel.dtype)
    taps, axes = math.prod(correlation.kernel_size), len(correlation.kernel_size)
    rows, columns = _block_shape(correlation)
    # Results below the normal numbers are rounded to multiples of the least one; JAX takes them for zero.
    flushed = float(limits.smallest_normal) * (1 if is_jax(kernel) else float(limits.eps))
    lost = flushed * (taps + 4) * math.sqrt(rows * columns)
    return float(limits.eps) * (taps + 16 * axes + 4) * moduli + lost


def _moduli(kernel: Array, correlation: Correlation) -> Any:
    """An upper bound of the norms of all blocks, whatever the signs."""
    xp, groups, (scaled, scale) = namespace(kernel), correlation.groups, in_range(untracked(kernel))
    rows, columns = correlation.out_channels // groups, correlation.in_channels // groups
    moduli = xp.abs(xp.reshape(scaled, (groups, rows, -1)))
    of_columns = xp.sum(xp.reshape(xp.sum(moduli, axis=1), (groups, columns, -1)), axis=-1)
    squares = xp.max(xp.max(xp.sum(moduli, axis=2), axis=1) * xp.max(of_columns, axis=1))
    generous = 1 + 1e-3  # sums of positive numbers, themselves rounded
    if is_concrete(squares):
        return math.sqrt(float(squares)) * generous * scale
    return xp.sqrt(squares) * generous * scale


def _block_shape(correlation: Correlation) -> tuple[int, int]:
    groups = correlation.groups
    return correlation.out_channels // groups, (
        correlation.in_channels // groups * math.prod(correlation.stride)
    )


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
