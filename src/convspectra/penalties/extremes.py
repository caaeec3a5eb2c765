"""Penalties of the largest and of the smallest singular value."""

from __future__ import annotations

import math

from .. import functions
from .._compat import Array, eps_of, namespace
from ..compute import DEFAULT, Compute
from ..functions import ROUNDING
from ..geometry import ConvGeometry
from ..guarantee import Guarantee, Target, target_from
from ..transforms import transformable


@transformable
def norm(
    kernel: Array, geometry: ConvGeometry, *, guarantee: Guarantee = "layer", compute: Compute = DEFAULT
) -> Array:
    """The exact operator norm `max sigma`, with a subgradient from the top singular pair.

        gradient = S* [ u v^H ],    u, v the singular vectors of a block that reaches the norm

    Arguments:
        kernel: as `singular_values`. Where several values share the norm, the gradient is that of one of
            them (of their mean, where JAX traces); for the zero operator zero.
        geometry: any that has the guarantee.
        guarantee: which operator's norm: exact for `"torus"` and layers that are circulant, else a proven
            upper bound for `"layer"` and `"any_size"`.
        compute: how; see `Compute`.

    Returns:
        A scalar array of the kernel's library, with a gradient in PyTorch and in JAX.

    Raises:
        GeometryError, KernelError, InputError: as `singular_values`, or no such guarantee.

    Notes:
        Not guaranteed: a gradient that changes continuously where the largest values cross.

    References:
        Sedghi, Gupta and Long (2019), Theorem 6; Lewis (1995) for the subgradient.

    Examples:
        >>> import numpy as np
        >>> twice = 2 * np.eye(3).reshape(3, 3, 1, 1)
        >>> float(norm(twice, ConvGeometry((8, 8))))
        2.0
    """
    return norm_of(target_from(kernel, geometry, guarantee, compute))


def norm_of(target: Target) -> Array:
    """`norm` of a target."""
    return target.differentiable_norm()


@transformable
def squared_norm(
    kernel: Array, geometry: ConvGeometry, *, guarantee: Guarantee = "layer", compute: Compute = DEFAULT
) -> Array:
    """The square of the exact operator norm, `max sigma^2`: spectral norm regularisation.

    What Yoshida and Miyato add to the loss, half of it, from power iteration on the reshaped kernel
    (`reshaped_squared_norm`); here of the operator itself.

    Arguments:
        kernel: real array in the layout of `geometry`.
        geometry: any that has the guarantee.
        guarantee: which operator: `"layer"`, `"torus"` or `"any_size"`.
        compute: the executor, the memory in bytes, the solver; see `Compute`.

    Returns:
        A scalar array of the kernel's library, with a gradient in PyTorch and in JAX.

    Raises:
        GeometryError, KernelError, InputError: as `norm`.

    Notes:
        Not guaranteed: a gradient that changes continuously where the largest values cross.

    References:
        Yoshida and Miyato (2017).

    Examples:
        >>> import numpy as np
        >>> twice = 2 * np.eye(3).reshape(3, 3, 1, 1)
        >>> float(squared_norm(twice, ConvGeometry((8, 8))))
        4.0
    """
    return squared_norm_of(target_from(kernel, geometry, guarantee, compute))


def squared_norm_of(target: Target) -> Array:
    """`squared_norm` of a target."""
    largest = norm_of(target)
    return largest * largest


@transformable
def condition_number(
    kernel: Array, geometry: ConvGeometry, *, guarantee: Guarantee = "layer", compute: Compute = DEFAULT
) -> Array:
    """`max sigma / min sigma` over all singular values, infinite for a singular operator.

        gradient = S* [ u v^H ] / min sigma - S* [ u' v'^H ] max sigma / (min sigma)^2

    from the pairs of the largest and the smallest value.

    Arguments:
        kernel: as `singular_values`. Where several values share an extreme, the gradient is that of one of
            them. A singular operator has none: it is zero there.
        geometry: any that has the guarantee.
        guarantee: whose singular values: `"layer"` (on a torus that holds it), `"torus"` (of the layer with
            its boundary wrapped) or `"any_size"` (samples of all frequencies).
        compute: how; see `Compute`.

    Returns:
        A scalar array of the kernel's library, with a gradient in PyTorch and in JAX.

    Raises:
        GeometryError, KernelError, InputError: as `singular_values`, or no such guarantee.

    Notes:
        A smallest value of at most 8 epsilons times the largest is taken for the zero that rounding moved: in
        float32 an operator that is worse conditioned than 1e6 counts as singular.

        Not guaranteed: that a step against the gradient helps where several values are the smallest.

    Examples:
        >>> import numpy as np
        >>> kernel = np.diag([1.0, 4.0]).reshape(2, 2, 1, 1)
        >>> float(condition_number(kernel, ConvGeometry((8, 8))))
        4.0
    """
    return condition_number_of(target_from(kernel, geometry, guarantee, compute))


def condition_number_of(target: Target) -> Array:
    """`condition_number` of a target."""
    largest = functions.norm(target.kernel, target.torus, target.compute)
    smallest = functions.smallest(target.kernel, target.torus, target.compute)
    xp = namespace(target.kernel)
    singular = smallest <= ROUNDING * eps_of(largest) * largest
    ratio = largest / xp.where(singular, 1 + 0 * smallest, smallest)
    return xp.where(singular, math.inf + 0 * largest, ratio)
