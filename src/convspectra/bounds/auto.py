"""The norm of a layer as its geometry pads: exact where it can be had, a proven interval elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from numbers import Real
from typing import Any

import numpy as np

from .._compat import Array, is_tracked, like, namespace, to_numpy
from ..checks import check_word
from ..compute import DEFAULT, Compute
from ..cost import of_applications, of_matrix, seconds_of_blocks
from ..errors import CostError, InputError
from ..geometry import ConvGeometry, Correlation
from ..operators.lanczos import start_vector
from ..operators.padded import operator
from ..problem import Problem, homogeneous, in_numpy, problem_of
from ..results import Bound
from ..rounding import around, rounded_down, rounded_up
from ..spectrum import spectrum_on, top_on
from ..supremum import supremum
from . import dense
from .araujo2021 import araujo2021_of
from .circulant_embedding import ASSUMES, circulant_embedding_of
from .copy_count import copy_count_of
from .delattre2023 import delattre2023_of
from .delattre2024 import delattre2024_of
from .duffin1938 import duffin1938_of
from .frobenius import frobenius_of
from .grishina2024 import grishina2024_of
from .holder import holder_of
from .pfister2018 import pfister2018_of
from .reshaped_kernel import reads_upper, reshaped_kernel_of, row_norm_below
from .rump2006 import cost_of_certificate, lanczos, norm_below, quick_certificate, rump2006_of
from .singla2021 import singla2021_of
from .tapered_wave import tapered_wave_gain
from .tori import enclosing_tori
from .wave_packet import wave_packet_of

NumpyArray = np.ndarray[Any, Any]

WIDE = 0.01
"""Relative width that no more work is done for, unless a tolerance is given."""

QUICK = 0.2
"""Seconds, roughly, that are spent on a wide interval without a tolerance."""

_MOST = 30.0
"""Seconds, roughly, that a tolerance may ask for."""


def operator_norm(
    kernel: Array,
    geometry: ConvGeometry,
    *,
    method: str = "auto",
    tolerance: float | None = None,
    seconds: float | None = None,
    start: Array | None = None,
    compute: Compute = DEFAULT,
) -> Bound:
    """The largest factor by which a convolution can stretch its input (Euclidean norms): any boundary.

    Exact (`bound.exact`) for block-circulant operators, wrapped boundaries and boundaries that are never
    read, where both sides are equal; and for small operators, whose matrix is decomposed, where they differ
    by the allowance for rounding. Elsewhere both sides are proven:

        lower   the largest of: the rows of one output point (`bounds.reshaped_kernel`), the gain of a
                wave packet (`bounds.wave_packet`), those of Golub-Kahan-Lanczos vectors (`lanczos.py`)
        upper   the least of: circulant operators that hold this one (`bounds.circulant_embedding`), times
                the root of the number of copies where padding copies the input; the reshaped kernel times
                the root of the number of reads; the bound for any size (`bounds.duffin1938`); what a
                Cholesky factorisation proves (`bounds.rump2006`)

    and never the circular value in disguise.

    Arguments:
        kernel: as for `singular_values`. Derivatives are those of the certificate; nothing that has none is
            tried for a kernel whose derivative is wanted, or that JAX traces.
        geometry: any.
        method: `"auto"`, all of that; or the name of one method of `convspectra.bounds`, whose result then
            comes as it is: an upper bound alone, mostly.
        tolerance: asks for `upper / lower <= 1 + tolerance`. Work stops when it is reached; without it, or
            where nothing more can be done, the interval is as wide as it is. Default: what takes about 0.2
            s at the most, and where padding copies the input 1 s more, for intervals wider than 1 %.
        seconds: of work after the first certificate, about: the tightest interval that can be had in it, or
            the first within `tolerance`. What would take longer, as far as can be told, is not begun; what
            is done in the end depends on how fast the machine is.
        start: shape (channels, *input_shape) of the layer's input: from where the Krylov method goes, for
            example a right singular vector found before. Only the lower bound depends on it.
        compute: how; see `Compute`.

    Returns:
        `Bound` of the operator norm; its `status` says which sides are proven.

    Raises:
        InputError: a negative tolerance, seconds that are not positive, a start of another shape, an
            unknown method, or one with a tolerance, seconds or a start.
        GeometryError: kernel and geometry do not fit; padding by reflection over an axis of one point.
        KernelError: the kernel is no real array, or has NaN or infinite entries.

    Notes:
        Not guaranteed: that the tolerance is reached. With reflect and replicate padding the interval is wide
        where a factorisation takes longer than is allowed: its price grows with the number of channels and
        the shorter side of the map, each to the third power.

    Examples:
        >>> import numpy as np
        >>> identity = np.eye(4).reshape(4, 4, 1, 1)
        >>> bound = operator_norm(identity, ConvGeometry(input_shape=(8, 8)))
        >>> bound.status, float(bound.upper)
        ('exact', 1.0)
        >>> laplacian = np.array([[[-1.0, 2.0, -1.0]]])
        >>> geometry = ConvGeometry(input_shape=3, padding=1, padding_mode="reflect")
        >>> mirrored = operator_norm(laplacian, geometry)
        >>> mirrored.status, round(float(mirrored.upper), 6)  # its torus has 3
        ('exact', 4.242641)
    """
    for name, number, holds, words in (
        ("tolerance", tolerance, lambda x: x >= 0, "at least 0"),
        ("seconds", seconds, lambda x: x > 0, "positive"),
    ):
        if number is not None and not (isinstance(number, Real) and holds(number)):
            raise InputError(f"{name} must be a number, {words}; got {number!r}")
    if method != "auto":
        if not tolerance is seconds is start is None:
            raise InputError(f"tolerance, seconds and start are for method='auto'; method is {method!r}")
        check_word("method", method, ("auto", *_METHODS))
        return homogeneous(_METHODS[method], problem_of(kernel, geometry, compute))
    problem = problem_of(kernel, geometry, compute)
    return homogeneous(operator_norm_of, problem, tolerance, seconds, start)


def operator_norm_of(
    problem: Problem, tolerance: float | None = None, seconds: float | None = None, start: Array | None = None
) -> Bound:
    """`operator_norm` of a problem whose entries are in range."""
    correlation = problem.correlation
    copies = correlation.padding_mode != "zeros" and any(map(any, correlation.padding))
    whatever_size = None
    if not (correlation.is_circulant or copies or is_tracked(problem.kernel)):
        whatever_size = _at_any_size(problem)
    if whatever_size is not None and seconds is start is None:
        low, high = _sides(whatever_size)
        if high <= low * (1 + (WIDE if tolerance is None else tolerance)):
            return whatever_size
    try:
        layer = operator(problem.kernel, correlation)
    except CostError:
        if whatever_size is None:
            raise
        return whatever_size  # maps that the layer cannot be applied to: nothing below would be
    first = None if start is None else start_vector(start, layer.x_shape)
    if correlation.is_circulant:
        norm = top_on(problem, correlation).norm
        return around(norm, problem.norm_error(norm), "symbol")
    if correlation.groups > 1 and not copies and not is_tracked(problem.kernel):
        # Each group's largest value is needed below, and tells which is the largest of all.
        spectrum_on(problem, enclosing_tori(correlation, 1)[0])
    certified = _certified(problem, copies)
    if is_tracked(problem.kernel):
        return certified
    # Without a clock the same work is done, with the same result, however fast the machine is.
    left, end = _MOST, math.inf
    if seconds is not None:
        left, end = math.inf, time.monotonic() + seconds
    elif tolerance is None:
        left = QUICK + (quick_certificate(correlation).seconds if copies else 0.0)
    most = left if seconds is None else seconds
    if tolerance is None:
        tolerance = WIDE if seconds is None else 0.0
    search = _Search(problem, copies, *_sides(certified), certified.method, most, end)
    if whatever_size is not None:
        search.raise_to(_sides(whatever_size)[0], "tapered_wave")
        search.take(replace(whatever_size, method="duffin1938"))
    for expected, refine in search.refinements(first, tolerance):
        if search.upper <= search.lower * (1 + tolerance):
            break
        if expected <= min(left, end - time.monotonic()):
            left -= expected
            refine()
    return search.bound(certified)


_METHODS: dict[str, Callable[[Problem], Bound]] = {
    "araujo2021": araujo2021_of,
    "circulant_embedding": circulant_embedding_of,
    "copy_count": copy_count_of,
    "delattre2023": delattre2023_of,
    "delattre2024": delattre2024_of,
    "duffin1938": duffin1938_of,
    "frobenius": frobenius_of,
    "grishina2024": grishina2024_of,
    "holder": holder_of,
    "pfister2018": pfister2018_of,
    "reshaped_kernel": reshaped_kernel_of,
    "rump2006": rump2006_of,
    "singla2021": singla2021_of,
    "wave_packet": wave_packet_of,
}


def _sides(bound: Bound) -> tuple[float, float]:
    """What is known from below and from above, as floats."""
    lower = 0.0 if bound.lower is None else float(bound.lower)
    return lower, math.inf if bound.upper is None else float(bound.upper)


_ROUGH = 2e-3
"""Width of the supremum over all frequencies, as the upper bound of a layer at its size."""


def _at_any_size(problem: Problem) -> Bound | None:
    """An interval by the supremum over all frequencies, where that is cheaper than tori around the layer."""
    c = problem.correlation
    blocks = sum(math.prod(torus.output_shape) // 2 + 1 for torus in enclosing_tori(c, 2))
    along = [n + k * m for n, k, m in zip(c.input_shape, c.kernel_size, c.output_shape, strict=True)]
    if (
        blocks < FEWEST_BLOCKS
        or of_matrix(c).seconds <= QUICK / 2
        or 16 * max(along) > problem.compute.memory
    ):
        return None
    top = supremum(problem, _ROUGH, 2 * blocks)
    if top is None:
        return None
    kernel = problem.kernel
    ours, lower = to_numpy(kernel), max(tapered_wave_gain(problem, top), float(row_norm_below(problem)))
    return Bound(
        like(rounded_down(np.float64(lower), 1.0, ours), kernel, kernel.dtype),
        like(rounded_up(np.float64(top.upper), 1.0, ours), kernel, kernel.dtype),
        method="duffin1938, tapered_wave",
        assumes=ASSUMES,
    )


_NEAR = 0.2
"""Where the residual is at most this times the root of a width, the value is mostly within the width."""

FEWEST_BLOCKS = 200
"""On two tori around a layer: the supremum takes as long as about so many."""


def _certified(problem: Problem, copies: bool) -> Bound:
    """What plain array operations give: the interval of a traced or differentiated kernel."""
    if not copies:
        return circulant_embedding_of(problem)
    every, copied = reads_upper(problem), copy_count_of(problem)
    upper = namespace(problem.kernel).minimum(copied.upper, every)
    return Bound(copied.lower, upper, method="copy_count", assumes="the geometry's padding and input size")


@dataclass
class _Search:
    """An interval in float64 that shrinks, and by which methods.

    Attributes:
        copies: padding copies the input.
        most: seconds that anything may take.
        deadline: of `time.monotonic`.
        residual: of the last Krylov vector, relative to its value.
        unproven: the largest number up to which a factorisation has failed.
    """

    problem: Problem
    copies: bool
    lower: float
    upper: float
    method: str
    most: float
    deadline: float
    residual: float = math.inf
    unproven: float = 0.0
    exact: bool = False
    raised_by: str = ""
    changed: bool = False

    def refinements(
        self, start: NumpyArray | None, tolerance: float
    ) -> Iterator[tuple[float, Callable[[], None]]]:
        """What can be tried, the cheapest first, and how many seconds it takes, roughly."""
        each, torus = self.seconds_each(), self.seconds_a_torus()
        yield each * 24, partial(self.krylov, start, 24)
        uppers = self.group_uppers()
        whole = self.seconds_to_decompose(uppers)
        if whole <= QUICK / 2:
            yield whole, partial(self.decompose, uppers)
        if not self.copies:
            yield self.seconds_any_size(8), self.any_size
        if whole > QUICK / 2:
            yield whole, partial(self.decompose, uppers)
        widths = (tolerance, tolerance, tolerance, 8 * tolerance) if tolerance else (1e-2, 1e-3, 1e-6, 0.1)
        for applications, width in zip((0, 100, 400, 0), widths, strict=True):
            if applications:
                yield each * applications, partial(self.krylov, start, applications)
            yield self.seconds_to_factorise(width), partial(self.factorise, uppers, width)
        for sizes in (4, 8):
            yield torus * sizes, partial(self.more_tori, sizes)

    @property
    def correlation(self) -> Correlation:
        return self.problem.correlation

    def seconds_each(self) -> float:
        """Of one application in a Krylov method, which orthogonalises, of a group where none is copied."""
        return (
            2 * of_applications(self.correlation, 1).seconds / (1 if self.copies else self.correlation.groups)
        )

    def seconds_a_torus(self) -> float:
        """Of the largest singular value on a torus around the layer."""
        sides = zip(self.correlation.input_shape, self.correlation.stride, strict=True)
        return self.seconds_of_blocks(math.prod(-(-n // s) for n, s in sides))

    def seconds_any_size(self, oversampling: int) -> float:
        """Likewise, where so many points are sampled for each tap's reach."""
        reach = zip(self.correlation.reach, self.correlation.stride, strict=True)
        return self.seconds_of_blocks(math.prod(max(1, oversampling * n // s) for n, s in reach))

    def seconds_of_blocks(self, frequencies: int) -> float:
        return 1e-3 + seconds_of_blocks(self.correlation, frequencies / 2)

    def group_uppers(self) -> NumpyArray:
        """An upper bound for each group."""
        c = self.correlation
        if c.groups == 1 or self.copies:
            return np.full(c.groups, self.upper)
        values = to_numpy(spectrum_on(self.problem, enclosing_tori(c, 1)[0]).values).astype(np.float64)
        largest = values.max(axis=1).reshape(-1, c.groups).max(axis=0)
        above = largest + [self.problem.norm_error(float(norm)) for norm in largest]
        return np.asarray(np.minimum(above * (1 + 1e-15), self.upper))

    def seconds_to_decompose(self, uppers: NumpyArray) -> float:
        cost = of_matrix(self.correlation)
        if cost.memory > self.problem.compute.memory:
            return math.inf
        return int((uppers > self.lower).sum()) * cost.seconds

    def decompose(self, uppers: NumpyArray) -> None:
        low, high = dense.dense_norm(in_numpy(self.problem).kernel, self.correlation, self.lower, uppers)
        self.raise_to(low, "dense")
        self.take(Bound(None, high, method="dense"))
        # Not exact if the lower bound stays that of a group that needed no decomposition.
        self.exact = self.upper <= self.lower * (1 + 1e-9)

    def krylov(self, start: NumpyArray | None, applications: int) -> None:
        found = lanczos(self.problem, start, applications=applications)
        if found is not None:
            value = float(found.values[0])
            self.raise_to(value, "krylov")
            self.residual = float(found.residuals[0]) / value if value > 0 else math.inf

    def seconds_to_factorise(self, width: float) -> float:
        """Infinite where it would prove nothing new, or is likely to fail."""
        cost, limit = cost_of_certificate(self.correlation, self.most), self.lower * (1 + width)
        if (
            cost.memory > self.problem.compute.memory
            or not self.unproven * (1 + width / 8) < limit < self.upper
        ):
            return math.inf
        return cost.seconds if self.residual <= _NEAR * math.sqrt(width) else math.inf

    def factorise(self, uppers: NumpyArray, width: float) -> None:
        limit = self.lower * (1 + width)
        proven = norm_below(self.problem, limit, self.lower, uppers, self.deadline)
        if math.isinf(proven):
            self.unproven = limit
        self.take(Bound(None, proven, method="rump2006"))

    def more_tori(self, sizes: int) -> None:
        self.take((copy_count_of if self.copies else circulant_embedding_of)(self.problem, sizes))

    def any_size(self) -> None:
        found = duffin1938_of(self.problem)
        off = self.problem.norm_error(found.upper) if found.exact else 0.0
        if found.upper is not None:
            self.take(replace(found, upper=float(found.upper) + off))

    def raise_to(self, lower: float, method: str) -> None:
        if lower > self.lower:
            self.lower, self.raised_by, self.changed = lower, method, True

    def take(self, found: Bound) -> None:
        """An upper bound, if it is less than what is known."""
        if found.upper is not None and float(found.upper) < self.upper:
            self.upper, self.method, self.changed = float(found.upper), found.method, True

    def bound(self, certified: Bound) -> Bound:
        """The result in the kernel's library and precision, rounded outwards."""
        if not self.changed:
            return certified
        kernel = self.problem.kernel
        ours = to_numpy(kernel)
        low = rounded_down(np.float64(self.lower), 1.0, ours)
        high = rounded_up(np.float64(self.upper), 1.0, ours)
        return Bound(
            like(low, kernel, kernel.dtype),
            like(high, kernel, kernel.dtype),
            # Of an exact norm, rounding alone decides which lower bound is the larger one.
            method=", ".join(
                dict.fromkeys(filter(None, (self.method, "" if self.exact else self.raised_by)))
            ),
            exact=self.exact,
            assumes=certified.assumes,
        )
