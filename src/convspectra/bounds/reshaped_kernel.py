"""Bounds from what one output point does: the kernel reshaped to a matrix."""

from __future__ import annotations

import math

import numpy as np

from .._compat import Array, like, namespace
from .._solvers import array_api
from ..compute import DEFAULT, Compute
from ..errors import GeometryError
from ..geometry import ConvGeometry, Correlation
from ..operators.padded import NumpyArray, read_count, reads
from ..problem import Problem, homogeneous, once, problem_of, widened
from ..results import Bound
from ..rounding import less, matrix_allowance, rounded_down, rounded_up


def reshaped_kernel(kernel: Array, geometry: ConvGeometry, *, compute: Compute = DEFAULT) -> Bound:
    """An interval from the kernel reshaped to a matrix, `C_out x (C_in prod k)`.

        lower = ||the rows of one output point||,    upper = ||W reshaped|| sqrt(most windows over one point)

    The rows of the operator that belong to one output point form a submatrix: the kernel, reshaped,
    without the taps that read padded zeros there, those added that read one and the same point of a
    wrapped input. The norm of a submatrix is at most that of the whole. And each output point is that
    matrix times a window of the input: the squared lengths of all windows together are at most that of
    the input times the number of windows that one point lies in. That is `prod(k)` at most, about
    `prod(ceil(k / s))` for a stride `s`, 1 for patches that do not overlap (where the bound is exact), and
    fewer where all points are near an edge. This is the matrix that Yoshida and Miyato (2017) regularise,
    and taking its norm for the layer's, as many do, is wrong by up to the square root of that. With groups
    it is the largest over the groups.

    Arguments:
        kernel: as for `singular_values`, computed in double precision where the library has it.
        geometry: zero, no or circular padding, of any width, stride and dilation.
        compute: how; see `Compute`.

    Returns:
        `Bound` of the operator norm; its `status` says which sides are proven.

    Raises:
        GeometryError: reflect or replicate padding; kernel and geometry do not fit.
        KernelError: as `singular_values`.

    Notes:
        Differentiable, with finite gradients at ties and zero ones for the zero kernel.
        Cost: two eigenvalue decompositions of the smaller side of the reshaped kernel.

        Not guaranteed: tightness: the sides are up to `sqrt(prod(k))` apart.

    References:
        Yoshida and Miyato (2017) for the matrix; Cisse et al. (2017), Parseval networks, for the factor at
        stride 1.

    Examples:
        >>> import numpy as np
        >>> box = np.ones((1, 1, 4))
        >>> bound = reshaped_kernel(box, ConvGeometry(16, stride=2))
        >>> round(float(bound.lower), 9), round(float(bound.upper), 9)  # a point lies in two windows
        (2.0, 2.828427125)
    """
    return homogeneous(reshaped_kernel_of, problem_of(kernel, geometry, compute))


def reshaped_kernel_of(problem: Problem) -> Bound:
    """`reshaped_kernel` of a problem whose entries are in range."""
    kernel, correlation = problem.kernel, problem.correlation
    if correlation.padding_mode != "circular":
        refuse_other_boundaries("reshaped_kernel", correlation)
    lower, upper = rounded_down(row_norm_below(problem), 1.0, kernel), reads_upper(problem)
    return Bound(lower, upper, method="reshaped_kernel", assumes="zero, no or circular padding")


def reads_upper(problem: Problem) -> Array:
    """`||W reshaped to C_out x (C_in k^D)|| sqrt(reads)`, an upper bound for any padding.

    The operator first copies, for each output, what its taps read, and then multiplies by the kernel,
    reshaped. That copying has the norm `sqrt(reads)`, the largest number of reads of one input point.
    """
    wide, c = widened(problem).kernel, problem.correlation
    matrices = namespace(wide).reshape(wide, (c.groups, c.group_shape[0], -1))
    norm = namespace(wide).max(array_api.largest_singular_value(matrices))
    slack = matrix_allowance(wide, *matrices.shape[1:])
    return rounded_up(norm * math.sqrt(read_count(c)), slack, problem.kernel)


def refuse_other_boundaries(method: str, correlation: Correlation) -> None:
    """Raise the GeometryError of a method that is about zero or no padding only."""
    if correlation.padding_mode != "zeros" and any(map(any, correlation.padding)):
        raise GeometryError(
            f"bounds.{method} is about zero or no padding; this layer pads with "
            f'{correlation.padding_mode}: use padding_mode="zeros", or geometry.on_torus() and '
            "operator_norm for its circular version"
        )


def row_norm(kernel: Array, correlation: Correlation) -> Array:
    """The norm of the rows of the output point that reads most input points, for any padding."""
    xp = namespace(kernel)
    effective = effective_kernel(kernel, correlation)
    columns = math.prod(effective.shape[1:])
    if columns == 0:  # every read falls on padding: the operator is zero
        return xp.sum(effective)
    matrices = xp.reshape(effective, (correlation.groups, correlation.group_shape[0], columns))
    return xp.max(array_api.largest_singular_value(matrices))


@once
def row_norm_below(problem: Problem) -> Array:
    """`row_norm` in double precision, less what rounding can do to it: taps that are added may cancel."""
    wide = widened(problem)
    kernel, correlation = wide.kernel, wide.correlation
    columns = math.prod(kernel.shape[1:])
    slack = matrix_allowance(kernel, correlation.group_shape[0], columns)
    return less(row_norm(kernel, correlation) / slack, wide.symbol_error())


def effective_kernel(kernel: Array, correlation: Correlation) -> Array:
    """The kernel as the output that reads most input points sees it, one entry a point.

    Taps that read padded zeros are left out, taps that read one and the same point are added.
    """
    for axis in range(len(correlation.kernel_size)):
        source = _widest_view(reads(correlation, axis))
        points = np.unique(source[source >= 0])
        if len(points) == len(source):
            continue
        kernel = along_axis((points[:, None] == source).astype(np.int64), kernel, 2 + axis)
    return kernel


def along_axis(matrix: NumpyArray, array: Array, axis: int) -> Array:
    """An array with a matrix applied along one axis."""
    xp, ours = namespace(array), like(matrix, array, array.dtype)
    return xp.moveaxis(xp.tensordot(array, ours, axes=((axis,), (1,))), -1, axis)


def _widest_view(table: NumpyArray) -> NumpyArray:
    """What the taps read at the output that reads most points, along one axis."""
    best: NumpyArray = table[0]
    most = -1
    for row in table:
        points = len(np.unique(row[row >= 0]))
        if points > most:
            best, most = row, points
        if most == len(row):
            break
    return best
