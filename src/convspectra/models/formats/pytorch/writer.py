"""PyTorch checkpoints with other values in some tensors: the same structure, the same sharing."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ....errors import ModelError
from ...floats import STORED_TYPES, StoredType
from ...records import ConvLayer
from ...weights import kernel_tensor
from ...writers import NotWritableError, TensorLocation
from .reader import as_array, load, named, require_torch, state_dicts, tensors_in


class PytorchWriter:
    """A loaded checkpoint, whose tensors are changed where they lie.

    Raises:
        ModelError: no checkpoint, a damaged one, or one that holds code.
        InputError: PyTorch is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.devices: set[str] = set()
        self.is_zip = zipfile.is_zipfile(path)

        def keep(storage: Any, device: str) -> Any:
            self.devices.add(device)
            return storage

        self.loaded = load(path, keep)
        self.tensors = named(state_dicts(self.loaded, path)[0])
        if not self.tensors:
            raise ModelError(f"{path} holds no state dict: no tensors by name were found in it")
        self.everything = [tensor for _, tensor in tensors_in(self.loaded, path)]

    def location(self, layer: ConvLayer) -> TensorLocation:
        name = kernel_tensor(layer.name, {name: name for name in self.tensors})
        tensor = self.tensors[name]
        if tensor.is_sparse or tensor.is_quantized or _stored(tensor) is None:
            raise NotWritableError(f"tensor {name!r} is stored as {tensor.dtype}, {tensor.layout}")
        if _may_repeat(tensor):
            raise NotWritableError(f"tensor {name!r} repeats its entries in memory")
        # Tensors that are one tensor under several names are changed together; they go by the first.
        same = [other for other, one in self.tensors.items() if _view(one) == _view(tensor)]
        others = [one for one in self.everything if _overlap(one, tensor)]
        if any(_view(one) != _view(tensor) for one in others):
            raise NotWritableError(f"tensor {name!r} shares a part of its memory with another one")
        tied = ", ".join(repr(one) for one in same if one != name)
        note = f"{name!r} is the same tensor as {tied}, which changes with it" if tied else ""
        return TensorLocation(same[0], _stored(tensor) or "float32", layer.kernel.shape, note=note)

    def values(self, tensor: str) -> np.ndarray[Any, Any]:
        return as_array(self.tensors[tensor]).astype(np.float64).reshape(-1)

    def write(self, changed: Mapping[str, np.ndarray[Any, Any]], file: BinaryIO, output: Path) -> list[Path]:
        torch = require_torch()
        with torch.no_grad():
            for name, values in changed.items():
                tensor = self.tensors[name]
                tensor.copy_(torch.from_numpy(values).reshape(tensor.shape))
        # A file in the format from before PyTorch 1.6 stays one: what reads it may be as old.
        torch.save(self.loaded, file, _use_new_zipfile_serialization=self.is_zip)
        return []

    def notes(self) -> Iterator[str]:
        away = sorted(self.devices - {"cpu"})
        if away:
            yield f"tensors saved from {', '.join(away)} are written as tensors of the CPU"


open_file = PytorchWriter


def _stored(tensor: Any) -> StoredType | None:
    name = str(tensor.dtype).removeprefix("torch.")
    return next((stored for stored in STORED_TYPES if stored == name), None)


def _view(tensor: Any) -> tuple[Any, ...]:
    """Two tensors with the same are one: memory, place, shape and type."""
    if tensor.is_sparse:
        return (id(tensor),)
    return (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)


def _overlap(first: Any, second: Any) -> bool:
    if first.is_sparse or second.is_sparse or first.numel() * second.numel() == 0:
        return False
    (start, end), (other_start, other_end) = _range(first), _range(second)
    return start < other_end and other_start < end


def _may_repeat(tensor: Any) -> bool:
    """Whether two entries may be one in memory: no, if each axis steps over all that lies within its step."""
    reach = 0
    for step, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and step <= reach:
            return True
        reach += step * (size - 1)
    return False


def _range(tensor: Any) -> tuple[int, int]:
    """The bytes from the first to behind the last entry."""
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    last = sum((size - 1) * step for size, step in steps)
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()
