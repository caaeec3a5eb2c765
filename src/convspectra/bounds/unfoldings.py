"""The kernel without stride and dilation, and its unfoldings to matrices."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator

import numpy as np

from .._compat import Array, like, namespace
from .._solvers import array_api
from ..geometry import Correlation
from ..problem import Problem
from ..rounding import matrix_allowance, rounded_up


def plain_kernel(kernel: Array, correlation: Correlation) -> Array:
    """A kernel of stride and dilation 1 whose symbol takes the same values, shape (groups, m, n, *q).

    Along an axis, tap `p` reads polyphase component `d p mod s`; with `h = s / gcd(s, d)` that is a
    function of `p mod h`, and tap `p = h q + t` lies `q d / gcd(s, d)` strides beyond tap `t`. So the
    symbol at `theta` is that of the taps `q`, with the components `t` as channels, at `theta d / gcd(s, d)`
    (`symbol.py`); `n` is `C_in / groups` times their number, and `q = ceil(k / h)`.
    """
    xp = namespace(kernel)
    shape = [correlation.groups, *correlation.group_shape]
    sizes, components = [], []
    for axis, (k, s, d) in enumerate(
        zip(correlation.kernel_size, correlation.stride, correlation.dilation, strict=True)
    ):
        h = min(s // math.gcd(s, d), k)
        q = -(-k // h)
        if q * h > k:
            missing = (*kernel.shape[: 2 + axis], q * h - k, *kernel.shape[3 + axis :])
            kernel = xp.concat([kernel, like(np.zeros(missing), kernel, kernel.dtype)], axis=2 + axis)
        shape += [q, h]
        sizes.append(q)
        components.append(h)
    axes = len(sizes)
    order = [0, 1, 2, *(4 + 2 * axis for axis in range(axes)), *(3 + 2 * axis for axis in range(axes))]
    split = xp.permute_dims(xp.reshape(kernel, tuple(shape)), tuple(order))
    return xp.reshape(split, (*shape[:2], shape[2] * math.prod(components), *sizes))


def unfolding_upper(problem: Problem, plain: Array, to_rows: Iterable[Collection[int]]) -> Array:
    """`sqrt(q_1 ... q_D)` times the least norm of these unfoldings of a plain kernel."""
    xp, taps = namespace(plain), math.prod(plain.shape[3:])
    least = xp.min(xp.stack([unfolding_norm(plain, axes) for axes in to_rows]))
    slack = matrix_allowance(plain, plain.shape[1], plain.shape[2] * taps)
    return rounded_up(least * math.sqrt(taps), slack, problem.kernel)


def subsets(plain: Array, first: int, all_of_them: bool) -> Iterator[tuple[int, ...]]:
    """Sets of the axes from the first one on that have more than one entry; all of them together or not."""
    axes = [axis for axis in range(first, plain.ndim) if plain.shape[axis] > 1]
    most = len(axes) if all_of_them else max(0, len(axes) - 1)
    return itertools.chain.from_iterable(itertools.combinations(axes, n) for n in range(most + 1))


def unfolding_norm(tensor: Array, to_rows: Collection[int]) -> Array:
    """The largest singular value of a tensor as a matrix, the largest over its first axis (groups).

    Axis 1 and `to_rows` become the matrix' rows, all others its columns.
    """
    xp = namespace(tensor)
    rows = [1, *sorted(to_rows)]
    columns = [axis for axis in range(2, tensor.ndim) if axis not in to_rows]
    sizes = [math.prod(tensor.shape[axis] for axis in part) for part in (rows, columns)]
    matrices = xp.reshape(xp.permute_dims(tensor, (0, *rows, *columns)), (tensor.shape[0], *sizes))
    return xp.max(array_api.largest_singular_value(matrices))
