"""The convolutions and linear layers of a graph, each with the padding in front and the batch norm behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import GeometryError
from ..geometry import ConvGeometry
from .operations import Affine, Array, AxisMatrices, Graph, Move, Node, Operation, StoredLayer
from .records import ConvLayer, Model, Unread

_SHOWN = 5

# Quantisation keeps zeros: padding in front of it is padding behind it.
_KEEP_ZEROS = ("QuantizeLinear", "DequantizeLinear")


def model_of(graph: Graph) -> Model:
    """What is a layer in a graph, as `analyze` and all that measures single layers want it.

    Returns:
        `Model`, layers in the order of the nodes. Padding whose output a convolution reads is part of its
        geometry where the two are one padding, else a note says so; the scale of a batch norm goes with the
        layer whose output nothing else reads.
    """
    producers = {node.output: node for node in graph.nodes}
    readers = Counter(name for node in graph.nodes for name in node.inputs) + Counter(graph.outputs)
    behind = {node.inputs[0]: node for node in graph.nodes if node.inputs}
    layers, notes, dequantised, unread = [], [], [], []
    first: dict[str, str] = {}
    for node in graph.nodes:
        if isinstance(node.layer, Unread):
            unread.append(node.layer)
        if not isinstance(node.layer, StoredLayer):
            continue
        layer, note = _padded(replace(node.layer.layer, name=node.name), node, producers)
        layers.append(replace(layer, batch_norm_scale=_batch_norm_scale(node, graph, readers, behind)))
        notes += note
        if node.layer.tensor in first:
            notes.append(f"{node.name!r} uses the same weights as {first[node.layer.tensor]!r}")
        first.setdefault(node.layer.tensor, node.name)
        if node.layer.dequantised:
            dequantised.append(node.name)
    if dequantised:
        shown = ", ".join(map(repr, dequantised[:_SHOWN]))
        more = f" and {len(dequantised) - _SHOWN} more" if len(dequantised) > _SHOWN else ""
        notes.append(f"dequantised: the kernels of {shown}{more} are stored as integers with a scale")
    taken = Counter(node.operator for node in graph.nodes if isinstance(node.layer, StoredLayer))
    return Model(
        name=graph.name,
        format=graph.format,
        layers=tuple(layers),
        path=None if graph.path is None else Path(graph.path),
        sha256=graph.sha256,
        other=dict(Counter(graph.operators) - taken),
        notes=tuple(notes),
        unread=tuple(unread),
    )


def with_padding(geometry: ConvGeometry, shape: tuple[int, ...], padding: Operation) -> ConvGeometry | None:
    """The geometry of a convolution and padding in front of it; None where they are not one padding.

    Arguments:
        geometry: of the convolution by itself, whose input is the padded one.
        shape: of its kernel.
    """
    if not isinstance(padding, Move) or padding.padding is None or geometry.transposed:
        return None
    mode, pads = padding.padding
    try:
        own = geometry.correlation(shape).padding
    except GeometryError:  # which is told of the layer by itself
        return None
    sizes = tuple(n - sum(pair) for n, pair in zip(geometry.input_shape, pads[2:], strict=True))
    # Beyond one whole input formats do not agree on what lies there; the nearest point is always the same.
    widest = (n - 1 if mode == "reflect" else n for n in sizes)
    reaches = mode != "replicate" and any(
        max(pair) > most for most, pair in zip(widest, pads[2:], strict=True)
    )
    if any(map(any, pads[:2])) or min(sizes) < 1:
        return None
    if {mode, geometry.padding_mode} != {"zeros"} and (reaches or any(map(any, own))):
        return None
    both = tuple((before + a, after + b) for (before, after), (a, b) in zip(pads[2:], own, strict=True))
    return replace(geometry, input_shape=sizes, padding=both, padding_mode=mode)


def _padded(layer: ConvLayer, node: Node, producers: Mapping[str, Node]) -> tuple[ConvLayer, list[str]]:
    """The layer with the padding that its input comes from, and a note where that is another padding."""
    before = producers.get(node.inputs[0]) if node.inputs else None
    while before is not None and (before.operator in _KEEP_ZEROS or _moves_nothing(before)):
        before = producers.get(before.inputs[0]) if before.inputs else None
    if layer.geometry is None or before is None or "pad" not in before.operator.lower():
        return layer, []
    merged = with_padding(layer.geometry, layer.kernel.shape, before.operation)
    if merged is None:
        return layer, [f"{node.name!r} reads a {before.operator} node that is not part of its geometry"]
    return replace(layer, geometry=merged), []


def _batch_norm_scale(
    node: Node, graph: Graph, readers: Mapping[str, int], behind: Mapping[str, Node]
) -> Array | None:
    """`gamma / sqrt(var + eps)` of the only reader of what a node makes, if that is a batch norm.

    None where it scales another axis than that of the channels, as behind a linear layer of a sequence.
    """
    assert isinstance(node.layer, StoredLayer)
    name = node.output
    if _channel_axis(node, graph) != 1:
        return None
    while readers[name] == 1 and name in behind:
        then = behind[name]
        if isinstance(then.operation, Affine) and then.operation.batch_norm:
            scale = np.asarray(then.operation.scale.reshape(-1))
            return scale if scale.size == _channels(node.layer.layer) else None
        if not _moves_nothing(then):
            return None
        name = then.output
    return None


def _channel_axis(node: Node, graph: Graph) -> int | None:
    """The axis of what a node makes that its layer's channels are along; None where that is not known."""
    assert isinstance(node.layer, StoredLayer)
    if isinstance(node.operation, AxisMatrices):
        return next(iter(node.operation.matrices))
    if node.layer.layer.kind == "linear":
        return 1 if "Gemm" in node.operator else None
    shape = graph.shapes.get(node.inputs[0]) if node.inputs else None
    has_batch = shape is None or len(shape) == node.layer.layer.kernel.ndim
    return 1 if has_batch else 0


def _channels(layer: ConvLayer) -> int:
    """How many channels a layer makes."""
    geometry = layer.geometry
    groups = geometry.groups if geometry is not None and geometry.transposed else 1
    return int(layer.kernel.shape[layer.layout.index("O")]) * groups


def _moves_nothing(node: Node) -> bool:
    return isinstance(node.operation, Move) and node.operation.positions is None
