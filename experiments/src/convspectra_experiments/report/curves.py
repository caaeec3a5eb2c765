"""Figures 5, 6 and 7 from a record of spectra, in the paper's mixture of red and green."""

from __future__ import annotations

from typing import Any

from ..studies.network_spectra import LayerSpectrum, Spectra
from .axes import panels, ramp

# From input to output, red to green as in the paper; also from dark to light, which every eye tells apart.
_LIGHT = ((0x96, 0x0A, 0x10), (0x6C, 0xC9, 0x5A))
_DARK = ((0xD8, 0x3A, 0x30), (0xA8, 0xF0, 0x8C))


def red_green(position: float, dark: bool = False) -> str:
    """The colour of a layer between input (0) and output (1), as `#rrggbb`."""
    first, last = _DARK if dark else _LIGHT
    mixed = (round(a + (b - a) * position) for a, b in zip(first, last, strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def draw(spectra: Spectra, name: str, dark: bool) -> Any:
    """`figure5`: values by rank; `figure6`: their ratios to the largest; `figure7`: by normalised rank."""
    from matplotlib.ticker import EngFormatter

    figure, (axes,) = panels(4.6, 3.0, 1, 1, dark)
    last = max(1, len(spectra.layers) - 1)
    for index, layer in enumerate(spectra.layers):
        axes.plot(*_points(layer, name), color=red_green(index / last, dark), linewidth=0.9)
    axes.set_xlabel("rank / number of values" if name == "figure7" else "rank")
    axes.set_ylabel("singular value" if name == "figure5" else "ratio to the largest")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    if axes.get_xlim()[1] >= 1e4:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    ramp(figure, axes, [red_green(i / 16, dark) for i in range(17)])
    return figure


def _points(layer: LayerSpectrum, name: str) -> tuple[list[float], list[float]]:
    count = layer.count if name == "figure7" else 1
    scale = 1.0 if name == "figure5" else layer.norm or 1.0
    return [rank / count for rank in layer.ranks], [value / scale for value in layer.values]
