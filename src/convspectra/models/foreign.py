"""Formats that are not read: their names by what is in them, and the way in."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

_HEAD = 2**16

_EXPORT = "export the model that it was made from with torch.onnx.export or torch.export.save"
_FROM_TENSORFLOW = "convert it to ONNX: python -m tf2onnx.convert"
_KERAS = "in Keras: model.export('model.onnx', format='onnx')"
_MATLAB = "in MATLAB: exportONNXNetwork(net, 'model.onnx'); or save its arrays as safetensors"
_CONVERT = "convert it to ONNX with its own tools"

_LFS = (
    "a Git LFS pointer: it names a file that was not fetched",
    "run 'git lfs pull' in its repository, or download the file itself",
)

# First bytes, from where on -> what it is, the way in.
_MAGIC: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"version https://git-lfs", *_LFS),
    (4, b"TFL3", "a TFLite model", f"{_FROM_TENSORFLOW} --tflite FILE --output model.onnx"),
    (4, b"ET1", "an ExecuTorch program", _EXPORT),
    (0, b"GGUF", "a GGUF file", "take the safetensors or PyTorch file that it was converted from"),
    (0, b"lmgg", "a GGML file", "take the safetensors or PyTorch file that it was converted from"),
    (0, b"MATLAB ", "a MATLAB .mat file", _MATLAB),
    (
        0,
        b"\x93NUMPY",
        "a NumPy .npy array",
        "save it by name: safetensors.numpy.save_file({'weight': numpy.load(FILE)}, 'model.safetensors')",
    ),
    (0, b"7767517", "an ncnn model (.param)", "take the ONNX or PyTorch model that it was converted from"),
    (0, b"\x9d\x85\x76\x00", "an ncnn model", "take the ONNX or PyTorch model that it was converted from"),
    (0, b"\x12\x01\0\0\0\0\0\0", "an MXNet parameter file", "mx.onnx.export_model writes ONNX"),
    (0, b"\x1f\x8b", "a gzip archive", "unpack it"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it"),
    (0, b"Rar!", "a RAR archive", "unpack it"),
    (0, b"\xfd7zXZ", "an xz archive", "unpack it"),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive", "unpack it"),
)

# Text files by what is written in them.
_TEXT: tuple[tuple[str, str, str], ...] = (
    (r"\s*(<\?xml[^>]*>\s*)?<net\b", "an OpenVINO IR", "take the ONNX model that it was converted from"),
    (r"\s*(<!doctype\s+html|<html)", "an HTML page", "the download went wrong: fetch the file itself"),
    (r"\s*(#[^\n]*\n\s*)*\[(net|network)\]", "a darknet configuration", _CONVERT),
    (
        r'(?s)\s*\{.*"weight_map"\s*:',
        "an index of the files that a model is divided into",
        "give the files that it names, one by one",
    ),
    (r"(?s)(name\s*:|layers?\s*\{|input\s*:).*\blayers?\s*\{", "a Caffe model (.prototxt)", _CONVERT),
)

# Where the content says nothing.
_SUFFIXES: dict[str, tuple[str, str]] = {
    ".caffemodel": ("a Caffe model", _CONVERT),
    ".prototxt": ("a Caffe model", _CONVERT),
    ".weights": ("a darknet weight file", _CONVERT),
    ".mlmodel": ("a Core ML model", "take the model that it was converted from, or export it to ONNX"),
    ".pb": (
        "a TensorFlow graph (.pb)",
        f"give the folder with its variables/, or {_FROM_TENSORFLOW} --graphdef FILE",
    ),
    ".meta": ("a TensorFlow graph (.meta)", "give the .index file beside it"),
    ".msgpack": (
        "a Flax msgpack file",
        "in Flax: safetensors.flax.save_file(flax.traverse_util.flatten_dict(params, sep='.'), ...)",
    ),
    ".mat": ("a MATLAB .mat file", _MATLAB),
    ".pdmodel": ("a PaddlePaddle model", "convert it to ONNX with paddle2onnx"),
    ".pdiparams": ("a PaddlePaddle model", "convert it to ONNX with paddle2onnx"),
    ".engine": ("a TensorRT engine", "take the ONNX model that it was built from"),
}


def by_content(path: Path) -> tuple[str, str] | None:
    """What a file is that is not read, by what is in it, and the way in; None for anything else."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    for at, magic, name, way in _MAGIC:
        if head[at : at + len(magic)] == magic:
            return name, way
    if head[:4] == b"PK\x03\x04" and zipfile.is_zipfile(path):
        return _zip(path)
    # HDF5 may begin behind a block of the user's, of a power of two of bytes.
    if any(head[at : at + 8] == b"\x89HDF\r\n\x1a\n" for at in (0, 512, 1024, 2048)):
        return _hdf5(path)
    if b"\0" not in head[:256]:
        text = head.decode("utf-8", "replace")
        return next(((name, way) for find, name, way in _TEXT if re.match(find, text, re.I)), None)
    return None


def by_suffix(path: Path) -> tuple[str, str] | None:
    """The same by the file's name, and by the files beside it."""
    if path.suffix == ".bin":
        if path.with_suffix(".param").exists():
            return "the weights of an ncnn model", "take the ONNX or PyTorch model that it was converted from"
        if path.with_suffix(".xml").exists():
            return "the weights of an OpenVINO IR", "take the ONNX model that it was converted from"
    return _SUFFIXES.get(path.suffix.lower())


def folder(path: Path) -> tuple[str, str] | None:
    """What a folder is that is not read."""
    if path.suffix == ".mlpackage" or (path / "Data" / "com.apple.CoreML").is_dir():
        return "a Core ML package", "take the model that it was converted from, or export it to ONNX"
    if (path / "saved_model.pb").exists():
        return "a TensorFlow SavedModel without variables", (
            f"{_FROM_TENSORFLOW} --saved-model FOLDER --output model.onnx"
        )
    return None


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file only names what Git LFS has not fetched."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC[0][1])) == _MAGIC[0][1]


def _zip(path: Path) -> tuple[str, str] | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return None
    if any(name.endswith("constants.pkl") for name in names) and any("/code/" in name for name in names):
        return "a TorchScript archive", f"{_EXPORT}, or save its state_dict()"
    if "model.weights.h5" in names:
        return "a Keras model", _KERAS
    if names and all(name.endswith(".npy") for name in names):
        return (
            "a NumPy .npz archive",
            "save its arrays: safetensors.numpy.save_file(dict(numpy.load(FILE)), 'model.safetensors')",
        )
    if any(name.endswith("com.apple.CoreML/model.mlmodel") for name in names):
        return "a Core ML package", "take the model that it was converted from, or export it to ONNX"
    return None


def _hdf5(path: Path) -> tuple[str, str]:
    # Attributes of a Keras file stand anywhere in it, mostly near the front.
    with path.open("rb") as file:
        data = file.read(2**22)
    if b"MATLAB" in data[:512]:
        return "a MATLAB .mat file", _MATLAB
    keras = b"keras" in data or b"layer_names" in data or path.suffix == ".keras"
    return ("a Keras HDF5 file", _KERAS) if keras else ("an HDF5 file", "save its weights as safetensors")
