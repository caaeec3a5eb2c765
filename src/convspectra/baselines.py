"""What was done to convolutions before their singular values were known: to compare with, none exact.

The earlier ways that the paper names (Section 1): orthogonal rows of the reshaped kernel (Parseval networks),
the largest ratio seen in a batch (MaxGain), power iteration. The norm of the reshaped kernel, which Yoshida
and Miyato regularise, is `penalties.reshaped_squared_norm`; its clip is `clip_reshaped_kernel`.

Reference: Sedghi, Gupta and Long (2019), Section 1, and those named at each function.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import numpy as np

from . import boundary, spectral_map
from ._compat import Array, in_range, is_concrete, like, namespace, real_kernel, to_numpy
from .errors import InputError
from .geometry import ConvGeometry
from .lanczos import proven_gains
from .projection.promise import check_limit
from .projection.reshaped import as_pointwise
from .results import Bound
from .rounding import rounded_down, times
from .spectral_map import SpectralFunction
from .spectrum import prepare
from .symbol import in_correlation_order

NumpyArray = np.ndarray[Any, Any]
Scaling = Literal["sedghi2019", "cisse2017"]


def parseval_retraction(kernel: Array, geometry: ConvGeometry, *, beta: float = 3e-4) -> Array:
    """One step of the reshaped kernel towards orthonormal rows, as Parseval networks take after each update.

        W <- (1 + beta) W - beta W W^T W

    with `W` the kernel reshaped to `C_out x (C_in k^D)`: a gradient step on `|| W W^T - I ||_F^2 / 4`, which
    takes each singular value to `sigma (1 + beta - beta sigma^2)`.

    Arguments:
        kernel: real array in the layout of `geometry`. Plain operations, differentiable without exception.
        geometry: any; with groups each is a matrix of its own.
        beta: positive, at most 1. Theirs are 1e-4 to 1e-3.

    Returns:
        The kernel, without the scaling of `parseval_scale`.

    Raises:
        ValueError: beta is not positive, or above 1.
        GeometryError, KernelError: as `singular_values`.

    Not guaranteed: orthonormal rows after any number of steps: zero singular values stay, and those above
    `sqrt(1 + 2 / beta)` grow. More rows than columns cannot be orthonormal; then columns become so. Nor that
    orthonormal rows say anything of the operator: its norm can be `sqrt(prod(k))`.

    Reference: Cisse, Bojanowski, Grave, Dauphin and Usunier (2017), who take a random part of the rows.

    >>> import numpy as np
    >>> step = parseval_retraction(2 * np.eye(2).reshape(2, 2, 1, 1), ConvGeometry((8, 8)), beta=0.1)
    >>> round(float(step[0, 0, 0, 0]), 9)  # 2 (1 + 0.1 - 0.1 * 4)
    1.4
    """
    if not 0 < beta <= 1:
        raise ValueError(f"beta must be positive and at most 1; got {beta!r}")
    ready, correlation = prepare(kernel, geometry)
    xp, groups = namespace(ready), correlation.groups
    rows = xp.reshape(ready, (groups, correlation.out_channels // groups, -1))
    gram = xp.matmul(rows, xp.matrix_transpose(rows))
    moved = (1 + beta) * rows - beta * xp.matmul(gram, rows)
    return _as_given(xp.reshape(moved, ready.shape), geometry)


def parseval_projection(kernel: Array, geometry: ConvGeometry, *, scaling: Scaling = "sedghi2019") -> Array:
    """The kernel of a Parseval layer: the nearest one with orthonormal rows, times `parseval_scale`.

        W <- parseval_scale U V^T,    W reshaped = U diag(sigma) V^T

    which is what the steps of `parseval_retraction` tend to.

    Arguments:
        kernel: real array in the layout of `geometry`. Differentiable as `orthogonalise`: where no singular
            value is zero; the part that belongs to zeros is taken as zero.
        geometry: any; with groups each is a matrix of its own.
        scaling: as `parseval_scale`.

    Raises:
        ValueError: an unknown scaling.
        GeometryError, KernelError: as `singular_values`.

    Not guaranteed: a norm of at most 1, unless `scaling="cisse2017"` (see `parseval_scale`).

    Reference: Cisse, Bojanowski, Grave, Dauphin and Usunier (2017); Sedghi, Gupta and Long (2019), Section 1.

    >>> import numpy as np
    >>> ones = np.ones((1, 1, 3, 3))
    >>> kernel = parseval_projection(ones, ConvGeometry((8, 8), padding=1, padding_mode="circular"))
    >>> bool(np.isclose(kernel.sum(), 3 / np.sqrt(7)))  # its norm, above 1
    True
    """
    scale = parseval_scale(kernel, geometry, scaling=scaling)
    ready, correlation = prepare(kernel, geometry)
    flat, pointwise = as_pointwise(ready, correlation)
    unit = SpectralFunction(lambda sigma: scale + 0 * sigma, lambda sigma: 0 * sigma)
    moved = spectral_map.mapped(flat, pointwise, unit)
    return _as_given(namespace(moved).reshape(moved, ready.shape), geometry)


def parseval_scale(kernel: Array, geometry: ConvGeometry, *, scaling: Scaling = "sedghi2019") -> float:
    """The factor by which Parseval networks multiply the output of a convolution.

    Arguments:
        kernel: real array in the layout of `geometry`; its shape alone is used.
        geometry: any.
        scaling: `"sedghi2019"`, as the paper describes it, `(2 k + 1)^(-1/2)` for `k x k` kernels (k the
            longest side); or `"cisse2017"`, as they derive it: `(2 k + 1)^(-1/2)` for a filter of `2 k + 1`
            taps along one axis, which is `prod(k)^(-1/2)` in this package's words.

    Raises:
        ValueError: an unknown scaling.
        GeometryError, KernelError: as `singular_values`.

    Not guaranteed: with orthonormal rows and the first scaling a norm of at most 1: a `k x k` kernel can
    reach `k (2 k + 1)^(-1/2)`. With the second it is at most 1, for zero and circular padding and any stride,
    since every input is read `prod(k)` times at most.

    Reference: Sedghi, Gupta and Long (2019), Section 1; Cisse, Bojanowski, Grave, Dauphin and Usunier (2017).

    >>> import numpy as np
    >>> geometry, kernel = ConvGeometry((8, 8)), np.ones((4, 4, 3, 3))
    >>> [round(parseval_scale(kernel, geometry, scaling=way), 6) for way in ("sedghi2019", "cisse2017")]
    [0.377964, 0.333333]
    """
    if scaling not in get_args(Scaling):
        raise ValueError(f"scaling must be one of {', '.join(get_args(Scaling))}; got {scaling!r}")
    sizes = prepare(kernel, geometry)[1].kernel_size
    return 1 / math.sqrt(2 * max(sizes) + 1 if scaling == "sedghi2019" else math.prod(sizes))


def largest_ratio(inputs: Array, outputs: Array) -> Array:
    """The largest `||y|| / ||x||` of a batch: a lower bound of the norm of the linear map between them.

    Arguments:
        inputs, outputs: what went into a layer and what came out, without its bias; shape
            (batch, channels, *sizes) each. Their gradient is the library's own, at ties and zeros too.

    Returns:
        A scalar array; 0 where all inputs are zero (items whose input is zero are left out).

    Raises:
        InputError: batches that are empty or differ in length; no batch axis.

    Not guaranteed: to be near the norm, which random inputs miss by far.

    Reference: Gouk, Pfahringer, Frank and Cree (2018), MaxGain.

    >>> import numpy as np
    >>> x = np.array([[3.0, 4.0], [0.0, 1.0]])
    >>> float(largest_ratio(x, x * [1.0, 2.0]))
    2.0
    """
    for name, array in (("inputs", inputs), ("outputs", outputs)):
        if array.ndim < 2 or array.shape[0] == 0:
            raise InputError(
                f"{name} must have the shape (batch, channels, *sizes) with a batch of at least one; "
                f"got {tuple(array.shape)}"
            )
    if inputs.shape[0] != outputs.shape[0]:
        raise InputError(
            f"inputs and outputs must be of one batch; got {inputs.shape[0]} and {outputs.shape[0]} items"
        )
    xp = namespace(inputs)
    before, after = (
        xp.linalg.vector_norm(xp.reshape(array, (array.shape[0], -1)), axis=1) for array in (inputs, outputs)
    )
    seen = before > 0
    return xp.max(xp.where(seen, after / xp.where(seen, before, 1 + before), 0 * after))


def max_gain(kernel: Array, inputs: Array, outputs: Array, max_ratio: float) -> Array:
    """The kernel, scaled down so that the largest ratio between input and output of a batch obeys a limit.

        W min(1, max_ratio / max_b ||y_b|| / ||x_b||)

    Arguments:
        kernel: of the linear layer that made `outputs`; any layout.
        inputs, outputs: as `largest_ratio`, of the layer with this kernel, without its bias. Detach them: the
            method takes the ratio as given.
        max_ratio: the limit, positive.

    Raises:
        ValueError: max_ratio is not positive and finite.
        InputError: as `largest_ratio`, or ratios that are no finite numbers.
        KernelError: as `singular_values`.

    Not guaranteed: a norm of at most `max_ratio`: the ratio bounds it from below, and another batch may show
    a larger one. `rescale` uses the norm. All singular values are scaled, not only the large ones.

    Reference: Gouk, Pfahringer, Frank and Cree (2018), MaxGain; Gouk, Frank, Pfahringer and Cree (2018), who
    scale by an estimate of the norm.

    >>> import numpy as np
    >>> kernel, x = 4 * np.ones((1, 1, 1)), np.ones((5, 1, 8))
    >>> max_gain(kernel, x, 4 * x, max_ratio=1.0)
    array([[[1.]]])
    """
    limit, kernel = check_limit("max_ratio", max_ratio), real_kernel(kernel)
    ratio = largest_ratio(inputs, outputs)
    if is_concrete(ratio) and not bool(np.isfinite(to_numpy(ratio))):
        raise InputError("inputs and outputs must be finite numbers; leave this batch out")
    xp = namespace(kernel)
    over = ratio > limit
    factor = xp.where(over, limit / xp.where(over, ratio, 1 + 0 * ratio), 1 + 0 * ratio)
    return kernel * xp.astype(factor, kernel.dtype)


def power_iteration(
    kernel: Array, geometry: ConvGeometry, *, steps: int = 10, start: Array | None = None, seed: int = 0
) -> tuple[Bound, Array]:
    """An estimate of the norm from below, of the layer as it pads: `||A x|| / ||x||` after `x <- A^T A x`.

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
        ValueError: steps is no integer of at least 1, or start has another shape or is no finite array.
        GeometryError: as `singular_values`, or padding by reflection over an axis of one point.
        InputError: a traced JAX array.
        KernelError: as `singular_values`.

    Not guaranteed: to be near the norm after any number of steps. The error shrinks as
    `(sigma_2 / sigma_1)^(4 steps)`, and large inputs bring the two together.

    Reference: Golub and Van Loan (2013), Section 8.2; for layers Farnia, Zhang and Tse (2019), and, of the
    reshaped kernel, Yoshida and Miyato (2017).

    >>> import numpy as np
    >>> laplacian, geometry = np.array([[[-1.0, 2.0, -1.0]]]), ConvGeometry(64, padding=1)
    >>> estimate, vector = power_iteration(laplacian, geometry, steps=20)
    >>> bool(3.8 < estimate.lower < 2 + 2 * np.cos(np.pi / 65))  # the norm
    True
    """
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"steps must be an integer of at least 1; got {steps!r}")
    ready, correlation = prepare(kernel, geometry)
    if not is_concrete(ready):
        raise InputError("power_iteration needs concrete values: call it outside jax.jit")
    scaled, power = in_range(ready)
    weights = to_numpy(scaled)
    layer = boundary.operator(weights, correlation)
    x = _start(start, seed, layer.input_shape, weights.dtype)
    for _ in range(steps):
        x = _unit(layer.adjoint(layer.apply(x[None]))[0])
    wide = boundary.operator(weights.astype(np.float64), correlation)
    gain = rounded_down(proven_gains(wide, x[None].astype(np.float64))[0][0], 1.0, weights)
    bound = Bound(like(gain, ready, ready.dtype), None, method="power_iteration")
    return times(bound, power), like(x, ready, ready.dtype)


def _start(start: Array | None, seed: int, shape: tuple[int, ...], dtype: Any) -> NumpyArray:
    if start is None:
        return _unit(np.random.default_rng(seed).standard_normal(shape).astype(dtype))
    given = to_numpy(start)
    if given.shape != shape or not np.isfinite(given).all():
        raise ValueError(f"start must be a finite array of shape {shape}; got shape {given.shape}")
    return _unit(given.astype(dtype))


def _unit(x: NumpyArray) -> NumpyArray:
    length = float(np.linalg.norm(x))
    return np.asarray(x / length) if length > 0 else x


def _as_given(kernel: Array, geometry: ConvGeometry) -> Array:
    """Back from the order of `Correlation` to the geometry's layout."""
    return in_correlation_order(kernel, [int(axis) for axis in np.argsort(geometry.kernel_axes)])
