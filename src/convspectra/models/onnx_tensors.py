"""Tensors of an ONNX file: parsing, external data, and constants that other nodes make of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..errors import ModelError

# Operators through which exporters hand on a weight. Anything else is computed at run time.
FOLDABLE = frozenset(
    ["Identity", "Cast", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "DequantizeLinear", "Mul", "Div"]
)


def parse(data: bytes, path: Path) -> Any:
    """The ModelProto in these bytes.

    Raises:
        ModelError: they hold none, or one that was cut off.
    """
    import onnx
    from google.protobuf.message import DecodeError

    if not data:
        raise ModelError(f"{path} is empty; expected an ONNX model")
    try:
        proto = onnx.ModelProto.FromString(data)
    except DecodeError:
        raise ModelError(f"{path} is not an ONNX model, or it is truncated") from None
    if not proto.HasField("graph") or not proto.graph.node:
        raise ModelError(f"{path} is not an ONNX model: it holds no graph")
    return proto


def attributes(node: Any) -> dict[str, Any]:
    """A node's attributes as Python values, sub-graphs left out; words as `str`."""
    import onnx

    graphs = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    found = {}
    for attribute in node.attribute:
        if attribute.type not in graphs:
            value = onnx.helper.get_attribute_value(attribute)
            found[attribute.name] = value.decode() if isinstance(value, bytes) else value
    return found


def subgraphs(node: Any) -> list[Any]:
    """The graphs inside a node: branches, loop bodies."""
    found = []
    for attribute in node.attribute:
        found.extend([*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])])
    return found


def graphs(graph: Any) -> Iterator[Any]:
    """A graph and all graphs inside its nodes, whatever their depth."""
    waiting = [graph]
    while waiting:
        found = waiting.pop()
        yield found
        waiting.extend(inner for node in found.node for inner in subgraphs(node))


def evaluate(node: Any, inputs: list[np.ndarray[Any, Any] | None]) -> np.ndarray[Any, Any]:
    """What one node makes of constants, by the reference implementation of its operator."""
    from onnx.reference import ReferenceEvaluator

    feeds = {name: value for name, value in zip(node.input, inputs, strict=True) if name}
    evaluator: Any = ReferenceEvaluator(node)
    return np.asarray(evaluator.run(None, feeds)[0])


def evaluate_all(
    node: Any, inputs: list[np.ndarray[Any, Any] | None], opset: int
) -> list[np.ndarray[Any, Any]]:
    """All outputs of one node for these inputs, as its operator is defined in this version of ONNX."""
    from onnx.reference import ReferenceEvaluator

    axes = attributes(node).get("axes")
    if node.op_type in ("Squeeze", "Unsqueeze") and axes is not None and inputs[0] is not None:
        # The evaluator knows only the form of version 13, where the axes are an input.
        change: Any = np.squeeze if node.op_type == "Squeeze" else np.expand_dims
        return [np.asarray(change(inputs[0], tuple(axes)))]
    feeds = {name: value for name, value in zip(node.input, inputs, strict=True) if name}
    evaluator: Any = ReferenceEvaluator(node, opsets={"": opset})
    return [np.asarray(value) for value in evaluator.run(None, feeds)]


class Store:
    """Arrays of a model's tensors, external data only from inside the model's own folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def array(self, tensor: Any) -> np.ndarray[Any, Any]:
        """The values of a tensor; bfloat16 as float32.

        Raises:
            ModelError: values that are missing, cut off, or lie outside of the folder.
        """
        import onnx

        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            self._load(tensor)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        expected = math.prod(tensor.dims) * dtype.itemsize
        if tensor.raw_data and dtype.itemsize > 0 and len(tensor.raw_data) < expected and dtype.kind in "fiu":
            raise ModelError(
                f"{self.path}: tensor {tensor.name!r} holds {len(tensor.raw_data)} of {expected} bytes; "
                "the file is truncated"
            )
        try:
            array = onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError) as error:
            raise ModelError(f"{self.path}: tensor {tensor.name!r} cannot be read: {error}") from None
        if array.dtype.kind not in "fiub":
            array = array.astype(np.float32)
        return np.asarray(array)

    def constant_node(self, node: Any) -> np.ndarray[Any, Any] | None:
        """The value of a Constant node."""
        for attribute in node.attribute:
            if attribute.name == "value":
                return self.array(attribute.t)
        found = attributes(node)
        for name in ("value_float", "value_floats", "value_int", "value_ints"):
            if name in found:
                return np.asarray(found[name])
        return None

    def _load(self, tensor: Any) -> None:
        import onnx

        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        folder = self.path.parent.resolve()
        target = (folder / location).resolve()
        escapes = PurePosixPath(location).is_absolute() or not target.is_relative_to(folder)
        if not location or escapes:
            raise ModelError(
                f"{self.path}: tensor {tensor.name!r} points outside of the model's folder, to {location!r}; "
                "external data is read only from inside it"
            )
        if not target.is_file():
            raise ModelError(
                f"{self.path}: the external data {location!r} of tensor {tensor.name!r} is missing; "
                "put it beside the model"
            )
        try:
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        except (OSError, ValueError, onnx.checker.ValidationError) as error:
            reason = str(error).splitlines()[0]
            raise ModelError(f"{self.path}: external data {location!r} cannot be read: {reason}") from None
