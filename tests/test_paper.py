"""The paper's functions: its own lines where they are right, the dense operator where they are not."""

from __future__ import annotations

import numpy as np
import pytest

from convspectra import ConvGeometry, InputError, clip, paper, singular_values
from convspectra.operators.reference import dense_operator


def printed_singular_values(kernel, input_shape):
    """The lines printed in Section 1."""
    transforms = np.fft.fft2(kernel, input_shape, axes=[0, 1])
    return np.linalg.svd(transforms, compute_uv=False)


def printed_clip(kernel, input_shape, clip_to):
    """The lines printed in Appendix A."""
    transforms = np.fft.fft2(kernel, input_shape, axes=[0, 1])
    u, d, v = np.linalg.svd(transforms, compute_uv=True, full_matrices=False)
    clipped = np.matmul(u * np.minimum(d, clip_to)[..., None, :], v)
    kernel_out = np.fft.ifft2(clipped, axes=[0, 1]).real
    return kernel_out[np.ix_(*[range(size) for size in kernel.shape])]


@pytest.mark.parametrize("shape", [(3, 3, 4, 4), (3, 3, 2, 5), (5, 1, 4, 3), (1, 1, 3, 3)])
def test_equal_to_the_printed_lines(shape):
    kernel = np.random.default_rng(0).standard_normal(shape)
    for size in ((8, 8), (7, 6), (5, 5)):
        np.testing.assert_allclose(
            paper.singular_values(kernel, size), printed_singular_values(kernel, size), atol=1e-12
        )
        np.testing.assert_allclose(
            paper.clip_operator_norm(kernel, size, 1.3), printed_clip(kernel, size, 1.3), atol=1e-12
        )


def test_right_where_the_printed_lines_crop_the_kernel():
    kernel = np.random.default_rng(1).standard_normal((5, 5, 2, 3))
    size = (3, 4)
    geometry = ConvGeometry(size, padding="same", padding_mode="circular", layout="HWIO")
    expected = np.linalg.svd(dense_operator(kernel, geometry), compute_uv=False)
    ours = np.sort(paper.singular_values(kernel, size), axis=None)[::-1]
    np.testing.assert_allclose(ours, expected, atol=1e-12)
    assert not np.allclose(
        np.sort(printed_singular_values(kernel, size), axis=None)[::-1], expected, atol=0.1
    )


@pytest.mark.parametrize("size", [(3, 4), (2, 2), (8, 8)])
def test_clip_leaves_a_kernel_inside_the_ball_alone(size):
    kernel = np.random.default_rng(2).standard_normal((5, 5, 2, 3))
    largest = paper.singular_values(kernel, size).max()
    np.testing.assert_array_equal(paper.clip_operator_norm(kernel, size, 1.001 * largest), kernel)


def test_clip_of_a_wrapped_kernel_reaches_the_norm_exactly():
    # The taps cover the torus, so that cutting back to them takes nothing away.
    kernel = np.random.default_rng(3).standard_normal((5, 4, 2, 3))
    clipped = paper.clip_operator_norm(kernel, (3, 4), 1.0)
    assert np.isclose(paper.singular_values(clipped, (3, 4)).max(), 1.0)


@pytest.mark.parametrize(
    "options",
    [{"stride": 2}, {"dilation": 2}, {"groups": 2}, {"transposed": True, "stride": 2}, {"layout": "HWOI"}],
)
def test_clip_is_the_nearest_operator_cut_to_the_taps(options):
    geometry = ConvGeometry((6, 6), padding="same", padding_mode="circular", **options)
    rng = np.random.default_rng(4)
    kernel = rng.standard_normal((3, 3, 4, 2) if "layout" in options else (4, 2, 3, 3))
    operator = dense_operator(kernel, geometry)
    u, s, vt = np.linalg.svd(operator, full_matrices=False)
    nearest = (u * np.minimum(s, 2.0)) @ vt
    expected = np.zeros_like(kernel)
    # Cutting back is the orthogonal projection onto operators with these taps, tap by tap.
    for index in np.ndindex(*kernel.shape):
        unit = np.zeros_like(kernel)
        unit[index] = 1
        direction = dense_operator(unit, geometry)
        expected[index] = (nearest * direction).sum() / (direction**2).sum()
    np.testing.assert_allclose(clip(kernel, geometry, 2.0).kernel, expected, atol=1e-12)
    assert singular_values(clip(kernel, geometry, 2.0).kernel, geometry).norm < s[0]


@pytest.mark.parametrize("bad", [0, -1.0, np.nan, np.inf])
def test_a_radius_that_is_none_is_refused(bad):
    with pytest.raises(InputError, match=r"^max_norm"):
        paper.clip_operator_norm(np.ones((3, 3, 2, 2)), (4, 4), bad)
