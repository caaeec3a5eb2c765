"""The network that an ONNX file holds, as a `Graph` of few kinds of operations."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from ....errors import InputError, ModelError
from ...budget import Budget
from ...graph_builder import Builder, UnsupportedError, translating
from ...input_shapes import InputShape
from ...names import layer_name
from ...operations import Graph
from . import evaluation as constants
from . import inference as shapes
from . import operators as operations
from . import store as tensors
from .step import Step

_NAMED_BY_WEIGHT = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "PRelu")


def read_graph(path: Path, *, input_shape: InputShape | None = None) -> Graph:
    """The nodes of an ONNX model, what they compute from constants and shapes alone worked out.

    Arguments:
        path: the `.onnx` file; external data is read only from inside its own folder.
        input_shape: the sizes of one input, without the batch, or those of several by their names, for
            graphs that leave them open; an open batch is 1.

    Raises:
        ModelError: no ONNX model, a truncated one, a node that reads what nothing before it makes (a cycle, a
            missing input), external data that is missing or outside.
        InputError: `input_shape` contradicts the graph, an input is of open size or holds no floating point,
            shapes do not fit.

    Operators without a proven constant become `Refused` nodes; they are an error for who needs them.
    """
    data = path.read_bytes()
    budget = Budget(path, stored=len(data))
    proto = shapes.inlined(tensors.parse(data, path), budget)
    shapes.set_input_shape(proto.graph, input_shape)
    opset = tensors.opset(proto)
    builder = Builder()
    reader = _Reader(builder, tensors.Store(path, budget), opset, budget)
    inputs = reader.inputs(proto.graph)
    for node in proto.graph.node:
        reader.node(node)
    outputs = tuple(value.name for value in proto.graph.output)
    for name in outputs:
        if name not in builder.dependent and name not in builder.constants:
            raise ModelError(f"{path}: no node makes the output {name!r}; the graph is not complete")
    return Graph(
        name=path.name,
        format="onnx",
        inputs=inputs,
        outputs=tuple(name for name in outputs if name in builder.dependent),
        nodes=tuple(builder.nodes),
        shapes=builder.shapes,
        path=str(path),
        sha256=hashlib.sha256(data).hexdigest(),
    )


class _Reader:
    """One pass over the nodes of the top graph."""

    def __init__(self, builder: Builder, store: tensors.Store, opset: int, budget: Budget) -> None:
        self.builder, self.store, self.opset, self.budget = builder, store, opset, budget

    def inputs(self, graph: Any) -> dict[str, tuple[int, ...]]:
        """Take the initialisers, and the inputs that are none."""
        import onnx

        floating = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)
        for tensor in graph.initializer:
            self.builder.constants[tensor.name] = self.store.array(tensor)
        found = {}
        for value in graph.input:
            if value.name in self.builder.constants:
                continue
            kind = value.type.tensor_type
            sizes = tuple(dim.dim_value for dim in kind.shape.dim)
            if not kind.HasField("shape") or min(sizes, default=1) < 1:
                shown = [dim.dim_value or dim.dim_param or "?" for dim in kind.shape.dim]
                raise InputError(
                    f"{self.store.path}: the size of input {value.name!r} {shown} is open: give --input-shape"
                )
            if kind.elem_type not in (*floating, onnx.TensorProto.BFLOAT16):
                word = onnx.TensorProto.DataType.Name(kind.elem_type)
                raise InputError(
                    f"{self.store.path}: input {value.name!r} must hold floating point for a Lipschitz "
                    f"constant; it holds {word}"
                )
            self.builder.add_input(value.name, sizes)
            found[value.name] = sizes
        if not found:
            raise InputError(f"{self.store.path}: the graph has no input; give a model that has one")
        return found

    def node(self, node: Any) -> None:
        """Work a node out, or translate it, or refuse it."""
        label = self.label(node)
        standard = node.domain in ("", "ai.onnx")
        operator = node.op_type if standard else f"{node.domain}::{node.op_type}"
        read = [name for name in node.input if name]
        for name in read:
            if name not in self.builder.dependent and name not in self.builder.constants:
                raise ModelError(
                    f"{self.store.path}: {operator} {label!r} reads {name!r}, which no node before it makes: "
                    "the graph has a cycle, an input is missing, or its nodes are out of order"
                )
        outputs = [name for name in node.output if name]
        for name in outputs:
            if name in self.builder.dependent or name in self.builder.constants:
                raise ModelError(f"{self.store.path}: {operator} {label!r} makes {name!r} a second time")
        try:
            if any(tensors.subgraphs(node)):
                raise UnsupportedError("which of its graphs runs, and how often, may depend on the input")
            if not standard:
                raise UnsupportedError("an operator from outside of ONNX")
            if not self._folded(node, label, read):
                self._translated(node, label, read)
        except UnsupportedError as error:
            reads = read or list(self.builder.dependent)[:1]
            for name in outputs:
                if name not in self.builder.dependent:
                    self.builder.refuse(label, operator, str(error), reads, name)

    def label(self, node: Any) -> str:
        """By its weight where it has one, as the names of layers are; else by its own name."""
        own = str(node.name or (node.output[0] if node.output else node.op_type))
        if node.op_type not in _NAMED_BY_WEIGHT:
            return own
        weights = [name for name in node.input[:2] if name in self.builder.constants]
        return layer_name(weights[-1], fallback=own) if weights else own

    def _folded(self, node: Any, label: str, read: list[str]) -> bool:
        """Whether the node is a constant, which is then kept."""
        if node.op_type == "Constant":
            value = self.store.constant_node(node)
            if value is None:
                raise UnsupportedError("a constant of a kind that is not read")
        elif node.op_type == "Shape" and self.builder.known(read[0]):
            found = tensors.attributes(node)
            sizes = self.builder.shapes[read[0]][found.get("start", 0) : found.get("end")]
            value = np.asarray(sizes, dtype=np.int64)
        elif node.op_type == "Size" and self.builder.known(read[0]):
            value = np.asarray(np.prod(self.builder.shapes[read[0]]), dtype=np.int64)
        elif any(name in self.builder.dependent for name in read):
            return False
        else:
            inputs = [self.builder.constants.get(name) for name in node.input]
            try:
                values = constants.evaluate(node, inputs, self.opset, self.budget)
            except constants.NotConstantError as error:
                raise UnsupportedError(f"a constant {error}") from None
            self.builder.constants.update(zip(node.output, values, strict=False))
            return True
        self.builder.constants[node.output[0]] = value
        return True

    def _translated(self, node: Any, label: str, read: list[str]) -> None:
        for name in read:
            if name in self.builder.dependent and not self.builder.known(name):
                raise UnsupportedError(f"it reads {name!r}, of which nothing is known")
        rule = operations.TABLE.get(node.op_type)
        if rule is None:
            raise UnsupportedError(
                operations.REASONS.get(node.op_type, "an operator without a proven constant here")
            )
        with translating(node.op_type, label):
            rule(Step(self.builder, node, label, tensors.attributes(node), self.opset))
