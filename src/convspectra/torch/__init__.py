"""PyTorch: geometry read off modules, and norms held, constrained or initialised."""

from ..models.modules import geometry_of, trace
from .initialise import initialise_
from .layer_record import LayerRecord
from .orthogonal import Orthogonal, orthogonal
from .penalty import Penalty
from .spectral_clip import SpectralClip
from .spectral_norm import SpectralNorm, spectral_norm

__all__ = [
    "LayerRecord",
    "Orthogonal",
    "Penalty",
    "SpectralClip",
    "SpectralNorm",
    "geometry_of",
    "initialise_",
    "orthogonal",
    "spectral_norm",
    "trace",
]
