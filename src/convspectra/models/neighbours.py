"""Geometry from the file next door: a state dict often lies beside its graph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import InputError
from . import geometry_file
from .graphs import stored_graph
from .layers import model_of
from .reading import reading
from .records import ConvLayer, Model, with_geometry_of
from .sample_shapes import SampleShape


def complete(model: Model, path: Path, sample_shape: SampleShape | None = None) -> Model:
    """The model with what a file of the same stem beside it says of its layers.

    `<stem>.toml` is a geometry file; `<stem>.onnx` gives each layer whose kernel it holds the
    geometry and batch norm that it has there, at `sample_shape` where it leaves its sizes open. Layers that
    are complete already stay as they are.
    """
    if not model.candidates and not any(layer.assumed for layer in model.layers):
        return model
    table, graph = path.with_suffix(".toml"), path.with_suffix(".onnx")
    if table != path and table.is_file():
        return _from_geometry_file(model, table)
    if graph != path and graph.is_file():
        return _from_graph(model, graph, sample_shape)
    return model


def _from_geometry_file(model: Model, neighbour: Path) -> Model:
    found = geometry_file.apply(model, neighbour)
    return replace(found, notes=(*found.notes, f"geometry from {neighbour.name} beside the model"))


def _from_graph(model: Model, neighbour: Path, sample_shape: SampleShape | None) -> Model:
    try:
        with reading(neighbour, "onnx"):
            graph = model_of(stored_graph(neighbour, "onnx", sample_shape))
    except InputError as error:
        note = f"{neighbour.name} lies beside the model but cannot be read: {error}"
        return replace(model, notes=(*model.notes, note))
    known = {_content(layer): layer for layer in graph.layers if layer.geometry is not None}
    layers = tuple(_like(layer, known.get(_content(layer)), neighbour) for layer in model.layers)
    count = sum(layer.source.endswith(neighbour.name) for layer in layers)
    if count == 0:
        return model
    note = f"geometry of {count} layers from {neighbour.name} beside the model, by identical kernels"
    return replace(model, layers=layers, notes=(*model.notes, note))


def _content(layer: ConvLayer) -> tuple[tuple[int, ...], bytes]:
    return layer.kernel.shape, np.ascontiguousarray(layer.kernel, dtype=np.float32).tobytes()


def _like(layer: ConvLayer, known: ConvLayer | None, neighbour: Path) -> ConvLayer:
    if known is None or not layer.assumed:
        return layer
    found = with_geometry_of(layer, known, f"graph of {neighbour.name}")
    return replace(found, batch_norm_scale=known.batch_norm_scale)
