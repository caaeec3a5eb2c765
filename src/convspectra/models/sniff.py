"""What kind of file this is, by what is in it."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

from ..errors import ModelError

Format = Literal["onnx", "safetensors", "pytorch", "torch.export", "tensorflow"]

READ = "ONNX, safetensors, PyTorch (.pt .pth .th .pt2) and TensorFlow checkpoint (.index) files are read"


def format_of(path: Path) -> Format:
    """The format of a model file.

    Raises:
        ModelError: it is missing, empty, a folder without a checkpoint, or cannot be read.
    """
    if path.is_dir():
        if any(path.glob("*.index")) or any(path.glob("variables/*.index")):
            return "tensorflow"
        raise ModelError(f"{path} is a folder without a TensorFlow checkpoint in it; {READ}")
    if not path.exists():
        if path.with_name(path.name + ".index").exists():
            return "tensorflow"
        raise ModelError(f"{path} does not exist")
    try:
        with path.open("rb") as file:
            head = file.read(16)
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
    if path.suffix == ".onnx":
        return "onnx"
    if path.suffix == ".safetensors":
        return "safetensors"
    # A pickle: the protocol opcode, or the text opcodes of protocol 0; a zip that was cut off.
    if head[:1] == b"\x80" or head[:2] == b"PK" or path.suffix in (".pt", ".pth", ".th", ".ckpt", ".bin"):
        return "pytorch"
    if path.suffix == ".pt2":
        return "torch.export"
    if head[:1] == b"\x08":  # field 1 of a ModelProto, its version
        return "onnx"
    raise ModelError(f"{path} is not a model file that is known here; {READ}")


def _zip_format(path: Path) -> Format:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("data.pkl") and name.count("/") <= 1 for name in names):
        return "pytorch"
    return "torch.export"
