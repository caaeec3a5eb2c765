"""Numbers at the edge: taps that cancel, kernels near the ends of the range."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

import convspectra as cs
from convspectra.bounds.rounding import norm_error
from convspectra.spectrum import prepare, top_block

WRAPPED = cs.ConvGeometry((1,), padding="same", padding_mode="circular")


def norm_at_one_point(kernel):
    """Of a torus of one point, taps added exactly."""
    sums = [[float(sum(map(Fraction, map(float, taps)))) for taps in row] for row in kernel]
    return float(np.linalg.norm(np.array(sums), 2))


def cancelling(seed, dtype, size):
    """Taps whose sum is `size` times their moduli."""
    kernel = np.random.default_rng(seed).standard_normal((2, 3, 3))
    kernel[..., 2] = -kernel[..., :2].sum(axis=-1) * (1 + size)
    return kernel.astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1, 2.0**-100, 2.0**100])
def test_norm_error_holds_where_taps_cancel(dtype, scale):
    outside_relative = 0
    for seed in range(50):
        kernel = cancelling(seed, dtype, 1e-15) * dtype(scale)
        ready, correlation = prepare(kernel, WRAPPED)
        norm, true = float(top_block(ready, correlation).norm), norm_at_one_point(kernel)
        assert abs(norm - true) <= norm_error(ready, correlation, norm) <= norm_error(ready, correlation)
        outside_relative += abs(norm - true) > 1e3 * np.finfo(dtype).eps * true
    assert outside_relative  # no error relative to the norm would do
