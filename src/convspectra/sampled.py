"""A large torus by the frequencies of a smaller one, and how far singular values can be from the true ones.

Each frequency of the large torus is taken for the nearest one of the small torus. The two operators are
direct sums of as many blocks, so that by Weyl's inequality their singular values, sorted, differ by at most
the largest difference of two blocks that stand for each other. With `delta_a` the largest distance along
axis `a`,

    | sigma_i - estimate_i |  <=  max_signs  sup_theta || sum_a +- delta_a dS/dtheta_a ||,

as `S` between two frequencies changes by no more than the integral of its derivative, a norm is convex, and a
convex function is largest in a corner of a box. The sup is that of another kernel, its taps times their
offsets, by branch and bound over all frequencies (`supremum.py`). Phases of a polyphase class change no
singular value, so that offsets count from the middle of their class.

Reference: Horn and Johnson (1991), Topics in matrix analysis, Corollary 3.4.3, for Weyl's inequality.
"""

from __future__ import annotations

import bisect
import itertools
import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ._compat import is_concrete, is_tracked, to_numpy
from .checks import check_word
from .cost import check_sizes, memory_limit, of_search, seconds_of_blocks
from .errors import CostError, InputError
from .geometry import Correlation
from .problem import Problem, in_numpy, scaled
from .supremum import Supremum, supremum, symbol_at
from .symbol import FrequencyGrid, cost_of, frequency_grid, polyphase

NumpyArray = np.ndarray[Any, Any]

Sampling = Literal["exact", "sampled", "auto"]

SECONDS = 5.0
"""Of one core, by the estimate: what all singular values of a layer may take before some are left out."""

_POINTS = 4096
"""Frequencies of a spectrum that is sampled whatever it would take."""

_WIDTH, _NORM_WIDTH = 0.05, 1e-3
"""Of the interval for the largest derivative, and for the norm, relative to it."""

_TESTS, _MOST_TESTS = 150, 2000
"""Frequencies that a search may look at where each takes long, and where it does not."""


@dataclass(frozen=True)
class Sample:
    """A small torus for a large one.

    Attributes:
        torus: the small one.
        counts: for each axis how many points of the large torus each point of a period stands for.
        distances: for each axis the largest distance from one of them, in radians of the offsets' unit.
        units: for each axis the greatest common divisor of the offsets.
    """

    torus: Correlation
    counts: tuple[NumpyArray, ...]
    distances: NumpyArray
    units: NumpyArray

    @property
    def grid(self) -> FrequencyGrid:
        """The frequencies of the small torus, counted as they occur on the large one."""
        grid = frequency_grid(self.torus)
        mirrored = -grid.index % np.asarray(grid.period)
        here, there = (self._counted(index) for index in (grid.index, mirrored))
        alone = (grid.index == mirrored).all(axis=1)
        return replace(grid, multiplicity=np.where(alone, here, here + there))

    def _counted(self, index: NumpyArray) -> NumpyArray:
        """How many points of the large torus each point of the small one stands for."""
        by_axis = [counts[places] for counts, places in zip(self.counts, index.T, strict=True)]
        return np.asarray(math.prod(by_axis))


def sample_of(torus: Correlation, sampling: Sampling, itemsize: int = 8) -> Sample | None:
    """The small torus whose frequencies are to be taken for those of a torus; None where all of them are.

    `itemsize`: bytes of a number of the kernel.

    Raises:
        CostError: all of them are asked for and take too much memory, or the sizes are beyond all indices.
        InputError: another word.
    """
    check_word("spectrum", sampling, ("exact", "sampled", "auto"))
    torus.require_circulant()
    check_sizes(torus)
    each = seconds_of_blocks(torus, 0.5, itemsize)
    bytes_each = 24 * (2 + len(torus.output_shape)) + 24 * torus.groups * min(torus.block_shape)
    points = min(SECONDS / each, memory_limit() / bytes_each, _POINTS if sampling == "sampled" else math.inf)
    if sampling != "sampled":
        try:
            if sampling == "exact" or cost_of(torus, itemsize).seconds <= SECONDS:
                return None
        except CostError:
            if sampling == "exact":
                raise
    return smaller_torus(torus, int(points))


def smaller_torus(torus: Correlation, points: int) -> Sample | None:
    """A torus of about so many points at most, its steps even for the offsets; None if it had all."""
    offsets = np.concatenate([part.offsets for part in polyphase(torus)])
    sides = torus.output_shape
    units = np.array([math.gcd(*map(int, axis)) for axis in offsets.T])
    degrees = [int(axis.max()) // unit if unit else 0 for axis, unit in zip(offsets.T, units, strict=True)]
    repeats = [math.gcd(n, int(unit)) for n, unit in zip(sides, units, strict=True)]
    periods = [n // repeat for n, repeat in zip(sides, repeats, strict=True)]

    def taken(steps: int) -> list[int]:
        return [min(period, max(1, steps * degree)) for period, degree in zip(periods, degrees, strict=True)]

    steps = (
        bisect.bisect_right(range(max(periods) + 1), points, key=lambda steps: math.prod(taken(steps))) - 1
    )
    shape, counts, distances = [], [], []
    for period, few, unit, repeat in zip(periods, taken(max(steps, 2)), units, repeats, strict=True):
        # At `turns / (period * few)` of the whole circle from the nearest of few points.
        nearest = (2 * few * np.arange(period) + period) // (2 * period)
        turns = np.abs(few * np.arange(period) - period * nearest).max()
        shape.append(int(unit) * few if few < period else period * repeat)
        counts.append(repeat * np.bincount(nearest % few, minlength=few))
        distances.append(2 * math.pi * int(turns) / (period * few))
    if not any(distances):
        return None
    return Sample(torus.embedded(shape), tuple(counts), np.array(distances), units)


def sampling_error(problem: Problem, sample: Sample) -> float:
    """How far a singular value may be from its estimate, both sorted: absolute, proven, without rounding.

    Raises:
        InputError: values cannot be looked at.
    """
    if is_tracked(problem.kernel) or not is_concrete(problem.kernel):
        raise InputError(
            "spectrum must be 'exact' for a kernel that is traced or whose derivative is wanted; detach it"
        )
    wide, distances = in_numpy(problem), _distances_of_taps(problem.correlation, sample)
    first, *others = distances
    return max(
        _largest_norm(wide, first + sum((sign * axis for sign, axis in zip(signs, others, strict=True)), 0.0))
        for signs in itertools.product((1.0, -1.0), repeat=len(others))
    )


def _distances_of_taps(correlation: Correlation, sample: Sample) -> NumpyArray:
    """For each axis and tap: how far its phase may be from the nearest one's, beside that of its class."""
    found = np.zeros((len(sample.distances), math.prod(correlation.kernel_size)))
    for part in polyphase(correlation):
        middle = (part.offsets.max(axis=0) + part.offsets.min(axis=0)) / 2
        steps = (part.offsets - middle) / np.maximum(sample.units, 1)
        found[:, part.taps] = (steps * sample.distances).T
    return found


def _largest_norm(problem: Problem, weights: NumpyArray) -> float:
    """An upper bound of the symbol over all frequencies, of a kernel with its taps times the weights."""
    kernel = problem.kernel * weights.reshape(problem.correlation.kernel_size)
    if not kernel.any():
        return 0.0
    inside, power = scaled(problem.moved(kernel))
    found = _searched(inside, _WIDTH)
    by_tap = float(np.linalg.norm(kernel.reshape(-1, weights.size), axis=0).sum()) * (1 + 1e-9)
    return by_tap if found is None else min(by_tap, found.upper * float(power) * (1 + 1e-12))


def _searched(problem: Problem, width: float) -> Supremum | None:
    """The largest norm over all frequencies, by as many tests as do not take too long."""
    for tests in (_MOST_TESTS, _TESTS):
        if of_search(problem.correlation, tests).seconds <= SECONDS:
            return supremum(problem, width, tests)
    return None


def norm_interval(problem: Problem, torus: Correlation, estimate: float, error: float) -> tuple[float, float]:
    """Proven bounds of the norm on a torus of which only a sample was looked at.

    From above by the largest norm over all frequencies, from below by the block at the frequency of the
    torus that is nearest to it; and by the largest of the sample, which is off by at most `error`.
    """
    inside, power = scaled(in_numpy(problem))
    top = _searched(inside, _NORM_WIDTH)
    lower, upper = max(estimate - error, 0.0), estimate + error
    if top is not None:
        steps = 2 * math.pi / np.asarray(torus.output_shape)
        block = symbol_at(inside, top.group, np.rint(top.angles / steps) * steps)
        seen = float(np.linalg.norm(block, 2)) - float(to_numpy(inside.symbol_error()))
        lower, upper = max(lower, seen * float(power)), min(upper, top.upper * float(power))
    return lower, max(lower, upper)
