"""The figures as PNG or SVG files, for a paper."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..analysis import Report
from .figures import Curve, colour, curves, norms, positions
from .files import atomic
from .numbers import upper
from .terminal import printable

_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "svg.hashsalt": "convspectra",
    "svg.fonttype": "none",
}
Points = Callable[[Curve], tuple[list[float], list[float]]]


def write_pictures(report: Report, folder: Path, suffix: str) -> Iterator[Path]:
    """Write `figure5`, `figure6`, `figure7` and `norms` into a folder; yields each path when written.

    Arguments:
        suffix: `png` (300 dots an inch) or `svg`.
    """
    yield from write_figures({name: partial(draw, report) for name, draw in _FIGURES.items()}, folder, suffix)


def write_figures(figures: Mapping[str, Callable[[], Any]], folder: Path, suffix: str) -> Iterator[Path]:
    """Write what each function draws under its name; yields each path when written."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        for name, draw in figures.items():
            figure = draw()
            path = folder / f"{name}.{suffix}"
            metadata = {"Date": None} if suffix == "svg" else {"Software": None}
            with atomic(path) as file:
                figure.savefig(file, format=suffix, dpi=300, metadata=metadata)
            yield path


def canvas(width: float = 3.5, height: float = 2.6, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    """A figure, sizes in inches, and its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns)


def _curves(report: Report, points: Points, x_label: str, y_label: str) -> Any:
    from matplotlib.ticker import EngFormatter

    figure, axes = canvas()
    places = positions(report)
    for curve in curves(report):
        x, y = points(curve)
        style: Any = (0, (1, 1)) if curve.sampled else "-"
        axes.plot(x, y, color=colour(places[curve.layer]), linewidth=0.9, linestyle=style)
    sampled = [curve for curve in curves(report) if curve.sampled]
    if sampled:
        error = upper(max(curve.error for curve in sampled))
        axes.set_title(f"dotted: estimates, values off by at most {error}", fontsize=7, loc="left")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    if axes.get_xlim()[1] >= 1e4:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    _ramp(figure, axes)
    return figure


def _ramp(figure: Any, axes: Any) -> None:
    """The colours from input to output."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap

    ramp = LinearSegmentedColormap.from_list("layers", [colour(i / 16) for i in range(17)])
    bar = figure.colorbar(ScalarMappable(cmap=ramp), ax=axes, ticks=[0, 1], pad=0.02, aspect=30)
    bar.ax.set_yticklabels(["input", "output"])
    bar.outline.set_visible(False)


def _values(curve: Curve) -> tuple[list[float], list[float]]:
    return list(map(float, curve.ranks)), list(curve.values)


def _ratios(curve: Curve) -> tuple[list[float], list[float]]:
    scale = curve.norm or 1.0
    return list(map(float, curve.ranks)), [value / scale for value in curve.values]


def _normalised(curve: Curve) -> tuple[list[float], list[float]]:
    ranks, ratios = _ratios(curve)
    return [rank / curve.count for rank in ranks], ratios


def _norms(report: Report) -> Any:
    shown = [i for i, layer in enumerate(report.layers) if any(v is not None for v in norms(layer))]
    figure, axes = canvas(width=max(3.5, 0.16 * len(shown) + 1), height=3.4)
    places = positions(report)
    for x, index in enumerate(shown):
        torus, low, high, anywhere = norms(report.layers[index])
        if torus is not None:
            axes.bar(x, torus, color=colour(places[index]), width=0.7, alpha=0.75)
        if high is not None:
            axes.vlines(x, low or 0.0, high, color="black", linewidth=1)
            axes.hlines([low or 0.0, high], x - 0.15, x + 0.15, color="black", linewidth=1)
        if anywhere is not None and math.isfinite(anywhere):
            axes.hlines(anywhere, x - 0.38, x + 0.38, color="black", linewidth=0.8, linestyle=(0, (2, 1)))
    names = [report.layers[index].name for index in shown]
    name_ticks(axes, names)
    axes.set_ylabel("norm")
    found = [one.torus.ranges["norm"] for one in report.layers if one.torus and "norm" in one.torus.ranges]
    width = f" (within {upper(max(end - start for start, end in found))})" if found else ""
    title = f"bar: wrapped{width}; whisker: own padding; dashed: any size"
    axes.set_title(title, fontsize=7, loc="left")
    return figure


def name_ticks(axes: Any, names: Sequence[str]) -> None:
    """The layers' names along the x axis."""
    names = [printable(name) for name in names]
    labels = [name if len(name) <= 24 else f"…{name[-23:]}" for name in names]
    axes.set_xticks(range(len(names)), labels, rotation=90, fontsize=5, parse_math=False)
    axes.set_xlim(-0.6, max(len(names) - 0.4, 0.6))
    axes.grid(visible=False, axis="x")


_FIGURES: dict[str, Callable[[Report], Any]] = {
    "figure5": lambda report: _curves(report, _values, "rank", "singular value"),
    "figure6": lambda report: _curves(report, _ratios, "rank", "ratio to the largest"),
    "figure7": lambda report: _curves(report, _normalised, "rank / number of values", "ratio to the largest"),
    "norms": _norms,
}
