"""The demo network: small, really trained, and shipped with the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

DESCRIPTION = """\
A residual network of 38,000 parameters, trained on the 8x8 handwritten digits of scikit-learn (99.6 %
of the held-out digits right). It has plain, strided, depthwise, 1x1 and dilated convolutions.
"""


def model_path() -> Path:
    """The network's ONNX file, as `scripts/train_demo.py` wrote it."""
    return Path(str(resources.files(__package__) / "digits.onnx"))
