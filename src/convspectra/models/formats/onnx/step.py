"""One node of an ONNX graph on its way to an operation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ....errors import InputError
from ...graph_builder import LARGEST, Builder, UnsupportedError
from ...operations import Array, Operation, Shape


@dataclass(frozen=True)
class Step:
    """One node, what it reads, and where it goes."""

    builder: Builder
    node: Any
    label: str
    found: dict[str, Any]
    opset: int

    @property
    def source(self) -> str:
        """The first input, which must depend on the graph's."""
        name = str(self.node.input[0])
        if not self.builder.known(name):
            raise UnsupportedError("only its other inputs depend on the input of the network")
        return name

    @property
    def shape(self) -> Shape:
        return self.builder.shapes[self.source]

    def constant(self, place: int, what: str) -> Array:
        """Another input, which must not depend on the graph's."""
        value = self.optional(place, what)
        if value is None:
            raise UnsupportedError(f"it has no {what}")
        return value

    def optional(self, place: int, what: str) -> Array | None:
        """The same, None where it is left out."""
        name = self.node.input[place] if len(self.node.input) > place else ""
        if not name:
            return None
        if name in self.builder.dependent:
            raise UnsupportedError(f"its {what} depends on the input of the network")
        return self.builder.constants[name]

    def emit(self, operation: Operation, source: str | None = None, output: str | None = None) -> str:
        """The node as this operation."""
        return self.builder.add(
            self.label, self.node.op_type, operation, [source or self.source], output or self.node.output[0]
        )

    def between(self, operation: Operation, source: str | None = None) -> str:
        """A step on the way to the node's output."""
        name = self.builder.names.unique(f"{self.node.output[0]}/step")
        return self.emit(operation, source, name)

    def check_size(self, entries: float) -> None:
        """Refuse, before it is made, what would be huge.

        Raises:
            InputError: more than `LARGEST` entries.
        """
        if not entries <= LARGEST:
            raise InputError(
                f"it makes a tensor of more than {LARGEST} entries; give a smaller --input-shape"
            )
