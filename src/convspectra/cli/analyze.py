"""`convspectra analyze`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..compute import Compute
from .delivery import deliver
from .options import (
    Dtype,
    FoldBatchNorm,
    GeometryFile,
    Html,
    InputShape,
    Json,
    MaxMemory,
    MaxSeconds,
    Module,
    Png,
    SolverOption,
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
    dtype: Dtype = "float64",
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

    targets = {"json": json, "csv": csv, "parquet": parquet, "npz": npz, "html": html}
    folders = {"png": png, "svg": svg}
    check_targets(targets, {**folders, "resume": resume})
    found = read(model, module, input_shape, geometry)
    with watching() as told:
        report = analyze_model(
            found,
            dtype=dtype,
            fold_batch_norm=fold_batch_norm,
            compute=Compute(solver=solver),
            max_seconds=max_seconds,
            resume=resume,
            **told,
        )
    deliver(report, targets, folders, render, complete=report.complete)
