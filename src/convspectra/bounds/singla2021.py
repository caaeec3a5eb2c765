"""An upper bound for every input size from reshaped kernels: the "fantastic four", in any dimension."""

from __future__ import annotations

from .._compat import Array
from ..compute import DEFAULT, Compute
from ..geometry import ConvGeometry
from ..problem import Problem, homogeneous, problem_of, widened
from ..results import Bound
from .tori import refuse_repeated_inputs
from .unfoldings import plain_kernel, subsets, unfolding_upper

ASSUMES = "any input size; circular, zero or no padding"


def singla2021(kernel: Array, geometry: ConvGeometry, *, compute: Compute = DEFAULT) -> Bound:
    """The least of `2^D` reshaped kernels' norms, times the root of the number of taps.

        upper = sqrt(q_1 ... q_D) min_A || W reshaped to (C_out, taps along A) x (C_in, all other taps) ||

    over the sets `A` of axes: in two dimensions the four matrices of the paper. Proof: the symbol is
    `S(theta) = (I x a)^T W_A (I x b)` with the phases `exp(i theta.p)` along `A` in the vector `a` and all
    others in `b`, of lengths `sqrt(prod_A q)` and `sqrt(prod_rest q)`; and `sup ||S||` bounds every torus
    and, as a part of one, every zero-padded or unpadded input. With a stride the same is said of the
    polyphase form (`bounds/unfoldings.py`): components become channels, and an axis counts
    `q = ceil(k gcd(s, d) / s)` taps instead of `k`; dilation alone changes nothing.

    Arguments:
        kernel: as for `singular_values`, computed in double precision where the library has it.
        geometry: zero or no padding, or circular padding that wraps no further than around; sizes do not
            matter.
        compute: how; see `Compute`.

    Returns:
        `Bound` of the operator norm; its `status` says which sides are proven.

    Raises:
        GeometryError: padding that repeats the input otherwise; kernel and geometry do not fit.
        KernelError: as `singular_values`.

    Notes:
        Differentiable, with finite gradients at ties of singular values and zero ones for the zero kernel.
        Cost: `2^D` eigenvalue decompositions of at most `C sqrt(prod q)` rows or so.

        Not guaranteed: tightness: up to `sqrt(prod q)` above the norm, that of a delta for one.

    References:
        Singla and Feizi (2021), Fantastic four: differentiable bounds on singular values of convolution
        layers, for two dimensions and stride 1.

    Examples:
        >>> import numpy as np
        >>> box = np.ones((1, 1, 3, 3))
        >>> round(float(singla2021(box, ConvGeometry((8, 8), padding=1)).upper), 9)
        9.0
    """
    return homogeneous(singla2021_of, problem_of(kernel, geometry, compute))


def singla2021_of(problem: Problem) -> Bound:
    """`singla2021` of a problem whose entries are in range."""
    refuse_repeated_inputs("singla2021", problem.correlation)
    plain = plain_kernel(widened(problem).kernel, problem.correlation)
    upper = unfolding_upper(problem, plain, subsets(plain, 3, all_of_them=True))
    return Bound(None, upper, method="singla2021", assumes=ASSUMES)
