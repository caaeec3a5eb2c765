"""The report of a folder of experiments: figures, a summary as JSON, and the page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from convspectra._version import __version__
from convspectra.errors import InputError
from convspectra.report.files import atomic, require

from ..studies.boundary import Boundary, Value
from ..studies.distances import SHOWN
from ..studies.results import Experiment, Findings, Group, Limit, read
from ..training.run_records import Run

SCHEMA = "convspectra.experiments/1"


def write_report(out: Path) -> Iterator[Path]:
    """Write `figures/*.png`, `summary.json` and `report.html` of what has been run in a folder, into it.

    Of an archive, `small.zip`, into the folder `small` beside it. Yields each path when it is complete.

    Raises:
        InputError: nothing was run there, a file is damaged, matplotlib is missing, or the disk refuses.
    """
    findings = read(out)
    require("matplotlib")
    from . import page, pictures

    place = out.with_suffix("") if out.is_file() else out
    folder = place / "figures"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror}") from None
    light = {}
    for path in pictures.write(findings, folder):
        light[path.stem] = path.read_bytes()
        yield path
    summary = json.dumps(as_dict(findings), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    text = page.render(findings, light, pictures.dark(findings))
    for name, content in (("summary.json", summary), ("report.html", text)):
        with atomic(place / name) as file:
            file.write(content.encode())
        yield place / name


def as_dict(findings: Findings) -> dict[str, Any]:
    """The aggregated numbers as plain data; unknown ones are None."""
    return {
        "schema": SCHEMA,
        "version": __version__,
        "experiments": [_experiment(one) for one in findings.experiments],
        "not_run": list(findings.not_run),
    }


def _experiment(one: Experiment) -> dict[str, Any]:
    found: dict[str, Any] = {name: getattr(one, name) for name in ("name", "preset", "command", "source")}
    found["complete"] = one.complete
    if one.groups:
        found["runs"] = _counts(one.runs)
        found["unfinished"] = [
            {"group": run.group, "seed": run.seed, "folder": run.folder, "status": run.status}
            for run in one.unfinished
        ]
        found["groups"] = [_group(group) for group in one.groups]
    if one.limits:
        found["limits"] = [_limit(limit) for limit in one.limits]
    if one.timings is not None:
        found["timings"] = {"machine": one.timings.machine, "curves": one.timings.curves}
    if one.spectra is not None and one.name == "figure5":
        spectra = asdict(one.spectra)
        for layer in spectra["layers"]:
            del layer["ranks"], layer["values"]
        found["spectra"] = {**spectra, "many_at_least_one": one.spectra.many_at_least_one}
    if one.boundary is not None:
        boundary = asdict(one.boundary)
        for layer in boundary["layers"]:
            del layer["points"]
        found["boundary"] = {**boundary, "over_layers": _over_layers(one.boundary)}
    return found


def _over_layers(boundary: Boundary) -> dict[str, Any]:
    """By the kind of padding: the rate, and each number over the layers at each size."""
    return {
        padding: {"rate": boundary.rate(padding)}
        | {
            value: {str(n): asdict(boundary.spread(padding, n, value)) for n in boundary.sizes}
            for value in get_args(Value)
        }
        for padding in SHOWN
    }


def _counts(runs: tuple[Run, ...]) -> dict[str, int]:
    statuses = [run.status for run in runs]
    return {
        "planned": len(runs),
        "finished": statuses.count("done") + statuses.count("diverged"),
        "diverged": statuses.count("diverged"),
        "under_way": statuses.count("under way"),
    }


def _group(group: Group) -> dict[str, Any]:
    found = asdict(group)
    return {**found, "runs": _counts(group.runs), "seeds": [run.seed for run in group.runs]}


def _limit(limit: Limit) -> dict[str, Any]:
    return {**asdict(limit), "diverged": limit.diverged}
