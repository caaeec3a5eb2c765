"""The spectrum of layers with their own padding beside that of the torus, over the size of the input.

`distances` has the mathematics; here is which layers are taken, and what is kept of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from convspectra._version import __version__
from convspectra.compute import Progress
from convspectra.errors import InputError
from convspectra.geometry import ConvGeometry, Correlation
from convspectra.krylov import bytes_of_all
from convspectra.models.records import ConvLayer
from convspectra.models.sample_shapes import SampleShape

from ..training.folder import read_json, write_json
from ..training.run_records import finite, reading
from . import distances
from .catalogue import Extent
from .distances import PADDINGS, SHOWN, Padding, Point
from .network_spectra import about_the_model, trained_model, with_assumptions

NumpyArray = np.ndarray[Any, Any]

ROUNDING = 1e-12
"""Distances below it are those of a decomposition from another."""
Value = Literal["distance", "norm_ratio", "smallest_change"]


@dataclass(frozen=True)
class LayerDistances:
    """One layer over the sizes of its input.

    Attributes:
        padding: the points that each kind of padding adds before and after, an axis.
        own_padding: whether these are the layer's own; else those that keep the size, which its own do not.
        points: at every size whose matrix fits, the control at the smallest alone; exact.
    """

    name: str
    kernel_shape: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    padding: tuple[tuple[int, int], ...]
    own_padding: bool
    points: tuple[Point, ...]

    def point(self, padding: Padding, n: int) -> Point | None:
        """None where it was not computed."""
        return next((one for one in self.points if (one.padding, one.n) == (padding, n)), None)

    @property
    def largest_n(self) -> int:
        """Of the exact ones."""
        return max(one.n for one in self.points)


@dataclass(frozen=True)
class Spread:
    """One number over the layers."""

    low: float
    median: float
    high: float


@dataclass(frozen=True)
class Boundary:
    """Layers of one model, from input to output.

    Attributes:
        sizes: those at which every layer was computed; what is said over layers is said of these.
        left_out: how many other layers there are, by the reason.
        notes: the reader's, and what was assumed.
    """

    model: str
    sha256: str | None
    version: str
    sizes: tuple[int, ...]
    layers: tuple[LayerDistances, ...]
    left_out: Mapping[str, int]
    notes: tuple[str, ...]

    def spread(self, padding: Padding, n: int, value: Value) -> Spread:
        """Least, median and largest of a number over all layers, at one of `sizes`."""
        points = [point for layer in self.layers if (point := layer.point(padding, n)) is not None]
        low, median, high = np.quantile([getattr(point, value) for point in points], (0, 0.5, 1))
        return Spread(float(low), float(median), float(high))

    def rate(self, padding: Padding) -> float | None:
        """The power of n by which the median distance falls: least squares of the logarithms.

        None where it is zero or rounding alone, and of fewer than two sizes.
        """
        medians = [self.spread(padding, n, "distance").median for n in self.sizes]
        if min(medians) < ROUNDING or len(medians) < 2:
            return None
        return -float(np.polyfit(np.log(self.sizes), np.log(medians), 1)[0])

    @property
    def control(self) -> float:
        """The largest distance of the torus by its dense matrix from the torus by its symbol."""
        return max(
            point.distance for layer in self.layers for point in layer.points if point.padding == "circular"
        )


def boundary_of(
    model: Path | None = None,
    *,
    extent: Extent,
    sample_shape: SampleShape | None = None,
    geometry: Path | None = None,
    module: Any = None,
    progress: Progress | None = None,
) -> Boundary:
    """The distances of some layers of a model, with every kind of padding, over the size of the input.

    Arguments:
        model, sample_shape, geometry, module: as for `spectra.spectra_of`.
        extent: which sizes, how much memory, how many layers.
        progress: called with the share of the layers that are done and a layer's name.

    Raises:
        InputError: the model cannot be read, or none of its layers can be taken.
    """
    found = trained_model(model, sample_shape=sample_shape, geometry=geometry, module=module)
    taken, left_out = _choice(found.layers, extent)
    if not taken:
        reasons = "; ".join(f"{count}: {reason}" for reason, count in left_out.items())
        raise InputError(
            f"{found.name} has no layer whose matrix can be set beside the torus ({reasons or 'no layers'}); "
            "see `convspectra analyze` for what it needs"
        )
    layers = []
    for index, (layer, its) in enumerate(taken):
        layers.append(_layer(layer, its, extent))
        if progress is not None:
            progress((index + 1) / len(taken), layer.name)
    return Boundary(
        model=found.name,
        sha256=found.sha256,
        version=__version__,
        sizes=extent.common,
        layers=tuple(layers),
        left_out=left_out,
        notes=with_assumptions(found.notes, (layer for layer, _ in taken)),
    )


def _choice(
    layers: Sequence[ConvLayer], extent: Extent
) -> tuple[list[tuple[ConvLayer, ConvGeometry]], dict[str, int]]:
    """The layers that are taken, with geometries that keep the size, and how many others, by the reason."""
    fit: list[tuple[ConvLayer, ConvGeometry]] = []
    left_out: dict[str, int] = {}
    for layer in layers:
        found = _keeping_size(layer, extent)
        if isinstance(found, str):
            left_out[found] = left_out.get(found, 0) + 1
        else:
            fit.append((layer, found))
    if len(fit) > extent.layers:
        left_out[f"{extent.layers} layers, evenly spaced, stand for all that fit"] = len(fit) - extent.layers
        fit = [fit[round(i)] for i in np.linspace(0, len(fit) - 1, extent.layers)]
    return fit, left_out


def _keeping_size(layer: ConvLayer, extent: Extent) -> ConvGeometry | str:
    """The layer's geometry, with padding that keeps the number of points; or why it is not taken."""
    kernel, geometry = layer.kernel, layer.geometry
    if geometry is None:
        return "its geometry is not known"
    if geometry.transposed:
        return "transposed, for which no framework pads but with zeros"
    if not np.isfinite(kernel).all() or not kernel.any():
        return "its kernel is zero, or not finite"
    if max(geometry.correlation(kernel.shape).reach) >= min(extent.common):
        return f"its taps reach over all of {min(extent.common)} points"
    if not all(_divides(geometry, n) for n in extent.common):
        return "its stride does not divide every size"
    if not all(_keeps(kernel.shape, geometry, n) for n in extent.sizes if _divides(geometry, n)):
        geometry = replace(geometry, padding="same")
    if not any(map(any, _correlation(kernel.shape, geometry, extent.common[0]).padding)):
        return "it reads no padding: one tap, or taps that tile the input"
    if any(_bytes(kernel, geometry, n) > extent.memory for n in extent.common):
        return f"its matrix takes over {extent.memory // 2**20} MiB for n = {max(extent.common)}"
    return geometry


def _divides(geometry: ConvGeometry, n: int) -> bool:
    return all(n % stride == 0 for stride in geometry.stride)


def _keeps(shape: tuple[int, ...], geometry: ConvGeometry, n: int) -> bool:
    points = _correlation(shape, geometry, n).output_shape
    return all(m * s == n for m, s in zip(points, geometry.stride, strict=True))


def _correlation(shape: tuple[int, ...], geometry: ConvGeometry, n: int) -> Correlation:
    return distances.padded(geometry, n, "zeros").correlation(shape)


def _bytes(kernel: NumpyArray, geometry: ConvGeometry, n: int) -> int:
    """Of all singular values of the layer; no kind of padding has more."""
    return bytes_of_all(kernel, distances.padded(geometry, n, "zeros"))


def _layer(layer: ConvLayer, geometry: ConvGeometry, extent: Extent) -> LayerDistances:
    kernel = np.asarray(layer.kernel, dtype=np.float64)
    sizes = [n for n in extent.sizes if _divides(geometry, n)]
    exact = [n for n in sizes if _bytes(kernel, geometry, n) <= extent.memory]
    c = _correlation(kernel.shape, geometry, exact[-1])
    return LayerDistances(
        name=layer.name,
        kernel_shape=tuple(kernel.shape),
        stride=c.stride,
        dilation=c.dilation,
        groups=c.groups,
        padding=c.padding,
        own_padding=layer.geometry is not None and geometry.padding == layer.geometry.padding,
        points=tuple(
            point
            for n in exact
            for point in distances.points(
                kernel,
                geometry,
                n,
                memory=extent.memory,
                paddings=PADDINGS if n == min(extent.common) else SHOWN,
            )
        ),
    )


def write(boundary: Boundary, path: Path) -> None:
    """Write the record as JSON, whole or not at all.

    Raises:
        InputError: the disk refuses.
    """
    write_json(path, asdict(boundary))


def read(path: Traversable) -> Boundary | None:
    """What `write` wrote; None where there is no such file.

    Raises:
        InputError: the file is damaged; the message names it.
    """
    kept = read_json(path)
    if kept is None:
        return None
    with reading(path):
        found = Boundary(
            **about_the_model(kept),
            sizes=tuple(map(int, kept["sizes"])),
            layers=tuple(_read_layer(layer) for layer in kept["layers"]),
        )
        missing = list(_missing(found))
        if any(not point.torus_norm > 0 for layer in found.layers for point in layer.points):
            raise ValueError("a layer has the norm 0")
        if missing or not found.layers or not found.sizes:
            raise ValueError(f"it has not every layer at every size: {'; '.join(missing) or 'none at all'}")
        return found


def _missing(boundary: Boundary) -> Iterator[str]:
    for layer in boundary.layers:
        for n in boundary.sizes:
            for padding in PADDINGS if n == min(boundary.sizes) else SHOWN:
                if layer.point(padding, n) is None:
                    yield f"{layer.name}, {padding}, n = {n}"


def _read_layer(kept: dict[str, Any]) -> LayerDistances:
    return LayerDistances(
        name=str(kept["name"]),
        kernel_shape=tuple(map(int, kept["kernel_shape"])),
        stride=tuple(map(int, kept["stride"])),
        dilation=tuple(map(int, kept["dilation"])),
        groups=int(kept["groups"]),
        padding=tuple((int(before), int(after)) for before, after in kept["padding"]),
        own_padding=bool(kept["own_padding"]),
        points=tuple(
            Point(
                padding=_padding(one["padding"]),
                n=int(one["n"]),
                count=int(one["count"]),
                torus_count=int(one["torus_count"]),
                distance=_length(one["distance"]),
                norm=_length(one["norm"]),
                smallest=_length(one["smallest"]),
                torus_norm=_length(one["torus_norm"]),
                torus_smallest=_length(one["torus_smallest"]),
            )
            for one in kept["points"]
        ),
    )


def _length(value: Any) -> float:
    found = finite(value)
    if found is None or found < 0:
        raise ValueError(f"a finite number of at least 0 was expected, not {value!r}")
    return found


def _padding(word: Any) -> Padding:
    if word not in get_args(Padding):
        raise ValueError(f"padding {word!r} is none of {', '.join(PADDINGS)}")
    found: Padding = word
    return found
