"""The paper's two functions, under its own conventions, for readers who come from it.

Kernels are `(k_1, k_2, C, C')`, the paper's layout ("HWIO"), the convolution wraps around, the
stride is 1. Unlike the lines printed in the paper, both are right for a kernel that is larger than
the input: its taps wrap, where `numpy.fft.fft2(kernel, input_shape)` cuts them off.

Reference: Sedghi, Gupta and Long (2019), Section 1 and Appendix A.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .._compat import Array, like, namespace
from ..geometry import ConvGeometry
from ..projection import clip
from ..spectrum import singular_values as _singular_values

__all__ = ["clip_operator_norm", "singular_values"]


def singular_values(kernel: Array, input_shape: Sequence[int]) -> Array:
    """All singular values, shape `(*input_shape, min(C, C'))`, each row descending.

    Arguments:
        kernel: shape (k_1, k_2, C, C'), real.
        input_shape: spatial, in pixels.

    Returns:
        The values of the paper's `SingularValues`, at the frequency that `fft2` puts there.

    Examples:
        >>> import numpy as np
        >>> kernel = np.random.default_rng(0).standard_normal((3, 3, 4, 4))
        >>> ours = singular_values(kernel, (8, 8))
        >>> theirs = np.linalg.svd(np.fft.fft2(kernel, (8, 8), axes=[0, 1]), compute_uv=False)
        >>> bool(np.allclose(ours, theirs))
        True
    """
    spectrum = _singular_values(kernel, _geometry(input_shape))
    xp = namespace(spectrum.values)
    grid = spectrum.grid
    rows = grid.spread(np.arange(len(grid))).reshape(-1)
    everywhere = xp.take(spectrum.values, like(rows, spectrum.values), axis=0)
    return xp.reshape(everywhere, (*grid.shape, -1))


def clip_operator_norm(kernel: Array, input_shape: Sequence[int], clip_to: float) -> Array:
    """The kernel after one clip of its singular values.

    Arguments:
        kernel: shape (k_1, k_2, C, C'), real.
        input_shape: spatial, in pixels.
        clip_to: the limit, positive.

    Returns:
        A kernel of the same shape. Its norm is near `clip_to`, not at most `clip_to`: see `convspectra.clip`.
    """
    return clip(kernel, _geometry(input_shape), clip_to).kernel


def _geometry(input_shape: Sequence[int]) -> ConvGeometry:
    return ConvGeometry(input_shape, padding="same", padding_mode="circular", layout="HWIO")
