"""Stacks of complex blocks with their singular values lowered, by whichever engine.

`U max(sigma - t, 0) V^H` is what lies outside of the operator-norm ball of radius `t`; `X` minus it is the
nearest matrix in the ball.
"""

from __future__ import annotations

from .._compat import Array, is_numpy, like, namespace, to_numpy
from . import array_api, choice, native
from .choice import Engine

LARGEST_SIDE_LOWERED = 512
"""The core keeps a few matrices of the block's size in each lane: beyond this side that is too much."""


def lowered(engine: Engine, blocks: Array, level: float) -> tuple[Array, Array]:
    """The blocks, shape (..., m, n), lowered by `level > 0`; the sums of their lowered values, shape (...).

    By the smaller Gram matrix, or by the core: either way only values above the level are divided by.
    """
    shape = blocks.shape
    flat = namespace(blocks).reshape(blocks, (-1, *shape[-2:]))
    if engine == "native" and min(shape[-2:]) <= LARGEST_SIDE_LOWERED:
        taken = to_numpy(flat)
        values, _ = native.singular_values_of_blocks(taken)
        chosen = ~(values[:, 0] <= level)
        found, sums = 0 * taken, 0.0 * values[:, 0].astype("float64")
        found[chosen], sums[chosen] = _finished(
            *native.lowered_of_blocks(taken[chosen], level), taken[chosen], level
        )
        found, sums = like(found, blocks), like(sums, blocks)
    else:
        found, sums = lowered_by_gram(choice.taken_by(engine, flat), level)
        if not isinstance(found, type(blocks)):
            found, sums = like(to_numpy(found), blocks), like(to_numpy(sums), blocks)
    xp = namespace(blocks)
    return xp.reshape(found, shape), xp.reshape(sums, shape[:-2])


def lowered_by_gram(blocks: Array, level: float) -> tuple[Array, Array]:
    """`lowered` of a stack (B, m, n) on any namespace; in double precision, and of some only, on NumPy."""
    xp = namespace(blocks)
    wide = blocks.shape[-2] <= blocks.shape[-1]
    if is_numpy(blocks):
        found, sums = 0 * blocks, 0.0 * abs(blocks[:, 0, 0]).astype(xp.float64)
        above = array_api.largest_singular_value(blocks) > level
        if above.any():
            chosen = blocks[above]
            double = chosen.astype(xp.complex128)
            share, sums[above] = _shares(double, level)
            found[above] = xp.matmul(share, double) if wide else xp.matmul(double, share)
        return found, sums
    share, sums = _shares(blocks, level)
    return xp.matmul(share, blocks) if wide else xp.matmul(blocks, share), sums


def _shares(blocks: Array, level: float) -> tuple[Array, Array]:
    """`V diag(max(1 - t / sigma, 0)) V^H` of the smaller side, and the sums of the lowered values."""
    xp = namespace(blocks)
    squares, vectors = xp.linalg.eigh(array_api.smaller_gram(blocks))
    floor = xp.asarray(level**2, dtype=squares.dtype)
    values = xp.sqrt(xp.where(squares > floor, squares, floor))
    kept = xp.astype(1 - level / values, blocks.dtype)
    share = xp.matmul(vectors * kept[..., None, :], xp.conj(xp.matrix_transpose(vectors)))
    return share, xp.sum(values - level, axis=-1)


def _finished(found: Array, sums: Array, blocks: Array, level: float) -> tuple[Array, Array]:
    """What the core's iteration did not finish, by LAPACK; NaN stays NaN."""
    missing = sums != sums
    if missing.any():
        found[missing], sums[missing] = lowered_by_gram(blocks[missing], level)
    return found, sums
