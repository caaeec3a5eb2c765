"""An upper bound from matrix products alone: Gram iteration on the blocks of the symbol."""

from __future__ import annotations

from .._compat import Array, namespace
from .._solvers.array_api import smaller_gram, with_entries_near_one
from ..checks import check_count
from ..compute import DEFAULT, Compute
from ..geometry import ConvGeometry, Correlation
from ..problem import Problem, homogeneous, problem_of, widened
from ..results import Bound
from ..rounding import less, matrix_allowance, rounded_down, rounded_up, unit
from ..spectrum import over_blocks
from ..symbol import FrequencyGrid, symbol_blocks
from .tori import holding_tori

ASSUMES = "zero, no or circular padding, at the geometry's input size"


def delattre2023(
    kernel: Array, geometry: ConvGeometry, *, steps: int = 6, sizes: int = 1, compute: Compute = DEFAULT
) -> Bound:
    """An upper bound without any decomposition; both sides where the operator is circulant.

        G_0 = S(g),  G_{t+1} = G_t^H G_t,        upper = max_g ||G_t||_F^(1 / 2^t)

    since `||S|| = ||G_t||^(1 / 2^t)` and the spectral norm is at most Frobenius'. As `||G_t||_F` is at
    most `sqrt(r)` times `||G_t||`, `r` the smaller side of a block, `upper` is at most
    `r^(1 / 2^(t + 1))` times the torus' norm: 3.3 % for 64 channels and six steps. Each `G_t` is divided
    by its Frobenius norm, whose logarithm is kept, so that nothing leaves the floating range. With zero or
    no padding the torus is one that holds the layer (`bounds/tori.py`): the input's own is no bound there.

    Arguments:
        kernel: as for `singular_values`, computed in double precision where the library has it.
        geometry: zero or no padding, or circular padding that wraps no further than around.
        steps: Gram iterations.
        sizes: how many holding tori to try, from the smallest.
        compute: how; see `Compute`.

    Returns:
        `lower` is `upper` divided by the factor above for a circulant operator, else None.

    Raises:
        GeometryError: padding that repeats the input otherwise; kernel and geometry do not fit.
        KernelError: as `singular_values`.
        InputError: steps below 1.

    Notes:
        Differentiable: matrix products and norms only; finite at ties, and zero for the zero kernel.
        Cost: `steps` products of blocks for each of half of the frequencies.

    References:
        Delattre, Barthelemy, Araujo and Allauzen (2023), Algorithm 3.

    Examples:
        >>> import numpy as np
        >>> laplacian = np.array([[[-1.0, 2.0, -1.0]]])
        >>> wrapped = ConvGeometry(4, padding=1, padding_mode="circular")
        >>> round(float(delattre2023(laplacian, wrapped).upper), 9)  # one channel: exact
        4.0
    """
    return homogeneous(delattre2023_of, problem_of(kernel, geometry, compute), steps, sizes)


def delattre2023_of(problem: Problem, steps: int = 6, sizes: int = 1) -> Bound:
    """`delattre2023` of a problem whose entries are in range."""
    check_count("steps", steps)
    kernel, correlation = problem.kernel, problem.correlation
    tori = holding_tori("delattre2023", correlation, sizes)
    xp = namespace(kernel)
    wide = widened(problem).kernel
    norm = xp.min(xp.stack([_largest(wide, torus, steps, problem.compute) for torus in tori]))
    rows, columns = tori[0].block_shape
    slack, off = matrix_allowance(wide, rows, columns), widened(problem).symbol_error()
    upper = rounded_up(norm * slack + off, 1.0, kernel)
    lower = None
    if correlation.is_circulant:
        excess = float(min(rows, columns)) ** (0.5 ** (steps + 1))
        lower = rounded_down(less(norm / (slack * excess), off), 1.0, kernel)
    return Bound(lower, upper, method="delattre2023", assumes=ASSUMES)


def _largest(kernel: Array, torus: Correlation, steps: int, compute: Compute) -> Array:
    """The bound on one torus."""
    xp = namespace(kernel)

    def task(part: FrequencyGrid) -> Array:
        return xp.max(gram_iteration(symbol_blocks(kernel, torus, part), steps))

    return xp.max(xp.stack(over_blocks(task, kernel, torus, compute)))


def gram_iteration(blocks: Array, steps: int) -> Array:
    """`||G_t||_F^(1 / 2^t)` of each block, shape (...)."""
    xp = namespace(blocks)
    gram, entry = with_entries_near_one(blocks)
    logarithm = 0 * entry
    for done in range(steps):
        gram, size = unit(gram, (-2, -1))
        logarithm = logarithm + xp.log(size) / 2**done
        gram = smaller_gram(gram)
    _, size = unit(gram, (-2, -1))
    logarithm = logarithm + xp.log(size) / 2**steps
    empty = xp.all(blocks == 0, axis=(-2, -1))
    return xp.where(empty, 0 * entry, entry * xp.exp(logarithm))
