"""What `convspectra experiment` does with its arguments."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convspectra._solvers.pool import available_cores
from convspectra.atomic import atomic
from convspectra.errors import InputError

from ..training import folder
from . import boundary, network_spectra
from .catalogue import EXTENTS, SPECTRA, TRAINED, Preset, plan

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Request:
    """The arguments of the command, as they came.

    Attributes:
        command: the line that would do the same again, kept with the results.
        model: the file of a trained network for what is told of its layers, and what its reader takes.
        changes: other values for fields of `Settings`.
    """

    name: str
    preset: Preset
    out: Path
    command: str
    data: Path | None = None
    seeds: int = 1
    device: str = "auto"
    workers: int | None = None
    scheduler: str | None = None
    shard: str | None = None
    tensorboard: bool = False
    compiled: bool = False
    minutes: float | None = None
    model: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)


def execute(request: Request, progress: Progress | None = None) -> bool:
    """Run an experiment; whether all of it is done.

    Raises:
        InputError: as whatever it calls.
    """
    _open(request.out)
    if request.name == "figure1":
        _timing(request, progress)
        return True
    if request.name in SPECTRA:
        _spectra(request, progress)
        return True
    if request.name == "boundary":
        _boundary(request, progress)
        return True
    return _train(request, progress)


def _open(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out} cannot be made: {error.strerror}; give another folder") from None


def _keep_plan(request: Request, **what: Any) -> None:
    about = {"experiment": request.name, "preset": request.preset, "command": request.command}
    folder.write_json(request.out / f"{request.name}.json", about | what)


def _timing(request: Request, progress: Progress | None) -> None:
    from ..bench import spectra as bench

    found = bench.run(full=request.preset == "paper", small=request.preset == "smoke", progress=progress)
    with atomic(request.out / "bench.json") as file:
        file.write(found.to_json().encode())
    _keep_plan(request, bench="bench.json")


def _spectra(request: Request, progress: Progress | None) -> None:
    found = network_spectra.spectra_of(**request.model, progress=progress)
    network_spectra.write(found, request.out / "spectra.json")
    for name in SPECTRA:  # they show the same
        folder.write_json(
            request.out / f"{name}.json",
            {
                "experiment": name,
                "preset": request.preset,
                "command": request.command.replace(f"experiment {request.name}", f"experiment {name}"),
                "spectra": "spectra.json",
            },
        )


def _boundary(request: Request, progress: Progress | None) -> None:
    found = boundary.boundary_of(**request.model, extent=EXTENTS[request.preset], progress=progress)
    boundary.write(found, request.out / "distances.json")
    _keep_plan(request, distances="distances.json")


def _train(request: Request, progress: Progress | None) -> bool:
    from ..data.datasets import load
    from ..training.loop import Machine
    from . import running

    assert request.name in TRAINED
    if request.name == "figure3b" and request.changes.get("batch_norm") is False:
        raise InputError("figure3b is the sweep with batch norm; figure3a is the one without")
    part = None if request.shard is None else _part(request.shard)
    device = _device(request.device)
    data = "digits" if request.data is None else "cifar10"
    changes = _precision(device, request.preset) | request.changes
    runs = plan(request.name, request.preset, data, range(request.seeds), changes)
    workers = 1 if request.workers is None else request.workers
    job = running.Job(
        name=request.name,
        runs=tuple(runs),
        out=request.out.absolute(),
        data=None if request.data is None else request.data.absolute(),
        machine=Machine(device, request.compiled),
        threads=max(1, available_cores() // workers),
        tensorboard=request.tensorboard,
        minutes=request.minutes,
    )
    load(job.data, job.out / "cache")  # what is wrong with the data is said once, and first
    _keep_plan(request, runs=[one.to_dict() for one in runs])
    if part is not None:
        job = job.shard(*part)
    if request.scheduler is not None:
        running.work_on_cluster(job, request.scheduler, progress)
    elif workers > 1:
        running.work_in_processes(job, workers, progress)
    else:
        running.work(job, progress)
    return job.is_finished


def _precision(device: str, preset: Preset) -> dict[str, str]:
    """Where the preset's own is not what the device does best, or can do."""
    from ..training.precision import has_bfloat16

    if device != "cpu":
        return {"precision": "bfloat16"} if preset == "paper" else {}
    return {"precision": "float32"} if preset == "medium" and not has_bfloat16() else {}


def _device(given: str) -> str:
    import torch

    if given == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=given).item()  # which "meta" refuses
    except (RuntimeError, AssertionError) as error:
        line = str(error).strip().splitlines()[0]
        raise InputError(f"--device {given} cannot be used here: {line}; give cpu") from None
    return given


def _part(text: str) -> tuple[int, int]:
    """`"2/5"`, the second of five parts, as index and count."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    index, count = (int(part) for part in found.groups()) if found else (0, 0)
    if not 1 <= index <= count:
        raise InputError(f"--shard must be i/N with i from 1 to N, such as 2/5; got {text!r}")
    return index - 1, count
