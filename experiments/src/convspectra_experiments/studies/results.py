"""What has been run in a folder: every experiment with its runs, and their numbers over the seeds."""

from __future__ import annotations

import io
import statistics
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np

from convspectra.errors import InputError

from ..bench import spectra as bench
from ..training.folder import read_json
from ..training.run_records import Run, finite, read_run, reading
from ..training.settings import Control
from . import boundary, network_spectra
from .catalogue import EXPERIMENTS, SWEEPS
from .pairing import Paired, paired

SAME_WORK = (("figure2", "figure4"), ("figure5", "figure6", "figure7"))
"""Experiments that draw the same results: where one was run, so were the others."""


@dataclass(frozen=True)
class Sample:
    """Mean and standard deviation (of a sample, by `count - 1`; None of fewer than two)."""

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Sample | None:
        """Of those that are there; None where none is."""
        known = [value for value in values if value is not None]
        if not known:
            return None
        return cls(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


@dataclass(frozen=True)
class Point:
    """One epoch over the seeds that have reached it: `runs` of them."""

    epoch: int
    runs: int
    train_loss: Sample | None
    test_error: Sample | None
    total_seconds: Sample | None
    total_processor_seconds: Sample | None
    test_error_recomputed: Sample | None


@dataclass(frozen=True)
class AttackPoint:
    """Errors within one l2 distance over the seeds: a lower and an upper bound of the largest error."""

    radius: float
    error: Sample | None
    certified: Sample | None


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone; in a sweep, runs of the same limit.

    Attributes:
        control: of the layers; None while no run has started.
        test_error: of the finished runs, diverged ones among them with the error they ended with.
        epoch_seconds, control_seconds: of training, an epoch, averaged over a run's epochs, and the control's
            part of it; of every run that has an epoch.
        step_seconds: of training, a step, with the control.
        largest_norm, lipschitz, attack: of the finished runs; so are complexity, its log10, and the median of
            the normalised margins.
        recomputed: the test error with batch norm statistics of the weights as they are.
        against_free: the test error less that without control, over the seeds that both have finished; None
            without such seeds, and of the group without control.
        curve: one point an epoch.
    """

    name: str
    control: Control | None
    runs: tuple[Run, ...]
    test_error: Sample | None
    epoch_seconds: Sample | None
    control_seconds: Sample | None
    step_seconds: Sample | None
    largest_norm: Sample | None
    lipschitz: Sample | None
    attack: tuple[AttackPoint, ...]
    curve: tuple[Point, ...]
    recomputed: Sample | None = None
    complexity: Sample | None = None
    median_margin: Sample | None = None
    against_free: Paired | None = None

    @property
    def errors(self) -> dict[int, float]:
        """Test errors of the finished runs by seed."""
        return {run.seed: run.result.test_error for run in self.runs if run.result is not None}

    @property
    def finished(self) -> int:
        return sum(run.result is not None for run in self.runs)

    @property
    def diverged(self) -> int:
        return sum(run.status == "diverged" for run in self.runs)

    @property
    def observed(self) -> Run | None:
        """The first run whose layers were recorded, if any."""
        return next((run for run in self.runs if any(epoch.layers for epoch in run.epochs)), None)


@dataclass(frozen=True)
class Trial:
    """One finished run of a sweep; `limit` is None where nothing was clipped."""

    limit: float | None
    rate: float
    batch: int
    epochs_per_decay: int
    error: float
    diverged: bool


@dataclass(frozen=True)
class Limit:
    """All trials of one limit, of `planned`: the best error and the quartiles, diverged runs among them."""

    limit: float | None
    planned: int
    trials: tuple[Trial, ...]
    best: float
    quartiles: tuple[float, float, float]

    @property
    def diverged(self) -> int:
        return sum(trial.diverged for trial in self.trials)


@dataclass(frozen=True)
class Experiment:
    """One experiment that was begun.

    Attributes:
        source: whose plan it is: of an experiment that shares its work, where it has none of its own.
        groups: in the plan's order; empty where nothing is trained.
        limits: of a sweep, none first, then ascending; empty for the others.
        timings: of figure 1, spectra: of figures 5 to 7, boundary: of `boundary`; None before they are there.
    """

    name: str
    preset: str
    command: str
    source: str
    groups: tuple[Group, ...] = ()
    limits: tuple[Limit, ...] = ()
    timings: bench.Results | None = None
    spectra: network_spectra.Spectra | None = None
    boundary: boundary.Boundary | None = None

    @property
    def runs(self) -> tuple[Run, ...]:
        return tuple(run for group in self.groups for run in group.runs)

    @property
    def unfinished(self) -> tuple[Run, ...]:
        """Planned runs without a result, whether they have begun or not."""
        return tuple(run for run in self.runs if run.result is None)

    @property
    def complete(self) -> bool:
        if self.groups:
            return not self.unfinished
        return any(one is not None for one in (self.timings, self.spectra, self.boundary))


@dataclass(frozen=True)
class Findings:
    """Everything in a folder.

    Attributes:
        experiments: those that were begun, in the order of `EXPERIMENTS`.
        not_run: the names of the others.
    """

    out: Path
    experiments: tuple[Experiment, ...]
    not_run: tuple[str, ...]

    @property
    def runs(self) -> tuple[Run, ...]:
        """Each planned run once, also where experiments share it."""
        found = {run.folder: run for experiment in self.experiments for run in experiment.runs}
        return tuple(found.values())


def read(out: Path) -> Findings:
    """Everything that has been run in a folder, or is under way; or what an archive has kept of it.

    Raises:
        InputError: nothing was run there, or a file is damaged; the message names it.
    """
    kept = _archive(out) if out.is_file() else out
    plans = {name: plan for name in EXPERIMENTS if (plan := _plan(kept, name)) is not None}
    if not plans:
        raise InputError(
            f"{out} holds no experiment; run `convspectra experiment figure2 --preset smoke --out {out}` "
            "first"
        )

    @cache
    def run(group: str, seed: int, folder: str) -> Run:
        return read_run(kept, group, seed, folder)

    experiments = []
    for name in EXPERIMENTS:
        source = _source(name, plans)
        if source is None:
            continue
        plan, path = plans[source], kept / f"{source}.json"
        with reading(path):
            preset, command = str(plan.get("preset", "")), str(plan.get("command", ""))
            files = {key: _inside(plan[key]) for key in ("bench", "spectra", "distances") if key in plan}
            planned = [
                (str(one["group"]), int(one["seed"]), _inside(one["folder"])) for one in plan.get("runs", ())
            ]
        groups = tuple(
            _group(key, [run(*one) for one in planned if one[0] == key])
            for key in dict.fromkeys(group for group, _, _ in planned)
        )
        experiments.append(
            Experiment(
                name,
                preset,
                command,
                source,
                _compared(groups, name),
                limits=_limits(groups) if name in SWEEPS else (),
                timings=_timings(kept / files["bench"]) if "bench" in files else None,
                spectra=network_spectra.read(kept / files["spectra"]) if "spectra" in files else None,
                boundary=boundary.read(kept / files["distances"]) if "distances" in files else None,
            )
        )
    begun = {experiment.name for experiment in experiments}
    return Findings(out, tuple(experiments), tuple(name for name in EXPERIMENTS if name not in begun))


def _archive(path: Path) -> Traversable:
    """What `keep.py` writes, every byte of which is checked."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(path.read_bytes()))
        archive.filename = str(path)  # for messages
        damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, NotImplementedError) as error:
        raise InputError(f"{path} is neither a folder nor a ZIP archive of experiments: {error}") from None
    if damaged is not None:
        raise InputError(f"{path} is damaged in {damaged}; take another copy of it")
    return zipfile.Path(archive, "")


def _plan(out: Traversable, name: str) -> dict[str, Any] | None:
    path = out / f"{name}.json"
    plan = read_json(path)
    if plan is not None and not isinstance(plan, dict):
        raise InputError(f"{path} is no plan of an experiment; delete it to run this again")
    return plan


def _source(name: str, plans: dict[str, Any]) -> str | None:
    """Whose plan tells of an experiment: its own, or that of one with the same work."""
    family = next((group for group in SAME_WORK if name in group), (name,))
    return name if name in plans else next((other for other in family if other in plans), None)


def _inside(folder: Any) -> str:
    """A plan names places in its own folder and no others."""
    path = Path(folder)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{folder!r} lies elsewhere")
    return str(folder)


def _group(name: str, runs: list[Run]) -> Group:
    trained = [run for run in runs if run.epochs]
    results = [run.result for run in runs if run.result is not None]
    radii = dict.fromkeys(one.radius for result in results for one in result.attack)
    attacked = {
        radius: [one for result in results for one in result.attack if one.radius == radius]
        for radius in sorted(radii)
    }
    return Group(
        name=name,
        control=next((run.settings.control for run in runs if run.settings is not None), None),
        runs=tuple(runs),
        test_error=Sample.of(result.test_error for result in results),
        epoch_seconds=Sample.of(statistics.fmean(e.seconds for e in run.epochs) for run in trained),
        control_seconds=Sample.of(statistics.fmean(e.control_seconds for e in run.epochs) for run in trained),
        step_seconds=Sample.of(
            run.epochs[-1].total_seconds / run.epochs[-1].step for run in trained if run.epochs[-1].step
        ),
        largest_norm=Sample.of(result.largest_norm for result in results),
        lipschitz=Sample.of(result.lipschitz for result in results),
        attack=tuple(
            AttackPoint(radius, Sample.of(o.error for o in ones), Sample.of(o.certified for o in ones))
            for radius, ones in attacked.items()
        ),
        curve=tuple(_curve(runs)),
        recomputed=Sample.of(result.test_error_recomputed for result in results),
        complexity=Sample.of(result.complexity for result in results),
        median_margin=Sample.of(result.median_margin for result in results),
    )


def _compared(groups: tuple[Group, ...], name: str) -> tuple[Group, ...]:
    """Each group against the one without control; in a sweep seeds are no pairs."""
    free = next(
        (group for group in groups if group.control is not None and group.control.method == "none"), None
    )
    if free is None or name in SWEEPS or name == "variations":
        return groups
    return tuple(
        group if group is free else replace(group, against_free=paired(group.errors, free.errors))
        for group in groups
    )


def _curve(runs: list[Run]) -> Iterable[Point]:
    reached = {epoch.epoch for run in runs for epoch in run.epochs}
    lines = [{epoch.epoch: epoch for epoch in run.epochs} for run in runs]
    for number in sorted(reached):
        here = [line[number] for line in lines if number in line]
        yield Point(
            number,
            len(here),
            Sample.of(epoch.train_loss for epoch in here),
            Sample.of(epoch.test_error for epoch in here),
            Sample.of(epoch.total_seconds for epoch in here),
            Sample.of(epoch.total_processor_seconds for epoch in here),
            Sample.of(epoch.test_error_recomputed for epoch in here),
        )


def _limits(groups: tuple[Group, ...]) -> tuple[Limit, ...]:
    trials = [
        Trial(
            limit=run.settings.control.limit,
            rate=run.settings.rate,
            batch=run.settings.batch,
            epochs_per_decay=run.settings.epochs_per_decay,
            error=run.result.test_error,
            diverged=run.result.diverged,
        )
        for group in groups
        for run in group.runs
        if run.settings is not None and run.result is not None
    ]
    found = []
    for limit in sorted({trial.limit for trial in trials}, key=lambda limit: limit or 0.0):
        own = tuple(trial for trial in trials if trial.limit == limit)
        errors = [trial.error for trial in own]
        low, middle, high = map(float, np.quantile(errors, (0.25, 0.5, 0.75)))
        planned = sum(len(group.runs) for group in groups if group.control and group.control.limit == limit)
        found.append(Limit(limit, planned, own, min(errors), (low, middle, high)))
    return tuple(found)


def _timings(path: Traversable) -> bench.Results | None:
    kept = read_json(path)
    if kept is None:
        return None
    with reading(path):
        curves = {
            str(layer): {
                str(method): [(int(count), finite(seconds) or 0.0) for count, seconds in points]
                for method, points in methods.items()
                if points
            }
            for layer, methods in kept["curves"].items()
        }
        return bench.Results(machine=dict(kept["machine"]), curves=curves)
