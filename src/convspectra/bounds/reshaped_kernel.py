"""A proven lower bound: what one output point does, the kernel reshaped to a matrix."""

from __future__ import annotations

import math
from concurrent.futures import Executor

from .._compat import Array, namespace
from .._solvers import array_api
from .._solvers.choice import Solver
from .._solvers.pool import DEFAULT_MEMORY
from ..errors import GeometryError
from ..geometry import ConvGeometry, Correlation
from ..results import Bound
from ..spectrum import prepare
from .rounding import allowance


def reshaped_kernel(
    kernel: Array,
    geometry: ConvGeometry,
    *,
    executor: Executor | None = None,
    memory: int = DEFAULT_MEMORY,
    solver: Solver = "auto",
) -> Bound:
    """A lower bound for zero or no padding: `||W reshaped to C_out x (C_in k^D)||`.

    The rows of the operator that belong to one output point form a submatrix: the kernel, reshaped,
    without the taps that read padding there. The norm of a submatrix is at most that of the whole.
    This is the matrix that Yoshida and Miyato (2017) regularise; the operator's norm can be up to
    `sqrt(prod(k))` times larger. With groups it is the largest over the groups.

    Arguments, errors: as `circulant_embedding`; executor, memory and solver are not used.
    """
    kernel, correlation = prepare(kernel, geometry)
    refuse_other_boundaries("reshaped_kernel", correlation)
    lower = row_norm(kernel, correlation) / allowance(kernel, correlation)
    return Bound(lower, None, method="reshaped_kernel", assumes="zero or no padding")


def refuse_other_boundaries(method: str, correlation: Correlation) -> None:
    """Raise the GeometryError of a method that is about zero or no padding only."""
    if correlation.padding_mode != "zeros" and any(map(any, correlation.padding)):
        raise GeometryError(
            f"bounds.{method} is about zero or no padding; this layer pads with "
            f'{correlation.padding_mode}: use padding_mode="zeros", or geometry.on_torus() and '
            "operator_norm for its circular version"
        )


def row_norm(kernel: Array, correlation: Correlation) -> Array:
    """The norm of the rows of the output point that reads most taps inside the input."""
    xp = namespace(kernel)
    inside = [_taps_inside(correlation, axis) for axis in range(len(correlation.kernel_size))]
    seen = kernel[(slice(None), slice(None), *inside)]
    groups = correlation.groups
    columns = math.prod(seen.shape[1:])
    if columns == 0:  # every read falls on padding: the operator is zero
        return xp.sum(seen)
    matrices = xp.reshape(seen, (groups, correlation.out_channels // groups, columns))
    return xp.max(array_api.largest_singular_value(matrices))


def _taps_inside(correlation: Correlation, axis: int) -> slice:
    """The taps that fall inside the input, along one axis, at the output where most of them do."""
    n, s, d = correlation.input_shape[axis], correlation.stride[axis], correlation.dilation[axis]
    before, k = correlation.padding[axis][0], correlation.kernel_size[axis]
    best = slice(0, 0)
    for r in range(correlation.output_shape[axis]):
        first = s * r - before
        start = max(0, -(first // d))
        stop = min(k, (n - 1 - first) // d + 1)
        if stop - start > best.stop - best.start:
            best = slice(start, stop)
            if stop - start == k:
                break
    return best
