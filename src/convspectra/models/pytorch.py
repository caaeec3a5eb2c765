"""PyTorch checkpoints: state dicts, however deep they lie, without running what a pickle may hold."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import InputError, ModelError
from .records import Model
from .safetensors import digest
from .weights import layers_of

# Where training scripts put the weights inside a checkpoint, the usual names first.
_INSIDE = ("state_dict", "model_state_dict", "model", "net", "network", "module", "params", "weights", "ema")
_ADVICE = "save model.state_dict() instead, or name the code with --model package.module:factory"


def read(path: Path, *, input_shape: tuple[int, ...] | None = None) -> Model:
    """The convolutions and linear layers of a checkpoint that `torch.save` wrote.

    Arguments:
        path: `.pt`, `.pth`, `.th`, ...; saved on any device; the state dict may lie deeper, under
            `state_dict`, `model` and the like.
        input_shape: channels and sizes of one input, assumed for every layer (see `weights`).

    Raises:
        ModelError: no checkpoint, a damaged one, or a pickle that holds code, which is named and
            never run.
        InputError: PyTorch is not installed.
    """
    layers, other, notes = layers_of(state_dict(path), input_shape)
    return Model(
        name=path.name,
        format="pytorch",
        layers=tuple(layers),
        path=path,
        sha256=digest(path),
        other=other,
        notes=tuple(notes),
    )


def state_dict(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors of a checkpoint by name, as NumPy arrays.

    Raises: as `read`.
    """
    found = tensors_in(load(path))
    if not found:
        raise ModelError(f"{path} holds no state dict: no tensors by name were found in it")
    return {name: as_array(tensor) for name, tensor in found.items()}


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
    try:
        return load_without_code(path, map_location)
    except pickle.UnpicklingError as error:
        code = _code_in(path, str(error))
        if code:
            raise ModelError(f"{path} holds code ({code}) and was not run; {_ADVICE}") from None
        raise ModelError(f"{path} is not a PyTorch checkpoint, or it is damaged") from None
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, IndexError, TypeError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if "weights_only" in line:  # PyTorch's own advice is to run what is in the file
            line = type(error).__name__
        raise ModelError(f"{path} is not a PyTorch checkpoint, or it is damaged: {line}") from None


def _code_in(path: Path, message: str) -> str:
    """The first name in a pickle that is neither a tensor nor a plain container."""
    named = re.search(r"GLOBAL (\S+)", message)
    if named:
        return named.group(1)
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


def tensors_in(loaded: Any) -> dict[str, Any]:
    """The named tensors of a checkpoint: its own, or those of the first entry that holds some."""
    torch = require_torch()
    if not isinstance(loaded, Mapping):
        return {}
    own = {str(name): value for name, value in loaded.items() if isinstance(value, torch.Tensor)}
    if any(tensor.ndim >= 2 for tensor in own.values()):
        return own
    for name in (*_INSIDE, *loaded):
        if "optim" not in str(name) and isinstance(loaded.get(name), Mapping):
            found = tensors_in(loaded[name])
            if found:
                return found
    return {}


def as_array(tensor: Any) -> np.ndarray[Any, Any]:
    torch = require_torch()
    tensor = tensor.detach()
    if tensor.is_sparse or tensor.is_quantized:
        tensor = tensor.dequantize() if tensor.is_quantized else tensor.to_dense()
    if tensor.dtype == torch.bfloat16 or (tensor.is_floating_point() and tensor.dtype.itemsize < 2):
        tensor = tensor.float()
    return np.asarray(tensor.cpu().numpy())
