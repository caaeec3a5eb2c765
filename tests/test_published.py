"""The earlier ways: what they compute, and the claims about the operator that they do not keep."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import convspectra as cs
from convspectra import published
from convspectra._compat import to_numpy
from convspectra.operators.reference import dense_operator
from strategies import layers


def torus(shape, **options):
    return cs.ConvGeometry(shape, padding="same", padding_mode="circular", **options)


def matrices(kernel, geometry):
    ordered = np.transpose(kernel, geometry.kernel_axes)
    return ordered.reshape(geometry.groups, ordered.shape[0] // geometry.groups, -1)


# ---- Parseval


def test_the_retraction_is_its_formula():
    kernel, geometry = np.random.default_rng(0).standard_normal((3, 2, 4, 2)), torus((4, 4), layout="HWIO")
    found = published.parseval_retraction(kernel, geometry, beta=0.05)
    assert found.shape == kernel.shape
    (before,), (after,) = matrices(kernel, geometry), matrices(found, geometry)
    np.testing.assert_allclose(after, 1.05 * before - 0.05 * before @ before.T @ before)


@settings(max_examples=25)
@given(layers())
def test_retractions_tend_to_the_projection(layer):
    kernel, geometry = layer
    values = np.linalg.svd(matrices(kernel, geometry), compute_uv=False)
    assume(values.min() > 1e-2 * values.max())
    step = kernel / values.max()
    for _ in range(60):
        step = published.parseval_retraction(step, geometry, beta=0.5)
    projected = published.parseval_projection(kernel, geometry)
    np.testing.assert_allclose(published.parseval_scale(kernel, geometry) * step, projected, atol=1e-9)


@settings(max_examples=40)
@given(st.sampled_from(["torus", "zeros"]).flatmap(layers))
def test_their_own_scaling_bounds_the_norm(layer):
    kernel, geometry = layer
    scaled = published.parseval_projection(kernel, geometry, scaling="cisse2017")
    assert np.linalg.norm(dense_operator(scaled, geometry), 2) <= 1 + 1e-12


@pytest.mark.parametrize("side", [3, 5])
def test_the_scaling_that_the_paper_describes_does_not(side):
    kernel, geometry = np.ones((1, 1, side, side)), torus((16, 16))
    scaled = published.parseval_projection(kernel, geometry)
    np.testing.assert_allclose(cs.operator_norm(scaled, geometry).upper, side / np.sqrt(2 * side + 1))
    assert cs.operator_norm(scaled, geometry).upper > 1


def test_parseval_in_other_libraries():
    kernel, geometry = np.random.default_rng(1).standard_normal((4, 2, 3)), torus((5,), groups=2)
    for module in ("torch", "jax.numpy", "array_api_strict"):
        theirs = pytest.importorskip(module).asarray(kernel)
        for method in (published.parseval_retraction, published.parseval_projection):
            found = method(theirs, geometry)
            assert type(found) is type(theirs)
            np.testing.assert_allclose(to_numpy(found), method(kernel, geometry), atol=1e-6)


def test_parseval_refuses_what_it_does_not_know():
    kernel, geometry = np.ones((2, 2, 3, 3)), torus((4, 4))
    for beta in (0.0, -1.0, 2.0, float("nan")):
        with pytest.raises(cs.InputError, match=r"^beta "):
            published.parseval_retraction(kernel, geometry, beta=beta)
    with pytest.raises(cs.InputError, match=r"^scaling"):
        published.parseval_projection(kernel, geometry, scaling="none")


# ---- the largest ratio of a batch


def batch(kernel, geometry, items=8, seed=0):
    matrix = dense_operator(kernel, geometry)
    x = np.random.default_rng(seed).standard_normal((items, matrix.shape[1]))
    return x[:, None], (x @ matrix.T)[:, None]


def test_the_ratio_of_this_batch_obeys_the_limit_and_the_norm_does_not():
    kernel, geometry = (
        np.random.default_rng(0).standard_normal((3, 3, 3, 3)),
        cs.ConvGeometry((6, 6), padding=1),
    )
    x, y = batch(kernel, geometry)
    before = published.largest_ratio(x, y)
    np.testing.assert_allclose(
        before, max(np.linalg.norm(b) / np.linalg.norm(a) for a, b in zip(x, y, strict=True))
    )
    moved = published.max_gain(kernel, x, y, max_ratio=0.5)
    np.testing.assert_allclose(moved, kernel * 0.5 / before)
    np.testing.assert_allclose(published.largest_ratio(x, batch(moved, geometry)[1]), 0.5)
    assert np.linalg.norm(dense_operator(moved, geometry), 2) > 0.5
    np.testing.assert_array_equal(published.max_gain(kernel, x, y, max_ratio=2 * before), kernel)


def test_zero_inputs_are_left_out():
    x, y = np.zeros((3, 1, 4)), np.ones((3, 1, 4))
    assert published.largest_ratio(x, y) == 0
    x[1] = 0.5
    assert published.largest_ratio(x, y) == 2
    np.testing.assert_array_equal(published.max_gain(np.ones((1, 1, 1)), 0 * x, y, 1.0), np.ones((1, 1, 1)))


@pytest.mark.parametrize("module", ["torch", "jax.numpy", "array_api_strict"])
def test_ratios_in_other_libraries(module):
    xp = pytest.importorskip(module)
    kernel, geometry = np.random.default_rng(0).standard_normal((3, 3, 3)), torus((6,))
    x, y = batch(kernel, geometry)
    theirs = [xp.asarray(array.astype(np.float32)) for array in (kernel, x, y)]
    found = published.max_gain(*theirs, max_ratio=0.5)
    assert type(found) is type(theirs[0])
    assert found.dtype == theirs[0].dtype
    np.testing.assert_allclose(to_numpy(found), published.max_gain(kernel, x, y, 0.5), rtol=1e-5)


def test_batches_that_are_none_are_refused():
    kernel, x = np.ones((1, 1, 3)), np.ones((4, 1, 8))
    with pytest.raises(cs.InputError, match="inputs and outputs must be of one batch; got 4 and 3 items"):
        published.max_gain(kernel, x, x[:3], 1.0)
    with pytest.raises(cs.InputError, match=r"^inputs"):
        published.max_gain(kernel, x[:0], x, 1.0)
    with pytest.raises(cs.InputError, match=r"^outputs"):
        published.max_gain(kernel, x, x[:, 0, 0], 1.0)
    with pytest.raises(cs.InputError, match="inputs and outputs must be finite numbers"):
        published.max_gain(kernel, x, np.nan * x, 1.0)
    with pytest.raises(cs.InputError, match=r"^max_ratio"):
        published.max_gain(kernel, x, x, 0)


# ---- power iteration


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
@settings(max_examples=25)
@given(data=st.data())
def test_it_comes_to_the_norm_of_the_layer_as_it_pads(mode, data):
    kernel, geometry = data.draw(layers(mode))
    values = np.linalg.svd(dense_operator(kernel, geometry), compute_uv=False)
    few, vector = published.power_iteration(kernel, geometry, steps=1)
    assert few.status == "lower"
    many, last = published.power_iteration(kernel, geometry, steps=150, start=vector)
    assert few.lower * (1 - 1e-14) <= many.lower <= values[0]
    assert many.lower >= 0.98 * values[0]
    if values[0] > 0:
        matrix = dense_operator(kernel, geometry)
        np.testing.assert_allclose(np.linalg.norm(matrix @ last.reshape(-1)), many.lower, rtol=1e-9)


def test_a_warm_start_goes_on_where_it_was():
    kernel, geometry = (
        np.random.default_rng(0).standard_normal((4, 4, 3, 3)),
        cs.ConvGeometry((8, 8), padding=1),
    )
    bound, vector = published.power_iteration(kernel, geometry, steps=12)
    half, middle = published.power_iteration(kernel, geometry, steps=5)
    again, end = published.power_iteration(kernel, geometry, steps=7, start=middle)
    np.testing.assert_allclose(end, vector, atol=1e-12)
    np.testing.assert_allclose(again.lower, bound.lower, rtol=1e-12)
    assert half.lower < bound.lower < cs.operator_norm(kernel, geometry).upper


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_power_iteration_scales(scale):
    kernel, geometry = np.random.default_rng(0).standard_normal((2, 2, 3)), torus((6,))
    plain, scaled = (published.power_iteration(k, geometry)[0].lower for k in (kernel, scale * kernel))
    np.testing.assert_allclose(scaled, scale * plain)


def test_power_iteration_in_other_libraries():
    torch = pytest.importorskip("torch")
    kernel = np.random.default_rng(0).standard_normal((2, 2, 3)).astype(np.float32)
    bound, vector = published.power_iteration(torch.from_numpy(kernel), torus((6,)))
    assert bound.lower.dtype == vector.dtype == torch.float32
    np.testing.assert_allclose(
        bound.lower, published.power_iteration(kernel, torus((6,)))[0].lower, rtol=1e-6
    )


def test_power_iteration_refuses_what_it_cannot_use():
    kernel, geometry = np.ones((2, 3, 3)), torus((6,))
    for steps in (0, 1.5, True):
        with pytest.raises(cs.InputError, match=r"^steps"):
            published.power_iteration(kernel, geometry, steps=steps)
    with pytest.raises(cs.InputError, match=r"^start"):
        published.power_iteration(kernel, geometry, start=np.ones((2, 6)))
    jax = pytest.importorskip("jax")
    importlib.import_module("jax").config.update("jax_enable_x64", True)
    with pytest.raises(cs.InputError, match=r"call it outside jax\.jit"):
        jax.jit(lambda k: published.power_iteration(k, geometry)[0].lower)(kernel)
