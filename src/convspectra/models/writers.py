"""The one door to all writers: a model file again, with the values of some of its tensors changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from ..errors import InputError, ModelError
from .floats import StoredType
from .reading import reading
from .records import ConvLayer
from .sniff import Format, format_of

NumpyArray = np.ndarray[Any, Any]

WRITABLE: dict[Format, tuple[str, ...]] = {
    "onnx": (".onnx",),
    "safetensors": (".safetensors",),
    "pytorch": (".pt", ".pth", ".th", ".ckpt", ".bin"),
}
"""Formats with an `open_file(path) -> Writer` in `formats/<format>/writer.py`, and their suffixes."""


class NotWritableError(ModelError):
    """A kernel that lies in no tensor of its own, or in one that cannot be changed; says why."""


@dataclass(frozen=True)
class TensorLocation:
    """Where a file keeps a kernel: `kernel = factor * values[index]`, `values` flat.

    Attributes:
        tensor: name of the tensor in its file, unique.
        stored: its type.
        shape: of the kernel.
        index: of this shape, a permutation of the tensor's entries; None for the same order.
        note: for the user, such as what else reads the tensor; else empty.
    """

    tensor: str
    stored: StoredType
    shape: tuple[int, ...]
    index: NumpyArray | None = None
    factor: float = 1.0
    note: str = ""

    def kernel(self, weight: NumpyArray) -> NumpyArray:
        """The kernel that the tensor's values make."""
        return self.factor * (weight.reshape(self.shape) if self.index is None else weight[self.index])

    def weight(self, kernel: NumpyArray) -> NumpyArray:
        """The tensor's values, flat, that make this kernel."""
        if self.index is None:
            return kernel.reshape(-1) / self.factor
        flat = np.empty(kernel.size, dtype=kernel.dtype)
        flat[self.index] = kernel / self.factor
        return flat


class Writer(Protocol):
    """An open model file."""

    def location(self, layer: ConvLayer) -> TensorLocation:
        """Where the file keeps a layer's kernel.

        Raises:
            NotWritableError: in no tensor of its own.
        """

    def values(self, tensor: str) -> NumpyArray:
        """The values of a tensor, flat, in float64."""

    def write(self, changed: Mapping[str, NumpyArray], file: BinaryIO, output: Path) -> list[Path]:
        """Write the model with other values (flat, float64, rounded to the tensor's type) in some tensors.

        Arguments:
            changed: by tensor; everything else is written as it was read.
            file: where to.
            output: the path that the file will have, for what must lie beside it.

        Returns:
            The files written beside it, mostly none.
        """

    def notes(self) -> Iterator[str]:
        """What the user should know of the file that is written."""


def writable_format(path: Path) -> Format:
    """The format of a model file that can be written back.

    Raises:
        ModelError: it cannot, or the file is missing or no model.
    """
    with reading(path):
        kind = format_of(path)
    if kind not in WRITABLE:
        raise ModelError(
            f"{path} is a {kind} file, which is read but not written; ONNX, safetensors and PyTorch state "
            "dict files can be: save the weights as one of these, and give module= or geometry= with them"
        )
    return kind


def check_suffix(path: Path, kind: Format) -> None:
    """Raise the InputError of a file name that promises another format than it would get."""
    for other, suffixes in WRITABLE.items():
        if other != kind and path.suffix.lower() in suffixes:
            raise InputError(
                f"{path} has the name of a {other} file, but the model is a {kind} file, and stays one: "
                f"call it {path.with_suffix(WRITABLE[kind][0])}"
            )


def open_writer(path: Path, kind: Format) -> Writer:
    """The writer of a model file of a writable format.

    Raises:
        ModelError, InputError: as the format's reader.
    """
    with reading(path, kind):
        writer: Writer = import_module(f".formats.{kind}.writer", __package__).open_file(path)
    return writer


def location_of(layer: ConvLayer, writer: Writer) -> TensorLocation:
    """Where the file keeps a layer's kernel, checked: the values that lie there make the kernel.

    Raises:
        NotWritableError: nowhere, or something else lies there.
    """
    location = writer.location(layer)
    found = writer.values(location.tensor)
    # A factor is applied in the kernel's own precision by the reader, in double precision here.
    tolerance = 0.0 if location.factor == 1 else 8 * float(np.finfo(layer.kernel.dtype).eps)
    if found.size != layer.kernel.size or not np.allclose(
        location.kernel(found), layer.kernel, rtol=tolerance, atol=0, equal_nan=True
    ):
        raise NotWritableError(
            f"its kernel is not what tensor {location.tensor!r} holds: it is computed from it"
        )
    return location
