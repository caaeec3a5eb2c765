"""Pooling, means and resizing, as PyTorch means them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ... import rules
from ...graph_builder import UnsupportedError, axis_matrix, interpolation_matrix
from ...operations import AxisMatrices, MaxPool
from ...step import Step
from .aten_layers import spread


def pool(step: Step) -> None:
    axes, found = len(step.shape) - 2, step.found
    window, padding = (spread(found[name], axes) for name in ("kernel_size", "padding"))
    stride, dilation = spread(found["stride"] or window, axes), spread(found.get("dilation", 1), axes)
    if found.get("divisor_override") is not None:
        raise UnsupportedError("a divisor of its own")
    rules.pool(
        step,
        window,
        stride,
        dilation,
        [(n, n) for n in padding],
        ceil=found["ceil_mode"],
        average="avg" in step.word,
        counted=found.get("count_include_pad", False),
    )


def adaptive(step: Step) -> None:
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
        step.emit(MaxPool(window, window, ones, (0,) * len(size), tuple(wanted)))
        return
    matrices = {}
    for axis, (n, m) in enumerate(zip(size, wanted, strict=True), 2):
        matrix = axis_matrix(m, n)
        for row in range(m):
            first, last = row * n // m, -(-(row + 1) * n // m)
            matrix[row, first:last] = 1 / (last - first)
        matrices[axis] = matrix
    step.emit(AxisMatrices(matrices))


def reduce(step: Step) -> None:
    rules.reduce(step, step.found.get("dim"), mean=step.word == "mean", keep=step.found.get("keepdim", False))


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
