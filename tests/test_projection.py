"""Projections: inside the ball in exact comparison, as near as they say, by an oracle that shares no code."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import convspectra as cs
from convspectra.reference import dense_operator
from strategies import layers


def torus(shape, **options):
    return cs.ConvGeometry(shape, padding="same", padding_mode="circular", **options)


def nearest_by_dykstra(kernel, geometry, limit, steps):
    """Dykstra's algorithm on dense matrices: the ball by their SVD, the convolutions by least squares."""
    taps = np.eye(kernel.size).reshape(kernel.size, *kernel.shape)
    basis = np.stack([dense_operator(tap, geometry) for tap in taps])
    flat = basis.reshape(len(basis), -1)
    squares = (flat**2).sum(axis=1)  # taps that do not wrap are orthogonal
    matrix = np.tensordot(kernel.reshape(-1), basis, axes=1)
    correction = np.zeros_like(matrix)
    for _ in range(steps):
        u, s, vh = np.linalg.svd(matrix + correction, full_matrices=False)
        clipped = (u * np.minimum(s, limit)) @ vh
        correction = matrix + correction - clipped
        coefficients = flat @ clipped.reshape(-1) / squares
        matrix = np.tensordot(coefficients, basis, axes=1)
    return coefficients.reshape(kernel.shape)


CASES = {
    "plain": ((2, 3, 3), {"input_shape": (7,), "layout": "OIW"}),
    "two dimensions": ((2, 2, 2, 3), {"input_shape": (4, 5)}),
    "strided": ((3, 2, 3), {"input_shape": (8,), "stride": 2, "layout": "OIW"}),
    "grouped": ((4, 2, 3), {"input_shape": (6,), "groups": 2, "layout": "OIW"}),
    "dilated": ((2, 2, 3), {"input_shape": (9,), "dilation": 2, "layout": "OIW"}),
    "HWIO": ((3, 2, 2, 2), {"input_shape": (4, 4), "layout": "HWIO"}),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_nearest_kernel(name):
    shape, options = CASES[name]
    kernel = np.random.default_rng(0).standard_normal(shape)
    geometry = cs.ConvGeometry(padding="same", padding_mode="circular", **options)
    limit = 0.6 * float(cs.operator_norm(kernel, geometry).upper)
    found = cs.project(kernel, geometry, limit, tolerance=1e-7, max_iterations=20_000)
    expected = nearest_by_dykstra(kernel, geometry, limit, 20_000)
    assert np.linalg.norm(dense_operator(expected, geometry), 2) <= limit * (1 + 1e-4)
    assert np.linalg.norm(found.kernel - expected) <= found.distance_to_nearest + 1e-3
    assert found.gap <= 1e-7 * np.sum((found.kernel - kernel) ** 2)
    assert np.linalg.norm(dense_operator(found.kernel, geometry), 2) <= limit * (1 + 1e-12)
    # What a loose call claims holds as well.
    loose = cs.project(kernel, geometry, limit, tolerance=0.3)
    assert np.linalg.norm(loose.kernel - found.kernel) <= loose.distance_to_nearest + 1e-3
    assert loose.iterations <= found.iterations


@settings(max_examples=40, deadline=None)
@given(layers(), st.sampled_from([0.3, 0.9, 0.999]), st.sampled_from([np.float32, np.float64]))
def test_the_promise_is_kept_to_the_last_bit(layer, share, dtype):
    kernel, geometry = layer
    kernel = np.asarray(kernel, dtype=dtype)
    before = float(cs.operator_norm(kernel, geometry).upper)
    if not before > 0:
        return
    limit = share * before
    for kept in (
        cs.project(kernel, geometry, limit, tolerance=0.2, max_iterations=20).kernel,
        cs.rescale(kernel, geometry, limit),
    ):
        assert kept.dtype == dtype
        assert kept.shape == kernel.shape
        assert float(cs.operator_norm(kept, geometry).upper) <= limit


def test_rescaling_goes_to_the_edge_and_no_further():
    kernel, geometry = np.random.default_rng(5).standard_normal((4, 4, 3, 3)), torus((9, 9))
    limit = 0.37 * float(cs.operator_norm(kernel, geometry).upper)
    for dtype in (np.float32, np.float64):
        kept = cs.rescale(kernel.astype(dtype), geometry, limit)
        assert limit * (1 - 4 * np.finfo(dtype).eps) <= float(cs.operator_norm(kept, geometry).upper) <= limit
        np.testing.assert_allclose(kept, 0.37 * kernel, rtol=1e-6)


def test_a_kernel_inside_stays_as_it_is():
    kernel = np.random.default_rng(1).standard_normal((3, 3, 3, 3))
    geometry = torus((6, 6))
    limit = float(cs.operator_norm(kernel, geometry).upper)
    found = cs.project(kernel, geometry, limit)
    assert found.kernel is kernel
    assert (found.iterations, found.gap, found.distance_to_nearest) == (0, 0.0, 0.0)
    np.testing.assert_array_equal(cs.rescale(kernel, geometry, limit), kernel)
    np.testing.assert_array_equal(cs.project(0 * kernel, geometry, 1.0).kernel, 0 * kernel)


def test_it_obeys_the_laws_of_projections():
    rng = np.random.default_rng(6)
    geometry = torus((6, 6))
    kernels = rng.standard_normal((2, 3, 3, 3, 3))
    limit = 0.5 * float(cs.operator_norm(kernels[0], geometry).upper)
    first, second = (cs.project(kernel, geometry, limit, tolerance=1e-5) for kernel in kernels)
    again = cs.project(first.kernel, geometry, limit)
    assert again.kernel is first.kernel  # idempotent
    moved = np.linalg.norm(first.kernel - second.kernel)  # and non-expansive, up to what the gaps allow
    room = first.distance_to_nearest + second.distance_to_nearest
    assert moved <= np.linalg.norm(kernels[0] - kernels[1]) + room
    # The obtuse angle at the nearest point: no kernel of the ball lies on the other side.
    normal = kernels[0] - first.kernel
    slack = 2 * first.distance_to_nearest * np.linalg.norm(kernels[0])
    assert np.sum(normal * (second.kernel - first.kernel)) <= slack


def test_a_warm_start_is_short():
    rng = np.random.default_rng(2)
    kernel, geometry = rng.standard_normal((8, 8, 3, 3)), torus((12, 12))
    limit = 0.5 * float(cs.operator_norm(kernel, geometry).upper)
    first = cs.project(kernel, geometry, limit, tolerance=1e-2)
    changed = kernel + 1e-3 * rng.standard_normal(kernel.shape)
    cold = cs.project(changed, geometry, limit, tolerance=2e-2)
    warm = cs.project(changed, geometry, limit, tolerance=2e-2, dual=first.dual)
    assert warm.iterations * 3 <= cold.iterations
    assert warm.norm <= limit
    with pytest.raises(ValueError, match="dual must come from a call with the same geometry"):
        cs.project(changed, torus((10, 12)), limit, dual=first.dual)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scaling_is_a_law(scale):
    kernel, geometry = np.random.default_rng(3).standard_normal((4, 4, 3, 3)), torus((6, 6))
    limit = 0.5 * float(cs.operator_norm(kernel, geometry).upper)
    plain = cs.project(kernel, geometry, limit)
    scaled = cs.project(kernel * scale, geometry, limit * scale)
    np.testing.assert_allclose(scaled.kernel / scale, plain.kernel, atol=1e-9)


def test_other_libraries_get_their_own_arrays():
    torch = pytest.importorskip("torch")
    kernel, geometry = np.random.default_rng(4).standard_normal((4, 4, 3, 3)), torus((6, 6))
    limit = 0.5 * float(cs.operator_norm(kernel, geometry).upper)
    found = cs.project(torch.from_numpy(kernel), geometry, limit)
    assert isinstance(found.kernel, torch.Tensor)
    np.testing.assert_allclose(found.kernel.numpy(), cs.project(kernel, geometry, limit).kernel, atol=1e-9)


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_limits_that_are_none_are_refused(limit):
    kernel, geometry = np.ones((2, 2, 3, 3)), torus((4, 4))
    for method in (cs.project, cs.rescale, cs.clip):
        with pytest.raises(ValueError, match="max_norm must be positive and finite; got"):
            method(kernel, geometry, limit)
    with pytest.raises(ValueError, match="tolerance must be positive; got 0"):
        cs.project(kernel, geometry, 1.0, tolerance=0)
    with pytest.raises(ValueError, match="max_iterations must be at least 1; got 0"):
        cs.project(kernel, geometry, 1.0, max_iterations=0)
