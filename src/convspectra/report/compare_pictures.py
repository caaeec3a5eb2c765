"""The figures of two models side by side: before dashed, after solid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..analysis import Comparison, LayerComparison
from .compare_text import sides
from .figures import Curve, colour, curves
from .numbers import upper
from .pictures import canvas, name_ticks, write_figures

_COLUMNS, _ROWS = 6, 8


def write_pictures(comparison: Comparison, folder: Path, suffix: str) -> Iterator[Path]:
    """Write `spectra` (a panel for each layer; `spectra-2`, ... beyond 48 of them) and `norms`."""
    panels = _panels(comparison)
    pages = [panels[start : start + _COLUMNS * _ROWS] for start in range(0, len(panels), _COLUMNS * _ROWS)]
    figures = {
        f"spectra{f'-{number}' if number > 1 else ''}": partial(_spectra, page)
        for number, page in enumerate(pages, start=1)
    }
    return write_figures({**figures, "norms": partial(_norms, comparison)}, folder, suffix)


def _panels(comparison: Comparison) -> list[tuple[str, str, dict[str, Curve]]]:
    """Name, colour and curves by side of each layer that has a spectrum."""
    found: dict[str, dict[str, Curve]] = {layer.name: {} for layer in comparison.layers}
    for when, report in (("before", comparison.before), ("after", comparison.after)):
        for curve in curves(report):
            found[report.layers[curve.layer].name][when] = curve
    last = max(1, len(found) - 1)
    named = enumerate(found.items())
    return [(name, colour(index / last), sides) for index, (name, sides) in named if sides]


def _spectra(panels: Sequence[tuple[str, str, dict[str, Curve]]]) -> Any:
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    # One inch more holds the labels of a figure of few panels.
    figure, grid = canvas(1.25 * columns + 1, 1.15 * rows + 0.5, rows, columns)
    axes = grid.ravel() if len(panels) > 1 else [grid]
    for place, (name, shade, curves_of) in zip(axes, panels, strict=False):
        for when, curve in curves_of.items():
            style: Any = (0, (3, 1.5)) if when == "before" else "-"
            ranks = [rank / curve.count for rank in curve.ranks]
            place.plot(ranks, curve.values, color=shade, linewidth=0.9, linestyle=style)
        place.set_title(name if len(name) <= 22 else f"…{name[-21:]}", fontsize=5, parse_math=False)
        place.set_xlim(0, 1)
        place.set_xticks([0, 0.5, 1])
        place.set_ylim(bottom=0)
        place.tick_params(labelsize=5)
    for place in axes[len(panels) :]:
        place.set_axis_off()
    errors = [curve.error for *_, curves_of in panels for curve in curves_of.values() if curve.sampled]
    estimates = f"; estimates off by at most {upper(max(errors))} among them" if errors else ""
    figure.supxlabel(f"rank / number of values; dashed before, solid after{estimates}", fontsize=7)
    figure.supylabel("singular value", fontsize=7)
    return figure


def _norms(comparison: Comparison) -> Any:
    shown = [(layer, _torus_norms(layer)) for layer in comparison.layers if any(_torus_norms(layer))]
    figure, axes = canvas(width=max(3.5, 0.16 * len(shown) + 1), height=3.4)
    last = max(1, len(comparison.layers) - 1)
    for x, (layer, (before, after)) in enumerate(shown):
        shade = colour(comparison.layers.index(layer) / last)
        if after is not None:
            axes.bar(x, after, color=shade, width=0.7, alpha=0.75)
        if before is not None:
            axes.bar(
                x, before, fill=False, edgecolor=shade, width=0.7, linewidth=0.7, linestyle=(0, (3, 1.5))
            )
    name_ticks(axes, [layer.name for layer, _ in shown])
    axes.set_ylabel("norm")
    found = [one.torus for layer, _ in shown for one in sides(layer) if one.torus is not None]
    widths = [high - low for torus in found for low, high in [torus.ranges.get("norm", (0.0, 0.0))]]
    within = f" (within {upper(max(widths))})" if any(widths) else ""
    axes.set_title(f"wrapped boundary{within}: dashed before, filled after", fontsize=7, loc="left")
    return figure


def _torus_norms(layer: LayerComparison) -> list[float | None]:
    found = [None if one is None else one.torus for one in (layer.before, layer.after)]
    return [None if torus is None else torus.norm for torus in found]
