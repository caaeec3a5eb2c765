"""What every method for the nearest kernel works with: the symbol, its excess, and the best bounds so far."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .._solvers import choice, native, pool, threshold
from ..compute import Compute
from ..cost import LAPACK, WITH_VECTORS, seconds_of_blocks
from ..geometry import Correlation
from ..spectrum import top_block
from ..symbol import frequency_grid, symbol_adjoint, symbol_blocks, tap_scale

NumpyArray = np.ndarray[Any, Any]


class Search:
    """A kernel to be projected into the unit ball, and what has been found.

    Attributes:
        given: the kernel, float64, in units of the limit and in the order of `Correlation`.
        kernel: the best kernel in the ball; at first zero, which always is.
        upper, lower: half the squared distance of `kernel`, and a proven bound of the least possible.
        sweeps: decompositions of all blocks so far.
        weights: how often each block occurs, shape (F, 1, 1, 1).
        curvature: the largest eigenvalue of `S* S`.
    """

    def __init__(
        self,
        given: NumpyArray,
        correlation: Correlation,
        compute: Compute,
        tolerance: float,
        most_sweeps: int,
    ) -> None:
        grid = frequency_grid(correlation)
        self.given, self._correlation, self._grid, self._compute = given, correlation, grid, compute
        self.weights = grid.multiplicity.astype(np.float64)[:, None, None, None]
        self.curvature = float(tap_scale(correlation).max())
        self.kernel, self.upper, self.lower = np.zeros_like(given), float(np.sum(given**2)) / 2, 0.0
        self.sweeps, self._most, self._tolerance = 0, most_sweeps, tolerance
        self._mostly_outside = False

    @property
    def done(self) -> bool:
        return self.sweeps >= self._most or self.upper - self.lower <= self._tolerance * self.upper

    def symbol(self, kernel: NumpyArray) -> NumpyArray:
        return np.asarray(symbol_blocks(kernel, self._correlation, self._grid))

    def adjoint(self, blocks: NumpyArray) -> NumpyArray:
        return np.asarray(symbol_adjoint(blocks, self._correlation, self._grid))

    def excess(self, blocks: NumpyArray, level: float) -> tuple[NumpyArray, float]:
        """Each block with its singular values lowered by the level, and their weighted sum over all.

        The sum is at least that of the blocks as they are returned: with what rounding may have taken from it
        and, as `propose_dual` multiplies by `S*`, from there.
        """
        self.sweeps += 1
        lowered = np.zeros_like(blocks)
        engine = choice.choose(self._compute, blocks.real, blocks.shape[-2:], len(blocks))
        engine = "lapack" if engine == "namespace" else engine

        def part(start: int, stop: int) -> tuple[float, float, int]:
            found = threshold.lowered(engine, blocks[start:stop], level, self._mostly_outside)
            lowered[start:stop] = found.blocks
            total = float((self.weights[start:stop, :, 0, 0] * found.sums).sum())
            return total, float(found.tops.max()), int(np.count_nonzero(found.tops > level))

        rows, columns = blocks.shape[-2:]
        seconds_each = WITH_VECTORS * seconds_of_blocks(self._correlation, 1)
        seconds_each *= 1 if engine == "native" else LAPACK
        workers = pool.workers_of(self._compute.executor)
        unit = native.taken_together(rows, columns)
        # A block's Gram matrix, its decomposition and the lowered block, beside the two stacks.
        bytes_each = 6 * 16 * blocks[0].size
        pieces = pool.ranges(len(blocks), workers, bytes_each, seconds_each, self._compute.memory, unit)
        parts = pool.run(part, pieces, self._compute.executor, uses_blas=engine != "native")
        # Blocks change little from one sweep to the next.
        self._mostly_outside = 2 * sum(outside for *_, outside in parts) > len(blocks) * blocks.shape[1]
        values = float(self.weights.sum()) * blocks.shape[1] * min(rows, columns)
        squares = float(np.sum(self.weights * (lowered.real**2 + lowered.imag**2)))
        eps = float(np.finfo(np.float64).eps)
        rounding = 4 * eps * values * max(top for _, top, _ in parts)
        rounding += 4 * eps * math.sqrt(self.curvature * squares) * float(np.linalg.norm(self.given))
        return lowered, sum(total for total, *_ in parts) + rounding

    def propose_dual(self, shift: NumpyArray, nuclear: float) -> None:
        """A lower bound from `S* Y` and the sum of Y's singular values, Y scaled as is best.

        The sum must be one of `excess`: where Y is little more than rounding, the quotient would be anything.
        """
        slope, square = float(np.sum(self.given * shift)) - nuclear, float(np.sum(shift**2))
        if slope > 0 and square > 0:
            self.lower = max(self.lower, slope * (slope / (2 * square)))  # a square of it can overflow

    def propose(self, kernel: NumpyArray) -> None:
        """An upper bound from any kernel, scaled into the ball."""
        norm = float(top_block(kernel, self._correlation, self._compute).norm)
        inside = kernel / norm if norm > 1 else kernel
        upper = float(np.sum((inside - self.given) ** 2)) / 2
        if upper < self.upper:
            self.kernel, self.upper = inside, upper
