"""A proven upper bound for zero padding: the operator sits inside a larger circulant one."""

from __future__ import annotations

from .._compat import Array, is_concrete, like, namespace
from ..compute import DEFAULT, Compute
from ..geometry import ConvGeometry
from ..problem import Problem, homogeneous, problem_of
from ..results import Bound
from ..rounding import rounded_down
from ..spectrum import top_on
from .reshaped_kernel import refuse_other_boundaries, row_norm_below
from .tori import enclosing_tori
from .wave_packet import packet_norm

ASSUMES = "zero or no padding, at the geometry's input size"


def circulant_embedding(
    kernel: Array, geometry: ConvGeometry, *, sizes: int = 2, compute: Compute = DEFAULT
) -> Bound:
    """An interval for the norm of a convolution with zero or no padding.

        lower = max(reshaped_kernel, wave_packet)
        upper = min_N ||circulant operator of N points||

    On a torus of `N >= max(n + a, s (n_out - 1) + 1 + d (k - 1) - a)` points, `N` a multiple of `s`,
    every read that wraps falls on a point beyond the input: fill those with zeros, keep the first
    `n_out` outputs, and the circulant operator is the zero-padded one, of which it is therefore an
    upper bound. It is not monotone in `N`, so the least over `sizes` sizes is taken.

    Arguments:
        kernel: real array in the layout of `geometry`.
        geometry: as for `singular_values`; `padding_mode` "zeros".
        sizes: how many tori to try, from the smallest that holds the operator.
        compute: how; see `Compute`.

    Returns:
        `Bound` of the operator norm; its `status` says which sides are proven.

    Raises:
        GeometryError: another padding mode with padding that is read.

    Notes:
        Not guaranteed: tightness; small inputs give the widest intervals.

    References:
        Gray (2006), chapter 4, for Toeplitz inside circulant matrices.

    Examples:
        >>> import numpy as np
        >>> laplacian = np.array([[[-1.0, 2.0, -1.0]]])
        >>> bound = circulant_embedding(laplacian, ConvGeometry(input_shape=3, padding=1))
        >>> bool(bound.lower <= 2 + 2**0.5 <= bound.upper)
        True
    """
    return homogeneous(circulant_embedding_of, problem_of(kernel, geometry, compute), sizes)


def circulant_embedding_of(problem: Problem, sizes: int = 2) -> Bound:
    """`circulant_embedding` of a problem whose entries are in range."""
    kernel, correlation = problem.kernel, problem.correlation
    refuse_other_boundaries("circulant_embedding", correlation)
    xp = namespace(kernel)
    tori = enclosing_tori(correlation, sizes)
    tops = [top_on(problem, torus) for torus in tori]
    upper = xp.min(xp.stack([top.norm for top in tops]))
    upper = upper + problem.norm_error(upper)
    lower = rounded_down(row_norm_below(problem), 1.0, kernel)
    if is_concrete(kernel):
        lower = xp.maximum(lower, like(packet_norm(problem), kernel, kernel.dtype))
    return Bound(lower, upper, method="circulant_embedding", assumes=ASSUMES)
