"""MaxGain: a kernel scaled by the largest ratio between output and input that a batch shows."""

from __future__ import annotations

import numpy as np

from .._compat import Array, is_concrete, namespace, real_kernel, to_numpy
from ..checks import check_limit
from ..errors import InputError


def largest_ratio(inputs: Array, outputs: Array) -> Array:
    """The largest `||y|| / ||x||` of a batch: a lower bound of the norm of the linear map between them.

    Arguments:
        inputs: what went into a layer and what came out, without its bias; shape (batch, channels, *sizes)
            each. Their gradient is the library's own, at ties and zeros too.
        outputs: what went into a layer and what came out, without its bias; shape (batch, channels, *sizes)
            each. Their gradient is the library's own, at ties and zeros too.

    Returns:
        A scalar array; 0 where all inputs are zero (items whose input is zero are left out).

    Raises:
        InputError: batches that are empty or differ in length; no batch axis.

    Notes:
        Not guaranteed: to be near the norm, which random inputs miss by far.

    References:
        Gouk, Pfahringer, Frank and Cree (2018), MaxGain.

    Examples:
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
        inputs: as `largest_ratio`, of the layer with this kernel, without its bias. Detach them: the method
            takes the ratio as given.
        outputs: as `largest_ratio`, of the layer with this kernel, without its bias. Detach them: the
            method takes the ratio as given.
        max_ratio: the limit, positive.

    Returns:
        The kernel, in the layout of the given one.

    Raises:
        InputError: max_ratio is not positive and finite; as `largest_ratio`, or ratios that are no finite
            numbers.
        KernelError: as `singular_values`.

    Notes:
        Not guaranteed: a norm of at most `max_ratio`: the ratio bounds it from below, and another batch may
        show a larger one. `rescale` uses the norm. All singular values are scaled, not only the large ones.

    References:
        Gouk, Pfahringer, Frank and Cree (2018), MaxGain; Gouk, Frank, Pfahringer and Cree (2018), who scale
        by an estimate of the norm.

    Examples:
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
