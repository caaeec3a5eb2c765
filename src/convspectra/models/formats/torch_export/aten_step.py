"""One node of an exported program on its way to an operation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...graph_builder import Builder, UnsupportedError
from ...operations import Array, OpenShape, Operation, Shape, StoredLayer
from ...records import Unread

Parts = list[str] | None


class Tensor(str):
    """Among the arguments of an operator: the name of a tensor."""

    __slots__ = ()


@dataclass(frozen=True)
class Step:
    """One node: its operator, what it makes, what people call it, its arguments by name."""

    builder: Builder
    node: Any
    output: str
    label: str
    word: str
    found: dict[str, Any]
    tensors: dict[str, Any]
    layer: StoredLayer | Unread | None = None

    @property
    def source(self) -> str:
        """The first argument, which must depend on the network's input."""
        name = str(self.found["input" if "input" in self.found else "self"])
        if not self.builder.depends(name):
            raise UnsupportedError("only its other inputs depend on the input of the network")
        return name

    @property
    def sizes(self) -> OpenShape:
        """The shape of the first argument, sizes that are open included."""
        return self.builder.sizes(self.source)

    @property
    def shape(self) -> Shape:
        return self.builder.shape(self.source)

    def optional(self, name: str) -> Array | None:
        """An argument that must not depend on the network's input, None where it is left out."""
        given = self.found.get(name)
        if given is None:
            return None
        if not isinstance(given, Tensor):
            return np.asarray(given, dtype=np.float64)
        if self.builder.depends(given):
            raise UnsupportedError(f"its {name} depends on the input of the network")
        return self.builder.constants[given]

    def constant(self, name: str) -> Array:
        """The same, which must be there."""
        value = self.optional(name)
        if value is None:
            raise UnsupportedError(f"it has no {name}")
        return value

    def emit(self, operation: Operation, source: str | None = None, output: str | None = None) -> str:
        """The node as this operation."""
        made = output or self.output
        return self.builder.add(self.label, self.word, operation, [source or self.source], made, self.layer)

    def between(self, operation: Operation, source: str | None = None) -> str:
        """A step on the way to the node's output."""
        made = self.builder.tensors.unique(f"{self.output}/step")
        return self.builder.add(made, self.word, operation, [source or self.source], made)


def spread(values: Any, axes: int) -> tuple[int, ...]:
    """One value an axis: PyTorch keeps a list of one for all."""
    listed = tuple(values) if isinstance(values, (list, tuple)) else (values,)
    return listed * axes if len(listed) == 1 else listed
