"""The one door to all readers."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import InputError, ModelError
from . import geometry_file, neighbours, sample_shapes
from .graphs import WITH_GRAPH, stored_graph
from .layers import model_of
from .reading import reading
from .records import Model
from .sample_shapes import SampleShape
from .sniff import Format, format_of

MAX_LAYERS = 50_000
"""The largest mixtures of experts have about as many."""


def read_model(
    path: str | Path | None = None,
    *,
    sample_shape: SampleShape | None = None,
    geometry: str | Path | None = None,
    module: Any = None,
) -> Model:
    """The convolutions of a model that somebody else made.

    Arguments:
        path: an ONNX, safetensors, PyTorch (state dict or exported program) or TensorFlow
            checkpoint file; told apart by content. May be left out when `module` is given.
        sample_shape: channels and sizes of one input, without the batch, such as (3, 224, 224): for
            graphs with open sizes, for tracing, and assumed for bare weights. For a graph with several
            inputs a dictionary by their names, such as {"image": (3, 224, 224), "state": (128,)}.
        geometry: a geometry file (see `geometry_file`) for what the model does not say.
        module: a live `torch.nn.Module`, or `"package.module:factory"`; traced once at
            `sample_shape`, with the weights of `path` if given.

    Returns:
        `Model`. What bare weights do not say comes, in this order, from `module`, from `geometry`,
        from a file beside it of the same stem (`.toml`, `.onnx`), or is assumed and marked.

    Raises:
        ModelError: the file is missing, damaged, holds code, or is no model.
        InputError: an option that contradicts the model or itself, or a reader's library is missing.
    """
    file = None if path is None else Path(path)
    sample_shape = sample_shapes.check(sample_shape)
    own_geometry = None if geometry is None else Path(geometry)
    if own_geometry is not None:
        sample_shape = sample_shape or geometry_file.default_sample_shape(own_geometry)
    if module is not None:
        from .live import read as trace

        model = trace(module, sample_shape=sample_shapes.of_one_input(sample_shape, "module="), path=file)
    elif file is not None:
        model = _read_file(file, sample_shape)
    else:
        raise InputError("give a model file, or module='package.module:factory'")
    if own_geometry is not None:
        model = geometry_file.apply(model, own_geometry)
    return model


def _read_file(path: Path, sample_shape: SampleShape | None) -> Model:
    with reading(path):
        kind = format_of(path)
    if kind != "onnx":
        sample_shape = sample_shapes.of_one_input(sample_shape, f"{path} ({kind})")
    with reading(path, kind):
        model = neighbours.complete(_read(kind, path, sample_shape), path, sample_shape)
        if len(model.layers) > MAX_LAYERS:
            raise ModelError(
                f"{path} ({kind}) holds {len(model.layers):,} layers; at most {MAX_LAYERS:,} are taken from "
                "one file: save it in parts"
            )
        return model


def _read(kind: Format, path: Path, sample_shape: SampleShape | None) -> Model:
    """What the format's own reader finds; it is imported only now."""
    if kind in WITH_GRAPH:
        return model_of(stored_graph(path, kind, sample_shape))
    module = import_module(f".formats.{kind}.reader", __package__)
    model: Model = module.read(path, sample_shape=sample_shape)
    return model
