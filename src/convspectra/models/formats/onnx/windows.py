"""Pooling, padding and resizing, as ONNX means them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ... import rules
from ...graph_builder import UnsupportedError, interpolation_matrix
from ...operations import Array, AxisMatrices, MaxPool, Move, positions_in
from ...step import Step
from .conv_geometry import PAD_MODES, auto_pads, pad_pairs

_LONGEST = 2**24
"""More points than any network has along one axis."""


def pool(step: Step) -> None:
    """MaxPool and AveragePool: sizes as the operators' text says."""
    found, size = step.found, step.shape[2:]
    axes, taps = len(size), tuple(found["kernel_shape"])
    if found.get("storage_order", 0) or any(step.outputs[1:]):
        raise UnsupportedError("positions of maxima are no function with a constant")
    stride, dilation = (tuple(found.get(name, [1] * axes)) for name in ("strides", "dilations"))
    word = found.get("auto_pad", "NOTSET")
    pads = auto_pads(word, list(size), taps, stride, dilation) or pad_pairs(found.get("pads"), axes)
    rules.pool(
        step,
        taps,
        stride,
        dilation,
        pads,
        ceil=bool(found.get("ceil_mode", 0)),
        average=step.word == "AveragePool",
        counted=bool(found.get("count_include_pad", 0)),
    )


def global_average(step: Step) -> None:
    rules.reduce(step, range(2, len(step.shape)), mean=True, keep=True)


def global_max(step: Step) -> None:
    size, ones = step.shape[2:], (1,) * (len(step.shape) - 2)
    step.emit(MaxPool(size, ones, ones, (0,) * len(ones), ones))


def reduce(step: Step) -> None:
    axes = reduced_axes(step)
    if axes == []:
        rules.identity(step)
        return
    rules.reduce(step, axes, mean=step.word == "ReduceMean", keep=bool(step.found.get("keepdims", 1)))


def reduced_axes(step: Step) -> list[int] | None:
    """The axes that a reduction is over, None for all of them, none where it does nothing."""
    given = step.optional("axes")
    axes = [] if given is None else [int(axis) for axis in given.reshape(-1)]
    return axes or ([] if step.found.get("noop_with_empty_axes", 0) else None)


def pad(step: Step) -> None:
    given, some = step.constant("pads"), step.optional("axes")
    value = step.optional("value" if "value" in step.found else "constant_value")
    fill = 0.0 if value is None else float(value.reshape(()))
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
    step.emit(Move(shape, positions, fill, (PAD_MODES[mode], pads) if is_padding else None))


def resize(step: Step) -> None:
    found, shape = step.found, step.shape
    old = step.word == "Upsample" or step.given[1] < 11
    mode = found.get("mode", "nearest")
    rule = "asymmetric" if old else found.get("coordinate_transformation_mode", "half_pixel")
    positions = {}
    scales, sizes = _resize_amounts(step)
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


def _resize_amounts(step: Step) -> tuple[Any, Any]:
    """Factors and sizes for each axis; one of them None."""
    if "axes" in step.found or "keep_aspect_ratio_policy" in step.found:
        raise UnsupportedError("resizing of some axes, or that keeps the aspect")
    scales = step.optional("scales")
    if scales is not None and scales.size:
        return scales.reshape(-1), None
    return None, step.constant("sizes").reshape(-1)


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
