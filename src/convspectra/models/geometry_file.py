"""Geometry files: what a bare weight file does not say, written down by the user in TOML.

    sample_shape = [3, 32, 32]         # channels and sizes of one input, assumed where nothing else is given

    [layers."features.0"]              # a name, or a pattern such as "layer1.*.conv?"
    input_shape = [32, 32]             # sizes only
    stride = 2
    padding = 1                        # or [1, 1], [[0, 1], [0, 1]], "same", "valid"
    padding_mode = "zeros"
    dilation = 1
    groups = 1
    transposed = false
    output_padding = 0
    layout = "OIHW"                    # the kernel's axes: O, I channels out and in, D H W taps

Entries are applied in the file's order, later ones over earlier ones. What no entry gives stays as
it was: assumed, or stated by the graph. A tensor that is listed as not read, because only its shape
is that of a kernel, becomes a layer where an entry names it, or has a pattern that no other layer matches.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ..errors import GeometryError, InputError
from ..geometry import ConvGeometry
from .names import matching
from .records import ConvLayer, Model
from .weights import NO_SIZE

FIELDS = (
    "input_shape",
    "stride",
    "dilation",
    "groups",
    "transposed",
    "padding",
    "padding_mode",
    "output_padding",
    "layout",
)


def apply(model: Model, path: Path) -> Model:
    """The model with the geometry that a file gives to its layers.

    Raises:
        InputError: the file cannot be read, or an entry names no layer, an unknown field or a value
            that contradicts itself or the kernel.
    """
    table = read(path)
    model = _with_candidates(model, table)
    names = [layer.name for layer in model.layers]
    given: dict[str, dict[str, Any]] = {name: {} for name in names}
    for pattern, fields in table.items():
        for name in matching(pattern, names, str(path)):
            given[name].update(fields)
    return replace(model, layers=tuple(_with(layer, given[layer.name], path) for layer in model.layers))


def _with_candidates(model: Model, table: Mapping[str, Any]) -> Model:
    """The model with those candidates among its layers that a table names."""
    layers = [layer.name for layer in model.layers]
    named = {
        layer.name
        for pattern in table
        for layer in model.candidates
        if layer.name == pattern or (fnmatchcase(layer.name, pattern) and not _any(layers, pattern))
    }
    if not named:
        return model
    chosen = (
        replace(layer, assumed=tuple(field for field in layer.assumed if field != "kind"))
        for layer in model.candidates
        if layer.name in named
    )
    return replace(
        model,
        layers=(*model.layers, *chosen),
        candidates=tuple(layer for layer in model.candidates if layer.name not in named),
        unread=tuple(one for one in model.unread if one.name not in named),
    )


def _any(names: Iterable[str], pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)


def read(path: Path) -> Mapping[str, Mapping[str, Any]]:
    """The entries of a geometry file, by name or pattern.

    Raises:
        InputError: it cannot be read, is no TOML, or holds what no geometry has.
    """
    table = load(path)
    unknown = [key for key in table if key not in ("layers", "sample_shape")]
    layers = table.get("layers", {})
    if unknown or not isinstance(layers, dict):
        raise InputError(
            f"{path}: expected 'sample_shape' and [layers.\"name\"] tables at the top; "
            f"got {unknown or layers!r}"
        )
    for name, fields in layers.items():
        if not isinstance(fields, dict):
            raise InputError(f"{path}: layers.{name!r} must be a table; got {fields!r}")
        for field in fields:
            if field not in FIELDS:
                raise InputError(
                    f"{path}: layers.{name!r} has no field {field!r}; the fields are "
                    f"{', '.join(map(repr, FIELDS))}"
                )
    return layers


def load(path: Path) -> dict[str, Any]:
    """The TOML of a geometry file.

    Raises:
        InputError: it cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits
        raise InputError(f"{path}: not a TOML file that can be read: {error}") from error


def default_sample_shape(path: Path) -> tuple[int, ...] | None:
    """The `sample_shape` at the top of a geometry file.

    Raises:
        InputError: it is not a list of positive integers.
    """
    shape = load(path).get("sample_shape")
    if shape is None:
        return None
    if not isinstance(shape, list) or not all(type(size) is int and size > 0 for size in shape):
        raise InputError(
            f"{path}: 'sample_shape' must be a list of channels and sizes, all at least 1; got {shape!r}"
        )
    return tuple(shape)


def _with(layer: ConvLayer, fields: Mapping[str, Any], path: Path) -> ConvLayer:
    if not fields:
        return layer
    known = layer.geometry
    values: dict[str, Any] = {}
    if known is not None:
        values = {field: getattr(known, field) for field in FIELDS if field != "layout"}
    values.update(fields)
    if "transposed" in fields and "output_padding" not in fields and not fields["transposed"]:
        values.pop("output_padding", None)
    layout = _checked_layout(values.pop("layout", layer.layout), layer, path)
    still = tuple(field for field in layer.assumed if field not in (*fields, "kind"))
    if "input_shape" not in values:
        return replace(layer, layout=layout, assumed=still, reason=NO_SIZE)
    if "layout" in fields:
        if "groups" in layer.assumed and "groups" not in fields:
            into, out = (int(layer.kernel.shape[layout.index(axis)]) for axis in "IO")
            values["groups"] = out if into == 1 else 1
    elif values.get("transposed", False) != (known.transposed if known else False) and layer.assumed:
        # The first two axes of a bare PyTorch kernel change their meaning with it.
        layout = layout.translate(str.maketrans("OI", "IO"))
    _check_axes(values["input_shape"], layer, path)
    if "padding" not in values:
        values["padding"] = "same"
    try:
        geometry = ConvGeometry(**values, layout=layout)
        geometry.correlation(layer.kernel.shape)
    except (GeometryError, TypeError, OverflowError) as error:
        raise InputError(f"{path}: layer {layer.name!r}: {error}") from None
    kind = layer.kind.replace("_transpose", "")
    if geometry.transposed:
        kind = kind.replace("conv", "conv_transpose")
    return replace(
        layer,
        geometry=geometry,
        layout=layout,
        kind=kind,
        assumed=still,
        source=f"geometry file {path.name}",
        reason="",
    )


def _check_axes(input_shape: Any, layer: ConvLayer, path: Path) -> None:
    """Raise the InputError of a shape that has the channels in it, before other fields contradict it."""
    axes = layer.kernel.ndim - 2
    given = len(input_shape) if isinstance(input_shape, (list, tuple)) else 1
    if given != axes:
        raise InputError(
            f"{path}: layer {layer.name!r}: 'input_shape' must be sizes alone, {axes} for this kernel, "
            f"without channels; got {input_shape!r}"
        )


def _checked_layout(layout: Any, layer: ConvLayer, path: Path) -> str:
    if not isinstance(layout, str) or sorted(layout) != sorted(layer.layout):
        raise InputError(
            f"{path}: layer {layer.name!r}: layout must be an order of {layer.layout}; got {layout!r}"
        )
    return layout
