"""How far an operator is from having orthonormal rows or columns, without any decomposition.

The sum goes over the singular values, so it is that of the operator's smaller Gram matrix:

    sum (sigma^2 - 1)^2 = || A A^T - I ||_F^2   (or A^T A, if that is the smaller one)

which is block-circulant in its turn. Written out, its blocks are the autocorrelation of the kernel at shifts
of whole strides, one matrix product a shift:

    prod(N) sum_delta || R_delta - [delta = 0] I ||_F^2,   R_delta = sum_{p, q: u_p - u_q = delta} W_p W_q^T

(for `A^T A` one for each pair of polyphase components as well). Or, by Parseval, the same sum over the Gram
matrices of the symbol's blocks. The shifts are few where the kernel is small, the frequencies are few where
the input is: the cheaper one is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from .._compat import Array, like, namespace
from .._solvers.array_api import smaller_gram
from ..compute import DEFAULT, Compute
from ..functions import rank_with_taps
from ..geometry import ConvGeometry, Correlation
from ..guarantee import Guarantee, Target, target_from
from ..spectrum import over_blocks
from ..symbol import FrequencyGrid, frequency_grid, polyphase, symbol_blocks
from ..transforms import transformable

_CALL = 50_000
"""Multiplications that take as long as the calls for one shift."""


@transformable
def orthogonality(
    kernel: Array, geometry: ConvGeometry, *, guarantee: Guarantee = "layer", compute: Compute = DEFAULT
) -> Array:
    """`sum (sigma^2 - 1)^2`: zero where the operator has orthonormal rows or columns.

    By matrix products only (see `penalties/orthonormal.py`), no decomposition. A polynomial of the
    kernel: its derivatives of all orders exist everywhere, and are the library's own.

    Arguments:
        kernel: as `singular_values`. No exception at ties or zeros: the gradient of the zero kernel is
            zero, since it is stationary there.
        geometry: any that has the guarantee.
        guarantee: whose singular values: `"layer"` (on a torus that holds it), `"torus"` (of the layer with
            its boundary wrapped) or `"any_size"` (samples of all frequencies).
        compute: how; see `Compute`.

    Returns:
        A scalar array of the kernel's library, with a gradient in PyTorch and in JAX.

    Raises:
        GeometryError, KernelError: as `singular_values`, or no such guarantee.

    Notes:
        Zero singular values count 1 each, also those of input that no tap reads: where there are such, the
        penalty cannot reach zero.

        Not guaranteed: a kernel for which it is zero, which not every geometry has; nor an orthogonal layer
        where the layer is not circulant: its torus is orthogonal then.

    References:
        Wang, Chen, Chakraborty and Yu (2020): their penalty for rows is this one divided by the number of
        output points, where no shift wraps onto another.

    Examples:
        >>> import numpy as np
        >>> twice = 2 * np.eye(3).reshape(3, 3, 1, 1)
        >>> float(orthogonality(twice, ConvGeometry((8, 8))))  # 3 * 8 * 8 times (4 - 1)^2
        1728.0
    """
    return orthogonality_of(target_from(kernel, geometry, guarantee, compute))


def orthogonality_of(target: Target) -> Array:
    """`orthogonality` of a target."""
    if _products_of_shifts(target.torus) <= _products_of_frequencies(target.torus):
        return by_autocorrelation(target.kernel, target.torus)
    return by_frequencies(target.kernel, target.torus, target.compute)


@dataclass(frozen=True)
class Shift:
    """One block of the Gram matrix: which taps meet in it.

    Attributes:
        left, right: flat indices of taps, pairwise.
        weight: 2 if it stands for its transpose at the opposite shift as well.
        diagonal: whether it lies on the diagonal, where the identity has its ones.
    """

    left: np.ndarray[Any, Any]
    right: np.ndarray[Any, Any]
    weight: int
    diagonal: bool


@lru_cache(maxsize=64)
def shifts(correlation: Correlation) -> tuple[Shift, ...]:
    """The blocks of the smaller Gram matrix that can differ from zero, one of each two transposes."""
    parts = polyphase(correlation)
    taps = np.concatenate([part.taps for part in parts])
    offsets = np.concatenate([part.offsets for part in parts])
    classes = np.repeat(np.arange(len(parts)), [len(part.taps) for part in parts])
    p, q = (indices.reshape(-1) for indices in np.indices((len(taps), len(taps))))
    if _is_rowwise(correlation):
        same = classes[p] == classes[q]
        p, q, classes = p[same], q[same], 0 * classes
    sizes = correlation.output_shape
    delta, back = ((offsets[u] - offsets[v]) % sizes for u, v in ((p, q), (q, p)))
    shape = (len(parts), len(parts), *sizes)
    key = np.ravel_multi_index((classes[p], classes[q], *delta.T), shape)
    opposite = np.ravel_multi_index((classes[q], classes[p], *back.T), shape)
    order = np.argsort(key, kind="stable")
    edges = np.flatnonzero(np.diff(key[order])) + 1
    found = []
    for members in np.split(order, edges):
        one = members[0]
        if key[one] <= opposite[one]:
            weight = 1 if key[one] == opposite[one] else 2
            diagonal = bool(classes[p[one]] == classes[q[one]] and not delta[one].any())
            found.append(Shift(taps[p[members]], taps[q[members]], weight, diagonal))
    return tuple(found)


def by_autocorrelation(kernel: Array, correlation: Correlation) -> Array:
    """The penalty from the autocorrelation of the kernel, axes in the order of `Correlation`."""
    xp = namespace(kernel)
    groups, (rows, columns) = correlation.groups, correlation.group_shape
    taps = math.prod(correlation.kernel_size)
    rowwise = _is_rowwise(correlation)
    side, other = (rows, columns) if rowwise else (columns, rows)
    # Taps before the channels that are summed over: the pairs of a shift lie side by side.
    order = (0, 1, 3, 2) if rowwise else (0, 2, 3, 1)
    filters = xp.permute_dims(xp.reshape(kernel, (groups, rows, columns, taps)), order)
    identity = like(np.eye(side), kernel, kernel.dtype)
    total: Array = _zeros(correlation)
    for shift in shifts(correlation):
        left, right = (
            xp.reshape(xp.take(filters, like(part, kernel), axis=2), (groups, side, len(part) * other))
            for part in (shift.left, shift.right)
        )
        gram = xp.matmul(left, xp.matrix_transpose(right))
        if shift.diagonal:
            gram = gram - identity
        total = total + correlation.points * shift.weight * xp.sum(gram * gram)
    return total


def by_frequencies(kernel: Array, correlation: Correlation, compute: Compute) -> Array:
    """The penalty from the Gram matrices of the symbol's blocks."""

    def task(part: FrequencyGrid) -> Array:
        gram = smaller_gram(symbol_blocks(kernel, correlation, part))
        xp = namespace(gram)
        rest = gram - like(np.eye(gram.shape[-1]), gram, gram.dtype)
        squares = xp.sum(xp.real(rest) ** 2 + xp.imag(rest) ** 2, axis=(1, 2, 3))
        return xp.sum(like(part.multiplicity, squares, squares.dtype) * squares)

    return sum(over_blocks(task, kernel, correlation, compute)) + _zeros(correlation)


def _zeros(correlation: Correlation) -> float:
    """What singular values add that are zero because no tap reads their input."""
    missing = min(correlation.block_shape) - rank_with_taps(correlation)
    return float(correlation.points * correlation.groups * missing)


def _is_rowwise(correlation: Correlation) -> bool:
    """Whether the row side of a block, without columns that no tap reads, is the smaller one."""
    rows, columns = correlation.group_shape
    return rows <= columns * len(polyphase(correlation))


def _products_of_shifts(correlation: Correlation) -> int:
    """Multiplications of `by_autocorrelation`, a group, and what its calls cost."""
    rows, columns = correlation.group_shape
    classes = [len(part.taps) for part in polyphase(correlation)]
    if _is_rowwise(correlation):
        pairs, products = sum(taps**2 for taps in classes), rows**2 * columns
    else:
        pairs, products = sum(classes) ** 2, columns**2 * rows
    different = math.prod(2 * k - 1 for k in correlation.kernel_size)
    return pairs * products // 2 + _CALL * min(pairs, different) // 2 // correlation.groups


def _products_of_frequencies(correlation: Correlation) -> int:
    """Multiplications of `by_frequencies`, a group: four real ones in a complex one."""
    rows, columns = correlation.group_shape
    width = columns * len(polyphase(correlation))
    symbol = rows * columns * math.prod(correlation.kernel_size)
    return 4 * len(frequency_grid(correlation)) * (symbol + rows * width * min(rows, width))
