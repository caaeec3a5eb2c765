"""Two models side by side: their layers matched by name, and how far each kernel moved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ..checks import check_kind
from ..compute import Progress
from ..models.records import ConvLayer, Model, with_geometry_of
from ..sampled import Sampling
from ..work import Bounds, Effort, seconds_of
from .of_model import analyze
from .planning import selected
from .reports import LayerReport, Report

Match = Literal["both", "only before", "only after", "other shape"]


@dataclass(frozen=True)
class LayerComparison:
    """One layer of two models.

    Attributes:
        name: in both models.
        match: `other shape` where the kernels of one name have different shapes or layouts.
        before: the report; None where the layer is in the other model only.
        after: likewise.
        relative_change: `||K - W|| / ||W||` over the taps; None where that says nothing.
    """

    name: str
    match: Match
    before: LayerReport | None
    after: LayerReport | None
    relative_change: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Two models, side by side.

    Attributes:
        before: the report of the first.
        after: the report of the second.
        layers: in pairs, in the order of `before`, then what only `after` has.
    """

    before: Report
    after: Report
    layers: tuple[LayerComparison, ...]

    @property
    def complete(self) -> bool:
        """Whether both models were analysed completely, and some layer is in both."""
        paired = any(layer.match == "both" for layer in self.layers)
        return paired and self.before.complete and self.after.complete


def compare(
    before: Model,
    after: Model,
    *,
    progress: Progress | None = None,
    estimated: Callable[[float], None] | None = None,
    max_seconds: float | None = None,
    layers: Sequence[str] = (),
    bounds: Bounds = "fast",
    spectrum: Sampling = "auto",
    **options: Any,
) -> Comparison:
    """Analyse two models and match their layers by name.

    A layer whose geometry one model states and the other only assumes has that of the first in both, if
    the kernels have one shape: what `clip` writes has no geometry file beside it.

    Arguments:
        before: what `models.read_model` returns.
        after: likewise.
        progress: as for `analyze`, over both.
        estimated: as for `analyze`, over both.
        max_seconds: as for `analyze`, of each.
        layers: as for `analyze`; a pattern must stand for a layer of each model.
        bounds: as for `analyze`.
        spectrum: as for `analyze`.
        **options: of `analyze`.

    Returns:
        `Comparison`.

    Raises:
        InputError: as `analyze`.
    """
    for name, model in (("before", before), ("after", after)):
        check_kind(name, model, Model, "convspectra.read_model(path)")
    before, after = (selected(model, layers) for model in (_lent(before, after), _lent(after, before)))
    effort = Effort(bounds, spectrum)
    if estimated is not None:
        estimated(sum(seconds_of(model.layers, max_seconds, effort) for model in (before, after)))
    reports = []
    for index, model in enumerate((before, after)):

        def halfway(share: float, name: str, index: int = index) -> None:
            if progress is not None:
                progress((index + share) / 2, name)

        reports.append(
            analyze(
                model,
                progress=halfway,
                max_seconds=max_seconds,
                bounds=bounds,
                spectrum=spectrum,
                **options,
            )
        )
    first, second = _by_name(before, reports[0]), _by_name(after, reports[1])
    names = [*first, *(name for name in second if name not in first)]
    pairs = tuple(_pair(name, first.get(name), second.get(name)) for name in names)
    return Comparison(reports[0], reports[1], pairs)


def _by_name(model: Model, report: Report) -> dict[str, tuple[ConvLayer, LayerReport]]:
    return {layer.name: (layer, found) for layer, found in zip(model.layers, report.layers, strict=True)}


def _lent(model: Model, other: Model) -> Model:
    """The model with the geometry that the other states of the layers whose own is assumed or missing."""
    known = {layer.name: layer for layer in other.layers if layer.geometry is not None}
    layers = tuple(_with_geometry(layer, known) for layer in model.layers)
    return replace(model, layers=layers)


def _with_geometry(layer: ConvLayer, known: Mapping[str, ConvLayer]) -> ConvLayer:
    other = known.get(layer.name)
    if other is None or other.kernel.shape != layer.kernel.shape:
        return layer
    bare = layer.geometry is None and not other.assumed
    if not bare and not set(other.assumed) < set(layer.assumed):
        return layer
    return with_geometry_of(layer, other, f"{other.source}, of the other model")


def _pair(
    name: str, first: tuple[ConvLayer, LayerReport] | None, second: tuple[ConvLayer, LayerReport] | None
) -> LayerComparison:
    if first is None or second is None:
        match: Match = "only after" if first is None else "only before"
        return LayerComparison(name, match, first and first[1], second and second[1])
    (given, before), (moved, after) = first, second
    if given.kernel.shape != moved.kernel.shape or given.layout != moved.layout:
        return LayerComparison(name, "other shape", before, after)
    wide = given.kernel.astype(np.float64)
    length = float(np.linalg.norm(wide))
    away = float(np.linalg.norm(moved.kernel.astype(np.float64) - wide))
    change = None
    if np.isfinite(length) and np.isfinite(away) and (length > 0 or away == 0):
        change = away / length if away else 0.0
    return LayerComparison(name, "both", before, after, change)
