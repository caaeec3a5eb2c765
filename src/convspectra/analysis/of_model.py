"""From the convolutions of a model to a report."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import replace
from pathlib import Path
from typing import Literal

from .._solvers.pool import available_cores, single_threaded_blas
from .._version import __version__
from ..atomic import open_folder
from ..checks import check_kind
from ..compute import DEFAULT, Compute, Progress
from ..cost import allowed, memory_limit
from ..models import batch_norm
from ..models.records import ConvLayer, Model
from ..work import beyond, work_of
from . import checkpoint
from .of_layer import analyze_layer, contradiction_of
from .reports import LayerReport, Report

Precision = Literal["kernel", "float32", "float64"]


def analyze(
    model: Model,
    *,
    dtype: Precision = "float64",
    fold_batch_norm: bool = False,
    compute: Compute = DEFAULT,
    max_seconds: float | None = None,
    progress: Progress | None = None,
    estimated: Callable[[float], None] | None = None,
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
        estimated: called once, before anything is computed, with the seconds of one core that all layers
            within the limits take.
        resume: folder in which finished layers are kept, and from which those that are there are
            taken: an analysis that was stopped goes on where it was.

    Returns:
        `Report`, layers in the model's order. A layer whose kernel has NaN or infinite entries, or
        whose geometry contradicts its kernel, is `failed` and says so; the others are reported all
        the same.

    Raises:
        InputError: `resume` cannot be written to; `max_seconds` is no positive number; this is no `Model`.
        KeyboardInterrupt: it was; with `resume`, the message says how many layers are kept.
    """
    check_kind("model", model, Model, "convspectra.read_model(path)")
    if resume is not None:
        open_folder(resume)
    if max_seconds is not None:
        max_seconds = allowed("max_seconds", max_seconds)
    costs = [work_of(layer) for layer in model.layers]
    refused = beyond(model.layers, costs, max_seconds)
    layers = [_prepared(layer, dtype, fold_batch_norm) for layer in model.layers]
    work = [0.0 if index in refused else cost.seconds for index, cost in enumerate(costs)]
    total, done, lock = sum(work) or 1.0, [0.0], threading.Lock()
    if estimated is not None:
        estimated(total)

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
    together = max(1, min(available_cores(), int(memory_limit() // max(largest, 1))))
    waiting = ThreadPoolExecutor(together)
    with single_threaded_blas(), _telling_of_kept(layers, compute, resume):
        try:
            longest_first = sorted(range(len(layers)), key=lambda index: -work[index])
            futures = {
                index: waiting.submit(copy_context().run, report_layer, index) for index in longest_first
            }
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


def _prepared(layer: ConvLayer, dtype: Precision, fold: bool) -> ConvLayer:
    kernel = layer.kernel
    if dtype != "kernel":
        kernel = kernel.astype(dtype, copy=False)
    if fold and layer.batch_norm_scale is not None and not contradiction_of(layer):
        kernel = kernel * batch_norm.layer_factors(layer).astype(kernel.dtype)
    return replace(layer, kernel=kernel)
