"""PyTorch modules: their convolutions with the geometry they run at."""

from .modules import geometry_of, trace

__all__ = ["geometry_of", "trace"]
