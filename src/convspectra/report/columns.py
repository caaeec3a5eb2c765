"""The columns of the tables of layers, in a terminal and on a page: each is told once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..analysis import LayerReport
from ..results import Bound
from .numbers import at_most, estimate, interval, one_or_all, sizes
from .terminal import printable

Key = float | str | None


@dataclass(frozen=True)
class Column:
    """One column: its title, what it shows of a row's record, and its drop priority (largest first).

    A page sorts its rows by `key`, None last; numbers stand on the `right`.
    """

    title: str
    cell: Callable[[Any], str]
    drop_priority: int = 0
    right: bool = True
    key: Callable[[Any], Key] = lambda row: None


def options(layer: LayerReport) -> str:
    """Stride, dilation and groups where they are not 1."""
    found = []
    for letter, values in (("s", layer.stride), ("d", layer.dilation)):
        if values is not None and set(values) != {1}:
            found.append(letter + one_or_all(values))
    if layer.groups not in (None, 1):
        found.append(f"g{layer.groups}")
    return " ".join(found)


def _word(title: str, get: Callable[[LayerReport], str]) -> Column:
    return Column(title, lambda layer: printable(get(layer)), right=False, key=get)


def _known(
    title: str, get: Callable[[LayerReport], Any], text: Callable[[Any], str], key: Callable[[Any], Key] = max
) -> Column:
    """A column of a fact of a layer's geometry, `?` where it is unknown."""

    def order(layer: LayerReport) -> Key:
        return None if get(layer) is None else key(get(layer))

    return Column(title, lambda layer: "?" if get(layer) is None else text(get(layer)), key=order)


def _torus(title: str, name: str) -> Column:
    """A column of a number of the spectrum, with its error where it is an estimate."""

    def text(layer: LayerReport) -> str:
        torus = layer.torus
        return "-" if torus is None else estimate(getattr(torus, name), torus.ranges.get(name))

    def value(layer: LayerReport) -> Any:
        return None if layer.torus is None else getattr(layer.torus, name)

    def order(layer: LayerReport) -> Key:
        # JSON has no infinity: the largest number sorts in its place.
        return None if layer.torus is None else min(value(layer), 1e308)

    return Column(title, text, key=order)


def _bound(
    title: str, get: Callable[[LayerReport], Bound | None], text: Callable[[Bound | None], str]
) -> Column:
    def order(layer: LayerReport) -> Key:
        bound = get(layer)
        return None if bound is None else bound.upper

    return Column(title, lambda layer: text(get(layer)), key=order)


def _rank(layer: LayerReport) -> str:
    if layer.torus is None:
        return "-"
    low, high = layer.torus.ranges.get("rank", (layer.torus.rank,) * 2)
    return f"{'>= ' if low < high else ''}{int(low)}/{layer.torus.count}"


_ALL = (
    _word("layer", lambda layer: layer.name),
    _word("kind", lambda layer: layer.kind),
    _known("kernel", lambda layer: layer.kernel_shape, sizes, math.prod),
    _known("input", lambda layer: layer.input_shape, sizes, math.prod),
    Column("options", options, right=False),
    _known("stride", lambda layer: layer.stride, one_or_all),
    _known("dilation", lambda layer: layer.dilation, one_or_all),
    _known("groups", lambda layer: layer.groups, str, int),
    _torus("norm", "norm"),
    _bound("own padding", lambda layer: layer.as_padded, interval),
    _bound("any size", lambda layer: layer.any_size, at_most),
    _torus("smallest", "smallest"),
    _torus("condition", "condition_number"),
    _torus("eff. rank", "effective_rank"),
    _torus("stable rank", "stable_rank"),
    replace(_torus("rank", "rank"), cell=_rank),
    _word("status", lambda layer: layer.status),
)
_BY_TITLE = {column.title: column for column in _ALL}

BOUNDS = ("own padding", "any size")
"""Titles of columns that are empty where no bounds were asked for."""

PAGE = tuple(column for column in _ALL if column.title != "options")


def chosen(priorities: Mapping[str, int]) -> tuple[Column, ...]:
    """Columns of a layer by their titles, in this order and with these drop priorities."""
    return tuple(replace(_BY_TITLE[title], drop_priority=priority) for title, priority in priorities.items())
