"""The same penalties of the kernel reshaped to a `C_out x (C_in k^D)` matrix: for comparison.

Earlier regularisers put this matrix in the operator's place. Its norm is at most the operator's where the
kernel fits the input, and can be `sqrt(prod(k))` times smaller. Each function is the one of the same name
without `reshaped_`, of a layer without spatial extent: the same gradient, the same exceptions. With groups
each group is a matrix of its own; the layer's input size, boundary and stride play no part.

Reference: Yoshida and Miyato (2017); Sedghi, Gupta and Long (2019), Sections 1 and 4.4.
"""

from __future__ import annotations

from .._compat import Array
from ..checks import check_limit
from ..compute import DEFAULT, Compute
from ..geometry import ConvGeometry
from ..guarantee import Target, target_of
from ..problem import problem_of
from ..projection.matrix_clip import as_pointwise
from ..transforms import transformable
from . import extremes, orthonormal, sums


@transformable
def reshaped_norm(kernel: Array, geometry: ConvGeometry, *, compute: Compute = DEFAULT) -> Array:
    """The largest singular value of the reshaped kernel: not the operator's norm.

    Arguments:
        kernel: real array in the layout of `geometry`.
        geometry: any.
        compute: the executor, the memory in bytes, the solver; see `Compute`.

    Returns:
        A scalar array of the kernel's library, with a gradient in PyTorch and in JAX.

    References:
        Miyato, Kataoka, Koyama and Yoshida (2018), who divide kernels by it.

    Examples:
        >>> import numpy as np
        >>> ones = np.ones((1, 1, 3, 3))
        >>> geometry = ConvGeometry((8, 8), padding=1, padding_mode="circular")
        >>> float(reshaped_norm(ones, geometry)), float(extremes.norm(ones, geometry))
        (3.0, 9.0)
    """
    return extremes.norm_of(_reshaped(kernel, geometry, compute))


@transformable
def reshaped_squared_norm(kernel: Array, geometry: ConvGeometry, *, compute: Compute = DEFAULT) -> Array:
    """The square of the reshaped kernel's largest singular value, exact where theirs is iterated.

    Arguments:
        kernel: real array in the layout of `geometry`.
        geometry: any.
        compute: the executor, the memory in bytes, the solver; see `Compute`.

    Returns:
        A scalar array of the kernel's library, with a gradient in PyTorch and in JAX.

    References:
        Yoshida and Miyato (2017), who add half of it.
    """
    return extremes.squared_norm_of(_reshaped(kernel, geometry, compute))


@transformable
def reshaped_hinge(
    kernel: Array, geometry: ConvGeometry, max_reshaped_norm: float, *, compute: Compute = DEFAULT
) -> Array:
    """`sum max(0, sigma - c)^2` over the reshaped kernel's singular values.

    Arguments:
        kernel: real array in the layout of `geometry`.
        geometry: any.
        max_reshaped_norm: limit of the reshaped kernel's singular values, positive and finite.
        compute: the executor, the memory in bytes, the solver; see `Compute`.

    Returns:
        A scalar array of the kernel's library, with a gradient in PyTorch and in JAX.

    Raises:
        InputError: max_reshaped_norm is not positive and finite.
    """
    limit = check_limit("max_reshaped_norm", max_reshaped_norm)
    return sums.hinge_of(_reshaped(kernel, geometry, compute), limit)


@transformable
def reshaped_orthogonality(kernel: Array, geometry: ConvGeometry, *, compute: Compute = DEFAULT) -> Array:
    """`sum (sigma^2 - 1)^2` over the reshaped kernel's singular values.

    `|| W W^T - I ||_F^2`, less a constant where the matrix has more rows than columns.

    Arguments:
        kernel: real array in the layout of `geometry`.
        geometry: any.
        compute: the executor, the memory in bytes, the solver; see `Compute`.

    Returns:
        A scalar array of the kernel's library, with a gradient in PyTorch and in JAX.

    References:
        Cisse, Bojanowski, Grave, Dauphin and Usunier (2017), who add half of it.
    """
    return orthonormal.orthogonality_of(_reshaped(kernel, geometry, compute))


@transformable
def reshaped_nuclear_norm(kernel: Array, geometry: ConvGeometry, *, compute: Compute = DEFAULT) -> Array:
    """The sum of the reshaped kernel's singular values.

    Arguments:
        kernel: real array in the layout of `geometry`.
        geometry: any.
        compute: the executor, the memory in bytes, the solver; see `Compute`.

    Returns:
        A scalar array of the kernel's library, with a gradient in PyTorch and in JAX.
    """
    return sums.nuclear_norm_of(_reshaped(kernel, geometry, compute))


@transformable
def reshaped_schatten_norm(
    kernel: Array, geometry: ConvGeometry, p: float, *, compute: Compute = DEFAULT
) -> Array:
    """`(sum sigma^p)^(1/p)` over the reshaped kernel's singular values.

    Arguments:
        kernel: real array in the layout of `geometry`.
        geometry: any.
        p: the exponent, at least 1; `math.inf` is the norm.
        compute: the executor, the memory in bytes, the solver; see `Compute`.

    Returns:
        A scalar array of the kernel's library, with a gradient in PyTorch and in JAX.

    Raises:
        InputError: p is below 1.
    """
    return sums.schatten_norm_of(_reshaped(kernel, geometry, compute), p)


@transformable
def reshaped_log_volume(kernel: Array, geometry: ConvGeometry, *, compute: Compute = DEFAULT) -> Array:
    """`sum log sigma` over the reshaped kernel's singular values.

    Arguments:
        kernel: real array in the layout of `geometry`.
        geometry: any.
        compute: the executor, the memory in bytes, the solver; see `Compute`.

    Returns:
        A scalar array of the kernel's library, with a gradient in PyTorch and in JAX.
    """
    return sums.log_volume_of(_reshaped(kernel, geometry, compute))


@transformable
def reshaped_condition_number(kernel: Array, geometry: ConvGeometry, *, compute: Compute = DEFAULT) -> Array:
    """The reshaped kernel's largest singular value over its smallest.

    Arguments:
        kernel: real array in the layout of `geometry`.
        geometry: any.
        compute: the executor, the memory in bytes, the solver; see `Compute`.

    Returns:
        A scalar array of the kernel's library, with a gradient in PyTorch and in JAX.
    """
    return extremes.condition_number_of(_reshaped(kernel, geometry, compute))


def _reshaped(kernel: Array, geometry: ConvGeometry, compute: Compute) -> Target:
    return target_of(as_pointwise(problem_of(kernel, geometry, compute)), "layer")
