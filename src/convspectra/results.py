"""What comes back: frozen records whose every number says what it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ._compat import Array, eps_of, like, namespace, to_numpy
from .checks import check_exponent
from .errors import InputError

if TYPE_CHECKING:
    from .symbol import FrequencyGrid

Status = Literal["exact", "interval", "upper", "lower"]


@dataclass(frozen=True)
class Bound:
    """What is known of an operator norm: `lower <= norm <= upper`.

    Attributes:
        lower: scalar array, proven under `assumes`; None where nothing is known from below.
        upper: likewise from above.
        method: the name of the method that gave it.
        exact: both are the norm itself, up to rounding of at most 1e-9 of it (1e-3 computed in
            float32). Where rounding may be more, as where taps cancel, the bound is an interval.
        assumes: what the proof takes for granted, in words; empty where nothing.
    """

    lower: Array | None
    upper: Array | None
    method: str
    exact: bool = False
    assumes: str = ""

    @property
    def status(self) -> Status:
        """`"exact"`, `"interval"` (both sides), `"upper"` or `"lower"`."""
        if self.exact:
            return "exact"
        if self.lower is None:
            return "upper"
        return "lower" if self.upper is None else "interval"


@dataclass(frozen=True)
class Projection:
    """A kernel whose singular values were changed, and what is known of the change.

    Attributes:
        kernel: in the layout, dtype (at least float32) and library of the given one.
        norm_before: operator norm of the given kernel, of the operator that `guarantee` names: exact on
            the torus, else a proven upper bound. Scalar array without gradient. None where it was not
            asked for.
        norm: likewise of this kernel.
        guarantee: which operator: `"layer"`, `"torus"` or `"any_size"`.
        iterations: sweeps of decompositions over all frequencies.
        gap: proven bound of `(d^2 - d_min^2) / 2`, with d the distance of this kernel from the given
            one and d_min that of the nearest kernel in the ball (Euclidean, over the taps); None where
            nothing of the kind is proven.
        dual: state to start the next call from; None where there is none.
    """

    kernel: Array
    norm_before: Array | None
    norm: Array | None
    guarantee: str = "layer"
    iterations: int = 0
    gap: float | None = None
    dual: Array | None = None

    @property
    def distance_to_nearest(self) -> float | None:
        """Proven: the nearest kernel in the ball is no further from this one; `sqrt(2 gap)`."""
        return None if self.gap is None else math.sqrt(2 * max(self.gap, 0.0))


@dataclass(frozen=True)
class Spectrum:
    """The singular values of a block-circulant operator, with their multiplicities.

    Attributes:
        values: shape (blocks, r), each row descending; blocks are (frequency, group) pairs with
            the group running fastest.
        multiplicity: shape (blocks,), NumPy integers: how many equal blocks a row stands for.
        grid: which frequencies the rows belong to.
        groups: number of groups.
        error: how far each value may be from the true one, both in descending order: absolute, proven
            generously. Of rounding a small multiple of what the moduli of the taps add up to, so that values
            of taps that cancel, and those far below the norm, may be nothing but rounding; where the spectrum
            is sampled that of sampling, too. An array while JAX traces.
        norm_interval: of a spectrum that is sampled, proven bounds of the largest singular value; else None.
        zero_columns: of each block, columns that no tap reads, as far as they make singular values: the last
            so many of each row of `values` are zeros whatever the kernel is.

    Notes:
        Every property is that of values which are exact up to `error`.
    """

    values: Array
    multiplicity: np.ndarray[Any, Any]
    grid: FrequencyGrid
    groups: int
    error: Any
    norm_interval: tuple[float, float] | None = None
    zero_columns: int = 0

    @property
    def sampled(self) -> bool:
        """Whether values of a smaller torus stand for those of the operator.

        Then `grid` is that of the smaller torus, and every value is an estimate, its error proven.
        """
        return self.norm_interval is not None

    def _weights(self) -> Array:
        return like(self.multiplicity[:, None], self.values, self.values.dtype)

    @property
    def count(self) -> int:
        """Number of singular values, zeros included: the smaller side of the operator's matrix."""
        return int(self.multiplicity.sum()) * int(self.values.shape[1])

    @property
    def norm(self) -> Array:
        """The operator norm: the largest singular value; see `norm_interval`."""
        return namespace(self.values).max(self.values)

    @property
    def structural_zeros(self) -> int:
        """How many singular values are 0 because no tap reads the input there: strides beyond the kernel."""
        return int(self.multiplicity.sum()) * self.zero_columns

    @property
    def smallest(self) -> Array:
        """The smallest singular value, those that are `structural_zeros` left out."""
        return namespace(self.values).min(self.values[:, : self.values.shape[1] - self.zero_columns])

    @property
    def condition_number(self) -> Array:
        """`norm / smallest`, without `structural_zeros`; infinite where the smallest is zero."""
        xp = namespace(self.values)
        smallest, infinity = self.smallest, like(math.inf, self.values, self.values.dtype)
        singular = smallest == 0
        return xp.where(singular, infinity, self.norm / xp.where(singular, 1 + smallest, smallest))

    @property
    def nuclear_norm(self) -> Array:
        """The sum of all singular values."""
        return namespace(self.values).sum(self._weights() * self.values)

    @property
    def frobenius_norm(self) -> Array:
        """The root of the sum of their squares."""
        return self.schatten_norm(2)

    def schatten_norm(self, p: float) -> Array:
        """`(sum sigma^p)^(1/p)` for p >= 1; `p = inf` is the operator norm.

        Arguments:
            p: the exponent, at least 1.

        Returns:
            A scalar array of the kernel's library.

        Raises:
            InputError: p below 1.
        """
        check_exponent(p)
        if math.isinf(p):
            return self.norm
        xp = namespace(self.values)
        # Scaled by the largest, so that neither tiny nor huge values leave the floating range.
        scale = xp.where(self.norm > 0, self.norm, 1 + self.norm)
        return scale * xp.sum(self._weights() * (self.values / scale) ** p) ** (1 / p)

    @property
    def stable_rank(self) -> Array:
        """`||A||_F^2 / ||A||^2`; 0 for the zero operator."""
        xp = namespace(self.values)
        return xp.sum(self._weights() * self._ratios() ** 2)

    @property
    def effective_rank(self) -> Array:
        """`exp(entropy)` of the singular values divided by their sum; 0 for the zero operator.

        References:
            Roy and Vetterli (2007), The effective rank: a measure of effective dimensionality.
        """
        xp = namespace(self.values)
        ratios = self._ratios()
        total = xp.sum(self._weights() * ratios)
        share = ratios / xp.where(total > 0, total, 1 + total)
        logs = xp.log(xp.where(share > 0, share, 1 + share))
        entropy = -xp.sum(self._weights() * share * logs)
        return xp.where(total > 0, xp.exp(entropy), total)

    def rank(self, tolerance: float | None = None) -> int:
        """Number of singular values above a tolerance.

        Arguments:
            tolerance: absolute. Default: the largest side of a block times the machine epsilon times the
                norm, the rule of `numpy.linalg.matrix_rank`, or `error` where that is larger.

        Returns:
            The number, each value counted as often as it occurs.
        """
        values = to_numpy(self.values)
        if tolerance is None:
            side = max(self.grid.block_shape)
            tolerance = max(side * eps_of(values) * float(values.max()), float(self.error))
        return int(((values > tolerance).sum(axis=1) * self.multiplicity).sum())

    @property
    def log_volume(self) -> Array:
        """The sum of `log sigma`: `log |det|` for a square operator; -inf where one is zero."""
        xp = namespace(self.values)
        positive = self.values > 0
        infinity = like(-math.inf, self.values, self.values.dtype)
        logs = xp.log(xp.where(positive, self.values, 1 + xp.zeros_like(self.values)))
        return xp.where(xp.all(positive), xp.sum(self._weights() * logs), infinity)

    def sorted(self) -> Array:
        """All `count` singular values, descending, each as often as it occurs.

        Returns:
            Shape (count,), an array of the kernel's library.
        """
        xp = namespace(self.values)
        rows = np.repeat(np.arange(len(self.multiplicity)), self.multiplicity)
        repeated = xp.take(self.values, like(rows, self.values), axis=0)
        return xp.sort(xp.reshape(repeated, (-1,)), descending=True)

    def quantiles(self, q: float | Sequence[float]) -> np.ndarray[Any, Any]:
        """Quantiles of all singular values, interpolated linearly as `numpy.quantile` does.

        Arguments:
            q: one level in [0, 1], or several.

        Returns:
            NumPy array of the shape of `q`.

        Raises:
            InputError: q outside [0, 1].
        """
        levels = np.asarray(q, dtype=np.float64)
        if not ((levels >= 0) & (levels <= 1)).all():
            raise InputError(f"q must lie in [0, 1]; got {q}")
        values = to_numpy(self.values)
        flat = values.reshape(-1)
        order = np.argsort(flat)
        last = np.cumsum(np.repeat(self.multiplicity, values.shape[1])[order])
        position = levels * (self.count - 1)
        floor = np.floor(position)
        ranks = [np.searchsorted(last, floor + step, side="right") for step in (0, 1)]
        low, high = (flat[order][np.minimum(rank, flat.size - 1)] for rank in ranks)
        return np.asarray(low + (position - floor) * (high - low))

    def frequency_map(self) -> np.ndarray[Any, Any]:
        """The largest singular value at each frequency of the output grid, zero frequency first.

        Returns:
            Shape `grid.shape`; over groups the largest is taken.
        """
        largest = to_numpy(self.values).max(axis=1).reshape(-1, self.groups).max(axis=1)
        return self.grid.spread(largest)

    def _ratios(self) -> Array:
        xp = namespace(self.values)
        norm = self.norm
        return self.values / xp.where(norm > 0, norm, 1 + norm)
