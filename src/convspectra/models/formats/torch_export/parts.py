"""Operators that make a list: the parts that a file declares are as many as its sizes make.

PyTorch makes all parts before anything is compared: a small file that declares an axis of millions would
take minutes and gigabytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ....errors import ModelError


def check_parts(program: Any, path: Path) -> None:
    """Compare at the declared sizes.

    Raises:
        ModelError: a list has another number of parts than its sizes make.
    """
    for node in _lists(program):
        found = _named(node.target, node.args, node.kwargs)
        shape = getattr(getattr(found.get("self"), "meta", {}).get("val"), "shape", None)
        if shape is not None and all(type(size) is int for size in shape):
            _compare(f"{path} is damaged: {node.name!r}", _declared(node), shape, found)


def with_checked_parts(program: Any) -> Any:
    """The program, changed so that tracing it anew compares at the sizes found on the way."""
    for node in _lists(program):
        node.target = _checking(node.target, repr(node.name), _declared(node))
    return program


def _checking(target: Any, subject: str, declared: int) -> Any:
    def checked(*args: Any, **kwargs: Any) -> Any:
        found = _named(target, args, kwargs)
        _compare(subject, declared, [int(size) for size in found["self"].shape], found)
        return target(*args, **kwargs)

    return checked


def _lists(program: Any) -> Iterator[Any]:
    """The nodes whose number of parts is a size or follows from a number, not from a list in the file."""
    for module in program.graph_module.modules():
        for node in module.graph.nodes if hasattr(module, "graph") else ():
            schema = getattr(node.target, "_schema", None)
            if schema is not None and [str(one.type) for one in schema.returns] == ["List[Tensor]"]:
                counts = [str(one.type) for one in schema.arguments if one.name in _COUNTS]
                if counts in (["int"], ["SymInt"]) or "unbind" in schema.name:
                    yield node


_COUNTS = ("split_size", "chunks", "sections")


def _declared(node: Any) -> int:
    value = node.meta.get("val")
    return len(value) if isinstance(value, (list, tuple)) else 1


def _named(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    names = [one.name for one in target._schema.arguments]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _compare(subject: str, declared: int, shape: Sequence[int], found: Mapping[str, Any]) -> None:
    axis, step, chunks = found.get("dim", 0), found.get("split_size", 1), found.get("chunks")
    if "sections" in found:
        made = found["sections"]
    elif not -len(shape) <= axis < len(shape) or step == 0:
        return  # PyTorch refuses it
    elif chunks is None:
        made = -(-shape[axis] // step)
    elif shape[axis] == 0 or chunks < 1:
        made = chunks
    else:
        made = -(-shape[axis] // -(-shape[axis] // chunks))
    # An axis without entries is split into one part, and an axis of one part need not be a list.
    if max(made, 1) != max(declared, 1):
        raise ModelError(
            f"{subject} declares {declared:,} parts where an input of shape {tuple(shape)} makes {made:,}"
        )
