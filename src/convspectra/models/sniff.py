"""What kind of file this is, by what is in it."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

from ..errors import ModelError
from . import foreign

Format = Literal["onnx", "safetensors", "pytorch", "torch.export", "tensorflow"]

READ = "ONNX, safetensors, PyTorch (.pt .pth .th .pt2) and TensorFlow checkpoint (.index) files are read"


# Of files whose first bytes do not tell: text pickles, what is damaged.
_SUFFIXES: dict[str, Format] = {
    ".onnx": "onnx",
    ".safetensors": "safetensors",
    ".pt2": "torch.export",
    **dict.fromkeys((".pt", ".pth", ".th", ".ckpt", ".bin"), "pytorch"),
}


def format_of(path: Path) -> Format:
    """The format of a model file.

    Raises:
        ModelError: it is missing, empty, a folder without a checkpoint, cannot be read, or is of a format
            that is not read, which is named with the way in.
    """
    if path.is_dir():
        if any(path.glob("*.index")) or any(path.glob("variables/*.index")):
            return "tensorflow"
        _refuse(path, foreign.folder(path))
        raise ModelError(f"{path} is a folder without a TensorFlow checkpoint in it; {READ}")
    if not path.exists():
        if path.with_name(path.name + ".index").exists():
            return "tensorflow"
        raise ModelError(f"{path} does not exist")
    try:
        with path.open("rb") as file:
            head = file.read(16)
        _refuse(path, foreign.by_content(path))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from None
    if not head:
        raise ModelError(f"{path} is empty; {READ}")
    if path.suffix == ".index" or ".data-" in path.name:
        return "tensorflow"
    if head[:4] == b"PK\x03\x04" and zipfile.is_zipfile(path):
        return _zip_format(path)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**40:
        return "safetensors"
    # A pickle begins with the opcode of its protocol; a zip may have been cut off.
    if head[:1] == b"\x80" or head[:2] == b"PK":
        return "pytorch"
    # Field 1 of a ModelProto, its version; a SavedModel has 1 there, and Core ML a version as well.
    if head[:1] == b"\x08" and head[1:2] > b"\x02" and path.suffix != ".mlmodel":
        return "onnx"
    _refuse(path, foreign.by_suffix(path))
    if path.suffix in _SUFFIXES:
        return _SUFFIXES[path.suffix]
    raise ModelError(f"{path} is not a model file that is known here; {READ}")


def _refuse(path: Path, found: tuple[str, str] | None) -> None:
    if found is not None:
        name, way = found
        raise ModelError(f"{path} is {name}, which is not read; {way}")


def _zip_format(path: Path) -> Format:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("data.pkl") and name.count("/") <= 1 for name in names):
        return "pytorch"
    return "torch.export"
