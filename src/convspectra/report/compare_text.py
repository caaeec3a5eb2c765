"""Two models side by side in a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rich.console import Console

from ..analysis import Comparison, LayerComparison, LayerReport, Report
from .columns import Column, chosen
from .numbers import counted, estimate, percent, upper
from .text import assumptions, layer_table, not_read, plain, uncertain, with_names


def render(comparison: Comparison, console: Console) -> None:
    """Print a comparison."""
    if comparison.layers:
        names = [layer.name + ("*" if _assumed(layer) else "") for layer in comparison.layers]
        bad = [any(one.status == "failed" for one in sides(layer)) for layer in comparison.layers]
        console.print(layer_table(names, comparison.layers, COLUMNS, bad, console.width))
    for line in _footnotes(comparison):
        console.print(plain(line), style="dim", soft_wrap=True, highlight=False)
    console.print(plain(summary(comparison)), style="bold", soft_wrap=True, highlight=False)


def summary(comparison: Comparison) -> str:
    """One line: how many layers match, how many changed, the largest norm before and after."""
    layers = comparison.layers
    both = [layer for layer in layers if layer.match == "both"]
    changed = sum(layer.relative_change != 0 for layer in both)
    parts = [f"{counted(len(both), 'layer')} in both, {changed} changed"]
    reports = (comparison.before, comparison.after)
    wrapped = [_largest_wrapped(report) for report in reports]
    if any(norm != "-" for norm in wrapped):
        parts.append(f"largest norm {arrow(*wrapped)} wrapped")
    padded = [_largest_padded(report) for report in reports]
    if None not in padded:
        parts.append(f"at most {arrow(*map(upper, padded))} with their own padding")
    for match, words in (
        ("other shape", "of another shape"),
        ("only before", "only before"),
        ("only after", "only after"),
    ):
        count = sum(layer.match == match for layer in layers)
        if count:
            parts.append(f"{count} {words}")
    return f"{comparison.before.model} -> {comparison.after.model}: {'; '.join(parts)}."


def _largest_wrapped(report: Report) -> str:
    """The largest norm with wrapped boundary, with its error where it is an estimate."""
    found = max((one.torus for one in report.layers if one.torus), key=lambda torus: torus.norm, default=None)
    return "-" if found is None else estimate(found.norm, found.ranges.get("norm"))


def _largest_padded(report: Report) -> float | None:
    """A bound of the largest norm with the own padding of the layers; None where that of one is unknown."""
    bounds = [layer.as_padded for layer in report.layers]
    known = [bound.upper for bound in bounds if bound is not None and bound.upper is not None]
    return max(known) if known and len(known) == len(bounds) else None


def arrow(before: str, after: str) -> str:
    """What was and what is, once where they are the same."""
    return before if before == after else f"{before} -> {after}"


def sides(layer: LayerComparison) -> list[LayerReport]:
    """The reports of a layer that there are."""
    return [one for one in (layer.before, layer.after) if one is not None]


def change(layer: LayerComparison) -> str:
    """How far the kernel moved."""
    return "same" if layer.relative_change == 0 else percent(layer.relative_change)


def match(layer: LayerComparison) -> str:
    """In which model the layer is, where it is not in both."""
    return "" if layer.match == "both" else layer.match


def _assumed(layer: LayerComparison) -> bool:
    return any(one.assumed for one in sides(layer))


def _paired(column: Column) -> Column:
    """Both sides, `-` for one that is missing; sorted by the side after, else by the one before."""
    return replace(
        column,
        cell=lambda layer: arrow(
            *("-" if one is None else column.cell(one) for one in (layer.before, layer.after))
        ),
        key=lambda layer: column.key(sides(layer)[-1]),
    )


_PRIORITIES = {
    "kernel": 5,
    "norm": 0,
    "smallest": 7,
    "condition": 3,
    "eff. rank": 4,
    "own padding": 8,
    "any size": 2,
}
COLUMNS = (
    *map(_paired, chosen(_PRIORITIES)),
    Column("change", change, 1, key=lambda layer: layer.relative_change),
    Column("", match, 0, right=False, key=lambda layer: layer.match),
)


def _footnotes(comparison: Comparison) -> Iterator[str]:
    found = [one for layer in comparison.layers for one in sides(layer)]
    estimates = ", but for ± >= <=" if any(one.torus and one.torus.ranges for one in found) else ""
    yield (
        f"norm, smallest, condition, effective rank: exact for the layer with wrapped boundary{estimates}. "
        "own padding, any size: proven bounds. change: of the kernel, relative to its Euclidean norm."
    )
    yield from dict.fromkeys(uncertain(found))
    yield from assumptions(found)
    for when, report in (("before", comparison.before), ("after", comparison.after)):
        left = (one for one in report.layers if one.status != "ok")
        yield from with_names((f"{one.status} {when}: {one.reason}", one.name) for one in left)
        yield from (f"{when}: {line}" for line in not_read(report.unread))
        yield from (f"Note, {when}: {note}." for note in report.notes)
