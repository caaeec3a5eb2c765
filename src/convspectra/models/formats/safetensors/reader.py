"""safetensors files: named tensors, checked and read one by one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ....errors import ModelError
from ...floats import from_bytes
from ...reading import digest
from ...records import Model, Unread
from ...weights import Convention, model_of, plain_names


def read(path: Path, *, sample_shape: tuple[int, ...] | None = None) -> Model:
    """The convolutions and linear layers among the tensors of a safetensors file.

    Arguments:
        path: the file; kernels are in PyTorch's layout (OIHW), or in that of MLX (OHWI) where the metadata
            say `mlx`. Where they say nothing the layout is among the assumed fields.
        sample_shape: channels and sizes of one input, assumed for every layer (see `weights`).

    Raises:
        ModelError: no safetensors file, or a damaged one.
    """
    given, unread, metadata = contents(path)
    return model_of(
        {name: given[key] for name, key in plain_names(given).items()},
        sample_shape,
        convention=_CONVENTIONS.get(metadata.get("format", ""), "unstated"),
        unread=unread,
        name=path.name,
        format="safetensors",
        path=path,
        sha256=digest(path),
    )


def tensors(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """All tensors that NumPy can hold; bfloat16 becomes float32, 8-bit floats are left out.

    Raises:
        ModelError: no safetensors file, or a damaged one.
    """
    return contents(path)[0]


def contents(path: Path) -> tuple[dict[str, np.ndarray[Any, Any]], list[Unread], Mapping[str, str]]:
    """The same, what was left out of two and more axes, and what the file says of itself.

    Raises: as `tensors`.
    """
    import safetensors

    deserialize: Any = safetensors.deserialize

    data = path.read_bytes()
    try:
        entries = dict(deserialize(data))
    except safetensors.SafetensorError as error:
        raise ModelError(f"{path} is not a safetensors file, or it is damaged: {error}") from None
    # The library has checked the header and gives its tensors in no order: the header has one.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    names = sorted(entries, key=lambda name: header[name]["data_offsets"])
    found, unread = {}, []
    for name in names:
        array = _array(entries[name])
        if array is not None:
            found[name] = array
        elif len(shape := tuple(entries[name]["shape"])) >= 2:
            dtype = entries[name]["dtype"]
            unread.append(Unread(name, shape, f"stored as {dtype}: what scales it is not stated"))
    return found, unread, header.get("__metadata__") or {}


# By the format that the metadata name: whose layout it is.
_CONVENTIONS: dict[str, Convention] = {"pt": "pytorch", "mlx": "mlx"}
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "bfloat16",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}


def _array(entry: Any) -> np.ndarray[Any, Any] | None:
    kind = _DTYPES.get(entry["dtype"])
    return None if kind is None else from_bytes(entry["data"], kind).reshape(entry["shape"])
