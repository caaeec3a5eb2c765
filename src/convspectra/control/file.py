"""A model file, written again with the kernels that exceed a norm moved into the ball."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from .._solvers.pool import available_cores, single_threaded_blas
from .._version import __version__
from ..analysis import Progress
from ..atomic import atomic
from ..compute import DEFAULT, Compute
from ..errors import InputError
from ..models.names import matching
from ..models.records import ConvLayer, Model
from ..models.sniff import Format
from ..models.writers import NotWritableError, Writer, home_of, open_writer, writable_format
from ..work import work_of
from .records import ClipReport, LayerClip, Limit
from .tensors import Held, Move, NumpyArray, Use, move


def clip_file(
    model: Model,
    path: Path,
    output: Path,
    limit: Limit,
    *,
    layers: Sequence[str] = (),
    compute: Compute = DEFAULT,
    progress: Progress | None = None,
) -> ClipReport:
    """Write a model file again, with the kernels that exceed a norm moved into the ball.

    Arguments:
        model: what `models.read_model` made of the file, with the geometry that holds.
        path, output: what is read and what is written, in the same format. Nothing else of it changes.
        layers: names or patterns of the layers that are held; default all.
        compute: how; see `Compute`. Default: a thread pool of this call's own.
        progress: as for `analysis.analyze`.

    Returns:
        `ClipReport`, layers in the model's order. A tensor that several layers use is moved once, for all
        of them. Layers that exceed the limit and lie in no tensor of their own are left, and marked.

    Raises:
        ModelError: a format that is not written.
        InputError: a pattern without layers, a geometry that the guarantee needs and nobody gave, a disk
            that refuses.
        KernelError: NaN or infinite entries.
        GeometryError: a layer that there is no such guarantee for.
        Whatever is raised, nothing is written.

    Not guaranteed: with `clip`, norms inside the limit; of layers whose padding the file does not state,
    anything about padding by reflection or replication.
    """
    kind = writable_format(path)
    digest = _sha256(path)
    writer = open_writer(path, kind)
    chosen = _chosen(model, layers)
    with single_threaded_blas(), ThreadPoolExecutor(available_cores()) as executor:
        compute = replace(compute, executor=compute.executor or executor)
        work = _Clipping(model, chosen, writer, limit, compute)
        moves = work.moves(progress)
        with _written(writer, kind, output, moves) as again:
            records = [work.record(one, moves, again) for one in work.concerned]
    names = {record.name for record in records}
    others = [layer.name for layer in model.layers] + [one.name for one in model.unread if layers]
    return ClipReport(
        model=model.name,
        path=str(path),
        sha256=digest,
        format=kind,
        output=str(output),
        output_sha256=_sha256(output),
        limit=limit,
        version=__version__,
        layers=tuple(records),
        not_selected=tuple(name for name in others if name not in names),
        notes=(*model.notes, *writer.notes()),
        unread=() if layers else model.unread,
    )


class _Clipping:
    """The layers of one file that are held, and the tensors that they lie in."""

    def __init__(
        self, model: Model, chosen: set[str], writer: Writer, limit: Limit, compute: Compute
    ) -> None:
        self.limit = limit
        self.reasons: dict[str, str] = {}
        self.uses: dict[str, Use] = {}
        self.by_tensor: dict[str, list[Use]] = {}
        held = [Held(layer, limit, compute) for layer in model.layers]
        for one in held:
            try:
                use = Use(one, home_of(one.layer, writer))
            except NotWritableError as error:
                self.reasons[one.layer.name] = str(error)
            else:
                self.uses[one.layer.name] = use
                self.by_tensor.setdefault(use.home.tensor, []).append(use)
        # Whoever shares a tensor with a chosen layer changes with it, and so is held as well.
        self.tensors = {use.home.tensor for name, use in self.uses.items() if name in chosen}
        # Copies, as writing changes what the writer holds.
        self.given = {name: np.array(writer.values(name)) for name in self.tensors}
        self.concerned = [one for one in held if one.layer.name in chosen or self._shares(one)]
        self.before = {one.layer.name: self._measured(one, self.given) for one in self.concerned}

    def _shares(self, held: Held) -> bool:
        use = self.uses.get(held.layer.name)
        return use is not None and use.home.tensor in self.tensors

    def _measured(self, held: Held, values: Mapping[str, NumpyArray]) -> tuple[float, bool]:
        """`Held.measured` of a layer, by the values of the tensor that its kernel lies in."""
        use = self.uses.get(held.layer.name)
        if use is None:
            return held.measured(held.layer.kernel.astype(np.float64))
        return use.measured(values[use.home.tensor])

    def moves(self, progress: Progress | None) -> dict[str, Move]:
        """Where each tensor goes that has a layer outside of the ball."""
        work = {
            name: sum(work_of(use.held.layer).seconds for use in self.by_tensor[name])
            for name in self.tensors
        }
        done, found = 0.0, {}
        for name, users in self.by_tensor.items():
            if name not in self.tensors:
                continue
            found_before = [self.before[use.held.layer.name] for use in users]
            moved = move(users, found_before, self.given[name], self.limit)
            if moved is not None:
                found[name] = moved
            done += work[name]
            if progress is not None:
                progress(min(done / sum(work.values()), 1.0), users[0].held.layer.name)
        return found

    def record(self, held: Held, moves: Mapping[str, Move], again: Writer) -> LayerClip:
        """What became of a layer, by the file as it was written."""
        layer, (before, kept) = held.layer, self.before[held.layer.name]
        use = self.uses.get(layer.name)
        scaled: Literal["folded", "separate"] = "folded" if self.limit.fold_batch_norm else "separate"
        facts = LayerClip(
            name=layer.name,
            kind=layer.kind,
            kernel_shape=tuple(int(size) for size in layer.kernel.shape),
            status="inside",
            norm_before=before,
            norm_after=before,
            assumed=layer.assumed,
            batch_norm="none" if layer.batch_norm_scale is None else scaled,
            note="; ".join(filter(None, (_without_geometry(layer), "" if use is None else use.home.note))),
        )
        if use is None:
            outside = before > self.limit.max_norm or not (kept or self.limit.method == "clip")
            return replace(facts, status="unwritable", reason=self.reasons[layer.name]) if outside else facts
        moved = moves.get(use.home.tensor)
        given, written = self.given[use.home.tensor], again.values(use.home.tensor)
        _require(np.array_equal(written, given if moved is None else moved.values), layer.name, "its values")
        if moved is None:
            return facts
        after, kept = use.measured(written)
        if self.limit.method != "clip":
            _require(kept, layer.name, f"norm {after}")
        change = np.linalg.norm(use.plain(written) - use.plain(given)) / np.linalg.norm(use.plain(given))
        return replace(
            facts,
            status="changed",
            norm_after=after,
            relative_change=float(change),
            iterations=moved.iterations,
            distance_to_nearest=moved.distances.get(layer.name),
            seconds=moved.seconds,
        )


@contextmanager
def _written(writer: Writer, kind: Format, output: Path, moves: Mapping[str, Move]) -> Iterator[Writer]:
    """The file as it was written, read again; it takes its name when the block ends well."""
    values = {name: found.values for name, found in moves.items()}
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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
