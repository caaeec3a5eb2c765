"""Tensors of an ONNX file: parsing, external data, and constants that other nodes make of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ....errors import ModelError
from ...budget import Budget


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


def opset(proto: Any) -> int:
    """The version of ONNX's own operators that a model is written in."""
    return max((one.version for one in proto.opset_import if one.domain in ("", "ai.onnx")), default=1)


def operator(node: Any) -> str:
    """The operator in full: its own name in ONNX, `domain::name` elsewhere."""
    return str(node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}")


def attributes(node: Any) -> dict[str, Any]:
    """A node's attributes as Python values, sub-graphs left out; words as `str`."""
    import onnx

    graphs = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    found = {}
    for attribute in node.attribute:
        if attribute.type not in graphs:
            value = onnx.helper.get_attribute_value(attribute)
            found[attribute.name] = value.decode(errors="replace") if isinstance(value, bytes) else value
    return found


def is_integer(tensor: Any) -> bool:
    """Whether a tensor is stored as integers."""
    import onnx

    return "INT" in onnx.TensorProto.DataType.Name(tensor.data_type)


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


class Store:
    """Arrays of a model's tensors, external data only from inside the model's own folder."""

    def __init__(self, path: Path, budget: Budget) -> None:
        self.path, self.budget = path, budget
        self.beside: dict[Path, int] = {}  # files of external data, and their sizes

    def array(self, tensor: Any) -> np.ndarray[Any, Any]:
        """The values of a tensor; floats that NumPy does not have as float32.

        Raises:
            ModelError: values that are missing, cut off, no real numbers, or lie outside of the folder.
        """
        import onnx

        try:
            kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            shape = tuple(tensor.dims)
            if kind.kind in "OSUc" or min(shape, default=0) < 0:
                raise ValueError(f"{onnx.TensorProto.DataType.Name(tensor.data_type)} of shape {shape}")
            name = onnx.TensorProto.DataType.Name(tensor.data_type)
            bits = 4 if name.endswith(("INT4", "FLOAT4E2M1")) else 8 * kind.itemsize
            bits = 2 if name.endswith("INT2") else bits
            expected = -(-math.prod(shape) * bits // 8)
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                self._load(tensor, expected)
            if tensor.HasField("raw_data") and len(tensor.raw_data) < expected:
                raise ValueError(
                    f"it holds {len(tensor.raw_data)} of {expected} bytes; the file is truncated"
                )
            array = onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError, LookupError, RuntimeError, OverflowError) as error:
            if isinstance(error, ModelError):
                raise
            raise ModelError(f"{self.path}: tensor {tensor.name!r} cannot be read: {error}") from None
        return np.asarray(array if array.dtype.kind in "fiub" else array.astype(np.float32))

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

    def _load(self, tensor: Any, expected: int) -> None:
        """Put the bytes of a tensor's external data into it."""
        import onnx

        entries = {entry.key: entry.value for entry in tensor.external_data}
        location, label = entries.get("location", ""), f"{self.path}: tensor {tensor.name!r}"
        try:
            folder = self.path.parent.resolve()
            target = (folder / location).resolve()
            inside = location and not PurePosixPath(location).is_absolute() and target.is_relative_to(folder)
            is_file = target.is_file()
        except (OSError, ValueError, RuntimeError):  # a NUL, a name too long, links in a circle
            raise ModelError(f"{label} has external data of an impossible name, {location[:80]!r}") from None
        if not inside:
            raise ModelError(
                f"{label} points outside of the model's folder, to {location!r}; "
                "external data is read only from inside it"
            )
        if not is_file:
            raise ModelError(
                f"{self.path}: the external data {location!r} of tensor {tensor.name!r} is missing; "
                "put it beside the model"
            )
        if target not in self.beside:
            self.beside[target] = target.stat().st_size
            self.budget.store(self.beside[target])
        try:
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", expected))
        except ValueError:
            offset = length = -1
        if offset < 0 or length != expected or offset + length > self.beside[target]:
            raise ModelError(
                f"{label} needs {expected} bytes of external data; its entry is offset "
                f"{entries.get('offset', '0')!r}, length {entries.get('length', 'none')!r}, in "
                f"{location!r} of {self.beside[target]} bytes"
            )
        self.budget.take(length, f"tensor {tensor.name!r}")
        with target.open("rb") as file:
            file.seek(offset)
            tensor.raw_data = file.read(length)
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
