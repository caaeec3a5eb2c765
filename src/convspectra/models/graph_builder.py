"""Nodes put together into a `Graph`: what readers of all formats share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from ..errors import InputError, ModelError
from . import refusals
from .names import Names
from .operations import (
    Affine,
    Array,
    AxisMatrices,
    Move,
    Node,
    OpenShape,
    Operation,
    Pointwise,
    Refused,
    Shape,
    StoredLayer,
    Sum,
    complete,
    output_shape,
    positions_in,
)
from .reading import first_line
from .records import Unread

LARGEST = 2**27
"""More entries than this are not made of constants, nor does any tensor of a network have them here."""

# x times a function of x -> what the two are together.
_GATES = {"sigmoid": "silu", "hardsigmoid": "hardswish", "tanh softplus": "mish"}
# Only with these parameters; what an exporter rounds of alpha changes no slope.
_OF_GATES = {"hardsigmoid": {"alpha": 1 / 6, "beta": 0.5}, "softplus": {"beta": 1.0}}


class UnsupportedError(Exception):
    """An operator, or a way to use it, that has no proven constant here; the message is the reason."""


@contextmanager
def translating() -> Iterator[None]:
    """What goes wrong with one node as an `UnsupportedError`; only a damaged file is an error."""
    try:
        yield
    except (UnsupportedError, ModelError):
        raise
    except InputError as error:
        raise UnsupportedError(str(error)) from None
    except Exception as error:  # noqa: BLE001  # attributes that are missing, or of any type and shape
        raise UnsupportedError(
            f"it contradicts its operator or its inputs: {type(error).__name__}: {first_line(error)}"
        ) from None


@dataclass
class Builder:
    """A graph in the making.

    Attributes:
        constants: tensors that do not depend on the input, by name; one that cannot be had is an
            `UnsupportedError`.
        shapes: of the tensors that do, where they are known; filled in by `add` where it can say.
        dependent: names of all that depend on the input, refused or not.
        names, tensors: names of nodes and of tensors that are taken.
        ordered: by the names of several tensors, the one that has them entry by entry in ascending order.
    """

    constants: MutableMapping[str, Array] = field(default_factory=dict)
    shapes: dict[str, OpenShape] = field(default_factory=dict)
    dependent: set[str] = field(default_factory=set)
    nodes: list[Node] = field(default_factory=list)
    producers: dict[str, Node] = field(default_factory=dict)
    names: Names = field(default_factory=Names)
    tensors: Names = field(default_factory=Names)
    ordered: dict[tuple[str, ...], str] = field(default_factory=dict)

    def add_input(self, name: str, shape: OpenShape | None) -> None:
        """A tensor that somebody hands in."""
        self.dependent.add(name)
        if shape is not None:
            self.shapes[name] = shape

    def add(
        self,
        name: str,
        operator: str,
        operation: Operation,
        inputs: Sequence[str],
        output: str,
        layer: StoredLayer | Unread | None = None,
    ) -> str:
        """One more node, and the shape of what it makes if those that it reads are known.

        Raises:
            InputError: the shapes do not fit.
        """
        shapes = [self.shapes[one] for one in inputs if one in self.shapes and None not in self.shapes[one]]
        if isinstance(operation, Move):
            self.shapes[output] = operation.shape
        elif len(shapes) == len(inputs) and not isinstance(operation, Refused):
            self.shapes[output] = output_shape(operation, [complete(shape) for shape in shapes])
        node = Node(self.names.unique(name), operator, operation, tuple(inputs), output, layer=layer)
        self.nodes.append(node)
        self.producers[output] = node
        self.dependent.add(output)
        return output

    def refuse(
        self,
        name: str,
        operator: str,
        reason: str,
        inputs: Sequence[str],
        output: str,
        layer: StoredLayer | Unread | None = None,
    ) -> None:
        """A node of which nothing is known; it is an error only for what depends on it."""
        read = [one for one in inputs if one in self.dependent]
        self.add(name, operator, Refused(reason), read, output, layer)

    def depends(self, name: str) -> bool:
        """Whether a tensor depends on the input."""
        return name in self.dependent

    def sizes(self, name: str) -> OpenShape:
        """The shape of a tensor, sizes that are open included.

        Raises:
            UnsupportedError: it is not known how many axes it has.
        """
        if name not in self.shapes:
            raise UnsupportedError(f"it reads {name!r}, of which nothing is known")
        return self.shapes[name]

    def shape(self, name: str) -> Shape:
        """The shape of a tensor.

        Raises:
            UnsupportedError, InputError: it is not known.
        """
        return complete(self.sizes(name))

    def move(
        self,
        name: str,
        operator: str,
        shape: OpenShape,
        change: Callable[[Array], Array],
        source: str,
        output: str,
    ) -> str:
        """An operator that only moves entries, by what it makes of their positions."""
        sizes = self.sizes(source)
        return self.add(
            name, operator, Move(shape, lambda: np.asarray(change(positions_in(sizes)))), [source], output
        )

    def expanded(self, name: str, operator: str, source: str, shape: Shape, output: str) -> str:
        """A tensor repeated to a shape that it broadcasts to; itself if it has that shape."""
        if self.shapes[source] == shape:
            return source
        made = self.tensors.unique(f"{output}/{source}")
        return self.move(name, operator, shape, lambda index: np.broadcast_to(index, shape), source, made)

    def arithmetic(self, name: str, operator: str, word: str, inputs: Sequence[str], output: str) -> None:
        """`add`, `sub`, `mul` or `div` of two tensors, broadcasting.

        Raises:
            UnsupportedError: a product of, or a division by, what depends on the input.
        """
        left, right = inputs
        shapes = [self.shape(one) if self.depends(one) else self.constants[one].shape for one in inputs]
        try:
            shape = np.broadcast_shapes(*shapes)
        except ValueError:
            raise InputError(f"shapes {shapes[0]} and {shapes[1]} do not broadcast") from None
        if self.depends(left) and self.depends(right):
            gate = self._gate(left, right) if word == "mul" else None
            if gate is not None:
                self.add(name, operator, Pointwise(gate[0]), [gate[1]], output)
                return
            if word not in ("add", "sub"):
                raise UnsupportedError(refusals.PRODUCT if word == "mul" else refusals.DIVISION)
            both = [self.expanded(name, operator, one, shape, output) for one in inputs]
            self.add(name, operator, Sum((1.0, 1.0 if word == "add" else -1.0)), both, output)
            return
        given, constant = (left, right) if self.depends(left) else (right, left)
        value = self.constants[constant].astype(np.float64)
        one, none = np.ones(()), np.zeros(())
        if word in ("add", "sub"):
            negated = word == "sub" and given == right
            scale, shift = (-one if negated else one), (-value if word == "sub" and not negated else value)
        elif word == "mul":
            scale, shift = value, none
        elif given == left:
            if not (value != 0).all():
                raise UnsupportedError("a division by zero")
            scale, shift = 1 / value, none
        else:
            raise UnsupportedError(refusals.DIVISION)
        self.affine(name, operator, scale, shift, self.expanded(name, operator, given, shape, output), output)

    def affine(self, name: str, operator: str, scale: Array, shift: Array, source: str, output: str) -> str:
        """`scale * x + shift`, both of the rank of x."""
        rank = len(self.sizes(source))
        scale, shift = (one.reshape((1,) * (rank - one.ndim) + one.shape) for one in (scale, shift))
        return self.add(name, operator, Affine(scale, shift), [source], output)

    def _gate(self, left: str, right: str) -> tuple[str, str] | None:
        """`x sigmoid(x)` and the like, as exporters write activations: the function and x."""
        for value, factor in ((left, right), (right, left)):
            words: list[str] = []
            name = factor
            while name != value and name in self.producers and len(words) < 2:
                node = self.producers[name]
                if not isinstance(node.operation, Pointwise):
                    break
                expected = _OF_GATES.get(node.operation.function, {})
                away = [
                    abs(value - expected.get(parameter, math.inf)) > (1e-6 if parameter == "alpha" else 0)
                    for parameter, value in node.operation.parameters.items()
                ]
                if any(away):
                    break
                words.append(node.operation.function)
                name = node.inputs[0]
            if name == value and " ".join(words) in _GATES:
                return _GATES[" ".join(words)], value
        return None


def axis_matrix(rows: int, columns: int) -> Array:
    """A matrix to fill in, of one axis.

    Raises:
        UnsupportedError: it would be huge.
    """
    if not 0 <= rows * columns <= LARGEST // 4:
        raise UnsupportedError(f"a matrix of {rows} x {columns} for one axis; give a smaller sample_shape")
    return np.zeros((rows, columns))


def average_matrix(
    size: int, window: int, stride: int, before: int, outputs: int, *, end: int | None, dilation: int = 1
) -> Array:
    """One axis of an average pooling, shape (outputs, size).

    `end` None: by the points of the input that a window covers. Else: by all that it covers from `-before` up
    to `end`, padding counted.
    """
    matrix = axis_matrix(outputs, size)
    for row in range(outputs):
        taps = row * stride - before + dilation * np.arange(window)
        inside = taps[(taps >= 0) & (taps < size)]
        count = len(inside) if end is None else int((taps < end).sum())
        matrix[row, inside] = 1 / count if count else 0.0
    return matrix


def interpolation_matrix(size: int, positions: Array) -> Array:
    """Linear interpolation at positions in points of the input, beyond its ends their value."""
    matrix = axis_matrix(len(positions), size)
    at = np.clip(positions, 0, size - 1)
    low = np.floor(at).astype(int)
    high, rows = np.minimum(low + 1, size - 1), np.arange(len(at))
    matrix[rows, low] += 1 - (at - low)
    matrix[rows, high] += at - low
    return matrix


def pool_outputs(size: int, reach: int, stride: int, pads: tuple[int, int], ceil: bool) -> int:
    """How many windows a pooling has along an axis; the last must begin in the input or before it."""
    room = size + sum(pads) - reach
    outputs = -(-room // stride) + 1 if ceil else room // stride + 1
    if ceil and (outputs - 1) * stride >= size + pads[0]:
        outputs -= 1
    return outputs


def reduction(shape: Shape, axes: Sequence[int], mean: bool) -> AxisMatrices:
    """A mean or a sum over axes, which stay with size 1."""
    found = {axis % len(shape): shape[axis % len(shape)] for axis in axes}
    return AxisMatrices(
        {axis: axis_matrix(1, size) + (1 / size if mean else 1.0) for axis, size in found.items()}
    )
