"""A model file, written again with the kernels that exceed a norm moved into the ball."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .._solvers.pool import available_cores, single_threaded_blas
from .._version import __version__
from ..atomic import atomic
from ..checks import check_kind
from ..compute import DEFAULT, Compute, Progress
from ..cost import WITH_VECTORS, Cost, allowed, memory_limit
from ..errors import CostError, GeometryError, InputError, KernelError
from ..models.floats import EPSILON, rounded
from ..models.names import matching
from ..models.reading import digest, reading
from ..models.records import ConvLayer, Model
from ..models.sniff import Format
from ..models.writers import (
    NotWritableError,
    TensorLocation,
    Writer,
    location_of,
    open_writer,
    writable_format,
)
from ..symbol import bytes_of_blocks, cost_of
from ..work import SECONDS, SECONDS_A_WEIGHT, anywhere, size_of, weights_of
from .limits import KEEPS_THE_LIMIT, Limits, Method
from .records import ClipReport, LayerClip
from .weight import Constrained, Precision, Use, constrain, measured, target_for

NumpyArray = np.ndarray[Any, Any]

_NORMS = 3
"""Of each layer: as it was, as it is rounded, and as it is written."""
_SWEEPS: dict[Method, int] = {"project": 30, "clip": 1, "appendix_a": 1}
"""Decompositions of all blocks with their vectors, about."""
_STACKS = 5
"""Blocks at all frequencies that a sweep holds beside each other."""
_BYTES_A_WEIGHT = 2**21
"""Of these stacks, beside `cost.memory_limit`: they grow with the map and the channels of a network."""


def clip_file(
    model: Model,
    path: Path,
    output: Path,
    limits: Limits,
    *,
    layers: Sequence[str] = (),
    compute: Compute = DEFAULT,
    max_seconds: float | None = None,
    progress: Progress | None = None,
    estimated: Callable[[float], None] | None = None,
) -> ClipReport:
    """Write a model file again, with the kernels that exceed a norm moved into the ball.

    Arguments:
        model: what `models.read_model` made of the file, with the geometry that holds.
        path, output: what is read and what is written, in the same format. Nothing else of it changes.
        layers: names or patterns of the layers that are moved; default all.
        compute: how; see `Compute`. Default: a thread pool of this call's own.
        max_seconds: of one core, for all layers, as estimated before anything is computed; default 10, and
            4 ms for each weight, for each decomposition that the method takes.
        progress, estimated: as for `analysis.analyze`.

    Returns:
        `ClipReport`, layers in the model's order. A tensor that several layers use is moved once, for all
        of them. Layers whose geometry the file does not state are held to the limit for every
        one that it can be, and noted. Layers that exceed the limit and lie in no tensor of their own are
        left, and marked.

    Raises:
        ModelError: a format that is not written.
        InputError: a pattern without layers, a geometry that `"torus"` needs and nobody gave, a disk that
            refuses.
        CostError: layers take more seconds or memory than is allowed; the message has the estimate.
        KernelError: NaN or infinite entries.
        GeometryError: a layer that there is no such guarantee for.
        Whatever is raised, nothing is written.

    Not guaranteed: with `appendix_a` and `reshaped`, norms inside the limit; of layers whose padding the file
    does not state, anything about padding by reflection or replication.
    """
    check_kind("model", model, Model, "convspectra.read_model(path)")
    kind = writable_format(path)
    sha256 = digest(path)
    writer = open_writer(path, kind)
    with reading(path, kind):
        locations, reasons = _located(model, writer)
    chosen = _chosen(model, layers)
    with single_threaded_blas(), ThreadPoolExecutor(available_cores()) as executor:
        compute = replace(compute, executor=compute.executor or executor)
        work = _Clipping(model, chosen, writer, locations, limits, compute)
        work.check(None if max_seconds is None else allowed("max_seconds", max_seconds))
        if estimated is not None:
            estimated(work.seconds)
        work.measure()
        moves = work.moves(progress)
        with _written(writer, kind, output, moves) as again:
            records = [work.record(one, moves, again, reasons.get(one.name, "")) for one in work.concerned]
    names = {record.name for record in records}
    others = [layer.name for layer in model.layers] + [one.name for one in model.unread if layers]
    return ClipReport(
        model=model.name,
        path=str(path),
        sha256=sha256,
        format=kind,
        output=str(output),
        output_sha256=digest(output),
        limit=limits,
        version=__version__,
        layers=tuple(records),
        not_selected=tuple(name for name in others if name not in names),
        notes=(*model.notes, *writer.notes()),
        unread=() if layers else model.unread,
    )


@dataclass(frozen=True)
class _Move:
    """Where a tensor went: its values as the file will hold them, and what that took."""

    found: Constrained
    first: str
    seconds: float


class _Clipping:
    """The layers of one file that are moved, and the tensors that they lie in."""

    def __init__(
        self,
        model: Model,
        chosen: set[str],
        writer: Writer,
        locations: Mapping[str, TensorLocation],
        limits: Limits,
        compute: Compute,
    ) -> None:
        self.limits, self.compute, self.locations = limits, compute, locations
        # Whoever shares a tensor with a chosen layer changes with it, and is held to the limit as well.
        tensors = {location.tensor for name, location in self.locations.items() if name in chosen}
        # Copies, as writing changes what the writer holds.
        self.given = {name: np.array(writer.values(name)) for name in tensors}
        self.concerned = [
            layer
            for layer in model.layers
            if layer.name in chosen
            or (layer.name in self.locations and self.locations[layer.name].tensor in tensors)
        ]
        self.uses = {layer.name: self._use(layer) for layer in self.concerned}
        self.decompositions = _NORMS + WITH_VECTORS * _SWEEPS.get(limits.method, 0)
        self.costs = {layer.name: self._cost(layer) for layer in self.concerned}
        self.seconds = sum(cost.seconds for cost in self.costs.values())
        self.before: dict[str, tuple[float, bool]] = {}

    def measure(self) -> None:
        """The norms of all layers before any of them is moved."""
        self.before = {layer.name: self._measured(layer, self.given) for layer in self.concerned}

    def _cost(self, layer: ConvLayer) -> Cost:
        """Of measuring a layer, and of moving it, which its norm may make needless."""
        with _named(layer.name):
            torus = target_for(self._weight(layer, self.given), self.uses[layer.name], self.limits).torus
            norm = cost_of(torus)
        stacks = _STACKS * bytes_of_blocks(torus) if self.limits.method in _SWEEPS else 0.0
        return Cost(self.decompositions * norm.seconds, max(norm.memory, stacks))

    def check(self, max_seconds: float | None) -> None:
        """Refuse what goes beyond the limits, with the estimate.

        Raises:
            CostError: it does.
        """
        for layer in self.concerned:
            cost = self.costs[layer.name]
            if cost.memory > memory_limit() + _BYTES_A_WEIGHT * layer.kernel.size:
                raise CostError(
                    f"layer {layer.name!r}: inputs of {size_of(layer)} take {cost}; max_memory is "
                    f"{memory_limit() / 2**30:,.1f} GiB: raise it, or give a smaller sample_shape"
                )
        default = self.decompositions * (SECONDS + SECONDS_A_WEIGHT * weights_of(self.concerned))
        limit = default if max_seconds is None else max_seconds
        if self.seconds > limit:
            layer = max(self.concerned, key=lambda layer: self.costs[layer.name].seconds)
            raise CostError(
                f"the layers take about {self.seconds:,.0f} s of one core, most of them {layer.name!r} with "
                f"inputs of {size_of(layer)}; max_seconds is {limit:,.0f}: raise it, or give a smaller "
                "sample_shape"
            )

    def _use(self, layer: ConvLayer) -> Use:
        if layer.geometry is None and self.limits.guarantee == "torus":
            raise InputError(f"layer {layer.name!r}: {layer.reason}; or take guarantee='any-size'")
        scale = layer.batch_norm_scale if self.limits.fold_batch_norm else None
        wide = None if scale is None else np.asarray(scale, dtype=np.float64)
        location = self.locations.get(layer.name)
        # Whatever its sizes are: as it runs is one of them.
        guarantee = self.limits.guarantee if layer.geometry else "any_size"
        return Use(layer.geometry or anywhere(layer), wide, location, guarantee)

    def _measured(self, layer: ConvLayer, values: Mapping[str, NumpyArray]) -> tuple[float, bool]:
        """The norm of a layer by the values of its tensor, and whether it is proven to keep the limit."""
        with _named(layer.name):
            return measured(self._weight(layer, values), self.uses[layer.name], self.limits, self.compute)

    def _weight(self, layer: ConvLayer, values: Mapping[str, NumpyArray]) -> NumpyArray:
        location = self.locations.get(layer.name)
        return layer.kernel.astype(np.float64) if location is None else values[location.tensor]

    def _is_outside(self, layer: ConvLayer) -> bool:
        norm, kept = self.before[layer.name]
        return norm > self.limits.max_norm or not (kept or self.limits.method not in KEEPS_THE_LIMIT)

    def moves(self, progress: Progress | None) -> dict[str, _Move]:
        """Where each tensor goes that has a layer outside of the ball."""
        users: dict[str, list[ConvLayer]] = {name: [] for name in self.given}
        for layer in self.concerned:
            if layer.name in self.locations:
                users[self.locations[layer.name].tensor].append(layer)
        work = {name: sum(self.costs[one.name].seconds for one in layers) for name, layers in users.items()}
        done, found = 0.0, {}
        for name, layers in users.items():
            if any(map(self._is_outside, layers)):
                found[name] = self._moved(name, layers)
            done += work[name]
            if progress is not None:
                progress(min(done / sum(work.values()), 1.0), layers[0].name)
        return found

    def _moved(self, tensor: str, layers: list[ConvLayer]) -> _Move:
        began = time.perf_counter()
        stored = self.locations[layers[0].name].stored
        precision = Precision(EPSILON[stored], partial(rounded, stored=stored))
        uses = [self.uses[layer.name] for layer in layers]
        with _named(layers[0].name):
            moved = constrain(
                self.given[tensor], uses, self.limits, precision=precision, compute=self.compute
            )
        return _Move(moved, layers[moved.moved].name, time.perf_counter() - began)

    def record(self, layer: ConvLayer, moves: Mapping[str, _Move], again: Writer, reason: str) -> LayerClip:
        """What became of a layer, by the file as it was written; `reason`: why it lies in no tensor."""
        before, use = self.before[layer.name][0], self.uses[layer.name]
        location = self.locations.get(layer.name)
        scaled: Literal["folded", "separate"] = "folded" if self.limits.fold_batch_norm else "separate"
        facts = LayerClip(
            name=layer.name,
            kind=layer.kind,
            kernel_shape=tuple(int(size) for size in layer.kernel.shape),
            status="inside",
            norm_before=before,
            norm_after=before,
            guarantee=use.guarantee or self.limits.guarantee,
            assumed=layer.assumed,
            batch_norm="none" if layer.batch_norm_scale is None else scaled,
            note="; ".join(filter(None, (_without_geometry(layer), location.note if location else ""))),
        )
        if location is None:
            if not self._is_outside(layer):
                return facts
            return replace(facts, status="unwritable", reason=reason)
        move = moves.get(location.tensor)
        given, written = self.given[location.tensor], again.values(location.tensor)
        _require(np.array_equal(written, move.found.weight if move else given), layer.name, "its values")
        if move is None:
            return facts
        after, kept = self._measured(layer, {location.tensor: written})
        _require(kept or self.limits.method not in KEEPS_THE_LIMIT, layer.name, f"norm {after}")
        gap, size = move.found.gap, np.linalg.norm(use.operator(given))
        nearest = None if gap is None or move.first != layer.name else float(np.sqrt(2 * gap) / size)
        kernel, changed = use.kernel(given), use.kernel(written)
        return replace(
            facts,
            status="changed",
            norm_after=after,
            relative_change=float(np.linalg.norm(changed - kernel) / np.linalg.norm(kernel)),
            iterations=move.found.iterations,
            distance_to_nearest=nearest,
            seconds=move.seconds,
        )


def _located(model: Model, writer: Writer) -> tuple[dict[str, TensorLocation], dict[str, str]]:
    """Where the file keeps each layer's kernel, and why there is no such place for the others."""
    locations, reasons = {}, {}
    for layer in model.layers:
        try:
            locations[layer.name] = location_of(layer, writer)
        except NotWritableError as error:
            reasons[layer.name] = str(error)
    return locations, reasons


@contextmanager
def _named(layer: str) -> Iterator[None]:
    """Errors inside say which layer they are about."""
    try:
        yield
    except GeometryError as error:
        raise GeometryError(f"layer {layer!r}: {error}; or take guarantee='any-size'") from None
    except CostError as error:
        raise CostError(f"layer {layer!r}: {error}; nothing was written") from None
    except KernelError as error:
        raise KernelError(f"layer {layer!r}: {error}; nothing was written") from None


@contextmanager
def _written(writer: Writer, kind: Format, output: Path, moves: Mapping[str, _Move]) -> Iterator[Writer]:
    """The file as it was written, read again; it takes its name when the block ends well."""
    values = {name: move.found.weight for name, move in moves.items()}
    beside: list[Path] = []
    try:
        with atomic(output) as file:
            beside.extend(writer.write(values, file, output))
            file.flush()
            yield open_writer(Path(file.name), kind)
    except BaseException:
        for path in beside:
            path.unlink(missing_ok=True)
        raise


def _without_geometry(layer: ConvLayer) -> str:
    if layer.geometry is not None:
        return ""
    return (
        "held for every stride, dilation and number of groups, maybe more strictly than need be, if it pads "
        "with zeros, not at all, or wraps at sizes that its stride divides: " + layer.reason
    )


def _require(kept: bool, name: str, what: str) -> None:
    if not kept:
        raise RuntimeError(f"layer {name!r} reads back with {what} other than promised; nothing was written")


def _chosen(model: Model, patterns: Sequence[str]) -> set[str]:
    """The names of the layers that are asked for.

    Raises:
        InputError: none.
    """
    names = [layer.name for layer in model.layers]
    if not names:
        left = "".join(f"; {one.name!r} was not read: {one.reason}" for one in model.unread[:3])
        raise InputError(f"{model.name} holds no convolution and no linear layer{left}")
    if not patterns:
        return set(names)
    return {name for pattern in patterns for name in matching(pattern, names, "--layers")}
