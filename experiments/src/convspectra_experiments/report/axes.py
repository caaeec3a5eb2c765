"""Panels, axes and legends of the experiments' figures, light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from convspectra.report.pictures import canvas

DARK: dict[Any, Any] = {
    "figure.facecolor": "#14171a",
    "axes.facecolor": "#14171a",
    "text.color": "#e6e9ec",
    "axes.labelcolor": "#e6e9ec",
    "axes.titlecolor": "#e6e9ec",
    "axes.edgecolor": "#9aa4ae",
    "xtick.color": "#9aa4ae",
    "ytick.color": "#9aa4ae",
    "xtick.labelcolor": "#e6e9ec",
    "ytick.labelcolor": "#e6e9ec",
}
"""What a dark figure sets beside the style of all figures."""


def panels(width: float, height: float, rows: int, columns: int, dark: bool) -> tuple[Any, list[Any]]:
    """A figure and its panels, row by row."""
    figure, axes = canvas(width, height, rows, columns)
    figure.get_layout_engine().set(w_pad=0.07)
    found = list(axes.ravel()) if rows * columns > 1 else [axes]
    for one in found:
        one.grid(color="#333a41" if dark else "#dddddd")
    return figure, found


def foreground(dark: bool) -> str:
    return "#e6e9ec" if dark else "#1b1f24"


def legend(figure: Any, labels: Iterable[str], styles: Iterable[dict[str, Any]]) -> None:
    """On the right of all panels, one line for each style."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], **{"linewidth": 1.6, "markersize": 4, **style}) for style in styles]
    made = figure.legend(handles, list(labels), loc="outside right center", frameon=False, fontsize=7)
    for text in made.get_texts():
        text.set_parse_math(False)


def percent(axes: Any, values: Iterable[float], axis: Literal["x", "y"] = "y") -> None:
    """Shares as percentages, logarithmic where they span more than a factor of two."""
    logarithmic(axes, values, axis, label=lambda value: f"{100 * value:g} %", most=1.0)


def logarithmic(
    axes: Any,
    values: Iterable[float],
    axis: Literal["x", "y"] = "y",
    *,
    label: Callable[[float], str] = lambda value: f"{value:g}",
    count: int = 10,
    most: float = math.inf,
) -> None:
    """A logarithmic axis with at most `count` round labels; linear below a factor of two, or with zeros.

    Arguments:
        most: the axis ends here, unless a value lies above.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    its, known = getattr(axes, f"{axis}axis"), list(values)
    its.set_major_formatter(FuncFormatter(lambda value, _: label(round(value, 12))))
    if not known or min(known) <= 0 or max(known) <= 2 * min(known):
        return
    low, high = min(known) / 1.1, max(known) * 1.1
    getattr(axes, f"set_{axis}scale")("log")
    getattr(axes, f"set_{axis}lim")(low, max(min(high, most), max(known)))
    its.set_major_locator(FixedLocator(_round_numbers(low, high, count)))
    its.set_minor_locator(NullLocator())
    its.set_major_formatter(FuncFormatter(lambda value, _: label(value)))


def _round_numbers(low: float, high: float, count: int) -> list[float]:
    """At most `count` of them, as evenly as round numbers lie."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every: list[tuple[int, tuple[float, ...]]] = [
        (1, (1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)),
        (1, (1, 1.5, 2, 3, 5, 7)),
        (1, (1, 2, 5)),
        (1, (1, 3)),
    ]
    every += [(step, (1,)) for step in range(1, len(powers) + 1)]
    for step, digits in every:
        ticks = [digit * 10.0**power for power in powers if power % step == 0 for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= count:
            return ticks
    return []


def whole_epochs(axes: Any, label: bool = True) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel("epoch" if label else "")


def ramp(figure: Any, axes: Any, shades: Sequence[str], height: float = 1.0) -> None:
    """The colours from input to output, beside some panels.

    Arguments:
        height: of the bar, as a share of theirs.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap

    colours = ScalarMappable(cmap=LinearSegmentedColormap.from_list("layers", list(shades)))
    bar = figure.colorbar(colours, ax=axes, ticks=[0, 1], pad=0.02, aspect=30, shrink=height, anchor=(0, 1))
    bar.ax.set_yticklabels(["input", "output"])
    bar.outline.set_visible(False)
