"""Layers with their own padding beside the torus, over the size of the input: a panel a kind of padding."""

from __future__ import annotations

from typing import Any

from convspectra.report.figures import colour

from ..studies.boundary import Boundary, Value
from ..studies.distances import SHOWN
from .axes import foreground, logarithmic, panels, ramp

_TITLES = {
    "zeros": "zeros",
    "reflect": "reflected",
    "replicate": "replicated",
    "none": "not padded",
}


def distances(boundary: Boundary, dark: bool) -> Any:
    """The distance over n, with what falls as 1/n."""
    figure, axes = _panels(boundary, "distance", 2.6, dark)
    span = [point.distance for layer in boundary.layers for point in layer.points if point.padding in SHOWN]
    first, last = min(boundary.sizes), max(boundary.sizes)
    for padding, one in zip(SHOWN, axes, strict=True):
        start = boundary.spread(padding, first, "distance").median
        one.plot(
            (first, last),
            (start, start * first / last),
            color=foreground(dark),
            linewidth=1,
            linestyle=(0, (1, 1.5)),
        )
        logarithmic(one, span, count=6)
    axes[0].set_ylabel("distance / norm")
    return figure


def norms(boundary: Boundary, dark: bool) -> Any:
    """The ratio of the norms over n."""
    figure, axes = _panels(boundary, "norm_ratio", 2.1, dark)
    span = [point.norm_ratio for layer in boundary.layers for point in layer.points]
    margin = max(0.05 * (max(span) - min(span)), 0.01)
    for one in axes:
        one.axhline(1, color=foreground(dark), linewidth=0.8, linestyle="--")
        one.set_ylim(min(span) - margin, max(span) + margin)
    axes[0].set_ylabel("norm / norm of the torus")
    return figure


def _panels(boundary: Boundary, value: Value, height: float, dark: bool) -> tuple[Any, list[Any]]:
    """Each layer thin, their median broad below them."""
    figure, axes = panels(7.2, height, 1, len(SHOWN), dark)
    last = max(1, len(boundary.layers) - 1)
    sizes = sorted({point.n for layer in boundary.layers for point in layer.points})
    for index, (padding, one) in enumerate(zip(SHOWN, axes, strict=True)):
        for place, layer in enumerate(boundary.layers):
            found = [(point.n, getattr(point, value)) for point in layer.points if point.padding == padding]
            one.plot(*zip(*found, strict=True), color=colour(place / last, dark), linewidth=0.8)
        medians = [boundary.spread(padding, n, value).median for n in boundary.sizes]
        one.plot(
            boundary.sizes,
            medians,
            color=foreground(dark),
            linewidth=4,
            alpha=0.25,
            zorder=1.5,
            solid_capstyle="round",
        )
        logarithmic(one, sizes, "x")
        one.set_xticks(sizes, [str(n) for n in sizes], fontsize=7)
        one.set_xlabel("n")
        one.set_title(_TITLES[padding], fontsize=8)
        if index:
            one.tick_params(labelleft=False)
    ramp(figure, axes, [colour(i / 16, dark) for i in range(17)])
    return figure, axes
