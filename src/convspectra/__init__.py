"""Exact singular values, proven bounds and control for convolutional layers."""

from . import bounds, paper
from ._version import __version__
from .bounds import operator_norm
from .errors import GeometryError, InputError, KernelError, ModelError
from .geometry import ConvGeometry
from .projection import clip, project, rescale
from .results import Bound, Projection, Spectrum
from .spectrum import Decomposition, singular_values, svd

__all__ = [
    "Bound",
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
    "operator_norm",
    "paper",
    "project",
    "rescale",
    "singular_values",
    "svd",
]
