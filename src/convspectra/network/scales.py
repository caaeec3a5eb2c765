"""Scales of channels, taken into the convolution or matrix that reads them instead of the one in front."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ..models import batch_norm
from ..models.operations import (
    Affine,
    Array,
    AxisMatrices,
    Convolution,
    MaxPool,
    Move,
    Node,
    Operation,
    Pointwise,
    Shape,
)
from .constants import constant

_LONGEST_CHAIN = 32
"""Nodes that are walked back to a scale: each asks, and a network has tens of thousands."""


@dataclass
class Scales:
    """Bounds that come by way of a scale of channels in front of a node.

    Let f treat each channel by itself, with the constant c: an activation, pooling, a mean over points,
    what moves entries. Then `f(S x + t) - f(S y + t) = S z` with `||z|| <= c ||x - y||` for a scale S of the
    channels, as holds channel by channel; hence `K f(S x + t)` has the constant `||K S|| c` with respect to
    x, at most `||K|| c ||S||`, and much less where S is large on channels that K hardly reads.

    Attributes:
        upper: of each tensor, an UPPER bound with respect to the network's input.
        unscaled: the same for what a node with `parts` makes before its scale, by the node's output.
    """

    producers: Mapping[str, Node]
    shapes: Mapping[str, Shape]
    upper: dict[str, float]
    unscaled: dict[str, float] = field(default_factory=dict)

    def bound(self, node: Node, operation: Operation) -> float:
        """An UPPER bound for the operation, at the place of the node; inf where no scale is in front."""
        found = self._scale_in_front(node)
        if found is None:
            return math.inf
        scale, factor, before = found
        shape = self.shapes[node.inputs[0]]
        scaled = _scaled(operation, scale, shape)
        if scaled is None or not all(np.isfinite(one).all() for one in _weights(scaled)):
            return math.inf
        return product((constant(scaled, shape)[0], factor, before))

    def note(self, node: Node) -> None:
        """Keep what is known of a node before its scale."""
        if node.parts:
            inner = node.parts[0]
            own = constant(inner, self.shapes[node.inputs[0]])[0]
            direct = product((own, self.upper[node.inputs[0]]))
            self.unscaled[node.output] = min(direct, self.bound(node, inner))

    def _scale_in_front(self, node: Node) -> tuple[Array, float, float] | None:
        """S as the node's input has it, c, and the bound of x."""
        chain: list[Node] = []
        while len(chain) <= _LONGEST_CHAIN:
            name = chain[-1].inputs[0] if chain else node.inputs[0]
            before = self.producers.get(name)
            if before is None:
                return None
            if isinstance(before.operation, Affine):
                scale, bound = before.operation.scale, self.upper[before.inputs[0]]
                break
            if before.parts:
                scale, bound = before.parts[1].scale, self.unscaled[before.output]
                break
            if not _by_channel(before.operation):
                return None
            chain.append(before)
        else:
            return None
        factor, moved = 1.0, False
        if _along(scale, 1, self.shapes[name]) is None:
            return None
        for step in reversed(chain):
            shape = self.shapes[step.inputs[0]]
            factor *= constant(step.operation, shape)[0]
            if isinstance(step.operation, Move):
                index = step.operation.index
                values = np.broadcast_to(scale, shape).reshape(-1)[np.maximum(index, 0)]
                scale, moved = np.where(index >= 0, values, 0.0), True
            elif moved and not isinstance(step.operation, Pointwise):
                return None
        return scale, factor, bound


def product(factors: Iterable[float]) -> float:
    """A product in which 0 times what overflowed is 0: the true factor is finite."""
    listed = list(factors)
    return 0.0 if 0.0 in listed else math.prod(listed)


def _by_channel(operation: Operation) -> bool:
    if isinstance(operation, AxisMatrices):
        return 1 not in operation.matrices
    return isinstance(operation, (Pointwise, MaxPool, Move))


def _along(values: Array, axis: int, shape: Shape) -> Array | None:
    """Of values that broadcast to a shape those along an axis, None where they differ along another."""
    if axis >= len(shape):
        return None
    rows = np.moveaxis(np.broadcast_to(values, shape), axis, 0).reshape(shape[axis], -1)
    return None if (rows != rows[:, :1]).any() else np.asarray(rows[:, 0])


def _weights(operation: Operation) -> Iterable[Array]:
    if isinstance(operation, Convolution):
        return [operation.kernel]
    return operation.matrices.values() if isinstance(operation, AxisMatrices) else []


def _scaled(operation: Operation, scale: Array, shape: Shape) -> Operation | None:
    """The linear part of an operation after a scale of its input."""
    with np.errstate(over="ignore", invalid="ignore"):
        if isinstance(operation, AxisMatrices) and len(operation.matrices) == 1:
            ((axis, matrix),) = operation.matrices.items()
            values = _along(scale, axis, shape)
            return None if values is None else AxisMatrices({axis: matrix.astype(np.float64) * values})
        if not isinstance(operation, Convolution):
            return None
        values = _along(scale, 1, shape)
        if values is None:
            return None
        kernel, geometry = operation.kernel.astype(np.float64), operation.geometry
        factors = batch_norm.factors(values, kernel.shape, geometry.transposed, geometry.groups, side="in")
        return replace(operation, kernel=kernel * factors)
