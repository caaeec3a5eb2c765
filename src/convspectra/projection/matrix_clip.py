"""The clip of the reshaped kernel, which does not bound the operator: for comparison."""

from __future__ import annotations

import math

from .. import functions
from .._compat import Array, namespace
from ..checks import check_limit
from ..compute import DEFAULT, Compute
from ..geometry import ConvGeometry
from ..guarantee import Guarantee, Target, target_from
from ..problem import Problem
from ..results import Projection


def clip_reshaped_kernel(
    kernel: Array,
    geometry: ConvGeometry,
    max_reshaped_norm: float,
    *,
    guarantee: Guarantee = "layer",
    measure: bool = True,
    compute: Compute = DEFAULT,
) -> Projection:
    """Clip the singular values of the kernel reshaped to a `C_out x (C_in k^D)` matrix.

    What Section 4.4 of the paper compares with. The operator's norm can exceed that of this matrix by
    up to `sqrt(prod(k))`: `norm` of the result is the operator's, and no limit to it is promised.

    Arguments:
        kernel: as `singular_values`. Differentiable.
        geometry: any that has the guarantee. With groups each is a matrix of its own.
        max_reshaped_norm: the limit of the reshaped kernel's singular values, positive.
        guarantee: which operator's norm the record reports; the kernel does not depend on it.
        measure: False leaves both norms None, and saves most of the time.
        compute: how; see `Compute`.

    Returns:
        `Projection`: the kernel, its norms before and after, and what is proven of them.

    Raises:
        InputError: max_reshaped_norm is not positive and finite.
        GeometryError, KernelError, InputError: as `singular_values`, or no such guarantee.

    References:
        Yoshida and Miyato (2017); Sedghi, Gupta and Long (2019), Section 4.4.
    """
    limit = check_limit("max_reshaped_norm", max_reshaped_norm)
    return clipped_reshaped(target_from(kernel, geometry, guarantee, compute), limit, measure)


def clipped_reshaped(target: Target, limit: float, measure: bool) -> Projection:
    """`clip_reshaped_kernel` of a target."""
    flat = as_pointwise(target.problem)
    moved = flat.kernel - functions.lowered(flat.kernel, flat.correlation, limit, flat.compute)
    found = namespace(moved).reshape(moved, target.kernel.shape)
    norms = {} if measure else {"norm_before": None, "norm": None}
    return target.moved(found).projection(target, iterations=1, **norms)


def as_pointwise(problem: Problem) -> Problem:
    """The reshaped kernel, as that of a layer that has its singular values and no spatial extent."""
    kernel = problem.kernel
    flat = namespace(kernel).reshape(kernel, (kernel.shape[0], math.prod(kernel.shape[1:]), 1))
    geometry = ConvGeometry((1,), groups=problem.correlation.groups)
    return Problem(flat, geometry, geometry.correlation(flat.shape), problem.compute)
