"""Pooling, means and resizing, as PyTorch means them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...graph_builder import (
    UnsupportedError,
    average_matrix,
    axis_matrix,
    interpolation_matrix,
    pool_outputs,
    reduction,
)
from ...operations import AxisMatrices, MaxPool, Move, positions_in
from .aten_step import Parts, Step, spread


def max_pool(step: Step) -> Parts:
    axes = len(step.shape) - 2
    window, padding = (spread(step.found[name], axes) for name in ("kernel_size", "padding"))
    stride, dilation = spread(step.found["stride"] or window, axes), spread(step.found["dilation"], axes)
    outputs = tuple(
        pool_outputs(n, d * (k - 1) + 1, s, (p, p), step.found["ceil_mode"])
        for n, k, s, d, p in zip(step.shape[2:], window, stride, dilation, padding, strict=True)
    )
    return [step.emit(MaxPool(window, stride, dilation, padding, outputs))]


def average_pool(step: Step) -> None:
    axes, found, size = len(step.shape) - 2, step.found, step.shape[2:]
    window, padding = (spread(found[name], axes) for name in ("kernel_size", "padding"))
    stride = spread(found["stride"] or window, axes)
    if found.get("divisor_override") is not None:
        raise UnsupportedError("a divisor of its own")
    matrices = {}
    for i in range(axes):
        pads = (padding[i], padding[i])
        outputs = pool_outputs(size[i], window[i], stride[i], pads, found["ceil_mode"])
        end = size[i] + padding[i] if found["count_include_pad"] else None
        matrices[2 + i] = average_matrix(size[i], window[i], stride[i], padding[i], outputs, end=end)
    step.emit(AxisMatrices(matrices))


def adaptive(step: Step) -> Parts:
    """Adaptive pooling: window i of an axis is from floor(i n / m) to before ceil((i + 1) n / m)."""
    size = step.shape[2:]
    wanted = [
        n if m is None else m for m, n in zip(spread(step.found["output_size"], len(size)), size, strict=True)
    ]
    if "max" in step.word:
        if any(n % m for n, m in zip(size, wanted, strict=True)):
            raise UnsupportedError("adaptive windows of different sizes")
        window = tuple(n // m for n, m in zip(size, wanted, strict=True))
        ones = (1,) * len(size)
        return [step.emit(MaxPool(window, window, ones, (0,) * len(size), tuple(wanted)))]
    matrices = {}
    for axis, (n, m) in enumerate(zip(size, wanted, strict=True), 2):
        matrix = axis_matrix(m, n)
        for row in range(m):
            first, last = row * n // m, -(-(row + 1) * n // m)
            matrix[row, first:last] = 1 / (last - first)
        matrices[axis] = matrix
    return [step.emit(AxisMatrices(matrices))]


def reduce(step: Step) -> None:
    given = step.found.get("dim")
    axes = [axis % len(step.shape) for axis in given] if given else list(range(len(step.shape)))
    operation = reduction(step.shape, axes, mean=step.word == "mean")
    if step.found.get("keepdim", False):
        step.emit(operation)
        return
    kept = step.between(operation)
    rest = tuple(n for axis, n in enumerate(step.shape) if axis not in axes)
    step.emit(Move(rest, lambda: positions_in(rest)), kept)


def interpolated(step: Step) -> None:
    shape, found = step.shape, step.found
    factors: Any = found.get("scale_factors")
    sizes: Any = found.get("output_size")
    matrices = {}
    for i, n in enumerate(shape[2:]):
        outputs = int(sizes[i]) if sizes else math.floor(n * factors[i])
        at = np.arange(outputs)
        if found["align_corners"]:
            positions = at * ((n - 1) / (outputs - 1)) if outputs > 1 else at * 0.0
        else:
            scale = factors[i] if factors else outputs / n
            positions = (at + 0.5) / scale - 0.5
        matrices[2 + i] = interpolation_matrix(n, positions)
    step.emit(AxisMatrices(matrices))
