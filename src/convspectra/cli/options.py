"""Options that several commands have, and the library's arguments by the names of options."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from ..analysis import Precision
from ..compute import Solver
from ..cost import max_memory
from ..errors import InputError
from ..sampled import Sampling
from ..work import Bounds

if TYPE_CHECKING:
    from ..models import sample_shapes
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

    def word_of(text: str) -> str:
        word = text.replace("-", "_")
        if word not in get_args(words):
            raise InputError(f"{name} must be one of {', '.join(shown)}; got {text!r}")
        return word

    shown = [word.replace("_", "-") for word in get_args(words)]
    # A callback, as what a parser raises becomes several lines.
    return typer.Option(name, parser=str, callback=word_of, metavar="|".join(shown), help=description)


Dtype = Annotated[
    Any,
    one_of(
        Precision,
        "--dtype",
        "Precision of the computation; kernel: that of the kernel as stored, at least float32.",
    ),
]
BoundsOption = Annotated[
    Any,
    one_of(
        Bounds,
        "--bounds",
        "Bounds of the norm of each layer: fast stops within 1 %, tight goes as far as it can, none leaves "
        "only the circular spectrum.",
    ),
]
SpectrumOption = Annotated[
    Any,
    one_of(
        Sampling,
        "--spectrum",
        "exact takes all frequencies; sampled takes some for all, with a proven error beside each number; "
        "auto samples layers that take more than 5 s of one core.",
    ),
]
LayerGlobs = Annotated[
    list[str] | None,
    typer.Option(
        "--layers",
        metavar="GLOB",
        help="Only layers of such names, as 'layer1.*.conv?'; can be repeated.",
    ),
]
MaxSeconds = Annotated[
    float | None,
    typer.Option(
        metavar="S",
        help="Skip what goes beyond so many seconds of one core, by an estimate; default 10, and 4 ms for "
        "each weight of the model.",
    ),
]


def _raise_memory(context: typer.Context, gigabytes: float | None) -> None:
    """The limit holds until the command ends."""
    context.with_resource(max_memory(None if gigabytes is None else gigabytes * 2**30))


MaxMemory = Annotated[
    float | None,
    typer.Option(
        metavar="GIB",
        callback=_raise_memory,
        help="Memory that one operator may take, by an estimate; default 1.5.",
    ),
]
SolverOption = Annotated[
    Any, one_of(Solver, "--solver", "Engine of the decompositions; see convspectra info.")
]

_OPTIONS = {
    "sample_shape": "--input-shape",
    "geometry": "--geometry",
    "module": "--model",
    "max_norm": "--max-norm",
    "tolerance": "--tolerance",
    "guarantee": "--guarantee",
    "layers": "--layers",
    "bounds": "--bounds",
    "spectrum": "--spectrum",
    "output": "--output",
    "outputs": "--output",
    "inputs": "--inputs",
    "labels": "--labels",
    "max_seconds": "--max-seconds",
    "max_memory": "--max-memory",
}
_VALUES = {"--geometry": " FILE", "--model": " package.module:factory"}
_NAMES = "|".join(_OPTIONS)
_UNMISTAKABLE = "|".join(name for name in _OPTIONS if "_" in name)
_TOLD = {"reason", "refused", "note", "notes", "layers", "unread", "before", "after"}
"""Fields of records that hold sentences, or records that do."""
# An argument is named as `name=`, maybe with a value, or begins a message, or has an underscore.
_ARGUMENT = re.compile(
    rf"(?<![\w.'\"/-])(?:({_NAMES})=(\([^()]*\)|'[^']*'|\"[^\"]*\"|[\w.:]*)|({_UNMISTAKABLE})(?![\w.'\"/]))"
    rf"|^({_NAMES})(?= must )"
)


def in_options(message: str) -> str:
    """A message of the library with the names of its arguments as options of the command line.

    >>> in_options("give sample_shape=(3, 8, 8), geometry= or module='net:build'")
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
    if isinstance(record, dict):
        return {name: with_options(one) for name, one in record.items()}
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

    return read_model(model, sample_shape=shapes_of(input_shape), geometry=geometry, module=module)


_EXAMPLE = "such as 3,224,224, or NAME=3,224,224 for a graph with several inputs"


def shapes_of(texts: Sequence[str] | None) -> sample_shapes.SampleShape | None:
    """What `--input-shape` was given: `["3,224,224"]`, or `["image=3,224,224", "state=128"]`.

    Raises:
        InputError: no sizes, a name twice, names together with a shape that has none.

    >>> shapes_of(["3,8,8"])
    (3, 8, 8)
    """
    if not texts:
        return None
    named: dict[str, sample_shapes.Sizes] = {}
    for text in texts:
        name, equals, sizes = text.rpartition("=")
        if not equals and len(texts) > 1:
            raise InputError(
                f"--input-shape was given {len(texts)} times: write NAME=SHAPE each time; got {text!r}"
            )
        if name in named:
            raise InputError(f"--input-shape names {name!r} twice; give one shape for each input")
        named[name] = _sizes(sizes, text)
        if equals and not name:
            raise InputError(f"--input-shape must be NAME=SHAPE with a name; got {text!r}")
    return named.get("", named)


def _sizes(text: str, whole: str) -> sample_shapes.Sizes:
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not 1 <= len(sizes) <= 8 or min(sizes) < 1:
        raise InputError(f"--input-shape must be sizes, all at least 1, {_EXAMPLE}; got {whole!r}")
    return sizes
