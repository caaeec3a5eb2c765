"""A proven upper bound for a whole network, node by node, and a lower one beside it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .._version import __version__
from ..checks import check_kind
from ..compute import Progress
from ..errors import InputError
from ..models.operations import Concat, Graph, Node, Refused, Sum
from .complexity import checked_labels, complexity, is_layer, layer_norms, margins
from .constants import constant
from .effort import fitting_iterations
from .folding import folded
from .records import JOINT, LayerNorms, LipschitzReport, NodeBound, OutputBound
from .scales import Scales, product

# Of the few operations in float64 that a node adds.
_ALLOWANCE = 1 + 1e-15


def lipschitz(
    graph: Graph,
    *,
    outputs: Sequence[str] = (),
    inputs: np.ndarray[Any, Any] | None = None,
    labels: np.ndarray[Any, Any] | None = None,
    points: int = 0,
    between: tuple[float, float] | None = None,
    iterations: int = 30,
    max_seconds: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> LipschitzReport:
    """How far two outputs of a network can be apart, relative to the distance of its inputs (l2).

        L(input) = 1;  L(f(x)) = c L(x);  L(x + y) = L(x) + L(y);  L((x, y)) = sqrt(L(x)^2 + L(y)^2)

    over the nodes in their order, c from `constants.constant`: an UPPER bound for every tensor with respect
    to the network's inputs together, of which each has L = 1. A block `x + f(x)` has `(1 + c) L(x)`;
    `folding` and `scales` say what is taken together.

    Arguments:
        graph: from `convspectra.read_graph`.
        outputs: names of tensors, by default those of the graph's outputs that have a bound; `refused` of
            the report says why others have none.
        inputs: shape (N, ...), points for the lower bound; for networks of one input.
        labels: shape (N,), integers, the classes of these inputs, for the margins of one output of shape
            (1, classes).
        points: how many more to draw.
        between: two numbers, between which they are drawn uniformly; else of a standard normal law.
        iterations: of the power method on `J^T J` at each point.
        max_seconds: of one core, for the lower bound at points that are drawn, as estimated before it is
            begun. Where fewer iterations fit, or no points, there are fewer or none, and `notes` says so.
            Default: 10, and 4 ms for each weight, in no more memory than `max_memory`.
        seed: of the points that are drawn, and of the first directions.
        progress: told how far it is, from 0 to 1, and which node is next.

    Returns:
        `LipschitzReport`. The lower bounds are `||J v||` at these points: see `records.LOWER_ASSUMES`; the
        gains are those at `inputs`, at what is drawn if there are none.

    Raises:
        InputError: an output asked for, or every output, depends on an operator without a proven constant,
            which is named; weights that are infinite or NaN; no such output; `inputs` of another shape,
            `labels` that do not fit.
        ImportError: points are given, and PyTorch is not installed.

    Notes:
        Not guaranteed is tightness. The bound is a product over layers, and grows exponentially with depth
        where the network itself may not. The rounding of the network's own arithmetic is not in it.

    References:
        Szegedy and others (2014), Section 4.3, for the product; here with sums and concatenations.
    """
    check_kind("graph", graph, Graph, "convspectra.read_graph(path)")
    wanted, refused = select(graph, outputs)
    nodes = folded(graph, wanted)
    drawn: list[Any] = []
    notes: tuple[str, ...] = ()
    if points and inputs is None:
        tensors = len(wanted) + (len(wanted) > 1)
        iterations, notes = fitting_iterations(graph, nodes, points * tensors, iterations, max_seconds)
        points = points if iterations else 0
    if inputs is not None or points:
        from .jacobian import at_points

        drawn = at_points(graph, inputs, points, between, seed)
    if labels is not None:
        labels = checked_labels(labels, inputs, {name: graph.shapes[name] for name in wanted})
    proven = _proven(graph, nodes, wanted, progress, 0.5 if drawn else 1.0)
    report = replace(proven, refused=refused, notes=notes)
    if not drawn:
        return report
    from .jacobian import Derivative

    derivative = Derivative(graph, nodes)
    lower = derivative.largest(drawn, wanted, iterations, seed, _rest(progress, 0.5))
    report = replace(
        report,
        outputs=tuple(replace(one, lower=lower[one.name]) for one in report.outputs),
        joint=replace(report.joint, lower=lower[report.joint.name]),
        points=len(drawn),
    )
    of_inputs = drawn[: 0 if inputs is None else len(inputs)]
    if report.complexity.layers:
        from .gains import gains

        chosen = of_inputs or drawn
        layers = report.complexity.layers
        given = bool(of_inputs)
        found = gains(graph, derivative, layers, chosen, wanted, labels=labels, given=given, seed=seed)
        report = replace(report, gains=found)
    if labels is not None and inputs is not None:
        values = np.concatenate([derivative.values(one, wanted)[0].numpy() for one in of_inputs])
        ahead = margins(wanted[0], values, labels, inputs, report.complexity)
        report = replace(report, margins=ahead)
    return report


def _proven(
    graph: Graph, nodes: Sequence[Node], wanted: Sequence[str], progress: Progress | None, share: float
) -> LipschitzReport:
    """What is known without points."""
    found, layers, upper = _upper(graph, nodes, progress, share)
    path = _worst_path(nodes, upper, max(wanted, key=lambda name: upper[name]))
    bounds = tuple(OutputBound(name, graph.shapes[name], upper[name]) for name in wanted)
    joint = bounds[0]
    if len(bounds) > 1:
        size = sum(math.prod(one.shape) for one in bounds)
        joint = OutputBound(JOINT, (size,), math.hypot(*(one.upper for one in bounds)) * _ALLOWANCE)
    on_path = {node.output for node in path}
    marked = tuple(
        replace(one, on_worst_path=node.output in on_path) for one, node in zip(found, nodes, strict=True)
    )
    return LipschitzReport(
        model=graph.name,
        path=graph.path,
        sha256=graph.sha256,
        format=graph.format,
        version=__version__,
        inputs=graph.inputs,
        outputs=bounds,
        joint=joint,
        nodes=marked,
        worst_path=tuple(node.name for node in path),
        path_product=product(one.constant for one in marked if one.on_worst_path),
        complexity=complexity(
            nodes, layers, [one.constant for one in found], joint.upper, outputs=len(wanted)
        ),
    )


def select(graph: Graph, outputs: Sequence[str] = ()) -> tuple[tuple[str, ...], dict[str, str]]:
    """The tensors asked for, if all of them have a bound; by default those of the graph's outputs that have.

    Returns:
        their names, and of the graph's other outputs why they have none.

    Raises:
        InputError: as `lipschitz`.
    """
    producers = {node.output: node for node in graph.nodes}
    wanted = tuple(dict.fromkeys(outputs or graph.outputs))
    for name in wanted:
        if name not in producers and name not in graph.inputs:
            near = difflib.get_close_matches(name, producers, n=3, cutoff=0.3)
            listed = ", ".join(map(repr, [*graph.outputs, *near]))
            raise InputError(
                f"output {name!r} must be a tensor that depends on the input of {graph.name}; it has {listed}"
            )
    if not wanted:
        raise InputError(f"no output of {graph.name} depends on its input; name a tensor with outputs=")
    causes = _causes(graph)
    refused = {name: _reason(causes[name]) for name in wanted if name in causes}
    bounded = tuple(name for name in wanted if name not in causes)
    if refused and (outputs or not bounded):
        name, reason = next(iter(refused.items()))
        free = [one for one in graph.outputs if one not in causes]
        last = _last_bounded(graph, causes, name)
        choice = free or ([last] if last else [])
        advice = f"; outputs={choice[0]!r} has a bound" if choice else ""
        raise InputError(f"output {name!r} of {graph.name} {reason}{advice}")
    return bounded, refused


def _reason(cause: Node) -> str:
    assert isinstance(cause.operation, Refused)
    return f"depends on {cause.operator} {cause.name!r}: {cause.operation.reason}"


def _causes(graph: Graph) -> dict[str, Node]:
    """For each tensor without a bound the first refused node that it depends on."""
    causes: dict[str, Node] = {}
    for node in graph.nodes:
        inherited = next((causes[name] for name in node.inputs if name in causes), None)
        if inherited is not None:
            causes[node.output] = inherited
        elif isinstance(node.operation, Refused):
            causes[node.output] = node
    return causes


def _last_bounded(graph: Graph, causes: Mapping[str, Node], name: str) -> str:
    """The tensor that the cause of a missing bound reads."""
    reads = [one for one in causes[name].inputs if one not in causes and one not in graph.inputs]
    return reads[0] if reads else ""


def _upper(
    graph: Graph, nodes: Sequence[Node], progress: Progress | None, share: float
) -> tuple[list[NodeBound], list[LayerNorms], dict[str, float]]:
    """Bounds of all nodes, the norms of the layers among them, and bounds of all tensors."""
    upper = dict.fromkeys(graph.inputs, 1.0)
    shapes, scales = graph.shapes, Scales({node.output: node for node in nodes}, graph.shapes, upper)
    found: list[NodeBound] = []
    layers: list[LayerNorms] = []
    for place, node in enumerate(nodes):
        if progress is not None:
            progress(share * place / len(nodes), node.name)
        try:
            if is_layer(node.operation):
                layer, how = layer_norms(node, node.operation, shapes[node.inputs[0]], shapes[node.output])
                own = layer.upper
                layers.append(layer)
            else:
                own, how = constant(node.operation, shapes[node.inputs[0]])
        except InputError as error:
            raise InputError(f"{node.operator} {node.name!r}: {error}") from None
        before = [upper[name] for name in node.inputs]
        match node.operation:
            case Sum():
                after = math.fsum(before) if all(map(math.isfinite, before)) else math.inf
            case Concat():
                after = math.hypot(*before)
            case _:
                after = product((own, before[0]))
        if (by_scale := scales.bound(node, node.operation)) < after:
            after, how = by_scale, f"{how}, with a scale in front"
        after = after * _ALLOWANCE
        upper[node.output] = after
        scales.note(node)
        largest = max(before)
        gain = after / largest if 0 < largest < math.inf else (own if largest else 0.0)
        found.append(NodeBound(node.name, node.operator, own, how, after, gain, False))
    return found, layers, upper


def _worst_path(nodes: Sequence[Node], upper: Mapping[str, float], output: str) -> tuple[Node, ...]:
    """From an input to an output, at each node through the input whose bound is largest."""
    producers = {node.output: node for node in nodes}
    path = []
    while output in producers:
        node = producers[output]
        path.append(node)
        output = max(node.inputs, key=lambda name: upper[name])
    return tuple(reversed(path))


def _rest(progress: Progress | None, share: float) -> Progress | None:
    if progress is None:
        return None
    return lambda part, name: progress(share + (1 - share) * part, name)
