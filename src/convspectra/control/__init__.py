"""Models whose kernels are moved into an operator-norm ball, and what became of each layer.

The corridor once more: file -> ConvLayer -> projection -> the same file with other values.
"""

from .file import clip_file
from .records import ClipReport, LayerClip, Limit

__all__ = ["ClipReport", "LayerClip", "Limit", "clip_file"]
