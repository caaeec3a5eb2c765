"""The tables of the experiments' page: what was found, and the settings beside the paper's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convspectra.report.numbers import number, one_or_all, sizes

from ..studies.boundary import Boundary, Value
from ..studies.catalogue import SWEEPS
from ..studies.distances import SHOWN
from ..studies.network_spectra import Spectra
from ..studies.results import Experiment, Group, Limit, Sample
from ..training.run_records import Run
from ..training.settings import Settings
from .paper import PAPER

UNKNOWN = "-"
BATCHES = 10_000
"""Of so many batches the paper gives the time."""


@dataclass(frozen=True)
class Table:
    """Text in rows.

    Attributes:
        heads: of the columns; the first column names the row, the others hold numbers.
        wrapped: words that may break over lines, instead of numbers.
    """

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    wrapped: bool = False


def share(value: float | None) -> str:
    """An error as a percentage with two decimals."""
    return UNKNOWN if value is None else f"{100 * value:.2f} %"


def error(sample: Sample | None) -> str:
    """Mean and standard deviation of errors, or the one that there is."""
    if sample is None:
        return UNKNOWN
    if sample.deviation is None:
        return share(sample.mean)
    return f"{100 * sample.mean:.2f} ± {100 * sample.deviation:.2f} %"


def measured(sample: Sample | None, factor: float = 1.0) -> str:
    """Mean and standard deviation to three digits."""
    if sample is None:
        return UNKNOWN
    mean = f"{factor * sample.mean:,.4g}"
    return mean if sample.deviation is None else f"{mean} ± {factor * sample.deviation:,.2g}"


def _finished(count: int, planned: int) -> str:
    return str(planned) if count == planned else f"{count} of {planned}"


def _paper_error(group: Group) -> str:
    label = group.name if group.control is None else group.control.label()
    return PAPER["figure2"].errors.get(label, UNKNOWN)


_Column = tuple[str, Callable[[Group], str]]
_ERROR: _Column = ("test error", lambda group: error(group.test_error))
_RUNS: _Column = ("runs", lambda group: _finished(group.finished, len(group.runs)))
_DIVERGED: _Column = ("diverged", lambda group: str(group.diverged))
_EPOCH: _Column = ("seconds an epoch", lambda group: measured(group.epoch_seconds))
_CONTROL: _Column = ("of which control", lambda group: measured(group.control_seconds))
_NORM: _Column = ("largest norm at the end", lambda group: measured(group.largest_norm))
_RECOMPUTED: _Column = ("statistics recomputed", lambda group: error(group.recomputed))
_BOUND: _Column = ("bound of the Lipschitz constant", lambda group: measured(group.lipschitz))
_COMPLEXITY: _Column = ("log10 of spectral complexity", lambda group: measured(group.complexity))
_MARGIN: _Column = ("median normalised margin", lambda group: measured(group.median_margin))
_COLUMNS: Mapping[str, tuple[_Column, ...]] = {
    "figure2": (
        _ERROR,
        ("in the paper", _paper_error),
        _RUNS,
        _DIVERGED,
        _EPOCH,
        _CONTROL,
        _NORM,
        _RECOMPUTED,
        _BOUND,
        _COMPLEXITY,
        _MARGIN,
    ),
    "variations": (
        _ERROR,
        _RECOMPUTED,
        _RUNS,
        _DIVERGED,
        _EPOCH,
        _CONTROL,
        _NORM,
        _BOUND,
        _COMPLEXITY,
        _MARGIN,
    ),
    "figure4": (_EPOCH, _CONTROL, _ERROR, _RUNS, _DIVERGED),
    "section44": (
        _ERROR,
        _RUNS,
        _DIVERGED,
        _EPOCH,
        _CONTROL,
        (f"seconds for {BATCHES:,} batches, scaled", lambda group: measured(group.step_seconds, BATCHES)),
    ),
    "beyond": (
        _ERROR,
        _RUNS,
        _DIVERGED,
        _EPOCH,
        _CONTROL,
        _NORM,
        _BOUND,
    ),
}


def results(experiment: Experiment) -> list[Table]:
    """What was found so far; none where nothing was."""
    if experiment.name in SWEEPS:
        return [_limits(experiment.limits)] if experiment.limits else []
    if experiment.timings is not None:
        return [_timings(name, methods) for name, methods in experiment.timings.curves.items()]
    if experiment.spectra is not None:
        # The same three times: once is enough.
        return [_spectra(experiment.spectra)] if experiment.name == "figure5" else []
    if experiment.boundary is not None:
        return [*_over_layers(experiment.boundary), _layers(experiment.boundary)]
    if not any(run.epochs for run in experiment.runs):
        return []
    columns = _filled(_COLUMNS[experiment.name], experiment.groups)
    rows = tuple((group.name, *(cell(group) for _, cell in columns)) for group in experiment.groups)
    return [
        Table(("", *(head for head, _ in columns)), rows),
        *([_attack(experiment.groups)] if any(group.attack for group in experiment.groups) else []),
        *([_paired(experiment.groups)] if any(group.against_free for group in experiment.groups) else []),
    ]


def _filled(columns: Sequence[_Column], groups: Sequence[Group]) -> list[_Column]:
    """Without those columns that only some presets fill, where they are empty."""
    optional = (_RECOMPUTED, _BOUND, _COMPLEXITY, _MARGIN)
    return [
        column
        for column in columns
        if column not in optional or any(column[1](group) != UNKNOWN for group in groups)
    ]


def _paired(groups: Sequence[Group]) -> Table:
    rows = []
    for group in groups:
        if (found := group.against_free) is not None:
            spread = "" if found.deviation is None else f" ± {100 * found.deviation:.2f}"
            rows.append(
                (
                    group.name,
                    str(found.seeds),
                    f"{100 * found.mean:+.2f}{spread}",
                    UNKNOWN if found.p is None else f"{found.p:.2g}",
                )
            )
    caption = "Test error less that without control, seed by seed: mean and deviation of the differences"
    return Table(("", "seeds", "difference, per cent", "p (Student, two-sided)"), tuple(rows), caption)


def _limits(limits: Sequence[Limit]) -> Table:
    rows = tuple(
        (
            "none" if one.limit is None else f"{one.limit:g}",
            _finished(len(one.trials), one.planned),
            str(one.diverged),
            share(one.best),
            *map(share, one.quartiles),
        )
        for one in limits
    )
    heads = ("limit", "runs", "diverged", "best error", "lower quartile", "median", "upper quartile")
    return Table(heads, rows)


def _timings(name: str, methods: Mapping[str, Sequence[tuple[int, float]]]) -> Table:
    channels = sorted({count for points in methods.values() for count, _ in points})
    rows = tuple(
        (method, *(number(dict(points).get(count)) for count in channels))
        for method, points in methods.items()
    )
    return Table(("channels", *map(str, channels)), rows, f"{name}: seconds")


def _spectra(spectra: Spectra) -> Table:
    rows = tuple(
        (
            layer.name,
            sizes(layer.kernel_shape),
            sizes(layer.input_shape),
            f"{layer.count:,}",
            number(layer.norm),
            f"{layer.at_least_one:,}",
            number(layer.effective_rank),
        )
        for layer in spectra.layers
    )
    return Table(
        ("layer", "kernel", "input", "singular values", "largest", "at least 1", "effective rank"), rows
    )


_OVER_LAYERS: Mapping[Value, tuple[str, float, int]] = {
    "distance": ("Distance from the torus, per cent of the norm of the torus", 100, 2),
    "norm_ratio": ("Norm divided by that of the torus", 1, 3),
    "smallest_change": ("Smallest value less that of the torus, per cent of the norm of the torus", 100, 2),
}
"""What of the layers beside the torus is shown, times what, to how many decimals."""


def _over_layers(boundary: Boundary) -> Iterator[Table]:
    for value, (caption, factor, digits) in _OVER_LAYERS.items():
        rows = []
        for padding in SHOWN:
            spreads = [boundary.spread(padding, n, value) for n in boundary.sizes]
            shown = [
                [f"{factor * one:z.{digits}f}" for one in (its.median, its.low, its.high)] for its in spreads
            ]
            rows.append((padding, *(f"{middle} ({low} to {high})" for middle, low, high in shown)))
        heads = ("padding", *(f"n = {n}" for n in boundary.sizes))
        yield Table(heads, tuple(rows), f"{caption}: median over the layers (least to largest)")


def _layers(boundary: Boundary) -> Table:
    heads = ("layer", "kernel", "stride", "groups", "largest n", *(f"n x distance, {one}" for one in SHOWN))
    rows = tuple(
        (
            layer.name,
            sizes(layer.kernel_shape),
            one_or_all(layer.stride),
            str(layer.groups),
            str(layer.largest_n),
            *(
                UNKNOWN if point is None else f"{point.n * point.distance:.3g}"
                for point in (layer.point(padding, layer.largest_n) for padding in SHOWN)
            ),
        )
        for layer in boundary.layers
    )
    return Table(heads, rows, "Layers, each at its largest n")


def _attack(groups: Sequence[Group]) -> Table:
    radii = sorted({one.radius for group in groups for one in group.attack})
    rows = []
    for group in groups:
        found = {one.radius: one for one in group.attack}
        cells = []
        for radius in radii:
            one = found.get(radius)
            pair = (None, None) if one is None else (one.error, one.certified)
            cells.append(UNKNOWN if not any(pair) else " to ".join(map(_bound, pair)) + " %")
        rows.append((group.name, *cells))
    caption = (
        "Error of the attacked images within an l2 distance: lower bound by the attack to certified upper"
    )
    return Table(("", *(f"{radius:g}" for radius in radii)), tuple(rows), caption)


def _bound(sample: Sample | None) -> str:
    return "?" if sample is None else f"{100 * sample.mean:.1f}"


def settings(experiment: Experiment) -> Table:
    """What was run here beside what the paper ran."""
    here = _settings_here(experiment)
    told = PAPER[experiment.name].settings
    if not told:
        return Table(("", "here"), tuple(here.items()), wrapped=True)
    names = dict.fromkeys([*here, *told])
    rows = tuple((name, told.get(name, "not stated"), here.get(name, UNKNOWN)) for name in names)
    return Table(("", "in the paper", "here"), rows, wrapped=True)


def _settings_here(experiment: Experiment) -> dict[str, str]:
    if experiment.timings is not None:
        machine = experiment.timings.machine
        return {
            "layers": "; ".join(experiment.timings.curves),
            "values": "random standard normal, scaled",
            "machine": ", ".join(
                f"{name}: {machine[name]}" for name in ("processor", "threads", "solver") if name in machine
            ),
        }
    if experiment.spectra is not None:
        found = experiment.spectra
        left = "; ".join(f"left out: {count} with {reason}" for reason, count in found.left_out.items())
        return {
            "model": f"{found.model}, sha256 {found.sha256 or 'none'}",
            "layers": f"{len(found.layers)} with kernels larger than 1x1" + (f"; {left}" if left else ""),
        }
    if experiment.boundary is not None:
        return _settings_of_boundary(experiment.boundary)
    rows: dict[str, Callable[[Run, Settings], Any]] = {
        "data": lambda run, its: run.about.get("data") or its.data,
        "images": lambda _, its: _images(its),
        "network": lambda _, its: _network(its),
        "parameters": lambda run, _: run.about.get("parameters"),
        "epochs": lambda _, its: its.epochs,
        "batch": lambda _, its: its.batch,
        "learning rate": lambda _, its: its.rate,
        "decay": lambda _, its: its.decay,
        "epochs per decay": lambda _, its: its.epochs_per_decay,
        "momentum": lambda _, its: its.momentum,
        "weight decay": lambda _, its: its.weight_decay,
        "augmentation": lambda _, its: "yes" if its.augment else "no",
        "precision": lambda _, its: its.precision,
        "control": lambda _, its: its.control.label(),
        "attacked test images": lambda run, _: run.result and run.result.attacked_images,
        "seeds": lambda run, _: run.seed,
        "machine": lambda run, _: _machine(run.about),
    }
    started = [(run, run.settings) for run in experiment.runs if run.settings is not None]
    found_rows = {name: _several(value(*one) for one in started) for name, value in rows.items()}
    if experiment.name in SWEEPS:
        found_rows["combinations"] = f"{len(experiment.runs)} planned"
    return {name: value for name, value in found_rows.items() if value}


def _settings_of_boundary(found: Boundary) -> dict[str, str]:
    changed = sum(not layer.own_padding for layer in found.layers)
    further = sorted({point.n for layer in found.layers for point in layer.points} - set(found.sizes))
    return {
        "model": f"{found.model}, sha256 {found.sha256 or 'none'}",
        "layers": str(len(found.layers)),
        "left out": "; ".join(f"{count}: {reason}" for reason, count in found.left_out.items()),
        "points an axis": ", ".join(map(str, found.sizes))
        + (f"; {', '.join(map(str, further))} where the matrix fits" if further else ""),
        "padded points": "the layer's own number"
        + (f", but for {changed} layers, whose own does not keep the size: as many as do" if changed else ""),
    }


def _several(values: Iterable[Any]) -> str:
    """Each value once, numbers ascending."""
    known = list(dict.fromkeys(value for value in values if value is not None))
    if all(isinstance(value, int | float) for value in known):
        return ", ".join(f"{value:,}" if isinstance(value, int) else f"{value:g}" for value in sorted(known))
    return "; ".join(map(str, known))


def _images(settings: Settings) -> str:
    counts = (settings.train_images, settings.test_images)
    train, test = (f"the first {count:,}" if count else "all" for count in counts)
    return f"{train} for training, {test} for testing"


def _network(settings: Settings) -> str:
    with_or_without = "with" if settings.batch_norm else "without"
    return f"{settings.depth}-layer residual network, width {settings.width}, {with_or_without} batch norm"


def _machine(about: Mapping[str, Any]) -> str | None:
    machine = about.get("machine")
    if not isinstance(machine, Mapping):
        return None
    words = [str(machine[name]) for name in ("processor", "device") if machine.get(name)]
    words += [f"{machine['cores']} cores"] if machine.get("cores") else []
    words += [f"{about['threads']} threads"] if about.get("threads") else []
    return ", ".join(words)
