"""What rounding can do to a computed norm, so that a proven bound stays one in floating point."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from ._compat import (
    Array,
    eps_of,
    in_range_again,
    is_concrete,
    is_jax,
    is_numpy,
    is_torch,
    namespace,
    to_numpy,
    untracked,
)
from .geometry import Correlation
from .results import Bound

Moduli = tuple[Any, Any]
"""What `moduli` gives of a kernel in range, and the power of two that it was divided by."""


def norm_error(kernel: Array, correlation: Correlation, known: Moduli, norm: Array | None = None) -> Any:
    """How far a computed norm of a torus may be from the true one: absolute, in the kernel's precision.

        symbol_error + eps (2 max(m, n) + 64) (norm + symbol_error)

    It is a multiple of the taps' moduli, not of the norm: taps that cancel leave a norm that is little more
    than their rounding. The second term is that of the decomposition of `m x n` blocks, by any engine, and of
    the certificates that leave some out (1e-6 of the norm in float32, 1e-14 in float64).

    Arguments:
        kernel: axes in the order of `Correlation`, any scale.
        correlation: of the layer, on whatever torus.
        known: the `moduli` of the kernel.
        norm: as it was computed, if it is known: the bound is tighter with it.

    Returns:
        A float; while JAX traces, a scalar array.

    References:
        Higham (2002), sections 3.1 and 3.5; Golub and Van Loan (2013), 8.1 and 8.6.
    """
    size, power = known
    symbol = _symbol_error(size, kernel, correlation)
    if norm is not None:
        value = untracked(norm)
        size = (float(value) if is_concrete(value) else value) / power
    relative = symbol + eps_of(kernel) * (2 * max(correlation.block_shape) + 64) * (size + symbol)
    return relative * power + _lost(size, kernel, correlation)


def symbol_error(kernel: Array, correlation: Correlation, known: Moduli) -> Any:
    """How far the blocks of a computed symbol may be from the true ones, in operator norm.

    An entry is a sum over the `T` taps of a polyphase class: with the roundings of products, sums and phases
    it is off by at most `(T + 16 D + 4) eps` times the sum of the moduli. So a block is by as much of the
    norm of the block of these sums, which is at most the root of its largest row sum times its largest
    column sum (Schur's test).

    Arguments:
        kernel: axes in the order of `Correlation`, any scale.
        correlation: of the layer, on whatever torus.
        known: the `moduli` of the kernel.

    Returns:
        A float; while JAX traces, a scalar array.
    """
    size, power = known
    return _symbol_error(size, kernel, correlation) * power + _lost(size, kernel, correlation)


def _symbol_error(size: Any, kernel: Array, correlation: Correlation) -> Any:
    """In units of that power."""
    taps, axes = math.prod(correlation.kernel_size), len(correlation.kernel_size)
    return eps_of(kernel) * (taps + 16 * axes + 4) * size


def _lost(size: Any, kernel: Array, correlation: Correlation) -> Any:
    """What results below the normal numbers may have lost; see `_flushed`."""
    given = untracked(kernel)
    if is_concrete(given) and size == 0 and not to_numpy(given).any():
        return 0.0
    taps = math.prod(correlation.kernel_size)
    lost = _flushed(kernel) * (taps + 4) * math.sqrt(math.prod(correlation.block_shape))
    return lost if is_concrete(size) else namespace(kernel).where(size > 0, lost, 0 * size)


def moduli(kernel: Array, correlation: Correlation) -> Any:
    """An upper bound of the norms of all blocks of a kernel in range, whatever the signs."""
    xp, groups, (rows, columns) = namespace(kernel), correlation.groups, correlation.group_shape
    entries = xp.abs(xp.reshape(untracked(kernel), (groups, rows, -1)))
    of_columns = xp.sum(xp.reshape(xp.sum(entries, axis=1), (groups, columns, -1)), axis=-1)
    squares = xp.max(xp.max(xp.sum(entries, axis=2), axis=1) * xp.max(of_columns, axis=1))
    size = math.sqrt(float(squares)) if is_concrete(squares) else xp.sqrt(squares)
    return size * (1 + 1e-3)  # sums of positive numbers, themselves rounded


EXACT = {"float32": 1e-3, "float64": 1e-9}
"""Norms are called exact whose error is at most this, relative to them."""


def around(norm: Array, error: Any, method: str, assumes: str = "") -> Bound:
    """What is known of a norm that was computed with this absolute error.

    The norm itself where the error is small beside it; else, as where taps cancel, or while JAX traces, when
    that cannot be told, an interval.
    """
    if is_concrete(norm) and float(error) <= _exact(norm) * float(untracked(norm)):
        return Bound(norm, norm, method=method, exact=True, assumes=assumes)
    return Bound(less(norm, error), norm + error, method=method, assumes=assumes)


def _exact(norm: Array) -> float:
    """The half of `EXACT` that a computation may use up: the other is for scaling its result (`times`)."""
    return EXACT["float64" if eps_of(norm) < 1e-9 else "float32"] / 2


def less(value: Array, error: Any) -> Array:
    """A lower bound of a number of at least 0 that was computed with this error."""
    return namespace(value).where(value > error, value - error, 0 * value)


def times(bound: Bound, power: Any) -> Bound:
    """A bound of a kernel in range, times what `in_range` gave."""
    if not isinstance(power, float):  # a traced bound is no exact one
        step = 1 + 4 * eps_of(power)
        lower = None if bound.lower is None else bound.lower * power / step
        return replace(bound, lower=lower, upper=None if bound.upper is None else bound.upper * power * step)
    if power == 1:
        return bound
    if bound.exact and bool(bound.lower == bound.upper):
        norm, lost = _scaled(bound.upper, power)
        own = _exact(norm) * float(untracked(norm))
        return around(norm, lost if lost <= own else lost + own, bound.method, bound.assumes)
    lower = None if bound.lower is None else less(*_scaled(bound.lower, power))
    upper = None if bound.upper is None else sum(_scaled(bound.upper, power))
    near = lower is not None and upper is not None and bool(upper - lower <= 2 * _exact(upper) * upper)
    return replace(bound, lower=lower, upper=upper, exact=bound.exact and near)


def _scaled(value: Array, power: float) -> tuple[Array, float]:
    """A value of at least 0 times a power of two, and how far that may be off: below the normal numbers."""
    found, given = in_range_again(value, power), float(untracked(value))
    smallest = float(namespace(value).finfo(value.dtype).smallest_normal)
    lost = 0.0 if given <= 0 or given * power >= 2 * smallest else _flushed(value)
    return found, lost


def _flushed(array: Array) -> float:
    """What results below the normal numbers are rounded to multiples of; JAX takes them for zero."""
    smallest = float(namespace(array).finfo(array.dtype).smallest_normal)
    return smallest * (1 if is_jax(array) else eps_of(array))


def matrix_allowance(array: Array, rows: int, columns: int) -> float:
    """A factor slightly above 1: the computed norm of a given matrix, from its Gram matrix, times it is at
    least the true one, and divided by it at most that.

    A product of `rows x columns` carries an error of at most `columns eps / 2` times the square of the
    Frobenius norm, that is `rows columns eps / 2` times that of the norm.
    """
    return 1 + eps_of(array) * (rows * columns + 16 * max(rows, columns) + 64)


def widened(kernel: Array) -> Array:
    """A kernel in double precision, so that no bound is lost to long products in single precision.

    As it is where the library or device has no other.
    """
    return namespace(kernel).astype(kernel, namespace(kernel).float64) if _has_doubles(kernel) else kernel


def rounded_up(value: Array, slack: float, kernel: Array) -> Array:
    """`value * slack` in the precision of the kernel, not below it."""
    return namespace(kernel).astype(value * _with_rounding(slack, value, kernel), kernel.dtype)


def rounded_down(value: Array, slack: float, kernel: Array) -> Array:
    """`value / slack` in the precision of the kernel, not above it."""
    return namespace(kernel).astype(value / _with_rounding(slack, value, kernel), kernel.dtype)


def _with_rounding(slack: float, value: Array, kernel: Array) -> float:
    return slack if value.dtype == kernel.dtype else slack * (1 + 2 * eps_of(kernel))


def root(value: Array) -> Array:
    """The square root, with derivative zero at zero instead of none."""
    xp = namespace(value)
    positive = value > 0
    return xp.where(positive, xp.sqrt(xp.where(positive, value, 1 + 0 * value)), 0 * value)


def unit(array: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """An array divided by its Euclidean norm over its last axes, by 1 where that is 0, and what it was."""
    xp = namespace(array)
    size = length(array, axes)
    size = xp.where(size > 0, size, 1 + size)
    return array / xp.astype(size, array.dtype)[(..., *(None for _ in axes))], size


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
