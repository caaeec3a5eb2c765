"""What a reader brings back: the convolutions of a model, and what else was in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..geometry import ConvGeometry


@dataclass(frozen=True)
class ConvLayer:
    """One convolution, or one linear layer seen as a 1x1 convolution on one point.

    Attributes:
        name: as the file names it, without prefixes that only wrappers add (`module.`).
        kind: `conv1d`, `conv2d`, `conv3d`, `conv_transpose1d`, ..., or `linear`.
        kernel: as stored, axes as `geometry.layout` says (or `layout`, while there is no geometry).
        layout: the kernel's axes.
        geometry: None where the input size is unknown; `reason` then says how to give it.
        assumed: the fields of the geometry that the file does not state, such as `("stride",
            "padding", "input_shape")`; empty when everything is known.
        batch_norm_scale: `gamma / sqrt(var + eps)` of a batch norm that follows, shape (C_out,),
            or None.
        source: where the geometry comes from: the graph, a geometry file, a traced module.
        reason: why there is no geometry, else empty.
    """

    name: str
    kind: str
    kernel: np.ndarray[Any, Any]
    layout: str
    geometry: ConvGeometry | None
    assumed: tuple[str, ...] = ()
    batch_norm_scale: np.ndarray[Any, Any] | None = None
    source: str = ""
    reason: str = ""


def with_geometry_of(layer: ConvLayer, other: ConvLayer, source: str) -> ConvLayer:
    """The layer as another one with a kernel of its shape runs; `source` says whose geometry that is."""
    return replace(
        layer,
        kind=other.kind,
        layout=other.layout,
        geometry=other.geometry,
        assumed=other.assumed,
        source=source,
        reason="",
    )


@dataclass(frozen=True)
class Unread:
    """Something in a file that may hold a layer, and was not read.

    Attributes:
        name: as the file has it.
        shape: of the tensor, or None where there is no single one.
        reason: why, and what is missing.
    """

    name: str
    shape: tuple[int, ...] | None
    reason: str


@dataclass(frozen=True)
class Model:
    """Everything a reader found in one model.

    Attributes:
        name: what reports call it.
        format: `onnx`, `safetensors`, `pytorch`, `torch.export`, `module` or `tensorflow`.
        layers: in the order in which data meets them where the file tells, else the file's order.
        path: the file, or None for a live module.
        sha256: of the file's bytes, hexadecimal; None for a live module.
        other: operators or tensors that are no convolution, counted by type.
        notes: sentences for the user: what was taken from a neighbour, or looks odd.
        unread: what may be a layer and was not read; with any of these the analysis is incomplete.
        candidates: layers that are such only if a geometry file says so; each is also among `unread`, by
            its name.
    """

    name: str
    format: str
    layers: tuple[ConvLayer, ...]
    path: Path | None = None
    sha256: str | None = None
    other: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unread: tuple[Unread, ...] = ()
    candidates: tuple[ConvLayer, ...] = ()
