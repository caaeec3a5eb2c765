"""The Frobenius norm of the operator, exact for any padding, and what it says of the operator norm."""

from __future__ import annotations

import math

import numpy as np

from .._compat import Array, eps_of, namespace, untracked
from ..compute import DEFAULT, Compute
from ..geometry import ConvGeometry, Correlation
from ..operators.padded import NumpyArray, reads
from ..problem import Problem, homogeneous, problem_of, widened
from ..results import Bound
from ..rounding import less, root, rounded_down, rounded_up
from .reshaped_kernel import along_axis
from .tori import repeats_inputs
from .unfoldings import plain_kernel


def frobenius(kernel: Array, geometry: ConvGeometry, *, compute: Compute = DEFAULT) -> Bound:
    """An interval from sums of squares.

        lower = ||A||_F / sqrt(smaller side of A),     upper = min( ||A||_F, sqrt(q_1 ... q_D) ||W||_F )

    `||A||_F` is that of the operator itself, of each group alone, the largest over the groups. Its square
    is `sum_{p, p'} <W_p, W_p'> prod_axes C[p, p']`, with `C` the number of outputs along an axis at which
    the taps `p` and `p'` read one and the same input point: for zero or no padding the diagonal of how
    many reads are inside; a wrapped kernel larger than the input, reflection and replication add pairs.
    The second upper bound is `sup ||S(theta)||_F` by Cauchy-Schwarz over the `q` taps of a polyphase
    component (`bounds/unfoldings.py`); it knows no input size, and counts for zero, no and circular
    padding only.

    Arguments:
        kernel: as for `singular_values`, computed in double precision where the library has it.
        geometry: any, of every padding mode.
        compute: how; see `Compute`.

    Returns:
        `Bound` of the operator norm; its `status` says which sides are proven.

    Raises:
        GeometryError: kernel and geometry do not fit, or reflect padding of a single point.
        KernelError: as `singular_values`.

    Notes:
        Differentiable, with gradient zero for the zero kernel.
        Cost: a few products with the kernel: nothing.

        Not guaranteed: tightness: `upper` can be the root of the rank too large, `lower` as much too small.

    References:
        Golub and Van Loan (2013), section 2.3, for the norms.

    Examples:
        >>> import numpy as np
        >>> difference = np.array([[[1.0, -1.0]]])
        >>> bound = frobenius(difference, ConvGeometry(2))  # one row, (1, -1)
        >>> round(float(bound.lower), 9), round(float(bound.upper), 9)
        (1.414213562, 1.414213562)
    """
    return homogeneous(frobenius_of, problem_of(kernel, geometry, compute))


def frobenius_of(problem: Problem) -> Bound:
    """`frobenius` of a problem whose entries are in range."""
    kernel, correlation = problem.kernel, problem.correlation
    xp, wide = namespace(kernel), widened(problem).kernel
    eps = eps_of(wide) * (math.prod(kernel.shape) + 64)
    # Taps that meet can cancel: what the sums are off by is a part of those of the moduli.
    squares, off = _squares(wide, correlation), eps * untracked(_squares(xp.abs(wide), correlation))
    whole = upper = xp.max(root(squares + off))
    if not repeats_inputs(correlation):
        plain = plain_kernel(wide, correlation)
        each = xp.sum(plain * plain, axis=tuple(range(1, plain.ndim)))
        upper = xp.minimum(whole, math.sqrt(math.prod(plain.shape[3:])) * xp.max(root(each)))
    sides = (
        correlation.out_channels * math.prod(correlation.output_shape),
        correlation.in_channels * math.prod(correlation.input_shape),
    )
    least = xp.max(root(less(squares, off)))
    return Bound(
        rounded_down(least / math.sqrt(min(sides) // correlation.groups), 1 + eps, kernel),
        rounded_up(upper, 1 + eps, kernel),
        method="frobenius",
        assumes="any padding",
    )


def _squares(kernel: Array, correlation: Correlation) -> Array:
    """`||A||_F^2` of each group."""
    xp = namespace(kernel)
    weighted = kernel
    for axis in range(len(correlation.kernel_size)):
        weighted = along_axis(_meetings(reads(correlation, axis)), weighted, 2 + axis)
    products = xp.reshape(weighted * kernel, (correlation.groups, -1))
    # Cancellation between taps that meet can leave a rounded zero below it.
    total = xp.sum(products, axis=1)
    return xp.where(total > 0, total, 0 * total)


def _meetings(table: NumpyArray) -> NumpyArray:
    """For each two taps the number of outputs at which they read the same input point."""
    rows = [((table == column[:, None]) & (column[:, None] >= 0)).sum(axis=0) for column in table.T]
    return np.stack(rows)
