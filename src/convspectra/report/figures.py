"""What the figures show, computed once: curves, norms with their bounds, frequency maps, colours.

Figures 5, 6 and 7 of Sedghi, Gupta and Long (2019): the singular values of each layer by rank, the
same divided by the largest, and the same against rank divided by their number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..analysis import LayerReport, Report
from ..results import Spectrum

NumpyArray = np.ndarray[Any, Any]

MAP_SIDE = 32
"""A frequency map larger than this, along an axis, is reduced by taking the largest value of each cell."""
MANY = 300
"""Of more layers than this, curves and maps have fewer points each, so that a page stays a page."""


@dataclass(frozen=True)
class Curve:
    """The singular values of one layer by rank, thinned.

    Attributes:
        layer: index into the report's layers.
        ranks: ascending, the first is 1 and the last is `count`.
        values: the singular value at each of these ranks, exact unless `sampled`.
        count, norm: how many there are, and the largest.
        sampled: whether the values are estimates.
        error: what each is off by at the most.
    """

    layer: int
    ranks: tuple[int, ...]
    values: tuple[float, ...]
    count: int
    norm: float
    sampled: bool = False
    error: float = 0.0


@dataclass(frozen=True)
class FrequencyMap:
    """The largest singular value by frequency, frequency zero in the middle.

    Attributes:
        values: one row (1-D) or several; of a 3-D layer the largest over the depth frequencies.
        pooled: whether cells stand for several frequencies, by their largest value.
        sampled: whether only a part of the layer's frequencies was looked at.
    """

    layer: int
    values: NumpyArray
    pooled: bool
    sampled: bool = False


def curves(report: Report, points: int | None = None) -> list[Curve]:
    """The curves of all layers that have a spectrum, at most `points` each; 240, of `MANY` layers less.

    Between neighbouring points either the rank grows by less than a few parts in `points` of the
    count, or of its logarithm, or the value falls by less than that part of its range: so a straight
    line between them is right to about a pixel on linear and on logarithmic axes.
    """
    found = []
    points = points or max(40, 240 * MANY // max(MANY, len(report.layers)))
    for index, layer in enumerate(report.layers):
        if layer.spectrum is None or layer.torus is None:
            continue
        ranks, values = thinned(layer.spectrum, points)
        torus = layer.torus
        found.append(
            Curve(
                index,
                tuple(ranks.tolist()),
                tuple(values.tolist()),
                torus.count,
                torus.norm,
                torus.sampled,
                torus.error,
            )
        )
    return found


def thinned(spectrum: Spectrum, points: int) -> tuple[NumpyArray, NumpyArray]:
    """Ranks, from 1, and the singular values there: evenly over rank, its logarithm, and the values."""
    values = np.asarray(spectrum.sorted(), dtype=np.float64)
    count = values.size
    share = points // 4
    ranks: list[NumpyArray] = [np.linspace(1, count, share), np.geomspace(1, count, share)]
    positive = values[values > values[0] * 1e-12]
    for levels in (
        np.linspace(values[0], values[-1], share),
        np.geomspace(positive[0], positive[-1], share) if positive.size else np.empty(0),
    ):
        # Searched from the other end, as the values descend.
        ranks.append(count - np.searchsorted(values[::-1], levels, side="left"))
    chosen = np.unique(np.clip(np.rint(np.concatenate(ranks)), 1, count).astype(np.int64))
    return chosen, values[chosen - 1]


def frequency_maps(report: Report) -> list[FrequencyMap]:
    """One map for each layer whose largest singular value depends on the frequency."""
    found = []
    side = max(8, int(MAP_SIDE * min(1.0, MANY / max(1, len(report.layers))) ** 0.5))
    for index, layer in enumerate(report.layers):
        if layer.spectrum is None or np.prod(layer.spectrum.grid.period) == 1:
            continue
        found.append(_map(index, layer.spectrum, side))
    return found


def _map(index: int, spectrum: Spectrum, side: int = MAP_SIDE) -> FrequencyMap:
    full = np.fft.fftshift(spectrum.frequency_map())
    if full.ndim == 3:
        full = full.max(axis=0)
    if full.ndim == 1:
        full = full[None, :]
    small = full
    for axis, size in enumerate(full.shape):
        if size > side:
            starts = np.linspace(0, size, side, endpoint=False).astype(int)
            small = np.maximum.reduceat(small, starts, axis=axis)
    return FrequencyMap(index, small, pooled=small.shape != full.shape, sampled=spectrum.sampled)


def positions(report: Report) -> list[float]:
    """Where each layer stands between input (0) and output (1)."""
    last = max(1, len(report.layers) - 1)
    return [index / last for index in range(len(report.layers))]


# Samples of "viridis" (van der Walt and Smith, 2015, CC0): even steps in lightness, and told apart
# with every kind of colour vision. The ends that vanish on white or on black are left out.
_LIGHT = ("#440154", "#482979", "#3e4c8a", "#306a8e", "#24868e", "#1fa187", "#3dbc74", "#7ad151")
_DARK = ("#8a5fc7", "#7b78d6", "#5f8fd9", "#45a5cf", "#2fb8b0", "#4cc985", "#8fd94f", "#fde725")


def colour(position: float, dark: bool = False) -> str:
    """The colour of a layer between input and output, as `#rrggbb`."""
    stops = _DARK if dark else _LIGHT
    at = position * (len(stops) - 1)
    low = min(int(at), len(stops) - 2)
    first, second = (np.array([int(stop[i : i + 2], 16) for i in (1, 3, 5)]) for stop in stops[low : low + 2])
    mixed = np.rint(first + (second - first) * (at - low)).astype(int)
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def norms(layer: LayerReport) -> tuple[float | None, float | None, float | None, float | None]:
    """Torus norm, lower and upper bound with its own padding, upper bound for any size."""
    torus = None if layer.torus is None else layer.torus.norm
    padded = layer.as_padded
    return (
        torus,
        None if padded is None else padded.lower,
        None if padded is None else padded.upper,
        None if layer.any_size is None else layer.any_size.upper,
    )
