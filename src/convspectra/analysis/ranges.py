"""What the errors of singular values leave open of the numbers that are made of them: proven intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ..results import Spectrum

Range = tuple[float, float]
Ranges = Mapping[str, Range]

_VISIBLE = 1e-3
"""An error of this much relative to the smallest value, or the norm, is shown."""


def ranges_of(spectrum: Spectrum, norm: Range, squares: float | None) -> dict[str, Range]:
    """The intervals of the numbers of `TorusSummary` that their errors make uncertain.

    All of them where the spectrum is sampled; else the smallest value and the condition number, where what
    rounding can do is visible.

    Arguments:
        spectrum: values in float64.
        norm: the interval of the largest value.
        squares: the sum of the squares of all values, where it is known exactly.
    """
    error, smallest = float(spectrum.error), float(spectrum.smallest)
    least = (max(smallest - error, 0.0), smallest + error)
    found = {
        "smallest": least,
        "condition_number": (max(norm[0] / least[1], 1.0), norm[1] / least[0])
        if least[0] > 0
        else (max(norm[0] / least[1], 1.0) if least[1] > 0 else math.inf, math.inf),
    }
    if not spectrum.sampled:
        return found if error > _VISIBLE * smallest else {}
    return {"norm": norm, **found, **_of_all_values(spectrum, norm, squares)}


def _of_all_values(spectrum: Spectrum, norm: Range, squares: float | None) -> dict[str, Range]:
    live = spectrum.values[:, : spectrum.values.shape[1] - spectrum.zero_columns]
    weights = spectrum.multiplicity[:, None]
    low = np.maximum(live - float(spectrum.error), 0.0)
    high = np.minimum(live + float(spectrum.error), norm[1])
    total = (float((weights * low).sum()), float((weights * high).sum()))
    square = (float((weights * low**2).sum()), float((weights * high**2).sum()))
    if squares is not None:
        square = (squares, squares)
    positive = int(((low > 0).sum(axis=1) * spectrum.multiplicity).sum())
    return {
        "rank": (positive, spectrum.count - spectrum.structural_zeros),
        "nuclear_norm": total,
        "stable_rank": (
            square[0] / norm[1] ** 2 if norm[1] > 0 else 0.0,
            square[1] / norm[0] ** 2 if norm[0] > 0 else float(spectrum.count),
        ),
        "effective_rank": _effective_rank(low, high, weights, total, spectrum.count),
    }


def _effective_rank(
    low: np.ndarray, high: np.ndarray, weights: np.ndarray, total: Range, count: int
) -> Range:
    """Of `exp(H)`, `H = log T - sum sigma log sigma / T` with `T` the sum, for any values between two."""
    scale = float(high.max(initial=0.0))
    if not (scale > 0 and total[0] > 0):
        return (0.0, float(count))
    low, high, total = low / scale, high / scale, (total[0] / scale, total[1] / scale)
    # -x log x rises up to 1 / e and falls from there.
    ends = [-x * np.log(np.where(x > 0, x, 1.0)) for x in (low, high)]
    peak = 1 / math.e
    most = np.where((low < peak) & (peak < high), peak, np.maximum(*ends))
    sums = (float((weights * np.minimum(*ends)).sum()), float((weights * most).sum()))
    entropy = (math.log(total[0]) + sums[0] / total[1], math.log(total[1]) + sums[1] / total[0])
    return (math.exp(max(entropy[0], 0.0)), min(math.exp(min(entropy[1], 700.0)), float(count)))
