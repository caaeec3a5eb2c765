"""Two models side by side as one page, that of one model with both in each figure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from ..analysis import Comparison, LayerComparison, Report
from .compare_text import COLUMNS, sides, summary
from .figures import colour, curves, frequency_maps, norms
from .html import curve_data, filled_page, map_data, short, wrapped_norm
from .terminal import printable
from .text import not_read, uncertain

_WORSE = ("ok", "partial", "skipped", "out of range", "failed")


def write(comparison: Comparison, file: BinaryIO) -> None:
    """Write the page, UTF-8."""
    file.write(render(comparison).encode("utf-8", "backslashreplace"))


def render(comparison: Comparison) -> str:
    """The page as text."""
    models = (("Before", comparison.before), ("After", comparison.after))
    return filled_page(
        page_data(comparison),
        title=f"Singular values of {comparison.before.model} and {comparison.after.model}",
        summary=summary(comparison).replace("->", "→"),
        notes=[
            f"{word.lower()}: {note}"
            for word, report in models
            for note in (*uncertain(report.layers), *not_read(report.unread), *report.notes)
        ],
        models=models,
        curves=" Dashed before, solid after.",
        own_norm=" in the same model",
        norms=', after <span class="key outline"></span> the same before',
    )


def page_data(comparison: Comparison) -> dict[str, Any]:
    """What the page's script draws: one entry a layer, two curves and two maps."""
    last = max(1, len(comparison.layers) - 1)
    return {
        "layers": [_layer(layer, index / last) for index, layer in enumerate(comparison.layers)],
        "columns": [
            {"title": "layer", "numeric": False},
            *({"title": column.title or "in", "numeric": column.right} for column in COLUMNS),
        ],
        "curves": [
            {**curve_data(curve), **place(curve.layer)}
            for report, place in _sides(comparison)
            for curve in curves(report)
        ],
        "maps": sorted(
            (
                {**map_data(one), **place(one.layer)}
                for report, place in _sides(comparison)
                for one in frequency_maps(report)
            ),
            key=lambda one: int(one["layer"]),
        ),
    }


def _sides(comparison: Comparison) -> Iterator[tuple[Report, Callable[[int], dict[str, Any]]]]:
    """Each report, and what says where one of its layers stands in the comparison."""
    row = {layer.name: index for index, layer in enumerate(comparison.layers)}
    for when, report in (("before", comparison.before), ("after", comparison.after)):

        def place(index: int, when: str = when, report: Report = report) -> dict[str, Any]:
            return {"layer": row[report.layers[index].name], "when": when}

        yield report, place


def _layer(layer: LayerComparison, place: float) -> dict[str, Any]:
    found = sides(layer)
    before, after = layer.before, layer.after
    torus = None if before is None else before.torus
    reasons = dict.fromkeys(one.reason for one in found if one.status != "ok")
    worst = max(found, key=lambda one: _WORSE.index(one.status))
    return {
        "name": printable(layer.name),
        "light": colour(place),
        "dark": colour(place, dark=True),
        "norms": [short(value) for value in (norms(after) if after else (None,) * 4)],
        "wrapped": wrapped_norm(after),
        "wrapped_before": wrapped_norm(before),
        "before": None if torus is None else short(torus.norm),
        "exact": after is not None and after.as_padded is not None and after.as_padded.exact,
        "cells": [
            [printable(layer.name), layer.name],
            *([column.cell(layer).replace("->", "→"), column.key(layer)] for column in COLUMNS),
        ],
        "status": worst.status,
        "reason": printable("; ".join(reasons)),
        "assumed": sorted({field for one in found for field in one.assumed}),
    }
