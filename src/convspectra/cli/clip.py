"""`convspectra clip`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..compute import Compute
from ..constrain.limits import IN_WORDS, Method
from ..guarantee import Guarantee
from ..report import terminal
from .delivery import deliver
from .options import (
    FoldBatchNorm,
    GeometryFile,
    InputShape,
    Json,
    MaxMemory,
    Module,
    SolverOption,
    one_of,
    read,
)


def clip(
    model: Annotated[Path, typer.Argument(help="ONNX, safetensors or PyTorch (.pt .pth .th) file.")],
    max_norm: Annotated[float, typer.Option(metavar="C", help="The largest norm that a layer may have.")],
    output: Annotated[Path, typer.Option(metavar="FILE", help="Where to write the model, in its format.")],
    method: Annotated[
        Any,
        one_of(
            Method,
            "--method",
            ". ".join(f"{name.replace('_', '-')}: {words}" for name, words in IN_WORDS.items()) + ".",
        ),
    ] = "project",
    guarantee: Annotated[
        Any,
        one_of(
            Guarantee,
            "--guarantee",
            "Whose norm is at most C. layer: with its own padding, at its own size; at every size where the "
            "file states none. any-size: with its own padding, at every input size. torus: with wrapped "
            "boundary at its own size, as in the paper: another operator than a padded layer.",
        ),
    ] = "layer",
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
    solver: SolverOption = "auto",
    max_seconds: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="S",
            help="Refuse what takes more seconds of one core, by an estimate; the default grows with the "
            "number of weights.",
        ),
    ] = None,
    max_memory: MaxMemory = None,
    json: Json = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", "--force", help="Replace FILE if it exists, be it MODEL itself.")
    ] = False,
) -> None:
    """Write a model again with every convolution and linear layer held to a norm, and say what changed."""
    from ..constrain import Limits
    from ..constrain.file import clip_file
    from ..models.writers import check_suffix, writable_format
    from ..report import clip_text
    from ..report.files import check_output, check_targets
    from ..report.text import watching

    limits = Limits(max_norm, method, guarantee, fold_batch_norm, tolerance)
    check_suffix(output, writable_format(model))
    check_targets({"json": json}, {})
    target = check_output(output, model, overwrite, others=[json])
    found = read(model, module, input_shape, geometry)
    with watching() as told:
        report = clip_file(
            found,
            model,
            target,
            limits,
            layers=layers or (),
            compute=Compute(solver=solver),
            max_seconds=max_seconds,
            **told,
        )
    terminal.tell(f"wrote {output}")
    deliver(report, {"json": json}, {}, clip_text.render, complete=report.complete)
