"""Types and shapes in an ONNX graph and the graphs inside of it: asked for, and inferred node by node."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from ....errors import ModelError
from ...budget import Budget
from ...sample_shapes import SampleShape, assign
from . import store as tensors
from .evaluation import SMALL, outputs_of
from .scope import Scope, Values, sizes_of

_NESTED_GRAPHS = 8  # each may hold two of the next


def count_operators(graph: Any) -> Counter[str]:
    """How often each operator occurs, sub-graphs included; constants are not counted."""
    nodes = (node for part in tensors.graphs(graph) for node in part.node)
    return Counter(tensors.operator(node) for node in nodes if node.op_type not in ("Constant", "Identity"))


def inlined(proto: Any, budget: Budget) -> Any:
    """The model with its local functions put in where they are called.

    Raises:
        ModelError: functions that call each other in a circle, or graphs inside graphs beyond the budget.
    """
    import onnx.inliner

    calls = {_key(function): Counter(_calls(function)) for function in proto.functions}
    sizes: dict[Any, int] = {}
    for first in calls:
        waiting = [first]
        while waiting:
            key = waiting[-1]
            inner = [one for one in calls[key] if one in calls and one not in sizes]
            if any(one in waiting for one in inner):
                raise ModelError(f"{budget.path}: its local functions call each other in a circle")
            waiting.extend(inner[:1])
            if not inner:
                sizes[key] = sum(sizes.get(one, 1) * count for one, count in calls[key].items())
                waiting.pop()
    whole = sum(sizes.get(key, 1) for key in _calls(proto.graph))
    budget.evaluate("its graph, with all functions put in,", whole)
    _check_depth(proto.graph, budget)
    if not proto.functions:
        return proto
    for function in proto.functions:
        _check_depth(function, budget)
    whole_model = onnx.inliner.inline_local_functions(proto)
    _check_depth(whole_model.graph, budget)
    return whole_model


def _key(node: Any) -> tuple[str, str]:
    return node.domain, getattr(node, "op_type", "") or node.name


def _calls(graph: Any) -> list[tuple[str, str]]:
    return [_key(node) for part in tensors.graphs(graph) for node in part.node]


def _check_depth(graph: Any, budget: Budget) -> None:
    level, depth = [graph], 0
    while level:
        budget.descend(depth, "a graph", _NESTED_GRAPHS)
        level = [inner for part in level for node in part.node for inner in tensors.subgraphs(node)]
        depth += 1


class Inference:
    """Scopes with the types of their values, which follow from the inputs in one pass over the nodes.

    What constants and known shapes make is worked out on the way, so that sizes that are computed are known;
    the propagation of ONNX itself is not used: a small file can make it fill the memory. What the file states
    fills in what does not follow.
    """

    def __init__(self, values: Values) -> None:
        self.values = values

    def scope(self, graph: Any, outer: Scope | None = None, given: Sequence[Any] = ()) -> Scope:
        """The scope of a graph, for inputs of these types where they are known."""
        scope = Scope.of(graph, outer)
        stated = {value.name: value.type for value in (*graph.value_info, *graph.output)}
        for value, kind in zip_longest(graph.input, given[: len(graph.input)]):
            scope.types[value.name] = _filled(kind, value.type)
        for tensor in graph.initializer:
            scope.types[tensor.name] = _type(tensor.data_type, tensor.dims)
        for tensor in graph.sparse_initializer:
            scope.types[tensor.values.name] = _type(tensor.values.data_type, tensor.dims)
        for place, node in enumerate(graph.node):
            self.values.store.budget.evaluate("the sizes in its graph")
            bodies, read = tensors.subgraphs(node), [name for name in node.input if name]
            found = self._of_bodies(place, node, bodies, scope) if bodies else self._of_operator(node, scope)
            depends = bodies or any(scope.depends(name) or not scope.is_made(name) for name in read)
            if depends and not self._is_known_size(node, scope):
                scope.dependent.update(name for name in node.output if not scope.is_fixed(name))
            for name, kind in zip_longest(node.output, found[: len(node.output)]):
                scope.types[name] = _filled(kind, stated.get(name))
        return scope

    def _is_known_size(self, node: Any, scope: Scope) -> bool:
        """Whether a node has sizes of a tensor that are known, though their tensor depends on the input."""
        if node.op_type not in ("Shape", "Size", "Gather") or len(node.output) != 1:
            return False
        return self.values.get(node.output[0], scope) is not None

    def _of_operator(self, node: Any, scope: Scope) -> list[Any]:
        """The types of what a node makes of its inputs, None where they do not follow."""
        for one in node.attribute if node.op_type == "Constant" else ():
            if one.name == "value":
                return [_type(one.t.data_type, one.t.dims)]
        kinds = {name: scope.type_of(name) for name in node.input if name}
        small = [name for name, kind in kinds.items() if _is_small(kind) and not scope.depends(name)]
        known = {name: self.values.get(name, scope) for name in small}
        try:
            found = outputs_of(node, kinds, known, self.values.opset)
        except Exception:  # noqa: BLE001  # inference raises whatever contradicts an operator
            found = {}
        if not found and node.op_type in ("Conv", "ConvTranspose") and len(node.input) > 1:
            weight = sizes_of(kinds.get(node.input[1]))
            return [None if weight is None else _type(1, [None] * len(weight))]
        return [found.get(name) for name in node.output]

    def _of_bodies(self, place: int, node: Any, bodies: list[Any], scope: Scope) -> list[Any]:
        """Those of a node with graphs inside, whose scopes are kept."""
        read = [scope.type_of(name) for name in node.input]
        if len(bodies) == 1 and node.op_type == "Loop":
            return self._repeated(place, bodies[0], scope, [_type(7, []), _type(9, [])], read[2:], [])
        if len(bodies) == 1 and node.op_type == "Scan":
            found = tensors.attributes(node)
            count, axes = found.get("num_scan_inputs"), found.get("scan_input_axes") or []
            if isinstance(count, int) and isinstance(axes, list):
                states, lists = read[: len(read) - count], read[len(read) - count :]
                slices = [_slice(kind, axis) for kind, axis in zip_longest(lists, axes[:count], fillvalue=0)]
                return self._repeated(place, bodies[0], scope, [], states, slices)
        inner = scope.inner[place] = [(body, self.scope(body, scope)) for body in bodies]
        if node.op_type != "If":
            return []
        branch = self._branch(node, scope)
        runs = [(body, one) for body, one in inner if branch in (None, body)]
        outputs = [[(value.name, one) for value in body.output] for body, one in runs]
        if branch is not None:
            scope.chosen.update(zip(node.output, outputs[0], strict=False))
        kinds = [[one.type_of(name) for name, one in made] for made in outputs]
        return [_agreed(those) for those in zip(*kinds, strict=False)]

    def _branch(self, node: Any, scope: Scope) -> Any:
        """The branch of an If that runs, None where the input of the network may decide."""
        given = node.input[0] if node.input else ""
        value = None if not given or scope.depends(given) else self.values.get(given, scope)
        if value is None or value.size != 1:
            return None
        word = "then_branch" if value.reshape(()) else "else_branch"
        return next((one.g for one in node.attribute if one.name == word), None)

    def _repeated(
        self, place: int, body: Any, scope: Scope, first: list[Any], states: list[Any], slices: list[Any]
    ) -> list[Any]:
        """Those of a body that is repeated: of its states, and of lists of what it makes in each round.

        A state keeps a size that one round keeps.
        """
        while True:
            inner = self.scope(body, scope, [*first, *states, *slices])
            made = [inner.types.get(one.name) for one in body.output][len(first) // 2 :]
            kept = [_agreed(pair) for pair in zip(states, made, strict=False)]
            if kept == states[: len(kept)]:
                scope.inner[place] = [(body, inner)]
                return [*kept, *map(_list, made[len(kept) :])]
            states = kept


def _type(element: int, sizes: Sequence[int | None]) -> Any:
    import onnx

    return onnx.helper.make_tensor_type_proto(element, list(sizes))


def _is_tensor(kind: Any) -> bool:
    return kind is not None and kind.HasField("tensor_type") and kind.tensor_type.HasField("shape")


def _is_small(kind: Any) -> bool:
    if not _is_tensor(kind):
        return False
    dims = kind.tensor_type.shape.dim
    return all(dim.HasField("dim_value") for dim in dims) and math.prod(d.dim_value for d in dims) <= SMALL


def _filled(kind: Any, stated: Any) -> Any:
    """A type, with what the file states in place of what is not known."""
    if not _is_tensor(stated) or (kind is not None and not kind.HasField("tensor_type")):
        return stated if kind is None else kind
    if not _is_tensor(kind):
        return stated
    own, other = kind.tensor_type.shape.dim, stated.tensor_type.shape.dim
    for one, its in zip(own, other, strict=False) if len(own) == len(other) else ():
        if not one.HasField("dim_value") and its.dim_value > 0:
            one.dim_value = its.dim_value
    return kind


def _agreed(kinds: Sequence[Any]) -> Any:
    """The type of what may be any of these: the sizes that they have in common; None if that is nothing."""
    if not all(map(_is_tensor, kinds)):
        return None
    sizes = [sizes_of(kind) or [] for kind in kinds]
    if len(set(map(len, sizes))) != 1:
        return None
    common = [column[0] if len(set(column)) == 1 else None for column in zip(*sizes, strict=True)]
    return _type(kinds[0].tensor_type.elem_type, common)


def _slice(kind: Any, axis: Any) -> Any:
    """The type of one entry of a list along an axis."""
    sizes = sizes_of(kind)
    if not sizes or not isinstance(axis, int) or not -len(sizes) <= axis < len(sizes):
        return None
    del sizes[axis]
    return _type(kind.tensor_type.elem_type, sizes)


def _list(kind: Any) -> Any:
    sizes = sizes_of(kind)
    return None if sizes is None else _type(kind.tensor_type.elem_type, [None, *sizes])


def set_sample_shape(graph: Any, sample_shape: SampleShape | None) -> None:
    """Take what the graph does not fix as unknown, open batch sizes as 1, and inputs as asked for.

    Sizes that the graph states behind its inputs are dropped where one of those is asked for: they may
    belong to another size.

    Raises:
        InputError: as `sample_shapes.assign`.
    """
    for part in tensors.graphs(graph):
        for value in (*part.input, *part.value_info, *part.output):
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_value <= 0:
                    dim.ClearField("dim_value")
    weights = {tensor.name for tensor in graph.initializer}
    inputs = {value.name: value for value in graph.input if value.name not in weights}
    asked = assign(sample_shape, {name: _axes(value) for name, value in inputs.items()})
    for name, value in inputs.items():
        dims = value.type.tensor_type.shape.dim
        if len(dims) >= 2 and dims[0].dim_value <= 0:
            dims[0].dim_value = 1
        for dim, size in zip(dims[1:], asked.get(name, ()), strict=False):
            dim.dim_value = size
    for part in tensors.graphs(graph) if asked else ():
        for value in (*part.value_info, *part.output):
            value.type.tensor_type.ClearField("shape")


def _axes(value: Any) -> list[int | str]:
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.dim_value > 0 else dim.dim_param or "?" for dim in dims]
