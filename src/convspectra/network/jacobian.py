"""The network again, in PyTorch: its values, and how much its derivative stretches at given points."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import singledispatch
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  # as everywhere
from torch import Tensor

from ..compute import Progress
from ..errors import InputError
from ..geometry import ConvGeometry
from ..models.operations import (
    Affine,
    Array,
    AxisMatrices,
    Concat,
    Convolution,
    Graph,
    MaxPool,
    Move,
    Node,
    Normalised,
    Operation,
    Pointwise,
    Softmax,
    Sort,
    Sum,
)
from .records import JOINT

Values = tuple[Tensor, ...]


class Derivative:
    """A network as a function of its inputs, in float64, and products with its Jacobian."""

    def __init__(self, graph: Graph, nodes: Sequence[Node]) -> None:
        self.names = tuple(graph.inputs)
        self.steps = [(node, function(node.operation, graph.shapes[node.output])) for node in nodes]

    def values(self, inputs: Values, outputs: Sequence[str]) -> list[Tensor]:
        """The outputs asked for."""
        known = dict(zip(self.names, inputs, strict=True))
        for node, step in self.steps:
            known[node.output] = step(*(known[name] for name in node.inputs))
        return [known[name] for name in outputs]

    def largest(
        self,
        points: Sequence[Values],
        outputs: Sequence[str],
        iterations: int,
        seed: int,
        progress: Progress | None = None,
    ) -> dict[str, float]:
        """For each output, and for all together, the largest `norm` over the points."""
        chosen = {name: [name] for name in outputs}
        if len(chosen) > 1:
            chosen[JOINT] = list(outputs)
        found = dict.fromkeys(chosen, 0.0)
        generator = torch.Generator().manual_seed(seed)
        with warnings.catch_warnings():
            # Of PyTorch about itself, when it first pushes a direction forward.
            warnings.simplefilter("ignore", DeprecationWarning)
            for place, (point, name) in enumerate(itertools.product(range(len(points)), chosen)):
                told = _within(progress, place, len(points) * len(chosen), f"derivative at point {point + 1}")
                norm = self.norm(points[point], chosen[name], iterations, generator, told)
                found[name] = max(found[name], norm)
        return found

    def norm(
        self,
        point: Values,
        outputs: Sequence[str],
        iterations: int,
        generator: torch.Generator,
        told: Callable[[float], None] = lambda part: None,
    ) -> float:
        """`||J v||` for a unit v that the power method on `J^T J` finds: a LOWER bound of `||J||`.

        Proven up to rounding whatever the number of iterations, which only makes it larger. `told` how far it
        is, from 0 to 1, before each.
        """

        def flat(*inputs: Tensor) -> Tensor:
            return torch.cat([one.reshape(-1) for one in self.values(inputs, outputs)])

        value, pull, *_ = torch.func.vjp(flat, *point)
        if not torch.isfinite(value).all():
            return 0.0
        direction = tuple(torch.randn(one.shape, generator=generator, dtype=one.dtype) for one in point)
        best = 0.0
        for place in range(max(iterations, 1)):
            told(place / max(iterations, 1))
            size = length(direction)
            if not 0 < size < math.inf:
                break
            direction = tuple(one / size for one in direction)
            _, pushed, *_ = torch.func.jvp(flat, point, direction)
            best = max(best, length((pushed,)) / length(direction))
            direction = pull(pushed)
        return best


def _within(progress: Progress | None, place: int, count: int, name: str) -> Callable[[float], None]:
    """Progress inside of one of several equal parts; each step of a large map takes seconds."""
    return lambda part: None if progress is None else progress((place + part) / count, name)


def at_points(
    graph: Graph,
    inputs: np.ndarray[Any, Any] | None,
    points: int,
    between: tuple[float, float] | None,
    seed: int,
) -> list[Values]:
    """The points given, then those drawn.

    Raises:
        InputError: as `bound.lipschitz`.
    """
    found: list[Values] = []
    shapes = list(graph.inputs.values())
    if inputs is not None:
        wanted = shapes[0] if len(shapes) == 1 else None
        if wanted is None:
            raise InputError(f"inputs= is for networks of one input; {graph.name} has {len(shapes)}")
        if (
            wanted[0] != 1
            or inputs.shape[1:] != wanted[1:]
            or inputs.dtype.kind not in "fiu"
            or not len(inputs)
        ):
            raise InputError(
                f"inputs must be numbers of shape (N, {', '.join(map(str, wanted[1:]))}); got "
                f"{inputs.dtype} of shape {inputs.shape}"
            )
        if not np.isfinite(inputs).all():
            raise InputError("inputs must be finite; they hold NaN or infinity")
        found += [(torch.from_numpy(one[None].astype(np.float64)),) for one in inputs]
    generator = torch.Generator().manual_seed(seed)
    for _ in range(points):
        drawn = []
        for shape in shapes:
            if between is None:
                drawn.append(torch.randn(shape, generator=generator, dtype=torch.float64))
            else:
                low, high = between
                share = torch.rand(shape, generator=generator, dtype=torch.float64)
                drawn.append(low + (high - low) * share)
        found.append(tuple(drawn))
    return found


@singledispatch
def function(operation: Operation, shape: tuple[int, ...]) -> Callable[..., Tensor]:
    """An operation as a function of float64 tensors; `shape` is that of what it makes."""
    raise TypeError(f"no function for {type(operation).__name__}")


@function.register
def _(operation: Convolution, shape: tuple[int, ...]) -> Callable[..., Tensor]:
    geometry = operation.geometry
    kernel, shift = _tensor(operation.kernel), operation.shift
    bias = None if shift is None else _tensor(shift)
    axes = geometry.axes
    convolve = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
    if geometry.transposed:
        return _transposed(kernel, bias, geometry)
    pads = [side for pair in reversed(geometry.correlation(kernel.shape).padding) for side in pair]
    mode = "constant" if geometry.padding_mode == "zeros" else geometry.padding_mode
    options = (geometry.stride, 0, geometry.dilation, geometry.groups)
    return lambda x: convolve(F.pad(x, pads, mode=mode), kernel, bias, *options)


def _transposed(kernel: Tensor, bias: Tensor | None, geometry: ConvGeometry) -> Callable[..., Tensor]:
    """Without padding, then cropped, as the two sides of an axis may lose different amounts."""
    axes = geometry.axes
    convolve = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[axes - 1]
    sides = geometry.correlation(kernel.shape)
    window = tuple(
        slice(before, before + n) for n, (before, _) in zip(sides.input_shape, sides.padding, strict=True)
    )

    def step(x: Tensor) -> Tensor:
        full = convolve(x, kernel, None, geometry.stride, 0, 0, geometry.groups, geometry.dilation)
        lacking = [max(one.stop - n, 0) for one, n in zip(window, full.shape[2:], strict=True)]
        padded = F.pad(full, [side for n in reversed(lacking) for side in (0, n)])
        cut = padded[(slice(None), slice(None), *window)]
        return cut if bias is None else cut + bias.reshape(-1, *[1] * axes)

    return step


@function.register
def _(operation: AxisMatrices, shape: tuple[int, ...]) -> Callable[..., Tensor]:
    matrices = {axis: _tensor(matrix) for axis, matrix in operation.matrices.items()}
    shift = None if operation.shift is None else _tensor(operation.shift)

    def step(x: Tensor) -> Tensor:
        for axis, matrix in matrices.items():
            x = torch.movedim(torch.movedim(x, axis, -1) @ matrix.T, -1, axis)
        return x if shift is None else x + shift

    return step


@function.register
def _(operation: Move, shape: tuple[int, ...]) -> Callable[..., Tensor]:
    index = torch.from_numpy(np.array(operation.index))
    inside = index >= 0
    if bool(inside.all()):
        return lambda x: x.reshape(-1)[index]
    read, fill = index.clamp(min=0), torch.tensor(operation.fill, dtype=torch.float64)
    return lambda x: torch.where(inside, x.reshape(-1)[read], fill)


@function.register
def _(operation: Affine, shape: tuple[int, ...]) -> Callable[..., Tensor]:
    scale, shift = _tensor(operation.scale), _tensor(operation.shift)
    return lambda x: scale * x + shift


@function.register
def _(operation: Sum, shape: tuple[int, ...]) -> Callable[..., Tensor]:
    return lambda *x: sum(
        (sign * one for sign, one in zip(operation.signs[1:], x[1:], strict=True)), operation.signs[0] * x[0]
    )


@function.register
def _(operation: Concat, shape: tuple[int, ...]) -> Callable[..., Tensor]:
    return lambda *x: torch.cat(x, dim=operation.axis)


@function.register
def _(operation: Softmax, shape: tuple[int, ...]) -> Callable[..., Tensor]:
    return lambda x: (F.log_softmax if operation.logarithm else F.softmax)(x, dim=operation.axis)


@function.register
def _(operation: Sort, shape: tuple[int, ...]) -> Callable[..., Tensor]:
    return lambda x: torch.sort(x, dim=operation.axis, descending=operation.descending).values


@function.register
def _(operation: Normalised, shape: tuple[int, ...]) -> Callable[..., Tensor]:
    def step(x: Tensor) -> Tensor:
        centred = x - x.mean(operation.axes, keepdim=True) if operation.centred else x
        return centred / torch.sqrt((centred**2).mean(operation.axes, keepdim=True) + operation.epsilon)

    return step


@function.register
def _(operation: MaxPool, shape: tuple[int, ...]) -> Callable[..., Tensor]:
    axes = len(operation.window)
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[axes - 1]

    def step(x: Tensor) -> Tensor:
        # All windows within a tensor that is -inf beyond the input.
        ends = (
            s * (m - 1) + d * (k - 1) + 1
            for k, s, d, m in zip(
                operation.window, operation.stride, operation.dilation, operation.outputs, strict=True
            )
        )
        after = [end - n - a for end, n, a in zip(ends, x.shape[2:], operation.before, strict=True)]
        pads = [side for pair in reversed(list(zip(operation.before, after, strict=True))) for side in pair]
        padded = F.pad(x, pads, value=-math.inf)
        pooled: Tensor = pool(padded, operation.window, operation.stride, 0, operation.dilation)
        return pooled

    return step


@function.register
def _(operation: Pointwise, shape: tuple[int, ...]) -> Callable[..., Tensor]:
    given: Mapping[str, Any] = operation.parameters
    return lambda x: POINTWISE[operation.function](x, given)


POINTWISE: dict[str, Callable[[Tensor, Mapping[str, Any]], Tensor]] = {
    "relu": lambda x, _: F.relu(x),
    "leaky_relu": lambda x, given: F.leaky_relu(x, given["alpha"]),
    "prelu": lambda x, given: torch.where(x > 0, x, _tensor(given["slope"]) * x),
    "elu": lambda x, given: F.elu(x, given["alpha"]),
    "selu": lambda x, given: given["gamma"] * F.elu(x, given["alpha"]),
    "celu": lambda x, given: F.celu(x, given["alpha"]),
    "sigmoid": lambda x, _: torch.sigmoid(x),
    "hardsigmoid": lambda x, given: torch.clamp(given["alpha"] * x + given["beta"], 0, 1),
    "hardswish": lambda x, _: x * torch.clamp(x / 6 + 0.5, 0, 1),
    "tanh": lambda x, _: torch.tanh(x),
    "softplus": lambda x, given: F.softplus(x, given.get("beta", 1.0), threshold=40),
    "softsign": lambda x, _: F.softsign(x),
    "logsigmoid": lambda x, _: F.logsigmoid(x),
    "gelu": lambda x, _: F.gelu(x),
    "gelu_tanh": lambda x, _: F.gelu(x, approximate="tanh"),
    "silu": lambda x, _: x * torch.sigmoid(x),
    "swish": lambda x, given: x * torch.sigmoid(given["alpha"] * x),
    "mish": lambda x, _: x * torch.tanh(F.softplus(x)),
    "clip": lambda x, given: torch.clamp(x, given["low"], given["high"]),
    "softshrink": lambda x, given: F.softshrink(x, given["threshold"]),
    "abs": lambda x, _: torch.abs(x),
    "sin": lambda x, _: torch.sin(x),
    "cos": lambda x, _: torch.cos(x),
    "atan": lambda x, _: torch.atan(x),
    "erf": lambda x, _: torch.erf(x),
}
"""By name, the functions whose steepest slopes `slopes` has."""


def length(several: Sequence[Tensor]) -> float:
    return math.hypot(*(float(torch.linalg.vector_norm(one)) for one in several))


def _tensor(values: Array) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float64))
