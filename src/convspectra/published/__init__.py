"""What was done to convolutions before their singular values were known: to compare with, none exact.

The paper's own two functions (`paper.py`), and the earlier ways that it names (Section 1): orthonormal rows
of the reshaped kernel (Parseval networks), the largest ratio seen in a batch (MaxGain), power iteration. The
norm of the reshaped kernel, which Yoshida and Miyato regularise, is `penalties.reshaped_squared_norm`; its
clip is `clip_reshaped_kernel`.

Reference: Sedghi, Gupta and Long (2019), Section 1, and those named at each function.
"""

from . import paper
from .cisse2017 import parseval_projection, parseval_retraction, parseval_scale
from .farnia2019 import power_iteration
from .gouk2018 import largest_ratio, max_gain

__all__ = [
    "largest_ratio",
    "max_gain",
    "paper",
    "parseval_projection",
    "parseval_retraction",
    "parseval_scale",
    "power_iteration",
]
