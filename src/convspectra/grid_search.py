"""Which frequencies of a large torus may have the largest singular value: a search instead of all of them.

`S(theta)`, times a phase, is of exponential type `L_a` along axis `a`, so that no norm changes faster than a
cosine does relative to `M >= sup ||S||`. From the centre `c` of a cell

    ||S(c)|| <= M cos(arccos(T / M) + r)   proves   ||S(g)|| <= T   wherever sum_a L_a |g_a - c_a| <= r.

`T` is the largest value at points of the torus next to where the norm is largest of all (`supremum.py`).
Cells of points are tested by one Cholesky factorisation each, and divided where it fails; the few points that
are left are decomposed as all are on small tori, with the same result.

Reference: Duffin and Schaeffer (1938), Some properties of functions of exponential type.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from ._solvers import native
from ._solvers.gram import LARGEST_IN_LANES, Cells, Gram
from .geometry import Correlation
from .problem import Problem
from .supremum import Supremum, gram, supremum
from .symbol import FrequencyGrid, IntArray, frequency_grid

FloatArray = np.ndarray[Any, np.dtype[np.float64]]

_SHARE = 12
"""Of all frequencies one in so many is tested, at the most, before the search is given up."""

_WIDTH = 1e-3
"""Of the interval for the largest norm of all, relative to it."""


def pays(torus: Correlation) -> bool:
    """Whether a search can be cheaper than to look at all frequencies: 16 points an axis are tested."""
    grid = frequency_grid(torus)
    few = min(grid.block_shape) <= LARGEST_IN_LANES and len(grid) >= 10 ** (len(grid.shape) + 2)
    return few and native.tests_grams()


def searched_top(
    problem: Problem, torus: Correlation, ready: native.NativeTaps
) -> tuple[float, int, int] | None:
    """The largest singular value on a torus, its frequency and its group, as `native.largest` has them.

    Of a problem whose entries are in range; None if the search was given up.
    """
    grid = frequency_grid(torus)
    top, matrices = supremum(problem, _WIDTH, len(grid) // _SHARE), gram(problem)
    if top is None or matrices is None:
        return None
    search = _Grid(matrices, grid)
    first = search.places(search.around(top.angles))
    best = _largest(ready, grid, first, 0.0)
    left = search.left(top, best[0], len(grid) // _SHARE)
    if left is None:
        return None
    found = _largest(ready, grid, left, best[0])
    return found if found[1] >= 0 else best


def _largest(
    ready: native.NativeTaps, grid: FrequencyGrid, places: IntArray, floor: float
) -> tuple[float, int, int]:
    value, frequency, group = native.largest(ready, grid.at(places), floor)
    return value, int(places[frequency]) if frequency >= 0 else -1, group


class _Grid:
    """The points of a torus by whole numbers `j`: at the angles `2 pi j / period` of the Gram matrices."""

    def __init__(self, matrices: Gram, grid: FrequencyGrid) -> None:
        self.matrices, self.grid = matrices, grid
        self.period = np.array(grid.period)
        self.degrees = np.zeros(len(self.period))
        self.degrees[list(matrices.axes)] = matrices.half_degrees
        # Offsets that share a divisor turn the frequency `g` to `j = turns g`.
        turns = [r // math.gcd(r, n) for r, n in zip(matrices.repeats, grid.shape, strict=True)]
        self.back = np.array([pow(t, -1, p) for t, p in zip(turns, grid.period, strict=True)])

    def around(self, angles: FloatArray) -> IntArray:
        """The points next to angles of the symbol, along each axis one on either side."""
        below = np.floor(angles * np.array(self.matrices.repeats) * self.period / (2 * math.pi)).astype(
            np.int64
        )
        corners = np.array(list(itertools.product((0, 1), repeat=len(self.period))))
        return np.asarray(below + corners)

    def places(self, points: IntArray) -> IntArray:
        """In the grid, ascending."""
        numbers = np.empty(self.grid.period, dtype=np.int64)
        for index in (self.grid.index, -self.grid.index % self.period):
            numbers[tuple(index.T)] = np.arange(len(self.grid))
        return np.unique(numbers[tuple((points * self.back % self.period).T)])

    def left(self, top: Supremum, floor: float, most: int) -> IntArray | None:
        """The places whose value may be above the floor; None if that takes more tests."""
        sides = 1 + np.floor(self.period / (8 * np.maximum(self.degrees, 1 / 8))).astype(np.int64)
        sides = np.minimum(sides, self.period)
        ends = self.period.copy()
        ends[0] = self.period[0] // 2 + 1  # the other half are conjugates
        lows = np.stack(
            np.meshgrid(*(np.arange(0, n, s) for n, s in zip(ends, sides, strict=True)), indexing="ij"),
            axis=-1,
        ).reshape(-1, len(ends))
        count = len(lows)
        lows = np.tile(lows, (self.matrices.groups, 1))
        groups = np.repeat(np.arange(self.matrices.groups), count)
        while True:
            most -= len(lows)
            if most < 0:
                return None
            failed = self.failing(lows, groups, sides, top.upper, floor)
            lows, groups = lows[failed], groups[failed]
            if not len(lows) or sides.max() <= 2:
                break
            sides, corners = -(-sides // 2), [(0,) if side == 1 else (0, -(-side // 2)) for side in sides]
            shifts = np.array(list(itertools.product(*corners)))
            lows = (lows[:, None] + shifts).reshape(-1, len(sides))
            groups = np.repeat(groups, len(shifts))
        inside = np.array(list(itertools.product(*map(range, sides))))
        return self.places((lows[:, None] + inside).reshape(-1, len(sides)))

    def failing(
        self, lows: IntArray, groups: IntArray, sides: IntArray, upper: float, floor: float
    ) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """The cells in which a value may be above the floor."""
        axes, half = list(self.matrices.axes), (sides - 1) / 2
        reach = float((self.degrees * half * (2 * math.pi / self.period)).sum())
        # The arc cosine of a quotient near 1 has lost half of its digits.
        reach += math.acos(min(1.0, floor / upper)) + 1e-7
        level = (upper * math.cos(reach)) ** 2 - self.matrices.slack(upper**2) if reach < math.pi / 2 else 0.0
        if level <= 0:
            return np.ones(len(lows), dtype=bool)
        angles = ((lows + half) * (2 * math.pi / self.period))[:, axes]
        start = np.tile(np.ones(self.matrices.rows, dtype=np.complex128), (len(lows), 1))
        return np.asarray(~self.matrices.test(Cells(angles, groups, start), level, steps=1).below)
