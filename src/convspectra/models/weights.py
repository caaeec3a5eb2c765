"""Bare named tensors, as state dicts hold them: which are kernels, and which fields must be assumed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from ..geometry import ConvGeometry
from .formats.pytorch.parametrized import Parameter, parameters, parts_of
from .names import Names
from .records import ConvLayer, Model, Unread
from .writers import NotWritableError

NumpyArray = np.ndarray[Any, Any]
Convention = Literal["pytorch", "mlx", "unstated"]
"""Whose layout the kernels called `weight` have, if the file says so: OIHW, OHWI, or OIHW assumed."""

NO_SIZE = "input size unknown: give sample_shape, geometry= or module="
ASSUMED = ("input_shape", "stride", "dilation", "groups", "transposed", "padding", "padding_mode")
BATCH_NORM_NOTE = (
    "a state dict does not say which batch norm follows which convolution; to fold them give module="
)
NO_KERNEL_NAME = (
    "its shape is that of a kernel, its name not: if it is one, name it in geometry=, with its layout"
)
NO_MATRIX_NAME = "a matrix that is not called the weight of a layer: module='package.module:factory' may tell"
NO_AXES = "called a weight, with more axes than a convolution's kernel has"

_WRAPPERS = ("module.", "_orig_mod.")
_NORM_PARTS = ("running_mean", "running_var", "num_batches_tracked")
# In the last part of their names, what tensors say that are no kernels; see `is_no_kernel`.
NO_KERNEL = re.compile(
    r"[^./]*(bias|emb|position|pos_|token|gamma|beta|scale|mean|var(iance)?$|std|anchor|mask)[^./]*$", re.I
)
# What quantising libraries call the integers of a weight, scales beside them.
_QUANTISED = re.compile(r"^(qweight|weight_(packed|quantized|q|int\d))$")
# The two factors of a low-rank adapter.
_ADAPTER = re.compile(r"(^|[._])lora_(embedding_)?([AB]|up|down)([._]|$)", re.I)
# Matrices of recurrent layers and of attention, which have no module of their own in PyTorch.
_MATRIX = re.compile(r"^weight_([ih]h|hr)|\w_(w|weight|kernel)$")
# Projections of attention are called kernels in flax and Keras: (features, heads, features of a head).
ATTENTION = re.compile(r"(^|[./_])(query|key|value|qkv|out|attention\w*|attn\w*|einsum\w*)[./_]kernel$", re.I)


def model_of(
    tensors: Mapping[str, NumpyArray],
    sample_shape: tuple[int, ...] | None,
    *,
    convention: Convention,
    unread: Iterable[Unread] = (),
    other: Mapping[str, int] | None = None,
    **facts: Any,
) -> Model:
    """The convolutions and linear layers among named tensors; what else there is; what may be one.

    A float tensor called `weight` of rank 3 to 5 is a convolution in the layout of the convention, one called
    `kernel` in that of flax, taps first; of rank 2 it is a linear layer unless its name says that it is an
    embedding. Weight norm, spectral norm and pruning are applied as PyTorch applies them at inference. Other
    float tensors of rank 3 to 5 are candidates, listed as unread. Stride, padding and sizes are not in
    there: with `sample_shape` (channels, sizes) they are assumed to be stride 1 and `same` zero padding at
    that size, and marked; without it a layer has no geometry. A kernel with one input channel is
    taken for a depthwise one, unless the input itself has one channel.

    Arguments:
        tensors: by name, without the prefixes that wrappers add.
        unread, other: what the reader has left out already.
        facts: the other fields of `Model`.
    """
    counts: Counter[str] = Counter(other or {})
    notes, left = [], list(unread)
    layers: list[ConvLayer] = []
    candidates: list[ConvLayer] = []
    names = Names()
    for found in parameters(tensors):
        if isinstance(found, Unread):
            left.append(found)
            continue
        base, _, last = found.name.rpartition(".")
        rank, real = found.array.ndim, np.issubdtype(found.array.dtype, np.floating)
        shape = tuple(int(size) for size in found.array.shape)
        named = last in ("weight", "kernel") and 2 <= rank <= 5 and not _is_embedding(found, tensors)
        if named and real and not (rank == 3 and ATTENTION.search(found.name)):
            if found.note:
                notes.append(f"{base!r}: {found.note}")
            layer_name = names.unique(base or found.name)
            layers.append(_layer(layer_name, found.array, last, convention, sample_shape))
        elif (named or _QUANTISED.search(last)) and not real and rank >= 2:
            left.append(
                Unread(found.name, shape, f"stored as {found.array.dtype}: what scales it is not stated")
            )
        elif real and rank > 5 and last in ("weight", "kernel"):
            left.append(Unread(found.name, shape, NO_AXES))
        elif real and rank == 2 and _MATRIX.search(last):
            left.append(Unread(found.name, shape, NO_MATRIX_NAME))
        elif real and 3 <= rank <= 5 and (named or not is_no_kernel(found.name, shape)):
            left.append(Unread(found.name, shape, NO_KERNEL_NAME))
            layout = layout_of(rank, convention if last != "kernel" else "unstated")
            candidates.append(
                convolution(found.name, found.array, layout, sample_shape, assumed=("kind", "layout"))
            )
        else:
            counts[_kind_of(found.name, found.array)] += 1
    notes.extend(_of_adapters(layers))
    if counts["batch norm"]:
        notes.append(BATCH_NORM_NOTE)
    notes.extend(_other_layout(layers))
    notes.extend(_other_channels(layers, sample_shape))
    return Model(
        layers=tuple(layers),
        other={kind: count for kind, count in counts.items() if count},
        notes=tuple(notes),
        unread=tuple(left),
        candidates=tuple(candidates),
        **facts,
    )


def _of_adapters(layers: Sequence[ConvLayer]) -> Iterator[str]:
    """What to know of low-rank adapters, whose two factors have names of their own."""
    names = [layer.name for layer in layers if _ADAPTER.search(layer.name)]
    if names:
        shown = ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if names[3:] else "")
        yield (
            f"parts of low-rank adapters (LoRA), each analysed by itself: {shown}; the network adds the "
            "product of two of them, scaled, to another weight: merge them for the norms of its layers"
        )


def layout_of(rank: int, convention: Convention) -> str:
    """The axes of a convolution's kernel by the convention."""
    taps = "DHW"[-(rank - 2) :]
    return f"O{taps}I" if convention == "mlx" else f"OI{taps}"


def convolution(
    name: str,
    kernel: NumpyArray,
    layout: str,
    sample_shape: tuple[int, ...] | None,
    *,
    assumed: tuple[str, ...] = (),
    groups: int | None = None,
    depthwise: bool = True,
) -> ConvLayer:
    """A convolution of which only the kernel is known; everything else is assumed, and marked.

    Arguments:
        sample_shape: channels and sizes of its input; None for no geometry.
        assumed: what is assumed besides the geometry.
        groups: where they are known.
        depthwise: whether one input channel means a group for each channel, where the input has more.
    """
    axes = kernel.ndim - 2
    into, out = (int(kernel.shape[layout.index(axis)]) for axis in "IO")
    geometry, reason = None, NO_SIZE
    if sample_shape is not None and len(sample_shape) != axes + 1:
        reason = (
            f"the sample shape {sample_shape} has {len(sample_shape) - 1} spatial axes and this kernel "
            f"{axes}: leave out the batch, if it is in there, or give geometry= or module="
        )
    elif sample_shape is not None:
        count = groups or (out if depthwise and into == 1 and sample_shape[0] != 1 else 1)
        geometry, reason = ConvGeometry(sample_shape[1:], groups=count, padding="same", layout=layout), ""
    return ConvLayer(
        name=name,
        kind=f"conv{axes}d",
        kernel=kernel,
        layout=layout,
        geometry=geometry,
        assumed=(*(field for field in ASSUMED if field != "groups" or groups is None), *assumed),
        source="assumed" if geometry else "",
        reason=reason,
    )


def stated_convolution(
    name: str,
    kernel: NumpyArray,
    transposed: bool,
    geometry: ConvGeometry | None,
    source: str,
    reason: str = "",
) -> ConvLayer:
    """A convolution as graphs and modules have it, its kernel with the taps behind."""
    axes = kernel.ndim - 2
    return ConvLayer(
        name=name,
        kind=f"conv{'_transpose' if transposed else ''}{axes}d",
        kernel=kernel,
        layout=("IO" if transposed else "OI") + "DHW"[-axes:],
        geometry=geometry,
        source=source,
        reason=reason,
    )


def linear(name: str, matrix: NumpyArray, source: str, layout: str = "OIW") -> ConvLayer:
    """A linear layer of shape (out, in), or (in, out), as a 1x1 convolution on one point."""
    geometry = ConvGeometry((1,), layout=layout)
    return ConvLayer(name, "linear", matrix[..., None], layout=layout, geometry=geometry, source=source)


def _layer(
    name: str,
    array: NumpyArray,
    last: str,
    convention: Convention,
    sample_shape: tuple[int, ...] | None,
) -> ConvLayer:
    flax = last == "kernel"
    if array.ndim == 2:
        return linear(name, array, "shape of the weight", "IOW" if flax else "OIW")
    layout = f"{'DHW'[-(array.ndim - 2) :]}IO" if flax else layout_of(array.ndim, convention)
    unstated = flax or convention == "unstated"
    return convolution(name, array, layout, sample_shape, assumed=("layout",) if unstated else ())


def _other_layout(layers: Iterable[ConvLayer]) -> list[str]:
    """A note where kernels would have as many taps on each axis only in another layout than is assumed."""
    odd = [
        layer.name
        for layer in layers
        if "layout" in layer.assumed
        and layer.layout == "OIHW"
        and layer.kernel.shape[2] != layer.kernel.shape[3]
        and layer.kernel.shape[1] == layer.kernel.shape[2]
    ]
    if not odd:
        return []
    return [
        f"{odd[0]!r}{f' and {len(odd) - 1} more' if odd[1:] else ''}: with the layout OHWI, that of MLX, the "
        'taps would be square; if it is that, give layout = "OHWI" in geometry='
    ]


def _other_channels(layers: Iterable[ConvLayer], sample_shape: tuple[int, ...] | None) -> list[str]:
    """A note where no layer takes the channels of the input, or its last size seems to be the channels."""
    placed = [
        (layer, int(layer.kernel.shape[layer.layout.index("I")]) * layer.geometry.groups)
        for layer in layers
        if layer.kind != "linear" and layer.geometry is not None
    ]
    if sample_shape is None or not placed:
        return []
    channels, *sizes = sample_shape
    last = sizes[-1]
    taken = {count for _, count in placed}
    channels_last = last in taken and last < min(sample_shape[:-1])
    if channels in taken and not channels_last:
        return []
    first = placed[0][0]
    return [
        f"sample_shape={sample_shape} is read as channels {channels}, sizes {'x'.join(map(str, sizes))}: "
        f"channels come first, without the batch; the kernel of {first.name!r} is "
        f"{'x'.join(map(str, first.kernel.shape))} ({first.layout})"
    ]


def without_wrappers(name: str) -> str:
    """A tensor's name without the prefixes that only wrappers of a module add."""
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Names without wrappers' prefixes -> names; where two would then be one they keep theirs."""
    given = list(names)
    taken = Counter(map(without_wrappers, given))
    return {short if taken[short := without_wrappers(name)] == 1 else name: name for name in given}


def is_no_kernel(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is called a position, mask or scale, and is not shaped like taps between channels."""
    return bool(NO_KERNEL.search(name)) and sum(size > 1 for size in shape) < 4


def _is_embedding(found: Parameter, tensors: Mapping[str, NumpyArray]) -> bool:
    """Whether a matrix is called an embedding; a linear layer of such a name mostly has a bias."""
    base = found.name.rpartition(".")[0]
    return found.array.ndim == 2 and "emb" in base.lower() and f"{base}.bias" not in tensors


def _kind_of(name: str, array: NumpyArray) -> str:
    layer, _, last = name.rpartition(".")
    if last in _NORM_PARTS:
        return "batch norm"
    if last == "bias":
        return "bias"
    if "emb" in layer.lower():
        return "embedding"
    return "scale" if last in ("weight", "scale") and array.ndim == 1 else "other tensor"


def kernel_tensor(layer: str, tensors: Mapping[str, str]) -> str:
    """The tensor that is the kernel of a layer, by the layer's name.

    A traced layer that runs at several sizes has the size behind an `@` in its name.

    Arguments:
        tensors: as `plain_names` gives them.

    Raises:
        NotWritableError: there is none, or the module computes its weight from others.
    """
    computed = parts_of(tensors)
    for base in (layer, layer.partition("@")[0]):
        for name in (f"{base}.weight", f"{base}.kernel", base):
            if name in computed:
                made_of = " and ".join(repr(tensors[part]) for part in sorted(computed[name].values()))
                raise NotWritableError(f"its kernel is computed from {made_of}")
            if name in tensors:
                return tensors[name]
    raise NotWritableError(f"the file holds no tensor '{layer}.weight'")
