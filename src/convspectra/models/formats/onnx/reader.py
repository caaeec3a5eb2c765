"""ONNX files: the network as a graph of few kinds of operations, sub-graphs and local functions included."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ....errors import GeometryError, ModelError
from ...budget import Budget
from ...graph_builder import Builder, UnsupportedError, translating
from ...names import layer_name, says_weight
from ...operations import Graph, Move, StoredLayer
from ...reading import first_line
from ...records import ConvLayer, Unread
from ...sample_shapes import SampleShape
from ...step import Step, Tensor
from ...weights import linear, stated_convolution
from . import inference, kernels, operators
from . import store as tensors
from .conv_geometry import stated_geometry
from .evaluation import NotConstantError
from .scope import Scope, Values

Array = np.ndarray[Any, Any]

IN_A_BODY = "which of its graphs runs, and how often, may depend on the input"
UNKNOWN_SIZE = "input size unknown in the graph: give sample_shape"

_NAMED_BY_WEIGHT = ("BatchNormalization", "PRelu")
_FLOATS = ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16")


def read_graph(path: Path, *, sample_shape: SampleShape | None = None) -> Graph:
    """The nodes of an ONNX model, what they compute from constants and known sizes alone worked out.

    Arguments:
        path: the `.onnx` file; external data is read only from inside its own folder.
        sample_shape: the sizes of one input, without the batch, or those of several by their names, for
            graphs that leave them open; an open batch is 1.

    Returns:
        `Graph` of format `onnx`. Weights that the graph computes from constants are worked out; those stored
        as integers are dequantised. A node that is not read is `Refused`, with the reason; one that may be a
        layer is so marked.

    Raises:
        ModelError: no ONNX model, a truncated one, external data that is missing or outside, or one that
            would cost more than `budget` allows.
        InputError: `sample_shape` contradicts the graph.
    """
    data = path.read_bytes()
    budget = Budget(path, stored=len(data))
    proto = inference.inlined(tensors.parse(data, path), budget)
    inference.set_sample_shape(proto.graph, sample_shape)
    graph = Reader(tensors.Store(path, budget), proto).graph
    return replace(graph, sha256=hashlib.sha256(data).hexdigest())


class Reader:
    """One pass over a model's graph and its sub-graphs.

    Attributes:
        graph: what was read.
        sources: of each layer, by its name: its node, the name of its weights there, and the scope of both.
    """

    def __init__(self, store: tensors.Store, proto: Any) -> None:
        self.store, self.opset = store, tensors.opset(proto)
        self.values = Values(store, self.opset)
        self.constants = _Constants(self.values)
        self.builder = Builder(self.constants)
        self.weights: dict[str, tuple[Any, str, Scope]] = {}  # the same by the layer's output
        self.made: set[str] = set()
        top = inference.Inference(self.values).scope(proto.graph)
        self.builder.tensors.given.update(top.types)
        self._graph(proto.graph, top)
        self.sources = {
            node.name: self.weights[node.output]
            for node in self.builder.nodes
            if isinstance(node.layer, StoredLayer)
        }
        inputs = [one for one in proto.graph.input if one.name not in top.constants]
        outputs = [self._output(one.name, top) for one in proto.graph.output]
        self.graph = Graph(
            name=store.path.name,
            format="onnx",
            inputs={one.name: self.builder.shapes.get(one.name, ()) for one in inputs},
            outputs=tuple(name for name in outputs if self.builder.depends(name)),
            nodes=tuple(self.builder.nodes),
            shapes=self.builder.shapes,
            operators=inference.count_operators(proto.graph),
            unfit=dict(_unfit(inputs)),
            path=str(store.path),
        )

    def _graph(self, graph: Any, scope: Scope) -> None:
        """The nodes of one graph, behind its inputs and constants."""
        for name in (*scope.inputs, *scope.constants, *scope.sparse):
            self.made.add(self._key(name, scope))
        for place, node in enumerate(graph.node):
            made = []
            read = [self._key(name, scope) for name in node.input]
            for inner, within in scope.inner.get(place, ()):
                for one in inner.input:
                    self.builder.refuse(one.name, node.op_type, IN_A_BODY, read, self._key(one.name, within))
                self._graph(inner, within)
                made += [self._key(one.name, within) for one in inner.output]
            if any(name in scope.chosen for name in node.output):
                self._chosen(node, scope)
            else:
                self._node(node, scope, made)

    def _key(self, name: str, scope: Scope) -> str:
        """The name of a tensor in the graph that is made, where each has its own; "" for none."""
        home = scope.home(name) or scope
        if name and name not in home.keys:
            key = home.keys[name] = name if home.outer is None else self.builder.tensors.unique(name)
            self.constants.places[key] = name, home
            sizes = scope.sizes(name)
            if name in home.dependent:
                self.builder.add_input(key, None if sizes is None else tuple(sizes))
        return home.keys.get(name, "")

    def _chosen(self, node: Any, scope: Scope) -> None:
        """What an If makes whose branch is known: what that branch makes."""
        for name in filter(None, node.output):
            key, inside = self._key(name, scope), self._key(*scope.chosen[name])
            self._make(key, node)
            if self.builder.depends(key):
                label = kernels.label(node)
                try:
                    self.builder.add(label, "If", Move(self.builder.sizes(inside)), [inside], key)
                except UnsupportedError as error:
                    self.builder.refuse(label, "If", str(error), [inside], key)

    def _make(self, key: str, node: Any) -> None:
        """Note that a node makes a tensor.

        Raises:
            ModelError: another node makes it as well.
        """
        if key in self.made:
            operator = tensors.operator(node)
            raise ModelError(
                f"{self.store.path}: {operator} {kernels.label(node)!r} makes {key!r} a second time"
            )
        self.made.add(key)

    def _output(self, name: str, scope: Scope) -> str:
        key = self._key(name, scope)
        if key not in self.made:
            reason = f"no node makes the output {name!r}; the graph is not complete"
            self.builder.refuse(name, "output", reason, [], key)
        return key

    def _node(self, node: Any, scope: Scope, inside: list[str]) -> None:
        """Translate a node, or refuse it; what only makes constants is worked out where it is read.

        Arguments:
            inside: what the graphs inside of it make.
        """
        operator = tensors.operator(node)
        read = [self._key(name, scope) for name in node.input]
        outputs = [self._key(name, scope) for name in node.output]
        missing = next((name for name in read if name and name not in self.made), None)
        for key in filter(None, outputs):
            self._make(key, node)
        if any(outputs) and not any(map(self.builder.depends, outputs)) and self._is_evaluated(node, scope):
            return
        layer = self._layer(node, scope)
        label = layer.layer.name if isinstance(layer, StoredLayer) else self._label(node, scope)
        outputs = outputs if any(outputs) else [self.builder.tensors.unique(label)]
        if isinstance(layer, StoredLayer):
            self.weights[outputs[0]] = node, layer.tensor, scope
        reason = "an output without a proven constant"
        try:
            with translating():
                if missing:
                    raise UnsupportedError(
                        f"reads {missing!r}, which no node before it makes: the graph has a cycle, an input "
                        "is missing, or its nodes are out of order"
                    )
                if any(tensors.subgraphs(node)):
                    raise UnsupportedError(IN_A_BODY)
                rule = operators.TABLE.get(operator)
                if rule is None:
                    raise UnsupportedError(operators.reason(node))
                found = arguments(node, read, self.opset)
                rule(Step(self.builder, label, operator, found, outputs, layer, (node, self.opset)))
        except UnsupportedError as error:
            reason = str(error)
        for key in outputs:
            if key and key not in self.builder.producers:
                self.builder.refuse(label, operator, reason, [*read, *inside], key, layer)
                layer = None

    def _is_evaluated(self, node: Any, scope: Scope) -> bool:
        """Whether a node of constants is no layer: one that is and cannot be worked out is named."""
        known = kernels.OPERATORS.get(tensors.operator(node))
        return known is None or any(self.values.get(name, scope) is not None for name in node.output if name)

    def _label(self, node: Any, scope: Scope) -> str:
        """What a node is called that is no layer: by its weights where it has some, else by its own name."""
        weights = [name for name in node.input[:2] if name and not scope.depends(name)]
        own = kernels.label(node)
        return layer_name(weights[-1], own) if weights and node.op_type in _NAMED_BY_WEIGHT else own

    def _layer(self, node: Any, scope: Scope) -> StoredLayer | Unread | None:
        """The layer that a node is; what may be one and is not read; None for everything else."""
        known = kernels.OPERATORS.get(tensors.operator(node))
        try:
            if known is None:
                if kernels.may_be_layer(node) and self._has_weights(node, scope):
                    raise NotConstantError(f"those of {tensors.operator(node)}, an operator that is not read")
                return None
            return (self._linear if known.kind == "linear" else self._convolution)(node, known, scope)
        except NotConstantError as error:
            reason = f"its weights are {error}"
        except ModelError:
            raise
        except Exception as error:  # noqa: BLE001  # attributes and tensors of any type and shape
            reason = f"it contradicts its operator or its inputs: {type(error).__name__}: {first_line(error)}"
        return Unread(f"{node.op_type} {kernels.label(node)}", None, reason)

    def _has_weights(self, node: Any, scope: Scope) -> bool:
        """Whether an input is a constant matrix or more."""
        found = [self.values.get(name, scope) for name in node.input if name]
        return any(value is not None and value.ndim >= 2 for value in found)

    def _stored(self, node: Any, known: kernels.Weights, scope: Scope, layer: ConvLayer) -> StoredLayer:
        """A layer, named by its weights."""
        weight = node.input[known.weight]
        stored, tensor = kernels.stored_in(weight, scope)
        name = kernels.plain_name(weight if says_weight(weight) else stored, node)
        integers = known.quantised or (tensor is not None and tensors.is_integer(tensor))
        return StoredLayer(replace(layer, name=name), weight, integers)

    def _linear(self, node: Any, known: kernels.Weights, scope: Scope) -> StoredLayer | None:
        """A linear layer as a 1x1 convolution on one point; None where not one factor alone is constant."""
        factors = [place for place in (known.weight, 0) if place < len(node.input)]
        fixed = [place for place in factors if not scope.depends(node.input[place])]
        if "MatMul" in node.op_type and len(fixed) != 1:
            return None
        place = fixed[0] if node.op_type == "MatMul" else known.weight
        known = replace(known, weight=place)
        matrix = kernels.kernel(node, known, scope, self.values)
        if matrix.ndim == 1:
            matrix = matrix[:, None] if place else matrix[None, :]
        if matrix.ndim != 2:
            raise NotConstantError(f"of shape {matrix.shape}; a matrix is read")
        out_in, alpha = out_in_of(node, place, matrix)
        scaled = np.ascontiguousarray(out_in if alpha == 1 else out_in.astype(np.float64) * alpha)
        return self._stored(node, known, scope, linear("", scaled, "graph"))

    def _convolution(self, node: Any, known: kernels.Weights, scope: Scope) -> StoredLayer:
        """A convolution or a transposed one, with what its own attributes say."""
        kernel = kernels.kernel(node, known, scope, self.values)
        transposed, axes = known.kind == "conv_transpose", kernel.ndim - 2
        if axes not in (1, 2, 3):
            raise NotConstantError(f"of shape {kernel.shape}; kernels with 1 to 3 spatial axes are read")
        geometry, reason = None, UNKNOWN_SIZE
        size = [n for n in (scope.sizes(node.input[0]) or [])[2:] if n is not None]
        if len(size) == axes == len(scope.sizes(node.input[0]) or []) - 2:
            try:
                found = tensors.attributes(node)
                geometry, reason = stated_geometry(transposed, found, size, kernel.shape[2:]), ""
            except GeometryError as error:
                reason = str(error)
        layer = stated_convolution("", kernel, transposed, geometry, "graph", reason)
        return self._stored(node, known, scope, layer)


def arguments(node: Any, inputs: list[str], opset: int) -> dict[str, Any]:
    """A node's inputs and attributes by the names of its operator's definition, inputs first.

    Raises:
        UnsupportedError: there are more inputs than it has, or one is missing.
    """
    import onnx

    found: dict[str, Any] = {}
    formal = list(onnx.defs.get_schema(node.op_type, opset, "").inputs)
    options = onnx.defs.OpSchema.FormalParameterOption
    for place, one in enumerate(formal):
        if one.option == options.Variadic:
            found[one.name] = list(map(Tensor, inputs[place:]))
            break
        given = inputs[place] if place < len(inputs) else ""
        if not given and one.option == options.Single:
            raise UnsupportedError(f"it has no {one.name}")
        found[one.name] = Tensor(given) if given else None
    else:
        if len(inputs) > len(formal):
            raise UnsupportedError(f"it has {len(inputs)} inputs, and its operator {len(formal)}")
    return found | {name: value for name, value in tensors.attributes(node).items() if name not in found}


class _Constants(dict[str, Array]):
    """Constants by their names in the graph that is made, worked out when they are read."""

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.made_by = values
        self.places: dict[str, tuple[str, Scope]] = {}

    def __missing__(self, key: str) -> Array:
        try:
            return self.made_by.require(*self.places[key])
        except NotConstantError as error:
            raise UnsupportedError(f"a constant {error}") from None


def _unfit(inputs: list[Any]) -> Iterator[tuple[str, str]]:
    """The inputs that a Lipschitz constant cannot be with respect to, and why."""
    import onnx

    for value in inputs:
        kind = value.type.tensor_type
        word = onnx.TensorProto.DataType.Name(kind.elem_type)
        if not kind.HasField("shape") or not all(dim.dim_value > 0 for dim in kind.shape.dim):
            shown = [dim.dim_value or dim.dim_param or "?" for dim in kind.shape.dim]
            yield value.name, f"the size of input {value.name!r} {shown} is open: give sample_shape"
        elif word not in _FLOATS:
            yield (
                value.name,
                f"input {value.name!r} must hold floating point for a Lipschitz constant; it holds {word}",
            )


def out_in_of(node: Any, place: int, matrix: Array) -> tuple[Array, float]:
    """The matrix at an input of a linear layer as (out, in), and the factor that comes before it."""
    if "Gemm" in node.op_type:
        found = tensors.attributes(node)
        return matrix if found.get("transB", 0) else matrix.T, float(found.get("alpha", 1.0))
    return matrix.T if place else matrix, 1.0
