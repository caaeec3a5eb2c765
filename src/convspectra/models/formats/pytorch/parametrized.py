"""Weights that a module computes from what its state dict holds: weight norm, spectral norm, pruning."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...records import Unread

NumpyArray = np.ndarray[Any, Any]

_NEW = re.compile(r"^(?P<base>(.*\.)?)parametrizations\.(?P<name>[^.]+)\.(?P<part>.+)$")
_OLD = re.compile(r"^(?P<name>.+)_(?P<part>orig|mask|u|v|g)$")


@dataclass(frozen=True)
class Parameter:
    """A parameter as the module uses it, by its name there; `note` says how it was computed, if it was."""

    name: str
    array: NumpyArray
    note: str = ""


def parameters(tensors: Mapping[str, NumpyArray]) -> Iterator[Parameter | Unread]:
    """The parameters of a state dict, those that are parametrised worked out as PyTorch does at inference.

    What else computes a weight is `Unread`: its parts do not say how. So is a computed weight that the file
    also holds as it is, with other values.
    """
    groups = parts_of(tensors)
    owner = {tensor: name for name, parts in groups.items() for tensor in parts.values()}
    for name, array in tensors.items():
        if name not in owner:
            yield Parameter(name, array)
        elif name == next(iter(groups[owner[name]].values())):
            yield from _computed(owner[name], groups[owner[name]], tensors)


def parts_of(names: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The parametrised parameters among the names of tensors: parameter -> part -> tensor."""
    new: dict[str, dict[str, str]] = {}
    old: dict[str, dict[str, str]] = {}
    for tensor in names:
        if found := _NEW.match(tensor):
            new.setdefault(found["base"] + found["name"], {})[found["part"]] = tensor
        elif found := _OLD.match(tensor):
            old.setdefault(found["name"], {})[found["part"]] = tensor
    hooked = {name: parts for name, parts in old.items() if "orig" in parts or {"v", "g"} <= parts.keys()}
    return hooked | new


def _computed(
    name: str, parts: Mapping[str, str], tensors: Mapping[str, NumpyArray]
) -> Iterator[Parameter | Unread]:
    arrays = {part: tensors[tensor] for part, tensor in parts.items()}
    combine, what = _FORMULAS.get(frozenset(parts), (None, ""))
    weight, detail = combine(arrays) if combine is not None else (None, "")
    main = next((part for part in ("orig", "original", "original1", "v") if part in parts), next(iter(parts)))
    shape = tuple(int(size) for size in arrays[main].shape)
    beside = tensors.get(name)
    if weight is None:
        listed = ", ".join(sorted(parts))
        yield Unread(
            parts[main],
            shape,
            f"its weight is computed by a parametrization with the parts {listed}, and the file does not say "
            "which: convspectra.torch.orthogonal, spectral_norm or another; give module=",
        )
    elif beside is None:
        yield Parameter(name, weight, f"{what}{detail}")
    elif beside.shape != weight.shape or not np.allclose(beside, weight, rtol=1e-4, atol=1e-6):
        yield Unread(
            parts[main],
            shape,
            f"with {what} it makes another weight than {name!r} beside it, and the file does not say which "
            "one the module uses; give module=",
        )


_Result = tuple[NumpyArray | None, str]


def _weight_norm(direction: NumpyArray, length: NumpyArray) -> _Result:
    """`g v / ||v||`, the norm over the axes that g does not have (Salimans and Kingma 2016)."""
    if direction.ndim < 2 or length.ndim not in (0, direction.ndim):
        return None, ""
    if any(size not in (1, full) for size, full in zip(length.shape, direction.shape, strict=False)):
        return None, ""
    direction, length = _wide(direction), _wide(length)
    axes = tuple(axis for axis, size in enumerate(length.shape) if size == 1) if length.ndim else None
    return np.asarray(length * direction / np.sqrt((direction**2).sum(axis=axes, keepdims=True))), ""


def _spectral_norm(weight: NumpyArray, left: NumpyArray, right: NumpyArray) -> _Result:
    """`W / (u^T W v)` of the reshaped kernel, with the vectors that were stored (Miyato 2018).

    The rows of the matrix are the first axis, the second of a transposed convolution. Where the sizes leave
    both open, the vectors decide: those of the other matrix are no singular vectors.
    """
    if left.ndim != 1 or right.ndim != 1 or weight.ndim < 2 or left.size * right.size != weight.size:
        return None, ""
    weight, left, right = map(_wide, (weight, left, right))
    scales = {
        axis: float(left @ np.moveaxis(weight, axis, 0).reshape(left.size, -1) @ right)
        for axis in (0, 1)
        if weight.shape[axis] == left.size
    }
    if not scales:
        return None, ""
    axis = max(scales, key=lambda one: abs(scales[one]))
    with np.errstate(divide="ignore", invalid="ignore"):
        normed = np.asarray(weight / weight.dtype.type(scales[axis]))
    return normed, f" to the matrix whose rows are axis {axis}" if len(scales) > 1 and weight.ndim > 2 else ""


def _pruned(weight: NumpyArray, mask: NumpyArray) -> _Result:
    return (weight * mask, "") if weight.shape == mask.shape else (None, "")


def _wide(array: NumpyArray) -> NumpyArray:
    """In float32 at least: squares of half precision overflow."""
    return array.astype(np.promote_types(array.dtype, np.float32), copy=False)


_FORMULAS: dict[frozenset[str], tuple[Callable[[Mapping[str, NumpyArray]], _Result], str]] = {
    frozenset({"v", "g"}): (lambda part: _weight_norm(part["v"], part["g"]), "weight norm applied"),
    frozenset({"original0", "original1"}): (
        lambda part: _weight_norm(part["original1"], part["original0"]),
        "weight norm applied",
    ),
    frozenset({"orig", "u", "v"}): (
        lambda part: _spectral_norm(part["orig"], part["u"], part["v"]),
        "spectral norm applied",
    ),
    frozenset({"original", "0._u", "0._v"}): (
        lambda part: _spectral_norm(part["original"], part["0._u"], part["0._v"]),
        "spectral norm applied",
    ),
    frozenset({"orig", "mask"}): (lambda part: _pruned(part["orig"], part["mask"]), "pruning applied"),
}
