"""An upper bound for every input size, from the kernel convolved with itself: Gram iteration over taps."""

from __future__ import annotations

import math

from .._compat import Array, eps_of, namespace
from .._solvers.array_api import smaller_gram
from ..checks import check_count
from ..compute import DEFAULT, Compute
from ..geometry import ConvGeometry
from ..problem import Problem, homogeneous, problem_of, widened
from ..results import Bound
from ..rounding import length, rounded_up, unit
from .tori import refuse_repeated_inputs
from .unfoldings import plain_kernel

ASSUMES = "any input size; circular, zero or no padding"


def delattre2024(
    kernel: Array, geometry: ConvGeometry, *, steps: int = 4, compute: Compute = DEFAULT
) -> Bound:
    """An upper bound without decompositions or input size, by autocorrelation of the kernel.

        K_0 = W,  K_{t+1} = sum_q K_t[q]^T K_t[q + .],
        upper = min( max_o sum_{i,q} |K_t[o, i, q]|,  sum_q ||K_t[q]||_F )^(1 / 2^t)

    `K_t` is the kernel of the operator `A_t = A_{t-1}^* A_{t-1}` on the infinite grid, where nothing is
    padded and autocorrelation is exact, so `||A|| = ||A_t||^(1 / 2^t)`. `A_t` is self-adjoint for t >= 1:
    its norm is at most its largest row sum of moduli (Schur's test), and at most the sum over the taps of
    `||K_t[q]||`. On the infinite grid `||A|| = sup ||S(theta)||`, which is at least the norm on every torus
    and, as part of one, of every zero-padded or unpadded input. Strides and dilations are taken out first
    by polyphase components (`bounds/unfoldings.py`), which leaves the sup unchanged.

    Arguments:
        kernel: as for `singular_values`, computed in double precision where the library has it.
        geometry: zero or no padding, or circular padding that wraps no further than around; sizes do not
            matter.
        steps: Gram iterations; the last kernel has `2^steps (k - 1) + 1` taps an axis.
        compute: of its `memory` alone: fewer steps are taken if the next kernel would not fit in so many
            bytes (never fewer than one). The bound holds after any number.

    Returns:
        `Bound` of the operator norm; its `status` says which sides are proven.

    Raises:
        GeometryError: padding that repeats the input otherwise; kernel and geometry do not fit.
        KernelError: as `singular_values`.
        InputError: steps below 1.

    Notes:
        Differentiable where no two of the row sums that are largest tie (there a subgradient); zero for the
        zero kernel.
        Cost: a Fourier transform of the kernel and a product of blocks for each frequency in every step, the
        last of which outweighs all others.

        Not guaranteed: tightness for many channels, whose kernels do not leave room for many steps.

    References:
        Delattre, Barthelemy and Allauzen (2024), for stride 1.

    Examples:
        >>> import numpy as np
        >>> laplacian = np.array([[[-1.0, 2.0, -1.0]]])
        >>> round(float(delattre2024(laplacian, ConvGeometry(3, padding=1)).upper), 9)  # the sup is 4
        4.0
    """
    return homogeneous(delattre2024_of, problem_of(kernel, geometry, compute), steps)


def delattre2024_of(problem: Problem, steps: int = 4) -> Bound:
    """`delattre2024` of a problem whose entries are in range."""
    check_count("steps", steps)
    kernel, correlation = problem.kernel, problem.correlation
    refuse_repeated_inputs("delattre2024", correlation)
    xp = namespace(kernel)
    wide = widened(problem).kernel
    current = plain_kernel(wide, correlation)
    logarithm, done = 0 * xp.max(wide), 0
    while done < steps and (done == 0 or _bytes_of_step(current) <= problem.compute.memory):
        current, size = unit(current, tuple(range(current.ndim)))
        logarithm = logarithm + xp.log(size) / 2**done
        current = _autocorrelation(current)
        done += 1
    current, size = unit(current, tuple(range(current.ndim)))
    logarithm = logarithm + xp.log(size) / 2**done
    taps = tuple(range(3, current.ndim))
    sums = xp.max(xp.sum(xp.abs(current), axis=(2, *taps)), axis=1)
    frobenius = xp.sum(length(current, (1, 2)), axis=tuple(axis - 2 for axis in taps))
    last = xp.max(xp.minimum(sums, frobenius))
    empty = last == 0
    last = xp.where(empty, 1 + last, last) ** (0.5**done) * xp.exp(logarithm)
    # Taps carry errors of (side + log) eps in each product and transform, by the kernel's Euclidean norm,
    # which is at most sqrt(side) times the operator's; as an operator they weigh sqrt(taps side) times more.
    side, count = current.shape[1], math.prod(current.shape[3:])
    slack = 1 + eps_of(wide) * (side + 64) * side * math.sqrt(count)
    upper = rounded_up(xp.where(empty, 0 * last, last), slack, kernel)
    return Bound(None, upper, method="delattre2024", assumes=ASSUMES)


def _bytes_of_step(kernel: Array) -> int:
    """Roughly what the next autocorrelation needs: its spectrum, that of the result, and the result twice."""
    groups, rows, columns, *sizes = map(int, kernel.shape)
    return 4 * 8 * groups * min(rows, columns) ** 2 * math.prod(2 * q - 1 for q in sizes)


def _autocorrelation(kernel: Array) -> Array:
    """The kernel of `A^* A` or `A A^*`, whichever has fewer channels, shape (groups, r, r, 2 q - 1)."""
    xp = namespace(kernel)
    taps = tuple(range(3, kernel.ndim))
    sizes = tuple(2 * kernel.shape[axis] - 1 for axis in taps)  # long enough that no shift wraps
    if math.prod(sizes) == 1:
        return smaller_gram(kernel[(..., *(0 for _ in taps))])[(..., *(None for _ in taps))]
    spectrum = xp.fft.rfftn(kernel, s=sizes, axes=taps)
    first = (*taps, 0, 1, 2)
    gram = smaller_gram(xp.permute_dims(spectrum, first))
    last = tuple(first.index(axis) for axis in range(kernel.ndim))
    wrapped = xp.fft.irfftn(xp.permute_dims(gram, last), s=sizes, axes=taps)
    return xp.roll(wrapped, tuple(n // 2 for n in sizes), axis=taps)
