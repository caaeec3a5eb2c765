"""The Gram matrix of a layer as it runs, as a banded matrix of blocks of channels, whatever the boundary.

With `R_p` the matrix of zeros and ones that says which input point each output reads through tap p,

    A = sum_p R_p (x) W_p,    A^T A = sum_{p,q} (R_p^T R_q) (x) (W_p^T W_q),

and `A A^T` likewise with `R_p R_q^T` and `W_p W_q^T`. The entries of `R_p^T R_q` are products over the axes
of small numbers of reads, which many pairs of points share: a block is made once for each kind of pair.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ..geometry import Correlation
from .padded import reads

NumpyArray = np.ndarray[Any, Any]

_MOST_PAIRS = 2**24
"""Pairs of reads along one axis, and entries of their table, beyond which there is no such matrix."""


@dataclass(frozen=True, eq=False)
class AxisPairs:
    """The points along one axis that some tap reads, or that read, and which two of them one block couples.

    Attributes:
        rank: shape (points,): places in an order that keeps coupled points close, component by component.
        component: shape (points,): points of different components are never coupled.
        pairs: shape (pairs, 2): all ordered pairs of coupled points.
        kinds: shape (pairs,): pairs of one kind have the same numbers of reads.
        counts: shape (kinds, taps, taps): how often the first point and the second are met through two taps.
    """

    rank: NumpyArray
    component: NumpyArray
    pairs: NumpyArray
    kinds: NumpyArray
    counts: NumpyArray

    @property
    def bandwidth(self) -> int:
        """The largest distance of coupled points in that order."""
        ranks = self.rank[self.pairs]
        return int(np.abs(ranks[:, 0] - ranks[:, 1]).max())

    @property
    def longest(self) -> int:
        """Points of the largest component."""
        return int(np.bincount(self.component).max())


@dataclass(frozen=True, eq=False)
class GramLayout:
    """Where the blocks of a Gram matrix stand, for every kernel of one geometry.

    Attributes:
        of_inputs: the matrix is `A^T A`, else `A A^T`.
        axes: of the layer.
        outermost: the axes in the order in which points are sorted.
        channels: rows of a block.
        points: rows of blocks; those that no tap reads are left out.
        bandwidth: blocks below the diagonal.
    """

    of_inputs: bool
    axes: tuple[AxisPairs, ...]
    outermost: tuple[int, ...]
    channels: int
    points: int
    bandwidth: int

    @property
    def size(self) -> int:
        """Rows of the matrix."""
        return self.points * self.channels

    @property
    def half_width(self) -> int:
        """Entries below the diagonal of a column, at the most."""
        return min((self.bandwidth + 1) * self.channels, self.size) - 1

    @property
    def kinds(self) -> int:
        """Different blocks."""
        return math.prod(len(axis.counts) for axis in self.axes)

    @property
    def bytes(self) -> int:
        """Of its blocks, of the pairs of taps that they are made of, and of the pairs of points."""
        pairs = math.prod(len(axis.pairs) for axis in self.axes)
        taps = math.prod(axis.counts.shape[1] for axis in self.axes)
        return 8 * int(self.channels**2 * (2 * self.kinds + taps**2) + 8 * pairs)


@lru_cache(maxsize=128)
def gram_layout(correlation: Correlation) -> GramLayout | None:
    """That of `A^T A` or `A A^T` of one group, whichever is factorised sooner.

    None for the zero operator, and where taps meet so often that there is no sparse matrix.
    """
    found = [_layout(correlation, of_inputs) for of_inputs in (True, False)]
    return min(
        (one for one in found if one is not None),
        key=lambda one: one.size * (one.half_width + 1) ** 2,
        default=None,
    )


def _layout(c: Correlation, of_inputs: bool) -> GramLayout | None:
    axes = [_axis_pairs(c, axis, of_inputs) for axis in range(len(c.kernel_size))]
    known = tuple(axis for axis in axes if axis is not None)
    if len(known) < len(axes):
        return None
    channels = c.group_shape[1 if of_inputs else 0]
    points = math.prod(len(axis.rank) for axis in known)
    orders = itertools.permutations(range(len(known)))
    outermost = min(orders, key=lambda order: _bandwidth([known[axis] for axis in order]))
    bandwidth = _bandwidth([known[axis] for axis in outermost])
    return GramLayout(of_inputs, known, outermost, channels, points, bandwidth)


def _bandwidth(axes: list[AxisPairs]) -> int:
    """Of points that are sorted by these axes, the first one outermost."""
    width = 0
    for axis in axes:
        width = width * axis.longest + axis.bandwidth
    return width


def _axis_pairs(c: Correlation, axis: int, of_inputs: bool) -> AxisPairs | None:
    table = reads(c, axis)
    outputs, taps = np.nonzero(table >= 0)
    inputs = table[outputs, taps]
    own, shared = (inputs, outputs) if of_inputs else (outputs, inputs)
    meetings = int((np.bincount(shared, minlength=1) ** 2).sum())
    if not 0 < meetings <= _MOST_PAIRS:
        return None
    order = np.argsort(shared, kind="stable")
    shared, taps, own = shared[order], taps[order], np.unique(own[order], return_inverse=True)[1]
    first, second = _meetings(shared)
    points, k = int(own.max()) + 1, c.kernel_size[axis]
    found, pair = np.unique(own[first] * points + own[second], return_inverse=True)
    if len(found) * k * k > _MOST_PAIRS:
        return None
    through = pair.reshape(-1) * k * k + taps[first] * k + taps[second]
    counts = np.bincount(through, minlength=len(found) * k * k).reshape(-1, k * k)
    _, one, kinds = np.unique(_as_bytes(counts), return_index=True, return_inverse=True)
    pairs = np.stack(np.divmod(found, points), axis=-1)
    rank, component = _close_order(points, pairs)
    different = counts[one].reshape(-1, k, k).astype(np.float64)
    return AxisPairs(rank, component, pairs, kinds.reshape(-1), different)


def _as_bytes(rows: NumpyArray) -> NumpyArray:
    """Each row as one value, which sorts faster than a row does."""
    narrow = np.ascontiguousarray(rows.astype(np.min_scalar_type(int(rows.max()))))
    return narrow.view(np.dtype((np.void, narrow.itemsize * narrow.shape[1]))).reshape(-1)


def _meetings(shared: NumpyArray) -> tuple[NumpyArray, NumpyArray]:
    """All ordered pairs of places at which a sorted array has the same entry."""
    first, second = [], []
    for lag in range(len(shared)):
        same = np.flatnonzero(shared[lag:] == shared[: len(shared) - lag])
        if not len(same):
            break
        first += [same, same + lag][: 2 if lag else 1]
        second += [same + lag, same][: 2 if lag else 1]
    return np.concatenate(first), np.concatenate(second)


def _close_order(points: int, pairs: NumpyArray) -> tuple[NumpyArray, NumpyArray]:
    """Ranks of points in the order of Cuthill and McKee (1969), and the component of each."""
    edges = np.searchsorted(pairs[:, 0], np.arange(points + 1)).tolist()
    ends = pairs[:, 1].tolist()
    neighbours = [ends[start:stop] for start, stop in itertools.pairwise(edges)]
    least_coupled = sorted(range(points), key=lambda point: (len(neighbours[point]), point))
    rank, component = [-1] * points, [0] * points
    seen = components = 0
    for start in least_coupled:
        if rank[start] >= 0:
            continue
        waiting = deque([start])
        rank[start], seen = seen, seen + 1
        while waiting:
            point = waiting.popleft()
            component[point] = components
            fresh = [one for one in neighbours[point] if rank[one] < 0]
            for one in sorted(fresh, key=lambda point: (len(neighbours[point]), point)):
                rank[one], seen = seen, seen + 1
                waiting.append(one)
        components += 1
    return np.array(rank), np.array(component)


@dataclass(frozen=True, eq=False)
class GramMatrix:
    """The Gram matrix of one kernel.

    Attributes:
        layout: where its blocks stand.
        blocks: shape (kinds, channels, channels).
        rows, columns, kinds: shape (pairs,): the pairs of points on and below the diagonal, and their blocks,
            sorted by columns.
    """

    layout: GramLayout
    blocks: NumpyArray
    rows: NumpyArray
    columns: NumpyArray
    kinds: NumpyArray

    def panels(self, points: int, dtype: Any) -> Iterator[NumpyArray]:
        """Its columns, so many points at a time, from the diagonal down as far as one of them reaches.

        In the columns' first rows only the blocks on and below the diagonal are filled. Rows and columns
        beyond the last point are zero.
        """
        channels, below = self.layout.channels, -(-self.layout.bandwidth // points)
        blocks = self.blocks.astype(dtype)
        count = -(-self.layout.points // points)
        starts = np.searchsorted(self.columns, points * np.arange(count + 1))
        for panel in range(count):
            here = slice(starts[panel], starts[panel + 1])
            first, height = panel * points, min(below + 1, count - panel)
            found = np.zeros((height * points, channels, points, channels), dtype)
            found[self.rows[here] - first, :, self.columns[here] - first, :] = blocks[self.kinds[here]]
            yield found.reshape(height * points * channels, points * channels)


def gram_matrix(kernel: NumpyArray, layout: GramLayout) -> GramMatrix:
    """That of a kernel of one group, axes in the order of `Correlation`, in float64.

    An entry is a sum of products of two weights: it is off by at most `gram_roundings` roundings of the sum
    of their moduli.
    """
    taps, channels = kernel.shape[2:], layout.channels
    by_tap = kernel.reshape(*kernel.shape[:2], -1).transpose((2, 1, 0) if layout.of_inputs else (2, 0, 1))
    flat = by_tap.reshape(-1, by_tap.shape[2])
    products = (flat @ flat.T).reshape(*taps, channels, *taps, channels)
    for done, axis in enumerate(layout.axes):
        left = len(layout.axes) - done
        products = np.tensordot(products, axis.counts, axes=([0, left + 1], [1, 2]))
    blocks = np.moveaxis(products, (0, 1), (-2, -1)).reshape(-1, channels, channels)
    return GramMatrix(layout, np.ascontiguousarray(blocks), *_lower_pairs(layout))


def _lower_pairs(layout: GramLayout) -> tuple[NumpyArray, NumpyArray, NumpyArray]:
    """`GramMatrix.rows`, `columns` and `kinds`."""
    axes, place = layout.axes, _places(layout)
    each = np.indices([len(axis.pairs) for axis in axes]).reshape(len(axes), -1)
    here = [(axis.pairs[pair], axis.kinds[pair]) for axis, pair in zip(axes, each, strict=True)]
    rows, columns = (place[tuple(pairs[:, end] for pairs, _ in here)] for end in (0, 1))
    kinds = np.ravel_multi_index([kinds for _, kinds in here], [len(axis.counts) for axis in axes])
    lower = np.flatnonzero(rows >= columns)
    lower = lower[np.argsort(columns[lower], kind="stable")]
    return rows[lower], columns[lower], kinds[lower]


def _places(layout: GramLayout) -> NumpyArray:
    """The place of each point of the map among all of them."""
    shape = [len(axis.rank) for axis in layout.axes]
    points = np.indices(shape).reshape(len(shape), -1)
    outermost = [(layout.axes[axis], points[axis]) for axis in layout.outermost]
    keys = [axis.component[point] for axis, point in outermost]
    keys += [axis.rank[point] for axis, point in outermost]
    place = np.empty(layout.points, dtype=np.intp)
    place[np.lexsort(keys[::-1])] = np.arange(layout.points)
    return place.reshape(shape)


def gram_roundings(correlation: Correlation) -> int:
    """Roundings that an entry of a Gram matrix goes through: of the sum over channels, and over each axis."""
    return max(correlation.group_shape) + sum(k * k + 1 for k in correlation.kernel_size) + 2
