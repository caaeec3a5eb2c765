"""PyTorch: geometry read off modules, and norms held, constrained or initialised."""

from ..models.modules import geometry_of, trace
from .initialise import initialise_
from .parametrizations import OperatorNorm, Orthogonal, operator_norm, orthogonal
from .records import LayerRecord
from .spectral_clip import SpectralClip

__all__ = [
    "LayerRecord",
    "OperatorNorm",
    "Orthogonal",
    "SpectralClip",
    "geometry_of",
    "initialise_",
    "operator_norm",
    "orthogonal",
    "trace",
]
