"""`convspectra analyze`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..compute import Compute
from ..errors import InputError
from .delivery import deliver
from .options import (
    BoundsOption,
    Dtype,
    FoldBatchNorm,
    GeometryFile,
    Html,
    InputShape,
    Json,
    LayerGlobs,
    MaxMemory,
    MaxSeconds,
    Module,
    Png,
    SolverOption,
    SpectrumOption,
    read,
)


def analyze(
    model: Annotated[
        Path | None,
        typer.Argument(help="ONNX, safetensors, PyTorch (.pt .pth .th .pt2) or TensorFlow file."),
    ] = None,
    module: Module = None,
    input_shape: InputShape = None,
    geometry: GeometryFile = None,
    fold_batch_norm: FoldBatchNorm = False,
    layers: LayerGlobs = None,
    bounds: BoundsOption = "fast",
    spectrum: SpectrumOption = "auto",
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Compute nothing: print the seconds and the memory that each layer is estimated to take.",
        ),
    ] = False,
    dtype: Dtype = "kernel",
    solver: SolverOption = "auto",
    max_seconds: MaxSeconds = None,
    max_memory: MaxMemory = None,
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
    from ..analysis import analyze as analyze_model
    from ..report.files import check_targets
    from ..report.text import render, watching

    outputs = {"json": json, "csv": csv, "parquet": parquet, "npz": npz, "html": html, "png": png, "svg": svg}
    written = [f"--{name}" for name, path in {**outputs, "resume": resume}.items() if path is not None]
    if dry_run and written:
        raise InputError(f"--dry-run computes nothing to write; leave out {', '.join(written)}")
    targets = {"json": json, "csv": csv, "parquet": parquet, "npz": npz, "html": html}
    folders = {"png": png, "svg": svg}
    check_targets(targets, {**folders, "resume": resume})
    found = read(model, module, input_shape, geometry)
    if dry_run:
        from ..analysis import plan, selected
        from ..report import plan_text
        from ..work import Effort

        effort = Effort(bounds, spectrum)
        expected = plan(selected(found, layers or ()), effort=effort, dtype=dtype, max_seconds=max_seconds)
        deliver(expected, {}, {}, plan_text.render, complete=expected.complete)
        return
    with watching() as told:
        report = analyze_model(
            found,
            layers=layers or (),
            bounds=bounds,
            spectrum=spectrum,
            dtype=dtype,
            fold_batch_norm=fold_batch_norm,
            compute=Compute(solver=solver),
            max_seconds=max_seconds,
            resume=resume,
            **told,
        )
    deliver(report, targets, folders, render, complete=report.complete)
