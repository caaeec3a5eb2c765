"""The gains of the layers beside their norms, as PNG or SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..network import LipschitzReport
from ..network.records import Gains, Spread
from .figures import colour
from .pictures import canvas, name_ticks, write_figures

_FORWARD, _BACKWARD = colour(0.2), colour(0.8)


def write_pictures(report: LipschitzReport, folder: Path, suffix: str) -> Iterator[Path]:
    """Write `gains` into a folder; yields the path when written.

    Raises:
        InputError: there are none to draw.
    """
    if report.gains is None:
        raise InputError(f"{report.model} has no gains to draw: no convolution or linear layer, or no points")
    return write_figures({"gains": partial(_gains, report.gains)}, folder, suffix)


def _gains(found: Gains) -> Any:
    layers = found.layers
    figure, axes = canvas(width=max(4.5, 0.16 * len(layers) + 1), height=3.6)
    places = range(len(layers))
    for x, layer in enumerate(layers):
        ends = [side for side in (layer.lower, layer.upper) if 0 < side < math.inf]
        if ends:
            axes.vlines(x, min(ends), max(ends), color="black", linewidth=0.8)
            axes.hlines(ends, x - 0.3, x + 0.3, color="black", linewidth=0.8)
    axes.plot([], [], color="black", linewidth=0.8, label="norm, both bounds")
    sides: tuple[tuple[str, float, str, Sequence[Spread], Sequence[float]], ...] = (
        ("forward", -0.14, _FORWARD, [one.forward for one in layers], [one.white_forward for one in layers]),
        (
            "backward",
            0.14,
            _BACKWARD,
            [one.backward for one in layers],
            [one.white_backward for one in layers],
        ),
    )
    for name, shift, shade, spreads, white in sides:
        level = [value if 0 < value < math.inf else math.nan for value in white]
        # Where both are the same the dashes show the line below.
        style: Any = "-" if name == "forward" else (0, (4, 3))
        axes.plot(places, level, color=shade, linewidth=0.9, linestyle=style, label=f"white noise, {name}")
        _marks(axes, spreads, shift, shade, name)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylabel("gain")
    name_ticks(axes, [layer.name for layer in layers])
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside upper left", ncols=3, fontsize=6, frameon=False
    )
    return figure


def _marks(axes: Any, spreads: Sequence[Spread], shift: float, shade: str, name: str) -> None:
    """Medians, with the range over the points; a gain of zero has no place on a logarithmic axis."""
    shown = [(x + shift, one) for x, one in enumerate(spreads) if one.median]
    for x, one in shown:
        axes.vlines(x, one.least or one.median, one.largest, color=shade, linewidth=2.2, alpha=0.5)
    axes.plot(
        [x for x, _ in shown],
        [one.median for _, one in shown],
        color=shade,
        marker="o" if name == "forward" else "D",
        markersize=2.6,
        linestyle="none",
        label=f"{name}: median, range",
    )
