"""What derivatives at points take, estimated before any is taken, and how many of them fit into a limit."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..cost import Cost, memory_limit
from ..models.operations import AxisMatrices, Convolution, Graph, Node
from ..work import SECONDS, SECONDS_A_WEIGHT

_ENTRY, _PRODUCT, _BYTES = 1e-7, 1e-9, 56
"""Seconds of one core for an entry of a tensor, and for a product with a weight; bytes for an entry. Measured
with PyTorch, in float64, on networks of a few channels; wide ones are up to three times faster."""


def fitting_iterations(
    graph: Graph, nodes: Sequence[Node], points: int, iterations: int, max_seconds: float | None
) -> tuple[int, tuple[str, ...]]:
    """How many iterations of the power method there can be at each point, and a note where they are fewer.

    Args:
        graph: whose inputs the points are.
        nodes: of it, folded.
        points: how many, and for each of them how many outputs.
        iterations: how many are wanted.
        max_seconds: of one core, for all points; default as for `analyze`.

    Returns:
        A number from 0 to `iterations`, and what the user should know.
    """
    one = _of_one_iteration(graph, nodes)
    weights = sum(_weights(node) for node in nodes)
    limit = SECONDS + SECONDS_A_WEIGHT * weights if max_seconds is None else max_seconds
    whole = Cost(one.seconds * points * iterations, one.memory)
    if max_seconds is None and one.memory > memory_limit():
        allowed = f"max_memory is {memory_limit() / 2**30:,.1f} GiB: raise it, or give max_seconds"
        return 0, (f"no lower bound: derivatives take {whole}; {allowed}",)
    found = min(iterations, int(limit / (one.seconds * points)))
    if found == iterations:
        return found, ()
    what = f"{found} of {iterations} iterations for the lower bound" if found else "no lower bound"
    return found, (f"{what}: all of them take {whole}; max_seconds is {limit:,.0f}: raise it",)


def _of_one_iteration(graph: Graph, nodes: Sequence[Node]) -> Cost:
    """A direction forward, and one back."""
    sizes = [math.prod(graph.shapes[node.output]) for node in nodes]
    entries = sum(sizes) + sum(map(math.prod, graph.inputs.values()))
    products = sum(size * _reads(node) for size, node in zip(sizes, nodes, strict=True))
    return Cost(_ENTRY * entries + 3 * _PRODUCT * products, _BYTES * entries)


def _reads(node: Node) -> int:
    """Entries that one entry of the output is made of."""
    match node.operation:
        case Convolution() as layer:
            c = layer.geometry.correlation(layer.kernel.shape)
            return math.prod(c.kernel_size) * (c.out_channels if c.transposed else c.in_channels) // c.groups
        case AxisMatrices() as layer:
            return sum(matrix.shape[1] for matrix in layer.matrices.values())
    return 0


def _weights(node: Node) -> int:
    match node.operation:
        case Convolution() as layer:
            return layer.kernel.size
        case AxisMatrices(weights=True) as layer:
            return sum(matrix.size for matrix in layer.matrices.values())
    return 0
