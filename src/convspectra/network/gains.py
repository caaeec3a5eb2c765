"""How much each layer of a network stretches the signal that passes through it, forward and backward."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..models.operations import Graph, Node
from .complexity import is_layer, runners_up
from .jacobian import Derivative, Values, function, length
from .records import Gains, LayerGains, LayerNorms, Spread


def gains(
    graph: Graph,
    derivative: Derivative,
    layers: Sequence[LayerNorms],
    points: Sequence[Values],
    outputs: Sequence[str],
    *,
    labels: np.ndarray[Any, Any] | None = None,
    given: bool = True,
    seed: int = 0,
) -> Gains:
    """What the layers do to the activations and gradients of given inputs, beside what they can do.

        forward  ||A h|| / ||h||,        backward  ||A^T g|| / ||g||

    for a layer `A h + b`, with h what enters it and g the gradient, at what comes out of it, of the margin
    of the label, or of the product of the outputs with a random unit vector (a new one for each point, of
    the given seed). Both are at most `||A||`; of noise they are, in the mean of squares, the root mean
    squares that `LayerGains` has beside them.

    Arguments:
        derivative: of the nodes after `folding`, so that a layer has the batch norm behind it in it; `layers`
            of those that `is_layer` takes, in their order.
        points: from `jacobian.at_points`; in float64.
        labels: one a point.
        given: what is noted of the points.

    Not guaranteed: that g is the gradient of training; it is that of the network in evaluation mode. Where
    the network has no derivative (a ReLU at 0) it is what PyTorch takes for it.

    Reference: Sedghi, Gupta and Long (2019), Section 1, for the argument: singular values bound the factors
    by which signals grow in both directions.
    """
    learned = [node for node, _ in derivative.steps if is_layer(node.operation)]
    linear = [_linear(node, graph.shapes[node.output]) for node in learned]
    forward: list[list[float]] = [[] for _ in learned]
    backward: list[list[float]] = [[] for _ in learned]
    generator = torch.Generator().manual_seed(seed)
    for place, point in enumerate(points):
        label = None if labels is None else int(labels[place])
        entering, gradients = _signals(derivative, learned, point, outputs, label, generator)
        for index, (apply, h, g) in enumerate(zip(linear, entering, gradients, strict=True)):
            forward[index] += _gain(h, apply)
            backward[index] += _gain(g, _adjoint(apply, h))
    return Gains(
        points=len(points),
        given=given,
        direction="random direction" if labels is None else "margin",
        layers=tuple(
            LayerGains(
                name=layer.name,
                operator=layer.operator,
                lower=layer.lower,
                upper=layer.upper,
                white_forward=layer.frobenius / math.sqrt(layer.inputs),
                white_backward=layer.frobenius / math.sqrt(layer.outputs),
                forward=_spread(ahead, len(points)),
                backward=_spread(back, len(points)),
            )
            for layer, ahead, back in zip(layers, forward, backward, strict=True)
        ),
    )


def _linear(node: Node, shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """A layer without its bias."""
    assert is_layer(node.operation)
    return function(replace(node.operation, shift=None), shape)


def _adjoint(apply: Callable[[Tensor], Tensor], entering: Tensor) -> Callable[[Tensor], Tensor]:
    """`A^T`: the derivative of a linear map is the same wherever it is taken."""

    def pull(g: Tensor) -> Tensor:
        _, back, *_ = torch.func.vjp(apply, torch.zeros_like(entering))
        (found,) = back(g)
        return found  # type: ignore[no-any-return]

    return pull


def _signals(
    derivative: Derivative,
    learned: Sequence[Node],
    point: Values,
    outputs: Sequence[str],
    label: int | None,
    generator: torch.Generator,
) -> tuple[list[Tensor], list[Tensor]]:
    """What enters each layer, and the gradient at what comes out of it."""
    names = [*(node.inputs[0] for node in learned), *(node.output for node in learned), *outputs]
    with torch.enable_grad():
        leaves = tuple(one.clone().requires_grad_() for one in point)
        values = derivative.values(leaves, names)
        entering, leaving = values[: len(learned)], values[len(learned) : 2 * len(learned)]
        ends = values[2 * len(learned) :]
        directions = _directions([one.detach() for one in ends], label, generator)
        found = torch.autograd.grad(ends, leaving, directions, allow_unused=True)
    gradients = [torch.zeros_like(one) if g is None else g for g, one in zip(found, leaving, strict=True)]
    return [one.detach() for one in entering], gradients


def _directions(ends: Sequence[Tensor], label: int | None, generator: torch.Generator) -> list[Tensor]:
    """Of what the gradient is taken: a vector for each output."""
    if label is None:
        drawn = [torch.randn(one.shape, generator=generator, dtype=one.dtype) for one in ends]
        size = length(drawn)
        return [one / size for one in drawn]
    (end,) = ends
    (other,) = runners_up(end.numpy(), np.array([label]))
    along = torch.zeros_like(end)
    along[0, label], along[0, int(other)] = 1.0, -1.0
    return [along]


def _gain(signal: Tensor, apply: Callable[[Tensor], Tensor]) -> list[float]:
    """The gain in a list, which is empty where there is none."""
    peak = float(signal.abs().max())
    if not 0 < peak < math.inf:
        return []
    # Of a signal near 1, whose squares neither overflow nor underflow.
    unit = signal / peak
    with torch.no_grad():
        found = float(torch.linalg.vector_norm(apply(unit))) / float(torch.linalg.vector_norm(unit))
    return [found] if math.isfinite(found) else []


def _spread(found: Sequence[float], points: int) -> Spread:
    if not found:
        return Spread(0, points, None, None, None)
    least, median, largest = map(float, np.quantile(found, [0, 0.5, 1]))
    return Spread(len(found), points - len(found), least, median, largest)
