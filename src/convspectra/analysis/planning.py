"""What an analysis will take and what of it cannot be had, as far as that is known before it is begun."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ..cost import allowed
from ..errors import InputError
from ..models.names import matching
from ..models.records import ConvLayer, Model
from ..sampled import sample_of
from ..work import DEFAULT_EFFORT, Effort, beyond, itemsize_of, work_of, work_of_spectrum
from .of_layer import contradiction_of
from .reports import LayerStatus

Precision = Literal["kernel", "float32", "float64"]


@dataclass(frozen=True)
class LayerPlan:
    """What is expected of one layer.

    Attributes:
        name: as in `ConvLayer`.
        kind: as in `ConvLayer`.
        kernel_shape: as in `LayerReport`.
        input_shape: spatial; None where unknown.
        seconds: of one core, estimated.
        spectrum_seconds: the share of them that the circular spectrum has.
        memory: bytes, the most at any time, estimated.
        spectrum: `exact`, `sampled`, or `none` where there is none.
        status: what the report will say at best.
        reason: why it is not `ok`.
        refused: why it is beyond the limits, so that its seconds are not spent; else empty.
    """

    name: str
    kind: str
    kernel_shape: tuple[int, ...]
    input_shape: tuple[int, ...] | None
    seconds: float
    spectrum_seconds: float
    memory: float
    spectrum: Literal["exact", "sampled", "none"]
    status: LayerStatus
    reason: str = ""
    refused: str = ""


@dataclass(frozen=True)
class Plan:
    """What is expected of a model.

    Attributes:
        model: its name.
        layers: in the model's order.
        complete: whether the report can be, as far as is known: see `Report.complete`.
    """

    model: str
    layers: tuple[LayerPlan, ...]
    complete: bool

    @property
    def seconds(self) -> float:
        """Of one core, for all layers within the limits."""
        return sum(one.seconds for one in self.layers if not one.refused)

    @property
    def memory(self) -> float:
        """Bytes of the layer that takes most."""
        return max((one.memory for one in self.layers if not one.refused), default=0.0)


def selected(model: Model, layers: Sequence[str]) -> Model:
    """The model with the layers of these names or patterns alone.

    Arguments:
        model: what `models.read_model` returns.
        layers: names or patterns such as `"layer1.*.conv?"`; none for all of it.

    Returns:
        `Model`, layers in its order.

    Raises:
        InputError: a pattern that no layer has.
    """
    if not layers:
        return model
    names = [layer.name for layer in model.layers]
    chosen = {name for pattern in layers for name in matching(pattern, names, f"layers={pattern!r}")}
    return replace(model, layers=tuple(layer for layer in model.layers if layer.name in chosen), unread=())


def plan(
    model: Model,
    *,
    effort: Effort = DEFAULT_EFFORT,
    dtype: Precision = "kernel",
    max_seconds: float | None = None,
) -> Plan:
    """What `analyze` will take for a model, and what it cannot give: nothing is computed.

    Arguments:
        model: what `models.read_model` returns, or what `selected` leaves of it.
        effort: as for `analyze_layer`.
        dtype: as for `analyze`.
        max_seconds: as for `analyze`.

    Returns:
        `Plan`, by the estimates that the limits go by.

    Raises:
        InputError: `max_seconds` is no positive number.
    """
    if max_seconds is not None:
        max_seconds = allowed("max_seconds", max_seconds)
    layers = [in_precision(layer, dtype) for layer in model.layers]
    costs = [work_of(layer, effort) for layer in layers]
    refused = beyond(layers, costs, max_seconds)
    found = []
    for index, (layer, cost) in enumerate(zip(layers, costs, strict=True)):
        spectrum, seconds, reason = _spectrum_of(layer, effort)
        status: LayerStatus = "ok"
        if contradiction_of(layer) or not np.isfinite(layer.kernel).all():
            status, reason = "failed", contradiction_of(layer) or "the kernel has NaN or infinite entries"
        elif layer.geometry is None or index in refused:
            status, reason = "skipped", "; ".join(filter(None, (layer.reason, refused.get(index))))
        elif reason:
            status = "partial"
        found.append(
            LayerPlan(
                name=layer.name,
                kind=layer.kind,
                kernel_shape=tuple(map(int, layer.kernel.shape)),
                input_shape=None if layer.geometry is None else layer.geometry.input_shape,
                seconds=cost.seconds,
                spectrum_seconds=seconds,
                memory=cost.memory,
                spectrum=spectrum,
                status=status,
                reason=reason,
                refused=refused.get(index, ""),
            )
        )
    complete = bool(found) and not model.unread and all(one.status == "ok" for one in found)
    return Plan(model.name, tuple(found), complete)


def in_precision(layer: ConvLayer, dtype: Precision) -> ConvLayer:
    """The layer with its kernel in the precision of the computation, but for what half precision becomes."""
    return layer if dtype == "kernel" else replace(layer, kernel=layer.kernel.astype(dtype, copy=False))


def _spectrum_of(layer: ConvLayer, effort: Effort) -> tuple[Literal["exact", "sampled", "none"], float, str]:
    """Which there will be, its seconds, and why there is none."""
    if layer.geometry is None:
        return "none", 0.0, ""
    shape, itemsize = layer.kernel.shape, itemsize_of(layer)
    try:
        torus = layer.geometry.on_torus().correlation(shape)
        sample = sample_of(torus, effort.spectrum, itemsize)
        seconds = work_of_spectrum(shape, layer.geometry, itemsize, effort.spectrum).seconds
    except InputError as error:
        return "none", 0.0, f"no torus spectrum: {error}"
    return "exact" if sample is None else "sampled", seconds, ""
