"""Which nodes of an exported program are layers, and what is known of each by itself."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from ....errors import GeometryError
from ....geometry import ConvGeometry
from ...graph_builder import Builder
from ...operations import Array, StoredLayer, complete
from ...records import ConvLayer, Unread
from ...weights import linear, stated_convolution
from .program import tensors_in

CONVOLUTIONS = ("convolution", *(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)))

_MAY_BE_LAYERS = re.compile(
    r"conv|mm$|matmul|mv$|mm_|addbmm|linear|einsum|tensordot|bilinear|lstm|gru|rnn|multi_head|encoder_layer"
)


def spread(values: Any, axes: int) -> tuple[int, ...]:
    """One value an axis: PyTorch keeps a list of one for all."""
    listed = tuple(values) if isinstance(values, (list, tuple)) else (values,)
    return listed * axes if len(listed) == 1 else listed


def layer_of(word: str, found: dict[str, Any], builder: Builder, name: str) -> StoredLayer | Unread | None:
    """The layer that a node is; what is one and has weights that are computed; None for everything else."""
    if word in CONVOLUTIONS or word == "linear":
        weight, data = found["weight"], found["input"]
    elif word in ("matmul", "mm", "addmm"):
        first, second = ("mat1", "mat2") if word == "addmm" else ("self", "mat2" if word == "mm" else "other")
        weight, data = found[second], found[first]
        if builder.depends(data) == builder.depends(weight):
            return None
        if builder.depends(weight):
            weight, data = data, weight
    else:
        return _unread(word, found, builder, name)
    if builder.depends(weight):
        return Unread(f"{word} {name}", None, "its weights are computed at run time")
    kernel = builder.constants[weight]
    if word in CONVOLUTIONS:
        return StoredLayer(_convolution_layer(word, found, builder, name, kernel), weight)
    transposed = word != "linear" and data == found.get("self" if word != "addmm" else "mat1")
    if kernel.ndim == 1:
        kernel = kernel[:, None] if transposed else kernel[None, :]
    if kernel.ndim != 2:
        reason = f"its weights are of shape {kernel.shape}; a matrix is read"
        return Unread(f"{word} {name}", kernel.shape, reason)
    factor = found["alpha"] if word == "addmm" else 1
    kernel = kernel if factor == 1 else kernel.astype(np.float64) * float(factor)
    return StoredLayer(linear(name, kernel.T if transposed else kernel, "graph"), weight)


def _unread(word: str, found: dict[str, Any], builder: Builder, name: str) -> Unread | None:
    """What multiplies by weights, by its name, and is not read."""
    read = list(tensors_in(list(found.values())))
    fixed = [one for one in read if not builder.depends(one)]
    if not _MAY_BE_LAYERS.search(word) or len(fixed) == len(read):
        return None
    if not any(weights.ndim >= 2 for weights in map(builder.constants.__getitem__, fixed)):
        return None
    return Unread(f"{word} {name}", None, f"its weights are those of {word}, an operator that is not read")


def _convolution_layer(
    word: str, found: dict[str, Any], builder: Builder, name: str, kernel: Array
) -> ConvLayer:
    axes = kernel.ndim - 2
    transposed = bool(found.get("transposed", "transpose" in word))
    geometry, reason = None, ""
    size = builder.shapes.get(found["input"], ())[-axes:]
    padding = found["padding"]
    pads: Any = padding if isinstance(padding, str) else spread(padding, axes)
    try:
        if len(size) != axes or None in size:
            raise GeometryError(f"input size {size} is dynamic in the program: export it with fixed sizes")
        geometry = ConvGeometry(
            complete(size),
            stride=spread(found["stride"], axes),
            dilation=spread(found["dilation"], axes),
            groups=found["groups"],
            transposed=transposed,
            padding=pads,
            output_padding=spread(found.get("output_padding", 0), axes) if transposed else 0,
        )
    except GeometryError as error:
        reason = str(error)
    return stated_convolution(name, kernel, transposed, geometry, "graph", reason)
