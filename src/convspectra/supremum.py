"""The largest norm of a symbol over all frequencies, by branch and bound: proven, whatever the size of a map.

`S(theta)`, times a phase, is of exponential type `L_a` along axis `a`, half of the largest tap offset. From
where its norm is largest, `M` at `theta*`, it falls no faster than a cosine (Duffin and Schaeffer 1938):

    ||S(theta)|| >= M cos(sum_a L_a |theta_a - theta*_a|),    as far as that sum is at most pi / 2.

If `||S(c)|| <= T cos(r)` at the centre of every cell of a cover, `r` the largest such sum in the cell, then
`M <= T`: with `T = (1 + width) best`, best the largest norm seen, one Cholesky factorisation settles a cell
(`_solvers/gram.py`), and cells that fail are divided. Cells of two axes are the balls of that sum, of which a
plane takes half as many as of rectangles.

Reference: Duffin and Schaeffer (1938), Some properties of functions of exponential type.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._compat import to_numpy
from ._solvers import pool
from ._solvers.gram import Cells, Gram, Tested, gram_of
from .problem import Problem, moduli, once

NumpyArray = np.ndarray[Any, Any]

_EPS = float(np.finfo(np.float64).eps)

_WIDEST = 0.1
"""Where rounding forbids a narrower interval than this, taps cancel, and none is given."""


@dataclass(frozen=True)
class Supremum:
    """`lower <= sup ||S(theta)|| <= upper`, both proven, rounding included.

    Attributes:
        angles: where `lower` was seen, in radians, along the axes of `Gram.waves`.
        group: in which group of channels.
        tests: how many frequencies were looked at.
    """

    lower: float
    upper: float
    angles: NumpyArray
    group: int
    tests: int


@once
def gram(problem: Problem) -> Gram | None:
    """The Gram matrices of a problem's symbol; None where they take too much memory."""
    size, power = moduli(problem)
    return gram_of(to_numpy(problem.kernel), problem.correlation, size * power, problem.compute)


@once
def supremum(problem: Problem, width: float, most: int = 100_000) -> Supremum | None:
    """Of a problem whose entries are in range and can be looked at.

    Arguments:
        width: `upper / lower <= 1 + width`, where neither `most` nor rounding is against it.
        most: tests after which the interval is left as wide as it is.

    Returns:
        None where the coefficients take too much memory, or taps cancel to little more than rounding.
    """
    matrices = gram(problem)
    return None if matrices is None else _Search(matrices, width).run(most)


@dataclass
class _Search:
    """Squares of norms are eigenvalues; `best` is a proven lower bound of the largest one."""

    gram: Gram
    width: float
    best: float = 0.0
    top: Cells | None = None
    tests: int = 0

    def run(self, most: int) -> Supremum | None:
        cells, radius = _first_cells(self.gram)
        if not len(radius):  # the symbol is constant
            self.decompose(cells)
            self.width = 2 * self.gram.slack(self.best) / self.best if self.best > 0 else math.inf
            return self.result(1.0) if self.width <= _WIDEST else None
        cells = self.lift(cells, self.test(cells, 0.0, steps=_FIRST_STEPS), climbs=3)
        if not self.best > 0:
            return None
        # What rounding may add is to be small beside the width.
        self.width = max(self.width, 8 * self.gram.slack(self.best) / self.best)
        while self.width <= _WIDEST:
            reach = _reach(self.gram.half_degrees, radius)
            tested = self.test(cells, self.level(reach))
            cells = self.lift(cells, tested)
            if math.cos(reach) * (1 + self.width) > 1:
                self.decompose(cells)
            if not len(cells.groups):
                return self.result(1.0)
            if self.tests + 2 ** len(radius) * len(cells.groups) > most:
                self.decompose(self.lift(cells, self.test(cells, self.level(0.0))))
                return self.result(math.cos(reach))
            cells, radius = _divided(cells, radius)
        return None

    def test(self, cells: Cells, level: float, steps: int = 4) -> Tested:
        self.tests += len(cells.groups)
        return self.gram.test(cells, level, steps)

    def level(self, reach: float) -> float:
        """What eigenvalues at the centres of cells have to stay below, less what rounding can do."""
        top = self.best * (1 + self.width) ** 2
        inside = math.cos(reach * (1 + 16 * _EPS) + 64 * _EPS * (1 + self.gram.half_degrees.sum()))
        return top * inside**2 * (1 - 16 * _EPS) - self.gram.slack(top)

    def result(self, cosine: float) -> Supremum:
        norm = math.sqrt(self.best)
        upper = norm * (1 + self.width) / cosine * (1 + 16 * _EPS)
        assert self.top is not None
        angles, group = self.top.angles[0], int(self.top.groups[0])
        return Supremum(norm * (1 - 4 * _EPS), upper, angles, group, self.tests)

    def take(self, value: float, cell: Cells) -> None:
        """A computed eigenvalue, or a quotient: it may be the largest so far."""
        proven = value - self.gram.slack(value)
        if proven > self.best:
            self.best, self.top = proven, cell

    def lift(self, cells: Cells, tested: Tested, climbs: int = 1) -> Cells:
        """The cells that failed, with their vectors; from the best of them, if above all before, to a top."""
        failed = ~tested.below
        found = Cells(cells.angles[failed], cells.groups[failed], tested.vectors[failed])
        quotients = tested.quotients[failed]
        for place in np.argsort(-quotients)[:climbs]:
            if climbs > 1 or quotients[place] > self.best:
                self.climb(found.at([place]), float(quotients[place]))
        return found

    def climb(self, cell: Cells, value: float) -> None:
        """Steps to a better frequency, and of power iteration there, while they gain."""
        self.take(value, cell)
        for _ in range(_ROUNDS):
            cell = cell._replace(angles=_uphill(self.gram, cell)[None])
            tested = self.test(cell, 0.0, steps=6)
            cell, before, value = cell._replace(vectors=tested.vectors), value, float(tested.quotients[0])
            self.take(value, cell)
            if value <= before * (1 + self.width / 8):
                return

    def decompose(self, cells: Cells) -> None:
        """Where a cell is so small that its centre exceeds the best: by how much."""
        for place in range(len(cells.groups)):
            cell = cells.at([place])
            with pool.single_threaded_blas():
                value = np.linalg.eigvalsh(self.gram.matrix(cell))[-1]
            self.tests += 4
            self.take(float(value), cell)


_FIRST_STEPS = 16
"""Of power iteration at the centres of the first cells."""

_ROUNDS = 5
"""Of power iteration at a frequency and a step to a better one, at the most."""


def _uphill(matrices: Gram, cell: Cells) -> NumpyArray:
    """Angles where `v^H G(theta) v`, a trigonometric polynomial, is larger: a Newton step or one uphill."""
    angles, vector, waves = cell.angles[0], cell.vectors[0], matrices.waves
    products = np.multiply.outer(vector.conj(), vector)
    # Entries beside the diagonal count twice.
    weights = 2 * np.tril(products, -1) + np.diag(np.diag(products))
    weights = weights[np.tril_indices(matrices.rows)]
    entries = matrices.coefficients[cell.groups[0], : len(weights)]
    sums = np.stack([weights.real, -weights.imag]) @ entries
    cosines, sines = sums[0, 1::2], sums[1, 2::2]
    turns = waves @ angles
    cosine, sine = np.cos(turns), np.sin(turns)
    slope = waves.T @ (sines * cosine - cosines * sine)
    curvature = -(waves.T * (cosines * cosine + sines * sine)) @ waves
    top, axes = np.linalg.eigh(curvature)
    steepest = max(float(np.abs(top).max()), 1e-300)
    step = axes @ (axes.T @ slope / np.maximum(np.abs(top), 1e-3 * steepest))
    longest = 0.5 / matrices.half_degrees
    return np.asarray(angles + np.clip(step, -longest, longest))


def _reach(half_degrees: NumpyArray, radius: NumpyArray) -> float:
    """The largest `sum_a L_a |t_a|` in a cell."""
    sides = half_degrees * radius
    return float(sides[:2].max() + sides[2:].sum())


def _first_cells(matrices: Gram) -> tuple[Cells, NumpyArray]:
    """Cells that cover one half of all frequencies, of reach pi / 4 along an axis, for every group.

    Of two axes every second point of a grid: cells reach from there to the next points along the axes.
    A third axis is cut into intervals, as one axis is.
    """
    degrees, groups = matrices.half_degrees, np.arange(matrices.groups)
    start = np.random.default_rng(0).standard_normal((2, matrices.rows))
    start = start[0] + 1j * start[1]
    if not len(degrees):
        return Cells(np.zeros((len(groups), 0)), groups, np.tile(start, (len(groups), 1))), degrees
    counts = [2 * math.ceil(2 * half) for half in degrees]
    if len(degrees) > 1:
        counts[:2] = [2 * math.ceil(4 * half) for half in degrees[:2]]
    steps = 2 * math.pi / np.array(counts)
    index = np.stack(np.unravel_index(np.arange(math.prod(counts)), counts), axis=-1)
    if len(degrees) > 1:
        index = index[(index[:, 0] + index[:, 1]) % 2 == 0]
    mirror = np.ravel_multi_index(tuple((-index % counts).T), counts)
    index = index[np.ravel_multi_index(tuple(index.T), counts) <= mirror]
    radius = steps.copy()
    radius[[0] if len(degrees) == 1 else slice(2, None)] /= 2
    angles = np.tile(index * steps, (len(groups), 1))
    return Cells(angles, np.repeat(groups, len(index)), np.tile(start, (len(angles), 1))), radius


def _divided(cells: Cells, radius: NumpyArray) -> tuple[Cells, NumpyArray]:
    """Cells of half the radius that cover these."""
    half = radius / 2
    if len(radius) == 1:
        shifts = np.array([[-1.0], [1.0]])
    else:
        shifts = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    for _ in range(len(radius) - 2):
        shifts = np.concatenate([np.insert(shifts, shifts.shape[1], sign, axis=1) for sign in (-1.0, 1.0)])
    angles = (cells.angles[:, None] + shifts * half).reshape(-1, len(radius))
    repeated = (np.repeat(each, len(shifts), axis=0) for each in (cells.groups, cells.vectors))
    return Cells(angles, *repeated), half
