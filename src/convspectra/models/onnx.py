"""ONNX files: kernels, geometry and input sizes from the graph itself."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import GeometryError, ModelError
from ..geometry import ConvGeometry, PaddingMode
from . import onnx_shapes as shapes
from . import onnx_tensors as tensors
from .input_shapes import InputShape
from .names import Names, layer_name
from .records import ConvLayer, Model

UNKNOWN_SIZE = "input size unknown in the graph: give --input-shape"
PAD_MODES: dict[str, PaddingMode] = {
    "constant": "zeros",
    "reflect": "reflect",
    "edge": "replicate",
    "wrap": "circular",
}
_CONVOLUTIONS = {"Conv": False, "ConvTranspose": True}


def read(path: Path, *, input_shape: InputShape | None = None) -> Model:
    """Every convolution and linear layer of an ONNX model, sub-graphs and local functions included.

    Arguments:
        path: the `.onnx` file; external data is read only from inside its own folder.
        input_shape: the sizes of one input, without the batch, or those of several by their names, for
            graphs that leave them open.

    Returns:
        `Model` of format `onnx`, layers in graph order. Sizes come from ONNX shape inference. A
        `Pad` node whose output only a convolution reads is taken into its geometry. A layer whose
        weights are computed at run time is counted and named in the notes.

    Raises:
        ModelError: no ONNX model, a truncated one, or external data that is missing or outside.
        InputError: `input_shape` contradicts the graph.
    """
    import onnx.inliner

    data = path.read_bytes()
    proto = tensors.parse(data, path)
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    operators = shapes.count_operators(proto.graph)
    shapes.set_input_shape(proto.graph, input_shape)
    store = tensors.Store(path)
    proto = shapes.infer(proto, path)
    reader = Reader(store)
    reader.graph(proto.graph, Scope())
    if any(layer.reason == UNKNOWN_SIZE for layer in reader.layers):
        folded = shapes.infer(shapes.fold(proto, store), path)
        reader = Reader(store)
        reader.graph(folded.graph, Scope())
    return Model(
        name=path.name,
        format="onnx",
        layers=tuple(reader.layers),
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        other=dict(operators - reader.taken),
        notes=tuple(reader.notes),
    )


@dataclass
class Scope:
    """What the nodes of a graph can see: its own values and, in sub-graphs, those around it."""

    outer: Scope | None = None
    shapes: dict[str, list[int | None]] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    producers: dict[str, Any] = field(default_factory=dict)
    consumers: dict[str, list[Any]] = field(default_factory=dict)
    outputs: set[str] = field(default_factory=set)

    def find(self, table: str, name: str) -> Any:
        scope: Scope | None = self
        while scope is not None:
            found = getattr(scope, table).get(name)
            if found is not None:
                return found
            scope = scope.outer
        return None


class Reader:
    """One pass over a graph and its sub-graphs."""

    def __init__(self, store: tensors.Store) -> None:
        self.store = store
        self.layers: list[ConvLayer] = []
        self.taken: Counter[str] = Counter()
        self.notes: list[str] = []
        self.names = Names()
        self.kernels: dict[str, str] = {}
        self.sources: dict[str, tuple[Any, str, Scope]] = {}  # by layer: its node, its weight, and where

    def graph(self, graph: Any, scope: Scope) -> None:
        """Collect the layers of one graph."""
        for value in (*graph.input, *graph.value_info, *graph.output):
            if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape"):
                scope.shapes[value.name] = [
                    dim.dim_value if dim.dim_value > 0 else None for dim in value.type.tensor_type.shape.dim
                ]
        scope.outputs = {value.name for value in graph.output}
        scope.constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            for name in node.input:
                scope.consumers.setdefault(name, []).append(node)
            for name in node.output:
                scope.producers[name] = node
        for node in graph.node:
            self.node(node, scope)

    def node(self, node: Any, scope: Scope) -> None:
        """Take one node: a layer, a constant, something with sub-graphs, or something else."""
        if node.op_type in _CONVOLUTIONS and node.domain in ("", "ai.onnx"):
            self.take(node, scope, self.convolution)
        elif node.op_type in ("Gemm", "MatMul") and self.linear_weight(node, scope) is not None:
            self.take(node, scope, self.linear)
        for graph in tensors.subgraphs(node):
            self.graph(graph, Scope(outer=scope))

    def take(self, node: Any, scope: Scope, read_layer: Any) -> None:
        layer = read_layer(node, scope)
        if layer is None:
            label = node.name or (node.output[0] if node.output else node.op_type)
            self.notes.append(f"{node.op_type} {label!r}: its weights are computed at run time; not analysed")
            return
        self.layers.append(layer)
        self.taken[node.op_type] += 1

    def named(self, node: Any, weight: str, scope: Scope) -> str:
        name = self.names.unique(layer_name(weight, fallback=node.name or node.op_type))
        if weight in self.kernels:
            self.notes.append(f"{name!r} uses the same weights as {self.kernels[weight]!r}")
        self.kernels.setdefault(weight, name)
        self.sources[name] = (node, weight, scope)
        return name

    def constant(self, name: str, scope: Scope) -> np.ndarray[Any, Any] | None:
        """The value of a tensor that does not depend on the input."""
        tensor = scope.find("constants", name)
        if tensor is not None:
            return self.store.array(tensor)
        node = scope.find("producers", name)
        if node is None:
            return None
        if node.op_type == "Constant":
            return self.store.constant_node(node)
        if node.op_type not in tensors.FOLDABLE:
            return None
        inputs = [self.constant(one, scope) if one else None for one in node.input]
        if any(value is None for one, value in zip(node.input, inputs, strict=True) if one):
            return None
        return tensors.evaluate(node, inputs)

    def linear_weight(self, node: Any, scope: Scope) -> str | None:
        """The name of the constant matrix of a MatMul or Gemm."""
        for name in reversed(node.input[:2]):
            value = self.constant(name, scope)
            if value is not None and value.ndim == 2 and (node.op_type == "MatMul" or name == node.input[1]):
                return str(name)
        return None

    def linear(self, node: Any, scope: Scope) -> ConvLayer | None:
        """A linear layer as a 1x1 convolution on one point."""
        name = self.linear_weight(node, scope)
        matrix = None if name is None else self.constant(name, scope)
        if name is None or matrix is None:
            return None
        out_in, alpha = out_in_of(node, name, matrix)
        if alpha != 1:
            out_in = out_in * np.asarray(alpha, dtype=out_in.dtype)
        return ConvLayer(
            name=self.named(node, name, scope),
            kind="linear",
            kernel=np.ascontiguousarray(out_in)[..., None],
            layout="OIW",
            geometry=ConvGeometry((1,)),
            source="graph",
        )

    def convolution(self, node: Any, scope: Scope) -> ConvLayer | None:
        """A Conv or ConvTranspose."""
        kernel = self.constant(node.input[1], scope)
        if kernel is None:
            return None
        transposed = _CONVOLUTIONS[node.op_type]
        axes = kernel.ndim - 2
        if axes not in (1, 2, 3):
            raise ModelError(
                f"{node.op_type} {node.name!r} has a kernel of shape {kernel.shape}; "
                "kernels with 1 to 3 spatial axes are read"
            )
        name = self.named(node, node.input[1], scope)
        layout = ("IO" if transposed else "OI") + "DHW"[-axes:]
        geometry, reason = None, ""
        try:
            geometry = self.geometry(node, scope, kernel.shape[2:], name)
        except GeometryError as error:
            reason = str(error)
        return ConvLayer(
            name=name,
            kind=f"conv{'_transpose' if transposed else ''}{axes}d",
            kernel=kernel,
            layout=layout,
            geometry=geometry,
            batch_norm_scale=self.batch_norm_scale(node, scope),
            source="graph",
            reason=reason,
        )

    def geometry(self, node: Any, scope: Scope, taps: tuple[int, ...], name: str) -> ConvGeometry:
        """The geometry that a node states.

        Raises:
            GeometryError: an unknown size, or something that `ConvGeometry` cannot hold.
        """
        found = tensors.attributes(node)
        axes = len(taps)
        data = node.input[0]
        pads = pad_pairs(found.get("pads"), axes)
        mode: PaddingMode = "zeros"
        pad = scope.find("producers", data)
        if pad is not None and pad.op_type == "Pad":
            merged = self.merged_pad(pad, scope, axes, pads)
            if merged is None:
                self.notes.append(f"{name!r} reads a Pad node that is not part of the geometry given here")
            else:
                pads, mode, data = *merged, pad.input[0]
        shape = scope.find("shapes", data)
        size = None if shape is None else shape[2:]
        if size is None or len(size) != axes or None in size:
            raise GeometryError(UNKNOWN_SIZE)
        return stated_geometry(node.op_type, found, size, taps, pads, mode)

    def merged_pad(
        self, pad: Any, scope: Scope, axes: int, own: tuple[tuple[int, int], ...]
    ) -> tuple[tuple[tuple[int, int], ...], PaddingMode] | None:
        """The padding of a Pad node and the convolution behind it, where the two are one padding."""
        found = tensors.attributes(pad)
        mode = PAD_MODES.get(found.get("mode", "constant"))
        amounts = found.get("pads")
        value = found.get("value", 0.0)
        if amounts is None and len(pad.input) > 1:
            amounts = self.constant(pad.input[1], scope)
            if len(pad.input) > 2 and pad.input[2]:
                value = self.constant(pad.input[2], scope)
            if len(pad.input) > 3 and pad.input[3]:
                return None
        if mode is None or amounts is None or value is None or float(np.max(value)) != 0:
            return None
        sides = np.asarray(amounts, dtype=int).reshape(2, -1)
        if sides.shape[1] != axes + 2 or sides.min() < 0 or sides[:, :2].any():
            return None
        if any(map(any, own)) and mode != "zeros":
            return None
        spatial = sides[:, 2:].T + np.asarray(own)
        return tuple((int(before), int(after)) for before, after in spatial), mode

    def batch_norm_scale(self, node: Any, scope: Scope) -> np.ndarray[Any, Any] | None:
        """`gamma / sqrt(var + eps)` of the only consumer, if that is a batch norm at inference."""
        for _ in range(8):
            name = node.output[0]
            readers = scope.consumers.get(name, [])
            if len(readers) != 1 or name in scope.outputs or readers[0].input[0] != name:
                return None
            node = readers[0]
            if node.op_type == "BatchNormalization":
                break
            if node.op_type != "Identity":
                return None
        found = tensors.attributes(node)
        if node.op_type != "BatchNormalization" or found.get("training_mode", 0):
            return None
        gamma, variance = (self.constant(node.input[i], scope) for i in (1, 4))
        if gamma is None or variance is None:
            return None
        epsilon = found.get("epsilon", 1e-5)
        return np.asarray(gamma.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon))


def stated_geometry(
    operator: str,
    found: dict[str, Any],
    size: list[int],
    taps: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    mode: PaddingMode = "zeros",
) -> ConvGeometry:
    """The geometry of a Conv or ConvTranspose with these attributes, at an input size.

    Raises:
        GeometryError: something that `ConvGeometry` cannot hold.
    """
    axes = len(taps)
    options: dict[str, Any] = {
        "stride": found.get("strides", [1] * axes),
        "dilation": found.get("dilations", [1] * axes),
        "groups": found.get("group", 1),
        "transposed": _CONVOLUTIONS[operator],
        "padding_mode": mode,
    }
    if options["transposed"]:
        return _transposed_geometry(size, taps, found, pads, options)
    padding = auto_pads(found.get("auto_pad", "NOTSET"), size, taps, options) or pads
    return ConvGeometry(size, padding=padding, **options)


def out_in_of(node: Any, weight: str, matrix: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], float]:
    """The matrix of a Gemm or MatMul as (out, in), and the factor that comes before it."""
    if node.op_type == "Gemm":
        found = tensors.attributes(node)
        return matrix if found.get("transB", 0) else matrix.T, float(found.get("alpha", 1.0))
    return matrix.T if weight == node.input[1] else matrix, 1.0


def pad_pairs(pads: list[int] | None, axes: int) -> tuple[tuple[int, int], ...]:
    if pads is None:
        return ((0, 0),) * axes
    return tuple((pads[i], pads[axes + i]) for i in range(axes))


def auto_pads(
    word: str, size: list[int], taps: tuple[int, ...], options: dict[str, Any]
) -> tuple[tuple[int, int], ...] | None:
    """The pads that `auto_pad` stands for; None where the explicit ones count."""
    if word in ("NOTSET", ""):
        return None
    pairs = []
    for n, k, s, d in zip(size, taps, options["stride"], options["dilation"], strict=True):
        outputs = -(-n // s)
        total = max((outputs - 1) * s + d * (k - 1) + 1 - n, 0) if word != "VALID" else 0
        less, more = total // 2, total - total // 2
        pairs.append((more, less) if word == "SAME_LOWER" else (less, more))
    return tuple(pairs)


def _transposed_geometry(
    size: list[int],
    taps: tuple[int, ...],
    found: dict[str, Any],
    pads: tuple[tuple[int, int], ...],
    options: dict[str, Any],
) -> ConvGeometry:
    """ConvTranspose: `output_shape` or `auto_pad` decide the pads, as the operator's text says."""
    extra = found.get("output_padding", [0] * len(size))
    word = found.get("auto_pad", "NOTSET")
    wanted = found.get("output_shape")
    if wanted is None and word in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [n * s for n, s in zip(size, options["stride"], strict=True)]
    if wanted is not None:
        pairs = []
        for n, k, s, d, e, out in zip(
            size, taps, options["stride"], options["dilation"], extra, wanted[-len(size) :], strict=True
        ):
            total = (n - 1) * s + e + d * (k - 1) + 1 - out
            if total < 0:
                raise GeometryError(f"output_shape {wanted} is larger than the kernel reaches")
            less, more = total // 2, total - total // 2
            pairs.append((less, more) if word == "SAME_UPPER" else (more, less))
        pads = tuple(pairs)
    elif word == "VALID":
        pads = ((0, 0),) * len(size)
    return ConvGeometry(size, padding=pads, output_padding=extra, **options)
