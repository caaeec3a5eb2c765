"""How much a whole network can stretch the difference of two inputs: a proven bound, and what is seen."""

from __future__ import annotations

from .bound import lipschitz, measure, select
from .records import LipschitzReport, NodeBound, OutputBound

__all__ = ["LipschitzReport", "NodeBound", "OutputBound", "lipschitz", "measure", "select"]
