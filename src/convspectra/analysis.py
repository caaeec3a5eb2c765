"""From the convolutions of a model to a report: the numbers of every layer, computed once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from . import bounds
from ._solvers.pool import DEFAULT_MEMORY, available_cores
from .errors import GeometryError, InputError, KernelError
from .geometry import ConvGeometry, Pads
from .models.records import ConvLayer, Model
from .results import Bound, Spectrum

LayerStatus = Literal["ok", "partial", "skipped", "failed"]

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class TorusSummary:
    """The exact spectrum of the circular version of a layer, in numbers.

    `condition_number` is infinite where `smallest` is 0. `quantiles` maps levels to values.
    """

    norm: float
    smallest: float
    condition_number: float
    count: int
    rank: int
    effective_rank: float
    stable_rank: float
    nuclear_norm: float
    quantiles: Mapping[float, float]


@dataclass(frozen=True)
class LayerReport:
    """What is known of one layer. Everything a renderer prints or draws comes from here.

    Attributes:
        status: `ok`; `partial` (some number is missing: `reason` says which and why); `skipped`
            (no geometry: only `any_size` may be there); `failed` (the kernel cannot be analysed).
        input_shape, stride, dilation, padding: spatial, of the layer itself; None where unknown.
        torus: None where the circular operator has no symbol (stride does not divide the input).
        zero_padding: interval for the layer with its zero or no padding, None where it pads otherwise.
        any_size: interval for the largest norm over all input sizes.
        spectrum: the values behind `torus` (NumPy).
    """

    name: str
    kind: str
    kernel_shape: tuple[int, ...]
    layout: str
    status: LayerStatus
    reason: str = ""
    assumed: tuple[str, ...] = ()
    source: str = ""
    input_shape: tuple[int, ...] | None = None
    stride: tuple[int, ...] | None = None
    dilation: tuple[int, ...] | None = None
    groups: int | None = None
    transposed: bool = False
    padding: Pads | None = None
    padding_mode: str | None = None
    batch_norm: Literal["none", "separate", "folded"] = "none"
    torus: TorusSummary | None = None
    zero_padding: Bound | None = None
    any_size: Bound | None = None
    spectrum: Spectrum | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Report:
    """The analysis of one model.

    Attributes:
        model, path, sha256, format, other, notes: as in `Model`.
        dtype: the precision of the computation, `float32` or `float64`, or `kernel` for that of
            each kernel.
        version: of convspectra.
    """

    model: str
    path: str | None
    sha256: str | None
    format: str
    dtype: str
    fold_batch_norm: bool
    version: str
    layers: tuple[LayerReport, ...]
    other: Mapping[str, int]
    notes: tuple[str, ...]


Progress = Callable[[int, int, str], None]
"""Called with (layers done, layers in all, name of the layer just finished)."""


def analyze(
    model: Model,
    *,
    dtype: Literal["kernel", "float32", "float64"] = "kernel",
    fold_batch_norm: bool = False,
    executor: Executor | None = None,
    memory: int = DEFAULT_MEMORY,
    progress: Progress | None = None,
) -> Report:
    """Spectrum and bounds of every layer of a model. (filled in soon)"""
    raise NotImplementedError
