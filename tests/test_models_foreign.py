"""Formats that are not read: each is named, with the way in, whatever its file is called."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

from convspectra import ModelError
from convspectra.models import read_model

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 11307067\n"
HDF5 = b"\x89HDF\r\n\x1a\n"


def archive(path, *names):
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, b"content")
    return path.read_bytes()


CONTENTS = {
    "lfs": (LFS, "Git LFS pointer", "git lfs pull"),
    "keras": (HDF5 + b"\0" * 80 + b"keras_version", "Keras", "export"),
    "keras behind a block": (b"\0" * 512 + HDF5 + b"layer_names", "Keras", "export"),
    "hdf5": (HDF5 + b"\0" * 80, "HDF5", "safetensors"),
    "mat 7.3": (b"MATLAB 7.3 MAT-file".ljust(512) + HDF5, "MATLAB", "ONNX"),
    "mat 5": (b"MATLAB 5.0 MAT-file".ljust(128) + b"\0" * 8, "MATLAB", "ONNX"),
    "tflite": (b"\x1c\0\0\0TFL3\0\0\0\0", "TFLite", "tf2onnx"),
    "executorch": (b"\x1c\0\0\0ET12\0\0\0\0", "ExecuTorch", "torch.export"),
    "gguf": (b"GGUF\x03\0\0\0", "GGUF", "safetensors"),
    "npy": (b"\x93NUMPY\x01\0", "NumPy", "safetensors"),
    "ncnn": (b"7767517\n3 3\nInput data 0 1 data\n", "ncnn", "ONNX"),
    "openvino": (b'<?xml version="1.0"?>\n<net name="n" version="11">', "OpenVINO", "ONNX"),
    "darknet": (b"# comment\n# another\n[net]\nbatch=1\n", "darknet", "ONNX"),
    "caffe": (b'name: "n"\nlayer {\n  type: "Convolution"\n}\n', "Caffe", "ONNX"),
    "html": (b"<!DOCTYPE html>\n<html><head>", "HTML page", "fetch"),
    "index": (b'{"metadata": {},\n "weight_map": {"a": "b"}}', "index of the files", "one by one"),
    "gzip": (b"\x1f\x8b\x08\0\0\0\0\0", "gzip", "unpack"),
}
ARCHIVES = {
    "torchscript": (("m/data.pkl", "m/code/a.py", "m/constants.pkl"), "TorchScript", "torch.export"),
    "keras 3": (("metadata.json", "config.json", "model.weights.h5"), "Keras", "export"),
    "npz": (("conv/kernel.npy", "b.npy"), "npz", "safetensors.numpy.save_file"),
    "core ml": (("a/Data/com.apple.CoreML/model.mlmodel",), "Core ML", "ONNX"),
}


def refused(path, *words):
    with pytest.raises(ModelError) as error:
        read_model(path)
    message = str(error.value)
    assert str(path) in message
    for word in words:
        assert word in message
    assert "damaged" not in message
    assert "truncated" not in message
    assert "weights_only" not in message
    assert "\n" not in message


@pytest.mark.parametrize("suffix", [".onnx", ".pth", ".safetensors", ".pt2", ".index", ""])
@pytest.mark.parametrize("name", CONTENTS)
def test_it_is_named_by_its_content(name, suffix, tmp_path):
    content, *words = CONTENTS[name]
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    refused(path, *words)


@pytest.mark.parametrize("suffix", [".onnx", ".pt", ".zip"])
@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_are_named_by_their_entries(name, suffix, tmp_path):
    entries, *words = ARCHIVES[name]
    path = tmp_path / f"file{suffix}"
    archive(path, *entries)
    refused(path, *words)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("yolo.weights", b"\0\0\0\0\x02\0\0\0", ["darknet"]),
        ("net.caffemodel", b"\x0a\x03net", ["Caffe"]),
        ("net.mlmodel", b"\x08\x04\x12\x02", ["Core ML"]),
        ("saved_model.pb", b"\x08\x01\x12\x02", ["TensorFlow", "variables"]),
        ("graph.pb", b"\x0a\x34\x0a\x0b", ["TensorFlow", "tf2onnx"]),
        ("params.msgpack", b"\x81\xa6params", ["Flax", "safetensors"]),
    ],
)
def test_what_its_content_does_not_tell_its_name_does(name, content, words, tmp_path):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, *words)


@pytest.mark.parametrize(("beside", "word"), [("net.param", "ncnn"), ("net.xml", "OpenVINO")])
def test_a_bin_file_is_what_lies_beside_it(beside, word, tmp_path):
    (tmp_path / "net.bin").write_bytes(np.ones(4, "<f4").tobytes())
    (tmp_path / beside).write_bytes(b"\n")
    refused(tmp_path / "net.bin", word)


def test_folders_are_named(tmp_path):
    (tmp_path / "net.mlpackage").mkdir()
    refused(tmp_path / "net.mlpackage", "Core ML")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"\x08\x01")
    refused(tmp_path / "saved", "SavedModel without variables", "tf2onnx")
    (tmp_path / "pulled").mkdir()
    (tmp_path / "pulled" / "variables.index").write_bytes(LFS)
    refused(tmp_path / "pulled", "Git LFS", "git lfs pull")
