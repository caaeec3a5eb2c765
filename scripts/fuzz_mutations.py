"""A small valid model of each format, and what an enemy would make of its files."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

_NUMBERS = (0, 1, -1, 2**7, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63))
DECOY = "../outside/secret.bin"
# Ways out of a model's folder; `@` stands for the absolute path of the decoy.
_OUTSIDE = (
    DECOY,
    "link.bin",
    "folder/secret.bin",
    "folder/../../outside/secret.bin",
    "./../outside/./secret.bin",
    "@",
    "file://@",
    "/etc/passwd",
    "/proc/self/environ",
    "..\\outside\\secret.bin",
)
LINKS = {"link.bin": DECOY, "folder": "../outside"}
"""Links that lie beside each model, and where they lead."""

Files = dict[str, bytes]


class _Call:
    """What pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def payloads(folder: Path) -> tuple[bytes, ...]:
    """Pickles that leave a marker in a folder, open the decoy, import a module, or start a program."""
    decoy, marker = str((folder / DECOY).resolve()), str(folder / "marker")
    calls = (
        _Call(open, marker, "w"),
        _Call(open, decoy),
        _Call(exec, f"open({marker!r}, 'w')"),
        _Call(os.system, f"touch {marker}"),
        _Call(PurePosixPath, decoy),
        _Call(importlib.import_module, "planted_module"),
        _Call(np.fromfile, decoy),
    )
    return tuple(pickle.dumps({"x": call}, protocol) for call in calls for protocol in (2, 4))


def _way_out(rng: np.random.Generator, decoy: str) -> str:
    return _OUTSIDE[int(rng.integers(len(_OUTSIDE)))].replace("@", decoy)


def led_out(rng: np.random.Generator, data: bytes, decoy: str) -> bytes:
    """A protocol buffer in which the name of the external data leads out of the folder."""
    from onnx import ModelProto

    model = ModelProto.FromString(data)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = _way_out(rng, decoy)
    return bytes(model.SerializeToString())


def seeds(folder: Path) -> dict[str, Files]:
    """A small valid model of each format: its files by name, the one that is read first."""
    rng = np.random.default_rng(0)
    weights = {
        "a.weight": rng.standard_normal((3, 2, 3, 3)).astype(np.float32),
        "a.bias": rng.standard_normal(3).astype(np.float32),
        "b.weight": rng.standard_normal((2, 3, 1, 1)).astype(np.float32),
        "c.weight": rng.standard_normal((4, 2)).astype(np.float32),
    }
    from safetensors.numpy import save

    stored = save(weights)
    toml = (
        b'sample_shape = [2, 6, 6]\n[layers."a"]\nstride = 2\npadding = [1, 1]\ndilation = 1\n'
        b'[layers."b*"]\ngroups = 1\npadding_mode = "circular"\ntransposed = false\ninput_shape = [4, 4]\n'
    )
    found = {
        "onnx": {"m.onnx": _onnx(weights, external=False)},
        "external": {"m.onnx": _onnx(weights, external=True), "m.bin": weights["a.weight"].tobytes()},
        "neighbour": {"m.safetensors": stored, "m.onnx": _onnx(weights, external=False)},
        "safetensors": {"m.safetensors": stored},
        "tensorflow": _bundle(weights),
        "toml": {"m.safetensors": stored, "m.toml": toml},
    }
    with contextlib.suppress(ImportError):
        import torch

        tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
        for name, new in (("pytorch", True), ("legacy", False)):
            file = io.BytesIO()
            torch.save({"model": tensors, "epoch": 3}, file, _use_new_zipfile_serialization=new)
            found[name] = {"m.pth": file.getvalue()}
        layers = torch.nn.Conv2d(2, 3, 3, padding=1), torch.nn.BatchNorm2d(3), torch.nn.ReLU()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(torch.nn.Sequential(*layers).eval(), (torch.zeros(1, 2, 4, 4),))
            torch.export.save(program, folder / "seed.pt2")
        found["pt2"] = {"m.pt2": (folder / "seed.pt2").read_bytes()}
    return found


def _onnx(weights: dict[str, np.ndarray], *, external: bool) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    node, array = helper.make_node, numpy_helper.from_array
    inits = [array(value, name) for name, value in weights.items()]
    if external:
        inits[0].ClearField("raw_data")
        inits[0].data_location = TensorProto.EXTERNAL
        for key, value in (("location", "m.bin"), ("offset", "0"), ("length", "216")):
            inits[0].external_data.add(key=key, value=value)
    branch = helper.make_graph(
        [node("Identity", ["u"], ["v"])],
        "g",
        [],
        [helper.make_tensor_value_info("v", TensorProto.FLOAT, None)],
    )
    nodes = [
        node("Pad", ["x", "p"], ["q"], mode="reflect"),
        node("Conv", ["q", "a.weight", "a.bias"], ["h"], strides=[2, 2], dilations=[1, 1], group=1),
        node("Relu", ["h"], ["r"]),
        node("Reshape", ["b.weight", "s"], ["k"]),
        node("Conv", ["r", "k"], ["u"], auto_pad="SAME_UPPER"),
        node("If", ["t"], ["w"], then_branch=branch, else_branch=branch),
        node("GlobalAveragePool", ["w"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("Gemm", ["f", "c.weight"], ["y"], transB=1),
    ]
    more = [
        array(np.array([0, 0, 1, 1, 0, 0, 1, 1]), "p"),
        array(np.array([2, 3, 1, 1]), "s"),
        array(np.array(True), "t"),
    ]
    graph = helper.make_graph(
        nodes,
        "m",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 2, 6, 6))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [*inits, *more],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    return bytes(model.SerializeToString())


def _varint(value: int) -> bytes:
    out = bytearray()
    value &= 2**64 - 1
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _bundle(weights: dict[str, np.ndarray]) -> Files:
    def block(pairs: list[tuple[bytes, bytes]]) -> bytes:
        body = b"".join(_varint(0) + _varint(len(k)) + _varint(len(v)) + k + v for k, v in pairs)
        return body + struct.pack("<II", 0, 1)

    data, entries = b"", [(b"", b"\x08\x01")]
    for name, array in weights.items():
        dims = b"".join(b"\x12" + _varint(len(d)) + d for d in (b"\x08" + _varint(n) for n in array.shape))
        value = b"\x08\x01\x12" + _varint(len(dims)) + dims
        value += b"\x20" + _varint(len(data)) + b"\x28" + _varint(array.nbytes)
        entries.append((name.replace(".weight", "/kernel").encode(), value))
        data += array.tobytes()
    first = block(entries)
    second = block([(b"\xff", _varint(0) + _varint(len(first)))])
    footer = _varint(0) + _varint(0) + _varint(len(first) + 5) + _varint(len(second))
    index = first + b"\0" * 5 + second + b"\0" * 5 + footer.ljust(40, b"\0")
    index += struct.pack("<Q", 0xDB4775248B80FB57)
    return {"m.index": index, "m.data-00000-of-00001": data}


# ---- Mutations


def flipped(rng: np.random.Generator, data: bytes) -> bytes:
    """Bytes changed, cut out, doubled, or replaced by numbers at the edge."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        if not out:
            break
        at, kind = int(rng.integers(len(out))), int(rng.integers(7))
        length = int(rng.integers(1, 17))
        if kind == 0:
            out[at] = int(rng.integers(256))
        elif kind == 1:
            out[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            del out[at : at + length]
        elif kind == 3:
            out[at:at] = out[at : at + length]
        elif kind == 4:
            del out[at:]
        elif kind == 5:
            out[at : at + 8] = struct.pack("<q", int(rng.choice(_NUMBERS)))
        else:
            out[at : at + length] = _varint(int(rng.choice(_NUMBERS)))
    return bytes(out)


def fields(rng: np.random.Generator, data: bytes, decoy: str, depth: int = 0) -> bytes:
    """A protocol buffer message with one field changed, doubled, dropped or moved, at any depth."""
    parts = []
    at = 0
    with contextlib.suppress(IndexError, ValueError):
        while at < len(data):
            start = at
            tag, at = _read_varint(data, at)
            if tag & 7 == 0:
                value, at = _read_varint(data, at)
            elif tag & 7 == 2:
                size, at = _read_varint(data, at)
                value, at = data[at : at + size], at + size
            else:
                value, at = None, at + (8 if tag & 7 == 1 else 4)
            if at > len(data):
                return flipped(rng, data)
            parts.append((tag, value, data[start:at]))
    if not parts or at != len(data):
        return flipped(rng, data)
    pick = int(rng.integers(len(parts)))
    tag, value, raw = parts[pick]
    kind = int(rng.integers(8))
    if isinstance(value, bytes) and depth < 6 and kind < 5 and len(value) > 1:
        inner = fields(rng, value, decoy, depth + 1)
        changed = _varint(tag) + _varint(len(inner)) + inner
    elif isinstance(value, int) and kind < 6:
        near = int(rng.integers(0, 40)) if kind < 3 else int(rng.choice(_NUMBERS))
        changed = _varint(tag) + _varint(near)
    elif kind == 6:
        changed = b""
    elif isinstance(value, bytes) and rng.random() < 0.2:
        path = _way_out(rng, decoy).encode()
        changed = _varint(tag) + _varint(len(path)) + path
    else:
        changed = raw * int(rng.integers(1, 4)) + parts[int(rng.integers(len(parts)))][2]
    return b"".join(changed if i == pick else part[2] for i, part in enumerate(parts))


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError


def altered(rng: np.random.Generator, value: Any, decoy: str, depth: int = 0) -> Any:
    """JSON with one value changed, at any depth."""
    if isinstance(value, dict) and value and depth < 12 and rng.random() < 0.95:
        key = list(value)[int(rng.integers(len(value)))]
        if rng.random() < 0.06:
            return {name: one for name, one in value.items() if name != key}
        return {**value, key: altered(rng, value[key], decoy, depth + 1)}
    if isinstance(value, list) and value and depth < 12 and rng.random() < 0.95:
        at = int(rng.integers(len(value)))
        if rng.random() < 0.06:
            return value[:at] + value[at + 1 :]
        return [*value[:at], altered(rng, value[at], decoy, depth + 1), *value[at + 1 :]]
    if isinstance(value, str) and rng.random() < 0.5:
        if rng.random() < 0.2:
            return _way_out(rng, decoy)
        return flipped(rng, value.encode()).decode("utf-8", "replace")
    others = (
        None,
        True,
        "",
        "x",
        "F64",
        "I8",
        "BF16",
        [],
        {},
        [0],
        1.5,
        {"as_int": 3},
        *_NUMBERS,
        0,
        1,
        2,
        3,
        4,
    )
    return others[int(rng.integers(len(others)))]


_TYPES = {"F32": 4, "F64": 8, "F16": 2, "BF16": 2, "I64": 8, "U8": 1, "BOOL": 1, "F8_E4M3": 1}
_NAMES = (
    "weight",
    "weight_v",
    "weight_g",
    "weight_orig",
    "weight_u",
    "bias",
    "kernel",
    "running_var",
    "f1",
    "",
)


def made_up(rng: np.random.Generator) -> bytes:
    """A valid safetensors file of odd names, types, shapes and values."""
    head, body = {}, b""
    for _ in range(int(rng.integers(1, 5))):
        sizes = [int(n) for n in rng.integers(0 if rng.random() < 0.1 else 1, 5, int(rng.integers(0, 7)))]
        kind = str(rng.choice(list(_TYPES), p=[0.5, 0.2, 0.1, 0.1, 0.025, 0.025, 0.025, 0.025]))
        data = rng.bytes(int(np.prod(sizes)) * _TYPES[kind])
        if kind in ("F32", "F64") and rng.random() < 0.8:
            scale = float(rng.choice([1, 1, 0, 1e-45, 1e38]))
            values = rng.standard_normal(int(np.prod(sizes))) * scale
            with np.errstate(over="ignore"):
                data = values.astype(f"<f{_TYPES[kind]}").tobytes()
        name = f"{'ab.'[int(rng.integers(3))]}.{_NAMES[int(rng.integers(len(_NAMES)))]}"
        if name not in head:
            head[name] = {"dtype": kind, "shape": sizes, "data_offsets": [len(body), len(body) + len(data)]}
            body += data
    made = json.dumps(head).encode()
    return struct.pack("<Q", len(made)) + made + body


def header(rng: np.random.Generator, data: bytes, decoy: str) -> bytes:
    """A safetensors file with another header."""
    if rng.random() < 0.3:
        return made_up(rng)
    size = struct.unpack("<Q", data[:8])[0]
    made = json.dumps(altered(rng, json.loads(data[8 : 8 + size]), decoy)).encode()
    return struct.pack("<Q", len(made)) + made + data[8 + size :]


def entries(rng: np.random.Generator, data: bytes, code: bytes, decoy: str) -> bytes:
    """A zip with an entry changed, doubled, renamed, dropped, compressed, or code planted in it."""
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        parts = [(name, source.read(name)) for name in source.namelist()]
    pick = int(rng.integers(len(parts)))
    name, content = parts[pick]
    kind = int(rng.integers(10))
    if kind == 9:
        # Values are taken from another place, or lie there.
        way = json.dumps(_way_out(rng, decoy))[1:-1].encode()
        led = [re.sub(rb'("path_name": ")[^"]*', lambda found: found[1] + way, stored) for _, stored in parts]
        parts = [(one, stored) for (one, _), stored in zip(parts, led, strict=True)]
        parts.append((f"{name}/{way.decode()}", content))
    elif kind < 4 and name.endswith(".json"):
        parts[pick] = (name, json.dumps(altered(rng, json.loads(content), decoy)).encode())
    elif kind < 4:
        parts[pick] = (name, flipped(rng, content))
    elif kind == 4:
        parts[pick] = (name, code)
    elif kind == 5:
        parts.insert(int(rng.integers(len(parts) + 1)), (name, code))
    elif kind == 6:
        renamed = flipped(rng, name.encode()).decode("utf-8", "replace").replace("\0", "_")
        if rng.random() < 0.3:
            renamed = _way_out(rng, decoy)
        parts[pick] = (renamed or "x", content)
    elif kind == 7:
        parts.append((name.upper(), code))
    else:
        del parts[pick]
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", 8 if rng.random() < 0.05 else 0) as target:
        for one, stored in parts:
            target.writestr(one, stored)
    return made.getvalue()


def opcodes(rng: np.random.Generator, data: bytes, code: bytes) -> bytes:
    """A file of pickles with bytes of opcodes in it, or the payload in front."""
    if rng.random() < 0.1:
        return code
    out, planted = (
        bytearray(data),
        (b"c", b"R", b"(", b"t", b"\x81", b"\x93", b"i", b"o", b"Q", b"b", b".", b"0"),
    )
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(len(out)))
        out[at:at] = planted[int(rng.integers(len(planted)))]
    return bytes(out)


def lines(rng: np.random.Generator, data: bytes, decoy: str) -> bytes:
    """A TOML file with a value changed."""
    words = (
        b"0",
        b"-1",
        b"9" * 30,
        b"[1, 2, 3]",
        b'"same"',
        b"true",
        b"1e309",
        b"nan",
        b"{}",
        b"4611686018427387904",
        json.dumps(_way_out(rng, decoy)).encode(),
    )
    rows = data.split(b"\n")
    at = int(rng.integers(len(rows)))
    key = rows[at].partition(b"=")[0]
    rows[at] = key + b"= " + words[int(rng.integers(len(words)))] if b"=" in rows[at] else rows[at] * 2
    return b"\n".join(rows)


def mutated(rng: np.random.Generator, kind: str, files: Files, code: tuple[bytes, ...], decoy: str) -> Files:
    """The files of a seed with one of them changed."""
    names = list(files)
    pick = int(rng.integers(len(names)))
    name = names[-1] if kind in ("toml", "neighbour") and rng.random() < 0.8 else names[pick]
    data = files[name]
    payload = code[int(rng.integers(len(code)))]
    special: Callable[[], bytes] | None = {
        ".onnx": lambda: fields(rng, data, decoy),
        ".safetensors": lambda: header(rng, data, decoy),
        ".toml": lambda: lines(rng, data, decoy),
        ".pt2": lambda: entries(rng, data, payload, decoy),
        ".pth": lambda: (
            opcodes(rng, data, payload) if kind == "legacy" else entries(rng, data, payload, decoy)
        ),
    }.get(Path(name).suffix)
    share = 0.9 if kind == "pt2" else 0.7
    changed = special() if special and rng.random() < share else flipped(rng, data)
    if kind == "external" and rng.random() < 0.3:
        name, changed = "m.onnx", led_out(rng, files["m.onnx"], decoy)
    return {**files, name: changed}
