"""Options that several commands have, and the library's arguments by the names of options."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from ..analysis import Precision
from ..compute import Solver
from ..errors import InputError

if TYPE_CHECKING:
    from ..models.records import Model

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


def one_of(words: Any, name: str, description: str) -> Any:
    """An option whose values are those of a `Literal`, with hyphens or underscores."""

    def parse(text: str) -> str:
        word = str(text).replace("-", "_")
        if word not in get_args(words):
            raise InputError(f"{name} must be one of {', '.join(shown)}; got {text!r}")
        return word

    shown = [word.replace("_", "-") for word in get_args(words)]
    return typer.Option(name, parser=parse, metavar="|".join(shown), help=description)


Dtype = Annotated[
    Any, one_of(Precision, "--dtype", "Precision of the computation; kernel: that of the kernel as stored.")
]
MaxSeconds = Annotated[
    float | None,
    typer.Option(
        min=0,
        metavar="S",
        help="Skip what goes beyond so many seconds of one core, by an estimate; default 10, and 4 ms for "
        "each weight of the model.",
    ),
]
SolverOption = Annotated[
    Any, one_of(Solver, "--solver", "Engine of the decompositions; see convspectra info.")
]

_OPTIONS = {
    "input_shape": "--input-shape",
    "geometry": "--geometry",
    "module": "--model",
    "max_norm": "--max-norm",
    "tolerance": "--tolerance",
    "guarantee": "--guarantee",
    "layers": "--layers",
    "output": "--output",
    "outputs": "--output",
    "inputs": "--inputs",
    "labels": "--labels",
    "max_seconds": "--max-seconds",
}
_VALUES = {"--geometry": " FILE", "--model": " package.module:factory"}
_NAMES = "|".join(_OPTIONS)
_UNMISTAKABLE = "|".join(name for name in _OPTIONS if "_" in name)
_TOLD = {"reason", "note", "notes", "layers", "unread", "before", "after"}
"""Fields of records that hold sentences, or records that do."""
# An argument is named as `name=`, maybe with a value, or begins a message, or has an underscore.
_ARGUMENT = re.compile(
    rf"(?<![\w.'\"/-])(?:({_NAMES})=(\([^()]*\)|'[^']*'|\"[^\"]*\"|[\w.:]*)|({_UNMISTAKABLE})(?![\w.'\"/]))"
    rf"|^({_NAMES})(?= must )"
)


def in_options(message: str) -> str:
    """A message of the library with the names of its arguments as options of the command line.

    >>> in_options("give input_shape=(3, 8, 8), geometry= or module='net:build'")
    'give --input-shape 3,8,8, --geometry FILE or --model net:build'
    """
    return _ARGUMENT.sub(_as_option, message)


def _as_option(found: re.Match[str]) -> str:
    option = _OPTIONS[found[1] or found[3] or found[4]]
    value = (found[2] or "").strip("()'\"").replace(", ", ",").rstrip(",")
    if value or not found[1]:
        return f"{option} {value}".rstrip()
    return option + _VALUES.get(option, "")


def with_options(record: Any) -> Any:
    """A record of the library, its reasons and notes by `in_options`."""
    if isinstance(record, str):
        return in_options(record)
    if isinstance(record, tuple):
        return tuple(map(with_options, record))
    if not is_dataclass(record) or isinstance(record, type):
        return record
    told = {field.name for field in fields(record)} & _TOLD
    return replace(record, **{name: with_options(getattr(record, name)) for name in told})


def read(
    model: Path | None, module: str | None, input_shape: list[str] | None, geometry: Path | None
) -> Model:
    """`read_model` with what the options give it."""
    from ..models import read_model
    from ..models.input_shapes import parse

    return read_model(model, input_shape=parse(input_shape), geometry=geometry, module=module)
