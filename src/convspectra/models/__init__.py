"""Reading models: one reader a file format, each importing what it needs when it is used."""

from .read import read_model
from .records import ConvLayer, Model, Unread

__all__ = ["ConvLayer", "Model", "Unread", "read_model"]
