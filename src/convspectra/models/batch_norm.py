"""Batch norm at inference: one scale and one shift a channel, and what they make of a kernel."""

from __future__ import annotations

from typing import Any

import numpy as np

from .operations import Affine, Array
from .records import ConvLayer


def scale(gamma: Any, variance: Any, epsilon: float) -> Any:
    """`gamma / sqrt(variance + epsilon)`, shape (C,); gamma is 1 where it is None.

    Arguments:
        gamma, variance: shape (C,), float64, arrays of NumPy or tensors of PyTorch.

    Not guaranteed: that it is finite; a negative variance gives NaN, which is checked where it is used.
    """
    with np.errstate(all="ignore"):
        return (1.0 if gamma is None else gamma) / (variance + epsilon) ** 0.5


def affine(
    gamma: Array | None, beta: Array | None, mean: Array, variance: Array, epsilon: float, rank: int
) -> Affine:
    """The batch norm of a tensor of this rank, whose second axis has the channels."""
    wide = None if gamma is None else gamma.astype(np.float64)
    factor = np.asarray(scale(wide, variance.astype(np.float64), epsilon))
    with np.errstate(all="ignore"):
        shift = np.asarray((0.0 if beta is None else beta.astype(np.float64)) - factor * mean)
    along = (1, -1, *[1] * (rank - 2))
    return Affine(factor.reshape(along), shift.reshape(along), batch_norm=True)


def factors(scale: Any, shape: tuple[int, ...], transposed: bool, groups: int, side: str = "out") -> Any:
    """One number a channel as an array that broadcasts against a kernel of this shape.

    Arguments:
        scale: shape (C,), the channels of all groups; an array of NumPy or a tensor of PyTorch.
        shape: of the kernel, (C_out, C_in / groups, ...), or (C_in, C_out / groups, ...) if `transposed`.
        side: of the channels: `out`, or `in` for a scale in front.
    """
    taps = [1] * (len(shape) - 2)
    if transposed == (side == "in"):
        return scale.reshape(-1, 1, *taps)
    # Axis 1 has the channels of one group, axis 0 those of the other side for all groups.
    rows = scale.reshape(groups, 1, -1)[:, [0] * (shape[0] // groups)]
    return rows.reshape(*shape[:2], *taps)


def layer_factors(layer: ConvLayer) -> Array:
    """What the batch norm behind a layer multiplies each kernel entry by; it broadcasts to the kernel."""
    if layer.batch_norm_scale is None:
        return np.ones(())
    transposed, groups = (False, 1)
    if layer.geometry is not None:
        transposed, groups = layer.geometry.transposed, layer.geometry.groups
    axes = [layer.layout.index(axis) for axis in ("IO" if transposed else "OI")]
    shape = np.moveaxis(layer.kernel, axes, (0, 1)).shape
    found = factors(np.asarray(layer.batch_norm_scale, np.float64), shape, transposed, groups)
    return np.asarray(np.moveaxis(found, (0, 1), axes))
