"""PyTorch checkpoints: all state dicts, however deep they lie, without running what a pickle may hold."""

from __future__ import annotations

import io
import itertools
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ....errors import InputError, ModelError
from ...names import Names
from ...reading import digest, first_line
from ...records import Model, Unread
from ...weights import model_of, plain_names

# Entries that a tensor may have beyond those that lie in the file: of expanded, sparse and quantised ones.
_MOST_REPEATED, _TIMES_STORED = 2**22, 8
_ADVICE = "save model.state_dict() instead, or name the code with module='package.module:factory'"
_OPTIMIZER = re.compile(r"(^|_)optim(izers?)?(_states?(_dict)?)?(_?[a-z0-9])?$", re.I)
_SLOT = re.compile(r"((max_)?exp_avg(_sq)?|momentum_buffer|(square|grad)_avg|acc_delta)$")
_PACKED = "._packed_params._packed_params"
_MAX_VALUES, _MAX_DEPTH = 200_000, 64


def read(path: Path, *, sample_shape: tuple[int, ...] | None = None) -> Model:
    """The convolutions and linear layers of a checkpoint that `torch.save` wrote.

    Arguments:
        path: `.pt`, `.pth`, `.th`, ...; saved on any device; the state dict may lie deeper, under
            `state_dict`, `model` and the like.
        sample_shape: channels and sizes of one input, assumed for every layer (see `weights`).

    Several state dicts in one file are all read, each under the path of its keys (`generator.0`); what
    belongs to an optimizer is counted.

    Raises:
        ModelError: no checkpoint, a damaged one, or a pickle that holds code, which is named and
            never run.
        InputError: PyTorch is not installed.
    """
    dicts, optimizer = state_dicts(load(path), path)
    tensors = named(dicts)
    if not tensors:
        raise ModelError(f"{path} holds no state dict: no tensors by name were found in it")
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    unread = []
    for name, tensor in tensors.items():
        reason = _not_readable(tensor)
        if not reason:
            arrays[name] = as_array(tensor)
        elif tensor.ndim >= 2:
            unread.append(Unread(name, tuple(tensor.shape), reason))
    quantised = [name for name, tensor in tensors.items() if tensor.is_quantized]
    model = model_of(
        arrays,
        sample_shape,
        convention="pytorch",
        unread=unread,
        other={"optimizer state": optimizer},
        name=path.name,
        format="pytorch",
        path=path,
        sha256=digest(path),
    )
    note = f"stored quantised, read as the real numbers that they stand for: {', '.join(quantised[:3])}"
    more = f" and {len(quantised) - 3} more" if quantised[3:] else ""
    return replace(model, notes=(*model.notes, note + more)) if quantised else model


def _not_readable(tensor: Any) -> str:
    """Why a tensor has no values that can be analysed, else empty."""
    torch = require_torch()
    if tensor.is_meta:
        return "it has a shape and no values"
    if tensor.layout not in (torch.strided, torch.sparse_coo):
        return f"stored as {str(tensor.layout).removeprefix('torch.')}: save its to_dense()"
    if tensor.numel() > _MOST_REPEATED + _TIMES_STORED * _stored(tensor):
        return f"it declares {tensor.numel():,} entries and holds {_stored(tensor):,} bytes"
    if tensor.is_floating_point() and tensor.dtype.itemsize < 2:
        return f"stored as {str(tensor.dtype).removeprefix('torch.')}: what scales it is not stated"
    return ""


def _stored(tensor: Any) -> int:
    """Bytes of the file that a tensor is made of."""
    parts = [tensor._indices(), tensor._values()] if tensor.is_sparse else [tensor]
    return sum(int(part.untyped_storage().nbytes()) for part in parts if str(part.layout) == "torch.strided")


def _refuse_compressed(path: Path) -> None:
    """Raise the ModelError of a zip that is larger unpacked: torch.save does not compress."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    declared = sum(entry.file_size for entry in entries)
    if declared > path.stat().st_size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ModelError(f"{path} holds compressed entries, which torch.save never writes: save it again")


def require_torch() -> Any:
    """The torch module.

    Raises:
        InputError: it is not installed.
    """
    try:
        import torch
    except ImportError:
        raise InputError("PyTorch is needed to read this file: pip install 'convspectra[torch]'") from None
    return torch


def load_without_code(file: Path | BinaryIO, map_location: Any = "cpu") -> Any:
    """What `torch.save` wrote, on the CPU, refusing everything but tensors and plain containers."""
    torch = require_torch()
    with warnings.catch_warnings():
        # That the protocol is unusual is no news for the user: the file is read or refused.
        warnings.simplefilter("ignore")
        return torch.load(file, map_location=map_location, weights_only=True)


def load(path: Path, map_location: Any = "cpu") -> Any:
    """What a checkpoint holds.

    Raises: as `read`.
    """
    _refuse_compressed(path)
    try:
        return load_without_code(path, map_location)
    except pickle.UnpicklingError as error:
        code = _code_in(path, str(error))
        if code:
            raise ModelError(f"{path} holds code ({code}) and was not run; {_ADVICE}") from None
        raise ModelError(f"{path} is not a PyTorch checkpoint, or it is damaged") from None
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, IndexError, TypeError) as error:
        line = first_line(error) or type(error).__name__
        if isinstance(error, KeyError):  # the number of an instruction that there is none of, or of an entry
            line = "its bytes are no pickle's"
        if "weights_only" in line:  # PyTorch's own advice is to run what is in the file
            line = type(error).__name__
        raise ModelError(f"{path} is not a PyTorch checkpoint, or it is damaged: {line}") from None


def _code_in(path: Path, message: str) -> str:
    """The first name in a pickle that is neither a tensor nor a plain container."""
    said = re.search(r"GLOBAL (\S+)", message)
    if said:
        return said.group(1)
    data = path.read_bytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            inside = [name for name in archive.namelist() if name.endswith("data.pkl")]
            data = archive.read(inside[0]) if inside else b""
    words: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
            if opcode.name == "GLOBAL":
                words.extend(str(argument).split(" ", 1))
            elif isinstance(argument, str):
                words.append(argument)
            if opcode.name in ("GLOBAL", "STACK_GLOBAL") and len(words) > 1:
                module, name = words[-2:]
                if module.split(".")[0] not in ("torch", "collections", "numpy"):
                    return f"{module}.{name}"
    except (ValueError, EOFError, UnicodeDecodeError):
        return ""
    return ""


@dataclass(frozen=True)
class StateDict:
    """Tensors by name that lie in one container of a checkpoint, at `path`; all of them, however small."""

    path: tuple[str, ...]
    tensors: dict[str, Any]


def state_dicts(loaded: Any, file: Path) -> tuple[list[StateDict], int]:
    """Every container of named tensors in a checkpoint, and how many tensors of optimizers were left out.

    Raises:
        ModelError: containers nest without end, or are too many.
    """
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    optimizer = 0
    for path, tensor in tensors_in(loaded, file):
        path = path or ("tensor",)  # one by itself
        if any(map(_OPTIMIZER.search, path[:-1])) or _SLOT.match(path[-1]):
            optimizer += 1
        else:
            path = _unpacked(path)
            found.setdefault(path[:-1], {})[path[-1]] = tensor
    return [StateDict(path, tensors) for path, tensors in found.items()], optimizer


def _unpacked(path: tuple[str, ...]) -> tuple[str, ...]:
    """The path of a quantised linear layer's weight or bias, which lie in a pair, as if they did not."""
    if len(path) < 2 or not path[-2].endswith(_PACKED):
        return path
    return (
        *path[:-2],
        path[-2].removesuffix(_PACKED) + {"0": ".weight", "1": ".bias"}.get(path[-1], path[-1]),
    )


def named(dicts: Sequence[StateDict]) -> dict[str, Any]:
    """All tensors by name: that in their container, after the path of the container where there are several.

    Containers with a tensor of two or more axes count; wrappers' prefixes of names are left out.
    """
    weights = [one.path for one in dicts if any(tensor.ndim >= 2 for tensor in one.tensors.values())]
    common = _common_start(weights or [one.path for one in dicts])
    given: dict[str, Any] = {}
    for one in dicts:
        path = one.path[len(common) :] if one.path[: len(common)] == common else one.path
        tensors = {name: one.tensors[key] for name, key in plain_names(one.tensors).items()}
        prefix = ".".join(path)
        numbered = (f"{'.'.join(path)}#{count}" for count in itertools.count(2))
        while any(_joined(prefix, name) in given for name in tensors):
            prefix = next(numbered)
        given |= {_joined(prefix, name): tensor for name, tensor in tensors.items()}
    return given


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def tensors_in(loaded: Any, file: Path) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every tensor in a checkpoint, however deep, with the keys that lead to it.

    Raises:
        ModelError: containers nest without end, or are too many.
    """
    torch = require_torch()
    if not isinstance(loaded, (torch.Tensor, Mapping, list, tuple, set)):
        return
    waiting: list[tuple[tuple[str, ...], Any]] = [((), loaded)]
    visited = 0
    while waiting:
        path, value = waiting.pop()
        visited += 1
        if visited > _MAX_VALUES or len(path) > _MAX_DEPTH:
            raise ModelError(
                f"{file} holds more than {_MAX_VALUES:,} containers and tensors, or they nest deeper than "
                f"{_MAX_DEPTH}"
            )
        if isinstance(value, torch.Tensor):
            yield path, value
            continue
        items = value if isinstance(value, Mapping) else dict(enumerate(value))
        names = Names()  # the keys 1 and "1" are two
        mark = ("optimizer",) if {"state", "param_groups"} <= items.keys() else ()
        inside = [
            ((*path, *mark, names.unique(str(key))), one)
            for key, one in items.items()
            if isinstance(one, (torch.Tensor, Mapping, list, tuple, set))
        ]
        waiting.extend(reversed(inside))


def _common_start(paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    start = paths[0] if paths else ()
    for path in paths:
        while path[: len(start)] != start:
            start = start[:-1]
    return start


def as_array(tensor: Any) -> np.ndarray[Any, Any]:
    torch = require_torch()
    tensor = tensor.detach().resolve_conj().resolve_neg()  # what is only marked as negated, NumPy refuses
    if tensor.is_sparse or tensor.is_quantized:
        tensor = tensor.dequantize() if tensor.is_quantized else tensor.to_dense()
    if tensor.dtype == torch.bfloat16 or (tensor.is_floating_point() and tensor.dtype.itemsize < 2):
        tensor = tensor.float()
    return np.asarray(tensor.cpu().numpy())
