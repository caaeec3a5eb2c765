"""How much a network can stretch, in a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console

from ..network import LipschitzReport, NodeBound, OutputBound
from ..network.complexity import SOURCE
from ..network.records import ASSUMES, LOWER_ASSUMES, Complexity, Gains, Margins
from .columns import Column
from .numbers import counted, lower, number, percent, sizes, upper
from .text import layer_table, plain


def render(report: LipschitzReport, console: Console) -> None:
    """Print a report: the nodes that do not keep lengths, then what is known of each output."""
    shown = [node for node in report.nodes if not _is_plain(node)]
    if shown:
        names = [node.name + ("" if node.on_worst_path else "*") for node in shown]
        console.print(layer_table(names, shown, _columns(report), [False] * len(shown), console.width))
    for line in _footnotes(report, len(report.nodes) - len(shown)):
        console.print(plain(line), style="dim", soft_wrap=True, highlight=False)
    for line in signals(report):
        console.print(plain(line), soft_wrap=True, highlight=False)
    for line in summary(report):
        console.print(plain(line), style="bold", soft_wrap=True, highlight=False)


def signals(report: LipschitzReport) -> Iterator[str]:
    """The spectral complexity, and what was seen of margins and gains."""
    if report.complexity.layers:
        yield _complexity(report.complexity)
    if report.margins is not None:
        yield from _margins(report.margins)
    if report.gains is not None:
        yield _gains(report.gains)


def _complexity(found: Complexity) -> str:
    exponent = "" if found.log10 is None else f" (10^{found.log10:.2f})"
    text = (
        f"Spectral complexity R_A <= {upper(found.value)}{exponent}: {upper(found.product)} times "
        f"{number(found.correction)} from the (2,1) norms of {counted(len(found.layers), 'layer')}"
    )
    if found.status == "theorem":
        return f"{text}, as in {SOURCE}."
    return f"{text}. An analogue: the theorem of {SOURCE} is not about {', '.join(found.departures)}."


def _margins(found: Margins) -> Iterator[str]:
    share = percent(found.correct / found.examples)
    text = (
        f"Margins of {found.output} at {counted(found.examples, 'input')}: {share} of the labels come first"
    )
    if found.left_out:
        text += f"; {counted(found.left_out, 'input')} left out, whose output is not finite"
    if found.quantiles:
        text += f"; {_levels(found.quantiles)}"
    yield f"{text}."
    if found.normalised is not None:
        yield f"Relative to R_A ||X||_F / n, at least as far from 0: {_levels(found.normalised)}."


def _levels(quantiles: Mapping[float, float]) -> str:
    words = {0.0: "least", 0.5: "median", 1.0: "largest"}
    return ", ".join(f"{word} {number(quantiles[level])}" for level, word in words.items())


def _gains(found: Gains) -> str:
    what = counted(found.points, "given point" if found.given else "drawn point")
    sides = (
        f"forward {_range([layer.forward.median for layer in found.layers])}",
        f"backward {_range([layer.backward.median for layer in found.layers])}",
        f"of noise {_range([layer.white_forward for layer in found.layers])}",
    )
    return (
        f"Gains of {counted(len(found.layers), 'layer')} at {what}, medians from layer to layer: "
        f"{', '.join(sides)}; "
        f"norms {_range([layer.upper for layer in found.layers])}."
    )


def _range(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{number(min(known))} to {number(max(known))}" if known else "none"


def summary(report: LipschitzReport) -> Iterator[str]:
    """A line an output, and one for all that have a bound together."""
    several = len(report.outputs) > 1
    for one in (*report.outputs, *([report.joint] if several else [])):
        yield f"{report.model}: {one.name} ({sizes(one.shape)}): {_interval(one)}."
    for name, reason in report.refused.items():
        yield f"{report.model}: {name} has no bound: it {reason}."


def _interval(one: OutputBound) -> str:
    top = f"L <= {upper(one.upper)}" if math.isfinite(one.upper) else "L <= inf, beyond the floating range"
    return top if one.lower is None else f"{lower(one.lower)} <= {top}"


def _is_plain(node: NodeBound) -> bool:
    return node.constant == 1 and abs(node.gain - 1) < 1e-9


def _columns(report: LipschitzReport) -> tuple[Column, ...]:
    total = sum(abs(math.log(node.gain)) for node in report.nodes if node.on_worst_path and _counts(node))

    def share(node: NodeBound) -> str:
        if not node.on_worst_path or not _counts(node) or not total:
            return "-"
        return percent(math.log(node.gain) / total)

    return (
        Column("operator", lambda node: node.operator, 3, right=False),
        Column("constant", lambda node: upper(node.constant), 0),
        Column("gain", lambda node: number(node.gain), 2),
        Column("share", share, 1),
        Column("up to here", lambda node: upper(node.upper), 1),
        Column("from", lambda node: node.how, 4, right=False),
    )


def _counts(node: NodeBound) -> bool:
    return 0 < node.gain < math.inf


def _footnotes(report: LipschitzReport, plain: int) -> Iterator[str]:
    yield (
        "constant: proven for the node alone. up to here: proven with respect to the network's input. gain: "
        "the latter relative to that of its largest input; share: of its logarithm along the worst path."
    )
    if any(not node.on_worst_path for node in report.nodes):
        yield "* not on the path whose bound is largest."
    if any("scale in front" in node.how for node in report.nodes):
        yield "with a scale in front: the gain is with the scale of channels before the node taken into it."
    if plain:
        yield f"{counted(plain, 'node')} of constant 1 not shown."
    yield f"Product of the constants along that path: {upper(report.path_product)}."
    yield f"Upper bounds: {ASSUMES}."
    if report.points:
        yield f"Lower bounds, the largest at {counted(report.points, 'point')}: {LOWER_ASSUMES}."
    yield from (f"Note: {note}." for note in report.notes)
