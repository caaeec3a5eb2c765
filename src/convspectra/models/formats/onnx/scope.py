"""What the nodes of an ONNX graph can see, and which of it is constant."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...budget import BudgetError
from . import store as tensors
from .evaluation import EVALUATED, RUN_TIME, NotConstantError, evaluate

Array = np.ndarray[Any, Any]


@dataclass
class Scope:
    """The values of a graph and, in sub-graphs, of those around it.

    Attributes:
        types: of all values, as far as they are known.
        dependent: names of what may change with the input of the network.
        inner: the graphs inside its nodes, and their scopes, by the node's place.
        chosen: of what an If makes whose branch is known, what that branch makes, and its scope.
        keys: the tensors' names in the graph that is made of the whole, where each has its own.
    """

    outer: Scope | None = None
    inputs: set[str] = field(default_factory=set)
    types: dict[str, Any] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    sparse: set[str] = field(default_factory=set)
    producers: dict[str, Any] = field(default_factory=dict)
    consumers: dict[str, list[Any]] = field(default_factory=dict)
    outputs: set[str] = field(default_factory=set)
    dependent: set[str] = field(default_factory=set)
    values: dict[str, Array | NotConstantError] = field(default_factory=dict)
    inner: dict[int, list[tuple[Any, Scope]]] = field(default_factory=dict)
    chosen: dict[str, tuple[str, Scope]] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def of(graph: Any, outer: Scope | None = None) -> Scope:
        """The scope of a graph's nodes, of no types yet."""
        scope = Scope(outer)
        scope.inputs = {value.name for value in graph.input}
        scope.outputs = {value.name for value in graph.output}
        scope.constants = {tensor.name: tensor for tensor in graph.initializer}
        scope.sparse = {tensor.values.name for tensor in graph.sparse_initializer}
        scope.dependent = scope.inputs - scope.constants.keys()
        for node in graph.node:
            for name in node.input:
                scope.consumers.setdefault(name, []).append(node)
            for name in node.output:
                scope.producers[name] = node
        return scope

    def around(self) -> Iterator[Scope]:
        """The scope itself, and those around it."""
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.outer

    def find(self, table: str, name: str) -> Any:
        """The nearest entry of a name in one of the dictionaries."""
        tables = (getattr(one, table) for one in self.around())
        return next((found[name] for found in tables if name in found), None)

    def depends(self, name: str) -> bool:
        """Whether a tensor may change with the input of the network."""
        return any(name in one.dependent for one in self.around())

    def is_fixed(self, name: str) -> bool:
        """Whether an If makes a tensor, by a known branch, of what does not depend on the input."""
        return name in self.chosen and not self.chosen[name][1].depends(self.chosen[name][0])

    def is_made(self, name: str) -> bool:
        """Whether a tensor is an input or constant, or a node before makes it."""
        return any(name in one.types for one in self.around())

    def type_of(self, name: str) -> Any:
        """The type of a tensor, None if it is not known."""
        return next((one.types[name] for one in self.around() if name in one.types), None)

    def sizes(self, name: str) -> list[int | None] | None:
        """The shape of a tensor, as far as it is known; None if the number of its axes is not."""
        return sizes_of(self.type_of(name))

    def home(self, name: str) -> Scope | None:
        """The scope that a name comes from."""
        return next(
            (
                one
                for one in self.around()
                if name in one.constants or name in one.producers or name in one.inputs or name in one.sparse
            ),
            None,
        )


def sizes_of(kind: Any) -> list[int | None] | None:
    """The shape in a type, None for a size that it leaves open."""
    if kind is None or not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    return [dim.dim_value if dim.dim_value > 0 else None for dim in kind.tensor_type.shape.dim]


class Values:
    """Constants of a graph and its sub-graphs, each worked out once and only when somebody asks."""

    def __init__(self, store: tensors.Store, opset: int) -> None:
        self.store, self.opset = store, opset

    def get(self, name: str, scope: Scope) -> Array | None:
        """The value of a tensor that does not depend on the input; None for others."""
        try:
            return self.require(name, scope)
        except NotConstantError:
            return None

    def require(self, name: str, scope: Scope) -> Array:
        """The same.

        Raises:
            NotConstantError: it depends on the input, or cannot be had from the file; and why.
        """
        first = scope.home(name) or scope
        path = {(id(first), name): self._needed(name, first)}
        steps = [(name, first)]
        while steps:
            one, home = steps[-1]
            key = (id(home), one)
            read = None if one in home.values else next(path[key], None)
            if read is None:
                home.values.setdefault(one, self._value(one, home))
                del path[key]
                steps.pop()
                continue
            needed, inner = read[0], read[1].home(read[0]) or read[1]
            if (id(inner), needed) in path:
                home.values[one] = NotConstantError("part of a cycle")
            elif isinstance(inner.values.get(needed), NotConstantError):
                home.values[one] = inner.values[needed]
            elif needed not in inner.values:
                path[id(inner), needed] = self._needed(needed, inner)
                steps.append((needed, inner))
        found = first.values[name]
        if isinstance(found, NotConstantError):
            raise NotConstantError(str(found))
        return found

    def _needed(self, name: str, home: Scope) -> Iterator[tuple[str, Scope]]:
        """What a value is made of and where that is seen, in the order in which it is looked at."""
        if name in home.chosen:
            return iter([home.chosen[name]])
        node = home.producers.get(name)
        if name in home.constants or name in home.sparse or node is None or not _is_evaluated(node):
            return iter(())
        if self._known_size(node, home) is not None:
            return iter(())
        if node.op_type == "Gather" and self._listed(node.input[0], home) is not None:
            return iter([(one, home) for one in node.input[1:2]])
        return iter([(one, home) for one in node.input if one])

    def _value(self, name: str, home: Scope) -> Array | NotConstantError:
        """A value whose parts are known, or why there is none."""
        if name in home.values:
            return home.values[name]
        if name in home.constants:
            return self.store.array(home.constants[name])
        if name in home.sparse:
            return NotConstantError("stored as a sparse tensor, which is not read")
        node = home.producers.get(name)
        if node is None:
            return NotConstantError(
                RUN_TIME if name in home.inputs else f"made of {name!r}, which nothing makes"
            )
        if node.op_type == "Constant":
            value = self.store.constant_node(node)
            return NotConstantError("a constant of a kind that is not read") if value is None else value
        known = self._known_size(node, home)
        if known is not None:
            return known
        if node.op_type == "Gather" and self._listed(node.input[0], home) is not None:
            return self._part_of_shape(node, home)
        if name in home.chosen:
            made_by, inside = home.chosen[name]
            return (inside.home(made_by) or inside).values[made_by]
        inputs: list[Array | None] = []
        for one in node.input:
            read = (home.home(one) or home).values.get(one) if one else None
            if isinstance(read, NotConstantError):
                return read
            inputs.append(read)
        try:
            made = evaluate(node, inputs, self.opset, self.store.budget)
        except (NotConstantError, BudgetError) as error:
            return NotConstantError(str(error))
        found: dict[str, Array | NotConstantError] = dict(zip(node.output, made, strict=False))
        home.values.update({key: value for key, value in found.items() if key and key != name})
        return found.get(name, NotConstantError(RUN_TIME))

    def _known_size(self, node: Any, home: Scope) -> Array | None:
        """What a Shape or Size node makes of a tensor whose sizes are all known."""
        found = self._listed(node.output[0], home) if node.op_type == "Shape" else None
        if node.op_type == "Size" and node.input:
            found = home.sizes(node.input[0])
        if found is None or None in found:
            return None
        return np.asarray(found if node.op_type == "Shape" else math.prod(filter(None, found)), np.int64)

    def _listed(self, name: str, home: Scope) -> list[int | None] | None:
        """What a Shape node lists of its input's sizes, those that are open as None."""
        node = home.find("producers", name)
        if node is None or node.op_type != "Shape" or not node.input:
            return None
        sizes, found = home.sizes(node.input[0]), tensors.attributes(node)
        start, end = found.get("start", 0), found.get("end")
        if sizes is None or not isinstance(start, int) or not (end is None or isinstance(end, int)):
            return None
        return sizes[start:end]

    def _part_of_shape(self, node: Any, home: Scope) -> Array | NotConstantError:
        """Some of the sizes of a shape, where those are known and others need not be."""
        where = (home.home(node.input[1]) or home).values.get(node.input[1]) if node.input[1:] else None
        try:
            listed = np.asarray(self._listed(node.input[0], home), dtype=object)
            part = listed[where] if isinstance(where, np.ndarray) else None
            return np.asarray(part, dtype=np.int64)
        except (TypeError, ValueError, IndexError):  # an open size, no whole numbers, beyond the last axis
            return NotConstantError(RUN_TIME)


def _is_evaluated(node: Any) -> bool:
    return node.op_type in EVALUATED and node.domain in ("", "ai.onnx")
