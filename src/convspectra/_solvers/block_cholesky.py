"""Whether a banded matrix is positive definite, proven: its Cholesky factorisation by blocks of columns.

If the factorisation of M runs to its end, `M = L L^T + E` with

    ||E|| <= gamma (|| |L| ||_1 || |L| ||_inf + || |M| ||) + r,

gamma a few roundings of an entry and r what the solves with diagonal blocks leave, which is computed. So no
eigenvalue of M is below `-||E||`. Nothing is taken for granted of the library's solver and of its
factorisation of a diagonal block: only that a product of matrices is off by at most `gamma |A| |B|`, in
whatever order it is summed. No more columns are kept than one of them reaches.

References: Higham (2002), sections 3.5 and 10.1; Rump (2006), Verification of positive definiteness, BIT 46.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from . import pool

NumpyArray = np.ndarray[Any, Any]

_UNDERFLOW = 1e-30
"""More than results below the normal numbers lose together, of a matrix whose diagonal is at most 1."""


def indefiniteness(panels: Iterator[NumpyArray], moduli: float, deadline: float = math.inf) -> float:
    """How far below zero an eigenvalue of `I - P` may be, proven; infinite if the factorisation breaks down.

    Arguments:
        panels: all columns of P, symmetric and banded, so many at a time: from the diagonal block down to the
            last row that is reached, for all but the last ones as many rows. Overwritten; what stands above
            the diagonal is not read. Its entries are rounded once from those that are meant.
        moduli: the norm of the moduli of P is at most this.
        deadline: of `time.monotonic`: no more panels are begun.
    """
    done, reach = deque[NumpyArray](), 0
    row_sums, largest_row, largest_column, residual = np.zeros(0), 0.0, 0.0, 0.0
    with pool.single_threaded_blas():
        for panel in panels:
            size = panel.shape[1]
            if not done:
                reach = len(panel) // size - 1
                row_sums = np.zeros(len(panel))
            if time.monotonic() > deadline:
                return math.inf
            try:
                columns, off = _factorised(_reduced(panel, done))
            except np.linalg.LinAlgError:
                return math.inf
            if not math.isfinite(off):
                return math.inf
            done.appendleft(columns[size:])
            while len(done) > reach:
                done.pop()
            moduli_of_columns = np.abs(columns)
            row_sums[: len(columns)] += moduli_of_columns.sum(axis=1, dtype=np.float64)
            largest_row = max(largest_row, float(row_sums[:size].max()))
            row_sums = np.concatenate([row_sums[size:], np.zeros(size)])
            largest_column = max(largest_column, float(moduli_of_columns.sum(axis=0, dtype=np.float64).max()))
            residual = max(residual, off)
    unit = float(np.finfo(panel.dtype).eps) / 2
    products = _gamma(2 * size + reach + 4, unit) * largest_row * largest_column
    # Blocks of one row of blocks: those left of the diagonal, the diagonal one twice, those of one column.
    solves = (2 * reach + 2) * residual
    return (products + _gamma(reach + 4, unit) * (1 + moduli) + solves) * (1 + 1e-6) + _UNDERFLOW


def typical_indefiniteness(half_width: int, size: int, moduli: float, dtype: Any) -> float:
    """What `indefiniteness` mostly is, or less, with so many entries below the diagonal and columns at once.

    The moduli of a column of the factor add up to much less than the root of their number.
    """
    reach, unit = -(-half_width // size), float(np.finfo(dtype).eps) / 2
    products = _gamma(2 * size + reach + 4, unit) * (20 + 0.06 * half_width)
    return products + _gamma(reach + 4, unit) * (1 + moduli)


def _reduced(panel: NumpyArray, done: deque[NumpyArray]) -> NumpyArray:
    """The columns of `I - P`, less the products of what the columns before them, nearest first, share."""
    size = panel.shape[1]
    np.negative(panel, out=panel)
    panel[np.arange(size), np.arange(size)] += 1
    product = np.empty_like(panel)
    for place, columns in enumerate(done):
        rows = columns[place * size :]
        panel[: len(rows)] -= np.matmul(rows, rows[:size].T, out=product[: len(rows)])
    return panel


def _factorised(panel: NumpyArray) -> tuple[NumpyArray, float]:
    """The columns of the factor, and how far their product with the diagonal block is from the panel.

    Raises:
        LinAlgError: a pivot is not positive.
    """
    size = panel.shape[1]
    factor = np.linalg.cholesky(panel[:size])
    columns = np.concatenate([factor, panel[size:] @ np.linalg.inv(factor).T])
    off = panel - columns @ factor.T
    off[:size] = np.tril(off[:size])
    return columns, float(np.linalg.norm(off.astype(np.float64)))


def _gamma(roundings: int, unit: float) -> float:
    return roundings * unit / (1 - roundings * unit) if roundings * unit < 0.5 else math.inf
