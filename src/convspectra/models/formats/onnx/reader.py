"""ONNX files: kernels, geometry and input sizes from the graph itself."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ....errors import GeometryError, InputError
from ....geometry import ConvGeometry, PaddingMode
from ...budget import Budget
from ...input_shapes import InputShape
from ...names import Names, says_weight
from ...records import ConvLayer, Model, Unread
from . import inference as shapes
from . import kernels as weights
from . import store as tensors
from .conv_geometry import PAD_MODES, pad_pairs, stated_geometry
from .evaluation import NotConstantError
from .scope import Scope, Values

Array = np.ndarray[Any, Any]

UNKNOWN_SIZE = "input size unknown in the graph: give --input-shape"
_SHOWN = 5


def read(path: Path, *, input_shape: InputShape | None = None) -> Model:
    """Every convolution and linear layer of an ONNX model, sub-graphs and local functions included.

    Arguments:
        path: the `.onnx` file; external data is read only from inside its own folder.
        input_shape: the sizes of one input, without the batch, or those of several by their names, for
            graphs that leave them open.

    Returns:
        `Model` of format `onnx`, layers in graph order. Sizes come from ONNX shape inference. A
        `Pad` node whose output only a convolution reads is taken into its geometry. Weights that the graph
        computes from constants are worked out; those stored as integers are dequantised, and a note says so.
        A layer whose weights are computed at run time is among `unread`.

    Raises:
        ModelError: no ONNX model, a truncated one, external data that is missing or outside, or one that
            would cost more than `budget` allows.
        InputError: `input_shape` contradicts the graph.
    """
    data = path.read_bytes()
    budget = Budget(path, stored=len(data))
    proto = shapes.inlined(tensors.parse(data, path), budget)
    operators = shapes.count_operators(proto.graph)
    shapes.set_input_shape(proto.graph, input_shape)
    store = tensors.Store(path, budget)
    reader = Reader(store, shapes.work_out(proto, store))
    return Model(
        name=path.name,
        format="onnx",
        layers=tuple(reader.layers),
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        other=dict(operators - reader.taken),
        notes=tuple(reader.all_notes()),
        unread=tuple(reader.unread),
    )


class Reader:
    """One pass over a model's graph and its sub-graphs."""

    def __init__(self, store: tensors.Store, proto: Any) -> None:
        self.store, self.values = store, Values(store, tensors.opset(proto))
        self.layers: list[ConvLayer] = []
        self.unread: list[Unread] = []
        self.taken: Counter[str] = Counter()
        self.notes: list[str] = []
        self.dequantised: list[str] = []
        self.names = Names()
        self.kernels: dict[str, str] = {}
        self.sources: dict[str, tuple[Any, str, Scope]] = {}  # by layer: its node, its weight, and where
        self._graph(proto.graph, None)

    def all_notes(self) -> list[str]:
        """What the user should know of the layers."""
        if not self.dequantised:
            return self.notes
        shown = ", ".join(map(repr, self.dequantised[:_SHOWN]))
        more = f" and {len(self.dequantised) - _SHOWN} more" if len(self.dequantised) > _SHOWN else ""
        return [*self.notes, f"dequantised: the kernels of {shown}{more} are stored as integers with a scale"]

    def _graph(self, graph: Any, outer: Scope | None) -> None:
        """Collect the layers of one graph."""
        scope = Scope.of(graph, outer)
        for node in graph.node:
            self._node(node, scope)
            for inner in tensors.subgraphs(node):
                self._graph(inner, scope)

    def _node(self, node: Any, scope: Scope) -> None:
        """Take one node: a layer, something that may be one and is not read, or something else."""
        known = weights.OPERATORS.get(weights.operator(node))
        try:
            if known is None:
                layer = None
                if weights.may_be_layer(node) and self._has_weights(node, scope):
                    raise NotConstantError(f"those of {weights.operator(node)}, an operator that is not read")
            elif known.kind == "linear":
                layer = self._linear(node, known, scope)
            else:
                layer = self._convolution(node, known, scope)
        except NotConstantError as error:
            self._skip(node, f"its weights are {error}")
            return
        except InputError:
            raise
        except Exception as error:  # noqa: BLE001  # attributes and tensors of any type and shape
            line = (str(error).strip().splitlines() or [""])[0]
            self._skip(node, f"it contradicts its operator or its inputs: {type(error).__name__}: {line}")
            return
        if layer is not None:
            self.layers.append(layer)
            self.taken[node.op_type] += 1

    def _skip(self, node: Any, reason: str) -> None:
        self.unread.append(Unread(f"{node.op_type} {weights.label(node)}", None, reason))

    def _has_weights(self, node: Any, scope: Scope) -> bool:
        """Whether an input is a constant matrix or more."""
        found = [self.values.get(name, scope) for name in node.input if name]
        return any(value is not None and value.ndim >= 2 for value in found)

    def _named(self, node: Any, weight: str, scope: Scope, quantised: bool) -> str:
        stored, tensor = weights.stored_in(weight, scope)
        stated = weight if says_weight(weight) else stored
        name = self.names.unique(weights.plain_name(stated, node))
        if weight in self.kernels:
            self.notes.append(f"{name!r} uses the same weights as {self.kernels[weight]!r}")
        self.kernels.setdefault(weight, name)
        self.sources[name] = (node, weight, scope)
        if quantised or (tensor is not None and tensors.is_integer(tensor)):
            self.dequantised.append(name)
        return name

    def _linear(self, node: Any, known: weights.Weights, scope: Scope) -> ConvLayer | None:
        """A linear layer as a 1x1 convolution on one point; None where not one factor alone is constant."""
        factors = [place for place in (known.weight, 0) if place < len(node.input)]
        fixed = [place for place in factors if self._is_fixed(node.input[place], scope)]
        if "MatMul" in node.op_type and len(fixed) != 1:
            return None
        place = fixed[0] if node.op_type == "MatMul" else known.weight
        matrix = weights.kernel(node, replace(known, weight=place), scope, self.values)
        if matrix.ndim == 1:
            matrix = matrix[:, None] if place else matrix[None, :]
        if matrix.ndim != 2:
            raise NotConstantError(f"of shape {matrix.shape}; a matrix is read")
        out_in, alpha = out_in_of(node, place, matrix)
        if alpha != 1:
            out_in = out_in * np.asarray(alpha, dtype=out_in.dtype)
        return ConvLayer(
            name=self._named(node, node.input[place], scope, known.quantised),
            kind="linear",
            kernel=np.ascontiguousarray(out_in)[..., None],
            layout="OIW",
            geometry=ConvGeometry((1,)),
            source="graph",
        )

    def _is_fixed(self, name: str, scope: Scope) -> bool:
        """Whether a tensor is the same for every input, be it readable or not."""
        return not scope.depends(name) or self.values.get(name, scope) is not None

    def _convolution(self, node: Any, known: weights.Weights, scope: Scope) -> ConvLayer:
        """A convolution or a transposed one."""
        kernel = weights.kernel(node, known, scope, self.values)
        transposed = known.kind == "conv_transpose"
        axes = kernel.ndim - 2
        if axes not in (1, 2, 3):
            raise NotConstantError(f"of shape {kernel.shape}; kernels with 1 to 3 spatial axes are read")
        name = self._named(node, node.input[known.weight], scope, known.quantised)
        geometry, reason = None, ""
        try:
            geometry = self._geometry(node, transposed, scope, kernel.shape[2:], name)
        except GeometryError as error:
            reason = str(error)
        return ConvLayer(
            name=name,
            kind=f"{known.kind}{axes}d",
            kernel=kernel,
            layout=("IO" if transposed else "OI") + "DHW"[-axes:],
            geometry=geometry,
            batch_norm_scale=self._batch_norm_scale(node, scope),
            source="graph",
            reason=reason,
        )

    def _geometry(
        self, node: Any, transposed: bool, scope: Scope, taps: tuple[int, ...], name: str
    ) -> ConvGeometry:
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
        while pad is not None and pad.op_type in ("QuantizeLinear", "DequantizeLinear"):  # 0 stays 0
            pad = scope.find("producers", pad.input[0])
        if pad is not None and pad.op_type == "Pad":
            merged = self._merged_pad(pad, scope, axes, pads)
            if merged is None:
                self.notes.append(f"{name!r} reads a Pad node that is not part of the geometry given here")
            else:
                pads, mode, data = *merged, pad.input[0]
        shape = scope.find("shapes", data)
        size = None if shape is None else shape[2:]
        if size is None or len(size) != axes or None in size:
            raise GeometryError(UNKNOWN_SIZE)
        return stated_geometry(transposed, found, size, taps, pads, mode)

    def _merged_pad(
        self, pad: Any, scope: Scope, axes: int, own: tuple[tuple[int, int], ...]
    ) -> tuple[tuple[tuple[int, int], ...], PaddingMode] | None:
        """The padding of a Pad node and the convolution behind it, where the two are one padding."""
        found = tensors.attributes(pad)
        mode = PAD_MODES.get(found.get("mode", "constant"))
        amounts = found.get("pads")
        value = found.get("value", 0.0)
        if amounts is None and len(pad.input) > 1:
            amounts = self.values.get(pad.input[1], scope)
            if len(pad.input) > 2 and pad.input[2]:
                value = self.values.get(pad.input[2], scope)
            if len(pad.input) > 3 and pad.input[3]:
                return None
        if mode is None or amounts is None or value is None or np.size(value) != 1 or np.any(value):
            return None
        sides = np.asarray(amounts, dtype=int).reshape(2, -1)
        if sides.shape[1] != axes + 2 or sides.min() < 0 or sides[:, :2].any():
            return None
        if any(map(any, own)) and mode != "zeros":
            return None
        spatial = sides[:, 2:].T + np.asarray(own)
        return tuple((int(before), int(after)) for before, after in spatial), mode

    def _batch_norm_scale(self, node: Any, scope: Scope) -> Array | None:
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
        gamma, variance = (self.values.get(node.input[i], scope) for i in (1, 4))
        if gamma is None or variance is None:
            return None
        with np.errstate(all="ignore"):  # what comes out is checked where it is used
            variance = variance.astype(np.float64) + found.get("epsilon", 1e-5)
            return np.asarray(gamma.astype(np.float64) / np.sqrt(variance))


def out_in_of(node: Any, place: int, matrix: Array) -> tuple[Array, float]:
    """The matrix at an input of a linear layer as (out, in), and the factor that comes before it."""
    if "Gemm" in node.op_type:
        found = tensors.attributes(node)
        return matrix if found.get("transB", 0) else matrix.T, float(found.get("alpha", 1.0))
    return matrix.T if place else matrix, 1.0
