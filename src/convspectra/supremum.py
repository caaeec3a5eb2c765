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
from ._solvers.gram import Cells, Gram, Tested, gram_of
from .problem import Problem, moduli, once
from .symbol import polyphase

NumpyArray = np.ndarray[Any, Any]

_EPS = float(np.finfo(np.float64).eps)

_WIDEST = 0.1
"""Where rounding forbids a narrower interval than this, taps cancel, and none is given."""


@dataclass(frozen=True)
class Supremum:
    """`lower <= sup ||S(theta)|| <= upper`, both proven, rounding included.

    Attributes:
        angles: where `lower` was seen, in radians, along all axes of the layer.
        group: in which group of channels.
        right: the right singular vector there, nearly: shape (C_in / groups * classes,), as `symbol_blocks`
            has its columns; not normalised.
        tests: how many frequencies were looked at.
    """

    lower: float
    upper: float
    angles: NumpyArray
    group: int
    right: NumpyArray
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
    if matrices is None:
        return None
    search = _Search(matrices, width)
    upper = search.run(most)
    if upper is None or search.top is None:
        return None
    angles, group = matrices.symbol_angles(search.top.angles[0]), int(search.top.groups[0])
    right = search.top.vectors[0].conj()
    if not matrices.transposed:
        right = (right @ symbol_at(problem, group, angles)).conj()
    return Supremum(math.sqrt(search.best) * (1 - 4 * _EPS), upper, angles, group, right, search.tests)


def symbol_at(problem: Problem, group: int, angles: NumpyArray) -> NumpyArray:
    """The block of one group at any angles, shape (rows, columns * classes), in double precision."""
    correlation = problem.correlation
    rows, columns = correlation.group_shape
    taps = to_numpy(problem.kernel).reshape(correlation.groups, rows, columns, -1)[group].astype(np.float64)
    parts = [taps[..., part.taps] @ np.exp(1j * (part.offsets @ angles)) for part in polyphase(correlation)]
    return np.concatenate(parts, axis=1)


@dataclass
class _Search:
    """Squares of norms are eigenvalues; `best` is a proven lower bound of the largest one."""

    gram: Gram
    width: float
    best: float = 0.0
    top: Cells | None = None
    tests: int = 0

    def run(self, most: int) -> float | None:
        """The upper bound; None where rounding allows none."""
        cells, radius = _first_cells(self.gram)
        if not len(radius):  # the symbol is constant
            self.decompose(cells)
            self.width = 2 * self.gram.slack(self.best) / self.best if self.best > 0 else math.inf
            return self.upper(1.0) if self.width <= _WIDEST else None
        cells = self.lift(cells, self.test(cells, 0.0, steps=_FIRST_STEPS), climbs=2)
        if not self.best > 0:
            return None
        # What rounding may add is to be small beside the width.
        self.width = max(self.width, 8 * self.gram.slack(self.best) / self.best)
        while self.width <= _WIDEST:
            reach = _reach(self.gram.half_degrees, radius)
            cells = self.failing(cells, reach)
            if not len(cells.groups):
                return self.upper(1.0)
            if self.tests + 2 ** len(radius) * len(cells.groups) > most:
                while len(cells.groups):
                    cells = self.failing(cells, 0.0)
                return self.upper(math.cos(reach))
            cells, radius = _divided(cells, radius)
        return None

    def failing(self, cells: Cells, reach: float) -> Cells:
        """The cells of this reach that the factorisation does not settle."""
        before = self.best
        cells = self.lift(cells, self.test(cells, self.level(reach)))
        if len(cells.groups) and self.best == before and math.cos(reach) * (1 + self.width) > 1:
            # Every one of them exceeds the best, though no vector has shown it.
            self.decompose(cells.at([0]))
        return cells

    def test(self, cells: Cells, level: float, steps: int = 4) -> Tested:
        self.tests += len(cells.groups)
        return self.gram.test(cells, level, steps)

    def level(self, reach: float) -> float:
        """What eigenvalues at the centres of cells have to stay below, less what rounding can do."""
        top = self.best * (1 + self.width) ** 2
        inside = math.cos(reach * (1 + 16 * _EPS) + 64 * _EPS * (1 + self.gram.half_degrees.sum()))
        return top * inside**2 * (1 - 16 * _EPS) - self.gram.slack(top)

    def upper(self, cosine: float) -> float:
        return math.sqrt(self.best) * (1 + self.width) / cosine * (1 + 16 * _EPS)

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
        for _ in range(_ROUNDS if len(cell.angles[0]) else 0):
            cell = cell._replace(angles=_uphill(self.gram, cell)[None])
            tested = self.test(cell, 0.0, steps=6)
            cell, before, value = cell._replace(vectors=tested.vectors), value, float(tested.quotients[0])
            self.take(value, cell)
            if value <= before * (1 + self.width / 8):
                return

    def decompose(self, cells: Cells) -> None:
        """The largest eigenvalues at these cells, whatever power iteration found."""
        for place in range(len(cells.groups)):
            cell = cells.at([place])
            values, vectors = np.linalg.eigh(self.gram.matrix(cell))
            self.tests += 8
            self.climb(cell._replace(vectors=vectors[None, :, -1]), float(values[-1]))


_FIRST_STEPS = 16
"""Of power iteration at the centres of the first cells."""

_ROUNDS = 4
"""Of power iteration at a frequency and a step to a better one, at the most."""


def _uphill(matrices: Gram, cell: Cells) -> NumpyArray:
    """Angles where `v^H G(theta) v`, a trigonometric polynomial, is larger: a Newton step or one uphill."""
    slope, curvature = matrices.slope(cell)
    values, axes = np.linalg.eigh(curvature)
    bent = np.maximum(np.abs(values), 1e-3 * max(float(np.abs(values).max()), 1e-300))
    longest = 0.5 / matrices.half_degrees
    return np.asarray(cell.angles[0] + np.clip(axes @ (axes.T @ slope / bent), -longest, longest))


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
