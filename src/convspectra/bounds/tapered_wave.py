"""What a layer does to its worst plane wave, in closed form: a lower bound that large maps cost nothing."""

from __future__ import annotations

import math
from functools import reduce
from typing import Any

import numpy as np

from .._compat import to_numpy
from ..geometry import Correlation
from ..problem import Problem
from ..supremum import Supremum
from ..symbol import polyphase

NumpyArray = np.ndarray[Any, Any]

_EPS = float(np.finfo(np.float64).eps)


def tapered_wave_gain(problem: Problem, top: Supremum) -> float:
    """`||A x|| / ||x||`, proven, of a plane wave tapered by half a sine along each axis; zero or no padding.

    With `x[m] = w(m) exp(i theta.r) v_t` at the input point `m = s r + t` of polyphase component t,

        ||A x||^2 = sum_{p,q} z_q^H z_p prod_axes sum_r w(s r + d p - a) w(s r + d q - a),
        z_p = W_p v_t(p) exp(i theta.u_p),

    over pairs of taps and the output points r along one axis at a time, never over the map.
    """
    c = problem.correlation
    rows, columns = c.group_shape
    kernel = to_numpy(problem.kernel).reshape(c.groups, rows, columns, -1)[top.group].astype(np.float64)
    classes = polyphase(c)
    right = top.right.reshape(len(classes), columns)
    tapers = [np.sin(np.pi * (np.arange(n) + 1) / (n + 1)) for n in c.input_shape]
    images = np.empty((kernel.shape[-1], rows), dtype=np.complex128)
    length = 0.0
    for part, vector in zip(classes, right, strict=True):
        phases = np.exp(1j * (part.offsets @ top.angles))
        images[part.taps] = phases[:, None] * np.tensordot(kernel[..., part.taps], vector, axes=(1, 0)).T
        read = (
            float(np.sum(taper[(origin - before) % s :: s] ** 2))
            for taper, origin, (before, _), s in zip(tapers, part.origin, c.padding, c.stride, strict=True)
        )
        length += float(np.vdot(vector, vector).real) * math.prod(read)
    if not length > 0:
        return 0.0
    overlaps = reduce(np.kron, (_overlaps(c, axis, taper) for axis, taper in enumerate(tapers)))
    square = float(np.sum(overlaps * (images @ images.conj().T).real))
    moduli = np.abs(images)
    roundings = rows + columns + sum(c.output_shape) + sum(c.reach) + 2 * len(images) + 64
    square -= 4 * _EPS * roundings * float(np.sum(overlaps * (moduli @ moduli.T)))
    return math.sqrt(max(square, 0.0) / length) * (
        1 - _EPS * (sum(c.input_shape) + len(right) + columns + 64)
    )


def _overlaps(c: Correlation, axis: int, taper: NumpyArray) -> NumpyArray:
    """Of the taper as two taps read it, summed over the outputs along an axis, shape (k, k)."""
    read = (
        c.stride[axis] * np.arange(c.output_shape[axis])
        + c.dilation[axis] * np.arange(c.kernel_size[axis])[:, None]
        - c.padding[axis][0]
    )
    inside = (read >= 0) & (read < len(taper))
    seen = np.where(inside, taper[np.where(inside, read, 0)], 0.0)
    return seen @ seen.T
