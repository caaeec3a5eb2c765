"""One node of an ONNX graph on its way to an operation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...graph_builder import Builder, UnsupportedError
from ...operations import Array, OpenShape, Operation, Shape, StoredLayer
from ...records import Unread


@dataclass(frozen=True)
class Step:
    """One node, what it reads, and where it goes; tensors by their names in the graph that is made."""

    builder: Builder
    node: Any
    label: str
    found: dict[str, Any]
    opset: int
    inputs: list[str]
    outputs: list[str]
    layer: StoredLayer | Unread | None = None

    @property
    def source(self) -> str:
        """The first input, which must depend on the graph's."""
        if not self.builder.depends(self.inputs[0]):
            raise UnsupportedError("only its other inputs depend on the input of the network")
        return self.inputs[0]

    @property
    def sizes(self) -> OpenShape:
        """The shape of the first input, sizes that are open included."""
        return self.builder.sizes(self.source)

    @property
    def shape(self) -> Shape:
        return self.builder.shape(self.source)

    def constant(self, place: int, what: str) -> Array:
        """Another input, which must not depend on the graph's."""
        value = self.optional(place, what)
        if value is None:
            raise UnsupportedError(f"it has no {what}")
        return value

    def optional(self, place: int, what: str) -> Array | None:
        """The same, None where it is left out."""
        name = self.inputs[place] if len(self.inputs) > place else ""
        if not name:
            return None
        if self.builder.depends(name):
            raise UnsupportedError(f"its {what} depends on the input of the network")
        return self.builder.constants[name]

    def emit(self, operation: Operation, source: str | None = None, output: str | None = None) -> str:
        """The node as this operation."""
        read = [source or self.source]
        made = output or self.outputs[0]
        return self.builder.add(self.label, self.node.op_type, operation, read, made, self.layer)

    def between(self, operation: Operation, source: str | None = None) -> str:
        """A step on the way to the node's output."""
        made = self.builder.tensors.unique(f"{self.outputs[0]}/step")
        return self.builder.add(made, self.node.op_type, operation, [source or self.source], made)
