"""Modules named on the command line: `package.module:factory`, built and traced."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from ..errors import InputError, ModelError
from .pytorch import require_torch, state_dict
from .records import Model


def build(name: str) -> Any:
    """The module that `package.module:factory` returns, with the current folder importable.

    Raises:
        InputError: it cannot be imported, called without arguments, or is no module.
    """
    torch = require_torch()
    package, _, attribute = name.partition(":")
    if not package or not attribute:
        raise InputError(f"--model must be package.module:factory; got {name!r}")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found = importlib.import_module(package)
        for part in attribute.split("."):
            found = getattr(found, part)
        made = found if isinstance(found, torch.nn.Module) else found()  # type: ignore[operator]
    except Exception as error:  # noqa: BLE001  # whatever a user's code raises
        line = (str(error).strip().splitlines() or [""])[0]
        raise InputError(f"--model {name}: {type(error).__name__}: {line}") from None
    if not isinstance(made, torch.nn.Module):
        raise InputError(f"--model {name} must return a torch.nn.Module; got {type(made).__name__}")
    return made


def load_into(module: Any, path: Path) -> None:
    """Load the weights of a checkpoint or safetensors file into a module, all of them.

    Raises:
        ModelError: the names or shapes do not match, or the file is no state dict.
    """
    torch = require_torch()
    from . import safetensors, sniff
    from .weights import without_wrappers

    found = safetensors.tensors(path) if sniff.format_of(path) == "safetensors" else state_dict(path)
    weights = {without_wrappers(key): torch.from_numpy(value.copy()) for key, value in found.items()}
    try:
        module.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{path} does not fit the module: {reason[:400]}") from None


def read(module: Any, *, input_shape: tuple[int, ...] | None, path: Path | None) -> Model:
    """Trace a module, or what `package.module:factory` builds, with the weights of `path` if given.

    Raises:
        InputError: no `input_shape`, or the module cannot be built or run.
        ModelError: the weights do not fit.
    """
    require_torch()
    from ..torch.modules import trace

    label = module if isinstance(module, str) else type(module).__name__
    made = build(module) if isinstance(module, str) else module
    if input_shape is None:
        raise InputError(f"--model {label} is traced once: give its --input-shape, such as 3,224,224")
    if path is not None:
        load_into(made, path)
    return trace(made, input_shape, name=path.name if path else label)
