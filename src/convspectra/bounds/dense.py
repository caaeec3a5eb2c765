"""The norm of an operator small enough to be written down: exact."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .._compat import Array, to_numpy
from ..geometry import Correlation
from ..operators.padded import operator, read_count
from .wave_packet import of_group

_EPS = float(np.finfo(np.float64).eps)


def dense_norm(
    kernel: Array, correlation: Correlation, lower: float = 0.0, uppers: np.ndarray[Any, Any] | None = None
) -> tuple[float, float]:
    """Proven bounds of the norm from below and above that differ by rounding: NumPy, float64.

    Arguments:
        kernel: axes in the order of `Correlation`, entries in range.
        lower: a proven lower bound, which may come back.
        uppers: shape (groups,), of the norm of each group: those that cannot exceed what is known are left
            out.
    """
    weights = to_numpy(kernel).astype(np.float64)
    found = 0.0
    uppers = np.full(correlation.groups, math.inf) if uppers is None else uppers
    for group in np.argsort(-uppers, kind="stable"):
        if uppers[group] <= lower:
            break
        low, high = _one_group(*of_group(weights, correlation, int(group)))
        lower, found = max(lower, low), max(found, high)
    return lower, max(found, lower)


def _one_group(weights: np.ndarray[Any, Any], correlation: Correlation) -> tuple[float, float]:
    """From the largest eigenvalue of the Gram matrix."""
    if not weights.any():
        return 0.0, 0.0
    matrix = operator(weights, correlation).matrix()[0]
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    short, long = matrix.shape
    gram = matrix @ matrix.T
    # An entry of the Gram matrix is off by at most long eps / 2 times the product of two rows' lengths, all
    # of them together by as much of the trace; the eigenvalues then by a few short eps of the largest
    # (Higham 2002, 3.5; Golub and Van Loan 2013, 8.1).
    off = _EPS * (long + 8) * float(np.trace(gram))
    square = max(float(np.linalg.eigvalsh(gram)[-1]), 0.0)
    slack = 1 + _EPS * (16 * short + 64)
    # Where padding copies, taps are added, and may cancel: as in `lanczos.proven_gains`.
    taps = 0 if correlation.padding_mode == "zeros" else math.prod(correlation.kernel_size)
    added = _EPS * taps * math.sqrt(max(read_count(correlation), 1)) * float(np.linalg.norm(weights))
    low = math.sqrt(max(square / slack - off, 0.0)) * (1 - 4 * _EPS)
    return max(low - added, 0.0), math.sqrt(square * slack + off) * (1 + 4 * _EPS) + added
