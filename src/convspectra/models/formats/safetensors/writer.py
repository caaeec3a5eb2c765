"""safetensors files with other values in some tensors: every other byte stays as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...floats import StoredType, to_bytes
from ...records import ConvLayer
from ...weights import kernel_tensor, plain_names
from ...writers import NotWritableError, TensorLocation
from . import reader as safetensors

_TYPES: dict[str, StoredType] = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class SafetensorsWriter:
    """A safetensors file: a header that says where each tensor lies, and bytes.

    Raises:
        ModelError: no safetensors file, or a damaged one.
    """

    def __init__(self, path: Path) -> None:
        self.tensors = safetensors.tensors(path)
        self.data = path.read_bytes()
        self.start = 8 + int.from_bytes(self.data[:8], "little")
        self.header: dict[str, Any] = json.loads(self.data[8 : self.start])
        self.header.pop("__metadata__", None)

    def location(self, layer: ConvLayer) -> TensorLocation:
        name = kernel_tensor(layer.name, plain_names(self.header))
        stored = _TYPES.get(self.header[name]["dtype"])
        if stored is None:
            raise NotWritableError(
                f"tensor {name!r} is stored as {self.header[name]['dtype']}, not as floats"
            )
        return TensorLocation(name, stored, layer.kernel.shape)

    def values(self, tensor: str) -> np.ndarray[Any, Any]:
        return self.tensors[tensor].astype(np.float64).reshape(-1)

    def write(self, changed: Mapping[str, np.ndarray[Any, Any]], file: BinaryIO, output: Path) -> list[Path]:
        data = bytearray(self.data)
        for name, values in changed.items():
            entry = self.header[name]
            first, last = entry["data_offsets"]
            data[self.start + first : self.start + last] = to_bytes(values, _TYPES[entry["dtype"]])
        file.write(data)
        return []

    def notes(self) -> Iterator[str]:
        return iter(())


open_file = SafetensorsWriter
