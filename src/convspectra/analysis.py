"""From the convolutions of a model to a report: the numbers of every layer, computed once."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from . import bounds, checkpoint
from ._solvers.pool import available_cores, single_threaded_blas
from ._version import __version__
from .atomic import open_folder
from .bounds.auto import operator_norm_of
from .bounds.pfister2018 import pfister2018_of
from .bounds.tori import repeats_inputs
from .compute import DEFAULT, Compute
from .cost import MEMORY
from .errors import CostError, GeometryError, InputError, KernelError, RangeError
from .geometry import Pads
from .models.records import ConvLayer, Model, Unread
from .problem import Problem, homogeneous, problem_of
from .results import Bound, Spectrum
from .spectrum import spectrum_on
from .work import anywhere, beyond, work_for_any_size, work_of

LayerStatus = Literal["ok", "partial", "out of range", "skipped", "failed"]

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class TorusSummary:
    """The exact spectrum of the circular version of a layer, in numbers.

    `condition_number` is infinite where `smallest` is 0, or it leaves the range of floats, as `nuclear_norm`
    may. `quantiles` maps levels to values. `error` is that of each singular value, absolute.
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


@dataclass(frozen=True)
class LayerReport:
    """What is known of one layer. Everything a renderer prints or draws comes from here.

    Attributes:
        status: `ok`; `partial` (some number is missing: `reason` says which and why); `skipped`
            (no geometry, or more work than is allowed: only `any_size` may be there); `out of range`
            (some number is beyond the range of the precision); `failed` (the kernel cannot be analysed).
        input_shape, stride, dilation, padding: spatial, of the layer itself; None where unknown.
        torus: None where the circular operator has no symbol (stride does not divide the input).
        as_padded: what is known of the norm of the layer as it pads, whatever its padding; None where it
            cannot be (reflection of a single point).
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
        model, path, sha256, format, other, notes, unread: as in `Model`.
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
    unread: tuple[Unread, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether there were layers, all of them were analysed, and nothing else may be one."""
        return bool(self.layers) and not self.unread and all(layer.status == "ok" for layer in self.layers)


Progress = Callable[[float, str], None]
"""Called after each layer with the share of the work that is done, 0 to 1, and the layer's name."""

Precision = Literal["kernel", "float32", "float64"]


def analyze(
    model: Model,
    *,
    dtype: Precision = "float64",
    fold_batch_norm: bool = False,
    compute: Compute = DEFAULT,
    max_seconds: float | None = None,
    progress: Progress | None = None,
    resume: Path | None = None,
) -> Report:
    """Spectrum and bounds of every layer of a model.

    Arguments:
        model: what `models.read_model` returns.
        dtype: precision of the computation; `"kernel"` takes each kernel's own (at least float32).
        fold_batch_norm: scale the output channels of a convolution by the batch norm that follows
            it, where the reader found one: the two together are one convolution at inference.
        compute: how, over all layers together; see `Compute`. Default: a thread pool of this call's own.
        max_seconds: of one core, for the whole model, as estimated before anything is computed: layers
            beyond are `skipped`, the costliest first, and `reason` has the estimate. Default: 10, and 4 ms
            for each weight. A model of U-Net's size takes some minutes, so that the default leaves it whole;
            a file of a few bytes that asks for a map of millions of points is refused.
        progress: called from worker threads.
        resume: folder in which finished layers are kept, and from which those that are there are
            taken: an analysis that was stopped goes on where it was.

    Returns:
        `Report`, layers in the model's order. A layer whose kernel has NaN or infinite entries, or
        whose geometry contradicts its kernel, is `failed` and says so; the others are reported all
        the same.

    Raises:
        InputError: `resume` cannot be written to; `max_seconds` is no positive number.
        KeyboardInterrupt: it was; with `resume`, the message says how many layers are kept.
    """
    if resume is not None:
        open_folder(resume)
    number = isinstance(max_seconds, Real) and not isinstance(max_seconds, bool)
    if max_seconds is not None and not (number and max_seconds > 0):
        raise InputError(f"max_seconds must be a positive number; got {max_seconds!r}")
    costs = [work_of(layer) for layer in model.layers]
    refused = beyond(model.layers, costs, max_seconds)
    layers = [_prepared(layer, dtype, fold_batch_norm) for layer in model.layers]
    work = [0.0 if index in refused else cost.seconds for index, cost in enumerate(costs)]
    total, done, lock = sum(work) or 1.0, [0.0], threading.Lock()

    def report_layer(index: int) -> LayerReport:
        found = analyze_layer(
            layers[index],
            folded=fold_batch_norm,
            compute=shared,
            resume=resume,
            beyond=refused.get(index, ""),
        )
        with lock:
            done[0] += work[index]
            if progress is not None:
                progress(min(done[0] / total, 1.0), layers[index].name)
        return found

    # Two pools: these threads wait for a layer's blocks, which the other pool solves; so blocks of
    # several layers are in flight together, and a layer of many blocks still gets every core.
    solvers = compute.executor or ThreadPoolExecutor(available_cores())
    shared = replace(compute, executor=solvers)
    largest = max((cost.memory for index, cost in enumerate(costs) if index not in refused), default=1)
    together = max(1, min(available_cores(), int(MEMORY // largest)))
    waiting = ThreadPoolExecutor(together)
    with single_threaded_blas(), _telling_of_kept(layers, compute, resume):
        try:
            longest_first = sorted(range(len(layers)), key=lambda index: -work[index])
            futures = {index: waiting.submit(report_layer, index) for index in longest_first}
            reports = tuple(futures[index].result() for index in range(len(layers)))
        finally:
            # What has not started is dropped, and what runs is waited for: nothing goes on behind.
            waiting.shutdown(wait=False, cancel_futures=True)
            if compute.executor is None:
                solvers.shutdown(cancel_futures=True)
            waiting.shutdown()
    return Report(
        model=model.name,
        path=None if model.path is None else str(model.path),
        sha256=model.sha256,
        format=model.format,
        dtype=dtype,
        fold_batch_norm=fold_batch_norm,
        version=__version__,
        layers=reports,
        other=model.other,
        notes=model.notes,
        unread=model.unread,
    )


@contextmanager
def _telling_of_kept(layers: Sequence[ConvLayer], compute: Compute, resume: Path | None) -> Iterator[None]:
    """An interruption says how many layers need not be computed again."""
    try:
        yield
    except KeyboardInterrupt:
        if resume is None:
            raise
        kept = sum(
            checkpoint.path_of(resume, layer.kernel, layer.geometry, compute).exists()
            for layer in layers
            if layer.geometry is not None
        )
        raise KeyboardInterrupt(f"{kept} of {len(layers)} layers kept in {resume}") from None


def analyze_layer(
    layer: ConvLayer,
    *,
    folded: bool = False,
    compute: Compute = DEFAULT,
    resume: Path | None = None,
    beyond: str = "",
) -> LayerReport:
    """The report of one layer, its kernel taken as it is: `folded` only says what was done to it.

    `beyond` says why it is more work than is allowed; then only what is kept or cheap is in the report.
    """
    contradiction = _contradiction(layer)
    if contradiction:
        return replace(_facts(replace(layer, geometry=None), folded), status="failed", reason=contradiction)
    known = _facts(layer, folded)
    try:
        if layer.geometry is None:
            reason = "; ".join(filter(None, (known.reason, beyond)))
            any_size = None if beyond else _any_size_without_geometry(layer, compute)
            return replace(known, status="skipped", reason=reason, any_size=any_size)
        problem, measured = problem_of(layer.kernel, layer.geometry, compute), None
        if resume is not None:
            kept = checkpoint.path_of(resume, layer.kernel, layer.geometry, compute)
            measured = checkpoint.load(kept, problem)
        if measured is None and beyond:
            any_size = _cheap_any_size(layer, problem)
            return replace(known, status="skipped", reason=beyond, any_size=any_size)
        if measured is None:
            measured = _measure(problem)
            if resume is not None:
                checkpoint.save(kept, measured)
    except RangeError as error:
        return replace(known, status="out of range", reason=str(error))
    except (KernelError, GeometryError, CostError) as error:
        return replace(known, status="failed", reason=str(error))
    spectrum, as_padded, any_size, status, reason = measured
    return replace(
        known,
        status=cast(LayerStatus, status),
        reason=reason,
        torus=None if spectrum is None else summarize(spectrum),
        as_padded=as_padded,
        any_size=any_size,
        spectrum=spectrum,
    )


def _measure(problem: Problem) -> checkpoint.Measured:
    spectrum = as_padded = any_size = None
    errors: list[tuple[str, InputError]] = []
    try:  # first: the largest value on this torus need not be computed again
        spectrum = spectrum_on(problem, problem.wrapped)
        if not math.isfinite(summarize(spectrum).nuclear_norm):
            errors.append(("no nuclear norm", RangeError("the sum is beyond the range of float64")))
    except (GeometryError, CostError, RangeError) as error:
        errors.append(("no torus spectrum", error))
    if not repeats_inputs(problem.correlation):
        try:
            any_size = as_floats(homogeneous(pfister2018_of, problem))
        except (CostError, RangeError) as error:
            errors.append(("no bound for any size", error))
    try:
        as_padded = as_floats(homogeneous(operator_norm_of, problem))
        if any_size is not None and problem.correlation.padding_mode == "zeros":
            as_padded = _least_upper(as_padded, any_size)
    except (GeometryError, CostError, RangeError) as error:
        errors.append(("no bound as it pads", error))
    found = (spectrum, as_padded, any_size)
    status = "partial" if errors else "ok"
    if any(isinstance(error, RangeError) for _, error in errors):
        status = "out of range"
    elif all(one is None for one in found):
        status = "failed"
    return *found, status, "; ".join(f"{what}: {error}" for what, error in errors)


def _cheap_any_size(layer: ConvLayer, problem: Problem) -> Bound | None:
    """The bound for any size, where it takes no time to speak of and there is one."""
    with suppress(InputError):
        if work_for_any_size(layer.kernel.shape, problem.geometry).seconds < 1:
            return as_floats(homogeneous(pfister2018_of, problem))
    return None


def summarize(spectrum: Spectrum) -> TorusSummary:
    """The numbers of a spectrum as Python floats, sums taken in float64."""
    wide = replace(spectrum, values=spectrum.values.astype(np.float64))
    quantiles = wide.quantiles(QUANTILES)
    with np.errstate(over="ignore"):
        return _summary(spectrum, wide, quantiles)


def _summary(spectrum: Spectrum, wide: Spectrum, quantiles: np.ndarray[Any, Any]) -> TorusSummary:
    return TorusSummary(
        norm=float(wide.norm),
        smallest=float(wide.smallest),
        condition_number=float(wide.condition_number),
        count=wide.count,
        rank=spectrum.rank(),
        effective_rank=float(wide.effective_rank),
        stable_rank=float(wide.stable_rank),
        nuclear_norm=float(wide.nuclear_norm),
        quantiles=dict(zip(QUANTILES, map(float, quantiles), strict=True)),
        error=float(spectrum.error),
    )


def as_floats(bound: Bound) -> Bound:
    """The same bound with Python floats."""
    return replace(
        bound,
        lower=None if bound.lower is None else float(bound.lower),
        upper=None if bound.upper is None else float(bound.upper),
    )


def _least_upper(bound: Bound, any_size: Bound) -> Bound:
    """What holds at every size holds at this one."""
    upper = any_size.upper
    if bound.exact or any_size.exact or upper is None or bound.upper is None or bound.upper <= upper:
        return bound
    return replace(bound, upper=upper, method=f"{bound.method}, {any_size.method}")


def _any_size_without_geometry(layer: ConvLayer, compute: Compute) -> Bound:
    """An upper bound that holds whatever the sizes, stride, dilation and groups are.

    A strided operator consists of rows of the one with stride 1, dilation only stretches the
    frequency axis, a transposed layer is an adjoint, and with groups each group's rows act on inputs
    of their own: the operator of all rows stacked, with one group and stride 1, is no smaller.
    """
    bound = as_floats(bounds.pfister2018(layer.kernel, anywhere(layer), compute=compute))
    assumes = f"{bound.assumes}; any stride, dilation and groups"
    return replace(bound, lower=None, exact=False, assumes=assumes)


def _prepared(layer: ConvLayer, dtype: Precision, fold: bool) -> ConvLayer:
    kernel = layer.kernel
    if dtype != "kernel":
        kernel = kernel.astype(dtype, copy=False)
    if fold and layer.batch_norm_scale is not None and not _contradiction(layer):
        kernel = kernel * batch_norm_factor(layer).astype(kernel.dtype)
    return replace(layer, kernel=kernel)


def _contradiction(layer: ConvLayer) -> str:
    """What in a layer's geometry contradicts its kernel, else empty."""
    try:
        if layer.geometry is not None:
            layer.geometry.correlation(layer.kernel.shape)
    except GeometryError as error:
        return str(error)
    return ""


def batch_norm_factor(layer: ConvLayer) -> np.ndarray[Any, Any]:
    """What the batch norm behind a layer multiplies each kernel entry by; it broadcasts to the kernel."""
    scale = np.asarray(1.0 if layer.batch_norm_scale is None else layer.batch_norm_scale, dtype=np.float64)
    if layer.batch_norm_scale is None:
        return scale
    groups = 1 if layer.geometry is None else layer.geometry.groups
    out, into = layer.layout.index("O"), layer.layout.index("I")
    if layer.geometry is not None and layer.geometry.transposed:
        # The O axis holds the channels of one group, and the group is known from the I axis.
        per_group = scale.reshape(groups, layer.kernel.shape[out])
        factor = np.repeat(per_group, layer.kernel.shape[into] // groups, axis=0).T
    else:
        factor = scale[:, None]
    spatial = (1,) * (layer.kernel.ndim - 2)
    return np.moveaxis(factor.reshape(*factor.shape, *spatial), (0, 1), (out, into))


def _facts(layer: ConvLayer, folded: bool) -> LayerReport:
    """Everything of a layer that needs no computation."""
    scaled: Literal["none", "separate", "folded"] = "folded" if folded else "separate"
    facts = LayerReport(
        name=layer.name,
        kind=layer.kind,
        kernel_shape=tuple(int(size) for size in layer.kernel.shape),
        layout=layer.layout,
        status="ok",
        reason=layer.reason,
        assumed=layer.assumed,
        source=layer.source,
        batch_norm="none" if layer.batch_norm_scale is None else scaled,
    )
    if layer.geometry is None:
        return facts
    geometry = layer.geometry
    correlation = geometry.correlation(layer.kernel.shape)
    return replace(
        facts,
        layout=geometry.layout,
        input_shape=geometry.input_shape,
        stride=geometry.stride,
        dilation=geometry.dilation,
        groups=geometry.groups,
        transposed=geometry.transposed,
        padding=correlation.padding,
        padding_mode=geometry.padding_mode,
    )
