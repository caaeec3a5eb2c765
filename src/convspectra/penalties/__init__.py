"""Differentiable regularisers: one number from a kernel, to add to a loss.

`penalty(kernel, geometry, *, guarantee="layer", compute=...)` gives a scalar
array of the kernel's library, with a gradient in PyTorch and in JAX (also inside `jax.jit`).

A sum goes over every singular value of the operator, as often as it occurs, `Spectrum.count` in all, and is
divided by nothing: it grows with the input's size. Input that no tap reads (a stride longer than the
kernel) has zero singular values, which count.

`guarantee` names the torus whose singular values are meant (`guarantee.py`): the layer with its
boundary wrapped, one that the padded layer fits into, or a sampling of all frequencies. Penalties of the
largest value are then proven for that operator; sums are about the torus itself.

The functions whose names begin with `reshaped_` are about the kernel reshaped to a matrix, and say nothing
of the operator: they are here to compare with.
"""

from .extremes import condition_number, norm, squared_norm
from .orthonormal import orthogonality
from .reshaped import (
    reshaped_condition_number,
    reshaped_hinge,
    reshaped_log_volume,
    reshaped_norm,
    reshaped_nuclear_norm,
    reshaped_orthogonality,
    reshaped_schatten_norm,
    reshaped_squared_norm,
)
from .sums import hinge, log_volume, nuclear_norm, schatten_norm

__all__ = [
    "condition_number",
    "hinge",
    "log_volume",
    "norm",
    "nuclear_norm",
    "orthogonality",
    "reshaped_condition_number",
    "reshaped_hinge",
    "reshaped_log_volume",
    "reshaped_norm",
    "reshaped_nuclear_norm",
    "reshaped_orthogonality",
    "reshaped_schatten_norm",
    "reshaped_squared_norm",
    "schatten_norm",
    "squared_norm",
]
