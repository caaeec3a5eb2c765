"""TensorFlow checkpoints and SavedModel variables, read without TensorFlow.

`X.index` is a sorted string table (the LevelDB format) from variable names to entries that say
where in `X.data-0000i-of-0000n` the bytes of a variable lie, what type and what shape they have.

Reference: TensorFlow, core/util/tensor_bundle and core/lib/io/format; LevelDB, table_format.
"""

from __future__ import annotations

import hashlib
import math
import re
import struct
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ....errors import ModelError
from ... import foreign
from ...floats import from_bytes
from ...names import Names, layer_name
from ...records import ConvLayer, Model, Unread
from ...weights import ATTENTION, NO_KERNEL_NAME, convolution, is_no_kernel, linear

_MAGIC = 0xDB4775248B80FB57
_LONGEST_NAME = 4096
_DTYPES = {
    1: "<f4",
    2: "<f8",
    3: "<i4",
    4: "u1",
    5: "<i2",
    6: "i1",
    9: "<i8",
    10: "?",
    14: "bfloat16",
    19: "<f2",
}
_FLOATS = (1, 2, 14, 19)
_SLOTS = re.compile(
    r"/(Adam(_\d)?|Momentum|RMSProp(_\d)?|Ftrl(_\d)?|Adagrad|adam_[mv]|m|v)$|\.OPTIMIZER_SLOT|^optimizer/"
)
_AVERAGE = "/ExponentialMovingAverage"
# Keras 3 lists variables by number, the trained ones and then all of them once more.
_NUMBERED = re.compile(r"^(_all_)?variables/\d+$")
_COPIES = "_all_variables/"
_KERNEL = re.compile(r"(^|[/_.])(kernel|weights?|w|filters?|depthwise_kernel|depthwise_weights)(:0)?$", re.I)


def read(path: Path, *, sample_shape: tuple[int, ...] | None = None) -> Model:
    """The kernels among the variables of a checkpoint.

    Variables of rank 4 and 5 are kernels whatever they are called, `kind` assumed where the name does not
    say so; of rank 3, candidates. Optimizer slots are counted, not analysed. A checkpoint says neither stride
    nor padding nor whether a kernel is transposed: with `sample_shape` (channels, sizes) stride 1 and `same`
    padding are assumed and marked.

    Arguments:
        path: the `.index` or `.data-...` file, the prefix of both, or a SavedModel folder.

    Raises:
        ModelError: no checkpoint, a damaged one, or a missing data file.
    """
    index = _index_of(path)
    entries = dict(_entries(index))
    plain = {variable: variable.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE") for variable in entries}
    names, known = Names(), set(plain.values())
    found: dict[str, list[Any]] = {"layers": [], "candidates": [], "unread": []}
    other: Counter[str] = Counter()
    listed: set[tuple[tuple[int, ...], bytes]] = set()
    # The variables that are listed twice come second.
    for variable in sorted(entries, key=lambda name: name.startswith(_COPIES)):
        entry, name = entries[variable], plain[variable]
        what = _kind(name, entry, known)
        if what not in ("kernel", "candidate"):
            other[what] += 1
            continue
        reason = _not_readable(entry)
        if reason:
            found["unread"].append(Unread(name, entry.shape, reason))
            continue
        array = _array(index, variable, entry)
        if _NUMBERED.match(name):
            content = (array.shape, array.tobytes())
            if name.startswith(_COPIES) and content in listed:
                other["copy of another variable"] += 1
                continue
            listed.add(content)
        named = what == "kernel" and bool(_KERNEL.search(name.removesuffix(_AVERAGE)))
        unique = names.unique(layer_name(name, fallback=name) if named else name)
        layer = _layer(unique, name, array, sample_shape, () if named else ("kind",))
        if what == "kernel":
            found["layers"].append(layer)
        else:
            found["candidates"].append(layer)
            found["unread"].append(Unread(unique, entry.shape, NO_KERNEL_NAME))
    return Model(
        name=path.name,
        format="tensorflow",
        path=path,
        sha256=_digest(index),
        other=dict(other),
        notes=("a checkpoint does not say which kernels are transposed: give geometry=",),
        **{key: tuple(value) for key, value in found.items()},
    )


def _kind(name: str, entry: _Entry, known: Set[str]) -> str:
    """What a variable is: `kernel`, `candidate`, or a word to count it by."""
    rank = len(entry.shape)
    base = name.rpartition("/")[0]
    if _SLOTS.search(name) and (base in known or not name.endswith(("/m", "/v"))):
        return "optimizer slot"
    if name.endswith(_AVERAGE):
        name = base
    if rank == 3 and ATTENTION.search(name):
        return "candidate"
    if _KERNEL.search(name) and 2 <= rank <= 5:
        return "kernel"
    if is_no_kernel(name, entry.shape) or not (3 <= rank <= 5 or (rank == 2 and _NUMBERED.match(name))):
        return "other variable"
    return "kernel" if rank > 3 else "candidate"


def _not_readable(entry: _Entry) -> str:
    if entry.dtype in _FLOATS:
        return ""
    return f"stored as {_DTYPES.get(entry.dtype, f'type {entry.dtype}')}: what scales it is not stated"


@dataclass(frozen=True)
class _Entry:
    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int


def _layer(
    name: str,
    variable: str,
    kernel: np.ndarray[Any, Any],
    sample_shape: tuple[int, ...] | None,
    assumed: tuple[str, ...],
) -> ConvLayer:
    if kernel.ndim == 2:
        return replace(linear(name, np.ascontiguousarray(kernel.T), "shape of the variable"), assumed=assumed)
    axes = kernel.ndim - 2
    layout, groups = "DHW"[-axes:] + "IO", None
    if "depthwise" in variable:
        # (taps, channels, multiplier): one group a channel, as a kernel of one input channel.
        channels, multiplier = kernel.shape[-2:]
        flat = kernel.reshape(*kernel.shape[:-2], 1, channels * multiplier)
        kernel, layout, groups = np.moveaxis(flat, (-1, -2), (0, 1)), "OI" + "DHW"[-axes:], channels
    return convolution(name, kernel, layout, sample_shape, assumed=assumed, groups=groups, depthwise=False)


def _index_of(path: Path) -> Path:
    """The index file that a path stands for."""
    if path.is_dir():
        found = sorted([*path.glob("*.index"), *path.glob("variables/*.index")])
        if not found:
            raise ModelError(f"{path} holds no .index file of a TensorFlow checkpoint")
        if len(found) > 1:
            listed = ", ".join(one.name for one in found[:4]) + (", ..." if found[4:] else "")
            raise ModelError(f"{path} holds {len(found)} checkpoints ({listed}); give one of them")
        return found[0]
    if ".data-" in path.name:
        path = path.with_name(path.name.partition(".data-")[0])
    index = path if path.suffix == ".index" else path.with_name(path.name + ".index")
    if not index.is_file():
        raise ModelError(f"{index} is missing: it says what lies in {path.name}")
    return index


def _data_files(index: Path) -> list[Path]:
    stem = index.name.removesuffix(".index")
    return sorted(index.parent.glob(f"{stem}.data-*-of-*"))


def _digest(index: Path) -> str:
    digest = hashlib.sha256()
    for file in (index, *_data_files(index)):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _array(index: Path, name: str, entry: _Entry) -> np.ndarray[Any, Any]:
    dtype = _DTYPES.get(entry.dtype)
    width = 2 if dtype == "bfloat16" else np.dtype(dtype or "u1").itemsize
    if dtype is None or entry.size != math.prod(entry.shape) * width:
        raise ModelError(f"{index}: variable {name!r} has a type or size that is not read")
    files = _data_files(index)
    if entry.shard >= len(files):
        raise ModelError(f"{index}: its data file number {entry.shard} is missing; put it beside the index")
    held = files[entry.shard]
    if foreign.is_lfs_pointer(held):
        raise ModelError(f"{held} is a Git LFS pointer; run 'git lfs pull' in its repository")
    if entry.offset + entry.size > held.stat().st_size:
        raise ModelError(f"{held} is truncated: variable {name!r} ends beyond it")
    with held.open("rb") as file:
        file.seek(entry.offset)
        data = file.read(entry.size)
    return from_bytes(data, dtype).reshape(entry.shape)


def _entries(index: Path) -> Iterator[tuple[str, _Entry]]:
    """The variables of an index; the entry without a name is its header."""
    if foreign.is_lfs_pointer(index):
        raise ModelError(f"{index} is a Git LFS pointer; run 'git lfs pull' in its repository")
    from google.protobuf.message import DecodeError

    data = index.read_bytes()
    try:
        for key, value in _table(data):
            if key:
                yield key.decode(), _entry(value)
    except (struct.error, IndexError, TypeError, ValueError, DecodeError) as error:
        raise ModelError(
            f"{index} is not the index of a TensorFlow checkpoint, or it is damaged: {error}"
        ) from None


def _entry(data: bytes) -> _Entry:
    """A BundleEntryProto: dtype 1, shape 2 (dimensions 2, of size 1), shard 3, offset 4, size 5, slices 7."""
    fields = _fields(data)
    if 7 in fields:
        raise ValueError("it holds a sliced variable, which is not read")
    dims = [_fields(dim) for one in fields.get(2, [])[-1:] for dim in _fields(one).get(2, [])]
    shape = tuple(dim.get(1, [0])[-1] for dim in dims)
    dtype, shard, offset, size = (fields.get(place, [0])[-1] for place in (1, 3, 4, 5))
    if not all(isinstance(number, int) for number in (*shape, dtype, shard, offset, size)):
        raise ValueError("an entry holds something else than numbers")
    return _Entry(dtype, shape, shard, offset, size)


def _fields(data: bytes) -> dict[int, list[Any]]:
    """The fields of a protocol buffer message, by number: to a message without fields all are unknown."""
    from google.protobuf.empty_pb2 import Empty
    from google.protobuf.unknown_fields import UnknownFieldSet

    found: dict[int, list[Any]] = {}
    for field in UnknownFieldSet(Empty.FromString(data)):
        found.setdefault(field.field_number, []).append(field.data)
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number is too long")


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The (key, value) pairs of a sorted string table."""
    if len(data) < 48 or struct.unpack("<Q", data[-8:])[0] != _MAGIC:
        raise ValueError("its last eight bytes are not those of a table")
    footer = data[-48:]
    _, at = _varint(footer, 0)
    _, at = _varint(footer, at)
    offset, at = _varint(footer, at)
    size, _ = _varint(footer, at)
    total = 0
    for _, handle in _block(data, offset, size):
        start, at = _varint(handle, 0)
        length, _ = _varint(handle, at)
        total += length
        if total > len(data):
            raise ValueError("its blocks overlap")
        yield from _block(data, start, length)


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """The pairs of one block, whose keys share prefixes with the key before."""
    if offset + size + 5 > len(data):
        raise ValueError("a block ends beyond the file")
    if data[offset + size] != 0:
        raise ValueError("a block is compressed, which is not read")
    block = data[offset : offset + size]
    (restarts,) = struct.unpack("<I", block[-4:])
    end = size - 4 * (restarts + 1)
    key, at = b"", 0
    while at < end:
        shared, at = _varint(block, at)
        fresh, at = _varint(block, at)
        length, at = _varint(block, at)
        if at + fresh + length > end or shared > len(key):
            raise ValueError("a pair ends beyond its block")
        if shared + fresh > _LONGEST_NAME:
            raise ValueError("a name is too long")
        key = key[:shared] + block[at : at + fresh]
        at += fresh
        yield key, block[at : at + length]
        at += length
