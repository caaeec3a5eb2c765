"""Numbers as text, bounds rounded to the side on which they stay true."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context

from ..results import Bound

DIGITS = 4
"""Significant digits in tables."""


def number(value: float | None, rounding: str = ROUND_HALF_EVEN) -> str:
    """A number to `DIGITS` significant digits; `-` for None."""
    if value is None:
        return "-"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    rounded = float(Context(prec=DIGITS, rounding=rounding).create_decimal(value))
    return f"{rounded:.{DIGITS}g}"


def estimate(value: float, known: tuple[float, float] | None) -> str:
    """A number that is known exactly, or as `2.1 ±0.03`, `>= 2` or `<= 0.01` by a proven interval.

    The error is that of the number as it is shown, rounded up.
    """
    if known is None:
        return number(value)
    low, high = known
    if math.isinf(high):
        return f">= {lower(low)}"
    if low <= 0:
        return f"<= {upper(high)}"
    shown = float(number(value))
    error = Context(prec=2, rounding=ROUND_CEILING).create_decimal(max(high - shown, shown - low, 0.0))
    return f"{number(value)} ±{float(error):g}"


def counted(number: int, noun: str) -> str:
    """`1 layer`, `2 layers`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def percent(part: float | None, rounding: str = ROUND_HALF_EVEN) -> str:
    """A part of 1 as a percentage to two significant digits; `-` for None."""
    if part is None or not math.isfinite(part):
        return number(part)
    rounded = float(Context(prec=2, rounding=rounding).create_decimal(100 * part))
    return f"{rounded:g} %"


def lower(value: float | None) -> str:
    """A lower bound, rounded down."""
    return number(value, ROUND_FLOOR)


def upper(value: float | None) -> str:
    """An upper bound, rounded up."""
    return number(value, ROUND_CEILING)


def interval(bound: Bound | None) -> str:
    """A bound as text: `= 2.1` when exact, else `[lower, upper]`, `<= upper` or `>= lower`."""
    if bound is None:
        return "-"
    if bound.exact:
        return f"= {number(bound.upper)}"
    if bound.lower is None:
        return f"<= {upper(bound.upper)}"
    if bound.upper is None:
        return f">= {lower(bound.lower)}"
    return f"[{lower(bound.lower)}, {upper(bound.upper)}]"


def at_most(bound: Bound | None) -> str:
    """The upper side of a bound; rounded up unless it is exact."""
    if bound is None:
        return "-"
    return number(bound.upper) if bound.exact else upper(bound.upper)


def sizes(values: Sequence[int] | None) -> str:
    """`(3, 224)` as `3x224`; `?` for None."""
    return "?" if values is None else "x".join(map(str, values))


def one_or_all(values: Sequence[int]) -> str:
    """`(2, 2)` as `2`, `(1, 2)` as `1x2`."""
    return str(values[0]) if len(set(values)) == 1 else sizes(values)
