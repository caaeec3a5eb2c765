"""A few singular values, all of them and their density, against the dense operator."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import convspectra as cs
from convspectra import krylov
from convspectra.operators import lanczos, padded
from convspectra.operators.reference import dense_operator
from strategies import layers, prepare

MODES = ("zeros", "circular", "reflect", "replicate")
ANY = st.sampled_from(["torus", *MODES]).flatmap(layers)


def dense_values(kernel, geometry):
    return np.linalg.svd(dense_operator(kernel, geometry), compute_uv=False)


@settings(max_examples=200)
@given(ANY, st.integers(1, 4))
def test_largest_triplets_are_what_they_say(layer, k):
    kernel, geometry = layer
    sigma = dense_values(kernel, geometry)
    k = min(k, len(sigma))
    found = krylov.largest(kernel, geometry, k, tolerance=1e-8)
    assert found.converged
    rounding = 1e-13 * (1 + sigma[0])
    # Proven: below the norm; within the residual of a singular value, or of the zero of a larger side.
    assert found.values.max(initial=0) <= sigma[0]
    for value, residual in zip(found.values, found.residuals, strict=True):
        assert np.abs(np.append(sigma, 0) - value).min() <= residual + rounding
    np.testing.assert_allclose(found.values[0], sigma[0], atol=1e-7 * sigma[0] + rounding)
    np.testing.assert_allclose(found.values, sigma[:k], atol=1e-6 * sigma[0] + rounding)
    matrix = dense_operator(kernel, geometry)
    u, v = found.left.reshape(k, -1), found.right.reshape(k, -1)
    for basis in (u, v):
        np.testing.assert_allclose(basis @ basis.T, np.eye(k), atol=1e-12)
    np.testing.assert_allclose(v @ matrix.T, found.values[:, None] * u, atol=1e-7 * sigma[0] + rounding)
    np.testing.assert_allclose(u @ matrix, found.values[:, None] * v, atol=1e-7 * sigma[0] + rounding)


KERNELS = {
    "zero": np.zeros((2, 2, 3, 3)),
    "identity": np.eye(2)[:, :, None, None] * np.eye(9)[4].reshape(3, 3),
    "laplacian": np.array([[[[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]]]]),
    "box": np.ones((2, 3, 3, 3)),
    "checkerboard": np.multiply.outer(np.ones((3, 2)), (-1.0) ** np.add.outer(np.arange(3), np.arange(3))),
    "rank one": np.multiply.outer(np.outer([1.0, -2], [3.0, 1]), np.outer([1.0, 2, 3], [1.0, 0, -1])),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", KERNELS)
def test_symmetric_kernels_and_their_repeated_values(name, mode):
    geometry = cs.ConvGeometry((8, 8), padding=1, padding_mode=mode)
    sigma = dense_values(KERNELS[name], geometry)
    found = krylov.largest(KERNELS[name], geometry, 5, tolerance=1e-9)
    assert found.converged
    np.testing.assert_allclose(found.values, sigma[:5], atol=1e-8 * (1 + sigma[0]))


def test_groups_dilation_and_transposition_pass_through():
    kernel = np.random.default_rng(0).standard_normal((6, 2, 3, 3))
    for options in ({"groups": 3}, {"groups": 2, "transposed": True, "stride": 2, "output_padding": 1}):
        geometry = cs.ConvGeometry((6, 5), padding=1, dilation=1, **options)
        sigma = dense_values(kernel, geometry)
        np.testing.assert_allclose(krylov.largest(kernel, geometry, 3).values, sigma[:3], rtol=1e-6)
        np.testing.assert_allclose(krylov.all_values(kernel, geometry)[: len(sigma)], sigma, atol=1e-12)


def test_a_packet_starts_near_and_a_warm_start_nearer():
    kernel = np.random.default_rng(0).standard_normal((8, 8, 3, 3))
    geometry = cs.ConvGeometry((32, 32), padding=1)
    cold = krylov.largest(kernel, geometry, start=np.random.default_rng(1).standard_normal((8, 32, 32)))
    packet = krylov.largest(kernel, geometry)
    warm = krylov.largest(kernel + 1e-6, geometry, start=packet.right[0])
    np.testing.assert_allclose(cold.values, packet.values, rtol=1e-9)
    assert warm.applications <= packet.applications <= cold.applications


def test_what_a_start_is_orthogonal_to_is_found_all_the_same():
    # Two groups that do not see one another: the larger norm is in the one that the start leaves out.
    kernel = np.ones((2, 1, 3)) * np.array([1.0, 5.0])[:, None, None]
    geometry = cs.ConvGeometry(10, padding=1, groups=2)
    start = np.zeros((2, 10))
    start[0] = 1
    found = krylov.largest(kernel, geometry, start=start)
    np.testing.assert_allclose(found.values, dense_values(kernel, geometry)[:1])


def test_few_applications_are_said_to_be_few_and_stay_below():
    kernel = np.random.default_rng(0).standard_normal((4, 4, 3, 3))
    geometry = cs.ConvGeometry((40, 40), padding=1, padding_mode="reflect")
    few = krylov.largest(kernel, geometry, tolerance=1e-12, applications=10)
    assert not few.converged
    many = krylov.largest(kernel, geometry, tolerance=1e-9)
    assert many.converged
    assert few.values[0] < many.values[0] <= cs.operator_norm(kernel, geometry).upper
    # Some singular value lies there, not the largest.
    assert few.residuals[0] > 1e-6


@settings(max_examples=60)
@given(ANY)
def test_all_values_are_those_of_the_dense_operator(layer):
    sigma = dense_values(*layer)
    found = krylov.all_values(*layer)
    # Groups that are not square have their zeros elsewhere.
    assert len(found) <= len(sigma)
    np.testing.assert_allclose(found, sigma[: len(found)], atol=1e-12 * (1 + sigma[0]))
    assert not (sigma[len(found) :] > 1e-12 * (1 + sigma[0])).any()
    np.testing.assert_array_equal(krylov.smallest(*layer), found[-1:])


def test_on_a_torus_they_are_those_of_the_symbol():
    kernel = np.random.default_rng(0).standard_normal((3, 4, 3, 3))
    geometry = cs.ConvGeometry((5, 6), padding="same", padding_mode="circular")
    expected = cs.singular_values(kernel, geometry).sorted()
    np.testing.assert_allclose(krylov.all_values(kernel, geometry), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("zeros", (3, 3)), ("reflect", (2, 4)), ("replicate", (4, 2)), ("circular", (2, 2))],
)
def test_the_density_is_near_within_its_errors(mode, channels):
    kernel = np.random.default_rng(1).standard_normal((*channels, 3, 3))
    geometry = cs.ConvGeometry((10, 9), padding=1, padding_mode=mode)
    sigma = dense_values(kernel, geometry)
    found = krylov.density(kernel, geometry, probes=24, steps=40)
    assert found.count == len(sigma)
    np.testing.assert_allclose(found.weights.sum(axis=1), 1)
    for function in (lambda s: s, lambda s: s**2, np.log1p):
        mean, error = found.mean(function)
        assert abs(mean - function(sigma).mean()) <= 5 * error
        assert error < 0.1 * mean
    levels = np.quantile(sigma, [0.1, 0.5, 0.9])
    share, error = found.cumulative(levels)
    assert (np.abs(share - [0.1, 0.5, 0.9]) <= 5 * error + 0.03).all()
    again = krylov.density(kernel, geometry, probes=24, steps=40)
    np.testing.assert_array_equal(found.nodes, again.nodes)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_scales(scale):
    kernel, geometry = np.random.default_rng(0).standard_normal((2, 2, 3)), cs.ConvGeometry(9, padding=1)
    plain = krylov.largest(kernel, geometry, 2)
    np.testing.assert_allclose(krylov.largest(scale * kernel, geometry, 2).values, scale * plain.values)


def test_gains_allow_for_rounding():
    kernel, geometry = (
        np.random.default_rng(0).standard_normal((4, 4, 3, 3)),
        cs.ConvGeometry((5, 5), padding=1),
    )
    layer = padded.operator(*prepare(kernel, geometry))
    _, sigma, v = np.linalg.svd(dense_operator(kernel, geometry))
    gains, _ = lanczos.proven_gains(layer, v.reshape(-1, 4, 5, 5))
    assert (gains <= sigma).all()
    np.testing.assert_allclose(gains, sigma, atol=1e-11)


def test_what_cannot_be_had_is_refused():
    kernel, geometry = np.ones((2, 3, 3, 3)), cs.ConvGeometry((40, 40), padding=1)
    for k in (0, True, 3201, 1.5):
        with pytest.raises(cs.InputError, match=r"^k "):
            krylov.largest(kernel, geometry, k)
    with pytest.raises(cs.InputError, match=r"^start"):
        krylov.largest(kernel, geometry, start=np.ones((3, 40)))
    with pytest.raises(cs.InputError, match=r"3200 x 4800 take .* raise memory, take krylov.largest"):
        krylov.smallest(kernel, geometry, compute=cs.Compute(memory=2**20))
    with pytest.raises(cs.InputError, match=r"^probes"):
        krylov.density(kernel, geometry, probes=1)
    jax = pytest.importorskip("jax")
    importlib.import_module("jax").config.update("jax_enable_x64", True)
    with pytest.raises(cs.InputError, match=r"call it outside jax\.jit"):
        jax.jit(lambda w: krylov.largest(w, geometry).values)(kernel)


@pytest.mark.parametrize("seed", range(10))
def test_where_the_basis_ends_early(seed):
    """All of few values are repeated, and both sides are small: steps lead nowhere new."""
    kernel = np.random.default_rng(seed).standard_normal((6, 2, 3, 1))
    geometry = cs.ConvGeometry(
        (1, 2),
        stride=(2, 1),
        dilation=(2, 1),
        groups=3,
        padding=((1, 5), (1, 1)),
        padding_mode="circular",
    )
    values = np.linalg.svd(dense_operator(kernel, geometry), compute_uv=False)
    found = krylov.largest(kernel, geometry, 4)
    assert found.converged
    np.testing.assert_allclose(found.values, values[:4], rtol=1e-9)
