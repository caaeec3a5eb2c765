"""Shapes in an ONNX graph: asked for, inferred, and worked out where inference stops."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ModelError
from . import onnx_tensors as tensors
from .input_shapes import InputShape, assign

# Arrays beyond this are weights, not shapes: they are left to the reader.
_LARGEST_FOLDED = 4096


def count_operators(graph: Any) -> Counter[str]:
    """How often each operator occurs, sub-graphs included; constants are not counted."""
    found: Counter[str] = Counter()
    for node in graph.node:
        if node.op_type not in ("Constant", "Identity"):
            found[node.op_type] += 1
        for inner in tensors.subgraphs(node):
            found += count_operators(inner)
    return found


def infer(proto: Any, path: Path) -> Any:
    """The model with the shapes that ONNX can infer.

    Raises:
        ModelError: they contradict each other.
    """
    import onnx.shape_inference

    try:
        return onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError) as error:
        line = (str(error).strip().splitlines() or [""])[0]
        raise ModelError(f"{path}: its shapes contradict each other: {line}") from None


def fold(proto: Any, store: tensors.Store) -> Any:
    """The model with what its top graph computes from constants and known shapes put in as constants.

    Shape inference stops at padding and reshapes whose amounts are computed, as exporters like to do.
    """
    import onnx

    folded = onnx.ModelProto()
    folded.CopyFrom(proto)
    graph = folded.graph
    known = {
        tensor.name: store.array(tensor)
        for tensor in graph.initializer
        if int(np.prod(tensor.dims, dtype=np.int64)) <= _LARGEST_FOLDED
    }
    sizes = {value.name: _fixed_shape(value) for value in (*graph.input, *graph.value_info)}
    for node in list(graph.node):
        value = _value(node, known, sizes, store)
        if value is None or value.size > _LARGEST_FOLDED or len(node.output) != 1:
            continue
        known[node.output[0]] = value
        graph.initializer.append(onnx.numpy_helper.from_array(value, node.output[0]))
        graph.node.remove(node)
    return folded


def _value(node: Any, known: dict[str, Any], sizes: dict[str, Any], store: tensors.Store) -> Any:
    """What a node computes, None where that is not known."""
    if node.op_type == "Constant":
        value = store.constant_node(node)
        return value if value is not None and value.size <= _LARGEST_FOLDED else None
    if node.op_type == "Shape" and not node.attribute and sizes.get(node.input[0]) is not None:
        return np.asarray(sizes[node.input[0]], dtype=np.int64)
    if node.op_type.startswith("Random") or not node.input or any(tensors.subgraphs(node)):
        return None
    if not all(name in known for name in node.input if name):
        return None
    try:
        return tensors.evaluate(node, [known.get(name) for name in node.input])
    except Exception:  # noqa: BLE001  # an operator that the reference evaluator does not have
        return None


def _fixed_shape(value: Any) -> list[int] | None:
    dims = value.type.tensor_type.shape.dim
    if not value.type.tensor_type.HasField("shape") or not all(dim.dim_value > 0 for dim in dims):
        return None
    return [dim.dim_value for dim in dims]


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
