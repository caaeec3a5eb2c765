"""A proven upper bound for zero padding: the operator sits inside a larger circulant one."""

from __future__ import annotations

from concurrent.futures import Executor

from .._compat import Array
from .._solvers.pool import DEFAULT_MEMORY
from ..errors import GeometryError
from ..geometry import ConvGeometry, Correlation
from ..results import Bound
from ..spectrum import norm_of, prepare
from .reshaped_kernel import row_norm
from .rounding import allowance

ASSUMES = "zero or no padding, at the geometry's input size"


def circulant_embedding(
    kernel: Array,
    geometry: ConvGeometry,
    *,
    sizes: int = 2,
    executor: Executor | None = None,
    memory: int = DEFAULT_MEMORY,
) -> Bound:
    """An interval for the norm of a convolution with zero or no padding.

        lower = max_r ||W restricted to the taps that output r reads inside the input||
        upper = min_N ||circulant operator of N points||

    On a torus of `N >= max(n + a, s (n_out - 1) + 1 + d (k - 1) - a)` points, `N` a multiple of `s`,
    every read that wraps falls on a point beyond the input: fill those with zeros, keep the first
    `n_out` outputs, and the circulant operator is the zero-padded one, of which it is therefore an
    upper bound. It is not monotone in `N`, so the least over `sizes` sizes is taken.

    Arguments:
        kernel, geometry: as for `singular_values`; `padding_mode` "zeros".
        sizes: how many tori to try, from the smallest that holds the operator.
        executor, memory: as for `singular_values`.

    Raises:
        GeometryError: another padding mode with padding that is read.

    Not guaranteed: tightness; small inputs and kernels with mixed signs give the widest intervals.

    Reference: Gray (2006), chapter 4, for Toeplitz inside circulant matrices. The lower bound is
    the norm of a submatrix of the operator (see `reshaped_kernel`).

    >>> import numpy as np
    >>> laplacian = np.array([[[-1.0, 2.0, -1.0]]])
    >>> bound = circulant_embedding(laplacian, ConvGeometry(input_shape=3, padding=1))
    >>> bool(bound.lower <= 2 + 2**0.5 <= bound.upper)
    True
    """
    kernel, correlation = prepare(kernel, geometry)
    if correlation.padding_mode != "zeros" and any(map(any, correlation.padding)):
        raise GeometryError(
            f"circulant_embedding bounds zero padding; this layer pads with {correlation.padding_mode}. "
            'Use padding_mode="zeros", or pfister2018 for wrapped boundaries'
        )
    slack = allowance(kernel, correlation)
    upper = min(
        norm_of(kernel, torus, executor=executor, memory=memory)
        for torus in enclosing_tori(correlation, sizes)
    )
    lower = row_norm(kernel, correlation) / slack
    return Bound(lower, upper * slack, method="circulant_embedding", assumes=ASSUMES)


def enclosing_tori(correlation: Correlation, sizes: int) -> list[Correlation]:
    """The smallest torus that holds a zero-padded correlation, and the next larger ones."""
    smallest = []
    for n, outputs, s, reach, (before, _) in zip(
        correlation.input_shape,
        correlation.output_shape,
        correlation.stride,
        correlation.reach,
        correlation.padding,
        strict=True,
    ):
        points = max(n + before, s * (outputs - 1) + 1 + reach - before)
        smallest.append(-(-points // s))
    return [correlation.embedded([m + more for m in smallest]) for more in range(max(1, sizes))]
