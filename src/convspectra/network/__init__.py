"""How much a whole network can stretch the difference of two inputs: a proven bound, and what is seen."""

from __future__ import annotations

from .bound import lipschitz, select
from .records import Complexity, Gains, LipschitzReport, Margins, NodeBound, OutputBound

__all__ = [
    "Complexity",
    "Gains",
    "LipschitzReport",
    "Margins",
    "NodeBound",
    "OutputBound",
    "lipschitz",
    "select",
]
