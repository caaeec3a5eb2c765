"""Penalties that are sums over all singular values."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from .. import functions
from .._compat import Array, eps_of, is_tracked, like, namespace, with_vjp
from ..checks import check_exponent, check_limit
from ..compute import DEFAULT, Compute
from ..functions import rounding_level
from ..geometry import ConvGeometry
from ..guarantee import Guarantee, Target, target_from
from ..spectrum import spectrum_on, top_block
from ..symbol import frequency_grid
from ..transforms import transformable
from .extremes import norm_of

Summand = Callable[[Array, Array], Array]
"""Of singular values, and of the level up to which they are rounding."""


@transformable
def hinge(
    kernel: Array,
    geometry: ConvGeometry,
    max_norm: float,
    *,
    guarantee: Guarantee = "layer",
    compute: Compute = DEFAULT,
) -> Array:
    """`sum max(0, sigma - c)^2`: zero inside the ball of radius `max_norm`, and smooth.

        gradient = 2 S* [ U max(0, sigma - c) V^H ]

    It is the squared distance, in the Frobenius norm of operators, from the nearest one in the ball.
    Blocks inside are not decomposed.

    Arguments:
        kernel: as `singular_values`. The gradient is continuous: no exception at ties, at zeros or at the
            limit.
        geometry: any that has the guarantee.
        max_norm: the limit `c`, positive. For `"any_size"` 2 % an axis less is used; where padding copies
            the input, it is divided by the root of the number of copies.
        guarantee: which operator has a norm of at most `max_norm` where the penalty is zero; the singular
            values are those of its torus.
        compute: how; see `Compute`.

    Returns:
        A scalar array of the kernel's library, with a gradient in PyTorch and in JAX.

    Raises:
        InputError: max_norm is not positive and finite.
        GeometryError, KernelError, InputError: as `singular_values`, or no such guarantee.

    Notes:
        Not guaranteed: that a small penalty means a norm near `max_norm`.

    Examples:
        >>> import numpy as np
        >>> twice = 2 * np.eye(3).reshape(3, 3, 1, 1)
        >>> round(float(hinge(twice, ConvGeometry((8, 8)), max_norm=1.5)), 9)  # 3 * 8 * 8 times 0.5^2
        48.0
    """
    limit = check_limit("max_norm", max_norm)
    return hinge_of(target_from(kernel, geometry, guarantee, compute), limit)


def hinge_of(target: Target, limit: float) -> Array:
    """`hinge` of a target."""
    return functions.total_squares_above(target.kernel, target.torus, limit / target.factor, target.compute)


@transformable
def nuclear_norm(
    kernel: Array, geometry: ConvGeometry, *, guarantee: Guarantee = "layer", compute: Compute = DEFAULT
) -> Array:
    """`sum sigma`: the nuclear norm of the operator, which drives it to low rank.

        subgradient = S* [ U V^H ]

    Arguments:
        kernel: as `singular_values`. Zero singular values have no part in the gradient (those of at most 8
            epsilons times the norm), which makes it the shortest subgradient there; at ties it is the
            derivative.
        geometry: any that has the guarantee.
        guarantee: whose singular values: `"layer"` (on a torus that holds it), `"torus"` (of the layer with
            its boundary wrapped) or `"any_size"` (samples of all frequencies).
        compute: how; see `Compute`.

    Returns:
        A scalar array of the kernel's library, with a gradient in PyTorch and in JAX.

    Raises:
        GeometryError, KernelError, InputError: as `singular_values`, or no such guarantee.

    Notes:
        Not guaranteed: low rank by gradient steps alone, which pass over the zeros; `soft_threshold` is the
        proximal step.

    References:
        Watson (1992) for the subgradient; Lefkimmiatis, Ward and Unser (2013) for Schatten norms as
        regularisers.

    Examples:
        >>> import numpy as np
        >>> twice = 2 * np.eye(3).reshape(3, 3, 1, 1)
        >>> round(float(nuclear_norm(twice, ConvGeometry((8, 8)))), 9)
        384.0
    """
    return nuclear_norm_of(target_from(kernel, geometry, guarantee, compute))


def nuclear_norm_of(target: Target) -> Array:
    """`nuclear_norm` of a target."""
    return _total(target, target.kernel, lambda sigma, _: sigma, _is_above)


@transformable
def schatten_norm(
    kernel: Array,
    geometry: ConvGeometry,
    p: float,
    *,
    guarantee: Guarantee = "layer",
    compute: Compute = DEFAULT,
) -> Array:
    """`(sum sigma^p)^(1/p)`: the nuclear norm at 1, Frobenius at 2, the operator norm at `math.inf`.

        gradient = S* [ U (sigma / norm)^(p - 1) V^H ]

    Arguments:
        kernel: as `singular_values`. The gradient exists for finite p > 1 except at the zero operator,
            where it is zero; for p = 1 as `nuclear_norm`, for `math.inf` as `norm`.
        geometry: any that has the guarantee.
        p: at least 1.
        guarantee: whose singular values: `"layer"` (on a torus that holds it), `"torus"` (of the layer with
            its boundary wrapped) or `"any_size"` (samples of all frequencies).
        compute: how; see `Compute`.

    Returns:
        A scalar array of the kernel's library, with a gradient in PyTorch and in JAX.

    Raises:
        InputError: p is below 1.
        GeometryError, KernelError, InputError: as `singular_values`, or no such guarantee.

    Notes:
        Not guaranteed: accuracy of the gradient's parts far below the largest for large p, as everywhere.

    References:
        Lefkimmiatis, Ward and Unser (2013).

    Examples:
        >>> import numpy as np
        >>> twice = 2 * np.eye(4).reshape(4, 4, 1, 1)
        >>> round(float(schatten_norm(twice, ConvGeometry((8, 8)), p=2)), 9)  # 2 times the root of 4 * 8 * 8
        32.0
    """
    return schatten_norm_of(target_from(kernel, geometry, guarantee, compute), p)


def schatten_norm_of(target: Target, p: float) -> Array:
    """`schatten_norm` of a target."""
    check_exponent(p)
    if p > 1 / eps_of(target.kernel):  # equal up to rounding
        return norm_of(target)
    slope = _is_above if p == 1 else lambda sigma, _: p * sigma ** (p - 1)
    # The norm of the scaled kernel times the scale: no power leaves the floating range. The scale is
    # without a derivative, and needs none. Powers beyond the second need the largest value itself.
    largest = _largest_entry if p <= 2 else partial(_largest_value, target)

    def forward(given: Array) -> tuple[Array, Array]:
        return _or_one(largest(given)), given

    scale = with_vjp(forward, lambda given, _: 0 * given, target.kernel)
    powers = _total(target, target.kernel / scale, lambda sigma, _: sigma**p, slope)
    xp = namespace(target.kernel)
    positive = powers > 0
    root = xp.where(positive, powers, 1 + 0 * powers) ** (1 / p)
    return scale * xp.where(positive, root, 0 * powers)


@transformable
def log_volume(
    kernel: Array, geometry: ConvGeometry, *, guarantee: Guarantee = "layer", compute: Compute = DEFAULT
) -> Array:
    """`sum log sigma`, which is `log |det|` for a square operator; -inf for a singular one.

        gradient = S* [ U sigma^-1 V^H ]

    Its negative is a barrier that keeps a layer invertible.

    Arguments:
        kernel: as `singular_values`. At ties the gradient is the derivative. A singular operator has none:
            zero singular values (those of at most 8 epsilons times the norm) have no part in it there, so
            that it stays finite.
        geometry: any that has the guarantee.
        guarantee: whose singular values: `"layer"` (on a torus that holds it), `"torus"` (of the layer with
            its boundary wrapped) or `"any_size"` (samples of all frequencies).
        compute: how; see `Compute`.

    Returns:
        A scalar array of the kernel's library, with a gradient in PyTorch and in JAX.

    Raises:
        GeometryError, KernelError, InputError: as `singular_values`, or no such guarantee.

    Notes:
        Not guaranteed: a gradient of moderate size: it grows as one over the smallest singular value.

    References:
        Karami, Schuurmans, Sohl-Dickstein, Dinh and Duckworth (2019) for convolutions on the torus.

    Examples:
        >>> import numpy as np
        >>> twice = 2 * np.eye(3).reshape(3, 3, 1, 1)
        >>> volume = log_volume(twice, ConvGeometry((8, 8)))
        >>> bool(np.isclose(volume, 192 * np.log(2)))
        True
    """
    return log_volume_of(target_from(kernel, geometry, guarantee, compute))


def log_volume_of(target: Target) -> Array:
    """`log_volume` of a target."""
    volume = _total(target, target.kernel, _log, _inverse)
    grid = frequency_grid(target.torus)
    if min(grid.block_shape) > functions.rank_with_taps(target.torus):
        return volume - math.inf
    return volume


def _total(target: Target, kernel: Array, value: Summand, slope: Summand) -> Array:
    """`sum multiplicity value(sigma)` with the gradient `S* [ U slope(sigma) V^H ]`."""
    torus, compute = target.torus, target.compute
    if not is_tracked(kernel):  # no vectors are needed
        spectrum = spectrum_on(target.moved(kernel).problem, torus)
        sigma = spectrum.values
        weights = like(spectrum.multiplicity[:, None], sigma, sigma.dtype)
        xp = namespace(sigma)
        return xp.sum(weights * value(sigma, rounding_level(xp.max(sigma))))

    def forward(given: Array) -> tuple[Array, Array]:
        level = rounding_level(top_block(given, torus, compute).norm)
        gradient, number = functions.adjoint_of_function(
            given, torus, lambda sigma: slope(sigma, level), compute, lambda sigma: value(sigma, level)
        )
        return number, gradient

    return with_vjp(forward, lambda gradient, cotangent: cotangent * gradient, kernel, ())


def _largest_entry(kernel: Array) -> Array:
    xp = namespace(kernel)
    return xp.max(xp.abs(kernel))


def _largest_value(target: Target, kernel: Array) -> Array:
    entry = _or_one(_largest_entry(kernel))
    return entry * top_block(kernel / entry, target.torus, target.compute).norm


def _or_one(scale: Array) -> Array:
    return namespace(scale).where(scale > 0, scale, 1 + 0 * scale)


def _is_above(sigma: Array, level: Array) -> Array:
    return namespace(sigma).where(sigma > level, 1 + 0 * sigma, 0 * sigma)


def _log(sigma: Array, level: Array) -> Array:
    xp = namespace(sigma)
    above = sigma > level
    return xp.where(above, xp.log(xp.where(above, sigma, 1 + 0 * sigma)), 0 * sigma - math.inf)


def _inverse(sigma: Array, level: Array) -> Array:
    above = sigma > level
    return namespace(sigma).where(above, 1 / namespace(sigma).where(above, sigma, 1 + 0 * sigma), 0 * sigma)
