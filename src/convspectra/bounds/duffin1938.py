"""The norm of a layer over every input size at once, to any width: branch and bound over all frequencies."""

from __future__ import annotations

import numpy as np

from .._compat import Array, is_concrete, is_tracked, like, to_numpy
from .._solvers.gram import LARGEST_IN_LANES
from ..compute import DEFAULT, Compute
from ..errors import InputError
from ..geometry import ConvGeometry, Correlation
from ..problem import Problem, homogeneous, problem_of
from ..results import Bound
from ..rounding import rounded_down, rounded_up
from ..supremum import Supremum, supremum
from ..symbol import frequency_grid, is_constant
from .pfister2018 import ASSUMES, OVERSAMPLING, pfister2018_of, sampling_torus
from .tori import refuse_repeated_inputs

WIDTH = 1e-4
"""Relative width of the interval, unless another is asked for."""

_MOST = 20_000
"""Frequencies that are looked at, at the most."""

_FOR_EACH_SAMPLE, _OF_LARGE = 12, 4
"""Likewise for each sample of `pfister2018`, if it must not take many times as long; and of large blocks."""


def duffin1938(
    kernel: Array,
    geometry: ConvGeometry,
    *,
    width: float = WIDTH,
    compute: Compute = DEFAULT,
) -> Bound:
    """An interval for the largest norm that a convolution has on any input size, as narrow as is asked for.

        lower = ||S(theta)|| at some theta  <=  sup_theta ||S(theta)||  <=  upper = (1 + width) lower

    `S`, times a phase, is of exponential type `U / 2` an axis, `U` the largest tap offset of the polyphase
    form (`k - 1` for stride 1), so that its norm falls no faster than a cosine from its largest value: cells
    of frequencies are left out where a Cholesky factorisation at their centre says so, and divided elsewhere
    (`supremum.py`). The cost does not depend on the input size. The interval is proven, rounding included.

    Arguments:
        kernel: real array in the layout of `geometry`; computed in NumPy, in float64.
        geometry: as for `singular_values`; sizes and padding of the geometry do not matter.
        width: of the interval, relative to `lower`: `upper / lower <= 1 + width`.
        compute: how; see `Compute`.

    Returns:
        `Bound` of the operator norm; its `status` says which sides are proven.

    Raises:
        InputError: a width that is not positive, or more than 0.1.
        GeometryError: padding that repeats the input: as `pfister2018`.

    Notes:
        Not guaranteed: the width, for kernels whose largest singular value is the same at all frequencies
        (0.05 % for orthogonal 3x3 kernels) or whose taps cancel to their rounding. The result is that of
        `pfister2018` where Gram matrices do not fit into half of the memory, values cannot be looked at, or
        derivatives are wanted.

    References:
        Duffin and Schaeffer (1938), Some properties of functions of exponential type; as a proof the
        factorisation is that of Rump (2006), Verification of positive definiteness.

    Examples:
        >>> import numpy as np
        >>> laplacian = np.array([[[-1.0, 2.0, -1.0]]])
        >>> bound = duffin1938(laplacian, ConvGeometry(input_shape=3, padding=1))
        >>> round(float(bound.lower), 6), round(float(bound.upper), 4)
        (4.0, 4.0004)
    """
    if not (isinstance(width, (int, float)) and 0 < width <= 0.1):
        raise InputError(f"width must be positive and at most 0.1; got {width!r}")
    return homogeneous(duffin1938_of, problem_of(kernel, geometry, compute), width)


def duffin1938_of(problem: Problem, width: float | None = None, most: int = _MOST) -> Bound:
    """`duffin1938` of a problem in range, by default from `searched`, else by so many tests at the most."""
    kernel = problem.kernel
    refuse_repeated_inputs("duffin1938", problem.correlation)
    if is_tracked(kernel) or not is_concrete(kernel):
        return pfister2018_of(problem)
    found = None
    if not is_constant(problem.correlation):
        found = searched(problem) if width is None else supremum(problem, width, most)
    if found is None:
        return pfister2018_of(problem)
    ours = to_numpy(kernel)
    lower, upper = (
        rounded_down(np.float64(found.lower), 1.0, ours),
        rounded_up(np.float64(found.upper), 1.0, ours),
    )
    return Bound(
        like(lower, kernel, kernel.dtype),
        like(upper, kernel, kernel.dtype),
        method="duffin1938",
        assumes=ASSUMES,
    )


def searched(problem: Problem) -> Supremum | None:
    """The supremum to `WIDTH`, or as near as a few times the work of `pfister2018` comes.

    That is 0.5 % for flat spectra, of blocks of many rows 2 %; None where there is no interval.
    """
    each = _OF_LARGE if is_large(problem.correlation) else _FOR_EACH_SAMPLE
    samples, _ = sampling_torus(problem.correlation, OVERSAMPLING)
    return supremum(problem, WIDTH, each * len(frequency_grid(samples)))


def for_any_size(problem: Problem) -> Bound:
    """What takes little time of a problem whose entries are in range: of large blocks `pfister2018`."""
    return pfister2018_of(problem) if is_large(problem.correlation) else duffin1938_of(problem)


def is_large(correlation: Correlation) -> bool:
    """Whether blocks have so many rows that a test costs as much as many of them."""
    return min(correlation.block_shape) > LARGEST_IN_LANES
