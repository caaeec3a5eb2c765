"""What operators of all formats have in common on their way to operations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from . import batch_norm as norms
from . import refusals
from .graph_builder import UnsupportedError, average_matrix, pool_outputs, reduction
from .operations import (
    Affine,
    Array,
    AxisMatrices,
    Concat,
    Convolution,
    MaxPool,
    Move,
    Normalised,
    Pointwise,
    Shape,
    StoredLayer,
    positions_in,
)
from .records import ConvLayer
from .step import Step

Rule = Callable[[Step], None]


def layer(step: Step) -> ConvLayer:
    """The layer that the node is."""
    if not isinstance(step.layer, StoredLayer):
        raise UnsupportedError(step.layer.reason if step.layer else "its weights are no matrix")
    return step.layer.layer


def convolution(bias: str) -> Rule:
    """A convolution, transposed or not; arguments of rules are the operator's names of its own."""

    def rule(step: Step) -> None:
        found = layer(step)
        if len(step.sizes) != found.kernel.ndim:
            raise UnsupportedError(f"an input of shape {step.sizes} without a batch")
        if found.geometry is None:
            raise UnsupportedError(found.reason)
        step.emit(Convolution(found.kernel, found.geometry, step.optional(bias)))

    return rule


def matmul(left: str, right: str) -> Rule:
    """A product with a constant matrix from one side."""

    def rule(step: Step) -> None:
        names = [step.found[left], step.found[right]]
        if all(map(step.builder.depends, names)):
            raise UnsupportedError(refusals.PRODUCT)
        place = 0 if step.builder.depends(names[0]) else 1
        rank, shape = len(step.builder.sizes(names[place])), step.builder.constants[names[1 - place]].shape
        if len(shape) != 2 or rank < 2:
            raise UnsupportedError(f"a product with a constant of shape {shape}; a matrix is taken")
        matrix = layer(step).kernel[..., 0]
        step.emit(AxisMatrices({rank - 1 - place: matrix}, weights=True), names[place])

    return rule


def batch_norm(step: Step, names: Sequence[str], epsilon: float) -> None:
    """Batch norm at inference, with the scale, shift, mean and variance of these names."""
    gamma, beta = map(step.optional, names[:2])
    mean, variance = map(step.constant, names[2:])
    step.emit(norms.affine(gamma, beta, mean, variance, epsilon, len(step.sizes)))


def normalised(
    step: Step,
    shape: Shape,
    axes: Sequence[int],
    epsilon: float | None,
    scale: Array | None,
    shift: Array | None,
    *,
    centred: bool = True,
) -> None:
    """A norm that divides by a deviation of its own input, over axes of that in another shape.

    Arguments:
        shape: in which the axes are; its entries are those of the input in their order.
        epsilon: None for what PyTorch takes then, the spacing of float32 at 1.
        scale, shift: broadcast to the input.
    """
    own = step.shape
    small = float(np.finfo(np.float32).eps) if epsilon is None else float(epsilon)
    if not small > 0:
        raise UnsupportedError(refusals.NORMALISED)
    source = step.source if shape == own else step.between(Move(shape, lambda: positions_in(shape)))
    made = step.between(Normalised(tuple(axes), small, centred), source)
    if shape != own:
        made = step.between(Move(own, lambda: positions_in(own)), made)
    ones = np.ones((1,) * len(own))
    factor = ones if scale is None else scale.astype(np.float64)
    addend = 0 * ones if shift is None else shift.astype(np.float64)
    step.builder.affine(step.label, step.word, factor, addend, made, step.outputs[0])


def by_channel(values: Array | None, rank: int) -> Array | None:
    """One number a channel, so that it broadcasts to a tensor of this rank."""
    return None if values is None else values.reshape(-1, *[1] * (rank - 2))


def negative(step: Step) -> None:
    ones = np.ones((1,) * len(step.sizes))
    step.emit(Affine(-ones, 0 * ones))


def identity(step: Step) -> None:
    step.emit(Move(step.sizes))


def concat(step: Step, names: Sequence[str], axis: int) -> None:
    """Tensors one behind the other, constants among them."""
    builder = step.builder
    given = next(name for name in names if builder.depends(name))
    rank = len(builder.sizes(given))
    read = [name if builder.depends(name) else filled(step, name, given) for name in names]
    builder.add(step.label, step.word, Concat(axis % rank), read, step.outputs[0])


def filled(step: Step, constant: str, given: str) -> str:
    """A constant as a node of constant 0 of a tensor that depends on the network's input."""
    value = step.builder.constants[constant]
    made = step.builder.tensors.unique(f"{step.outputs[0]}/constant")
    nothing = step.between(Move(value.shape, lambda: np.full(value.shape, -1)), given)
    return step.builder.affine(made, step.word, np.zeros(()), value.astype(np.float64), nothing, made)


def pointwise(function: str, **parameters: float | str) -> Rule:
    """A function of single entries; each parameter has another name in the file, or a default."""

    def rule(step: Step) -> None:
        found = {
            name: float(step.found[given] if isinstance(given, str) else step.found.get(name, given))
            for name, given in parameters.items()
        }
        step.emit(Pointwise(function, found))

    return rule


def gelu(step: Step) -> None:
    step.emit(Pointwise("gelu_tanh" if step.found.get("approximate") == "tanh" else "gelu"))


def clip(step: Step) -> None:
    limits = {}
    for end, name, default in (("low", "min", -math.inf), ("high", "max", math.inf)):
        value = step.optional(name if name in step.found else f"{name}_val")
        if value is not None and value.size != 1:
            raise UnsupportedError("ends that are no single numbers")
        limits[end] = default if value is None else float(value.reshape(()))
    step.emit(Pointwise("clip", limits))


def reduce(step: Step, axes: Sequence[int] | None, *, mean: bool, keep: bool) -> None:
    """A mean or a sum over axes, over all where none are given."""
    shape = step.shape
    axes = [int(axis) % len(shape) for axis in axes] if axes else range(len(shape))
    operation = reduction(shape, axes, mean)
    if keep:
        step.emit(operation)
        return
    kept = step.between(operation)
    rest = tuple(n for axis, n in enumerate(shape) if axis not in axes)
    step.emit(Move(rest, lambda: positions_in(rest)), kept)


def pool(
    step: Step,
    window: Shape,
    stride: Shape,
    dilation: Shape,
    pads: Sequence[tuple[int, int]],
    *,
    ceil: bool,
    average: bool,
    counted: bool = False,
) -> None:
    """A maximum or a mean over windows; `counted`: a mean counts the padding."""
    size = step.shape[2:]
    outputs = tuple(
        pool_outputs(n, d * (k - 1) + 1, s, pad, ceil)
        for n, k, s, d, pad in zip(size, window, stride, dilation, pads, strict=True)
    )
    if not average:
        step.emit(MaxPool(window, stride, dilation, tuple(before for before, _ in pads), outputs))
        return
    matrices = {}
    for i, (before, after) in enumerate(pads):
        end = size[i] + after if counted else None
        matrices[2 + i] = average_matrix(
            size[i], window[i], stride[i], before, outputs[i], end=end, dilation=dilation[i]
        )
    step.emit(AxisMatrices(matrices))
