"""Whether a difference between two groups of runs is more than chance: Student's test on pairs of seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Paired:
    """One group against another, over the seeds that both have.

    Attributes:
        seeds: so many pairs.
        mean: of the differences, the group's less the other's.
        deviation: of the differences, of a sample; None of one pair.
        p: two-sided, of no difference, where differences are normally distributed; None of one pair, or where
            all differences are equal.
    """

    seeds: int
    mean: float
    deviation: float | None
    p: float | None


def paired(values: Mapping[int, float], others: Mapping[int, float]) -> Paired | None:
    """The test of values by seed against others; None where no seed is in both."""
    differences = [values[seed] - others[seed] for seed in sorted(values.keys() & others.keys())]
    if not differences:
        return None
    mean = statistics.fmean(differences)
    if len(differences) == 1:
        return Paired(1, mean, None, None)
    deviation = statistics.stdev(differences)
    if deviation == 0:
        return Paired(len(differences), mean, deviation, None)
    t = mean / (deviation / math.sqrt(len(differences)))
    return Paired(len(differences), mean, deviation, two_sided(t, len(differences) - 1))


def two_sided(t: float, freedom: int) -> float:
    """The chance of a value at least as large as `|t|` from Student's distribution.

    Reference: Abramowitz and Stegun (1964), 26.7.3 and 26.7.4.
    """
    angle = math.atan2(abs(t), math.sqrt(freedom))
    cosine = math.cos(angle) ** 2
    odd = freedom % 2
    term, total = (math.cos(angle), 0.0) if odd else (1.0, 0.0)
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= cosine * k / (k + 1)
    inside = math.sin(angle) * total
    return max(0.0, 1 - (2 / math.pi * (angle + inside) if odd else inside))
