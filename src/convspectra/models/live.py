"""Modules named on the command line: `package.module:factory`, built and traced."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import InputError, ModelError
from . import sniff
from .formats.pytorch.reader import as_array, load, require_torch, state_dicts
from .formats.safetensors import reader as safetensors
from .reading import first_line, reading
from .records import Model, Unread
from .weights import plain_names


def build(name: str) -> Any:
    """The module that `package.module:factory` returns, with the current folder importable.

    Raises:
        InputError: it cannot be imported, called without arguments, or is no module.
    """
    torch = require_torch()
    package, _, attribute = name.partition(":")
    if not package or not attribute:
        raise InputError(f"module must be package.module:factory; got {name!r}")
    if package.endswith(".py"):
        raise InputError(
            f"module={name!r} is imported as Python does, by the name of a module and not of a file: "
            f"{package.removesuffix('.py').replace('/', '.')}:{attribute}"
        )
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found = importlib.import_module(package)
        for part in attribute.split("."):
            found = getattr(found, part)
        made = found if isinstance(found, torch.nn.Module) else found()  # type: ignore[operator]
    except Exception as error:  # noqa: BLE001  # whatever a user's code raises
        raise InputError(f"module={name!r}: {type(error).__name__}: {first_line(error)}") from None
    if not isinstance(made, torch.nn.Module):
        raise InputError(f"module={name!r} must return a torch.nn.Module; got {type(made).__name__}")
    return made


def load_into(module: Any, path: Path) -> list[Unread]:
    """Load the weights of a checkpoint or safetensors file into a module, all of them.

    Returns:
        The other state dicts of the file. Of several that fit, the first is loaded.

    Raises:
        ModelError: the names or shapes do not match, or the file is no state dict.
    """
    torch = require_torch()
    with reading(path):
        found = _state_dicts(path)
    if not found:
        raise ModelError(f"{path} holds no state dict: no tensors by name were found in it")
    needed = {name: tuple(value.shape) for name, value in module.state_dict().items() if _has_shape(value)}
    fits = [
        name
        for name, arrays in found.items()
        if {key: tuple(array.shape) for key, array in arrays.items()} == needed
    ]
    chosen = fits[0] if fits else next(iter(found))
    weights = {key: torch.from_numpy(array.copy()) for key, array in found[chosen].items()}
    try:
        module.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        which = f": none of its {len(found)} state dicts does" if len(found) > 1 else ""
        raise ModelError(f"{path} does not fit the module{which}: {reason[:400]}") from None
    again = f"only {chosen!r} was loaded into the module; to analyse this one save it alone"
    return [
        Unread(
            name or "the outermost tensors",
            None,
            f"a state dict that {'fits as well' if name in fits else 'does not fit'}: {again}",
        )
        for name in found
        if name != chosen
    ]


def _has_shape(value: Any) -> bool:
    return isinstance(value, require_torch().Tensor)


def _state_dicts(path: Path) -> dict[str, dict[str, Any]]:
    """The state dicts of a file by their place in it, names without wrappers; those with weights, if any."""
    if sniff.format_of(path) == "safetensors":
        given = safetensors.tensors(path)
        return {"": {name: given[key] for name, key in plain_names(given).items()}}
    dicts, _ = state_dicts(load(path), path)
    weights = [one for one in dicts if any(tensor.ndim >= 2 for tensor in one.tensors.values())]
    return {
        ".".join(one.path): {
            name: as_array(one.tensors[key]) for name, key in plain_names(one.tensors).items()
        }
        for one in weights or dicts
    }


def read(module: Any, *, sample_shape: tuple[int, ...] | None, path: Path | None) -> Model:
    """Trace a module, or what `package.module:factory` builds, with the weights of `path` if given.

    Raises:
        InputError: no `sample_shape`, or the module cannot be built or run.
        ModelError: the weights do not fit.
    """
    require_torch()
    from .modules import trace

    made, name, others = opened(module, sample_shape, path)
    model: Model = trace(made, sample_shape or (), name=name)
    return replace(model, unread=(*model.unread, *others))


def opened(
    module: Any, sample_shape: tuple[int, ...] | None, path: Path | None
) -> tuple[Any, str, list[Unread]]:
    """A module to be traced, with the weights of `path` if given; its name in reports; what was not loaded.

    Raises: as `read`.
    """
    label = module if isinstance(module, str) else type(module).__name__
    made = build(module) if isinstance(module, str) else module
    if sample_shape is None:
        raise InputError(f"module={label} is traced once: give its sample_shape=(3, 224, 224) or the like")
    others = [] if path is None else load_into(made, path)
    return made, path.name if path else label, others
