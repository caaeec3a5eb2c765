"""The lengths of the rows of a layer's matrix with its own padding: its (2,1) norm and its Frobenius norm."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..geometry import Correlation
from ..models.operations import Array
from ..operators.padded import reads


def squared_rows(kernel: Array, correlation: Correlation) -> tuple[Array, Array]:
    """The squared length of each kind of row of a convolution's matrix, and how often it occurs.

        ||row (o, r)||^2 = sum_{i, x} ( sum of W[o, i, p] over the taps p that read the point x for r )^2

    Reads of padded zeros are left out; taps that meet at one point, as reflection, replication and a
    wrapped kernel larger than the input make them, are added before they are squared. Rows of one channel
    differ only where their taps fall differently on the boundary. For a transposed layer the rows are the
    columns of the correlation.

    Arguments:
        kernel: axes in the order of `Correlation`, float64.

    Returns:
        Shapes (channels of the layer's output, kinds) and (kinds,); the latter sums to the output's points.
        Exact up to rounding.

    >>> from convspectra import ConvGeometry
    >>> kernel = np.array([[[3.0, 4.0]]])
    >>> padded = ConvGeometry(3, padding=((1, 0),)).correlation(kernel.shape)
    >>> squares, times = squared_rows(kernel, padded)  # rows (4, 0, 0), (3, 4, 0), (0, 3, 4)
    >>> squares.tolist(), times.tolist()
    ([[16.0, 25.0]], [1, 2])
    """
    c, taps = correlation, len(correlation.kernel_size)
    grouped = kernel.reshape(c.groups, c.out_channels // c.groups, *kernel.shape[1:])
    if c.transposed:
        grouped = np.swapaxes(grouped, 1, 2)
    views = [_view(reads(c, axis), c.input_shape[axis], c.transposed) for axis in range(taps)]
    squares, times = [], []
    for kinds in itertools.product(*(view.meetings or [(None, 1)] for view in views)):
        seen = grouped
        for axis, (which, _) in enumerate(kinds):
            if which is not None:
                seen = np.moveaxis(np.tensordot(seen, which, axes=((3 + axis,), (0,))), -1, 3 + axis)
        left = (seen * seen).sum(axis=2)
        often: Array = np.array(math.prod(count for _, count in kinds))
        # From the last axis on, as an axis that is summed over goes.
        for axis in reversed(range(taps)):
            if views[axis].meetings:
                left = left.sum(axis=2 + axis)
            else:
                moved = np.tensordot(left, views[axis].weights, axes=((2 + axis,), (1,)))
                left = np.moveaxis(moved, -1, 2 + axis)
        for view in views:
            often = often if view.meetings else np.multiply.outer(often, view.times)
        squares.append(left.reshape(left.shape[0] * left.shape[1], -1))
        times.append(often.reshape(-1))
    return np.concatenate(squares, axis=1), np.concatenate(times)


def row_norms(kernel: Array, correlation: Correlation) -> tuple[float, float]:
    """`||A^T||_{2,1}`, the sum of the lengths of A's rows, and `||A||_F`.

    Arguments:
        kernel: finite, axes in the order of `Correlation`.

    Returns:
        UPPER bounds, which exceed the exact values by an allowance for rounding alone; inf where they leave
        the floating range.
    """
    wide = np.asarray(kernel, dtype=np.float64)
    scale = float(np.abs(wide).max()) or 1.0
    # Squares neither overflow nor, where they count, underflow.
    found = _norms(wide / scale, correlation)
    # A sum of taps that meet is off by their moduli, whatever cancels in it.
    moduli = _norms(np.abs(wide / scale), correlation)
    slack = float(np.finfo(np.float64).eps) * (wide.size + math.prod(correlation.kernel_size) + 64)
    two_one, frobenius = (
        scale * (one + slack * most) if one or most else 0.0 for one, most in zip(found, moduli, strict=True)
    )
    return two_one, frobenius


def matrix_norms(matrices: Sequence[Array], others: int) -> tuple[float, float]:
    """The same of a Kronecker product of matrices and an identity of `others` rows: both are products.

    >>> found = matrix_norms([np.array([[3.0, 4.0], [0.0, 1.0]])], 2)  # lengths 5 and 1, twice each
    >>> [round(one, 9) for one in found]
    [12.0, 7.211102551]
    """
    two_one, frobenius = float(others), math.sqrt(others)
    for matrix in matrices:
        wide = np.asarray(matrix, dtype=np.float64)
        scale = float(np.abs(wide).max()) or 1.0
        lengths = np.sqrt(((wide / scale) ** 2).sum(axis=1))
        slack = 1 + float(np.finfo(np.float64).eps) * (wide.size + 64)
        two_one *= scale * slack * float(lengths.sum())
        frobenius *= scale * slack * math.sqrt(float((lengths**2).sum()))
    return two_one, frobenius


@dataclass(frozen=True)
class _View:
    """How the rows of the layer see the taps along one axis.

    Where no two taps of an output read one point, the squares of the taps add up: `weights`, of shape
    (kinds, taps), says how often each counts. Else `meetings` has for each kind a matrix of shape (taps,
    entries of the row), ones where a tap is part of an entry. With either, how many rows are of the kind.
    """

    weights: Array
    times: Array
    meetings: list[tuple[Array | None, int]]


def _view(table: Array, points: int, transposed: bool) -> _View:
    inside = table >= 0
    ordered = np.sort(np.where(inside, table, -1 - np.arange(table.shape[1])), axis=1)
    if not (np.diff(ordered, axis=1) == 0).any():
        weights = inside.astype(np.int64)
        if transposed:
            weights = np.zeros((points, table.shape[1]), dtype=np.int64)
            np.add.at(weights, (table[inside], np.nonzero(inside)[1]), 1)
        kinds, times = np.unique(weights, axis=0, return_counts=True)
        return _View(kinds.astype(np.float64), times, [])
    found: dict[tuple[int, bytes], tuple[Array | None, int]] = {}
    for place in range(points if transposed else len(table)):
        if transposed:
            which = (table == place)[(table == place).any(axis=1)].T
        else:
            row = table[place]
            which = row[:, None] == np.unique(row[row >= 0])
        key = (which.shape[1], which.tobytes())
        found[key] = (which.astype(np.float64), found.get(key, (None, 0))[1] + 1)
    return _View(np.zeros((0, table.shape[1])), np.zeros(0), list(found.values()))


def _norms(kernel: Array, correlation: Correlation) -> tuple[float, float]:
    squares, times = squared_rows(kernel, correlation)
    return float((np.sqrt(squares) * times).sum()), math.sqrt(float((squares * times).sum()))
