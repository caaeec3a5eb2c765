"""What `convspectra bench` found: tables in a terminal, figure 1 as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from convspectra.report.files import atomic

from ..bench import bounds, models, projections
from ..bench.spectra import Results
from ..bench.training_steps import TrainingCost

_MARKS = {
    "dense matrix": ("#888888", "s"),
    "two lines, NumPy": ("#3b528b", "o"),
    "two lines, torch": ("#21918c", "^"),
    "half grid, LAPACK": ("#5ec962", "D"),
    "convspectra": ("#440154", "*"),
}


def render(results: Results, console: Console) -> None:
    """Print everything."""
    _render_machine(results.machine, console)
    titles = {
        "spectrum": "All singular values, float32; times faster than the first of each group",
        "norm": "The norm alone; times faster than all singular values",
    }
    for kind, title in titles.items():
        numbers = ["milliseconds", "ratio", "lowest", "highest", "error", "of matmul rate"]
        table = _table(console, title, ["layer", "method"], numbers)
        last = ""
        for row in results.rows:
            if row.kind != kind:
                continue
            middle, low, high = row.ratio
            table.add_row(
                row.case if row.case != last else "",
                row.method,
                f"{sorted(row.seconds)[len(row.seconds) // 2] * 1e3:.2f}",
                f"{middle:.1f}",
                f"{low:.1f}",
                f"{high:.1f}",
                f"{row.error:+.0e}" if kind == "norm" else f"{row.error:.0e}",
                "" if row.rate is None else f"{row.rate:.0%}",
            )
            last = row.case
        console.print(table)
    console.print("\nScaling of convspectra, seconds", style="bold", highlight=False)
    for entry in results.scaling:
        console.print(f"{entry['what']}: {entry['seconds']:.4f}", highlight=False)
    for entry in results.memory:
        console.print(
            f"memory beyond input and output, {entry['case']}: {entry['beyond_mib']:.0f} MiB "
            f"(output {entry['output_mib']:.0f} MiB)",
            highlight=False,
        )


def render_projections(results: projections.Results, console: Console) -> None:
    """Print everything about projections."""
    _render_machine(results.machine, console)
    title = "Clips, float32; times faster than appendix A of the paper; norm by the limit"
    numbers = ["milliseconds", "ratio", "lowest", "highest", "error", "norm after"]
    table, last = _table(console, title, ["layer", "method"], numbers), ""
    for row in results.clips:
        group = f"{row.case}, limit {row.limit:g} of the norm"
        table.add_row(
            group if group != last else "",
            row.method,
            f"{sorted(row.seconds)[len(row.seconds) // 2] * 1e3:.2f}",
            *(f"{number:.1f}" for number in row.ratio),
            "" if row.error is None else f"{row.error:.0e}",
            f"{row.norm:.4f}",
        )
        last = group
    console.print(table)
    title = f"The nearest kernel, half the norm, float64, to a gap of {projections.GAP:g}"
    numbers = ["seconds", "sweeps", "gap", "times faster than Dykstra", "distance"]
    table, last = _table(console, title, ["layer", "method"], numbers), ""
    for one in results.nearest:
        table.add_row(
            one.case if one.case != last else "",
            one.method.replace("_", " "),
            f"{one.seconds:.2f}",
            str(one.sweeps),
            f"{one.gap:.1e}",
            f"{one.ratio:.1f}",
            f"{one.distance:.1e}",
        )
        last = one.case
    console.print(table)
    if results.training:
        _render_training(results.training, console)


def render_bounds(results: bounds.Results, console: Console) -> None:
    """Print everything about bounds."""
    _render_machine(results.machine, console)
    numbers = ["layers", "upper / norm", "loosest", "lower / norm", "milliseconds"]
    table = _table(console, "All layers: medians", ["padding", "method"], numbers)
    last = ""
    for one in results.summary:
        table.add_row(
            one.padding if one.padding != last else "",
            one.method,
            str(one.layers),
            *(_ratio(number) for number in (one.upper, one.loosest, one.lower)),
            f"{one.seconds * 1e3:.2f}",
        )
        last = one.padding
    console.print(table)
    numbers = ["upper / norm", "lower / norm", "milliseconds"]
    table = _table(console, "Each layer", ["layer", "method", "claims"], numbers)
    first, headings = 0, [""]
    for place, row in enumerate(results.rows):
        before = results.rows[place - 1] if place else None
        if before is None or (row.layer, row.padding) != (before.layer, before.padding):
            # One side where nothing is seen of the difference.
            sides = dict.fromkeys(f"{side:.5g}" for side in row.norm)
            first, headings = place, [row.layer, f"  {row.padding}, norm {' to '.join(sides)}"]
        table.add_row(
            headings[place - first] if place - first < len(headings) else "",
            row.method,
            row.kind,
            _ratio(row.upper),
            _ratio(row.lower),
            f"{row.seconds * 1e3:.2f}",
        )
    console.print(table)


def render_models(results: models.Results, console: Console) -> None:
    """Print what the analysis of each network takes."""
    _render_machine(results.machine, console)
    numbers = ["layers", "sampled", "weights", "estimated", "seconds", "goal", "bounds", "MB"]
    table = _table(
        console, "Analyses of whole networks; estimated: seconds of one core", ["network"], numbers
    )
    for row in results.rows:
        table.add_row(
            row.name,
            str(row.layers),
            str(row.sampled),
            f"{row.weights:,}",
            f"{row.estimated:.2f}",
            f"{row.seconds:.2f}",
            "" if row.goal is None else f"{row.goal:g}",
            f"{row.share_of_bounds:.0%}",
            f"{row.megabytes:.0f}",
        )
    console.print(table)


def _ratio(number: float | None) -> str:
    return "" if number is None else f"{number:.4f}"


def _render_training(costs: list[TrainingCost], console: Console) -> None:
    title = "Training; what the clip of all layers adds to a step"
    numbers = ["step, s", "clip, s", "every=1", "every=100", "norm after"]
    table, last = _table(console, title, ["network", "way", "device"], numbers), ""
    for cost in costs:
        table.add_row(
            cost.training if cost.training != last else "",
            cost.way,
            cost.device,
            f"{cost.step:.3f}",
            f"{cost.later:.3f}",
            f"{cost.every_1:.1%}",
            f"{cost.every_100:.2%}",
            f"{cost.norm:.3f}",
        )
        last = cost.training
    console.print(table)


def _render_machine(machine: dict[str, Any], console: Console) -> None:
    for name, value in machine.items():
        console.print(f"{name.replace('_', ' ')}: {value}", highlight=False, markup=False)


def _table(console: Console, title: str, words: list[str], numbers: list[str]) -> Table:
    console.print(f"\n{title}", style="bold", highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in words:
        table.add_column(heading, no_wrap=True)
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def draw(results: Results, path: Path) -> None:
    """Figure 1: seconds over channels, one panel a kind of layer, as PNG."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}
    with mpl.rc_context(style):
        figure = Figure(figsize=(3.4 * len(results.curves), 3.0), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, len(results.curves), squeeze=False)[0]
        for axes, (name, curves) in zip(panels, results.curves.items(), strict=True):
            for method, points in curves.items():
                colour, marker = _MARKS[method]
                axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=4, label=method)
            ticks = sorted({count for points in curves.values() for count, _ in points})
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xticks(ticks, [str(count) for count in ticks])
            axes.grid(color="#dddddd", linewidth=0.5)
            axes.set_axisbelow(True)
            axes.set_title(name, fontsize=8)
            axes.set_xlabel("input and output channels")
        panels[0].set_ylabel("seconds")
        panels[0].legend(fontsize=6.5, frameon=False)
        with atomic(path) as file:
            figure.savefig(file, format="png", dpi=200, metadata={"Software": None})
