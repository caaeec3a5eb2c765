"""Other functions of the singular values: lowered, cut off, made equal, held in a Schatten ball.

Each is the nearest operator of its kind, cut back to the kernel's own taps once, as `clip` is. The cut
moves the singular values again: none of these promises what it does to them, except `project_schatten`,
which scales its result into the ball.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from .. import functions
from .._compat import Array, eps_of, is_concrete, is_tracked, namespace, to_numpy
from ..checks import check_count, check_limit
from ..compute import DEFAULT, Compute
from ..errors import InputError
from ..functions import SpectralFunction
from ..geometry import ConvGeometry
from ..guarantee import Guarantee, Target, target_from
from ..problem import in_doubles, without_gradient
from ..results import Projection, Spectrum
from ..spectrum import spectrum_on
from .clipping import clipped


def soft_threshold(
    kernel: Array,
    geometry: ConvGeometry,
    threshold: float,
    *,
    guarantee: Guarantee = "layer",
    compute: Compute = DEFAULT,
) -> Projection:
    """Every singular value lowered: `S^+ [ U max(sigma - t, 0) V^H ]`, the nuclear norm's proximal map.

    Before the cut to `k^D` taps it minimises `||X - A||_F^2 / 2 + t ||X||_nuclear` over operators X.

    Arguments:
        kernel: as `singular_values`. Differentiable.
        geometry: any that has the guarantee.
        threshold: what is taken off, positive.
        guarantee: whose singular values: `"layer"` (on a torus that holds it), `"torus"` (of the layer with
            its boundary wrapped) or `"any_size"` (samples of all frequencies).
        compute: how; see `Compute`.

    Returns:
        `Projection`: the kernel, its norms before and after, and what is proven of them.

    Raises:
        InputError: threshold is not positive and finite.
        GeometryError, KernelError, InputError: as `singular_values`, or no such guarantee.

    References:
        Cai, Candes and Shen (2010), Theorem 2.1.
    """
    level = check_limit("threshold", threshold)
    target = target_from(kernel, geometry, guarantee, compute)
    return _lowered(target, level).projection(target, iterations=1)


def low_rank(
    kernel: Array,
    geometry: ConvGeometry,
    rank: int,
    *,
    guarantee: Guarantee = "layer",
    compute: Compute = DEFAULT,
) -> Projection:
    """Only the `rank` largest singular values of the whole operator kept, the others set to zero.

    Before the cut to `k^D` taps it is the nearest operator of that rank or less: values that tie with
    the first one dropped go too, so that a pair of conjugate blocks is never divided.

    Arguments:
        kernel: as `singular_values`; concrete values. Differentiable where the last value kept and the
            first one dropped differ.
        geometry: any that has the guarantee.
        rank: how many to keep, of `Spectrum.count`; at least 0.
        guarantee: whose singular values: `"layer"` (on a torus that holds it), `"torus"` (of the layer with
            its boundary wrapped) or `"any_size"` (samples of all frequencies).
        compute: how; see `Compute`.

    Returns:
        `Projection`: the kernel, its norms before and after, and what is proven of them.

    Raises:
        InputError: rank is negative or no integer; a traced JAX array, whose values cannot be counted.
        GeometryError, KernelError: as `singular_values`, or no such guarantee.

    Notes:
        Not guaranteed: the rank of the result, which the cut to `k^D` taps raises again.

    References:
        Eckart and Young (1936).
    """
    check_count("rank", rank, 0)
    target = target_from(kernel, geometry, guarantee, compute)
    values = _all_values(target, "low_rank")
    if rank >= values.count:
        return target.projection(target)
    flat, counts, order = _descending(values)
    dropped = np.searchsorted(np.cumsum(counts[order]), rank, side="right")  # the first that does not fit
    level = float(flat[order][dropped])
    # The same values come out of another engine a few roundings away.
    level *= 1 + 64 * eps_of(flat)

    def kept(sigma: Array) -> Array:
        return namespace(sigma).where(sigma > level, sigma, 0 * sigma)

    def slope(sigma: Array) -> Array:
        return namespace(sigma).where(sigma > level, 1 + 0 * sigma, 0 * sigma)

    return _mapped(target, SpectralFunction(kept, slope)).projection(target, iterations=2)


def orthogonalise(
    kernel: Array,
    geometry: ConvGeometry,
    *,
    value: float = 1.0,
    guarantee: Guarantee = "layer",
    compute: Compute = DEFAULT,
) -> Projection:
    """All singular values set to `value`: `S^+ [ value U V^H ]`, the polar factor.

    Before the cut to `k^D` taps it is the nearest operator with orthonormal rows or columns (times
    `value`). Zero singular values are raised along singular vectors that no rule determines.

    Arguments:
        kernel: as `singular_values`. Differentiable where no singular value is zero; at zeros the
            derivative does not exist, and the part that belongs to them is taken as zero.
        geometry: any that has the guarantee.
        value: what they become, positive.
        guarantee: whose singular values: `"layer"` (on a torus that holds it), `"torus"` (of the layer with
            its boundary wrapped) or `"any_size"` (samples of all frequencies).
        compute: how; see `Compute`.

    Returns:
        `Projection`: the kernel, its norms before and after, and what is proven of them.

    Raises:
        InputError: value is not positive and finite.
        GeometryError, KernelError, InputError: as `singular_values`, or no such guarantee.

    Notes:
        Not guaranteed: equal singular values, which the cut to `k^D` taps spreads again.

    References:
        Fan and Hoffman (1955); Higham (2008), Functions of Matrices, Theorem 8.4.
    """
    level = check_limit("value", value)
    target = target_from(kernel, geometry, guarantee, compute)
    function = SpectralFunction(lambda sigma: level + 0 * sigma, lambda sigma: 0 * sigma)
    return _mapped(target, function).projection(target, iterations=1)


def project_schatten(
    kernel: Array,
    geometry: ConvGeometry,
    radius: float,
    *,
    p: float = 1.0,
    guarantee: Guarantee = "layer",
    compute: Compute = DEFAULT,
) -> Projection:
    """Into the ball `(sum sigma^p)^(1/p) <= radius` of the operator: p = 1 is the nuclear norm.

    The nearest operator in the ball, of all singular values together; cut back to `k^D` taps, and
    scaled into the ball where the cut left it.

    Arguments:
        kernel: as `singular_values`; concrete values, no gradient.
        geometry: any that has the guarantee.
        radius: of the ball, positive.
        p: 1, 2 or `math.inf` (where it is `clip`, scaled).
        guarantee: whose singular values: `"layer"`, `"torus"`, or `"any_size"`: for `math.inf` the operator
            norm at every size, else those of the torus of samples.
        compute: how; see `Compute`.

    Returns:
        `Projection`; its norms are operator norms, not those of the ball.

    Raises:
        InputError: radius is not positive and finite, or another p; a traced JAX array.
        GeometryError, KernelError: as `singular_values`, or no such guarantee.

    Notes:
        Not guaranteed: to be the nearest kernel in the ball (for p = 2 it is).

    References:
        Duchi, Shalev-Shwartz, Singer and Chandra (2008), for p = 1.
    """
    limit = check_limit("radius", radius)
    if p not in (1, 2, math.inf):
        raise InputError(f"p must be 1, 2 or math.inf; got {p!r}")
    if is_tracked(kernel):
        raise InputError("project_schatten gives no gradient: detach the kernel and call it outside jax.jit")
    target = replace(target_from(kernel, geometry, guarantee, compute), certified=False)
    limit = limit / target.factor
    values = _all_values(target, "project_schatten")
    if _schatten(target, p) <= limit:
        return target.projection(target)
    inside = target
    if p == math.inf:
        inside, _ = clipped(target, limit * target.factor)
    elif p == 1:
        flat, counts, order = _descending(values)
        # The threshold t with sum counts max(sigma - t, 0) = radius.
        sigma, weight = flat[order].astype(np.float64), np.cumsum(counts[order])
        thresholds = (np.cumsum(counts[order] * sigma) - limit) / weight
        # The largest value exceeds its threshold by the radius, which its rounding may be larger than.
        survivors = np.flatnonzero(sigma > thresholds)
        level = float(thresholds[survivors[-1] if survivors.size else 0])
        inside = _lowered(target, level)
    margin = 64 * eps_of(inside.kernel)
    while (size := _schatten(inside, p)) > limit:
        inside = inside.moved(inside.kernel * (limit / size * (1 - margin)))
        margin = min(1.0, 4 * margin)  # at worst the kernel ends at zero
    return inside.projection(target, iterations=2)


def _mapped(target: Target, function: SpectralFunction) -> Target:
    return target.moved(functions.mapped(target.kernel, target.torus, function, target.compute))


def _lowered(target: Target, level: float) -> Target:
    return target.moved(functions.lowered(target.kernel, target.torus, level, target.compute))


def _schatten(target: Target, p: float) -> float:
    """Proven: the Schatten norm of these very entries is at most this."""
    wide = in_doubles(target.problem)
    if not float(namespace(wide.kernel).max(abs(wide.kernel))) > 0:
        return 0.0
    values = spectrum_on(wide, target.torus)
    error = values.error * values.count ** (1 / p)
    eps = float(np.finfo(np.float64).eps)
    return float(float(values.schatten_norm(p)) + error) * (1 + eps * (math.log2(values.count) + 64))


def _all_values(target: Target, name: str) -> Spectrum:
    if not is_concrete(target.kernel):
        raise InputError(f"{name} looks at all singular values: call it outside jax.jit and jax.grad")
    return spectrum_on(without_gradient(target.problem), target.torus)


def _descending(values: Spectrum) -> tuple[Any, Any, Any]:
    """All values, flat; how often each occurs; and their order, from the largest."""
    flat = to_numpy(values.values).reshape(-1)
    counts = np.repeat(values.multiplicity, values.values.shape[1])
    return flat, counts, np.argsort(-flat, kind="stable")
