"""The command line: arguments and exit statuses, nothing else."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._version import __version__
from .compute import Compute
from .errors import InputError
from .extensions import ExtensibleGroup
from .report import terminal

if TYPE_CHECKING:
    from rich.console import Console

    from .analysis import Report
    from .models.records import Model
    from .projection import Guarantee
    from .report.files import Targets

BAD_INPUT, INCOMPLETE, INTERRUPTED = 2, 3, 130
_INTERRUPTED = "every file is whole, or as it was"


class _Commands(ExtensibleGroup):
    """All commands: errors of the user end in one line, and an interruption in another."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        with _endings():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        with _endings():
            return super().invoke(ctx)


@contextmanager
def _endings() -> Iterator[None]:
    try:
        yield
    except InputError as error:
        terminal.tell(f"convspectra: {error}")
        raise typer.Exit(BAD_INPUT) from None
    except KeyboardInterrupt as stop:
        terminal.tell(f"convspectra: interrupted; {str(stop) or _INTERRUPTED}")
        raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=_Commands,
    help="Singular values of convolutional layers: exact spectra and proven bounds.",
    epilog="Exit status: 0 all of it was done, 1 internal failure, 2 bad input, 3 nothing, or not "
    "everything, could be read, analysed or written, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Precision(StrEnum):
    """The precision of the computation."""

    kernel = "kernel"
    float32 = "float32"
    float64 = "float64"


def _exit(complete: bool) -> None:
    """End a command with the status that says whether all of the model is in the report, and that written."""
    if not complete:
        raise typer.Exit(INCOMPLETE)


def _version(wanted: bool) -> None:
    if wanted:
        terminal.write(f"convspectra {__version__}\n")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


class SolverName(StrEnum):
    """The engine of the small decompositions."""

    auto = "auto"
    native = "native"
    lapack = "lapack"
    torch = "torch"


class MethodName(StrEnum):
    """How a kernel is moved into the ball."""

    project = "project"
    clip = "clip"
    rescale = "rescale"


class GuaranteeName(StrEnum):
    """Whose norm is held."""

    any_size = "any-size"
    layer = "layer"
    torus = "torus"


_GUARANTEES: dict[GuaranteeName, Guarantee] = {
    GuaranteeName.any_size: "any_size",
    GuaranteeName.layer: "layer",
    GuaranteeName.torus: "torus",
}

Html = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Self-contained page.")]
Json = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Everything as JSON; - for standard output.")
]
Png = Annotated[Path | None, typer.Option("--png", metavar="DIR", help="The figures as PNG.")]
Module = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="PACKAGE.MODULE:FACTORY",
        help="Build this module, load MODEL (if given) into it, and trace it at --input-shape.",
    ),
]
InputShape = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[NAME=]C,H,W",
        help="Shape of one input without the batch, channels first, such as 3,224,224; with the input's name "
        "for a graph with several, once for each.",
    ),
]
GeometryFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="TOML file with strides, padding and sizes by layer.")
]
FoldBatchNorm = Annotated[
    bool, typer.Option("--fold-batch-norm", help="Take a convolution and its batch norm as one.")
]
Dtype = Annotated[Precision, typer.Option(help="Precision of the computation; kernel: as stored.")]
MaxSeconds = Annotated[
    float | None,
    typer.Option(
        min=0,
        metavar="S",
        help="Skip what goes beyond so many seconds of one core, by an estimate; default 10, and 4 ms for "
        "each weight of the model.",
    ),
]
SolverOption = Annotated[SolverName, typer.Option(help="Engine of the decompositions; see convspectra info.")]


@app.command()
def analyze(
    model: Annotated[
        Path | None,
        typer.Argument(help="ONNX, safetensors, PyTorch (.pt .pth .th .pt2) or TensorFlow file."),
    ] = None,
    module: Module = None,
    input_shape: InputShape = None,
    geometry: GeometryFile = None,
    fold_batch_norm: FoldBatchNorm = False,
    dtype: Dtype = Precision.float64,
    solver: SolverOption = SolverName.auto,
    max_seconds: MaxSeconds = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep finished layers here, and start from those that are."),
    ] = None,
    json: Json = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="The table as CSV.")] = None,
    parquet: Annotated[Path | None, typer.Option(metavar="FILE", help="The table as Parquet.")] = None,
    npz: Annotated[Path | None, typer.Option(metavar="FILE", help="All singular values.")] = None,
    html: Html = None,
    png: Png = None,
    svg: Annotated[Path | None, typer.Option(metavar="DIR", help="The figures as SVG.")] = None,
) -> None:
    """Report the singular values of every convolution in a model."""
    targets = {"json": json, "csv": csv, "parquet": parquet, "npz": npz, "html": html}
    folders = {"png": png, "svg": svg}
    from .models import read_model
    from .models.input_shapes import parse
    from .report.files import check_targets
    from .report.text import render

    check_targets(targets, {**folders, "resume": resume})
    read = read_model(model, input_shape=parse(input_shape), geometry=geometry, module=module)
    report = _analyze(
        read,
        dtype=dtype.value,
        fold_batch_norm=fold_batch_norm,
        compute=Compute(solver=solver.value),
        max_seconds=max_seconds,
        resume=resume,
    )
    whole = _deliver(report, targets, folders, partial(render, report))
    _exit(whole and report.complete)


@app.command()
def clip(
    model: Annotated[Path, typer.Argument(help="ONNX, safetensors or PyTorch (.pt .pth .th) file.")],
    max_norm: Annotated[float, typer.Option(metavar="C", help="The largest norm that a layer may have.")],
    output: Annotated[Path, typer.Option(metavar="FILE", help="Where to write the model, in its format.")],
    method: Annotated[
        MethodName,
        typer.Option(
            help="project: the nearest kernel of such norm. rescale: the kernel divided. clip: the paper's, "
            "whose norms end above C."
        ),
    ] = MethodName.project,
    guarantee: Annotated[
        GuaranteeName,
        typer.Option(
            help="Whose norm is at most C. any-size: as the layer pads, at every input size. layer: as the "
            "layer pads, at its own size. torus: with wrapped boundary at its own size, as in the paper: "
            "another operator than a padded layer."
        ),
    ] = GuaranteeName.any_size,
    layers: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Only layers of such names, as 'layer1.*.conv?'; can be repeated."),
    ] = None,
    module: Module = None,
    input_shape: InputShape = None,
    geometry: GeometryFile = None,
    fold_batch_norm: FoldBatchNorm = False,
    tolerance: Annotated[
        float, typer.Option(help="Of project: how near the nearest kernel; smaller takes longer.")
    ] = 1e-2,
    solver: SolverOption = SolverName.auto,
    json: Json = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", "--force", help="Replace FILE if it exists, be it MODEL itself.")
    ] = False,
) -> None:
    """Write a model again with every convolution and linear layer held to a norm, and say what changed."""
    from .control import Limit, clip_file
    from .models import read_model
    from .models.input_shapes import parse
    from .models.writers import check_suffix, writable_format
    from .report import clip_text
    from .report.files import check_output, check_targets
    from .report.text import progress_bar

    limit = Limit(
        max_norm,
        method.value,
        _GUARANTEES[guarantee],
        fold_batch_norm,
        tolerance,
    )
    check_suffix(output, writable_format(model))
    check_targets({"json": json}, {})
    target = check_output(output, model, overwrite, others=[json])
    read = read_model(model, input_shape=parse(input_shape), geometry=geometry, module=module)
    with progress_bar() as progress:
        report = clip_file(
            read,
            model,
            target,
            limit,
            layers=layers or (),
            compute=Compute(solver=solver.value),
            progress=progress,
        )
    terminal.tell(f"wrote {output}")
    whole = _deliver(report, {"json": json}, {}, partial(clip_text.render, report))
    _exit(whole and report.complete)


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(help="A model file, as for analyze.")],
    after: Annotated[Path, typer.Argument(help="Another one, with layers of the same names.")],
    module: Module = None,
    input_shape: InputShape = None,
    geometry: GeometryFile = None,
    fold_batch_norm: FoldBatchNorm = False,
    dtype: Dtype = Precision.float64,
    solver: SolverOption = SolverName.auto,
    max_seconds: MaxSeconds = None,
    json: Json = None,
    html: Html = None,
    png: Png = None,
) -> None:
    """Report two models side by side: what became of the singular values of each layer."""
    from .comparison import compare as compare_models
    from .models import read_model
    from .models.input_shapes import parse
    from .report import compare_text
    from .report.files import check_targets
    from .report.text import progress_bar

    files, folders = {"json": json, "html": html}, {"png": png}
    check_targets(files, folders)
    models = [
        read_model(path, input_shape=parse(input_shape), geometry=geometry, module=module)
        for path in (before, after)
    ]
    with progress_bar() as progress:
        found = compare_models(
            *models,
            progress=progress,
            dtype=dtype.value,
            fold_batch_norm=fold_batch_norm,
            compute=Compute(solver=solver.value),
            max_seconds=max_seconds,
        )
    whole = _deliver(found, files, folders, partial(compare_text.render, found))
    _exit(whole and found.complete)


@app.command()
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
    json: Json = None,
    png: Annotated[Path | None, typer.Option("--png", metavar="DIR", help="The gains as PNG.")] = None,
    svg: Annotated[Path | None, typer.Option(metavar="DIR", help="The gains as SVG.")] = None,
) -> None:
    """Report how much a whole network can stretch: a proven bound, layer by layer, and what is seen."""
    from .lipschitz import measure
    from .models.graphs import read_graph
    from .models.input_shapes import parse
    from .report import lipschitz_text
    from .report.files import check_targets, require
    from .report.text import progress_bar

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
            progress=progress,
        )
    if any(folders.values()) and report.gains is None:
        raise InputError(f"{report.model} has no gains to draw: no convolution or linear layer is in it")
    whole = _deliver(report, files, folders, partial(lipschitz_text.render, report))
    _exit(whole and not report.refused)


@app.command()
def demo(html: Html = Path("convspectra-demo.html")) -> None:
    """Analyse a small trained network that comes with the package; no network, no arguments."""
    from .demo import DESCRIPTION, model_path
    from .models import read_model
    from .report.files import check_targets
    from .report.text import plain, render

    targets = {"html": html}
    check_targets(targets, {})
    report = _analyze(read_model(model_path()))

    def everything(console: Console) -> None:
        console.print(DESCRIPTION)
        render(report, console)
        if html is not None:
            console.print(plain(f"The same with figures: {html.resolve()}"), soft_wrap=True)

    _exit(_deliver(report, targets, {}, everything))


@app.command()
def info() -> None:
    """Say which solver is in use and why, with how many threads, and what is installed."""
    from .report.environment import describe

    terminal.write("".join(f"{line}\n" for line in describe()))


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


def _analyze(model: Model, **options: Any) -> Report:
    from .analysis import analyze as analyze_model
    from .report.text import progress_bar

    with progress_bar() as progress:
        return analyze_model(model, progress=progress, **options)


def _deliver(record: Any, files: Targets, folders: Targets, render: Callable[[Console], None]) -> bool:
    """Write the files, then print: what was computed hangs on no terminal. Whether all of it went well.

    Nothing is printed where standard output is one of the files.
    """
    from .report.files import STANDARD_OUTPUT, write_all

    whole = True
    for written in write_all(record, files, folders):
        failed = isinstance(written, InputError)
        if failed or written != STANDARD_OUTPUT:
            terminal.tell(f"convspectra: {written}" if failed else f"wrote {written}")
        whole = whole and not failed
    return whole if STANDARD_OUTPUT in files.values() else terminal.show(render) and whole


class _Interruption(KeyboardInterrupt):
    """A class of its own: where a KeyboardInterrupt passed through `exec`, Python ends without our status."""


def main() -> None:
    """Entry point of the `convspectra` command: the process is this command's, and so are its signals."""
    # Windows has the first two of them, and no timer.
    ends = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # What is ignored already stays so: `nohup`, and the background of a shell.
    ours = [one for one in ends if signal.getsignal(one) is not signal.SIG_IGN]
    timer: Callable[[float], Any] | None = None
    if hasattr(signal, "setitimer"):
        ours.append(signal.SIGALRM)
        timer = partial(signal.setitimer, signal.ITIMER_REAL)
    began: list[float] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        """Once in an orderly way; one that comes with it is the same, a later one ends at once."""
        if not began:
            began.append(time.monotonic())
            raise _Interruption
        if time.monotonic() - began[0] > 1:
            os._exit(INTERRUPTED)

    def again(dropped: sys.UnraisableHookArgs) -> None:
        """Where Python dropped it, as in a destructor, it comes once more."""
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            sys.__unraisablehook__(dropped)
        elif began:
            began.clear()
            if timer is not None:
                timer(0.01)

    sys.unraisablehook = again
    for one in ours:
        signal.signal(one, interrupt)
    try:
        app()
    except KeyboardInterrupt:  # before there was a command
        terminal.tell(f"convspectra: interrupted; {_INTERRUPTED}")
        raise SystemExit(INTERRUPTED) from None
    except OSError as error:
        # Of help on standard output: a command turns every other one into a line that says more.
        terminal.tell(f"convspectra: {error}")
        terminal.discard_output()
        raise SystemExit(1) from None
    finally:
        for one in ours:  # what was to be done is done
            signal.signal(one, signal.SIG_IGN)
