"""The one door to whole networks, as `read` is the one to convolutions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import InputError, ModelError
from . import input_shapes
from .input_shapes import InputShape
from .operations import Graph
from .reading import reading
from .sniff import format_of


def read_graph(
    path: str | Path | None = None, *, input_shape: InputShape | None = None, module: Any = None
) -> Graph:
    """Every operation of a network that somebody else made, between its inputs and its outputs.

    Arguments:
        path: an ONNX file or an exported program (`.pt2`), told apart by content; with `module` its weights.
        input_shape: channels and sizes of one input, without the batch: for graphs with open sizes, and for
            tracing. For a graph with several inputs a dictionary by their names.
        module: a live `torch.nn.Module`, or `"package.module:factory"`; traced by `torch.export`.

    Raises:
        ModelError: the file is missing, damaged, holds code, or holds weights without a graph.
        InputError: an option that contradicts the model, a size that is not fixed, a missing library.
    """
    file = None if path is None else Path(path)
    input_shape = input_shapes.check(input_shape)
    if module is not None:
        return _traced(module, input_shapes.of_one_input(input_shape, "--model"), file)
    if file is None:
        raise InputError("give a model file, or --model package.module:factory")
    with reading(file):
        kind = format_of(file)
    with reading(file, kind):
        if kind == "onnx":
            from .formats.onnx import network

            return network.read_graph(file, input_shape=input_shape)
        if kind == "torch.export":
            from .formats.torch_export import program

            return program.read_graph(file)
    raise ModelError(
        f"{file} holds weights ({kind}) and no graph: give an ONNX or .pt2 file, or name the code with "
        "--model package.module:factory and --input-shape"
    )


def _traced(module: Any, input_shape: tuple[int, ...] | None, file: Path | None) -> Graph:
    from . import live
    from .formats.torch_export import program

    label = module if isinstance(module, str) else type(module).__name__
    made = live.build(module) if isinstance(module, str) else module
    if input_shape is None:
        raise InputError(f"--model {label} is traced once: give its --input-shape, such as 3,224,224")
    if file is not None:
        live.load_into(made, file)
    return program.trace_graph(made, input_shape, name=file.name if file else label, path=file)
