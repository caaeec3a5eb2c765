"""What is known of the layers of a model: everything that a renderer prints or draws."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ..geometry import Pads
from ..models.records import Unread
from ..results import Bound, Spectrum
from ..sampled import Sampling
from ..work import Bounds
from .ranges import Ranges, ranges_of

LayerStatus = Literal["ok", "partial", "out of range", "skipped", "failed"]

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class TorusSummary:
    """The spectrum of the circular version of a layer, in numbers.

    Attributes:
        norm: the largest singular value.
        smallest: the smallest, without `structural_zeros`.
        condition_number: infinite where `smallest` is 0, or where it leaves the range of floats.
        count: of all singular values, exact.
        rank: as `Spectrum.rank`.
        effective_rank: as `Spectrum.effective_rank`.
        stable_rank: as `Spectrum.stable_rank`.
        nuclear_norm: the sum; infinite where it leaves the range of floats.
        quantiles: values by their levels, which are `QUANTILES`.
        error: of each singular value, absolute; both in descending order.
        structural_zeros: how many of them are 0 because no tap reads the input there; as in `Spectrum`.
        sampled: whether the numbers are estimates from some frequencies; else they are exact up to rounding.
        ranges: proven intervals, by name, of the numbers that are estimates: all but `count`,
            `structural_zeros` and `quantiles` (which are off by at most `error`) where the spectrum is
            sampled, else those that rounding makes uncertain.
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
    error: float
    structural_zeros: int = 0
    sampled: bool = False
    ranges: Ranges = field(default_factory=dict)


@dataclass(frozen=True)
class LayerReport:
    """What is known of one layer. Everything a renderer prints or draws comes from here.

    Attributes:
        name: as in `ConvLayer`.
        kind: as in `ConvLayer`.
        kernel_shape: in `layout`.
        layout: the kernel's axes.
        status: `ok`; `partial` (some number is missing: `reason` says which and why); `skipped`
            (no geometry, or more work than is allowed: only `any_size` may be there); `out of range`
            (some number is beyond the range of the precision); `failed` (the kernel cannot be analysed).
        reason: why something is missing; else empty.
        assumed: as in `ConvLayer`.
        source: as in `ConvLayer`.
        input_shape: spatial, of the layer itself; None where unknown, as are all of the geometry's.
        stride: one an axis.
        dilation: one an axis.
        groups: of channels.
        transposed: whether it is a transposed layer.
        padding: before and after each axis.
        padding_mode: as in `ConvGeometry`.
        batch_norm: whether one follows, and whether it was taken into the kernel.
        torus: None where the circular operator has no symbol (stride does not divide the input).
        as_padded: what is known of the norm of the layer with its own padding, whatever that is; None where
            it cannot be (reflection of a single point).
        any_size: interval for the largest norm over all input sizes; None for reflect and replicate
            padding, for which nothing is proven here.
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
    as_padded: Bound | None = None
    any_size: Bound | None = None
    spectrum: Spectrum | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Report:
    """The analysis of one model.

    Attributes:
        model: its name, as in `Model`.
        path: as in `Model`.
        sha256: as in `Model`.
        format: as in `Model`.
        dtype: the precision of the computation, `float32` or `float64`, or `kernel` for that of
            each kernel.
        fold_batch_norm: whether batch norms were taken into the kernels.
        version: of convspectra.
        layers: in the model's order.
        other: as in `Model`.
        notes: as in `Model`.
        unread: as in `Model`.
        bounds: `none`, `fast` or `tight`, as for `analyze`.
        spectrum: `exact`, `sampled` or `auto`, as for `analyze`; `TorusSummary.sampled` is what was done.
        left_out: how many layers of the model were not asked for.
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
    unread: tuple[Unread, ...] = ()
    bounds: Bounds = "fast"
    spectrum: Sampling = "auto"
    left_out: int = 0

    @property
    def complete(self) -> bool:
        """Whether there were layers, all of them were analysed, and nothing else may be one."""
        return bool(self.layers) and not self.unread and all(layer.status == "ok" for layer in self.layers)


def summarize(spectrum: Spectrum, squares: float | None = None) -> TorusSummary:
    """The numbers of a spectrum as Python floats, sums taken in float64.

    `squares`: the sum of the squares of all values, where it is known without them.
    """
    wide = replace(spectrum, values=spectrum.values.astype(np.float64))
    quantiles = wide.quantiles(QUANTILES)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        return _summary(spectrum, wide, quantiles, squares)


def _summary(
    spectrum: Spectrum, wide: Spectrum, quantiles: np.ndarray[Any, Any], squares: float | None
) -> TorusSummary:
    norm = float(wide.norm)
    norms = spectrum.norm_interval or (max(norm - float(spectrum.error), 0.0), norm + float(spectrum.error))
    stable_rank, condition_number = float(wide.stable_rank), float(wide.condition_number)
    if spectrum.sampled:
        norm = norms[0]
        condition_number = norm / float(wide.smallest) if wide.smallest > 0 else math.inf
        if squares is not None and norm > 0:
            stable_rank = squares / norm**2
    return TorusSummary(
        norm=norm,
        smallest=float(wide.smallest),
        condition_number=condition_number,
        count=wide.count,
        rank=spectrum.rank(),
        effective_rank=float(wide.effective_rank),
        stable_rank=stable_rank,
        nuclear_norm=float(wide.nuclear_norm),
        quantiles=dict(zip(QUANTILES, map(float, quantiles), strict=True)),
        error=float(spectrum.error),
        structural_zeros=spectrum.structural_zeros,
        sampled=spectrum.sampled,
        ranges=ranges_of(wide, norms, squares),
    )
