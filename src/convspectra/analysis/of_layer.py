"""The numbers of one layer, computed once for its `Problem`."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

import numpy as np

from .._solvers.pool import telling_of_pieces
from ..bounds.auto import operator_norm_of
from ..bounds.duffin1938 import duffin1938_of, is_large
from ..bounds.tori import repeats_inputs
from ..compute import DEFAULT, Compute
from ..errors import CostError, GeometryError, InputError, KernelError, RangeError
from ..models.records import ConvLayer
from ..problem import Problem, homogeneous, problem_of
from ..results import Bound, Spectrum
from ..spectrum import sampled_spectrum_on
from ..symbol import tap_copies
from ..work import ANY_SIZE_TESTS, ANY_SIZE_WIDTH, DEFAULT_EFFORT, Effort, anywhere, work_for_any_size
from . import checkpoint
from .reports import LayerReport, LayerStatus, summarize


def analyze_layer(
    layer: ConvLayer,
    *,
    folded: bool = False,
    effort: Effort = DEFAULT_EFFORT,
    compute: Compute = DEFAULT,
    resume: Path | None = None,
    beyond: str = "",
) -> LayerReport:
    """The report of one layer, its kernel taken as it is.

    Arguments:
        layer: as a reader found it.
        folded: whether a batch norm was taken into the kernel; the report says so.
        effort: which bounds, and of a large map how many frequencies; see `work.Effort`.
        compute: how; see `Compute`.
        resume: folder in which a finished layer is kept.
        beyond: why it is more work than is allowed; then only what is kept or cheap is in the report.

    Returns:
        `LayerReport`, whose `status` says what could not be had.
    """
    contradiction = contradiction_of(layer)
    if contradiction:
        return replace(_facts(replace(layer, geometry=None), folded), status="failed", reason=contradiction)
    known = _facts(layer, folded)
    try:
        if layer.geometry is None:
            reason = "; ".join(filter(None, (known.reason, beyond)))
            bounded = effort.bounds != "none" and not beyond
            any_size = _any_size_without_geometry(layer, compute) if bounded else None
            return replace(known, status="skipped", reason=reason, any_size=any_size)
        problem, measured = problem_of(layer.kernel, layer.geometry, compute), None
        if resume is not None:
            kept = checkpoint.path_of(resume, layer.kernel, layer.geometry, compute, effort)
            measured = checkpoint.load(kept, problem, effort)
        if measured is None and beyond:
            any_size = None if effort.bounds == "none" else _cheap_any_size(layer, problem)
            return replace(known, status="skipped", reason=beyond, any_size=any_size)
        if measured is None:
            measured, finished = _measure(problem, effort)
            if resume is not None and finished:
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
        torus=None if spectrum is None else summarize(spectrum, _sum_of_squares(problem)),
        as_padded=as_padded,
        any_size=any_size,
        spectrum=spectrum,
    )


def _measure(problem: Problem, effort: Effort) -> tuple[checkpoint.Measured, bool]:
    """The numbers of a layer, and whether more time or memory would find no more of them."""
    spectrum = as_padded = any_size = None
    errors: list[tuple[str, InputError]] = []
    try:  # first: the largest value on this torus need not be computed again
        spectrum = sampled_spectrum_on(problem, problem.wrapped, effort.spectrum)
        if not math.isfinite(summarize(spectrum).nuclear_norm):
            errors.append(("no nuclear norm", RangeError("the sum is beyond the range of float64")))
    except (GeometryError, CostError, RangeError) as error:
        errors.append(("no torus spectrum", error))
    if effort.bounds != "none":
        with telling_of_pieces(None):
            as_padded, any_size = _bounds(problem, effort, spectrum, errors)
    found = (spectrum, as_padded, any_size)
    status = "partial" if errors else "ok"
    if any(isinstance(error, RangeError) for _, error in errors):
        status = "out of range"
    elif all(one is None for one in found):
        status = "failed"
    reason = "; ".join(f"{what}: {error}" for what, error in errors)
    return (*found, status, reason), not any(isinstance(error, CostError) for _, error in errors)


def _bounds(
    problem: Problem, effort: Effort, spectrum: Spectrum | None, errors: list[tuple[str, InputError]]
) -> tuple[Bound | None, Bound | None]:
    """Of the layer with its own padding, and for any size; what is missing goes to the errors."""
    as_padded = any_size = None
    tight = effort.bounds == "tight"
    if not repeats_inputs(problem.correlation):
        try:
            any_size = _any_size(problem, tight)
        except (CostError, RangeError) as error:
            errors.append(("no bound for any size", error))
    norms = None if spectrum is None else spectrum.norm_interval
    if norms is not None and problem.correlation.is_circulant:
        return Bound(*norms, method="duffin1938"), any_size
    try:
        as_padded = as_floats(homogeneous(operator_norm_of, problem, 0.0 if tight else None))
        if any_size is not None and problem.correlation.padding_mode == "zeros":
            as_padded = _least_upper(as_padded, any_size)
    except (GeometryError, CostError, RangeError) as error:
        errors.append(("no bound for its own padding", error))
    return as_padded, any_size


def _any_size(problem: Problem, tight: bool = False) -> Bound:
    wide = is_large(problem.correlation) and not tight
    return as_floats(homogeneous(duffin1938_of, problem, *((ANY_SIZE_WIDTH, ANY_SIZE_TESTS) if wide else ())))


def _sum_of_squares(problem: Problem) -> float | None:
    """Of all singular values on the layer's torus, where no two taps fall on one of its points."""
    torus = problem.wrapped
    if tap_copies(torus).max() > 1:
        return None
    with np.errstate(over="ignore"):
        return torus.points * float(np.square(problem.kernel, dtype=np.float64).sum())


def _cheap_any_size(layer: ConvLayer, problem: Problem) -> Bound | None:
    """The bound for any size, where it takes no time to speak of and there is one."""
    with suppress(InputError):
        if work_for_any_size(layer.kernel.shape, problem.geometry).seconds < 1:
            return _any_size(problem)
    return None


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
    bound = _any_size(problem_of(layer.kernel, anywhere(layer), compute))
    assumes = f"{bound.assumes}; any stride, dilation and groups"
    return replace(bound, lower=None, exact=False, assumes=assumes)


def contradiction_of(layer: ConvLayer) -> str:
    """What in a layer's geometry contradicts its kernel, else empty."""
    try:
        if layer.geometry is not None:
            layer.geometry.correlation(layer.kernel.shape)
    except GeometryError as error:
        return str(error)
    return ""


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
