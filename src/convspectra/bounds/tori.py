"""Tori that hold a correlation: circulant operators of which it is a part, so that they bound it."""

from __future__ import annotations

from ..errors import GeometryError
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


def holding_tori(method: str, correlation: Correlation, sizes: int) -> list[Correlation]:
    """Tori on which the operator is circulant, or of whose circulant operators it is a part.

    The operator's own where it is circulant; with a wrapped boundary and fewer outputs than the torus
    has, that torus; with zero or no padding those of `enclosing_tori`.

    Raises:
        GeometryError: as `refuse_repeated_inputs`.
    """
    refuse_repeated_inputs(method, correlation)
    if correlation.is_circulant:
        return [correlation]
    if correlation.padding_mode == "circular" and any(map(any, correlation.padding)):
        sides = zip(correlation.input_shape, correlation.stride, strict=True)
        return [correlation.embedded([n // s for n, s in sides])]
    return enclosing_tori(correlation, sizes)


def repeats_inputs(correlation: Correlation) -> bool:
    """Whether padding copies the input otherwise than around a torus: `sup ||S||` is no bound then.

    By reflection, by replication, or by wrapping it further than once around.
    """
    if correlation.padding_mode == "zeros" or not any(map(any, correlation.padding)):
        return False
    sides = zip(correlation.input_shape, correlation.output_shape, correlation.stride, strict=True)
    return correlation.padding_mode != "circular" or any(n % s or m * s > n for n, m, s in sides)


def refuse_repeated_inputs(method: str, correlation: Correlation) -> None:
    """Raise the GeometryError of a method that is about symbols, where padding repeats the input."""
    if not repeats_inputs(correlation):
        return
    raise GeometryError(
        f"bounds.{method} is about zero, no or circular padding with at most input_shape / stride outputs; "
        f"this layer pads {correlation.input_shape} with {correlation.padding_mode} {correlation.padding} at "
        f"stride {correlation.stride}: use bounds.copy_count, bounds.holder or bounds.frobenius, which take "
        "any padding"
    )
