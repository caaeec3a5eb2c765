"""Power iteration on the layer with its own padding: a lower bound of its norm."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._compat import Array, is_concrete, like, to_numpy
from ..checks import check_count
from ..errors import InputError
from ..geometry import ConvGeometry
from ..operators.lanczos import proven_gains, start_vector
from ..operators.padded import operator
from ..problem import problem_of, scaled
from ..results import Bound
from ..rounding import rounded_down, times

NumpyArray = np.ndarray[Any, Any]


def power_iteration(
    kernel: Array, geometry: ConvGeometry, *, steps: int = 10, start: Array | None = None, seed: int = 0
) -> tuple[Bound, Array]:
    """A lower estimate of the norm of the layer: `||A x|| / ||x||` after `x <- A^T A x`.

    Arguments:
        kernel: real array in the layout of `geometry`; computed in NumPy, without gradient.
        geometry: any, with every padding mode.
        steps: how often the layer and its adjoint are applied, at least 1.
        start: what a call before returned, to go on from; shape (channels, *input_shape) of the layer's
            input. Default: normal random numbers.
        seed: of these.

    Returns:
        A `Bound` whose `lower` is proven and whose `upper` is None; and the last `x`, of length 1 (zero where
        the layer took it to zero).

    Raises:
        InputError: steps is no integer of at least 1, or start has another shape or is no finite array; a
            traced JAX array.
        GeometryError: as `singular_values`, or padding by reflection over an axis of one point.
        KernelError: as `singular_values`.

    Notes:
        Not guaranteed: to be near the norm after any number of steps. The error shrinks as `(sigma_2 /
        sigma_1)^(4 steps)`, and large inputs bring the two together.

    References:
        Golub and Van Loan (2013), Section 8.2; for layers Farnia, Zhang and Tse (2019), and, of the
        reshaped kernel, Yoshida and Miyato (2017).

    Examples:
        >>> import numpy as np
        >>> laplacian, geometry = np.array([[[-1.0, 2.0, -1.0]]]), ConvGeometry(64, padding=1)
        >>> estimate, vector = power_iteration(laplacian, geometry, steps=20)
        >>> bool(3.8 < estimate.lower < 2 + 2 * np.cos(np.pi / 65))  # the norm
        True
    """
    check_count("steps", steps)
    problem, power = scaled(problem_of(kernel, geometry))
    ready, correlation = problem.kernel, problem.correlation
    if not is_concrete(ready):
        raise InputError("power_iteration needs concrete values: call it outside jax.jit")
    weights = to_numpy(ready)
    layer = operator(weights, correlation)
    x = _start(start, seed, layer.x_shape, weights.dtype)
    for _ in range(steps):
        x = _unit(layer.adjoint(layer.apply(x[None]))[0])
    wide = operator(weights.astype(np.float64), correlation)
    gain = rounded_down(proven_gains(wide, x[None].astype(np.float64))[0][0], 1.0, weights)
    bound = Bound(like(gain, ready, ready.dtype), None, method="power_iteration")
    return times(bound, power), like(x, ready, ready.dtype)


def _start(start: Array | None, seed: int, shape: tuple[int, ...], dtype: Any) -> NumpyArray:
    given = (
        np.random.default_rng(seed).standard_normal(shape) if start is None else start_vector(start, shape)
    )
    return _unit(given.astype(dtype))


def _unit(x: NumpyArray) -> NumpyArray:
    length = float(np.linalg.norm(x))
    return np.asarray(x / length) if length > 0 else x
