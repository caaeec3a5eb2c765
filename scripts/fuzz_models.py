"""Mutated model files through the readers and the whole of `analyze`: each ends in a report or one line.

    python scripts/fuzz_models.py --count 1000000 --seed 0 --workers 2 --out fuzz.json

File `i` of a seed is always the same. What is done is kept in `--out` after each chunk: stopped and started
again with the same seed it goes on where it was. Counted by signature (format, exception, place): exceptions
that are no `InputError`, code that ran, files over 20 s or 2 GB, files opened outside of the model's folder.
Exit status 1 if there was any.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import pickle
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from convspectra.analysis import analyze
from convspectra.atomic import atomic
from convspectra.errors import InputError
from convspectra.models import geometry_file, read_model
from convspectra.models.graphs import read_graph

SECONDS, MEMORY, CHUNK = 20, 2 * 2**30, 500
# Of all files; formats that take milliseconds a file have fewer.
SHARES = {
    "onnx": 0.06,
    "external": 0.05,
    "neighbour": 0.02,
    "safetensors": 0.42,
    "pytorch": 0.12,
    "legacy": 0.14,
    "pt2": 0.01,
    "tensorflow": 0.12,
    "toml": 0.06,
}
FAULTS = ("foreign", "code", "slow", "memory", "outside")
_NUMBERS = (0, 1, -1, 2**7, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63))
Files = dict[str, bytes]


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
        b'input_shape = [2, 6, 6]\n[layers."a"]\nstride = 2\npadding = [1, 1]\ndilation = 1\n'
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


def fields(rng: np.random.Generator, data: bytes, depth: int = 0) -> bytes:
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
        inner = fields(rng, value, depth + 1)
        changed = _varint(tag) + _varint(len(inner)) + inner
    elif isinstance(value, int) and kind < 6:
        near = int(rng.integers(0, 40)) if kind < 3 else int(rng.choice(_NUMBERS))
        changed = _varint(tag) + _varint(near)
    elif kind == 6:
        changed = b""
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


def altered(rng: np.random.Generator, value: Any, depth: int = 0) -> Any:
    """JSON with one value changed, at any depth."""
    if isinstance(value, dict) and value and depth < 12 and rng.random() < 0.95:
        key = list(value)[int(rng.integers(len(value)))]
        if rng.random() < 0.06:
            return {name: one for name, one in value.items() if name != key}
        return {**value, key: altered(rng, value[key], depth + 1)}
    if isinstance(value, list) and value and depth < 12 and rng.random() < 0.95:
        at = int(rng.integers(len(value)))
        if rng.random() < 0.06:
            return value[:at] + value[at + 1 :]
        return [*value[:at], altered(rng, value[at], depth + 1), *value[at + 1 :]]
    if isinstance(value, str) and rng.random() < 0.5:
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


def header(rng: np.random.Generator, data: bytes) -> bytes:
    """A safetensors file with another header."""
    if rng.random() < 0.3:
        return made_up(rng)
    size = struct.unpack("<Q", data[:8])[0]
    made = json.dumps(altered(rng, json.loads(data[8 : 8 + size]))).encode()
    return struct.pack("<Q", len(made)) + made + data[8 + size :]


def entries(rng: np.random.Generator, data: bytes, code: bytes) -> bytes:
    """A zip with an entry changed, doubled, renamed, dropped, compressed, or code planted in it."""
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        parts = [(name, source.read(name)) for name in source.namelist()]
    pick = int(rng.integers(len(parts)))
    name, content = parts[pick]
    kind = int(rng.integers(9))
    if kind < 4 and name.endswith(".json"):
        parts[pick] = (name, json.dumps(altered(rng, json.loads(content))).encode())
    elif kind < 4:
        parts[pick] = (name, flipped(rng, content))
    elif kind == 4:
        parts[pick] = (name, code)
    elif kind == 5:
        parts.insert(int(rng.integers(len(parts) + 1)), (name, code))
    elif kind == 6:
        renamed = flipped(rng, name.encode()).decode("utf-8", "replace").replace("\0", "_")
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


def lines(rng: np.random.Generator, data: bytes) -> bytes:
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
    )
    rows = data.split(b"\n")
    at = int(rng.integers(len(rows)))
    key = rows[at].partition(b"=")[0]
    rows[at] = key + b"= " + words[int(rng.integers(len(words)))] if b"=" in rows[at] else rows[at] * 2
    return b"\n".join(rows)


def mutated(rng: np.random.Generator, kind: str, files: Files, code: tuple[bytes, bytes]) -> Files:
    """The files of a seed with one of them changed."""
    names = list(files)
    name = (
        names[-1]
        if kind in ("toml", "neighbour") and rng.random() < 0.8
        else names[int(rng.integers(len(names)))]
    )
    data = files[name]
    payload = code[int(rng.integers(2))]
    suffix = Path(name).suffix
    special: Callable[[], bytes] | None = {
        ".onnx": lambda: fields(rng, data),
        ".safetensors": lambda: header(rng, data),
        ".toml": lambda: lines(rng, data),
        ".pt2": lambda: entries(rng, data, payload),
        ".pth": lambda: (opcodes if kind == "legacy" else entries)(rng, data, payload),
    }.get(suffix)
    share = 0.9 if kind == "pt2" else 0.7
    return {**files, name: special() if special and rng.random() < share else flipped(rng, data)}


# ---- What one file does


class _TooSlowError(BaseException):
    pass


class Watch:
    """Records what one file opens and runs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.active, self.seen = str(folder), False, []
        # What libraries open by themselves: their own modules, the system's tables.
        self.allowed = (*filter(None, sys.path), sys.prefix, "/proc/", "/sys/", "/dev/", "/usr/", "/etc/")
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect"):
            self.seen.append(("code", event))
        elif event == "open" and isinstance(arguments[0], (str, bytes)):
            path = os.path.abspath(os.fsdecode(arguments[0]))  # noqa: PTH100  # no Path: it must be cheap
            own = path.startswith(self.folder) or path.endswith((".py", ".pyc", ".so"))
            writes = isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
            if not own and (writes or not path.startswith(self.allowed)):
                self.seen.append(("outside", path))


def run(kind: str, folder: Path, files: Files, *, whole: bool, graph: bool) -> None:
    """Read, and analyse where asked."""
    path = folder / next(iter(files))
    if kind == "toml":
        geometry_file.load(folder / "m.toml")
    if graph:
        read_graph(path)
        return
    model = read_model(path, input_shape=None if kind in ("onnx", "external", "pt2") else (2, 6, 6))
    if whole:
        analyze(model, executor=None)


def one(
    watch: Watch, kind: str, folder: Path, files: Files, **how: bool
) -> tuple[str, list[tuple[str, str]]]:
    """How one file ends: `read`, `refused` or a fault, and its faults with their signatures."""
    for old in folder.iterdir():
        old.unlink()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    watch.seen, watch.active = [], True
    end, faults, began = "read", [], time.perf_counter()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        run(kind, folder, files, **how)
    except InputError:
        end = "refused"
    except _TooSlowError:
        faults.append(("slow", _place(sys.exc_info()[1])))
    except BaseException as error:  # noqa: BLE001  # what is looked for
        faults.append(("foreign", f"{type(error).__name__} {_place(error)}"))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        watch.active = False
    if time.perf_counter() - began > SECONDS and not faults:
        faults.append(("slow", kind))
    if (folder / "marker").exists():
        faults.append(("code", "marker"))
    faults += watch.seen
    return end if not faults else faults[0][0], faults


def _place(error: BaseException | None) -> str:
    own = [
        f for f in traceback.extract_tb(error.__traceback__ if error else None) if "convspectra" in f.filename
    ]
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "?"


def chunk(options: argparse.Namespace, start: int, stop: int, made: dict[str, Files]) -> dict[str, Any]:
    """The files `start` to `stop` of a seed, in this process."""
    warnings.simplefilter("ignore")
    if options.quiet:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    ends: Counter[str] = Counter()
    whole_count, faults = 0, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        watch = Watch(folder)

        def too_slow(*_: object) -> None:
            raise _TooSlowError

        class Marker:
            def __reduce__(self) -> tuple[Any, ...]:
                return open, (str(folder / "marker"), "w")

        code = (pickle.dumps({"x": Marker()}), pickle.dumps({"x": Marker()}, 2))
        signal.signal(signal.SIGALRM, too_slow)
        kinds = [kind for kind in SHARES if kind in made]
        share = np.array([SHARES[kind] for kind in kinds])
        for index in range(start, stop):
            rng = np.random.default_rng([options.seed, index])
            kind = str(rng.choice(kinds, p=share / share.sum()))
            whole = bool(rng.random() < options.analyze_share)
            graph = not whole and kind in ("onnx", "external", "pt2") and bool(rng.random() < 0.2)
            files = mutated(rng, kind, made[kind], code)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            end, found = one(watch, kind, folder, files, whole=whole, graph=graph)
            after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            if after * 1024 > MEMORY and after > before:
                found.append(("memory", kind))
            ends[f"{kind} {end}"] += 1
            whole_count += whole
            for fault, place in found:
                faults.append({"fault": fault, "signature": f"{kind} {place}", "index": index})
                if options.keep:
                    target = options.keep / f"{fault}-{index}"
                    target.mkdir(parents=True, exist_ok=True)
                    for file, data in files.items():
                        (target / file).write_bytes(data)
    return {"ends": dict(ends), "analysed": whole_count, "faults": faults}


def in_children(options: argparse.Namespace, start: int, made: dict[str, Files]) -> Iterator[tuple[int, Any]]:
    """Chunks in processes that are forked for each; one that dies is itself a fault."""
    running: dict[int, tuple[int, int, float]] = {}
    while start < options.count or running:
        while start < options.count and len(running) < options.workers:
            stop = min(start + CHUNK, options.count)
            out, into = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(out)
                resource.setrlimit(resource.RLIMIT_AS, (24 * 2**30, 24 * 2**30))
                with os.fdopen(into, "w") as pipe:
                    json.dump(chunk(options, start, stop, made), pipe)
                os._exit(0)
            os.close(into)
            running[out] = (start, stop, time.time())
            start = stop
        out = min(running, key=lambda fd: running[fd][0])
        first, stop, _ = running.pop(out)
        with os.fdopen(out) as pipe:
            text = pipe.read()
        os.wait()
        fault = {"fault": "foreign", "signature": "the process died", "index": first}
        yield stop, json.loads(text) if text else {"ends": {}, "analysed": 0, "faults": [fault]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--analyze-share", type=float, default=0.2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--keep", type=Path, help="folder for the files that show a fault")
    parser.add_argument("--quiet", action="store_true", help="nothing of what libraries print")
    options = parser.parse_args()
    state: dict[str, Any] = {
        "seed": options.seed,
        "done": 0,
        "analysed": 0,
        "seconds": 0.0,
        "ends": {},
        "signatures": {},
        **dict.fromkeys(FAULTS, 0),
    }
    if options.out and options.out.exists():
        kept = json.loads(options.out.read_text())
        state = kept if kept["seed"] == options.seed else state
    with tempfile.TemporaryDirectory() as name:
        made = seeds(Path(name))
        # Imports of the readers are done once, before the children are forked.
        for kind, files in made.items():
            for file, data in files.items():
                (Path(name) / file).write_bytes(data)
            run(kind, Path(name), files, whole=False, graph=False)
    began = time.perf_counter()
    for stop, result in in_children(options, state["done"], made):
        state["done"], state["analysed"] = stop, state["analysed"] + result["analysed"]
        ends = Counter(state["ends"])
        ends.update(result["ends"])
        state["ends"] = dict(sorted(ends.items()))
        for fault in result["faults"]:
            state[fault["fault"]] += 1
            first = state["signatures"].setdefault(
                f"{fault['fault']} {fault['signature']}", [0, fault["index"]]
            )
            first[0] += 1
        state["seconds"] += time.perf_counter() - began
        began = time.perf_counter()
        if options.out:
            with atomic(options.out) as file:
                file.write(json.dumps(state, indent=1).encode())
        if stop % (20 * CHUNK) == 0 or stop == options.count:
            found = ", ".join(f"{fault} {state[fault]}" for fault in FAULTS)
            print(
                f"{stop:>8} files, {state['analysed']} analysed, {state['seconds']:.0f} s; {found}",
                flush=True,
            )
    for signature, (count, index) in sorted(state["signatures"].items()):
        print(f"{count:>6} {signature} (first: {index})")
    return 1 if any(state[fault] for fault in FAULTS) else 0


if __name__ == "__main__":
    raise SystemExit(main())
