"""A proven Lipschitz constant of one operation, from l2 to l2."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ..bounds.auto import operator_norm_of
from ..bounds.duffin1938 import for_any_size
from ..bounds.tori import repeats_inputs
from ..errors import CostError, InputError
from ..geometry import ConvGeometry
from ..models.operations import (
    Affine,
    Array,
    AxisMatrices,
    Concat,
    Convolution,
    MaxPool,
    Move,
    Normalised,
    Operation,
    Pointwise,
    Refused,
    Shape,
    Softmax,
    Sort,
    Sum,
)
from ..problem import Problem, homogeneous, problem_of
from ..results import Bound
from ..work import SECONDS, SECONDS_A_WEIGHT, work_as_padded
from .slopes import SLOPES

# Rounding of a handful of operations in float64.
_ALLOWANCE = 1 + 1e-14


def constant(operation: Operation, shape: Shape) -> tuple[float, str]:
    """An UPPER bound of `||f(x) - f(y)|| / ||x - y||`, and in words where it comes from.

    - convolution: the upper side of `operator_norm` with its own padding, at its size, in float64. Padding of
      a sort that has no bound there is a `Move` in front.
    - matrices along axes (linear layers, means, average pooling, linear resizing): their Kronecker product
      has the product of their norms.
    - a move, which repeats an entry up to m times: `sqrt(m)`; 0 where it drops all.
    - affine: `max |scale|`. Pointwise: `sup |f'|`.
    - a sum or a concatenation: 1 for each input; `bound` adds them up.
    - softmax: 1/2. Its Jacobian `diag(p) - p p^T` has rows whose moduli sum to `2 p_i (1 - p_i) <= 1/2`.
    - log-softmax over n entries: `sqrt(n)`. Its Jacobian `I - 1 p^T` is a projection along the ones, of the
      norm of the complementary one, `sqrt(n) ||p||`; a p that comes near a unit vector comes near the bound.
    - sorting: 1. Sorted entries are the closest of all orders (the rearrangement inequality).
    - a norm that divides by its own deviation s: `1 / sqrt(epsilon)`. Its Jacobian is `P / s`, where
      `s >= sqrt(epsilon)` and P, the identity less parts of two projections, has norm at most 1.
    - max pooling: `sqrt(w)`, an entry being in at most w windows: a maximum moves by no more than the largest
      change in its window.

    Arguments:
        shape: of the (first) input.

    Raises:
        InputError: weights that are infinite or NaN, a geometry without a bound.

    References: Gao and Pavel (2017) for the Jacobian of softmax; Anil, Lucas and Grosse (2019) for sorting as
    an activation; Tsuzuku, Sato and Sugiyama (2018) for
    pooling.
    """
    match operation:
        case Convolution() | AxisMatrices():
            _, norm, how = norm_interval(operation)
            return norm, how
        case Move():
            return _of_move(operation)
        case Affine():
            _finite(operation.shift)
            return float(np.abs(_finite(operation.scale)).max()), "largest factor"
        case Sum():
            return 1.0, "sum of its branches"
        case Concat():
            return 1.0, "root of the sum of squares"
        case Pointwise(function=function, parameters=parameters):
            slope = SLOPES[function](parameters)
            if not math.isfinite(slope):
                raise InputError(f"{function} with parameters {dict(parameters)} has no constant")
            return slope, "largest slope"
        case Softmax(axis=axis) if shape[axis] == 1:
            return 0.0, "one entry"
        case Softmax(axis=axis, logarithm=True):
            return math.sqrt(shape[axis]), "root of its entries"
        case Softmax():
            return 0.5, "Jacobian"
        case Sort():
            return 1.0, "sorting"
        case Normalised(epsilon=epsilon):
            return _ALLOWANCE / math.sqrt(epsilon), "1 / sqrt(epsilon), as it divides by its own deviation"
        case MaxPool():
            return _of_max_pool(operation, shape)
        case Refused():
            raise InputError(operation.reason)
    raise TypeError(f"no constant for {type(operation).__name__}")


def _of_move(move: Move) -> tuple[float, str]:
    if move.positions is None:
        return 1.0, "every entry once"
    read = move.index[move.index >= 0]
    copies = int(np.bincount(read.reshape(-1)).max()) if read.size else 0
    return math.sqrt(copies), f"an entry up to {copies} times"


def _of_max_pool(pool: MaxPool, shape: Shape) -> tuple[float, str]:
    sizes = (shape[2:], pool.window, pool.stride, pool.dilation, pool.before, pool.outputs)
    windows = math.prod(_largest_overlap(*axis) for axis in zip(*sizes, strict=True))
    return math.sqrt(windows), f"an entry in up to {windows} windows"


def norm_interval(operation: Convolution | AxisMatrices) -> tuple[float, float, str]:
    """`lower <= norm <= upper` of a linear map, both proven, rounding included, and where they come from.

    Raises:
        InputError: as `constant`.
    """
    if isinstance(operation, AxisMatrices):
        sides = [_matrix_norm(one) for one in operation.matrices.values()]
        lower, upper = (math.prod((side[place] for side in sides), start=1.0) for place in (0, 1))
        return lower, upper, "matrix norm"
    problem = problem_of(_finite(operation.kernel), operation.geometry)
    bound = _as_padded(problem, operation)
    assert bound.upper is not None
    lower, upper = 0.0 if bound.lower is None else float(bound.lower), float(bound.upper)
    error = problem.norm_error(upper) if bound.exact else 0.0
    return max(lower - error, 0.0), upper + error, bound.method


def _as_padded(problem: Problem, layer: Convolution) -> Bound:
    """The norm with its own padding; on maps that are too large for it the upper bound for any size."""
    try:
        seconds = work_as_padded(layer.kernel.shape, layer.geometry).seconds
    except CostError:
        seconds = math.inf
    if seconds <= SECONDS + SECONDS_A_WEIGHT * layer.kernel.size or repeats_inputs(problem.correlation):
        return homogeneous(operator_norm_of, problem)
    return replace(homogeneous(for_any_size, problem), lower=None)


def _matrix_norm(matrix: Array) -> tuple[float, float]:
    """Below and above the norm of a real matrix by an allowance for rounding; computed in float64."""
    problem = problem_of(_finite(matrix)[..., None], ConvGeometry((1,)))
    norm = homogeneous(operator_norm_of, problem).upper
    assert norm is not None
    error = problem.norm_error(norm)
    return max(float(norm) - error, 0.0) / _ALLOWANCE, (float(norm) + error) * _ALLOWANCE


def _largest_overlap(size: int, window: int, stride: int, dilation: int, before: int, outputs: int) -> int:
    taps = stride * np.arange(outputs)[:, None] - before + dilation * np.arange(window)
    inside = taps[(taps >= 0) & (taps < size)]
    return int(np.bincount(inside).max()) if inside.size else 0


def _finite(values: Array) -> Array:
    wide = np.asarray(values, dtype=np.float64)
    if not np.isfinite(wide).all():
        raise InputError("it holds weights that are infinite or NaN: there is no constant")
    return wide
