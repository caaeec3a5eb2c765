"""What became of a model that was clipped, in a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from decimal import ROUND_CEILING

from rich.console import Console

from ..constrain.limits import IN_WORDS
from ..constrain.records import ClipReport, LayerClip
from .columns import Column
from .numbers import counted, number, percent, sizes, upper
from .text import assumptions, layer_table, not_read, plain, with_names

_WHOSE = {
    "torus": "the norm with wrapped boundary at the layer's input size, exact",
    "layer": "a proven upper bound of the norm of the layer with its own padding, at its input size",
    "any_size": "a proven upper bound for every input size, with the layer's own padding",
}


def render(report: ClipReport, console: Console) -> None:
    """Print a report."""
    if report.layers:
        names = [layer.name + ("*" if layer.assumed else "") for layer in report.layers]
        bad = [layer.norm_after > report.limit.max_norm for layer in report.layers]
        console.print(layer_table(names, report.layers, _columns(report), bad, console.width))
    for line in _footnotes(report):
        console.print(plain(line), style="dim", soft_wrap=True, highlight=False)
    console.print(plain(summary(report)), style="bold", soft_wrap=True, highlight=False)


def summary(report: ClipReport) -> str:
    """One line: how many layers changed, the largest norm before and after, where the model is now."""
    count = Counter(str(layer.status) for layer in report.layers)
    limit = report.limit.max_norm
    layers = counted(len(report.layers), "layer")
    parts = [f"{count['changed']} of {layers} changed, {count['inside']} already inside"]
    text = _norm_text(report)
    before, after = (
        max(getattr(layer, f"norm_{when}") for layer in report.layers) for when in ("before", "after")
    )
    parts.append(f"largest norm {text(before)} before, {text(after)} after")
    above = [layer for layer in report.layers if layer.norm_after > limit]
    if above:
        parts.append(f"{len(above)} still above {limit:g}")
    if count["unwritable"]:
        parts.append(f"{count['unwritable']} could not be written")
    if report.unread:
        parts.append(f"{len(report.unread)} not read")
    if report.not_selected:
        parts.append(f"{len(report.not_selected)} not selected")
    return f"{report.model}: {'; '.join(parts)}."


def _norm_text(report: ClipReport) -> Callable[[float], str]:
    """How norms are shown: rounded up where they are upper bounds."""
    return number if report.limit.guarantee == "torus" else upper


def _columns(report: ClipReport) -> list[Column]:
    text = _norm_text(report)
    return [
        Column("kernel", lambda layer: sizes(layer.kernel_shape), 4),
        Column("norm before", lambda layer: text(layer.norm_before), 0),
        Column("after", lambda layer: text(layer.norm_after), 0),
        Column("change", lambda layer: percent(layer.relative_change) if layer.relative_change else "-", 1),
        Column("from nearest", _from_nearest, 2),
        Column("sweeps", lambda layer: str(layer.iterations) if layer.iterations else "-", 5),
        Column("time", lambda layer: f"{layer.seconds:.2f} s" if layer.seconds else "-", 6),
        Column("", lambda layer: "NOT WRITTEN" if layer.status == "unwritable" else "", 0, right=False),
    ]


def _from_nearest(layer: LayerClip) -> str:
    if layer.status != "changed" or layer.distance_to_nearest is None:
        return "-"
    return f"<= {percent(layer.distance_to_nearest, ROUND_CEILING)}"


def _footnotes(report: ClipReport) -> Iterator[str]:
    limit = report.limit
    folded = ", with the batch norm behind the layer" if limit.fold_batch_norm else ""
    # Of a layer without geometry more is promised than was asked for.
    whose = dict.fromkeys(layer.guarantee for layer in report.layers) or {limit.guarantee: None}
    told = "; or, where the file states no geometry, ".join(
        _WHOSE[one] for one in sorted(whose, reverse=True)
    )
    yield f"norm: {told}{folded}; after: from the file as written."
    yield f"{limit.method}: {IN_WORDS[limit.method]}. change: of the kernel, relative to its Euclidean norm."
    if any(layer.status == "changed" and layer.distance_to_nearest is not None for layer in report.layers):
        yield "from nearest: the nearest kernel that keeps the limit is proven to be no further away."
    yield from assumptions(report.layers)
    left = [layer for layer in report.layers if layer.status == "unwritable"]
    yield from with_names((f"not written: {layer.reason}", layer.name) for layer in left)
    yield from not_read(report.unread)
    yield from with_names((layer.note, layer.name) for layer in report.layers if layer.note)
    yield from (f"Note: {note}." for note in report.notes)
