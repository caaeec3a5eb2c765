"""The command line: arguments and exit statuses, nothing else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._version import __version__
from .errors import InputError

if TYPE_CHECKING:
    from .analysis import Report
    from .models.records import Model

BAD_INPUT, SOME_LAYER_FAILED, INTERRUPTED = 2, 3, 130

app = typer.Typer(
    help="Singular values of convolutional layers: exact spectra and proven bounds.",
    epilog="Exit status: 0 done, 1 internal failure, 2 bad input, 3 some layer could not be analysed.",
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


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except InputError as error:
        print(f"convspectra: {error}", file=sys.stderr)
        raise typer.Exit(BAD_INPUT) from None
    except KeyboardInterrupt:
        print("convspectra: interrupted; no file was written", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


def _version(wanted: bool) -> None:
    if wanted:
        print(f"convspectra {__version__}")
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


Html = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Self-contained page.")]


@app.command()
def analyze(
    model: Annotated[
        Path | None,
        typer.Argument(help="ONNX, safetensors, PyTorch (.pt .pth .th .pt2) or TensorFlow file."),
    ] = None,
    module: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="PACKAGE.MODULE:FACTORY",
            help="Build this module, load MODEL (if given) into it, and trace it at --input-shape.",
        ),
    ] = None,
    input_shape: Annotated[
        str | None,
        typer.Option(metavar="C,H,W", help="Shape of one input, channels first, such as 3,224,224."),
    ] = None,
    geometry: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="TOML file with strides, padding and sizes by layer."),
    ] = None,
    fold_batch_norm: Annotated[
        bool, typer.Option("--fold-batch-norm", help="Analyse convolution and batch norm as one.")
    ] = False,
    dtype: Annotated[
        Precision, typer.Option(help="Precision of the computation; kernel: as stored.")
    ] = Precision.float64,
    solver: Annotated[
        SolverName, typer.Option(help="Engine of the decompositions; see convspectra info.")
    ] = SolverName.auto,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep finished layers here, and start from those that are."),
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Everything as JSON.")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="The table as CSV.")] = None,
    parquet: Annotated[Path | None, typer.Option(metavar="FILE", help="The table as Parquet.")] = None,
    npz: Annotated[Path | None, typer.Option(metavar="FILE", help="All singular values.")] = None,
    html: Html = None,
    png: Annotated[Path | None, typer.Option(metavar="DIR", help="The figures as PNG.")] = None,
    svg: Annotated[Path | None, typer.Option(metavar="DIR", help="The figures as SVG.")] = None,
) -> None:
    """Report the singular values of every convolution in a model."""
    targets = {"json": json, "csv": csv, "parquet": parquet, "npz": npz, "html": html}
    folders = {"png": png, "svg": svg}
    with _one_line_errors():
        from .models import read_model
        from .report.files import check_targets, write_all

        check_targets(targets, folders)
        read = read_model(model, input_shape=_sizes(input_shape), geometry=geometry, module=module)
        report = _analyze(
            read, dtype=dtype.value, fold_batch_norm=fold_batch_norm, solver=solver.value, resume=resume
        )
        for written in write_all(report, targets, folders):
            print(f"wrote {written}", file=sys.stderr)
    if any(layer.status == "failed" for layer in report.layers):
        raise typer.Exit(SOME_LAYER_FAILED)


@app.command()
def demo(html: Html = Path("convspectra-demo.html")) -> None:
    """Analyse a small trained network that comes with the package; no network, no arguments."""
    with _one_line_errors():
        from .demo import DESCRIPTION, model_path
        from .models import read_model
        from .report.files import check_targets, write_all

        targets = {"html": html}
        check_targets(targets, {})
        print(DESCRIPTION)
        report = _analyze(read_model(model_path()))
        for written in write_all(report, targets, {}):
            print(f"The same with figures: {written.resolve()}")


@app.command()
def bench(
    full: Annotated[bool, typer.Option("--full", help="The paper's whole curves; about an hour.")] = False,
    small: Annotated[bool, typer.Option("--small", help="Toy layers, in seconds.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write bench.json here, and figure1.png.")
    ] = None,
) -> None:
    """Time every way to the singular values side by side, each checked for accuracy: figure 1."""
    with _one_line_errors():
        from rich.console import Console

        from .bench import run
        from .report import benchmarks
        from .report.files import atomic, check_targets
        from .report.text import progress_bar

        check_targets({}, {"png": out})
        with progress_bar(Console(stderr=True)) as progress:
            results = run(full=full, small=small, progress=progress)
        console = Console()
        benchmarks.render(results, console if console.is_terminal else Console(width=130))
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            with atomic(out / "bench.json") as file:
                file.write(results.to_json().encode())
            benchmarks.draw(results, out / "figure1.png")


@app.command()
def info() -> None:
    """Say which solver is in use and why, with how many threads, and what is installed."""
    from .report.environment import describe

    for line in describe():
        print(line)


def _analyze(model: Model, **options: Any) -> Report:
    from rich.console import Console

    from .analysis import analyze as analyze_model
    from .report.text import progress_bar, render

    with progress_bar(Console(stderr=True)) as progress:
        report = analyze_model(model, progress=progress, **options)
    render(report, Console())
    return report


def _sizes(text: str | None) -> tuple[int, ...] | None:
    """`"3,224,224"` as integers."""
    if text is None:
        return None
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not 2 <= len(sizes) <= 4 or min(sizes) < 1:
        raise InputError(
            f"--input-shape must be the channels and 1 to 3 sizes, all at least 1, such as 3,224,224; "
            f"got {text!r}"
        )
    return sizes


def main() -> None:
    """Entry point of the `convspectra` command."""
    app()
