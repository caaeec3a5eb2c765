"""What `convspectra bench` found: tables in a terminal, figure 1 as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..bench import Results
from .files import atomic

_MARKS = {
    "dense matrix": ("#888888", "s"),
    "two lines, NumPy": ("#3b528b", "o"),
    "two lines, torch": ("#21918c", "^"),
    "half grid, LAPACK": ("#5ec962", "D"),
    "convspectra": ("#440154", "*"),
}


def render(results: Results, console: Console) -> None:
    """Print everything."""
    for name, value in results.machine.items():
        console.print(f"{name.replace('_', ' ')}: {value}", highlight=False, markup=False)
    titles = {
        "spectrum": "All singular values, float32; times faster than the first of each group",
        "norm": "The norm alone; times faster than all singular values",
    }
    for kind, title in titles.items():
        console.print(f"\n{title}", style="bold", highlight=False)
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for heading in ("layer", "method"):
            table.add_column(heading, no_wrap=True)
        for heading in ("milliseconds", "ratio", "lowest", "highest", "error", "of matmul rate"):
            table.add_column(heading, justify="right", no_wrap=True)
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
