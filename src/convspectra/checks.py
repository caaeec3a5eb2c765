"""Words and numbers that callers give: every message names the argument, what was expected and what came."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Sequence
from typing import Any

from .errors import InputError


def check_word(name: str, value: object, words: Sequence[str], error: type[InputError] = InputError) -> None:
    """Raise the error of a word that is none of these."""
    if not isinstance(value, str) or value not in words:
        raise error(f"{name} must be one of {', '.join(words)}; got {value!r}")


def check_kind(name: str, value: object, kind: type, made_by: str) -> None:
    """Raise the InputError of what is no record of a kind, as a path in its place."""
    if not isinstance(value, kind):
        raise InputError(f"{name} must be what {made_by} returns; got {type(value).__name__}")


def check_count(name: str, value: Any, least: int = 1, most: int | None = None) -> None:
    """Raise the InputError of what is no integer in this range."""
    try:
        fits = not isinstance(value, bool) and least <= operator.index(value) <= (most or math.inf)
    except TypeError:
        fits = False
    if not fits:
        limit = f"between {least} and {most}" if most else f"of at least {least}"
        raise InputError(f"{name} must be an integer {limit}; got {value!r}")


def check_exponent(p: Any) -> None:
    """Raise the InputError of what is no number of at least 1; infinity is one."""
    if isinstance(p, bool) or not isinstance(p, numbers.Real) or not float(p) >= 1:
        raise InputError(f"p must be at least 1 for a norm; got {p!r}")


def check_limit(name: str, value: Any) -> float:
    """`value` as a float, if it is a positive and finite number.

    Raises:
        InputError: it is not.
    """
    try:
        number = math.nan if isinstance(value, (str, bytes, bool)) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise InputError(f"{name} must be positive and finite; got {value!r}")
    return number
