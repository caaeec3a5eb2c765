"""Maxima, minima and sorting: everything is a sort of entries and a choice of some of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from . import rules
from .graph_builder import LARGEST, UnsupportedError, axis_matrix
from .operations import Array, AxisMatrices, Concat, Move, Pointwise, Shape, Sort, positions_in
from .step import Step


def sort(step: Step, axis: int, *, descending: bool, chosen: slice = slice(None), keep: bool = True) -> None:
    """Entries in order along an axis, or some of them; one of them stays an axis of size 1 if `keep`."""
    shape = step.shape
    if not shape:
        rules.identity(step)
        return
    axis %= len(shape)
    ordered = step.between(Sort(axis, descending))
    take = (slice(None),) * axis + (chosen,)
    count = len(range(shape[axis])[chosen])
    rest = shape[:axis] + ((count,) if keep else ()) + shape[axis + 1 :]
    step.emit(Move(rest, lambda: positions_in(shape)[take].reshape(rest)), ordered)


def extreme(step: Step, axes: Sequence[int] | None, *, largest: bool, keep: bool) -> None:
    """The largest or the smallest entry over axes, over all where none are given."""
    shape = step.shape
    over = sorted({int(axis) % len(shape) for axis in axes}) if axes else list(range(len(shape)))
    rest = [axis for axis in range(len(shape)) if axis not in over]
    kept = tuple(shape[axis] for axis in rest)
    joined: Shape = (*kept, math.prod(shape[axis] for axis in over))
    if not joined[-1]:
        raise UnsupportedError("an extreme of no entries")
    flat = step.between(Move(joined, lambda: positions_in(shape).transpose(*rest, *over).reshape(joined)))
    ordered = step.between(Sort(len(joined) - 1, descending=largest), flat)
    made = tuple(1 if axis in over else n for axis, n in enumerate(shape)) if keep else kept
    step.emit(Move(made, lambda: positions_in(joined)[..., 0].reshape(made)), ordered)


def elementwise(step: Step, names: Sequence[str], *, largest: bool) -> None:
    """The larger or the smaller of several tensors, entry by entry, broadcasting.

    A maximum and a minimum of the same tensors are two entries of one sort, so that both together stretch no
    more than the tensors do.
    """
    builder = step.builder
    shapes = [builder.shape(one) if builder.depends(one) else builder.constants[one].shape for one in names]
    try:
        shape = np.broadcast_shapes(*shapes)
    except ValueError:
        raise UnsupportedError(f"shapes {', '.join(map(str, shapes))} do not broadcast") from None
    if math.prod(shape) * len(names) > LARGEST:  # before memory is taken
        raise UnsupportedError(f"it compares more than {LARGEST} entries; give another sample_shape")
    numbers = [one for one in names if not builder.depends(one) and builder.constants[one].size == 1]
    if len(names) == 2 and len(numbers) == 1:
        given = next(one for one in names if one not in numbers)
        limit = float(builder.constants[numbers[0]].reshape(()))
        limits = (limit, math.inf) if largest else (-math.inf, limit)
        whole = builder.expanded(step.label, step.word, given, shape, step.outputs[0])
        step.emit(Pointwise("clip", dict(zip(("low", "high"), limits, strict=True))), whole)
        return
    ordered = _in_order(step, names, shape)
    place = len(names) - 1 if largest else 0
    step.emit(Move(shape, lambda: positions_in((*shape, len(names)))[..., place]), ordered)


def _in_order(step: Step, names: Sequence[str], shape: Shape) -> str:
    """The tensors beside each other along a new last axis, in ascending order; once for the same ones."""
    builder = step.builder
    known = tuple(sorted(names))
    if known in builder.ordered:
        return builder.ordered[known]
    longer = (*shape, 1)
    pieces = []
    for name in names:
        if builder.depends(name):
            whole = builder.expanded(step.label, step.word, name, shape, step.outputs[0])
            pieces.append(step.between(Move(longer, lambda: positions_in(longer)), whole))
        else:
            constant = builder.tensors.unique(f"{step.outputs[0]}/{name}")
            builder.constants[constant] = np.broadcast_to(builder.constants[name], shape)[..., None]
            pieces.append(constant)
    together = builder.tensors.unique(f"{step.outputs[0]}/together")
    given = next(one for one in pieces if builder.depends(one))
    read = [one if builder.depends(one) else rules.filled(step, one, given) for one in pieces]
    builder.add(together, step.word, Concat(len(shape)), read, together)
    builder.ordered[known] = step.between(Sort(len(shape)), together)
    return builder.ordered[known]


def running_sum(step: Step, axis: int, *, reverse: bool = False, exclusive: bool = False) -> None:
    """Each entry plus all before it along an axis."""
    shape = step.shape
    axis %= len(shape)
    ones = axis_matrix(shape[axis], shape[axis]) + 1
    matrix: Array = np.tril(ones, -1 if exclusive else 0)
    step.emit(AxisMatrices({axis: matrix.T if reverse else matrix}))
