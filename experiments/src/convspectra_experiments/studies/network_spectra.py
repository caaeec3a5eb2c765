"""Figures 5, 6 and 7 for any model: the singular values of its convolutions larger than 1x1.

Reference: Sedghi, Gupta and Long (2019), appendix C.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np

from convspectra.analysis import LayerReport, TorusSummary, analyze
from convspectra.compute import Progress
from convspectra.errors import InputError
from convspectra.models import read_model
from convspectra.models.records import ConvLayer, Model
from convspectra.models.sample_shapes import SampleShape
from convspectra.results import Spectrum

from ..training.folder import read_json, write_json
from ..training.run_records import reading

NumpyArray = np.ndarray[Any, Any]

POINTS = 400
"""The most points that a layer's curve has."""
TOLERANCE = 1e-3
"""How far a thinned curve may be from the whole one, by the largest value: a dot of a printed figure."""
MANY = 10_000
"""Of so many singular values of at least 1, in most layers, the paper speaks."""


@dataclass(frozen=True)
class LayerSpectrum:
    """The singular values of one layer with its boundary wrapped, thinned for drawing.

    Attributes:
        count, norm: how many there are, zeros included, and the largest.
        at_least_one: how many are at least 1.
        effective_rank: `exp(entropy)` of the values divided by their sum.
        ranks: ascending, the first is 1 and the last is `count`.
        values: at each of these ranks, exact.
    """

    name: str
    kernel_shape: tuple[int, ...]
    input_shape: tuple[int, ...]
    count: int
    norm: float
    at_least_one: int
    effective_rank: float
    ranks: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Spectra:
    """The layers of one model with kernels larger than 1x1, from input to output.

    Attributes:
        left_out: how many other layers there are, by the reason.
        notes: the reader's, and what was assumed.
    """

    model: str
    sha256: str | None
    version: str
    layers: tuple[LayerSpectrum, ...]
    left_out: Mapping[str, int]
    notes: tuple[str, ...]

    @property
    def many_at_least_one(self) -> int:
        """How many layers have at least `MANY` singular values of at least 1."""
        return sum(layer.at_least_one >= MANY for layer in self.layers)


def spectra_of(
    model: Path | None = None,
    *,
    sample_shape: SampleShape | None = None,
    geometry: Path | None = None,
    module: Any = None,
    progress: Progress | None = None,
) -> Spectra:
    """The singular values of every convolution of a model whose kernel is larger than 1x1.

    Arguments:
        model, sample_shape, geometry, module: as for `models.read_model`; with neither model nor module,
            the network that comes with the package.
        progress: called with the share of the work that is done and a layer's name.

    Raises:
        InputError: the model cannot be read, or none of its layers has a spectrum.
    """
    found = trained_model(model, sample_shape=sample_shape, geometry=geometry, module=module)
    large = tuple(layer for layer in found.layers if _taps(layer) > 1)
    left_out = {"kernel of one tap": len(found.layers) - len(large)}
    report = analyze(replace(found, layers=large), dtype="float64", spectrum="exact", progress=progress)
    layers = []
    for layer in report.layers:
        if layer.spectrum is None or layer.torus is None:
            reason = layer.reason or "no spectrum"
            left_out[reason] = left_out.get(reason, 0) + 1
        else:
            layers.append(_layer(layer, layer.spectrum, layer.torus))
    if not layers:
        reasons = "; ".join(f"{count} with {reason}" for reason, count in left_out.items() if count)
        raise InputError(
            f"{report.model} has no convolution larger than 1x1 whose singular values can be computed "
            f"({reasons or 'no layers'}); see `convspectra analyze` for what it needs"
        )
    return Spectra(
        model=report.model,
        sha256=report.sha256,
        version=report.version,
        layers=tuple(layers),
        left_out={reason: count for reason, count in left_out.items() if count},
        notes=with_assumptions(report.notes, report.layers),
    )


def trained_model(model: Path | None, *, module: Any = None, **options: Any) -> Model:
    """As `models.read_model`; with neither model nor module the network that comes with the package."""
    if model is None and module is None:
        from convspectra.demo import model_path

        model = model_path()
    return read_model(model, module=module, **options)


def with_assumptions(notes: Iterable[str], layers: Iterable[LayerReport | ConvLayer]) -> tuple[str, ...]:
    """Notes, and of how many layers the geometry is assumed."""
    assumed = sum(bool(layer.assumed) for layer in layers)
    return (*notes, *([f"the geometry of {assumed} layers is assumed"] if assumed else []))


def _taps(layer: ConvLayer) -> int:
    layout = layer.layout if layer.geometry is None else layer.geometry.layout
    sizes = zip(layout, layer.kernel.shape, strict=True)
    return math.prod(size for axis, size in sizes if axis not in "OI")


def _layer(layer: LayerReport, spectrum: Spectrum, torus: TorusSummary) -> LayerSpectrum:
    values = np.asarray(spectrum.sorted(), dtype=np.float64)
    ranks = thinned(values)
    return LayerSpectrum(
        name=layer.name,
        kernel_shape=layer.kernel_shape,
        input_shape=layer.input_shape or (),
        count=torus.count,
        norm=torus.norm,
        at_least_one=int(np.count_nonzero(values >= 1)),
        effective_rank=torus.effective_rank,
        ranks=tuple((ranks + 1).tolist()),
        values=tuple(values[ranks].tolist()),
    )


def thinned(values: NumpyArray, points: int = POINTS, tolerance: float = TOLERANCE) -> NumpyArray:
    """Indices of a few of the descending values, between which straight lines come near all others.

    The piece that errs most is split at its worst place, as Douglas and Peucker (1973) do, until no value is
    further than `tolerance` times the largest from the lines, or there are `points` indices.
    """
    kept = {0, values.size - 1}
    pieces: list[tuple[float, int, int, int]] = []

    def add(first: int, last: int) -> None:
        if last - first < 2:
            return
        line = np.linspace(values[first], values[last], last - first + 1)
        errors = np.abs(values[first : last + 1] - line)
        worst = int(errors.argmax())
        heapq.heappush(pieces, (-float(errors[worst]), first, first + worst, last))

    add(0, values.size - 1)
    while pieces and len(kept) < points:
        error, first, middle, last = heapq.heappop(pieces)
        if -error <= tolerance * float(values[0]):
            break
        kept.add(middle)
        add(first, middle)
        add(middle, last)
    return np.array(sorted(kept), dtype=np.int64)


def write(spectra: Spectra, path: Path) -> None:
    """Write the record as JSON, whole or not at all.

    Raises:
        InputError: the disk refuses.
    """
    write_json(path, asdict(spectra))


def read(path: Traversable) -> Spectra | None:
    """What `write` wrote; None where there is no such file.

    Raises:
        InputError: the file is damaged; the message names it.
    """
    kept = read_json(path)
    if kept is None:
        return None
    with reading(path):
        return Spectra(**about_the_model(kept), layers=tuple(_read_layer(layer) for layer in kept["layers"]))


def about_the_model(kept: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of the model whose layers these are, as fields of the record."""
    return {
        "model": str(kept["model"]),
        "sha256": kept["sha256"],
        "version": str(kept["version"]),
        "left_out": {str(reason): int(count) for reason, count in kept["left_out"].items()},
        "notes": tuple(map(str, kept["notes"])),
    }


def _read_layer(kept: dict[str, Any]) -> LayerSpectrum:
    layer = LayerSpectrum(
        name=str(kept["name"]),
        kernel_shape=tuple(map(int, kept["kernel_shape"])),
        input_shape=tuple(map(int, kept["input_shape"])),
        count=int(kept["count"]),
        norm=float(kept["norm"]),
        at_least_one=int(kept["at_least_one"]),
        effective_rank=float(kept["effective_rank"]),
        ranks=tuple(map(int, kept["ranks"])),
        values=tuple(map(float, kept["values"])),
    )
    if len(layer.ranks) != len(layer.values) or not layer.ranks:
        raise ValueError(f"layer {layer.name!r} has {len(layer.ranks)} ranks and {len(layer.values)} values")
    return layer
