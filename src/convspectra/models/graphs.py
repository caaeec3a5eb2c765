"""The one door to whole networks, as `read` is the one to convolutions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import InputError, ModelError
from . import sample_shapes
from .graph_builder import LARGEST
from .operations import Graph, Move, Node, OpenShape, Refused, complete
from .reading import first_line, reading
from .sample_shapes import SampleShape
from .sniff import Format, format_of


def read_graph(
    path: str | Path | None = None, *, sample_shape: SampleShape | None = None, module: Any = None
) -> Graph:
    """Every operation of a network that somebody else made, between its inputs and its outputs.

    Arguments:
        path: an ONNX file or an exported program (`.pt2`), told apart by content; with `module` its weights.
        sample_shape: channels and sizes of one input, without the batch: for graphs with open sizes, and for
            tracing. For a graph with several inputs a dictionary by their names.
        module: a live `torch.nn.Module`, or `"package.module:factory"`; traced by `torch.export`.

    Returns:
        `Graph`, all of its sizes known. A node that is not read is `Refused`, with the reason.

    Raises:
        ModelError: the file is missing, damaged, holds code, or holds weights without a graph.
        InputError: an option that contradicts the model, a size that is not fixed, a missing library.
    """
    file = None if path is None else Path(path)
    sample_shape = sample_shapes.check(sample_shape)
    if module is not None:
        return _traced(module, sample_shapes.of_one_input(sample_shape, "module="), file)
    if file is None:
        raise InputError("give a model file, or module='package.module:factory'")
    with reading(file):
        kind = format_of(file)
    if kind not in WITH_GRAPH:
        raise ModelError(
            f"{file} holds weights ({kind}) and no graph: give an ONNX or .pt2 file, or name the code with "
            "module='package.module:factory' and sample_shape"
        )
    with reading(file, kind):
        return bounded(stored_graph(file, kind, sample_shape))


WITH_GRAPH: tuple[Format, ...] = ("onnx", "torch.export")
"""Formats whose `formats/<format>/reader.py` has `read_graph(path, sample_shape=...)`."""


def stored_graph(file: Path, kind: Format, sample_shape: SampleShape | None) -> Graph:
    """The graph in a file of a format that holds one, as far as it can be read.

    Raises: as `read_graph`; open sizes are none.
    """
    name = f".formats.{kind.replace('.', '_')}.reader"
    graph: Graph = import_module(name, __package__).read_graph(file, sample_shape=sample_shape)
    return graph


MOVED_ENTRIES = 2**26
"""Entries whose places a graph may hold, 8 bytes each, and those that one node may read and make."""


def bounded(graph: Graph) -> Graph:
    """The graph for whoever needs all of its sizes: what is open, or too large, is refused.

    Raises:
        InputError: it has no input, or one of open size or without floating point.
    """
    for reason in graph.unfit.values():
        raise InputError(f"{graph.path or graph.name}: {reason}")
    if not graph.inputs:
        raise InputError(f"{graph.path or graph.name}: the graph has no input; give a model that has one")
    for name, shape in graph.inputs.items():
        if fault := _size_fault(shape):
            raise InputError(f"{graph.path or graph.name}: input {name!r} {fault}")
    return replace(graph, nodes=tuple(_bounded(graph.nodes, graph.shapes)))


def _bounded(nodes: Sequence[Node], shapes: Mapping[str, OpenShape]) -> Iterator[Node]:
    room = MOVED_ENTRIES
    for node in nodes:
        if isinstance(node.operation, Refused):
            yield node
            continue
        fault = _size_fault(shapes.get(node.output))
        if not fault and isinstance(node.operation, Move) and node.operation.positions is not None:
            read, made = (math.prod(complete(shapes[name])) for name in (node.inputs[0], node.output))
            room -= made
            if read + made > MOVED_ENTRIES or room < 0:
                fault = (
                    f"moves more than {MOVED_ENTRIES} entries, or all such nodes do; "
                    "give another sample_shape"
                )
            else:
                fault = _moving_fault(node.operation)
        yield replace(node, operation=Refused(f"it {fault}")) if fault else node


def _moving_fault(move: Move) -> str:
    try:
        _ = move.index
    except Exception as error:  # noqa: BLE001  # whatever an operator makes of amounts of any type and value
        return f"contradicts its operator or its inputs: {type(error).__name__}: {first_line(error)}"
    return ""


def _size_fault(shape: OpenShape | None) -> str:
    if shape is None or None in shape:
        return "makes a tensor whose sizes are not all known"
    entries = math.prod(complete(shape))
    if 1 <= entries <= LARGEST:
        return ""
    more = f"more than {LARGEST}" if entries else "no"
    return f"makes a tensor of {more} entries; give another sample_shape"


def _traced(module: Any, sample_shape: tuple[int, ...] | None, file: Path | None) -> Graph:
    from . import live
    from .formats.torch_export.reader import trace_graph

    made, name, _ = live.opened(module, sample_shape, file)
    return bounded(trace_graph(made, sample_shape or (), name=name, path=file))
