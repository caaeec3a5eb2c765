"""An upper bound from absolute sums: Schur's test on the operator, tap by tap, for any padding."""

from __future__ import annotations

import math

import numpy as np

from .._compat import Array, eps_of, namespace
from ..compute import DEFAULT, Compute
from ..geometry import ConvGeometry
from ..operators.padded import NumpyArray, reads
from ..problem import Problem, homogeneous, problem_of, widened
from ..results import Bound
from ..rounding import root, rounded_up
from .reshaped_kernel import along_axis


def holder(kernel: Array, geometry: ConvGeometry, *, compute: Compute = DEFAULT) -> Bound:
    """`sqrt(||A||_1 ||A||_inf)`, from the largest column and row sums of moduli of the operator.

        ||A||_inf = max_{o, r} sum_{i, p read at r} |W[o, i, p]|
        ||A||_1   = max_{i, x} sum_{r, p that read x} sum_o |W[o, i, p]|

    `||A||^2 <= || |A|^T |A| ||_1 <= ||A||_1 ||A||_inf`. Sums go over the taps that are really read there:
    those on padded zeros are left out at the edges, points that padding repeats are counted as often.
    Exact sums where no two taps of one output read the same point (zeros, valid, circular with a kernel
    that fits); else upper bounds of them.

    Arguments:
        kernel: as for `singular_values`, computed in double precision where the library has it.
        geometry: any, of every padding mode.
        compute: how; see `Compute`.

    Returns:
        `Bound` of the operator norm; its `status` says which sides are proven.

    Raises:
        GeometryError: kernel and geometry do not fit, or reflect padding of a single point.
        KernelError: as `singular_values`.

    Notes:
        Differentiable where the largest sums are single and no entry is zero (else a subgradient).
        Cost: a few products with the kernel: nothing.

        Not guaranteed: tightness, except for one channel of constant sign on a torus, where it is the norm.

    References:
        Schur (1911); Hoelder's inequality between the 1- and the infinity-norm.

    Examples:
        >>> import numpy as np
        >>> box = np.ones((1, 1, 3))
        >>> round(float(holder(box, ConvGeometry(8, padding=1, padding_mode="circular")).upper), 9)
        3.0
    """
    return homogeneous(holder_of, problem_of(kernel, geometry, compute))


def holder_of(problem: Problem) -> Bound:
    """`holder` of a problem whose entries are in range."""
    kernel, correlation = problem.kernel, problem.correlation
    xp, wide = namespace(kernel), widened(problem).kernel
    groups = correlation.groups
    grouped = xp.reshape(xp.abs(wide), (groups, correlation.group_shape[0], *wide.shape[1:]))
    by_output, by_input = xp.sum(grouped, axis=2), xp.sum(grouped, axis=1)
    for axis in range(len(correlation.kernel_size)):
        table = reads(correlation, axis)
        by_output = _over_axis(by_output, (table >= 0).astype(np.int64), 2 + axis)
        by_input = _over_axis(by_input, _readers(table, correlation.input_shape[axis]), 2 + axis)
    flat = (xp.reshape(sums, (groups, -1)) for sums in (by_output, by_input))
    largest, columns = (xp.max(sums, axis=1) for sums in flat)
    upper = xp.max(root(largest * columns))
    slack = 1 + eps_of(wide) * (sum(kernel.shape) + 16) * math.prod(correlation.kernel_size)
    return Bound(None, rounded_up(upper, slack, kernel), method="holder", assumes="any padding")


def _readers(table: NumpyArray, points: int) -> NumpyArray:
    """For each input point and tap: how many outputs read it through that tap."""
    found = np.zeros((points, table.shape[1]), dtype=np.int64)
    for tap, column in enumerate(table.T):
        found[:, tap] = np.bincount(column[column >= 0], minlength=points)
    return found


def _over_axis(sums: Array, weights: NumpyArray, axis: int) -> Array:
    """Sums over the taps of one axis, weighted by each different row of `weights`."""
    return along_axis(np.unique(weights, axis=0), sums, axis)
