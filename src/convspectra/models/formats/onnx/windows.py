"""Pooling, padding and resizing, as ONNX means them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...graph_builder import (
    UnsupportedError,
    average_matrix,
    interpolation_matrix,
    pool_outputs,
    reduction,
)
from ...operations import Array, AxisMatrices, MaxPool, Move, positions_in
from .conv_geometry import PAD_MODES, auto_pads, pad_pairs
from .step import Step

_LONGEST = 2**24
"""More points than any network has along one axis."""


def pool(step: Step) -> None:
    """MaxPool and AveragePool: sizes as the operators' text says."""
    found, size = step.found, step.shape[2:]
    axes, taps = len(size), found["kernel_shape"]
    if found.get("storage_order", 0) or len([name for name in step.node.output if name]) > 1:
        raise UnsupportedError("positions of maxima are no function with a constant")
    stride, dilation = found.get("strides", [1] * axes), found.get("dilations", [1] * axes)
    options = {"stride": stride, "dilation": dilation}
    word = found.get("auto_pad", "NOTSET")
    automatic = auto_pads(word, list(size), taps, options)
    pads = automatic or pad_pairs(found.get("pads"), axes)
    outputs = tuple(
        pool_outputs(n, d * (k - 1) + 1, s, pad, bool(found.get("ceil_mode", 0)))
        for n, k, s, d, pad in zip(size, taps, stride, dilation, pads, strict=True)
    )
    before = tuple(pad[0] for pad in pads)
    if step.node.op_type == "MaxPool":
        step.emit(MaxPool(tuple(taps), tuple(stride), tuple(dilation), before, outputs))
        return
    counted = bool(found.get("count_include_pad", 0))
    matrices = {
        2 + i: average_matrix(
            size[i],
            taps[i],
            stride[i],
            before[i],
            outputs[i],
            end=size[i] + pads[i][1] if counted else None,
            dilation=dilation[i],
        )
        for i in range(axes)
    }
    step.emit(AxisMatrices(matrices))


def global_average(step: Step) -> None:
    step.emit(reduction(step.shape, range(2, len(step.shape)), mean=True))


def global_max(step: Step) -> None:
    size, ones = step.shape[2:], (1,) * (len(step.shape) - 2)
    step.emit(MaxPool(size, ones, ones, (0,) * len(ones), ones))


def reduce(step: Step) -> None:
    axes = step.found.get("axes")
    if axes is None:
        given = step.optional(1, "axes")
        axes = None if given is None else given.reshape(-1).tolist()
    if not axes and step.found.get("noop_with_empty_axes", 0):
        step.emit(Move(step.sizes))
        return
    axes = [axis % len(step.shape) for axis in axes] if axes else list(range(len(step.shape)))
    operation = reduction(step.shape, axes, mean=step.node.op_type == "ReduceMean")
    if step.found.get("keepdims", 1):
        step.emit(operation)
        return
    kept = step.between(operation)
    rest = tuple(n for axis, n in enumerate(step.shape) if axis not in axes)
    step.emit(Move(rest, lambda: positions_in(rest)), kept)


def pad(step: Step) -> None:
    amounts = step.found.get("pads")
    given = np.asarray(amounts) if amounts is not None else step.constant(1, "amounts")
    value, some = step.optional(2, "value"), step.optional(3, "axes")
    fill = step.found.get("value", 0.0) if value is None else value.reshape(())
    sizes, mode = step.sizes, step.found.get("mode", "constant")
    axes = range(len(sizes)) if some is None else [int(axis) % len(sizes) for axis in some]
    sides = np.zeros((len(sizes), 2), dtype=int)
    sides[list(axes)] = given.astype(int).reshape(2, -1).T
    pads = tuple((int(before), int(after)) for before, after in sides)
    if mode not in PAD_MODES:
        raise UnsupportedError(f"a padding of mode {mode!r}")

    def positions() -> Array:
        index = positions_in(sizes)
        cut = (slice(max(-a, 0), n - max(-b, 0)) for n, (a, b) in zip(index.shape, pads, strict=True))
        options: dict[str, Any] = {"constant_values": -1} if mode == "constant" else {}
        return np.asarray(np.pad(index[tuple(cut)], np.maximum(sides, 0), mode=mode, **options))

    shape = tuple(None if n is None else n + sum(pair) for n, pair in zip(sizes, pads, strict=True))
    is_padding = sides.min() >= 0 and (mode != "constant" or fill == 0)
    step.emit(Move(shape, positions, float(fill), (PAD_MODES[mode], pads) if is_padding else None))


def resize(step: Step) -> None:
    found, shape = step.found, step.shape
    old = step.node.op_type == "Upsample" or step.opset < 11
    mode = found.get("mode", "nearest")
    rule = "asymmetric" if old else found.get("coordinate_transformation_mode", "half_pixel")
    positions = {}
    scales, sizes = _resize_amounts(step, old)
    for axis, n in enumerate(shape):
        scale = float(scales[axis]) if scales is not None else int(sizes[axis]) / n
        outputs = int(sizes[axis]) if sizes is not None else math.floor(n * scale + 1e-9)
        if (outputs, scale) != (n, 1.0):
            if not 0 <= outputs <= _LONGEST:
                raise UnsupportedError(f"it makes an axis of more than {_LONGEST} entries")
            positions[axis] = _coordinates(rule, np.arange(outputs), scale, n, outputs)
    if found.get("antialias", 0) or found.get("exclude_outside", 0):
        raise UnsupportedError("resizing with antialias or exclude_outside")
    if mode == "linear" or mode == "bilinear":
        step.emit(
            AxisMatrices({axis: interpolation_matrix(shape[axis], at) for axis, at in positions.items()})
        )
        return
    if mode != "nearest":
        raise UnsupportedError(f"resizing of mode {mode!r}; nearest and linear are taken")
    nearest = "floor" if old else found.get("nearest_mode", "round_prefer_floor")
    rounded = {
        axis: np.clip(_ROUND[nearest](at).astype(int), 0, shape[axis] - 1) for axis, at in positions.items()
    }

    def taken() -> Array:
        index = positions_in(shape)
        for axis, at in rounded.items():
            index = np.take(index, at, axis=axis)
        return index

    made = tuple(len(rounded[axis]) if axis in rounded else n for axis, n in enumerate(shape))
    step.emit(Move(made, taken))


def _resize_amounts(step: Step, old: bool) -> tuple[Any, Any]:
    """Factors and sizes for each axis; one of them None."""
    if "axes" in step.found or "keep_aspect_ratio_policy" in step.found:
        raise UnsupportedError("resizing of some axes, or that keeps the aspect")
    if "scales" in step.found:
        return step.found["scales"], None
    scales = step.optional(1 if old else 2, "factor")
    if scales is not None and scales.size:
        return scales.reshape(-1), None
    return None, step.constant(3, "size").reshape(-1)


def _coordinates(rule: str, at: Array, scale: float, n: int, outputs: int) -> Array:
    if rule == "asymmetric":
        return np.asarray(at / scale)
    if rule == "align_corners":
        return np.asarray(at * (n - 1) / max(outputs - 1, 1) if outputs > 1 else at * 0.0)
    if rule == "pytorch_half_pixel" and outputs == 1:
        return np.asarray(at * 0.0)
    if rule in ("half_pixel", "pytorch_half_pixel"):
        return np.asarray((at + 0.5) / scale - 0.5)
    raise UnsupportedError(f"resizing by coordinates of mode {rule!r}")


_ROUND: dict[str, Callable[[Array], Array]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda at: np.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: np.floor(at + 0.5),
}
