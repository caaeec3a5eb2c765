"""The kernel as a tensor: its spectral norm bounds the operator's, and is bounded by its unfoldings'."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .._compat import Array, is_concrete, like, to_numpy
from ..compute import DEFAULT, Compute
from ..geometry import ConvGeometry
from ..problem import Problem, homogeneous, problem_of, scaled, widened
from ..results import Bound
from ..rounding import less, rounded_down
from .reshaped_kernel import effective_kernel
from .tori import refuse_repeated_inputs
from .unfoldings import plain_kernel, subsets, unfolding_upper

ASSUMES = "circular, zero or no padding; upper: any input size"


def grishina2024(
    kernel: Array, geometry: ConvGeometry, *, starts: int = 1, sweeps: int = 30, compute: Compute = DEFAULT
) -> Bound:
    """An interval from the tensor spectral norm, by a value below it and a norm above it.

        ||W||_T = max |<W, u x v x a_1 x ... x a_D>| over complex unit vectors
        ||A|| <= sup ||S(theta)|| <= sqrt(q_1 ... q_D) ||W||_T     (the paper; phases are such vectors)
        upper = sqrt(q_1 ... q_D) min over all unfoldings of W to a matrix of its norm
        lower = |<W, u x v x a_1 x ... x a_D>|, where alternating maximisation stops

    `||W||_T` is hard to compute: alternating maximisation climbs to some local maximum, so what is
    published as the upper bound, `sqrt(prod q)` times the value found, certifies nothing. For Gaussian
    kernels of 3 x 3 taps, 3 % of single starts end below the operator's norm (it is `tensor_norm_estimate`,
    for comparison). Proven is what surrounds it. Any unfolding of a tensor, with
    each axis in the rows or the columns, has at least its spectral norm: `upper` takes the least of the
    `2^(D+1) - 1` of them, among which are the `2^D` of `singla2021`. And any value found is at most the
    norm of the kernel unfolded to `C_out x (C_in prod k)`, which is a submatrix of the operator (the rows
    of one output point: `reshaped_kernel`): a lower bound, if never better than that one.

    The vectors must be complex: for two taps, the identity and a rotation by 90 degrees, the spectral norm
    over real vectors is 1, and `sqrt(2)` times it less than the operator norm of 2.

    Arguments:
        kernel: as for `singular_values`; `upper` in double precision where the library has it, `lower` in
            NumPy (None while JAX traces).
        geometry: zero or no padding, or circular padding that wraps no further than around.
        starts: of alternating maximisation, from random vectors of a fixed seed.
        sweeps: of alternating maximisation, from random vectors of a fixed seed.
        compute: how; see `Compute`.

    Returns:
        `Bound` of the operator norm; its `status` says which sides are proven.

    Raises:
        GeometryError: padding that repeats the input otherwise; kernel and geometry do not fit.
        KernelError: as `singular_values`.

    Notes:
        Differentiable: `upper`, with finite gradients at ties; `lower` has no gradient.
        Cost: `2^(D+1) - 1` eigenvalue decompositions, the largest of about `C sqrt(prod q)` rows.

        Not guaranteed: tightness: `upper` is up to `sqrt(prod q)` above the norm.

    References:
        Grishina, Gorbunov and Rakhuba (2024) for the first inequality; De Lathauwer, De Moor and Vandewalle
        (2000) for the alternating maximisation; Friedland and Lim (2018) on real and complex norms.

    Examples:
        >>> import numpy as np
        >>> rank_one = np.ones((2, 3, 3, 3))  # the operator norm tends to 9 sqrt(6) = 22.05 with its size
        >>> bound = grishina2024(rank_one, ConvGeometry((4, 4), padding=1, padding_mode="circular"))
        >>> round(float(bound.lower), 3), round(float(bound.upper), 3)
        (7.348, 22.045)
    """
    return homogeneous(grishina2024_of, problem_of(kernel, geometry, compute), starts, sweeps)


def grishina2024_of(problem: Problem, starts: int = 1, sweeps: int = 30) -> Bound:
    """`grishina2024` of a problem whose entries are in range."""
    kernel, correlation = problem.kernel, problem.correlation
    refuse_repeated_inputs("grishina2024", correlation)
    wide = widened(problem).kernel
    plain = plain_kernel(wide, correlation)
    # Not all axes in the rows: that is a vector, whose norm is no less than that of any other unfolding.
    upper = unfolding_upper(problem, plain, subsets(plain, 2, all_of_them=False))
    lower = None
    if is_concrete(kernel):
        seen = to_numpy(effective_kernel(wide, correlation))
        by_group = seen.reshape(correlation.groups, correlation.group_shape[0], *seen.shape[1:])
        found = _alternating(by_group, starts, sweeps)
        value = like(np.asarray(found), wide, wide.dtype)
        lower = rounded_down(less(value, widened(problem).norm_error()), 1.0, kernel)
    return Bound(lower, upper, method="grishina2024", assumes=ASSUMES)


def tensor_norm_estimate(
    kernel: Array, geometry: ConvGeometry, *, starts: int = 1, sweeps: int = 100, seed: int = 0
) -> float:
    """`sqrt(prod q)` times the tensor spectral norm as found: what is published as an upper bound.

    An estimate, and no bound: the maximisation can stop below the tensor's norm, and the product then lie
    below the operator's. Proven are both sides of `grishina2024`.

    Arguments:
        kernel: real array in the layout of `geometry`.
        geometry: with zero, no or circular padding.
        starts: of the maximisation, from random vectors.
        sweeps: alternations from each start, at the most.
        seed: of the random vectors.

    Returns:
        A number, computed in NumPy without gradient.

    Raises:
        GeometryError, KernelError, InputError: as `grishina2024`.

    References:
        Grishina, Gorbunov and Rakhuba (2024), strides by polyphase components as in their code.
    """
    inside, power = scaled(problem_of(kernel, geometry))
    refuse_repeated_inputs("tensor_norm_estimate", inside.correlation)
    plain = to_numpy(plain_kernel(widened(inside).kernel, inside.correlation))
    found = _alternating(plain, starts, sweeps, seed)
    return float(power) * math.sqrt(math.prod(plain.shape[3:])) * found


def _alternating(tensor: np.ndarray[Any, Any], starts: int, sweeps: int, seed: int = 0) -> float:
    """The largest `|<W, u x v x ...>|` found, over groups (the first axis) and starts."""
    if tensor.size == 0 or not tensor.any():
        return 0.0
    rng = np.random.default_rng(seed)
    modes = list(range(1, tensor.ndim))
    entries, best = tensor.astype(np.complex128), 0.0
    for _ in range(starts):
        shapes = [(len(tensor), tensor.shape[mode]) for mode in modes]
        vectors = [_unit(rng.standard_normal(s) + 1j * rng.standard_normal(s)) for s in shapes]
        value = 0.0
        for _ in range(sweeps):
            for place, mode in enumerate(modes):
                operands: list[Any] = [entries, [0, *modes]]
                for other, vector in zip(modes, vectors, strict=True):
                    if other != mode:
                        operands += [vector, [0, other]]
                along = np.einsum(*operands, [0, mode], optimize="greedy")
                vectors[place] = _unit(along.conj())
            # With unit vectors on all other axes the length of the last is the value itself.
            before, value = value, float(np.linalg.norm(along, axis=1).max())
            if value <= before * (1 + 1e-9):
                break
        best = max(best, value)
    return best


def _unit(vectors: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1))
