"""The operator as a dense matrix, built by plain loops: slow, and the judge of everything else.

Shares no code with the fast paths: it reads nothing but a geometry's own fields.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from .._compat import Array, to_numpy
from ..errors import CostError, GeometryError
from ..geometry import ConvGeometry

_LARGEST = 2**32
_SPATIAL = {1: "W", 2: "HW", 3: "DHW"}


def dense_operator(kernel: Array, geometry: ConvGeometry) -> np.ndarray[Any, Any]:
    """The matrix of the layer, float64, shape (outputs, inputs), channels first and row-major.

    Of a kernel of Python numbers (dtype object: integers, fractions) it is one too, and exact.

    `y[o, r] = sum_{i,p} W[o, i, p] x[i, s r + d p - a]`, with reads outside of the input settled by
    the padding mode; for a transposed layer the transpose of that. For tests: it takes
    `outputs * taps` loop turns and `outputs * inputs` numbers.

    Raises:
        CostError: a matrix of more than 4 GiB.
        GeometryError: reflect padding over an input of one point, where nothing can be mirrored.
    """
    weights = to_numpy(kernel)
    weights = weights.astype(object if weights.dtype == object else np.float64)
    axes = len(geometry.input_shape)
    order = ("IO" if geometry.transposed else "OI") + _SPATIAL[axes]
    weights = np.transpose(weights, [geometry.layout.index(letter) for letter in order])
    rows, columns = weights.shape[0], weights.shape[1] * geometry.groups
    taps = weights.shape[2:]
    inputs, outputs, before = _sizes(geometry, taps)
    needed = 8 * rows * math.prod(outputs) * columns * math.prod(inputs)
    if needed > _LARGEST:
        raise CostError(
            f"the dense matrix of an input of {geometry.input_shape} takes {needed / 2**30:,.1f} GiB; the "
            f"limit is {_LARGEST / 2**30:.0f} GiB: give a smaller one, or take krylov.largest"
        )
    matrix = np.zeros((rows, *outputs, columns, *inputs), dtype=weights.dtype)
    for r in itertools.product(*map(range, outputs)):
        for p in itertools.product(*map(range, taps)):
            source = []
            for axis in range(axes):
                read = geometry.stride[axis] * r[axis] + geometry.dilation[axis] * p[axis] - before[axis]
                source.append(_settle(read, inputs[axis], geometry.padding_mode))
            if None in source:
                continue
            for o in range(rows):
                group = o // (rows // geometry.groups)
                for i in range(weights.shape[1]):
                    where = (o, *r, group * weights.shape[1] + i, *source)
                    matrix[where] += weights[(o, i, *p)]
    dense = matrix.reshape(rows * math.prod(outputs), columns * math.prod(inputs))
    return dense.T if geometry.transposed else dense


def _sizes(geometry: ConvGeometry, taps: tuple[int, ...]) -> tuple[list[int], list[int], list[int]]:
    inputs, outputs, before = [], [], []
    for axis, k in enumerate(taps):
        n, s = geometry.input_shape[axis], geometry.stride[axis]
        span = geometry.dilation[axis] * (k - 1) + 1
        extra = geometry.output_padding[axis]
        if geometry.padding == "same":
            size = n * s if geometry.transposed else n
            count = math.ceil(size / s)
            pad = max(0, (count - 1) * s + span - size)
            inputs.append(size + extra)
            outputs.append(count)
            before.append(pad // 2)
        elif geometry.transposed:
            low, high = geometry.padding[axis]
            inputs.append((n - 1) * s + span - low - high + extra)
            outputs.append(n)
            before.append(low)
        else:
            low, high = geometry.padding[axis]
            inputs.append(n)
            outputs.append(len(range(0, n + low + high - span + 1, s)))
            before.append(low)
    return inputs, outputs, before


def _settle(read: int, size: int, mode: str) -> int | None:
    """The input index that a read falls on, None where it falls on a padded zero."""
    if 0 <= read < size:
        return read
    if mode == "zeros":
        return None
    if mode == "circular":
        return read % size
    if mode == "replicate":
        return 0 if read < 0 else size - 1
    if size == 1:
        raise GeometryError("reflect padding needs at least two points to mirror")
    while not 0 <= read < size:
        read = -read if read < 0 else 2 * (size - 1) - read
    return read
