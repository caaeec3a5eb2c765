"""One node of an exported program on its way to an operation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...graph_builder import Builder, UnsupportedError
from ...operations import Array, Operation, Shape

Parts = list[str] | None


@dataclass(frozen=True)
class Step:
    """One node: its operator, what it makes, what people call it, its arguments by name."""

    builder: Builder
    target: Any
    output: str
    label: str
    word: str
    found: dict[str, Any]
    tensors: dict[str, Any]

    @property
    def source(self) -> str:
        """The first argument, which must depend on the network's input."""
        name = str(getattr(self.found["input" if "input" in self.found else "self"], "name", ""))
        if not self.builder.known(name):
            raise UnsupportedError("only its other inputs depend on the input of the network")
        return name

    @property
    def shape(self) -> Shape:
        return self.builder.shapes[self.source]

    def optional(self, name: str) -> Array | None:
        """An argument that must not depend on the network's input, None where it is left out."""
        given = self.found.get(name)
        if given is None:
            return None
        if not hasattr(given, "all_input_nodes"):
            return np.asarray(given, dtype=np.float64)
        if given.name in self.builder.dependent:
            raise UnsupportedError(f"its {name} depends on the input of the network")
        return self.builder.constants[given.name]

    def constant(self, name: str) -> Array:
        """The same, which must be there."""
        value = self.optional(name)
        if value is None:
            raise UnsupportedError(f"it has no {name}")
        return value

    def emit(self, operation: Operation, source: str | None = None, output: str | None = None) -> str:
        """The node as this operation."""
        return self.builder.add(
            self.label, self.word, operation, [source or self.source], output or self.output
        )

    def between(self, operation: Operation, source: str | None = None) -> str:
        """A step on the way to the node's output."""
        return self.emit(operation, source, self.builder.names.unique(f"{self.output}/step"))
