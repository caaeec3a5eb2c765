"""Shapes in an ONNX graph: asked for, inferred, and worked out where inference stops."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ....errors import ModelError
from ...budget import Budget, BudgetError
from ...input_shapes import InputShape, assign
from . import store as tensors
from .evaluation import NotConstantError, evaluate

# Arrays beyond this are weights, not shapes: they are left to the reader.
_LARGEST_FOLDED = 4096

_ROUNDS = 16

_NESTED_GRAPHS = 8  # each may hold two of the next


def count_operators(graph: Any) -> Counter[str]:
    """How often each operator occurs, sub-graphs included; constants are not counted."""
    nodes = (node for part in tensors.graphs(graph) for node in part.node)
    return Counter(node.op_type for node in nodes if node.op_type not in ("Constant", "Identity"))


def inlined(proto: Any, budget: Budget) -> Any:
    """The model with its local functions put in where they are called.

    Raises:
        ModelError: functions that call each other in a circle, or graphs inside graphs beyond the budget.
    """
    import onnx.inliner

    calls = {_key(function): Counter(_calls(function)) for function in proto.functions}
    sizes: dict[Any, int] = {}
    for first in calls:
        waiting = [first]
        while waiting:
            key = waiting[-1]
            inner = [one for one in calls[key] if one in calls and one not in sizes]
            if any(one in waiting for one in inner):
                raise ModelError(f"{budget.path}: its local functions call each other in a circle")
            waiting.extend(inner[:1])
            if not inner:
                sizes[key] = sum(sizes.get(one, 1) * count for one, count in calls[key].items())
                waiting.pop()
    whole = sum(sizes.get(key, 1) for key in _calls(proto.graph))
    budget.evaluate("its graph, with all functions put in,", whole)
    _check_depth(proto.graph, budget)
    if not proto.functions:
        return proto
    for function in proto.functions:
        _check_depth(function, budget)
    whole_model = onnx.inliner.inline_local_functions(proto)
    _check_depth(whole_model.graph, budget)
    return whole_model


def _key(node: Any) -> tuple[str, str]:
    return node.domain, getattr(node, "op_type", "") or node.name


def _calls(graph: Any) -> list[tuple[str, str]]:
    return [_key(node) for part in tensors.graphs(graph) for node in part.node]


def _check_depth(graph: Any, budget: Budget) -> None:
    level, depth = [graph], 0
    while level:
        budget.descend(depth, "a graph", _NESTED_GRAPHS)
        level = [inner for part in level for node in part.node for inner in tensors.subgraphs(node)]
        depth += 1


def infer(proto: Any, path: Path) -> Any:
    """The model with the shapes that ONNX can infer.

    Raises:
        ModelError: they contradict each other.
    """
    import onnx.shape_inference

    try:
        return onnx.shape_inference.infer_shapes(proto)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError, MemoryError, TypeError) as error:
        line = (str(error).strip().splitlines() or ["inference ran out of memory"])[0]
        raise ModelError(f"{path}: its shapes contradict each other: {line}") from None


def work_out(proto: Any, store: tensors.Store) -> Any:
    """The model with all shapes that inference finds, computed padding and reshapes taken into account.

    The inference of ONNX stops at amounts that are computed, as exporters like to do. They are evaluated
    here, from constants and known shapes, and put in as constants, as often as that gives more. Its own
    propagation of values is not used: a small file can make it fill the memory.
    """
    proto = infer(proto, store.path)
    for _ in range(_ROUNDS):
        if not _fold(proto, store):
            break
        proto = infer(proto, store.path)
    return proto


def _fold(proto: Any, store: tensors.Store) -> bool:
    """Put in what the top graph computes from constants and known shapes; whether there was any."""
    import onnx

    graph, version = proto.graph, tensors.opset(proto)
    values = (*graph.input, *graph.value_info, *graph.output)
    sizes = {one.name: _sizes(one) for one in values if one.type.tensor_type.HasField("shape")}
    if all(name in sizes and None not in sizes[name] for node in graph.node for name in node.output):
        return False
    known: dict[str, Any] = {
        tensor.name: store.array(tensor)
        for tensor in graph.initializer
        if math.prod(tensor.dims) <= _LARGEST_FOLDED and tensor.data_type != onnx.TensorProto.STRING
    }
    kept = []
    for node in graph.node:
        value = _value(node, known, sizes, store, version)
        if value is not None and value.size <= _LARGEST_FOLDED:
            known[node.output[0]] = value
        # Values of more axes are weights, which keep their names and their nodes.
        if value is None or value.ndim > 1 or value.dtype.kind not in "fiub":
            kept.append(node)
        else:
            graph.initializer.append(onnx.numpy_helper.from_array(value, node.output[0]))
    found = len(kept) < len(graph.node)
    if found:
        del graph.node[:]
        graph.node.extend(kept)
    return found


def _value(
    node: Any, known: dict[str, Any], sizes: dict[str, Any], store: tensors.Store, version: int
) -> Any:
    """What a node computes, None where that is not known or large; a size that is open is a None in it."""
    if len(node.output) != 1:
        return None
    if node.op_type == "Constant":
        value = store.constant_node(node)
        return value if value is not None and value.size <= _LARGEST_FOLDED else None
    if not node.input or (node.op_type == "Shape" and node.input[0] not in sizes):
        return None
    if node.op_type == "Shape":
        found = tensors.attributes(node)
        known_sizes = sizes[node.input[0]][found.get("start", 0) : found.get("end")]
        if None in known_sizes:
            known[node.output[0]] = np.asarray(known_sizes, dtype=object)  # for those that take a part of it
            return None
        return np.asarray(known_sizes, dtype=np.int64)
    if not all(name in known for name in node.input if name):
        return None
    inputs = [known.get(name) for name in node.input]
    first, places = inputs[0], inputs[1] if len(inputs) > 1 else None
    if any(value is not None and value.dtype == object for value in inputs):
        if node.op_type != "Gather" or first is None or places is None or places.dtype == object:
            return None
        part = np.take(first, places)
        return None if None in part.reshape(-1) else part.astype(np.int64)
    try:
        return evaluate(node, inputs, version, store.budget)[0]
    except (NotConstantError, BudgetError):
        return None


def _sizes(value: Any) -> tuple[int | None, ...]:
    """The sizes of a value, None for one that is open."""
    return tuple(dim.dim_value if dim.dim_value > 0 else None for dim in value.type.tensor_type.shape.dim)


def set_input_shape(graph: Any, input_shape: InputShape | None) -> None:
    """Take what the graph does not fix as unknown, open batch sizes as 1, and inputs as asked for.

    Sizes that the graph states behind its inputs are dropped where one of those is asked for: they may
    belong to another size.

    Raises:
        InputError: as `input_shapes.assign`.
    """
    for part in tensors.graphs(graph):
        for value in (*part.input, *part.value_info, *part.output):
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_value <= 0:
                    dim.ClearField("dim_value")
    weights = {tensor.name for tensor in graph.initializer}
    inputs = {value.name: value for value in graph.input if value.name not in weights}
    asked = assign(input_shape, {name: _axes(value) for name, value in inputs.items()})
    for name, value in inputs.items():
        dims = value.type.tensor_type.shape.dim
        if len(dims) >= 2 and dims[0].dim_value <= 0:
            dims[0].dim_value = 1
        for dim, size in zip(dims[1:], asked.get(name, ()), strict=False):
            dim.dim_value = size
    for part in tensors.graphs(graph) if asked else ():
        for value in (*part.value_info, *part.output):
            value.type.tensor_type.ClearField("shape")


def _axes(value: Any) -> list[int | str]:
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.dim_value > 0 else dim.dim_param or "?" for dim in dims]
