"""Batched decompositions on any array-API namespace: stacks of complex blocks, last two axes."""

from __future__ import annotations

import numpy as np

from .._compat import Array, is_concrete, like, namespace


def singular_values(blocks: Array) -> Array:
    """All singular values of each block, shape (..., min(m, n)), descending.

    A block with one row or one column has one singular value, its Euclidean norm: no SVD.
    """
    xp = namespace(blocks)
    if min(blocks.shape[-2:]) == 1:
        return _lengths(blocks)[..., None]
    return xp.linalg.svdvals(blocks)


def svd(blocks: Array) -> tuple[Array, Array, Array]:
    """`U, sigma, V^H` of each block, the reduced form; of one row or column by its length."""
    xp = namespace(blocks)
    if min(blocks.shape[-2:]) == 1:
        scaled, scale = with_entries_near_one(blocks)
        length = xp.linalg.vector_norm(scaled, axis=(-2, -1), keepdims=True)
        empty = length == 0
        first = xp.astype(empty, blocks.dtype) * like(np.eye(*blocks.shape[-2:]), blocks, blocks.dtype)
        unit = scaled / xp.astype(xp.where(empty, 1 + length, length), blocks.dtype) + first
        one = xp.astype(1 + 0 * length, blocks.dtype)
        value = length[..., 0] * scale[..., None]
        return (one, value, unit) if blocks.shape[-2] == 1 else (unit, value, one)
    u, s, vh = xp.linalg.svd(blocks, full_matrices=False)
    return u, s, vh


def smaller_gram(blocks: Array) -> Array:
    """`S^H S` or `S S^H`, whichever is smaller."""
    xp = namespace(blocks)
    adjoint = xp.conj(xp.matrix_transpose(blocks))
    wide = blocks.shape[-2] <= blocks.shape[-1]
    return xp.matmul(blocks, adjoint) if wide else xp.matmul(adjoint, blocks)


def largest_singular_value(blocks: Array) -> Array:
    """The largest singular value of each block, shape (...).

    From the smaller Gram matrix, scaled so that its entries stay in range: the top eigenvalue keeps
    its full relative accuracy there. Its gradient is finite at ties and zero for a zero block.
    """
    xp = namespace(blocks)
    if min(blocks.shape[-2:]) == 1:
        return _lengths(blocks)
    scaled, scale = with_entries_near_one(blocks)
    top = xp.linalg.eigvalsh(smaller_gram(scaled))[..., -1]
    positive = top > 0
    one = 1 + xp.zeros_like(top)
    return xp.where(positive, scale * xp.sqrt(xp.where(positive, top, one)), 0 * top)


def with_entries_near_one(blocks: Array) -> tuple[Array, Array]:
    """Each block divided by its largest entry (1 for a zero block), and that, shape (...).

    By the least normal number where that is larger, as the reciprocals of those below are infinite.
    """
    xp = namespace(blocks)
    scale = xp.max(xp.abs(blocks), axis=(-2, -1))
    least = float(xp.finfo(scale.dtype).smallest_normal)
    scale = xp.where(scale > least, scale, xp.where(scale > 0, least + 0 * scale, 1 + scale))
    return blocks / xp.astype(scale, blocks.dtype)[..., None, None], scale


def _lengths(blocks: Array) -> Array:
    """The Euclidean norm of blocks of one row or column, shape (...); its gradient is zero where it is."""
    xp = namespace(blocks)
    scaled, scale = with_entries_near_one(blocks)  # squares leave the range of numbers long before entries do
    vectors = scaled[..., 0, :] if blocks.shape[-2] == 1 else scaled[..., :, 0]
    if is_concrete(blocks):
        return scale * xp.linalg.vector_norm(vectors, axis=-1)
    # JAX has NaN there.
    empty = xp.all(vectors == 0, axis=-1)
    filled = xp.where(empty[..., None], 1 + 0 * vectors, vectors)
    return xp.where(empty, 0.0, scale * xp.linalg.vector_norm(filled, axis=-1))
