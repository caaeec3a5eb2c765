"""The report in a terminal: a table as wide as there is room for, and one line that sums it up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from .._solvers.pool import available_cores
from ..analysis import LayerReport, Report
from ..models.records import Unread
from . import terminal
from .columns import BOUNDS, Column, chosen, options
from .numbers import counted, estimate, sizes
from .terminal import printable

MARK = {
    "ok": "",
    "partial": "partial",
    "out of range": "OUT OF RANGE",
    "skipped": "skipped",
    "failed": "FAILED",
}
_SHORTEST_NAME = 14
_LONGEST_NAME = 44


_COLUMNS = chosen(
    {
        "kind": 7,
        "kernel": 3,
        "input": 6,
        "options": 5,
        "norm": 0,
        "smallest": 4,
        "condition": 8,
        "eff. rank": 10,
        "stable rank": 11,
        "rank": 9,
        "own padding": 1,
        "any size": 2,
    }
)


def render(report: Report, console: Console) -> None:
    """Print a report."""
    if report.layers:
        console.print(_table(report, console.width))
    notes = (f"Note: {note}." for note in report.notes)
    for line in (*_footnotes(report), *_reasons(report), *not_read(report.unread), *notes):
        console.print(plain(line), style="dim", soft_wrap=True, highlight=False)
    console.print(plain(summary(report)), style="bold", soft_wrap=True, highlight=False)


def summary(report: Report) -> str:
    """One line: how many layers, the largest norm and where, what was left out and why."""
    count = Counter(str(layer.status) for layer in report.layers)
    kinds = Counter("linear layer" if layer.kind == "linear" else "convolution" for layer in report.layers)
    layers = ", ".join(counted(n, kind) for kind, n in sorted(kinds.items()))
    parts = [f"{report.model}: {layers or 'no convolutions and no linear layers'}"]
    measured = [layer for layer in report.layers if layer.torus is not None]
    if measured:
        largest = max(measured, key=lambda layer: layer.torus.norm if layer.torus else 0.0)
        if largest.torus is not None:
            some = len(measured) < len(report.layers)
            which = f"largest of {counted(len(measured), 'known norm')}" if some else "largest norm"
            text = estimate(largest.torus.norm, largest.torus.ranges.get("norm"))
            parts.append(f"{which} {text} in {largest.name}")
    for status in ("partial", "out of range", "skipped", "failed"):
        if count[status]:
            parts.append(f"{count[status]} {'with a number missing' if status == 'partial' else status}")
    if report.unread:
        parts.append(f"{len(report.unread)} not read")
    if report.left_out:
        parts.append(f"{report.left_out} not asked for")
    if report.other:
        shown = sorted(report.other.items(), key=lambda item: -item[1])
        listed = ", ".join(f"{n} {name}" for name, n in shown[:4])
        parts.append(
            f"not analysed: {listed}" + (f" and {counted(len(shown) - 4, 'other kind')}" if shown[4:] else "")
        )
    return "; ".join(parts) + "."


_LONG = 60.0
"""Seconds from which on an estimate is told, and where there is no terminal each layer that is done."""


@contextmanager
def watching(console: Console | None = None) -> Iterator[dict[str, Any]]:
    """What `analysis.analyze` takes as `estimated` and `progress`, on standard error.

    On a terminal a bar with the time left, gone when done; elsewhere, of what takes long, a line a layer.
    """
    console, cores, long = console or terminal.status(), available_cores(), False
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("analysing", total=1.0)

        def estimated(seconds: float) -> None:
            nonlocal long
            long = seconds / cores >= _LONG
            if long:
                minutes = counted(round(seconds / cores / 60), "minute")
                terminal.tell(f"convspectra: estimated {minutes} on {counted(cores, 'core')}")

        def advance(share: float, name: str) -> None:
            progress.update(task, completed=share)
            if name:
                progress.update(task, description=_shortened(printable(name), 30))
            if name and long and progress.disable:
                terminal.tell(f"convspectra: {share:.0%} {name}")

        yield {"estimated": estimated, "progress": advance}


def _table(report: Report, width: int) -> Table:
    names = [layer.name + ("*" if layer.assumed else "") for layer in report.layers]
    columns = [column for column in _COLUMNS if report.bounds != "none" or column.title not in BOUNDS]
    if any(MARK[layer.status] for layer in report.layers):
        columns.append(Column("status", lambda layer: MARK[layer.status], 0, right=False))
    bad = [layer.status == "failed" for layer in report.layers]
    return layer_table(names, report.layers, columns, bad, width)


def layer_table(
    names: Sequence[str], layers: Sequence[Any], columns: Sequence[Column], bad: Sequence[bool], width: int
) -> Table:
    """A table with a row for each layer, the `bad` ones in red, of as many columns as there is room for."""
    cells = [[column.cell(layer) for layer in layers] for column in columns]
    widths = [max(len(column.title), *map(len, texts)) for column, texts in zip(columns, cells, strict=True)]
    shown = [index for index in range(len(columns)) if any(cells[index])]
    names = [printable(name) for name in names]
    wanted = min(max(map(len, names)), _LONGEST_NAME)
    while sum(widths[i] + 2 for i in shown) + max(wanted, _SHORTEST_NAME) + 2 > width and len(shown) > 2:
        if (
            sum(widths[i] + 2 for i in shown) + _SHORTEST_NAME + 2 <= width
            and columns[shown[-1]].drop_priority < 3
        ):
            break
        shown.remove(max(shown, key=lambda i: columns[i].drop_priority))
    room = max(_SHORTEST_NAME, width - sum(widths[i] + 2 for i in shown) - 2)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("layer", no_wrap=True)
    for index in shown:
        column = columns[index]
        table.add_column(column.title, justify="right" if column.right else "left", no_wrap=True)
    for row, name in enumerate(names):
        texts = [plain(_shortened(name, room)), *(plain(cells[i][row]) for i in shown)]
        table.add_row(*texts, style="red" if bad[row] else None)
    return table


def plain(text: str) -> Text:
    """Text as it is, whatever a name in it would have a terminal do."""
    return Text(printable(text))


def _shortened(name: str, room: int) -> str:
    """The end of a name that is too long: its end tells layers apart."""
    return name if len(name) <= room else "…" + name[-(room - 1) :]


def _footnotes(report: Report) -> Iterator[str]:
    if any(layer.torus for layer in report.layers):
        yield (
            "norm, smallest, condition, ranks: exact for the layer with wrapped boundary, but for ± >= <=."
            if (any(layer.torus and layer.torus.ranges for layer in report.layers))
            else "norm, smallest, condition, ranks: exact for the layer with wrapped boundary."
        )
        if report.bounds != "none":
            yield (
                "own padding: proven interval for the layer with it (= exact). "
                "any size: proven upper bound for every input size."
            )
    yield from uncertain(report.layers)
    if any(options(layer) for layer in report.layers):
        yield "options: s stride, d dilation, g groups."
    yield from assumptions(report.layers)


def uncertain(layers: Sequence[LayerReport]) -> Iterator[str]:
    """The footnotes of numbers that are estimates, and of zeros that are left out."""
    known = [(layer.name, layer.torus) for layer in layers if layer.torus is not None]
    yield from with_names(
        (
            "sampled: a part of the frequencies stands for all. a ±e is an estimate, off by at most e, "
            "proven; >= and <= are proven, the other side is not known.",
            name,
        )
        for name, torus in known
        if torus.sampled
    )
    if any(torus.ranges and not torus.sampled for _, torus in known):
        yield "±, >= and <= where nothing is sampled: what rounding leaves open, proven."
    yield from with_names(
        (
            f"no tap reads a part of the input: {torus.structural_zeros:,} singular values that are 0 for it "
            "are left out of smallest and condition.",
            name,
        )
        for name, torus in known
        if torus.structural_zeros
    )


def assumptions(layers: Iterable[Any]) -> Iterator[str]:
    """The footnote of the layers whose geometry the file does not state."""
    assumed = {field: None for layer in layers for field in layer.assumed}
    if assumed:
        yield f"* assumed, as the file does not state it: {', '.join(assumed)}."


def _reasons(report: Report) -> Iterator[str]:
    left = (layer for layer in report.layers if layer.status != "ok")
    yield from with_names((f"{layer.status}: {layer.reason}", layer.name) for layer in left)


def not_read(unread: Iterable[Unread]) -> Iterator[str]:
    """What may be a layer and was not read, and why."""
    named = (
        (f"not read: {one.reason}", one.name if one.shape is None else f"{one.name} ({sizes(one.shape)})")
        for one in unread
    )
    yield from with_names(named)


def with_names(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Each reason once, with the names of the layers that it concerns."""
    concerned: dict[str, list[str]] = {}
    for reason, name in pairs:
        concerned.setdefault(reason, []).append(name)
    for reason, names in concerned.items():
        listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        yield f"{listed}: {reason}"
