"""An interval for any boundary, as narrow as it is asked for: the proof is a Cholesky factorisation."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from .._compat import Array, is_concrete, like, to_numpy
from .._solvers.block_cholesky import indefiniteness, typical_indefiniteness
from ..checks import check_limit
from ..compute import DEFAULT, Compute
from ..cost import Cost, of_factorisation
from ..errors import CostError, GeometryError
from ..geometry import ConvGeometry, Correlation
from ..operators.gram_matrix import GramLayout, gram_layout, gram_matrix, gram_roundings
from ..operators.lanczos import Triplets, largest_triplets
from ..operators.padded import operator, read_count
from ..problem import Problem, homogeneous, in_numpy, problem_of, scaled
from ..results import Bound
from ..rounding import moduli as moduli_of
from ..rounding import rounded_down, rounded_up
from .copy_count import copies, copy_count_of
from .tori import repeats_inputs
from .wave_packet import enclosing_top, forward_of_top_group, of_group, packet

NumpyArray = np.ndarray[Any, Any]

_EPS = float(np.finfo(np.float64).eps)

_QUICK_CERTIFICATE = 1.0
"""Seconds of a factorisation that is done unasked where nothing else makes an interval narrow."""

_PANEL = 64
"""Columns that are factorised at a time, about."""


def rump2006(
    kernel: Array, geometry: ConvGeometry, *, tolerance: float = 0.01, compute: Compute = DEFAULT
) -> Bound:
    """An interval for every boundary, stride and dilation: mostly `upper / lower <= 1 + tolerance`.

        mu I - A^T A = L L^T + E    =>    ||A||^2 <= mu + ||E||

    of `A^T A` or `A A^T`, with `mu = (lower (1 + tolerance))^2` and `lower` the gain of a Golub-Kahan-Lanczos
    vector; with twice, four times ... the tolerance while the factorisation breaks down. `E` is what rounding
    did, which is bounded while factorising: in single precision where that is small beside the tolerance,
    else in double. Both matrices are banded, points sorted by Cuthill and McKee's rule along each axis.

    Arguments:
        kernel: as for `singular_values`; computed in NumPy, without gradient.
        geometry: any, of every padding mode.
        tolerance: positive.
        compute: how; its `memory` is what the factorisation may take. See `Compute`.

    Returns:
        `Bound` of the operator norm, an interval.

    Raises:
        CostError: the band does not fit into `compute.memory`.
        GeometryError: kernel and geometry do not fit, reflect padding of a single point, or values that
            cannot be looked at (a traced JAX array).
        KernelError: as `singular_values`.

    Notes:
        Cost: for maps of n x m points, n the larger side, and C channels about `4 n m^3 C^3` operations for a
        kernel of 3 x 3 taps: a second for 16 channels of 32 x 32.

        Not guaranteed: the tolerance, where the Lanczos vector misses the norm.

    References:
        Rump (2006), Verification of positive definiteness, BIT 46; Higham (2002), section 10.1.

    Examples:
        >>> import numpy as np
        >>> laplacian = np.array([[[-1.0, 2.0, -1.0]]])
        >>> bound = rump2006(laplacian, ConvGeometry(100, padding=1, padding_mode="reflect"))
        >>> bool(4.03 < bound.lower <= bound.upper <= 1.01 * bound.lower)
        True
    """
    check_limit("tolerance", tolerance)
    return homogeneous(rump2006_of, problem_of(kernel, geometry, compute), tolerance)


def rump2006_of(problem: Problem, tolerance: float = 0.01) -> Bound:
    """`rump2006` of a problem whose entries are in range."""
    kernel = problem.kernel
    if not is_concrete(kernel):
        raise GeometryError("rump2006 needs concrete values; call it outside jax.jit")
    cost, limit = cost_of_certificate(problem.correlation), problem.compute.memory
    if cost.memory > limit:
        raise CostError(
            f"bounds.rump2006 takes {cost}, and Compute(memory=...) allows {limit / 2**30:,.1f} GiB: raise "
            "it, or take bounds.copy_count"
        )
    known, ours = copy_count_of(problem), to_numpy(kernel)
    proven = ProvenNorm(problem, float(to_numpy(known.upper)))
    upper = proven.narrowed(tolerance)
    lower = max(proven.lower, float(to_numpy(known.lower)))
    return Bound(
        like(rounded_down(np.float64(lower), 1.0, ours), kernel, kernel.dtype),
        like(rounded_up(np.float64(upper), 1.0, ours), kernel, kernel.dtype),
        method="rump2006",
        assumes="the geometry's padding and input size",
    )


class ProvenNorm:
    """What is proven of the norm of a kernel at any scale: more, as more is asked.

    Attributes:
        upper: a proven upper bound.
    """

    def __init__(self, problem: Problem, upper: float) -> None:
        self._problem, power = scaled(problem)
        self._power, self.upper = float(power), upper

    @cached_property
    def _lower(self) -> float:
        """In units of the power."""
        found = lanczos(self._problem, tolerance=1e-3, applications=400)
        return 0.0 if found is None else float(found.values[0])

    @property
    def lower(self) -> float:
        """The gain of a Krylov vector, a proven lower bound."""
        return math.nextafter(self._lower * self._power, 0.0)

    def is_at_most(self, limit: float) -> bool:
        """Whether the norm is proven to be."""
        if self.upper <= limit:
            return True
        if self._lower * self._power > limit:
            return False
        inside = limit / self._power
        if not inside**2 > 0:  # far below a kernel whose entries are in range
            return False
        found = norm_below(self._problem, inside, self._lower)
        self.upper = min(self.upper, math.nextafter(found * self._power, math.inf))
        return self.upper <= limit

    def narrowed(self, width: float) -> float:
        """The upper bound, brought to `lower (1 + width)`, or twice, four times ... the width."""
        while 0 < self.lower * (1 + width) < self.upper:
            if self.is_at_most(self.lower * (1 + width)):
                break
            width *= 2
        return self.upper


def lanczos(
    problem: Problem, start: NumpyArray | None = None, *, tolerance: float = 1e-9, applications: int = 400
) -> Triplets | None:
    """A singular triplet whose value is a proven lower bound of the norm, mostly the largest one.

    From a start, or from a packet, of its group alone. None where the packet is zero.
    """
    correlation = problem.correlation
    if start is not None:
        layer, first = operator(in_numpy(problem).kernel, correlation), start
    else:
        if not float(to_numpy(enclosing_top(problem).norm)) > 0:
            return None
        layer, first = forward_of_top_group(problem), packet(problem)[0].real
        other = np.random.default_rng(0).standard_normal(first.shape)
        first = first / (np.linalg.norm(first) or 1.0)
        first = first + (0.1 if repeats_inputs(correlation) else 1e-3) * other / np.linalg.norm(other)
    return largest_triplets(layer, first, tolerance=tolerance, applications=applications)


def cost_of_certificate(correlation: Correlation, most: float = math.inf) -> Cost:
    """Of `norm_below`, of all groups, in single precision.

    Infinite where there is no banded matrix, or it would take more than so many seconds were it diagonal.
    """
    c = correlation = replace(correlation, transposed=False)
    if read_count(correlation) == 0:
        return Cost()
    fewest = min(c.in_channels * math.prod(c.input_shape), c.out_channels * c.points)
    layout = gram_layout(correlation) if of_factorisation(fewest, 0).seconds <= most else None
    if layout is None:
        return Cost(math.inf, math.inf)
    cost = of_factorisation(layout.size, layout.half_width)
    return replace(cost, seconds=cost.seconds * correlation.groups, memory=cost.memory + layout.bytes)


def quick_certificate(correlation: Correlation, memory: float = math.inf) -> Cost:
    """Of the factorisation that is done unasked where padding copies the input, if any."""
    cost = cost_of_certificate(correlation, _QUICK_CERTIFICATE)
    return cost if cost.seconds <= _QUICK_CERTIFICATE and cost.memory <= memory else Cost()


def norm_below(
    problem: Problem,
    limit: float,
    lower: float,
    uppers: NumpyArray | None = None,
    deadline: float = math.inf,
) -> float:
    """A proven upper bound of the norm that is at most about `limit`; infinite where none was found.

    Arguments:
        problem: of concrete entries, in range.
        limit: what is to be shown.
        lower: a lower bound of the norm: the further below, the more may be left to rounding.
        uppers: shape (groups,), of the norm of each group: those below the limit are left out.
        deadline: of `time.monotonic`.
    """
    correlation = replace(problem.correlation, transposed=False)
    kernel = in_numpy(problem).kernel
    layout = gram_layout(correlation)
    if layout is None and read_count(correlation) == 0:
        return 0.0
    if layout is None or not limit > 0:
        return math.inf
    found = 0.0
    for group in range(correlation.groups):
        above = math.inf if uppers is None else float(uppers[group])
        if above > limit:
            above = _of_one_group(*of_group(kernel, correlation, group), layout, limit, lower, deadline)
        found = max(found, above)
        if math.isinf(found):
            break
    return found


def _of_one_group(
    kernel: NumpyArray, c: Correlation, layout: GramLayout, limit: float, lower: float, deadline: float
) -> float:
    """Squares are eigenvalues of the Gram matrix G: of `G / level` at most `1 + indefiniteness`."""
    moduli = moduli_of(kernel, c) ** 2 * copies(c)
    off = _EPS * gram_roundings(c) * moduli
    matrix = gram_matrix(kernel, layout)
    points = max(1, _PANEL // layout.channels)
    room = 1 - (lower / limit) ** 2
    for dtype in (np.float32, np.float64):
        size = points * layout.channels
        expected = typical_indefiniteness(layout.half_width, size, moduli / limit**2, dtype)
        level = limit**2 * (1 - expected) - off
        if expected > room / 2 or not level > 0:
            continue
        scaled = replace(matrix, blocks=matrix.blocks / level)
        beyond = indefiniteness(scaled.panels(points, dtype), moduli / level, deadline)
        square = (level * (1 + beyond) + off) * (1 + 8 * _EPS)
        if square <= limit**2:
            return math.sqrt(square) * (1 + 2 * _EPS)
    return math.inf
