"""From the convolutions of a model to a report."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import replace
from pathlib import Path

from .._solvers import pool
from .._solvers.pool import available_cores, single_threaded_blas
from .._version import __version__
from ..atomic import open_folder
from ..checks import check_kind
from ..compute import DEFAULT, Compute, Progress
from ..cost import memory_limit
from ..models import batch_norm
from ..models.records import ConvLayer, Model
from ..sampled import Sampling
from ..work import Bounds, Effort
from . import checkpoint
from .of_layer import analyze_layer, contradiction_of
from .planning import Precision, in_precision, plan, selected
from .reports import LayerReport, Report


def analyze(
    model: Model,
    *,
    layers: Sequence[str] = (),
    bounds: Bounds = "fast",
    spectrum: Sampling = "auto",
    dtype: Precision = "kernel",
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
        layers: names or patterns of the layers that are analysed, such as `"layer1.*.conv?"`; default all.
        bounds: `"fast"` stops where an interval for the norm of a layer is within 1 %, `"tight"` goes as far
            as it can, `"none"` leaves only the circular spectrum.
        spectrum: as for `singular_values`; `"auto"` samples layers whose exact spectrum takes more than 5 s
            of one core, and the report says so beside every number.
        dtype: precision of the computation; `"kernel"` takes each kernel's own (at least float32), and the
            report says where rounding can be seen.
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
        InputError: `resume` cannot be written to; `max_seconds` is no positive number; a pattern that no
            layer has; another word for `bounds` or `spectrum`; this is no `Model`.
        KeyboardInterrupt: it was; with `resume`, the message says how many layers are kept.
    """
    check_kind("model", model, Model, "convspectra.read_model(path)")
    effort = Effort(bounds, spectrum)
    if resume is not None:
        open_folder(resume)
    whole, model = model, selected(model, layers)
    expected = plan(model, effort=effort, dtype=dtype, max_seconds=max_seconds)
    prepared = [_prepared(layer, dtype, fold_batch_norm) for layer in model.layers]
    work = [0.0 if one.refused else one.seconds for one in expected.layers]
    total, done, lock = sum(work) or 1.0, [0.0], threading.Lock()
    if estimated is not None:
        estimated(total)

    def advance(seconds: float, name: str) -> None:
        with lock:
            done[0] += seconds
            if progress is not None:
                progress(min(done[0] / total, 1.0), name)

    def report_layer(index: int) -> LayerReport:
        left = [work[index]]

        def inside(share: float) -> None:
            """A piece of the spectrum is done; when the layer is, all of its estimate is."""
            seconds = min(share * expected.layers[index].spectrum_seconds, left[0])
            left[0] -= seconds
            advance(seconds, "")

        with pool.telling_of_pieces(inside):
            found = analyze_layer(
                prepared[index],
                folded=fold_batch_norm,
                effort=effort,
                compute=shared,
                resume=resume,
                beyond=expected.layers[index].refused,
            )
        advance(left[0], prepared[index].name)
        return found

    # Two pools: these threads wait for a layer's blocks, which the other pool solves; so blocks of
    # several layers are in flight together, and a layer of many blocks still gets every core.
    solvers = compute.executor or ThreadPoolExecutor(available_cores())
    shared = replace(compute, executor=solvers)
    largest = max((one.memory for one in expected.layers if not one.refused), default=1)
    together = max(1, min(available_cores(), int(memory_limit() // max(largest, 1))))
    waiting = ThreadPoolExecutor(together)
    with single_threaded_blas(), _telling_of_kept(prepared, compute, effort, resume):
        try:
            longest_first = sorted(range(len(prepared)), key=lambda index: -work[index])
            futures = {
                index: waiting.submit(copy_context().run, report_layer, index) for index in longest_first
            }
            reports = tuple(futures[index].result() for index in range(len(prepared)))
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
        bounds=bounds,
        spectrum=spectrum,
        left_out=len(whole.layers) - len(model.layers),
    )


@contextmanager
def _telling_of_kept(
    layers: Sequence[ConvLayer], compute: Compute, effort: Effort, resume: Path | None
) -> Iterator[None]:
    """An interruption says how many layers need not be computed again."""
    try:
        yield
    except KeyboardInterrupt:
        if resume is None:
            raise
        kept = sum(
            checkpoint.path_of(resume, layer.kernel, layer.geometry, compute, effort).exists()
            for layer in layers
            if layer.geometry is not None
        )
        raise KeyboardInterrupt(f"{kept} of {len(layers)} layers kept in {resume}") from None


def _prepared(layer: ConvLayer, dtype: Precision, fold: bool) -> ConvLayer:
    layer = in_precision(layer, dtype)
    if not fold or layer.batch_norm_scale is None or contradiction_of(layer):
        return layer
    factors = batch_norm.layer_factors(layer)
    return replace(layer, kernel=layer.kernel * factors.astype(layer.kernel.dtype))
