"""`convspectra compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..compute import Compute
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


def compare(
    before: Annotated[Path, typer.Argument(help="A model file, as for analyze.")],
    after: Annotated[Path, typer.Argument(help="Another one, with layers of the same names.")],
    module: Module = None,
    input_shape: InputShape = None,
    geometry: GeometryFile = None,
    fold_batch_norm: FoldBatchNorm = False,
    layers: LayerGlobs = None,
    bounds: BoundsOption = "fast",
    spectrum: SpectrumOption = "auto",
    dtype: Dtype = "kernel",
    solver: SolverOption = "auto",
    max_seconds: MaxSeconds = None,
    max_memory: MaxMemory = None,
    json: Json = None,
    html: Html = None,
    png: Png = None,
) -> None:
    """Report two models side by side: what became of the singular values of each layer."""
    from ..analysis import compare as compare_models
    from ..report import compare_text
    from ..report.files import check_targets
    from ..report.text import watching

    files, folders = {"json": json, "html": html}, {"png": png}
    check_targets(files, folders)
    models = [read(path, module, input_shape, geometry) for path in (before, after)]
    with watching() as told:
        found = compare_models(
            *models,
            layers=layers or (),
            bounds=bounds,
            spectrum=spectrum,
            dtype=dtype,
            fold_batch_norm=fold_batch_norm,
            compute=Compute(solver=solver),
            max_seconds=max_seconds,
            **told,
        )
    deliver(found, files, folders, compare_text.render, complete=found.complete)
