"""Exact singular values, proven bounds and control for convolutional layers."""

from . import bounds, krylov, penalties, published
from ._version import __version__
from .bounds import operator_norm
from .compute import Compute
from .errors import GeometryError, InputError, KernelError, ModelError
from .geometry import ConvGeometry
from .projection import (
    clip,
    clip_reshaped_kernel,
    low_rank,
    orthogonalise,
    project,
    project_schatten,
    rescale,
    soft_threshold,
)
from .published import paper
from .results import Bound, Projection, Spectrum
from .spectrum import Decomposition, singular_values, svd

__all__ = [
    "Bound",
    "Compute",
    "ConvGeometry",
    "Decomposition",
    "GeometryError",
    "InputError",
    "KernelError",
    "ModelError",
    "Projection",
    "Spectrum",
    "__version__",
    "bounds",
    "clip",
    "clip_reshaped_kernel",
    "krylov",
    "low_rank",
    "operator_norm",
    "orthogonalise",
    "paper",
    "penalties",
    "project",
    "project_schatten",
    "published",
    "rescale",
    "singular_values",
    "soft_threshold",
    "svd",
]
