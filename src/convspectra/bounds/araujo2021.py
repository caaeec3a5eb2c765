"""An upper bound for every input size from sampled polynomials: one number a filter and frequency, no SVD."""

from __future__ import annotations

import math

from .._compat import Array, eps_of, namespace
from ..checks import check_count
from ..compute import DEFAULT, Compute
from ..geometry import ConvGeometry, Correlation
from ..problem import Problem, homogeneous, problem_of, widened
from ..results import Bound
from ..rounding import root, rounded_up
from ..spectrum import over_blocks
from ..symbol import FrequencyGrid, symbol_blocks
from .pfister2018 import sampling_torus
from .tori import refuse_repeated_inputs

ASSUMES = "any input size; circular, zero or no padding"


def araujo2021(
    kernel: Array,
    geometry: ConvGeometry,
    *,
    oversampling: int = 8,
    together: bool = True,
    compute: Compute = DEFAULT,
) -> Bound:
    """The sup of the symbol's Frobenius norm, certified from its samples.

        upper = sqrt( max_theta sum_{o,i} |S_oi(theta)|^2 ) / prod_axes cos(pi U / (2 M))
        upper = sqrt( sum_o max_theta sum_i |S_oi(theta)|^2 ) / prod_axes cos(pi U / (2 M))   (together=False)

    `theta` on a grid of `M` points an axis. The second is the paper's theorem, a row of the symbol at a
    time, or a column where those are fewer; the first, of its authors' code, is never larger. A row is a
    polynomial with coefficients in `C^n` of half-degree `U / 2` an axis, as in `pfister2018`, so between
    samples its length can rise by no more than the cosines. Without that factor, as in the authors' first
    code, samples are no bound. `sup ||S||` bounds every torus and, as a part of one, every zero-padded
    or unpadded input.

    Arguments:
        kernel: as for `singular_values`, computed in double precision where the library has it.
        geometry: zero or no padding, or circular padding that wraps no further than around; sizes do not
            matter.
        oversampling: samples per unit of degree, as for `pfister2018`.
        together: all rows at each frequency, or each at its own.
        compute: how; see `Compute`.

    Returns:
        `Bound` of the operator norm; its `status` says which sides are proven.

    Raises:
        GeometryError: padding that repeats the input otherwise; kernel and geometry do not fit.
        KernelError: as `singular_values`.
        InputError: oversampling below 2, where the certificate is void.

    Notes:
        Differentiable where the largest sample is one (else a subgradient); zero for the zero kernel.
        Cost: the symbol at `oversampling (k - 1)` frequencies an axis.

        Not guaranteed: tightness: the factor is the root of the stable rank of a block, up to
        `sqrt(min(C_out, C_in))`.

    References:
        Araujo, Negrevergne, Chevaleyre and Atif (2021); the factor is that of Ehlich and Zeller (1964),
        sharper than the one they take from Pfister and Bresler (2018).

    Examples:
        >>> import numpy as np
        >>> box = np.ones((1, 1, 3))
        >>> bound = araujo2021(box, ConvGeometry(3, padding=1), oversampling=64)
        >>> round(float(bound.upper), 3)
        3.001
    """
    return homogeneous(araujo2021_of, problem_of(kernel, geometry, compute), oversampling, together)


def araujo2021_of(problem: Problem, oversampling: int = 8, together: bool = True) -> Bound:
    """`araujo2021` of a problem whose entries are in range."""
    check_count("oversampling", oversampling, 2)
    kernel, correlation = problem.kernel, problem.correlation
    refuse_repeated_inputs("araujo2021", correlation)
    wide = widened(problem).kernel
    torus, factor = sampling_torus(correlation, oversampling)
    squares = _largest_squares(wide, torus, together, problem.compute)
    # A Frobenius norm, and root of that many blocks' errors, with those of its own sums.
    rows, columns = torus.block_shape
    off = widened(problem).symbol_error() * math.sqrt(min(rows, columns))
    slack = factor * (1 + eps_of(wide) * (rows * columns + 64))
    upper = rounded_up(root(namespace(wide).max(squares)) + off, slack, kernel)
    return Bound(None, upper, method="araujo2021", assumes=ASSUMES)


def _largest_squares(kernel: Array, torus: Correlation, together: bool, compute: Compute) -> Array:
    """For each group the largest sum of squares, or the sum of each row's or column's largest."""
    xp, (rows, columns) = namespace(kernel), torus.block_shape

    def task(part: FrequencyGrid) -> Array:
        blocks = symbol_blocks(kernel, torus, part)
        squares = xp.real(blocks) ** 2 + xp.imag(blocks) ** 2
        if together:
            return xp.max(xp.sum(squares, axis=(2, 3)), axis=0)[:, None]
        return xp.max(xp.sum(squares, axis=3 if rows <= columns else 2), axis=0)

    found = xp.stack(over_blocks(task, kernel, torus, compute))
    return xp.sum(xp.max(found, axis=0), axis=-1)
