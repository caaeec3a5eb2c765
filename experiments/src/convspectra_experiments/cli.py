"""The commands `convspectra experiment` and `convspectra bench`: arguments and exit statuses."""

from __future__ import annotations

import shlex
import sys
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from convspectra.cli.delivery import INCOMPLETE
from convspectra.cli.options import GeometryFile, InputShape
from convspectra.errors import InputError
from convspectra.report import terminal


def bench(
    projection: Annotated[
        bool, typer.Option("--projection", help="Clips, nearest kernels and training steps instead.")
    ] = False,
    bounds: Annotated[
        bool, typer.Option("--bounds", help="How tight every bound of the norm is instead, and its time.")
    ] = False,
    models: Annotated[
        bool, typer.Option("--models", help="Analyses of whole networks instead: seconds and memory.")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="The paper's whole curves, more rounds; about an hour.")
    ] = False,
    small: Annotated[bool, typer.Option("--small", help="Toy layers, in seconds.")] = False,
    model: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --bounds: the layers of this model instead.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write bench.json and figure1.png here, projection.json, bounds.json or models.json.",
        ),
    ] = None,
) -> None:
    """Time every way to the singular values side by side, each checked for accuracy: figure 1."""
    from convspectra.atomic import atomic, open_folder
    from convspectra.report.files import check_targets
    from convspectra.report.text import watching

    from .bench import bounds as bounds_bench
    from .bench import models as models_bench
    from .bench import projections, spectra
    from .report import benchmarks

    if projection + bounds + models > 1:
        raise InputError("--projection, --bounds and --models are different benchmarks; give one of them")
    if model is not None and not bounds:
        raise InputError("--model goes with --bounds")
    name = "projection" if projection else "bounds" if bounds else "models" if models else "bench"
    benchmarks_by_name: dict[str, tuple[Any, Any]] = {
        "bench": (spectra.run, benchmarks.render),
        "projection": (projections.run, benchmarks.render_projections),
        "models": (models_bench.run, benchmarks.render_models),
        "bounds": (partial(bounds_bench.run, model=model), benchmarks.render_bounds),
    }
    run, render = benchmarks_by_name[name]
    check_targets({}, {"png" if name == "bench" else "out": out})
    with watching() as told:
        results = run(full=full, small=small, progress=told["progress"])
    whole = True
    if out is not None:
        try:
            with atomic(open_folder(out) / f"{name}.json") as file:
                file.write(results.to_json().encode())
            if name == "bench":
                benchmarks.draw(results, out / "figure1.png")
        except InputError as error:
            terminal.tell(f"convspectra: {error}")
            whole = False
    if not (terminal.show(partial(render, results)) and whole):
        raise typer.Exit(INCOMPLETE)


class PresetName(StrEnum):
    """The size of an experiment."""

    smoke = "smoke"
    small = "small"
    medium = "medium"
    paper = "paper"


def experiment(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="figure1, figure2, figure3a, figure3b, figure4, figure5, figure6, figure7, section44: the "
            "paper's. boundary: layers with their own padding beside the torus. beyond: other ways to "
            "control layers. variations: figure 2 with weight decay, at another size. "
            "report: a page of all that was run.",
        ),
    ],
    preset: Annotated[
        PresetName,
        typer.Option(
            help="smoke: a minute. small: hours of a few cores. medium: days. paper: as published, for a GPU."
        ),
    ] = PresetName.smoke,
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="Results are kept here; existing runs are resumed. Of report also an archive."
        ),
    ] = Path("experiments"),
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="CIFAR-10: its official files or archive. Without it, scikit-learn's digits."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, metavar="N", help="Runs of each setting.")] = 1,
    device: Annotated[
        str, typer.Option(help="PyTorch's: cpu, cuda, cuda:1; auto for a GPU if any.")
    ] = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Processes on this machine, which share the runs.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Of a dask cluster to run on: tcp://HOST:PORT.")
    ] = None,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="Only part I of N of the runs.")] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0, metavar="M", help="Stop after so many; the same command resumes."),
    ] = None,
    depth: Annotated[int | None, typer.Option(help="Layers of the network, 6 n + 2.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Channels of its first stage.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the images.")] = None,
    batch_norm: Annotated[
        bool, typer.Option("--batch-norm/--no-batch-norm", help="In the network; not for figures 3a and 3b.")
    ] = True,
    compiled: Annotated[bool, typer.Option("--compile", help="Through torch.compile.")] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write metrics for TensorBoard.")
    ] = False,
    model: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Figures 5 to 7, boundary: a trained network, as for analyze."),
    ] = None,
    module: Annotated[
        str | None,
        typer.Option("--module", metavar="PACKAGE.MODULE:FACTORY", help="As --model of analyze."),
    ] = None,
    input_shape: InputShape = None,
    geometry: GeometryFile = None,
) -> None:
    """Run an experiment of the paper, or resume it."""
    from convspectra.cli.options import shapes_of
    from convspectra.report.text import watching

    from .studies.catalogue import EXPERIMENTS
    from .studies.command import Request, execute

    if name == "report":
        from .report import write_report

        for written in write_report(out):
            terminal.tell(f"wrote {written}")
        return
    if name not in EXPERIMENTS:
        raise InputError(f"NAME must be report or one of {', '.join(EXPERIMENTS)}; got {name!r}")
    changes = {"depth": depth, "width": width, "epochs": epochs, "batch_norm": None if batch_norm else False}
    request = Request(
        name,
        preset.value,
        out,
        shlex.join(["convspectra", *sys.argv[1:]]),
        data=data,
        seeds=seeds,
        device=device,
        workers=workers,
        scheduler=scheduler,
        shard=shard,
        minutes=minutes,
        compiled=compiled,
        tensorboard=tensorboard,
        model={
            "model": model,
            "module": module,
            "sample_shape": shapes_of(input_shape),
            "geometry": geometry,
        },
        changes={key: value for key, value in changes.items() if value is not None},
    )
    try:
        with watching() as told:
            finished = execute(request, told["progress"])
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command resumes from the last checkpoint") from None
    done = "done" if finished else "not finished: the same command resumes"
    terminal.tell(f"{done}; for a page of it: convspectra experiment report --out {out}")
