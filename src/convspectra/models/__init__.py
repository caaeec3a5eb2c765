"""Reading models: one reader a file format, each importing what it needs when it is used."""

from .records import ConvLayer, Model

__all__ = ["ConvLayer", "Model"]
