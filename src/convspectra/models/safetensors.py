"""safetensors files: named tensors, checked and read one by one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ModelError
from .records import Model
from .weights import layers_of


def read(path: Path, *, input_shape: tuple[int, ...] | None = None) -> Model:
    """The convolutions and linear layers among the tensors of a safetensors file.

    Arguments:
        path: the file; PyTorch's kernel layouts.
        input_shape: channels and sizes of one input, assumed for every layer (see `weights`).

    Raises:
        ModelError: no safetensors file, or a damaged one.
    """
    layers, other, notes = layers_of(tensors(path), input_shape)
    return Model(
        name=path.name,
        format="safetensors",
        layers=tuple(layers),
        path=path,
        sha256=digest(path),
        other=other,
        notes=tuple(notes),
    )


def digest(path: Path) -> str:
    """sha256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """All tensors that NumPy can hold; bfloat16 becomes float32, 8-bit floats are left out.

    Raises:
        ModelError: no safetensors file, or a damaged one.
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
    arrays = ((name, _array(entries[name])) for name in names)
    return {name: array for name, array in arrays if array is not None}


_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}


def _array(entry: Any) -> np.ndarray[Any, Any] | None:
    shape, data = entry["shape"], entry["data"]
    if entry["dtype"] == "BF16":
        # bfloat16 is the upper half of a float32.
        upper = np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16
        return upper.view(np.float32).reshape(shape)
    dtype = _DTYPES.get(entry["dtype"])
    return None if dtype is None else np.frombuffer(data, dtype=dtype).reshape(shape)
