"""Parseval networks: the kernel reshaped to a matrix with orthonormal rows, and what that bounds.

Reference: Cisse, Bojanowski, Grave, Dauphin and Usunier (2017), as Sedghi, Gupta and Long (2019), Section 1,
describe them.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from .. import functions
from .._compat import Array, namespace
from ..checks import check_word
from ..errors import InputError
from ..functions import SpectralFunction
from ..geometry import ConvGeometry
from ..problem import Problem, problem_of
from ..projection.matrix_clip import as_pointwise

Scaling = Literal["sedghi2019", "cisse2017"]


def parseval_retraction(kernel: Array, geometry: ConvGeometry, *, beta: float = 3e-4) -> Array:
    """One step of the reshaped kernel towards orthonormal rows, as Parseval networks take after each update.

        W <- (1 + beta) W - beta W W^T W

    with `W` the kernel reshaped to `C_out x (C_in k^D)`: a gradient step on `|| W W^T - I ||_F^2 / 4`, which
    takes each singular value to `sigma (1 + beta - beta sigma^2)`.

    Arguments:
        kernel: real array in the layout of `geometry`. Plain operations, differentiable without exception.
        geometry: any; with groups each is a matrix of its own.
        beta: positive, at most 1. Theirs are 1e-4 to 1e-3.

    Returns:
        The kernel, without the scaling of `parseval_scale`.

    Raises:
        InputError: beta is not positive, or above 1.
        GeometryError, KernelError: as `singular_values`.

    Notes:
        Not guaranteed: orthonormal rows after any number of steps: zero singular values stay, and those
        above `sqrt(1 + 2 / beta)` grow. More rows than columns cannot be orthonormal; then columns become
        so. Nor that orthonormal rows say anything of the operator: its norm can be `sqrt(prod(k))`.

    References:
        Cisse, Bojanowski, Grave, Dauphin and Usunier (2017), who take a random part of the rows.

    Examples:
        >>> import numpy as np
        >>> step = parseval_retraction(2 * np.eye(2).reshape(2, 2, 1, 1), ConvGeometry((8, 8)), beta=0.1)
        >>> round(float(step[0, 0, 0, 0]), 9)  # 2 (1 + 0.1 - 0.1 * 4)
        1.4
    """
    if not 0 < beta <= 1:
        raise InputError(f"beta must be positive and at most 1; got {beta!r}")
    problem = problem_of(kernel, geometry)
    xp, correlation = namespace(problem.kernel), problem.correlation
    rows = xp.reshape(problem.kernel, (correlation.groups, correlation.group_shape[0], -1))
    gram = xp.matmul(rows, xp.matrix_transpose(rows))
    moved = (1 + beta) * rows - beta * xp.matmul(gram, rows)
    return problem.in_layout(xp.reshape(moved, problem.kernel.shape))


def parseval_projection(kernel: Array, geometry: ConvGeometry, *, scaling: Scaling = "sedghi2019") -> Array:
    """The kernel of a Parseval layer: the nearest one with orthonormal rows, times `parseval_scale`.

        W <- parseval_scale U V^T,    W reshaped = U diag(sigma) V^T

    which is what the steps of `parseval_retraction` tend to.

    Arguments:
        kernel: real array in the layout of `geometry`. Differentiable as `orthogonalise`: where no singular
            value is zero; the part that belongs to zeros is taken as zero.
        geometry: any; with groups each is a matrix of its own.
        scaling: as `parseval_scale`.

    Returns:
        The kernel, in the layout, dtype and library of the given one.

    Raises:
        InputError: an unknown scaling.
        GeometryError, KernelError: as `singular_values`.

    Notes:
        Not guaranteed: a norm of at most 1, unless `scaling="cisse2017"` (see `parseval_scale`).

    References:
        Cisse, Bojanowski, Grave, Dauphin and Usunier (2017); Sedghi, Gupta and Long (2019), Section 1.

    Examples:
        >>> import numpy as np
        >>> ones = np.ones((1, 1, 3, 3))
        >>> kernel = parseval_projection(ones, ConvGeometry((8, 8), padding=1, padding_mode="circular"))
        >>> bool(np.isclose(kernel.sum(), 3 / np.sqrt(7)))  # its norm, above 1
        True
    """
    problem = problem_of(kernel, geometry)
    scale, flat = _scale(problem, scaling), as_pointwise(problem)
    unit = SpectralFunction(lambda sigma: scale + 0 * sigma, lambda sigma: 0 * sigma)
    moved = functions.mapped(flat.kernel, flat.correlation, unit)
    return problem.in_layout(namespace(moved).reshape(moved, problem.kernel.shape))


def parseval_scale(kernel: Array, geometry: ConvGeometry, *, scaling: Scaling = "sedghi2019") -> float:
    """The factor by which Parseval networks multiply the output of a convolution.

    Arguments:
        kernel: real array in the layout of `geometry`; its shape alone is used.
        geometry: any.
        scaling: `"sedghi2019"`, as the paper describes it, `(2 k + 1)^(-1/2)` for `k x k` kernels (k the
            longest side); or `"cisse2017"`, as they derive it: `(2 k + 1)^(-1/2)` for a filter of `2 k + 1`
            taps along one axis, which is `prod(k)^(-1/2)` in this package's words.

    Returns:
        The factor, a float.

    Raises:
        InputError: an unknown scaling.
        GeometryError, KernelError: as `singular_values`.

    Notes:
        Not guaranteed: with orthonormal rows and the first scaling a norm of at most 1: a `k x k` kernel
        can reach `k (2 k + 1)^(-1/2)`. With the second it is at most 1, for zero and circular padding and
        any stride, since every input is read `prod(k)` times at most.

    References:
        Sedghi, Gupta and Long (2019), Section 1; Cisse, Bojanowski, Grave, Dauphin and Usunier (2017).

    Examples:
        >>> import numpy as np
        >>> geometry, kernel = ConvGeometry((8, 8)), np.ones((4, 4, 3, 3))
        >>> [round(parseval_scale(kernel, geometry, scaling=way), 6) for way in ("sedghi2019", "cisse2017")]
        [0.377964, 0.333333]
    """
    return _scale(problem_of(kernel, geometry), scaling)


def _scale(problem: Problem, scaling: Scaling) -> float:
    check_word("scaling", scaling, get_args(Scaling))
    sizes = problem.correlation.kernel_size
    return 1 / math.sqrt(2 * max(sizes) + 1 if scaling == "sedghi2019" else math.prod(sizes))
