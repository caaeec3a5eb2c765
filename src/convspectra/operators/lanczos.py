"""Golub-Kahan-Lanczos bidiagonalisation of a layer as it runs: thick restart, full reorthogonalisation.

    A P = Q B,    A^T Q = P B^T + r e_m^T

with orthonormal `P`, `Q` and a small `B`: its singular values approach the largest of `A`, and with
`B = X S Y^T` the triplets `(Q X, S, P Y)` leave the residual `|r| |X_m|`. Restarted from the best of them.

Without full reorthogonalisation copies of converged values appear; without restart the basis grows with
every step. Where a residual vanishes (symmetric kernels do that: few different singular values) the basis
goes on with a fresh direction, which is how repeated values are found.

Reference: Golub and Kahan (1965); Baglama and Reichel (2005), Algorithm 3.1, augmentation by Ritz vectors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .._compat import Array, to_numpy
from ..cost import of_vectors
from ..errors import InputError
from .padded import Operator, read_count

NumpyArray = np.ndarray[Any, Any]

_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Triplets:
    """Approximate singular triplets, largest first, in float64 (NumPy).

    Attributes:
        values: shape (k,). `||A v||` for each `v` of length 1, less what rounding can do: each is a proven
            LOWER bound of the operator norm, the first the best.
        left: shape (k, *y_shape), orthonormal up to rounding.
        right: shape (k, *x_shape), likewise.
        residuals: shape (k,). Proven: some singular value lies within it of the value (for operators that are
            not square some singular value or zero). Not that it is the k-th, nor that there is no larger one.
        applications: how often the layer or its adjoint was applied.
        converged: whether all residuals are at most `tolerance` times the largest value.
    """

    values: NumpyArray
    left: NumpyArray
    right: NumpyArray
    residuals: NumpyArray
    applications: int
    converged: bool


def start_vector(start: Array, shape: tuple[int, ...]) -> NumpyArray:
    """A direction to start from, as the caller gave it: float64, its largest entry 1.

    Raises:
        InputError: it is no finite real array of that shape.
    """
    given = to_numpy(start) if hasattr(start, "shape") else None
    if given is None or given.shape != shape:
        raise InputError(f"start must have the shape {shape}; got {getattr(start, 'shape', start)!r}")
    if given.dtype.kind not in "fiu" or not np.isfinite(given).all():
        raise InputError(f"start must hold finite real numbers; got NaN, infinity or dtype {given.dtype}")
    wide = given.astype(np.float64)
    return np.asarray(wide / (float(np.abs(wide).max()) or 1.0))


def largest_triplets(
    operator: Operator,
    start: NumpyArray,
    *,
    k: int = 1,
    tolerance: float = 1e-6,
    basis: int | None = None,
    applications: int = 1000,
    random_restarts: int = 0,
    seed: int = 0,
) -> Triplets:
    """The k largest singular triplets that a Krylov space holds.

    Arguments:
        operator: NumPy, float64, with entries of moderate size.
        start: shape `operator.x_shape`; zero is replaced by random numbers.
        k: at most the smaller side.
        tolerance: stops where all k residuals are at most this times the largest value.
        basis: vectors kept on either side; default `max(2 k + 10, 20)`.
        applications: stops after these many.
        random_restarts: how often, when done, to go on from the triplets with a random direction: a repeated
            singular value, of which a Krylov space holds one copy, or a larger one that the start is
            orthogonal to.
        seed: of the fresh directions.
    """
    # From the smaller side, whose whole space a basis may come to hold.
    flipped = math.prod(operator.y_shape) < math.prod(operator.x_shape)
    if flipped:
        operator, start = operator.T, np.asarray(operator.apply(start[None])[0])
    run = _Bidiagonalisation(operator, start, seed, basis or max(2 * k + 10, 20), k)
    restarts = 0
    while True:
        left, values, right = run.extend()
        residuals = run.residual * np.abs(left[-1, :k])
        # A quarter: what fresh directions leave out, and rounding, come on top.
        done = bool(np.all(residuals <= tolerance / 4 * values[0]))
        if (
            run.complete
            or run.applications >= applications - flipped
            or run.size <= k
            or (done and restarts == random_restarts)
        ):
            break
        if done:
            restarts += 1
            run.restart_randomly(left, values, right)
        else:
            run.restart(left, values, right)
    found = _proven(run, left[:, :k], right[:k], tolerance)
    if not flipped:
        return found
    return replace(found, left=found.right, right=found.left, applications=found.applications + 1)


def bidiagonal(operator: Operator, start: NumpyArray, steps: int, seed: int = 0) -> NumpyArray:
    """The small matrix `B` of `steps` steps from a start, shape (steps, steps): upper bidiagonal."""
    run = _Bidiagonalisation(operator, start, seed, steps, steps)
    run.extend()
    return run.small


class _Bidiagonalisation:
    """The bases and the small matrix; `size` vectors at the most, `kept` after a restart."""

    def __init__(self, operator: Operator, start: NumpyArray, seed: int, size: int, k: int) -> None:
        self.operator = operator
        rows, columns = math.prod(operator.y_shape), math.prod(operator.x_shape)
        self.size = min(size, rows, columns)
        of_vectors(self.size, rows, columns)  # refused before memory is taken
        self.k = k
        self.random = np.random.default_rng(seed)
        self.right = np.zeros((self.size, columns))
        self.left = np.zeros((self.size, rows))
        self.small = np.zeros((self.size, self.size))
        self.filled = self.applications = 0
        self.residual = 0.0
        self.scale = 0.0
        self.next = (
            self._fresh(self.right[:0]) if not start.any() else start.reshape(-1) / np.linalg.norm(start)
        )

    @property
    def complete(self) -> bool:
        """Whether the basis is the whole space of the smaller side, and its values all there are."""
        return self.size == self.right.shape[1]

    def extend(self) -> tuple[NumpyArray, NumpyArray, NumpyArray]:
        """Fill the bases, and decompose the small matrix."""
        for j in range(self.filled, self.size):
            self.right[j] = self.next
            image = self._apply(self.operator, self.next)
            # Coefficients of the image on the vectors before: known from the last step, computed again
            # together with the reorthogonalisation.
            image, inside = _orthogonal(image, self.left[:j])
            # (also right after a restart, where they are the residuals)
            self.small[:j, j] = inside
            self.small[j, j] = length = self._length(image)
            self.left[j] = _unit(image, self.left[:j]) if length > 0 else self._fresh(self.left[:j])
            back = self._apply(self.operator.T, self.left[j])
            back, _ = _orthogonal(back, self.right[: j + 1])
            self.residual = self._length(back)
            if self.residual > 0:
                self.next = _unit(back, self.right[: j + 1])
            elif j + 1 < self.right.shape[1]:
                self.next = self._fresh(self.right[: j + 1])
        self.filled = self.size
        left, values, right = np.linalg.svd(self.small)
        return left, values, right

    def restart(self, left: NumpyArray, values: NumpyArray, right: NumpyArray) -> None:
        """Keep the best triplets, some more than are wanted: that is what makes restarts converge."""
        self._keep(min(self.k + max(3, (self.size - self.k) // 3), self.size - 1), left, values, right)

    def restart_randomly(self, left: NumpyArray, values: NumpyArray, right: NumpyArray) -> None:
        """Go on with a direction that does not come from the ones before.

        What leads on from the triplets that are kept is lost: those alone that have converged.
        """
        self._keep(self.k, left, values, right)
        self.next = self._fresh(self.right[: self.filled])

    def _keep(self, count: int, left: NumpyArray, values: NumpyArray, right: NumpyArray) -> None:
        self.right[:count] = right[:count] @ self.right
        self.left[:count] = left[:, :count].T @ self.left
        self.small[:] = 0
        self.small[np.arange(count), np.arange(count)] = values[:count]
        self.filled = count

    def _apply(self, operator: Operator, vector: NumpyArray) -> NumpyArray:
        self.applications += 1
        found = np.asarray(operator.apply(vector.reshape(1, *operator.x_shape)))
        self.scale = max(self.scale, float(np.linalg.norm(found)))
        return found.reshape(-1)

    def _length(self, vector: NumpyArray) -> float:
        """Zero where it is nothing but rounding, whose direction would not be orthogonal."""
        length = float(np.linalg.norm(vector))
        return length if length > 64 * _EPS * self.scale else 0.0

    def _fresh(self, basis: NumpyArray) -> NumpyArray:
        vector = self.random.standard_normal(basis.shape[1])
        return _unit(_orthogonal(vector / np.linalg.norm(vector), basis)[0], basis)


def _orthogonal(vector: NumpyArray, basis: NumpyArray) -> tuple[NumpyArray, NumpyArray]:
    """`vector` without its part in the span of the rows of `basis`, and that part's coefficients."""
    inside = basis @ vector
    vector = vector - inside @ basis
    again = basis @ vector  # once more: what cancellation left (Giraud, Langou and Rozloznik 2005)
    return vector - again @ basis, inside + again


def _unit(vector: NumpyArray, basis: NumpyArray) -> NumpyArray:
    """Of length 1 and orthogonal, though little may be left of it; zero where nothing is."""
    length = float(np.linalg.norm(vector))
    if not length > 0:
        return 0 * vector
    vector, _ = _orthogonal(vector / length, basis)
    length = float(np.linalg.norm(vector))
    return np.asarray(vector / length) if length > 0.5 else 0 * vector


def _proven(run: _Bidiagonalisation, left: NumpyArray, right: NumpyArray, tolerance: float) -> Triplets:
    """Triplets from the bases, their values and residuals computed anew from the operator itself."""
    operator, k = run.operator, left.shape[1]
    v = (right @ run.right).reshape(k, *operator.x_shape)
    values, image = proven_gains(operator, v)
    raw, u = _flat_lengths(image), (left.T @ run.left).reshape(k, *operator.y_shape)
    sigma = raw.reshape(-1, *(1,) * (v.ndim - 1))
    first = _flat_lengths(image - sigma * u)
    second = _flat_lengths(operator.adjoint(u) - sigma * v)
    # A vector (u, v) of length sqrt(2) of the symmetric [[0, A], [A^T, 0]]: within this an eigenvalue. The
    # values are below what was computed, and lengths are rounded.
    residuals = np.sqrt((first**2 + second**2) / 2) * (1 + 1e-12) + 4 * (raw - values)
    order = np.argsort(-values, kind="stable")
    scale = float(values.max(initial=0.0))
    return Triplets(
        values=values[order],
        left=u[order],
        right=v[order],
        residuals=residuals[order],
        applications=run.applications + 2 * k,
        converged=bool(np.all(residuals <= tolerance * scale + 8 * (raw - values))),
    )


def proven_gains(operator: Operator, x: NumpyArray) -> tuple[NumpyArray, NumpyArray]:
    """`||A x|| / ||x||` for each `x` of a batch, less what rounding can do, and the computed `A x`.

    An output is a sum of `t` products, off by at most `t eps` times the sum of their moduli; these sums are
    together no longer than `sqrt(read_count) ||W||_F ||x||`, since `A` reads every input point at most
    `read_count` times, and each time through a part of the kernel.

    Arguments:
        operator: NumPy, float64.
        x: shape (batch, *x_shape), real or complex. Zero vectors have the gain 0.
    """
    kernel, c = to_numpy(operator.kernel), operator.correlation
    image = np.asarray(operator.apply(x))
    before, after = _flat_lengths(x), _flat_lengths(image)
    most = max(read_count(c), 1)
    products = max(kernel[0].size, c.group_shape[0] * most)
    modulus = math.sqrt(most) * float(np.linalg.norm(kernel))
    sums = (x[0].size + image[0].size + 16) * _EPS if len(x) else 0.0
    absolute = (products + 4) * _EPS * modulus
    gains = after * (1 - sums) / np.where(before > 0, before, 1.0) - absolute
    return np.maximum(gains, 0.0), image


def _flat_lengths(x: NumpyArray) -> NumpyArray:
    return np.asarray(np.linalg.norm(x.reshape(len(x), -1), axis=1))
