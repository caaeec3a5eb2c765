"""ONNX files with other values in some tensors: graph, names and every other tensor as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ....atomic import atomic
from ...budget import Budget
from ...floats import STORED_TYPES, StoredType, to_bytes
from ...names import Names
from ...records import ConvLayer
from ...writers import NotWritableError, TensorLocation
from . import store as tensors
from .evaluation import run
from .inference import inlined, set_sample_shape
from .reader import Reader, out_in_of
from .scope import Scope

NumpyArray = np.ndarray[Any, Any]

LARGEST_FILE = 2**31 - 2**20
"""Protocol buffers end at 2 GiB: a model beyond this has its tensors in a file beside it."""

_SMALLEST_OUTSIDE = 1024
_MOVING = frozenset(["Identity", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Cast"])


class OnnxWriter:
    """An ONNX model, and for each of its layers the tensor that the kernel comes from.

    Raises:
        ModelError: no ONNX model, a truncated one, or external data that is missing or outside.
    """

    def __init__(self, path: Path) -> None:
        import onnx

        data = path.read_bytes()
        budget = Budget(path, stored=len(data))
        self.store = tensors.Store(path, budget)
        self.proto = tensors.parse(data, path)
        external = onnx.TensorProto.EXTERNAL
        self.was_outside = any(one.data_location == external for one in _all_tensors(self.proto))
        self.opset = tensors.opset(self.proto)
        whole = inlined(self.proto, budget)
        parts = tensors.graphs(whole.graph)
        values = [one for part in parts for one in (*part.input, *part.value_info, *part.output)]
        stated = [deepcopy(value.type) for value in values]
        set_sample_shape(whole.graph, None)  # as for reading: what is open is unknown
        self.reader = Reader(self.store, whole)
        for value, kind in zip(values, stated, strict=True):
            value.type.CopyFrom(kind)
        # Names are unique only within a graph; sub-graphs beside each other may use one twice.
        names = Names()
        self.tensors = {names.unique(tensor.name): tensor for tensor in _weights(self.proto.graph)}

    def location(self, layer: ConvLayer) -> TensorLocation:
        if layer.name not in self.reader.sources:
            raise NotWritableError("no node of the graph as it is stored has this kernel")
        node, weight, scope = self.reader.sources[layer.name]
        tensor, index, name = self._origin(weight, scope)
        key = next((key for key, one in self.tensors.items() if one is tensor or _same(one, tensor)), None)
        if key is None:
            raise NotWritableError(f"its kernel {weight!r} lies in a local function")
        stored = _stored(tensor)
        if stored is None:
            raise NotWritableError(f"tensor {key!r} is not stored as floats")
        factor = 1.0
        if node.op_type in ("Gemm", "MatMul"):
            index, factor = out_in_of(node, list(node.input).index(weight), index)
        if factor == 0:
            raise NotWritableError("its alpha is 0")
        shape = layer.kernel.shape
        return TensorLocation(key, stored, shape, index.reshape(shape), factor, self._note(name, scope))

    def values(self, tensor: str) -> NumpyArray:
        return self.store.array(self.tensors[tensor]).astype(np.float64).reshape(-1)

    def write(self, changed: Mapping[str, NumpyArray], file: BinaryIO, output: Path) -> list[Path]:
        import onnx

        for tensor in _all_tensors(self.proto):
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                self.store.array(tensor)  # loads the bytes
                tensor.data_location = onnx.TensorProto.DEFAULT
                del tensor.external_data[:]
        for name, values in changed.items():
            tensor = self.tensors[name]
            for typed in ("float_data", "double_data", "int32_data"):
                tensor.ClearField(typed)
            tensor.raw_data = to_bytes(values, _stored(tensor) or "float32")
        beside = []
        if sum(len(tensor.raw_data) for tensor in _all_tensors(self.proto)) > LARGEST_FILE:
            beside.append(self._move_outside(output))
        file.write(self.proto.SerializeToString())
        return beside

    def notes(self) -> Iterator[str]:
        if self.was_outside:
            yield "the tensors that lay in external data are in the written file"

    def _move_outside(self, output: Path) -> Path:
        """Put the large tensors into a file beside the output, under a name that is not taken."""
        import onnx

        path, count = output.with_name(f"{output.name}.data"), 1
        while path.exists():
            count += 1
            path = output.with_name(f"{output.name}.{count}.data")
        with atomic(path) as file:
            offset = 0
            for tensor in _all_tensors(self.proto):
                if len(tensor.raw_data) < _SMALLEST_OUTSIDE:
                    continue
                length = file.write(tensor.raw_data)
                onnx.external_data_helper.set_external_data(tensor, path.name, offset=offset, length=length)
                tensor.ClearField("raw_data")
                tensor.data_location = onnx.TensorProto.EXTERNAL
                offset += length
        return path

    def _origin(self, name: str, scope: Scope) -> tuple[Any, NumpyArray, str]:
        """The tensor that a constant comes from, where in it each entry lies, and its name in the graph."""
        tensor, on_the_way = scope.find("constants", name), []
        while tensor is None:
            node = scope.find("producers", name)
            tensor = next((one.t for one in node.attribute if one.name == "value"), None)
            if node.op_type != "Constant" or tensor is None:
                _refuse_computed(node, name)
                on_the_way.append(node)
                name = node.input[0]
                tensor = scope.find("constants", name)
        index = _places(tensor)
        for node in reversed(on_the_way):
            if node.op_type == "Cast":
                value = self.reader.values.get(node.output[0], scope)
                if value is None or not np.array_equal(value, self.store.array(tensor).reshape(-1)[index]):
                    raise NotWritableError(f"its kernel {node.output[0]!r} is a tensor cast to fewer digits")
            else:
                others = [self.reader.values.get(one, scope) if one else None for one in node.input[1:]]
                index = run(node, [index, *others], self.opset)[0]
        return tensor, index, name

    def _note(self, weight: str, scope: Scope) -> str:
        """What else reads a weight and so changes with it."""
        layers = [id(node) for node, _, _ in self.reader.sources.values()]
        others = [node for node in _readers(weight, scope) if id(node) not in layers]
        if not others:
            return ""
        listed = ", ".join(f"{node.op_type} {node.name or node.output[0]!r}" for node in others[:3])
        return f"{weight!r} is also read by {listed}"


open_file = OnnxWriter


def _refuse_computed(node: Any, name: str) -> None:
    """Raise the NotWritableError of a constant that is more than moved or cast."""
    if node.op_type not in _MOVING:
        words = " (quantized)" if node.op_type == "DequantizeLinear" else ""
        raise NotWritableError(f"its kernel {name!r} is computed by {node.op_type}{words} and stored nowhere")


def _readers(name: str, scope: Scope) -> Iterator[Any]:
    """The nodes that use a value, also what others only rearrange of it."""
    names, seen = [name], {name}
    for one in names:
        for node in scope.find("consumers", one) or []:
            if node.op_type not in _MOVING:
                yield node
                continue
            names += [output for output in node.output if output not in seen]
            seen.update(node.output)


def _places(tensor: Any) -> NumpyArray:
    return np.arange(int(np.prod(tensor.dims, dtype=np.int64))).reshape(tuple(tensor.dims))


def _same(first: Any, second: Any) -> bool:
    """A named tensor that inlining has copied."""
    return bool(first.name) and first.name == second.name and first == second


def _stored(tensor: Any) -> StoredType | None:
    import onnx

    name = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
    name = {"float": "float32", "double": "float64"}.get(name, name)
    return next((stored for stored in STORED_TYPES if stored == name), None)


def _all_tensors(proto: Any) -> Iterator[Any]:
    """Every tensor of a model, those of its functions included."""
    yield from _weights(proto.graph)
    for function in proto.functions:
        yield from _of_nodes(function.node)


def _weights(graph: Any) -> Iterator[Any]:
    """The tensors of a graph, those in its nodes and sub-graphs included."""
    yield from graph.initializer
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Any) -> Iterator[Any]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
        for inner in tensors.subgraphs(node):
            yield from _weights(inner)
