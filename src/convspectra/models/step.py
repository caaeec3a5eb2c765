"""One node of a file's graph on its way to an operation, whatever the format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .graph_builder import Builder, UnsupportedError
from .operations import Array, OpenShape, Operation, Shape, StoredLayer
from .records import Unread


class Tensor(str):
    """Among the arguments of an operator: the name of a tensor."""

    __slots__ = ()


@dataclass(frozen=True)
class Step:
    """One node.

    Attributes:
        label: what people call it.
        word: its operator by name.
        found: its inputs and attributes by the names that its operator gives them, the data first.
        outputs: names of the tensors that it makes, in the graph that is built, as are those in `found`.
        layer: the layer that it is.
        given: what the format knows of it besides.
    """

    builder: Builder
    label: str
    word: str
    found: dict[str, Any]
    outputs: list[str]
    layer: StoredLayer | Unread | None = None
    given: Any = None

    @property
    def source(self) -> str:
        """The first input, which must depend on the network's."""
        name = str(next(iter(self.found.values())))
        if not self.builder.depends(name):
            raise UnsupportedError("only its other inputs depend on the input of the network")
        return name

    @property
    def sizes(self) -> OpenShape:
        """The shape of the first input, sizes that are open included."""
        return self.builder.sizes(self.source)

    @property
    def shape(self) -> Shape:
        return self.builder.shape(self.source)

    def optional(self, name: str) -> Array | None:
        """An argument that must not depend on the network's input, None where it is left out."""
        value = self.found.get(name)
        if not isinstance(value, Tensor):
            return None if value is None else np.asarray(value, dtype=np.float64)
        if self.builder.depends(value):
            raise UnsupportedError(f"its {name} depends on the input of the network")
        return self.builder.constants[value]

    def constant(self, name: str) -> Array:
        """The same, which must be there."""
        value = self.optional(name)
        if value is None:
            raise UnsupportedError(f"it has no {name}")
        return value

    def emit(self, operation: Operation, source: str | None = None, output: str | None = None) -> None:
        """The node as this operation."""
        made = output or self.outputs[0]
        self.builder.add(self.label, self.word, operation, [source or self.source], made, self.layer)

    def between(self, operation: Operation, source: str | None = None) -> str:
        """A step on the way to the node's output."""
        made = self.builder.tensors.unique(f"{self.outputs[0]}/step")
        return self.builder.add(made, self.word, operation, [source or self.source], made)
