"""What an analysis is expected to take, in a terminal."""

from __future__ import annotations

from collections import Counter
from decimal import ROUND_HALF_EVEN, Context

from rich.console import Console

from .._solvers.pool import available_cores
from ..analysis import LayerPlan, Plan
from .columns import Column
from .numbers import counted, sizes
from .text import MARK, layer_table, plain, with_names


def render(plan: Plan, console: Console) -> None:
    """Print a plan."""
    if plan.layers:
        names = [layer.name for layer in plan.layers]
        bad = [layer.status == "failed" for layer in plan.layers]
        console.print(layer_table(names, plan.layers, _COLUMNS, bad, console.width))
    left = (layer for layer in plan.layers if layer.status != "ok")
    for line in with_names((f"{layer.status}: {layer.reason}", layer.name) for layer in left):
        console.print(plain(line), style="dim", soft_wrap=True, highlight=False)
    console.print(plain(summary(plan)), style="bold", soft_wrap=True, highlight=False)


def summary(plan: Plan) -> str:
    """One line: what all layers take, and what cannot be had."""
    cores = available_cores()
    parts = [
        f"{plan.model}: {counted(len(plan.layers), 'layer')}, nothing computed",
        f"estimated {_short(plan.seconds)} s of one core, {_short(plan.seconds / cores)} s on "
        f"{counted(cores, 'core')}, and {_megabytes(plan.memory)} MB for the largest layer",
    ]
    count = Counter(layer.status for layer in plan.layers)
    parts += [f"{count[status]} {status}" for status in ("partial", "skipped", "failed") if count[status]]
    return "; ".join(parts) + ("." if plan.complete else "; the report will not be complete.")


def _short(value: float) -> str:
    """Two digits, as much as an estimate has."""
    return f"{float(Context(prec=2, rounding=ROUND_HALF_EVEN).create_decimal(value)):g}"


def _megabytes(value: float) -> str:
    return _short(value / 1e6)


_COLUMNS = (
    Column("kind", lambda layer: layer.kind, 3, right=False),
    Column("kernel", lambda layer: sizes(layer.kernel_shape), 2),
    Column("input", lambda layer: sizes(layer.input_shape), 1),
    Column("spectrum", lambda layer: layer.spectrum, 4, right=False),
    Column("seconds", lambda layer: "-" if _is_cut(layer) else _short(layer.seconds)),
    Column("MB", lambda layer: "-" if _is_cut(layer) else _megabytes(layer.memory)),
    Column("status", lambda layer: MARK[layer.status], right=False),
)


def _is_cut(layer: LayerPlan) -> bool:
    """Whether nothing of the layer will be computed."""
    return layer.refused != "" or layer.status == "failed"
