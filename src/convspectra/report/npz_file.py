"""All singular values of all layers, as one NumPy archive."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np

from ..analysis import Report


def write(report: Report, file: BinaryIO) -> None:
    """Write `names`, and for the layer `names[i]` the array `values_i`: all its values, descending.

    Layers are numbered because a name may hold what the name of an array cannot. A layer without a
    spectrum has no array.
    """
    arrays = {
        f"values_{i}": layer.spectrum.sorted()
        for i, layer in enumerate(report.layers)
        if layer.spectrum is not None
    }
    np.savez_compressed(file, names=np.array([layer.name for layer in report.layers], dtype=str), **arrays)
