"""What the nodes of a network do, in the few words that bounds and derivatives need.

Every operator of every format is said in these: a padding, a slice and a transposition are one `Move`; a
linear layer, a mean, an average pooling and a bilinear resize are `AxisMatrices`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import InputError
from ..geometry import ConvGeometry, PaddingMode, Pads
from .records import ConvLayer, Unread

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
OpenShape = tuple[int | None, ...]
"""None for a size that the file leaves open."""


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution over all axes behind the second, plus `shift` of shape (C_out,) or None."""

    kernel: Array
    geometry: ConvGeometry
    shift: Array | None = None


@dataclass(frozen=True, eq=False)
class AxisMatrices:
    """`x` times a matrix of shape (out, in) along each axis named, plus `shift`, which broadcasts.

    `weights`: whether the entries are the network's weights, a linear layer, and not given by sizes alone.
    """

    matrices: Mapping[int, Array]
    shift: Array | None = None
    weights: bool = False


@dataclass(frozen=True, eq=False)
class Move:
    """`y.flat[i] = x.flat[index.flat[i]]`, and `fill` where the index is -1.

    Attributes:
        shape: of y.
        positions: makes `index`, of the shape of y, when it is first needed; None where nothing moves.
        padding: of one that may be a convolution's behind it: its mode, and (before, after) for each axis.
    """

    shape: OpenShape
    positions: Callable[[], Array] | None = None
    fill: float = 0.0
    padding: tuple[PaddingMode, Pads] | None = None

    @cached_property
    def index(self) -> Array:
        """Where each entry of y comes from.

        Raises:
            InputError: its sizes are open, or not those of `shape`.
        """
        if self.positions is None:
            return positions_in(self.shape)
        index = np.asarray(self.positions(), dtype=np.int64)
        if index.shape != self.shape:
            raise InputError(f"it makes a tensor of shape {index.shape}, not {self.shape}")
        return index


def positions_in(shape: OpenShape) -> Array:
    """The positions of a tensor's entries, in its shape: what moves them moves these."""
    return np.arange(math.prod(complete(shape)), dtype=np.int64).reshape(complete(shape))


def complete(shape: OpenShape) -> Shape:
    """A shape of which no size is open.

    Raises:
        InputError: one is.
    """
    sizes = tuple(size for size in shape if size is not None)
    if len(sizes) < len(shape):
        raise InputError(f"the sizes {shape} that it reads are not all known: give sample_shape")
    return sizes


@dataclass(frozen=True, eq=False)
class Affine:
    """`scale * x + shift` point by point; both broadcast to the shape of x.

    `batch_norm`: whether it is one, with one scale a channel, and not a factor by itself.
    """

    scale: Array
    shift: Array
    batch_norm: bool = False


@dataclass(frozen=True)
class Sum:
    """`sum_i signs[i] x_i` of inputs of one shape."""

    signs: tuple[float, ...]


@dataclass(frozen=True)
class Concat:
    """The inputs one behind the other along an axis."""

    axis: int


@dataclass(frozen=True)
class Pointwise:
    """One function of every entry; `parameters` are numbers, or an array that broadcasts (PRelu)."""

    function: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Softmax:
    """Softmax over one axis, or its logarithm."""

    axis: int
    logarithm: bool = False


@dataclass(frozen=True)
class Sort:
    """The entries along an axis in ascending order, or in descending order."""

    axis: int
    descending: bool = False


@dataclass(frozen=True)
class Normalised:
    """`(x - m) / sqrt(v + epsilon)`, m and v the mean and the variance of x itself over axes.

    `centred`: else m is 0 and v the mean of the squares.
    """

    axes: Shape
    epsilon: float
    centred: bool = True


@dataclass(frozen=True)
class MaxPool:
    """The largest entry of each window over the axes behind the second; windows may reach beyond the input.

    One number an axis each; `before` counts the points in front of the input that the first window covers.
    """

    window: Shape
    stride: Shape
    dilation: Shape
    before: Shape
    outputs: Shape


@dataclass(frozen=True)
class Refused:
    """An operator without a proven constant here, and why."""

    reason: str


Operation = (
    Convolution
    | AxisMatrices
    | Move
    | Affine
    | Sum
    | Concat
    | Pointwise
    | Softmax
    | Sort
    | Normalised
    | MaxPool
    | Refused
)


@dataclass(frozen=True, eq=False)
class StoredLayer:
    """The layer that a node is, by itself: without what padding in front or a batch norm behind make of it.

    Attributes:
        tensor: the constant that is its kernel, by name.
        dequantised: whether that is stored as integers with a scale.
    """

    layer: ConvLayer
    tensor: str
    dequantised: bool = False


@dataclass(frozen=True)
class Node:
    """One step of a network: `output = operation(inputs)`. `operator` is its name in the file's own words.

    Attributes:
        parts: what an operation is made of, where a scale was folded into it; else empty.
        layer: the layer that it is, whatever its operation; or what may be one, and why it is not read.
    """

    name: str
    operator: str
    operation: Operation
    inputs: tuple[str, ...]
    output: str
    parts: tuple[Operation, Affine] | tuple[()] = ()
    layer: StoredLayer | Unread | None = None


@dataclass(frozen=True, eq=False)
class Graph:
    """A feed-forward network: nodes in an order in which each finds its inputs made.

    The nodes of branches and loop bodies are among them, in front of the node that they are in.

    Attributes:
        inputs: shape by name, the batch included.
        outputs: names of tensors that depend on them; several outputs may name one tensor.
        shapes: of every tensor of which it is known.
        operators: how often the file has each, by name.
        unfit: inputs of open size or without floating point, and what to do: there is no constant for them.
        path, sha256: of the file; None for a live module.
    """

    name: str
    format: str
    inputs: Mapping[str, Any]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    shapes: Mapping[str, Any]
    operators: Mapping[str, int] = field(default_factory=dict)
    unfit: Mapping[str, str] = field(default_factory=dict)
    path: str | None = None
    sha256: str | None = None


def output_shape(operation: Operation, shapes: list[Shape]) -> Shape:
    """The shape of what an operation makes of inputs of these shapes.

    Raises:
        InputError: they do not fit.
    """
    first = shapes[0]
    match operation:
        case Convolution():
            return _convolved(operation, first)
        case AxisMatrices():
            sizes = list(first)
            for axis, matrix in operation.matrices.items():
                if not axis < len(first) or matrix.shape[1] != first[axis]:
                    raise InputError(f"a matrix of shape {matrix.shape} does not fit axis {axis} of {first}")
                sizes[axis] = matrix.shape[0]
            return tuple(sizes)
        case Move():
            return complete(operation.shape)
        case Sum():
            if any(shape != first for shape in shapes):
                raise InputError(f"the inputs of a sum have different shapes: {shapes}")
            return first
        case Concat():
            axis = operation.axis
            rest = {(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}
            if len(rest) != 1 or not 0 <= axis < len(first):
                raise InputError(f"shapes {shapes} cannot be put together along axis {axis}")
            return (*first[:axis], sum(shape[axis] for shape in shapes), *first[axis + 1 :])
        case MaxPool():
            return (*first[:2], *operation.outputs)
        case _:
            return first


def _convolved(operation: Convolution, shape: Shape) -> Shape:
    sides = operation.geometry.correlation(operation.kernel.shape)
    points = (sides.input_shape, sides.output_shape)
    channels = (sides.in_channels, sides.out_channels)
    if sides.transposed:
        points, channels = points[::-1], channels[::-1]
    if len(shape) != len(points[0]) + 2 or shape[1:] != (channels[0], *points[0]):
        raise InputError(
            f"a kernel of shape {operation.kernel.shape} for an input of {channels[0]} channels and "
            f"{points[0]} points does not fit {shape}"
        )
    return (shape[0], channels[1], *points[1])
