"""Exact singular values, proven bounds and control for convolutional layers.

Every name is imported when it is first used: until the command has begun, which imports this file first, an
interruption is a traceback.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import bounds, krylov, penalties, published
    from ._version import __version__
    from .analysis import analyze
    from .bounds import operator_norm
    from .compute import Compute
    from .cost import max_memory
    from .errors import GeometryError, InputError, KernelError, ModelError
    from .geometry import ConvGeometry
    from .models import read_model
    from .models.graphs import read_graph
    from .network import lipschitz
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
    "analyze",
    "bounds",
    "clip",
    "clip_reshaped_kernel",
    "krylov",
    "lipschitz",
    "low_rank",
    "max_memory",
    "operator_norm",
    "orthogonalise",
    "paper",
    "penalties",
    "project",
    "project_schatten",
    "published",
    "read_graph",
    "read_model",
    "rescale",
    "singular_values",
    "soft_threshold",
    "svd",
]

_ROOMS = {
    "": "bounds krylov penalties published",
    "_version": "__version__",
    "analysis": "analyze",
    "bounds": "operator_norm",
    "compute": "Compute",
    "cost": "max_memory",
    "errors": "GeometryError InputError KernelError ModelError",
    "geometry": "ConvGeometry",
    "models": "read_model",
    "models.graphs": "read_graph",
    "network": "lipschitz",
    "projection": "clip clip_reshaped_kernel low_rank orthogonalise project project_schatten rescale "
    "soft_threshold",
    "published": "paper",
    "results": "Bound Projection Spectrum",
    "spectrum": "Decomposition singular_values svd",
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    for room, names in _ROOMS.items():
        if name in names.split():
            found = import_module(f".{room or name}", __name__)
            globals()[name] = getattr(found, name) if room else found
            return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
