"""Bare named tensors, as state dicts hold them: which are kernels, and what nobody says of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..geometry import ConvGeometry
from .names import Names
from .records import ConvLayer
from .writers import NotWritableError

NumpyArray = np.ndarray[Any, Any]

NO_SIZE = "input size unknown: give --input-shape, --geometry FILE or --model"
ASSUMED = ("input_shape", "stride", "dilation", "groups", "transposed", "padding", "padding_mode")
BATCH_NORM_NOTE = (
    "a state dict does not say which batch norm follows which convolution; to fold them give --model"
)

_WRAPPERS = ("module.", "_orig_mod.")
_NORM_PARTS = ("running_mean", "running_var", "num_batches_tracked")


def layers_of(
    tensors: Mapping[str, NumpyArray], input_shape: tuple[int, ...] | None
) -> tuple[list[ConvLayer], dict[str, int], list[str]]:
    """The convolutions and linear layers among named tensors; what else there is; notes.

    A tensor called `weight` of rank 3 to 5 is a convolution in PyTorch's layout, of rank 2 a linear
    layer unless its name says that it is an embedding. Weight norm and spectral norm are applied
    as PyTorch applies them at inference. Stride, padding and sizes are not in there: with
    `input_shape` (channels, sizes) they are assumed to be stride 1 and `same` zero padding at that
    size, and marked; without it a layer has no geometry. A kernel with one input channel is
    taken for a depthwise one, unless the input itself has one channel.
    """
    other: Counter[str] = Counter()
    notes: list[str] = []
    layers: list[ConvLayer] = []
    names = Names()
    plain = {without_wrappers(name): array for name, array in tensors.items()}
    for name, array, note in _effective(plain):
        layer_name, _, last = name.rpartition(".")
        is_embedding = "emb" in layer_name.lower()
        if last != "weight" or not 2 <= array.ndim <= 5 or (array.ndim == 2 and is_embedding):
            other[_kind_of(name, array)] += 1
            continue
        if note:
            notes.append(f"{layer_name!r}: {note}")
        layers.append(_layer(names.unique(layer_name or name), array, input_shape))
    if other["batch norm"]:
        notes.append(BATCH_NORM_NOTE)
    return layers, dict(other), notes


def assumed_geometry(
    kernel_shape: tuple[int, ...], input_shape: tuple[int, ...] | None
) -> tuple[ConvGeometry | None, str]:
    """The geometry assumed for a kernel in PyTorch's layout, or None and why there is none."""
    if input_shape is None:
        return None, NO_SIZE
    axes = len(kernel_shape) - 2
    if len(input_shape) != axes + 1:
        return None, (
            f"the input shape {input_shape} has {len(input_shape) - 1} spatial axes and this kernel {axes}: "
            "give --geometry FILE or --model"
        )
    depthwise = kernel_shape[1] == 1 and input_shape[0] != 1
    groups = kernel_shape[0] if depthwise else 1
    return ConvGeometry(input_shape[1:], groups=groups, padding="same"), ""


def _layer(name: str, array: NumpyArray, input_shape: tuple[int, ...] | None) -> ConvLayer:
    if array.ndim == 2:
        return linear(name, array, "shape of the weight")
    geometry, reason = assumed_geometry(array.shape, input_shape)
    return ConvLayer(
        name=name,
        kind=f"conv{array.ndim - 2}d",
        kernel=array,
        layout="OI" + "DHW"[-(array.ndim - 2) :],
        geometry=geometry,
        assumed=ASSUMED,
        source="assumed" if geometry else "",
        reason=reason,
    )


def linear(name: str, matrix: NumpyArray, source: str) -> ConvLayer:
    """A linear layer of shape (out, in) as a 1x1 convolution on one point."""
    return ConvLayer(
        name, "linear", matrix[..., None], layout="OIW", geometry=ConvGeometry((1,)), source=source
    )


def without_wrappers(name: str) -> str:
    """A tensor's name without the prefixes that only wrappers of a module add."""
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name


def _effective(tensors: Mapping[str, NumpyArray]) -> Iterator[tuple[str, NumpyArray, str]]:
    """Tensors as (name, array, note), the weights of parametrised layers worked out."""
    used: set[str] = set()
    solved: dict[str, tuple[str, NumpyArray, str]] = {}
    for name in tensors:
        for suffixes, combine, note in _PARAMETRISED:
            base = name.removesuffix(suffixes[0])
            parts = [base + suffix for suffix in suffixes]
            if name.endswith(suffixes[0]) and all(part in tensors for part in parts):
                weight = combine(*(tensors[part] for part in parts))
                if weight is not None:
                    used.update(parts)
                    solved[name] = (base + "weight", weight, note)
    for name, array in tensors.items():
        if name in solved:
            yield solved[name]
        elif name not in used:
            yield name, array, ""


def _weight_norm(direction: NumpyArray, length: NumpyArray) -> NumpyArray | None:
    """`g v / ||v||`, the norm over the axes that g does not have (Salimans and Kingma 2016)."""
    if direction.ndim != length.ndim or direction.ndim < 2:
        return None
    axes = tuple(axis for axis, size in enumerate(length.shape) if size == 1)
    return np.asarray(length * direction / np.sqrt((direction**2).sum(axis=axes, keepdims=True)))


def _spectral_norm(weight: NumpyArray, left: NumpyArray, right: NumpyArray) -> NumpyArray | None:
    """`W / (u^T W v)` of the reshaped kernel, with the vectors that were stored (Miyato 2018)."""
    if left.ndim != 1 or right.ndim != 1 or left.size * right.size != weight.size:
        return None
    first = 0 if weight.shape[0] == left.size else 1
    matrix = np.moveaxis(weight, first, 0).reshape(left.size, -1)
    return np.asarray(weight / (left @ matrix @ right))


_PARAMETRISED = (
    (("weight_v", "weight_g"), _weight_norm, "weight norm applied"),
    (
        ("parametrizations.weight.original1", "parametrizations.weight.original0"),
        _weight_norm,
        "weight norm applied",
    ),
    (("weight_orig", "weight_u", "weight_v"), _spectral_norm, "spectral norm applied"),
    (
        (
            "parametrizations.weight.original",
            "parametrizations.weight.0._u",
            "parametrizations.weight.0._v",
        ),
        _spectral_norm,
        "spectral norm applied",
    ),
)


def _kind_of(name: str, array: NumpyArray) -> str:
    layer, _, last = name.rpartition(".")
    if last in _NORM_PARTS:
        return "batch norm"
    if last == "bias":
        return "bias"
    if "emb" in layer.lower():
        return "embedding"
    return "scale" if last == "weight" and array.ndim == 1 else "other tensor"


def kernel_tensor(layer: str, tensors: Mapping[str, Any]) -> str:
    """The tensor that is the kernel of a layer, by the layer's name; wrappers' prefixes do not count.

    A traced layer that runs at several sizes has the size behind an `@` in its name.

    Raises:
        NotWritableError: there is none.
    """
    plain = {without_wrappers(name): name for name in tensors}
    for base in (layer, layer.partition("@")[0]):
        for name in (f"{base}.weight", base):
            if name in plain:
                return plain[name]
    parts = [name for name in plain if name.startswith(f"{layer}.") and not name.endswith(".bias")]
    made_of = f" from {' and '.join(map(repr, sorted(parts)))}" if 0 < len(parts) <= 4 else ""
    raise NotWritableError(f"the file holds no tensor '{layer}.weight': the kernel is computed{made_of}")
