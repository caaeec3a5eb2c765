"""The figures of training as PNG; `curves` and `boundary_pictures` have the others."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from convspectra.report.figures import colour
from convspectra.report.pictures import write_figures

from ..studies.results import Experiment, Findings, Group, Limit, Sample
from . import benchmarks, boundary_pictures, curves
from .axes import DARK, foreground, legend, logarithmic, panels, percent, ramp, whole_epochs

DOTS, FIGURE1_DOTS = 300, 200
"""Dots an inch: of what `pictures.write_figures` writes, and of what `benchmarks.draw` does."""

_MARKERS = "os^Dv*Pd<>"


@dataclass(frozen=True)
class Picture:
    """One figure; `draw` is None of figure 1, which has no dark version. It is told whether to draw dark."""

    name: str
    draw: Callable[[bool], Any] | None


def pictures(experiment: Experiment) -> list[Picture]:
    """The figures for which an experiment has results so far."""
    groups = [group for group in experiment.groups if group.curve]
    name = experiment.name
    found: list[tuple[str, bool, Callable[..., Any]]] = []
    if name == "figure2":
        fresh = [group for group in groups if any(point.test_error_recomputed for point in group.curve)]
        found = [
            (name, bool(groups), partial(_training, groups)),
            ("figure2-recomputed", bool(fresh), partial(_training, fresh, value="test_error_recomputed")),
        ]
    elif name in ("figure3a", "figure3b"):
        found = [(name, bool(experiment.limits), partial(_sweep, experiment.limits))]
    elif name == "figure4":
        found = [(name, bool(groups), partial(_against_time, groups))]
    elif name == "variations":
        ended = [group for group in groups if group.test_error is not None]
        found = [(name, bool(ended), partial(_errors, ended))]
    elif name == "section44":
        found = [(name, bool(groups), partial(_by_limit, groups))]
    elif name == "beyond":
        observed = [group for group in groups if group.observed is not None]
        attacked = [group for group in groups if group.attack]
        ended = [group for group in groups if group.test_error is not None]
        found = [
            (name, bool(ended), partial(_errors, ended)),
            ("beyond-layers", bool(observed), partial(_layers, observed)),
            ("beyond-attack", bool(attacked), partial(_attack, attacked)),
        ]
    elif experiment.boundary is not None:
        found = [
            (name, True, partial(boundary_pictures.distances, experiment.boundary)),
            ("boundary-norms", True, partial(boundary_pictures.norms, experiment.boundary)),
        ]
    elif experiment.spectra is not None:
        found = [(name, True, partial(curves.draw, experiment.spectra, name))]
    shown = [Picture(name, draw) for name, is_there, draw in found if is_there]
    return [Picture(name, None)] if experiment.timings is not None else shown


def write(findings: Findings, folder: Path) -> Iterator[Path]:
    """Write `<name>.png` of everything there is; yields each path when written.

    Raises:
        InputError: the disk refuses.
    """
    for experiment in findings.experiments:
        found = pictures(experiment)
        if experiment.timings is not None:
            path = folder / f"{experiment.name}.png"
            benchmarks.draw(experiment.timings, path)
            yield path
        light = {one.name: partial(one.draw, False) for one in found if one.draw is not None}
        yield from write_figures(light, folder, "png")


def dark(findings: Findings) -> dict[str, bytes]:
    """The same as bytes, for a dark page, without figure 1."""
    import matplotlib as mpl

    found = [one for experiment in findings.experiments for one in pictures(experiment)]
    wanted = {one.name: partial(one.draw, True) for one in found if one.draw is not None}
    with tempfile.TemporaryDirectory() as folder, mpl.rc_context(DARK):
        return {path.stem: path.read_bytes() for path in write_figures(wanted, Path(folder), "png")}


def small(png: bytes) -> bytes:
    """The same picture in 128 colours, a third of the size: for a page that holds all of them twice."""
    from PIL import Image

    made = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        few = picture.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    few.save(made, "png", optimize=True)
    return made.getvalue()


def _shades(groups: Sequence[Group], dark: bool) -> list[str]:
    """Grey without control, as in the paper; the others from dark to light."""
    free = [group.name == "no clipping" or _method(group) == "none" for group in groups]
    last = max(1, len(groups) - sum(free) - 1)
    ranks = iter(range(len(groups)))
    return ["#8a8f95" if is_free else colour(next(ranks) / last, dark) for is_free in free]


def _method(group: Group) -> str:
    return "" if group.control is None else group.control.method


def _label(group: Group) -> str:
    """The group's name, and of how many runs it is told while some are missing."""
    words = [group.name]
    if group.finished < len(group.runs):
        words.append(f"({group.finished} of {len(group.runs)} finished)")
    if group.diverged:
        words.append(f"({group.diverged} diverged)")
    return "\n".join(words)


def _line(
    axes: Any,
    group: Group,
    shade: str,
    value: Literal["train_loss", "test_error", "test_error_recomputed"],
    x: Callable[[Any], float] = lambda point: float(point.epoch),
) -> list[float]:
    """Mean with a band of one standard deviation; dotted where seeds are missing. Returns what it spans."""
    points = [(point, sample) for point in group.curve if (sample := getattr(point, value)) is not None]
    if not points:
        return []
    places = [x(point) for point, _ in points]
    means = [sample.mean for _, sample in points]
    spreads = [sample.deviation or 0.0 for _, sample in points]
    whole = sum(point.runs == len(group.runs) for point, _ in points)
    style: dict[str, Any] = {"color": shade, "linewidth": 1.1, "marker": "o" if len(points) == 1 else None}
    axes.plot(places[:whole], means[:whole], **style)
    # From the last whole point on, so that the two pieces meet.
    axes.plot(places[max(0, whole - 1) :], means[max(0, whole - 1) :], linestyle=(0, (1, 1.2)), **style)
    # Where the band reaches zero it goes on to the lower end of a logarithmic axis, which the means set.
    low = [max(mean - spread, 1e-9) for mean, spread in zip(means, spreads, strict=True)]
    high = [mean + spread for mean, spread in zip(means, spreads, strict=True)]
    axes.fill_between(places, low, high, color=shade, alpha=0.2, linewidth=0)
    return [*means, *high]


def _training(
    groups: Sequence[Group],
    dark: bool,
    value: Literal["test_error", "test_error_recomputed"] = "test_error",
) -> Any:
    """Figure 2."""
    figure, (left, right) = panels(7.2, 2.8, 1, 2, dark)
    shades = _shades(groups, dark)
    losses: list[float] = []
    errors: list[float] = []
    for group, shade in zip(groups, shades, strict=True):
        losses += _line(left, group, shade, "train_loss")
        errors += _line(right, group, shade, value)
    logarithmic(left, losses)
    percent(right, errors)
    for axes, what in ((left, "training loss"), (right, "test error")):
        whole_epochs(axes)
        axes.set_ylabel(what)
    legend(figure, map(_label, groups), ({"color": shade} for shade in shades))
    return figure


def _against_time(groups: Sequence[Group], dark: bool) -> Any:
    """Figure 4, over seconds of the processor where every epoch has them."""
    counted = all(point.total_processor_seconds for group in groups for point in group.curve)

    def until(point: Any) -> float:
        return float((point.total_processor_seconds if counted else point.total_seconds).mean)

    times = [until(point) for group in groups for point in group.curve]
    unit, divisor = next(
        (unit, size)
        for unit, size in (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))
        if max(times, default=0.0) > 2 * size or size == 1.0
    )
    figure, (axes,) = panels(5.2, 2.9, 1, 1, dark)
    shades = _shades(groups, dark)
    errors: list[float] = []
    for group, shade in zip(groups, shades, strict=True):
        errors += _line(axes, group, shade, "test_error", lambda point: until(point) / divisor)
    percent(axes, errors)
    axes.set_xlabel(f"{'processor' if counted else 'training'} time, {unit}")
    axes.set_ylabel("test error")
    axes.set_xlim(left=0)
    legend(figure, map(_label, groups), ({"color": shade} for shade in shades))
    return figure


def _sweep(limits: Sequence[Limit], dark: bool) -> Any:
    """Figures 3a and 3b: one column of points for each limit."""
    figure, (axes,) = panels(5.6, 3.2, 1, 1, dark)
    rates = sorted({trial.rate for limit in limits for trial in limit.trials})
    shade = {rate: colour(i / max(1, len(rates) - 1), dark) for i, rate in enumerate(rates)}
    for place, limit in enumerate(limits):
        for index, trial in enumerate(limit.trials):
            # Steps of the golden ratio spread points over a column, equal on every run.
            x = place + 0.56 * ((index * 0.6180339887) % 1 - 0.5)
            mark = "x" if trial.diverged else "o"
            axes.plot(x, trial.error, mark, color=shade[trial.rate], markersize=3.4, markeredgewidth=0.9)
        axes.hlines(limit.quartiles[1], place - 0.36, place + 0.36, color=foreground(dark), linewidth=1.2)
        note = f"{100 * limit.best:.1f} %"
        style: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "top", "fontsize": 7}
        style["bbox"] = {"facecolor": axes.get_facecolor(), "edgecolor": "none", "pad": 0.6}
        axes.annotate(note, (place, limit.best), xytext=(0, -5), **style)
    errors = [trial.error for limit in limits for trial in limit.trials]
    # Room for the labels below the best.
    percent(axes, [*errors, 0.82 * min(errors)])
    if axes.get_yscale() == "linear":
        low, high = axes.get_ylim()
        axes.set_ylim(bottom=low - 0.08 * (high - low))
    axes.set_xticks(range(len(limits)), [_limit(limit.limit) for limit in limits])
    axes.set_xlim(-0.6, len(limits) - 0.4)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("limit of the norms")
    axes.set_ylabel("test error")
    styles = ({"color": one, "marker": "o", "linewidth": 0} for one in shade.values())
    legend(figure, (f"rate {rate:g}" for rate in rates), styles)
    return figure


def _limit(limit: float | None) -> str:
    return "none" if limit is None else f"{limit:g}"


def _by_limit(groups: Sequence[Group], dark: bool) -> Any:
    """Section 4.4: accuracy and time of each way over its limits."""
    from matplotlib.ticker import NullLocator

    figure, (left, right) = panels(7.2, 2.8, 1, 2, dark)
    series: dict[tuple[str, int], list[Group]] = {}
    for group in groups:
        if group.control is not None and group.control.limit is not None:
            series.setdefault((group.control.method, group.control.every), []).append(group)
    methods = list(dict.fromkeys(method for method, _ in series))
    free = [group for group in groups if _method(group) == "none"]
    spans: dict[str, list[float]] = {"test_error": [], "epoch_seconds": []}
    labels: list[str] = []
    styles: list[dict[str, Any]] = []
    for index, ((method, every), members) in enumerate(series.items()):
        shade = colour(0.75 * methods.index(method) / max(1, len(methods) - 1), dark)
        dashes: Any = (0, (3, 1.5)) if every == 1 else "-"
        labels.append(f"{_WORDS.get(method, method)}, every {'step' if every == 1 else f'{every} steps'}")
        styles.append({"color": shade, "marker": _MARKERS[index], "linestyle": dashes, "linewidth": 1})
        for axes, value in ((left, "test_error"), (right, "epoch_seconds")):
            # Side by side, so that the error bars of the ways can be told apart.
            shift = 1 + 0.03 * (index - (len(series) - 1) / 2)
            spans[value] += _bars(axes, members, value, shift, styles[-1])
    for axes, value in ((left, "test_error"), (right, "epoch_seconds")):
        for group in free:
            if (sample := getattr(group, value)) is not None:
                axes.axhline(sample.mean, color="#8a8f95", linewidth=1)
                spans[value].append(sample.mean)
        axes.set_xlabel("limit")
        limits = sorted({group.control.limit for group in groups if group.control and group.control.limit})
        axes.set_xscale("log")
        axes.set_xticks(limits, [f"{limit:g}" for limit in limits])
        axes.xaxis.set_minor_locator(NullLocator())
    percent(left, spans["test_error"])
    left.set_ylabel("test error")
    right.set_ylabel("training, seconds an epoch")
    right.set_ylim(0, 1.05 * max(spans["epoch_seconds"], default=1.0))
    styles += [{"color": "#8a8f95"} for _ in free]
    legend(figure, [*labels, *(group.name for group in free)], styles)
    return figure


_WORDS = {"clip": "exact clip", "reshaped": "reshaped"}


def _bars(
    axes: Any, members: Sequence[Group], value: str, shift: float, style: Mapping[str, Any]
) -> list[float]:
    """Means with error bars over the limits; returns what they span."""
    points: list[tuple[float, Sample]] = []
    for group in members:
        sample = getattr(group, value)
        if sample is not None and group.control is not None and group.control.limit is not None:
            points.append((group.control.limit * shift, sample))
    points.sort(key=lambda point: point[0])
    if not points:
        return []
    means = [sample.mean for _, sample in points]
    spreads = [sample.deviation or 0.0 for _, sample in points]
    axes.errorbar(
        [x for x, _ in points], means, yerr=spreads, elinewidth=0.8, capsize=2, markersize=4, **style
    )
    return [*means, *(mean + spread for mean, spread in zip(means, spreads, strict=True))]


def _errors(groups: Sequence[Group], dark: bool) -> Any:
    """Beyond the paper: the error of each way, a point for each seed."""
    figure, (axes,) = panels(5.6, 0.27 * len(groups) + 0.8, 1, 1, dark)
    shades = _shades(groups, dark)
    errors = []
    for y, (group, shade) in enumerate(zip(groups, shades, strict=True)):
        for run in group.runs:
            if run.result is not None:
                mark = "x" if run.result.diverged else "o"
                axes.plot(run.result.test_error, y, mark, color=shade, markersize=4, alpha=0.75)
                errors.append(run.result.test_error)
        if group.test_error is not None:
            axes.vlines(group.test_error.mean, y - 0.3, y + 0.3, color=foreground(dark), linewidth=1.4)
    percent(axes, errors, "x")
    axes.set_yticks(
        range(len(groups)), [_label(group).replace("\n", " ") for group in groups], parse_math=False
    )
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.set_xlabel("test error")
    return figure


def _layers(groups: Sequence[Group], dark: bool) -> Any:
    """Beyond the paper: what becomes of each layer over training, one row for each way."""
    figure, grid = panels(7.2, 1.35 * len(groups) + 0.6, len(groups), 3, dark)
    titles = {
        "largest": "largest singular value",
        "smallest": "smallest",
        "gradient_norm": "norm of the gradient",
    }
    spans: dict[str, list[float]] = {value: [] for value in titles}
    for row, group in enumerate(groups):
        epochs = [] if group.observed is None else [e for e in group.observed.epochs if e.layers]
        names = [layer.name for layer in epochs[0].layers]
        for axes, value in zip(grid[3 * row : 3 * row + 3], titles, strict=True):
            for index, name in enumerate(names):
                found = [(e.epoch, getattr(o, value)) for e in epochs for o in e.layers if o.name == name]
                shown = [(x, y) for x, y in found if y is not None and y > 0]
                if shown:
                    shade = colour(index / max(1, len(names) - 1), dark)
                    mark = "o" if len(shown) == 1 else None
                    axes.plot(
                        *zip(*shown, strict=True), color=shade, linewidth=0.8, marker=mark, markersize=2
                    )
                    spans[value] += [y for _, y in shown]
        grid[3 * row].set_ylabel(group.name.replace(" with ", "\nwith "), fontsize=7, parse_math=False)
    for index, axes in enumerate(grid):
        # One scale a column: the ways are there to be compared.
        value = list(titles)[index % 3]
        logarithmic(axes, spans[value], count=6)
        whole_epochs(axes, label=index >= len(grid) - 3)
        if index < 3:
            axes.set_title(titles[value], fontsize=8)
    ramp(figure, grid, [colour(i / 16, dark) for i in range(17)], height=1 / len(groups))
    return figure


def _distances(axes: Any, radii: Sequence[float]) -> None:
    """Distances along the x axis, logarithmic beyond the smallest where they span more than a decade."""
    from matplotlib.ticker import NullLocator

    positive = [radius for radius in radii if radius > 0]
    if positive and positive[-1] > 10 * positive[0]:
        axes.set_xscale("symlog", linthresh=positive[0], linscale=0.5)
    axes.set_xticks(radii, [f"{radius:g}" for radius in radii], rotation=45, fontsize=7)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(0, 1.05 * max(radii))


def _attack(groups: Sequence[Group], dark: bool) -> Any:
    """Beyond the paper: error within a distance, by attack and by certificate."""
    from matplotlib.ticker import FuncFormatter

    figure, (left, right) = panels(7.2, 2.8, 1, 2, dark)
    shades = _shades(groups, dark)
    for group, shade, mark in zip(groups, shades, _MARKERS * len(groups), strict=False):
        for axes, value in ((left, "error"), (right, "certified")):
            found = [(one.radius, sample.mean) for one in group.attack if (sample := getattr(one, value))]
            if found:
                style = {"color": shade, "marker": mark, "markersize": 4, "linewidth": 1, "clip_on": False}
                axes.plot(*zip(*found, strict=True), **style)

    for axes, title in ((left, "under attack: lower bound"), (right, "certified: upper bound")):
        axes.set_title(title, fontsize=8)
        axes.set_xlabel("l2 distance")
        axes.set_ylim(0, 1.02)
        _distances(axes, sorted({one.radius for group in groups for one in group.attack}))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    left.set_ylabel("test error")
    marked = zip(shades, _MARKERS * len(groups), strict=False)
    legend(figure, map(_label, groups), ({"color": shade, "marker": mark} for shade, mark in marked))
    return figure
