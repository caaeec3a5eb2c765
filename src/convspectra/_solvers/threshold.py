"""Stacks of complex blocks with their singular values lowered, by whichever engine.

`U max(sigma - t, 0) V^H` is what lies outside of the operator-norm ball of radius `t`; `X` minus it is the
nearest matrix in the ball. Blocks inside the ball need no singular vectors.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .._compat import Array, is_numpy, like, namespace, to_numpy
from ..symbol import FrequencyGrid
from . import array_api, choice, native, products
from .choice import Engine
from .native import Lowered, NumpyArray

Places = NumpyArray | slice

_MAX_SAMPLE_BLOCKS = 16
"""Frequencies whose values are found first: one filling of the lanes."""


def lowered(engine: Engine, blocks: Array, level: float, mostly_outside: bool = False) -> Lowered:
    """The blocks, shape (..., m, n), lowered by `level > 0`.

    By the smaller Gram matrix, or by the core: either way only values above the level are divided by; or,
    on a GPU, by matrix products alone.
    """
    shape, xp = blocks.shape, namespace(blocks)
    flat = xp.reshape(blocks, (-1, *shape[-2:]))
    if engine == "native":
        taken = to_numpy(flat)

        def finished(places: Places) -> Lowered:
            some = taken[places]
            return _finished(native.lowered_of_blocks(some, level), lambda: some, level)

        found = _outside_only(
            finished, None if mostly_outside else native.singular_values_of_blocks(taken)[0][:, 0], level
        )
    elif products.pay(flat):
        found = products.lowered(flat, level)
    else:
        found = lowered_by_gram(choice.taken_by(engine, flat), level)
    if not isinstance(found.blocks, type(blocks)):
        found = Lowered(*(like(to_numpy(part), blocks) for part in found))
    return Lowered(
        xp.reshape(found.blocks, shape), *(xp.reshape(part, shape[:-2]) for part in (found.sums, found.tops))
    )


def lowered_symbol(
    prepared: native.NativeTaps,
    grid: FrequencyGrid,
    level: float,
    blocks: Callable[[FrequencyGrid], NumpyArray],
    mostly_outside: bool = False,
) -> Lowered:
    """The blocks of a grid by the core, shape (F, groups, m, n); `blocks` makes those it cannot finish.

    They lie in this thread's workspace, until its next call.
    """

    def finished(places: Places) -> Lowered:
        part = grid.at(places)
        return _finished(native.lowered(prepared, part, level), lambda: blocks(part), level)

    return _outside_only(finished, None if mostly_outside else _largest(prepared, grid), level)


def is_mostly_outside(prepared: native.NativeTaps, grid: FrequencyGrid, level: float) -> bool:
    """Whether, by a few blocks, more are outside than inside: then it does not pay to find out which."""
    samples = min(max(2, len(grid) // 16), _MAX_SAMPLE_BLOCKS)
    first = _largest(prepared, grid.at(slice(None, None, max(1, len(grid) // samples))))
    return bool(2 * np.count_nonzero(~(first <= level)) > first.size)


def _largest(prepared: native.NativeTaps, grid: FrequencyGrid) -> NumpyArray:
    return np.asarray(native.singular_values(prepared, grid)[..., 0])


def _outside_only(lower: Callable[[Places], Lowered], largest: NumpyArray | None, level: float) -> Lowered:
    """`lower` of all places, or, where the largest values are known, of those that are outside."""
    if largest is None:
        return lower(slice(None))
    tops = largest.astype(np.float64)
    outside = ~(tops <= level)  # NaN is outside
    places = np.flatnonzero(outside.reshape(len(tops), -1).any(axis=1))
    some = lower(places)
    if len(places) == len(tops):
        return some
    whole = np.zeros((len(tops), *some.blocks.shape[1:]), dtype=some.blocks.dtype)
    sums = np.zeros_like(tops)
    whole[places], sums[places], tops[places] = some
    return Lowered(whole, sums, tops)


def _finished(found: Lowered, blocks: Callable[[], NumpyArray], level: float) -> Lowered:
    """What the core's iteration did not finish, by LAPACK; NaN stays NaN."""
    missing = np.isnan(found.sums)
    if missing.any():
        given = blocks()[missing]
        for part, repaired in zip(found, lowered_by_gram(given, level), strict=True):
            part[missing] = repaired
    return found


def lowered_by_gram(blocks: Array, level: float) -> Lowered:
    """`lowered` of a stack (B, m, n) on any namespace; in double precision, and of some only, on NumPy."""
    xp = namespace(blocks)
    wide = blocks.shape[-2] <= blocks.shape[-1]
    if not is_numpy(blocks):
        share, sums, tops = _shares(blocks, level)
        return Lowered(xp.matmul(share, blocks) if wide else xp.matmul(blocks, share), sums, tops)
    tops = np.asarray(array_api.largest_singular_value(blocks), dtype=np.float64)
    found, sums = np.zeros_like(blocks), 0 * tops
    outside = ~(tops <= level)
    if outside.any():
        double = blocks[outside].astype(np.complex128)
        share, sums[outside], tops[outside] = _shares(double, level)
        found[outside] = share @ double if wide else double @ share
    return Lowered(found, sums, tops)


def _shares(blocks: Array, level: float) -> tuple[Array, Array, Array]:
    """`V diag(max(1 - t / sigma, 0)) V^H` of the smaller side, sums of the lowered values, and the tops."""
    xp = namespace(blocks)
    scaled, scale = array_api.with_entries_near_one(blocks)
    squares, vectors = xp.linalg.eigh(array_api.smaller_gram(scaled))
    values = xp.sqrt(xp.where(squares > 0, squares, 0 * squares))
    floor = (level / scale)[..., None]
    outside, none = values > floor, 0 * values
    kept = xp.astype(xp.where(outside, 1 - floor / xp.where(outside, values, 1 + none), none), blocks.dtype)
    share = xp.matmul(vectors * kept[..., None, :], xp.conj(xp.matrix_transpose(vectors)))
    return share, scale * xp.sum(xp.where(outside, values - floor, none), axis=-1), scale * values[..., -1]
