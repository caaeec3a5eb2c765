"""`convspectra lipschitz`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from .delivery import deliver
from .options import InputShape, Json, Module


def lipschitz(
    model: Annotated[
        Path | None, typer.Argument(help="ONNX file or exported program (.pt2); with --model its weights.")
    ] = None,
    module: Module = None,
    input_shape: InputShape = None,
    output: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A tensor instead of the graph's outputs; can be repeated."),
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(metavar="FILE.npy", help="Points for the lower bound, of shape (N, C, H, W)."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE.npy", help="Their classes, integers of shape (N,), for the margins."),
    ] = None,
    points: Annotated[
        int, typer.Option(min=0, metavar="N", help="Random points for the lower bound; 0 for none.")
    ] = 3,
    drawn: Annotated[
        str | None,
        typer.Option(
            "--range", metavar="LOW,HIGH", help="Draw them uniformly from it, not from a normal distribution."
        ),
    ] = None,
    max_seconds: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="S",
            help="Of one core, by an estimate, for the lower bound at random points: with fewer iterations, "
            "or none, where all take longer; default 10, and 4 ms for each weight.",
        ),
    ] = None,
    json: Json = None,
    png: Annotated[Path | None, typer.Option("--png", metavar="DIR", help="The gains as PNG.")] = None,
    svg: Annotated[Path | None, typer.Option(metavar="DIR", help="The gains as SVG.")] = None,
) -> None:
    """Report how much a whole network can stretch: a proven bound, layer by layer, and what is seen."""
    from ..lipschitz import measure
    from ..lipschitz.bound import NO_LOWER
    from ..models.graphs import read_graph
    from ..models.input_shapes import parse
    from ..report import lipschitz_text
    from ..report.files import check_targets, require
    from ..report.text import progress_bar

    files, folders = {"json": json}, {"png": png, "svg": svg}
    check_targets(files, folders)
    if any(folders.values()):
        require("torch")
        if inputs is None and not points:
            raise InputError("--png and --svg draw gains at points; give --inputs, or --points 3")
    between = _interval(drawn)
    graph = read_graph(model, input_shape=parse(input_shape), module=module)
    with progress_bar() as progress:
        report = measure(
            graph,
            outputs=output or (),
            file=inputs,
            labels=labels,
            points=points,
            between=between,
            max_seconds=max_seconds,
            progress=progress,
        )
    if any(folders.values()) and report.gains is None:
        why = "; ".join(report.notes) or "no convolution or linear layer is in it"
        raise InputError(f"{report.model} has no gains to draw: {why}")
    lower = bool(report.points or not points or NO_LOWER in report.notes)
    deliver(report, files, folders, lipschitz_text.render, complete=lower and not report.refused)


def _interval(text: str | None) -> tuple[float, float] | None:
    """`--range` as two numbers."""
    if text is None:
        return None
    try:
        low, high = map(float, text.split(","))
        if not -math.inf < low < high < math.inf:
            raise ValueError
    except ValueError:
        raise InputError(f"--range must be two numbers, the lower first, such as 0,1; got {text!r}") from None
    return low, high
