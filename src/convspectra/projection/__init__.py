"""Moving a kernel to where its singular values are as they should be: one file a family of methods.

Every function takes a kernel and a geometry and returns a `Projection`. `guarantee` says for which operator
(see `guarantee.py`).
"""

from ..guarantee import Guarantee
from .clipping import clip
from .matrix_clip import clip_reshaped_kernel
from .nearest import project
from .rescaling import rescale
from .spectral import low_rank, orthogonalise, project_schatten, soft_threshold

__all__ = [
    "Guarantee",
    "clip",
    "clip_reshaped_kernel",
    "low_rank",
    "orthogonalise",
    "project",
    "project_schatten",
    "rescale",
    "soft_threshold",
]
