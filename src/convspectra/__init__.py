"""Exact singular values, proven bounds and control for convolutional layers.

`analyze`, `read_model` and the room `lipschitz` are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from . import lipschitz
    from .analysis import analyze
    from .models import read_model

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
    "analyze",
    "bounds",
    "clip",
    "clip_reshaped_kernel",
    "krylov",
    "lipschitz",
    "low_rank",
    "operator_norm",
    "orthogonalise",
    "paper",
    "penalties",
    "project",
    "project_schatten",
    "published",
    "read_model",
    "rescale",
    "singular_values",
    "soft_threshold",
    "svd",
]

_ON_FIRST_USE = {"analyze": "analysis", "read_model": "models", "lipschitz": "lipschitz"}


def __getattr__(name: str) -> Any:
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = import_module(f".{_ON_FIRST_USE[name]}", __name__)
    return room if name == _ON_FIRST_USE[name] else getattr(room, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
