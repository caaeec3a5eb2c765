"""Programs saved by `torch.export.save`: geometry from the graph, sizes from its traced shapes."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ....errors import GeometryError, ModelError
from ....geometry import ConvGeometry, PaddingMode
from ...names import Names, layer_name
from ...records import ConvLayer, Model
from ...weights import linear
from ..pytorch.reader import require_torch
from ..safetensors.reader import digest
from . import archive
from .parts import check_parts

_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
PAD_MODES: dict[str, PaddingMode] = {
    "constant": "zeros",
    "reflect": "reflect",
    "replicate": "replicate",
    "circular": "circular",
}


def read(path: Path, *, input_shape: tuple[int, ...] | None = None) -> Model:
    """Every convolution and linear layer of an exported program, in the order of its graph.

    Sizes are those that the program was traced with; a dimension exported as dynamic is unknown.
    PyTorch is given an archive written anew, of the graph and the tensors alone (`archive`):
    what its loader would unpickle, import or make Python source of is refused or left out.

    Arguments:
        path: the `.pt2` file.
        input_shape: not used: the program fixes its sizes.

    Raises:
        ModelError: no exported program, a damaged one, or one with pickled objects.
        InputError: PyTorch is not installed.
    """
    program = load_program(path)
    reader = _Reader(program)
    for node in program.graph.nodes:
        reader.node(node)
    return Model(
        name=path.name,
        format="torch.export",
        layers=tuple(reader.layers),
        path=path,
        sha256=digest(path),
        other=dict(reader.other),
        notes=tuple(reader.notes),
    )


def load_program(path: Path) -> Any:
    """The `ExportedProgram` in a file: its graph and its tensors, all else left out, so that no code runs.

    Raises: as `read`.
    """
    torch = require_torch()
    checked = archive.checked(path)
    log = logging.getLogger("torch.export")
    causes: list[Any] = []

    def keep_cause(record: logging.LogRecord) -> bool:
        causes.extend(record.exc_info[1:2] if record.exc_info else ())
        return False  # nothing is printed: what is raised below says it

    try:
        log.addFilter(keep_cause)
        program = torch.export.load(checked)
    except Exception as error:  # noqa: BLE001  # the loader raises whatever its parts raise
        cause = causes[-1] if causes else error
        line = (str(cause).strip().splitlines() or [type(cause).__name__])[-1]
        raise ModelError(f"{path} is not an exported program that this PyTorch reads: {line}") from cause
    finally:
        log.removeFilter(keep_cause)
    check_parts(program, path)
    return program


class _Reader:
    """One pass over the nodes of a program."""

    def __init__(self, program: Any) -> None:
        signature = program.graph_signature
        self.names_of = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self.state = {**program.state_dict, **program.constants}
        self.layers: list[ConvLayer] = []
        self.other: Counter[str] = Counter()
        self.notes: list[str] = []
        self.names = Names()

    def node(self, node: Any) -> None:
        """Take one node of the graph."""
        if node.op != "call_function":
            return
        operator = getattr(node.target, "_opname", str(node.target))
        arguments = arguments_of(node)
        if operator not in (*_CONVOLUTIONS, "convolution", "linear"):
            self.other[operator] += 1
            return
        kernel = self.tensor(arguments["weight"])
        if kernel is None:
            self.other[operator] += 1
            self.notes.append(f"{node.name!r}: its weights are computed at run time; not analysed")
            return
        stored = self.names_of.get(arguments["weight"].name, "")
        name = self.names.unique(layer_name(stored, fallback=node.name))
        if operator == "linear":
            self.layers.append(linear(name, kernel, "graph"))
            return
        self.layers.append(self.convolution(node, name, kernel, arguments, operator))

    def tensor(self, node: Any) -> np.ndarray[Any, Any] | None:
        """The values of a parameter or buffer, None for anything computed."""
        name = self.names_of.get(getattr(node, "name", ""))
        if name is None or name not in self.state:
            return None
        value = self.state[name].detach().cpu()
        wide = value.float() if str(value.dtype) == "torch.bfloat16" else value
        return np.asarray(wide.numpy())

    def convolution(
        self, node: Any, name: str, kernel: np.ndarray[Any, Any], arguments: dict[str, Any], operator: str
    ) -> ConvLayer:
        axes = kernel.ndim - 2
        transposed = bool(arguments.get("transposed", operator.startswith("conv_transpose")))
        geometry, reason = None, ""
        try:
            geometry = _geometry(arguments, axes, transposed)
        except GeometryError as error:
            reason = str(error)
        return ConvLayer(
            name=name,
            kind=f"conv{'_transpose' if transposed else ''}{axes}d",
            kernel=kernel,
            layout=("IO" if transposed else "OI") + "DHW"[-axes:],
            geometry=geometry,
            batch_norm_scale=self.batch_norm_scale(node),
            source="graph",
            reason=reason,
        )

    def batch_norm_scale(self, node: Any) -> np.ndarray[Any, Any] | None:
        """`gamma / sqrt(var + eps)` of the only reader of a node, if that is a batch norm at inference."""
        readers = list(node.users)
        if len(readers) != 1 or "batch_norm" not in getattr(readers[0].target, "_opname", ""):
            return None
        found = arguments_of(readers[0])
        if found.get("input") is not node or found.get("training", False):
            return None
        variance = self.tensor(found.get("running_var"))
        gamma = self.tensor(found["weight"]) if found.get("weight") is not None else np.ones(())
        if variance is None or gamma is None:
            return None
        return np.asarray(gamma.astype(np.float64) / np.sqrt(variance.astype(np.float64) + found["eps"]))


def arguments_of(node: Any) -> dict[str, Any]:
    """A node's arguments by the names of its operator's schema, defaults filled in."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return dict(node.kwargs)
    found = {argument.name: argument.default_value for argument in schema.arguments}
    found.update(zip(found, node.args, strict=False))
    found.update(node.kwargs)
    return found


def _geometry(arguments: dict[str, Any], axes: int, transposed: bool) -> ConvGeometry:
    """The geometry of one convolution node.

    Raises:
        GeometryError: a dynamic size.
    """
    data, padding = arguments["input"], arguments["padding"]
    mode: PaddingMode = "zeros"
    if not isinstance(padding, str):
        padding = tuple(padding) * axes if len(padding) == 1 else tuple(padding)
    merged = _merged_pad(data, axes, padding)
    if merged is not None:
        data, padding, mode = merged
    size = tuple(data.meta["val"].shape)[-axes:]
    if not all(type(n) is int for n in size):
        raise GeometryError(f"input size {size} is dynamic in the program: export it with fixed sizes")
    return ConvGeometry(
        size,
        stride=spread(arguments["stride"], axes),
        dilation=spread(arguments["dilation"], axes),
        groups=arguments["groups"],
        transposed=transposed,
        padding=padding,
        padding_mode=mode,
        output_padding=spread(arguments.get("output_padding", 0), axes) if transposed else 0,
    )


def spread(values: Any, axes: int) -> tuple[int, ...]:
    """One value an axis: PyTorch keeps a list of one for all."""
    listed = tuple(values) if isinstance(values, (list, tuple)) else (values,)
    return listed * axes if len(listed) == 1 else listed


def _merged_pad(data: Any, axes: int, own: Any) -> tuple[Any, Any, PaddingMode] | None:
    """What a pad node reads, with its amounts and mode, where it and the convolution are one padding."""
    operator = getattr(data.target, "_opname", "")
    if operator not in ("pad", "constant_pad_nd") or isinstance(own, str) or any(own):
        return None
    found = arguments_of(data)
    mode = PAD_MODES.get(found.get("mode", "constant"))
    amounts = [*found["pad"], *[0] * (2 * axes - len(found["pad"]))]
    if mode is None or len(amounts) != 2 * axes or min(amounts) < 0 or found.get("value"):
        return None
    # PyTorch lists the last axis first.
    pairs = tuple((amounts[2 * i], amounts[2 * i + 1]) for i in reversed(range(axes)))
    return found["input" if "input" in found else "self"], pairs, mode
