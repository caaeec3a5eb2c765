"""Exact singular values, proven bounds and control for convolutional layers."""

from . import bounds, paper
from .bounds import operator_norm
from .errors import GeometryError, InputError, KernelError, ModelError
from .geometry import ConvGeometry
from .projection import clip
from .results import Bound, Spectrum
from .spectrum import Decomposition, singular_values, svd

__all__ = [
    "Bound",
    "ConvGeometry",
    "Decomposition",
    "GeometryError",
    "InputError",
    "KernelError",
    "ModelError",
    "Spectrum",
    "bounds",
    "clip",
    "operator_norm",
    "paper",
    "singular_values",
    "svd",
]

__version__ = "0.1.0"
