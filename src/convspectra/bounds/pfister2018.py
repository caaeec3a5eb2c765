"""A certificate for every input size at once: the sup of the symbol from its samples."""

from __future__ import annotations

import math

import numpy as np

from .._compat import Array, eps_of
from ..checks import check_count
from ..compute import DEFAULT, Compute
from ..geometry import ConvGeometry, Correlation
from ..problem import Problem, homogeneous, problem_of
from ..results import Bound
from ..rounding import around, less
from ..spectrum import top_on
from ..symbol import polyphase
from .tori import refuse_repeated_inputs

ASSUMES = "any input size; wrapped, zero or no padding"

OVERSAMPLING = 8
"""Samples per unit of degree, unless others are asked for: 2 % an axis."""


def pfister2018(
    kernel: Array, geometry: ConvGeometry, *, oversampling: int = OVERSAMPLING, compute: Compute = DEFAULT
) -> Bound:
    """An interval for the largest norm that a convolution has on any input size.

        max_grid ||S||  <=  sup_theta ||S(theta)||  <=  max_grid ||S|| / prod_axes cos(pi U / (2 M))

    `u^H S(theta) v` is, up to a shift that keeps its modulus, a trigonometric polynomial of degree
    `U / 2` an axis, `U` the largest tap offset of the polyphase form (`k - 1` for stride 1): between
    `M` samples it can rise by no more than that cosine. Every torus, and by circulant embedding
    every zero-padded or unpadded input, has at most the norm `upper`; large inputs come as close
    to the sup as one likes, so `lower` is reached, up to any margin, by some size.

    Arguments:
        kernel: real array in the layout of `geometry`.
        geometry: as for `singular_values`; sizes and padding of the geometry do not matter.
        oversampling: samples per unit of degree: the gap is a factor of `cos(pi / (2 oversampling))` an
            axis, 1.9 % at 8.
        compute: how; see `Compute`.

    Returns:
        `Bound` of the operator norm; its `status` says which sides are proven.

    Raises:
        InputError: oversampling below 2, where the certificate is void.

    Notes:
        Not guaranteed: anything for reflect or replicate padding, or circular padding that wraps further
        than once around, all of which can exceed it.

    References:
        Ehlich and Zeller (1964); Pfister and Bresler (2018), Bounding multivariate trigonometric
        polynomials.

    Examples:
        >>> import numpy as np
        >>> laplacian = np.array([[[-1.0, 2.0, -1.0]]])
        >>> bound = pfister2018(laplacian, ConvGeometry(input_shape=3, padding=1))
        >>> round(float(bound.lower), 6), round(float(bound.upper), 2)
        (4.0, 4.08)
    """
    return homogeneous(pfister2018_of, problem_of(kernel, geometry, compute), oversampling)


def pfister2018_of(problem: Problem, oversampling: int = OVERSAMPLING) -> Bound:
    """`pfister2018` of a problem whose entries are in range."""
    check_count("oversampling", oversampling, 2)
    correlation = problem.correlation
    refuse_repeated_inputs("pfister2018", correlation)
    torus, factor = sampling_torus(correlation, oversampling)
    if factor == 1.0 and problem.wrapped.is_circulant:
        torus = problem.wrapped  # its spectrum may be known
    norm = top_on(problem, torus).norm
    error = problem.norm_error(norm)
    if factor == 1.0:  # the symbol is constant: one block says it all
        return around(norm, error, "pfister2018", ASSUMES)
    upper = (norm + error) * (factor * (1 + 4 * eps_of(problem.kernel)))
    return Bound(less(norm, error), upper, method="pfister2018", assumes=ASSUMES)


def sampling_torus(correlation: Correlation, oversampling: int) -> tuple[Correlation, float]:
    """The torus whose frequencies are the samples, and the factor by which the sup may exceed them."""
    offsets = np.concatenate([part.offsets for part in polyphase(correlation)])
    shape, factor = [], 1.0
    for axis in range(offsets.shape[1]):
        # Offsets that share a divisor (dilation) sample a symbol that repeats as often.
        repeat = math.gcd(*map(int, offsets[:, axis])) or 1
        degree = int(offsets[:, axis].max()) // repeat
        samples = max(1, oversampling * degree)
        shape.append(samples * repeat)
        factor /= math.cos(math.pi * degree / (2 * samples))
    return correlation.embedded(shape), factor
