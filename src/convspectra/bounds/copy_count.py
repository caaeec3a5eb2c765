"""An upper bound for any padding: circulant operators around the padded input, times what padding repeats."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np

from .._compat import Array, eps_of, namespace
from ..compute import DEFAULT, Compute
from ..errors import GeometryError
from ..geometry import ConvGeometry, Correlation
from ..operators.padded import sources
from ..problem import Problem, homogeneous, problem_of
from ..results import Bound
from ..rounding import rounded_down
from ..spectrum import top_on
from .reshaped_kernel import row_norm_below
from .tori import enclosing_tori, holding_tori, repeats_inputs


def copy_count(kernel: Array, geometry: ConvGeometry, *, sizes: int = 2, compute: Compute = DEFAULT) -> Bound:
    """An interval for any padding: reflection, replication, wrapping of any width and stride, zeros.

        upper = min_N ||circulant operator of N points|| sqrt(most copies of one input point)

    The layer is `B E`: `E` writes copies of input points into the padded input, and `B` is the convolution
    of that without padding, a part of the circulant operator on any torus that holds the padded input.
    `E^T E` is diagonal with the number of copies of each point, so `||E||` is the root of the largest: 1
    for zeros, 2 an axis (before the root) for reflection of less than half the input, `1 + padding` for
    replication. Only what some tap reads is counted; circular padding that wraps no further than around
    has its own torus, and copies nothing. `lower` is the norm of the rows of one output point,
    as in `reshaped_kernel`, taps added that read the same input point.

    Arguments:
        kernel: as for `singular_values`.
        geometry: any, of every padding mode.
        sizes: how many tori to try, from the smallest that holds the padded input.
        compute: how; see `Compute`.

    Returns:
        `Bound` of the operator norm; its `status` says which sides are proven.

    Raises:
        GeometryError: kernel and geometry do not fit, or reflect padding of a single point.
        KernelError: as `singular_values`.

    Notes:
        Differentiable in `upper` and `lower`, as `operator_norm` is: at ties a subgradient.
        Cost: that of `operator_norm` on the tori.

        Not guaranteed: tightness. Zero and circular padding have better bounds, the exact norm where the
        operator is circulant.

    References:
        Gray (2006), chapter 4, for the torus; the rest is elementary.

    Examples:
        >>> import numpy as np
        >>> laplacian = np.array([[[-1.0, 2.0, -1.0]]])
        >>> replicated = ConvGeometry(1, padding=1, padding_mode="replicate")  # the zero operator
        >>> bound = copy_count(laplacian, replicated)
        >>> round(float(bound.lower), 9), round(float(bound.upper), 3) >= 0
        (0.0, True)
    """
    return homogeneous(copy_count_of, problem_of(kernel, geometry, compute), sizes)


def copy_count_of(problem: Problem, sizes: int = 2) -> Bound:
    """`copy_count` of a problem whose entries are in range."""
    kernel, correlation = problem.kernel, problem.correlation
    tori, count = covering_tori(correlation, sizes)
    norms = [top_on(problem, torus).norm for torus in tori]
    norm = namespace(kernel).min(namespace(kernel).stack(norms))
    slack = math.sqrt(count) * (1 + 4 * eps_of(kernel))
    upper = (norm + problem.norm_error(norm)) * slack
    lower = rounded_down(row_norm_below(problem), 1.0, kernel)
    return Bound(lower, upper, method="copy_count", assumes="any padding, at the geometry's input size")


def covering_tori(correlation: Correlation, sizes: int) -> tuple[list[Correlation], int]:
    """Tori of any padding, and n, with `||operator|| <= sqrt(n) ||torus||` for each of them.

    Raises:
        GeometryError: reflect padding of a single point.
    """
    if repeats_inputs(correlation):
        return enclosing_tori(_unpadded(correlation), sizes), copies(correlation)
    return holding_tori("copy_count", correlation, sizes), 1


def copies(correlation: Correlation) -> int:
    """How many padded points that are read copy one input point, at most: `E^T E <= copies`."""
    most = 1
    for axis in range(len(correlation.kernel_size)):
        outputs = correlation.stride[axis] * np.arange(correlation.output_shape[axis])
        taps = correlation.dilation[axis] * np.arange(correlation.kernel_size[axis])
        read = sources(correlation, axis)[np.unique(outputs[:, None] + taps)]
        counts = np.bincount(read[read >= 0])
        most *= int(counts.max()) if counts.size else 0
    return most


@lru_cache(maxsize=256)
def copies_at_any_size(correlation: Correlation, same: bool = False) -> int:
    """The most that padding can multiply the square of the norm by, over all input sizes; 1 for zeros.

        ||operator||^2 <= copies * sup_theta ||S(theta)||^2,   a product over the axes

    Along an axis of n points it is the least of two. The first: `copies`, of what is read. The second, where
    the padded input is a part of a periodic one, of N points a period (n where it wraps, 2 (n - 1) where it
    mirrors, 1 for one point repeated) of which each input point is c: repeated until the stride s divides it,
    `s / g` times with `g = gcd(N, s)`, it lies on a torus, whose `N / g` outputs are those of the layer as
    often as they fit; so `(s / g) c ceil(outputs g / N)`.

    Both depend on n modulo the stride alone once n exceeds what the padding and the kernel reach over: up to
    there, and for one round of the stride more, every size is looked at.

    Arguments:
        same: the padding is that of `padding="same"`, whose width depends on n; else the one that is given.

    Raises:
        GeometryError: that would be thousands of sizes.
    """
    if correlation.padding_mode == "zeros" or not (same or any(map(any, correlation.padding))):
        return 1
    return math.prod(_copies_along(correlation, axis, same) for axis in range(len(correlation.kernel_size)))


_MOST_POINTS = 2**11
"""Padded points up to which `copies_at_any_size` looks at every size."""


def _copies_along(correlation: Correlation, axis: int, same: bool) -> int:
    (before, after), reach = correlation.padding[axis], correlation.reach[axis]
    s, mode = correlation.stride[axis], correlation.padding_mode
    if not (same or before + after):
        return 1
    width = reach if same else before + after
    last = 2 * (width + reach + 2 * s + 2)
    if last > _MOST_POINTS:
        raise GeometryError(
            f"guarantee='any_size' looks at the sizes that axis {axis} can have, {last} of them "
            f"with {mode} padding of {width} points, a kernel over {reach + 1} and stride {s}: take "
            "guarantee='layer'"
        )
    most = 1
    for n in range(1, last + 1):
        if same:
            width = max((-(-n // s) - 1) * s + reach + 1 - n, 0)
            before, after = width // 2, width - width // 2
        outputs = (n + before + after - reach - 1) // s + 1
        if outputs < 1 or (mode == "reflect" and n == 1):  # no such layer
            continue
        alone = replace(
            correlation,
            input_shape=(n,),
            output_shape=(outputs,),
            kernel_size=(correlation.kernel_size[axis],),
            stride=(s,),
            dilation=(correlation.dilation[axis],),
            padding=((before, after),),
        )
        found = copies(alone)
        if mode != "replicate" or n == 1:
            period = 2 * (n - 1) if mode == "reflect" else n
            shared = math.gcd(period, s)
            each = 2 if mode == "reflect" and n > 2 else 1
            found = min(found, s // shared * each * -(-outputs * shared // period))
        most = max(most, found)
    return most


def _unpadded(correlation: Correlation) -> Correlation:
    """The convolution of the padded input, of which only what is read counts."""
    sides = zip(correlation.output_shape, correlation.stride, correlation.reach, strict=True)
    return replace(
        correlation,
        input_shape=tuple(s * (m - 1) + 1 + reach for m, s, reach in sides),
        padding=((0, 0),) * len(correlation.stride),
        padding_mode="zeros",
    )
