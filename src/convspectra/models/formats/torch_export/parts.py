"""Operators that make a list: the parts that a file declares are as many as its sizes make.

PyTorch makes all parts before anything is compared: a small file that declares an axis of millions would
take minutes and gigabytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....errors import ModelError
from .program import Call


def check_parts(call: Call, shape: tuple[int, ...], found: Mapping[str, Any]) -> None:
    """Compare before the parts are made; nothing for operators that make no list.

    Arguments:
        shape: of the tensor that is taken apart.
        found: the operator's arguments by name.

    Raises:
        ModelError: a list has another number of parts than its sizes make.
    """
    schema = call.operator._schema
    counts = [str(one.type) for one in schema.arguments if one.name in ("split_size", "chunks", "sections")]
    if [str(one.type) for one in schema.returns] != ["List[Tensor]"]:
        return
    if counts not in (["int"], ["SymInt"]) and "unbind" not in schema.name:
        return  # the number of parts is that of a list in the file
    declared = len(call.outputs)
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
            f"{call.name!r} declares {declared:,} parts where an input of shape {shape} makes {made:,}"
        )
