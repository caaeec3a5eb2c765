"""Batched functions of singular values by matrix products alone, for GPUs, whose decompositions are slow.

Norms by repeated squaring of the Gram matrix, whose Frobenius norm tends to a power of the largest
eigenvalue. The soft threshold from the Gram matrix G = X^H X in double precision: with the part of it that is
above,

    M = (G + t^2 + (G - t^2) sign(G - t^2)) / 2,    U max(sigma - t, 0) V^H = X (I - t M^(-1/2))

M has no eigenvalue below t^2, so nothing small is inverted, and where an eigenvalue is so near to t^2 that
its sign has not settled, what the sign is multiplied with is as small. Sign and root by odd polynomials.

Source: Delattre, Barthelemy, Araujo and Allauzen (2023), for the squaring; Higham (2008), Functions of
Matrices, chapters 5 and 6, for the iterations; Jordan et al. (2024), Muon, for the first coefficients.
"""

from __future__ import annotations

import math

import numpy as np

from .._compat import Array, eps_of, is_on_gpu, is_tracked, like, namespace
from .array_api import smaller_gram, with_entries_near_one
from .native import Lowered

SMALLEST_SIDE = 33
"""On CUDA, PyTorch's eigensolver takes stacks at once up to 32 rows, and one matrix after the other above."""

_FAST = (3.4445, -4.7750, 2.0315)
"""`a x + b x^3 + c x^5`: small values grow by a at each step, until they stay between 0.6 and 1.3."""

_EXACT = (15 / 8, -10 / 8, 3 / 8)
"""The same, with 1 as a fixed point of third order: 4 steps lead from there to 1."""


def pay(blocks: Array) -> bool:
    """Whether products are to be preferred to decompositions."""
    return is_on_gpu(blocks) and not is_tracked(blocks) and min(blocks.shape[-2:]) >= SMALLEST_SIDE


def largest_singular_value(blocks: Array) -> Array:
    """Of each block, shape (...), up to a few epsilons of itself."""
    xp = namespace(blocks)
    near_one, entry = with_entries_near_one(blocks)
    gram, scale = _scaled(smaller_gram(near_one))
    logarithm = xp.log(scale)
    # side^(1 / 2^(k + 1)) is what k squarings may be too large by.
    eps = eps_of(gram)
    squarings = math.ceil(math.log2(math.log(blocks.shape[-1] + 1) / eps))
    for done in range(1, squarings + 1):
        gram, scale = _scaled(xp.matmul(gram, gram))
        logarithm = logarithm + xp.log(scale) / 2**done
    empty = xp.all(blocks == 0, axis=(-2, -1))
    return xp.where(empty, 0 * entry, entry * xp.exp(logarithm / 2))


def lowered(blocks: Array, level: float) -> Lowered:
    """`U max(sigma - level, 0) V^H` of each block, shape (B, m, n)."""
    xp = namespace(blocks)
    tops = largest_singular_value(blocks)
    outside = tops > level
    # In units of the norm; inside there is nothing to find, and any threshold in range will do.
    unit = xp.astype(xp.where(tops > 0, tops, 1 + tops), xp.float64)
    threshold = (xp.where(outside, level, unit) / unit)[..., None, None]
    scaled = xp.astype(blocks, xp.complex128) / xp.astype(unit, xp.complex128)[..., None, None]
    wide = blocks.shape[-2] <= blocks.shape[-1]
    gram = smaller_gram(scaled)
    eye = like(np.eye(min(blocks.shape[-2:])), gram, gram.dtype)
    square = xp.astype(threshold**2, gram.dtype)
    above = (gram + square * eye + xp.matmul(gram - square * eye, _sign(gram - square * eye))) / 2
    inverse = _inverse_root(above, eye)
    share = eye - xp.astype(threshold, gram.dtype) * inverse
    found = xp.matmul(share, scaled) if wide else xp.matmul(scaled, share)
    found = xp.where(outside[..., None, None], found, 0 * found)
    # tr(share M^(1/2)) is the sum of the lowered values: share vanishes where M is not G.
    root = xp.matmul(above, inverse)
    sums = xp.where(outside, xp.sum(xp.real(xp.conj(share) * root), axis=(-2, -1)), 0 * unit)
    back = xp.astype(found * xp.astype(unit, gram.dtype)[..., None, None], blocks.dtype)
    return Lowered(back, unit * sums, tops)


def _coefficients(smallest: float) -> list[tuple[float, float, float]]:
    steps = math.ceil(-math.log(smallest) / math.log(_FAST[0]))
    return [_FAST] * steps + [_EXACT] * 4


def _sign(hermitian: Array) -> Array:
    """The sign of matrices with eigenvalues in [-1, 1]; of those below 1e-15 some part of it."""
    xp = namespace(hermitian)
    for a, b, c in _coefficients(1e-15):
        square = xp.matmul(hermitian, hermitian)
        hermitian = a * hermitian + xp.matmul(hermitian, b * square + c * xp.matmul(square, square))
    return hermitian


def _inverse_root(positive: Array, eye: Array) -> Array:
    """`M^(-1/2)`, of matrices with eigenvalues in [1e-15, 1]."""
    xp = namespace(positive)
    root, inverse = positive, eye
    for a, b, c in _coefficients(1e-8):
        product = xp.matmul(inverse, root)
        step = a * eye + b * product + c * xp.matmul(product, product)
        root, inverse = xp.matmul(root, step), xp.matmul(step, inverse)
    return inverse


def _scaled(matrices: Array) -> tuple[Array, Array]:
    """Each divided by its Frobenius norm, and that; a zero matrix by 1."""
    xp = namespace(matrices)
    size = xp.linalg.vector_norm(matrices, axis=(-2, -1))
    size = xp.where(size > 0, size, 1 + size)
    return matrices / xp.astype(size, matrices.dtype)[..., None, None], size
