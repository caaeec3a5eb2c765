"""One way into the operator-norm ball: a weight, its uses and limits give the weight in its own precision.

What the command line, training loops and parametrizations share; `file.py` does it to a model file.
"""

from .limits import KEEPS_THE_LIMIT, Limits
from .weight import Constrained, Precision, Use, constrain

__all__ = ["KEEPS_THE_LIMIT", "Constrained", "Limits", "Precision", "Use", "constrain"]
