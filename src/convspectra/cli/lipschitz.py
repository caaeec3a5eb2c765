"""`convspectra lipschitz`."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from ..errors import InputError
from .delivery import deliver
from .options import InputShape, Json, MaxMemory, Module, shapes_of

if TYPE_CHECKING:
    from ..models.operations import Graph
    from ..network import LipschitzReport

NO_LOWER = "no lower bound: PyTorch, which differentiates, is not installed"


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
    max_memory: MaxMemory = None,
    json: Json = None,
    png: Annotated[Path | None, typer.Option("--png", metavar="DIR", help="The gains as PNG.")] = None,
    svg: Annotated[Path | None, typer.Option(metavar="DIR", help="The gains as SVG.")] = None,
) -> None:
    """Report how much a whole network can stretch: a proven bound, layer by layer, and what is seen."""
    from ..models.graphs import read_graph
    from ..report import lipschitz_text
    from ..report.files import check_targets, require
    from ..report.text import watching

    files, folders = {"json": json}, {"png": png, "svg": svg}
    check_targets(files, folders)
    if any(folders.values()):
        require("torch")
        if inputs is None and not points:
            raise InputError("--png and --svg draw gains at points; give --inputs, or --points 3")
    between = _interval(drawn)
    graph = read_graph(model, sample_shape=shapes_of(input_shape), module=module)
    with watching() as told:
        report = measure(
            graph,
            file=inputs,
            labels=labels,
            points=points,
            outputs=output or (),
            between=between,
            max_seconds=max_seconds,
            progress=told["progress"],
        )
    if any(folders.values()) and report.gains is None:
        why = "; ".join(report.notes) or "no convolution or linear layer is in it"
        raise InputError(f"{report.model} has no gains to draw: {why}")
    lower = bool(report.points or not points or NO_LOWER in report.notes)
    deliver(report, files, folders, lipschitz_text.render, complete=lower and not report.refused)


def measure(
    graph: Graph, *, file: Path | None = None, labels: Path | None = None, points: int = 0, **options: Any
) -> LipschitzReport:
    """`network.lipschitz` with points and labels from `.npy` files; without PyTorch none are drawn, noted.

    Raises:
        InputError: as `network.lipschitz`; a file that is missing or is no plain array.
    """
    from ..network import lipschitz as bound_of

    if labels is not None and file is None:
        raise InputError("--labels are those of inputs: give --inputs FILE.npy too, one input a label")
    inputs = None if file is None else _array_in("--inputs", file)
    classes = None if labels is None else _array_in("--labels", labels)
    if importlib.util.find_spec("torch") is None:
        if inputs is not None:
            raise InputError("PyTorch is needed for --inputs: pip install 'convspectra[torch]'")
        if points:
            found = bound_of(graph, **{**options, "between": None})
            return replace(found, notes=(*found.notes, NO_LOWER))
    return bound_of(graph, inputs=inputs, labels=classes, points=points, **options)


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


def _array_in(option: str, file: Path) -> np.ndarray[Any, Any]:
    try:
        found = np.load(file, allow_pickle=False)
    except OSError as error:
        raise InputError(f"{option} {file} cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError):
        raise InputError(f"{option} {file} is no array as numpy.save writes one") from None
    if not isinstance(found, np.ndarray):
        raise InputError(f"{option} {file} must hold one array (.npy); it is an archive of several")
    return found
