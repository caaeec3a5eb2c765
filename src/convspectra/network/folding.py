"""Fewer, tighter nodes: scales go into the convolution in front of them, padding into that behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from ..models import batch_norm
from ..models.layers import with_padding
from ..models.operations import (
    Affine,
    Array,
    AxisMatrices,
    Concat,
    Convolution,
    Graph,
    Move,
    Node,
    Operation,
    Shape,
)


def folded(graph: Graph, outputs: Iterable[str]) -> tuple[Node, ...]:
    """The nodes that the outputs depend on, the same function in fewer of them.

    - a batch norm, or another affine node whose scale is one number a channel, is taken into the convolution
      or matrix in front of it, if nothing else reads what that makes: `||S K|| <= ||S|| ||K||`;
    - two affine nodes in a row are one, and two that only move entries, and pieces of one tensor that are
      put together; what moves nothing goes;
    - padding becomes the boundary of a convolution behind it that has no padding of its own.

    The names of tensors that are left stay theirs.
    """
    wanted = set(outputs)
    nodes: list[Node] = []
    for node in reversed(graph.nodes):
        if node.output in wanted:
            wanted.update(node.inputs)
            nodes.append(node)
    nodes.reverse()
    readers = Counter(name for node in nodes for name in node.inputs) + Counter(set(outputs))
    made: dict[str, Node] = {}
    for node in nodes:
        merged: Node | None = node
        while merged is not None:
            node = merged
            read = [made[name] for name in dict.fromkeys(node.inputs) if name in made]
            merged = _with_what_is_in_front(node, made, readers, graph.shapes)
            if merged is not None:
                readers.subtract(node.inputs)
                readers.update(merged.inputs)
                for one in read:
                    if not readers[one.output]:
                        del made[one.output]
                        readers.subtract(one.inputs)
        made[node.output] = node
    return tuple(made.values())


def _with_what_is_in_front(
    node: Node, made: Mapping[str, Node], readers: Mapping[str, int], shapes: Mapping[str, Shape]
) -> Node | None:
    """The node as it reads what the one in front of it reads; None where they stay two."""
    if isinstance(node.operation, Concat):
        return _joined(node, made, shapes)
    before = made.get(node.inputs[0])
    if before is None or len(node.inputs) > 1:
        return None
    if readers[before.output] > 1 and not (
        isinstance(before.operation, Move) and isinstance(node.operation, Move)
    ):
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        return _merged(before, node, shapes[before.output], shapes[node.output])


def _joined(node: Node, made: Mapping[str, Node], shapes: Mapping[str, Shape]) -> Node | None:
    """Tensors one behind the other whose entries are all those of one tensor: one move of it.

    So the two halves of a tensor, set together again, stretch nothing.
    """
    moves: list[Move] = []
    sources = set()
    for name in node.inputs:
        before = made.get(name)
        if before is not None and isinstance(before.operation, Move):
            moves.append(before.operation)
            sources.add(before.inputs[0])
        else:
            moves.append(Move(shapes[name]))
            sources.add(name)
    if len(sources) > 1:
        return None
    fills = {one.fill for one in moves if (one.index < 0).any()}
    if len(fills) > 1:
        return None
    assert isinstance(node.operation, Concat)
    index = np.concatenate([one.index for one in moves], axis=node.operation.axis)
    move = Move(index.shape, lambda: index, max(fills, default=0.0))
    return replace(node, operation=move, inputs=(sources.pop(),))


def _merged(first: Node, then: Node, before: Shape, shape: Shape) -> Node | None:
    operation: Operation | None = None
    parts: tuple[Operation, Affine] | tuple[()] = ()
    match first.operation, then.operation:
        case Convolution() as convolution, Affine() as affine:
            operation = _scaled_convolution(convolution, affine, shape)
            parts = _parts(first, affine)
        case AxisMatrices() as matrices, Affine() as affine:
            operation = _scaled_matrix(matrices, affine, shape)
            parts = _parts(first, affine)
        case Affine() as inner, Affine() as affine:
            operation = _in_a_row(inner, affine)
        case Move() as move, Convolution() as convolution:
            geometry = with_padding(convolution.geometry, convolution.kernel.shape, move)
            operation = None if geometry is None else replace(convolution, geometry=geometry)
        case _, Move() as move if _is_identity(move, before):
            return replace(first, output=then.output)
        case Move() as inner_move, Move() as move:
            operation = _moved(inner_move, move)
    if operation is None or not _is_finite(operation):
        return None
    named = then if isinstance(then.operation, Convolution) else first
    operator = f"{first.operator} + {then.operator}"
    made = replace(named, operator=operator, operation=operation, inputs=first.inputs, output=then.output)
    return replace(made, parts=parts)


def _in_a_row(first: Affine, then: Affine) -> Affine:
    return Affine(then.scale * first.scale, then.scale * first.shift + then.shift)


def _parts(first: Node, affine: Affine) -> tuple[Operation, Affine]:
    """What there was before, and all scales that came after it."""
    if first.parts:
        return first.parts[0], _in_a_row(first.parts[1], affine)
    return first.operation, affine


def _along(values: Array, axis: int, shape: Shape) -> Array | None:
    """Values of shape (n,) if they differ along that axis only."""
    if any(size != 1 for place, size in enumerate(values.shape) if place != axis):
        return None
    return np.broadcast_to(values.reshape(-1), (shape[axis],))


def _scaled_convolution(convolution: Convolution, affine: Affine, shape: Shape) -> Convolution | None:
    scale, shift = _along(affine.scale, 1, shape), _along(affine.shift, 1, shape)
    if scale is None or shift is None:
        return None
    kernel, geometry = np.asarray(convolution.kernel, dtype=np.float64), convolution.geometry
    own = 0.0 if convolution.shift is None else convolution.shift.astype(np.float64)
    scaled = kernel * batch_norm.factors(scale, kernel.shape, geometry.transposed, geometry.groups)
    return Convolution(scaled, geometry, scale * own + shift)


def _scaled_matrix(matrices: AxisMatrices, affine: Affine, shape: Shape) -> AxisMatrices | None:
    if len(matrices.matrices) != 1:
        return None
    ((axis, matrix),) = matrices.matrices.items()
    scale = _along(affine.scale, axis, shape)
    if scale is None:
        return None
    own = np.zeros(()) if matrices.shift is None else matrices.shift.astype(np.float64)
    scaled = scale[:, None] * matrix.astype(np.float64)
    return replace(matrices, matrices={axis: scaled}, shift=affine.scale * own + affine.shift)


def _is_finite(operation: Operation) -> bool:
    """Whether the weights of what was merged are: a product may overflow where its factors do not."""
    match operation:
        case Convolution():
            return bool(np.isfinite(operation.kernel).all())
        case AxisMatrices():
            return all(bool(np.isfinite(one).all()) for one in operation.matrices.values())
        case Affine():
            return bool(np.isfinite(operation.scale).all() and np.isfinite(operation.shift).all())
    return True


def _is_identity(move: Move, before: Shape) -> bool:
    return move.shape == before and (
        move.positions is None or bool((move.index.reshape(-1) == np.arange(move.index.size)).all())
    )


def _moved(first: Move, then: Move) -> Move | None:
    # Padding is left for the convolution behind it.
    if then.padding is not None:
        return None
    if (first.index < 0).any() and (then.index < 0).any() and first.fill != then.fill:
        return None
    inside = then.index >= 0
    index = np.where(inside, first.index.reshape(-1)[np.where(inside, then.index, 0)], -1)
    return Move(index.shape, lambda: index, then.fill if not inside.all() else first.fill)
