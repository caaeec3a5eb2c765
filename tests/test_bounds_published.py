"""The published bounds: one table, the dense operator as judge, and the kernels on which claims fail."""

from __future__ import annotations

import importlib
import math
from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings

import convspectra as cs
from convspectra import bounds
from convspectra._compat import to_numpy
from convspectra.bounds.copy_count import copies
from convspectra.bounds.unfoldings import plain_kernel
from convspectra.operators.padded import read_count
from convspectra.operators.reference import dense_operator
from strategies import layers, prepare

SYMBOL = ("zeros", "circular")
ANY = ("zeros", "circular", "reflect", "replicate")

# Each method, and the padding modes it takes.
METHODS = {
    "araujo2021": (bounds.araujo2021, SYMBOL),
    "araujo2021, rows": (partial(bounds.araujo2021, together=False), SYMBOL),
    "copy_count": (bounds.copy_count, ANY),
    "delattre2023": (bounds.delattre2023, SYMBOL),
    "delattre2023, two tori": (partial(bounds.delattre2023, steps=2, sizes=2), SYMBOL),
    "delattre2024": (bounds.delattre2024, SYMBOL),
    "delattre2024, one step": (partial(bounds.delattre2024, steps=1), SYMBOL),
    "frobenius": (bounds.frobenius, ANY),
    "grishina2024": (partial(bounds.grishina2024, starts=1, sweeps=4), SYMBOL),
    "holder": (bounds.holder, ANY),
    "reshaped_kernel": (bounds.reshaped_kernel, SYMBOL),
    "rump2006": (bounds.rump2006, ANY),
    "singla2021": (bounds.singla2021, SYMBOL),
}
MAY_REFUSE_CIRCULAR = set(METHODS) - {"copy_count", "frobenius", "holder", "reshaped_kernel", "rump2006"}
SAME = {"padding": "same", "padding_mode": "circular"}


def true_norm(kernel, geometry):
    return np.linalg.norm(dense_operator(kernel, geometry), 2)


def hold(kernel, geometry):
    """Every method that takes the geometry bounds the dense norm: `upper` compared exactly."""
    norm = true_norm(kernel, geometry)
    mode = geometry.padding_mode
    if not any(map(any, geometry.correlation(kernel.shape).padding)):
        mode = "zeros"  # nothing is padded
    for name, (method, modes) in METHODS.items():
        try:
            bound = method(kernel, geometry)
        except cs.GeometryError:
            assert mode not in modes or (mode == "circular" and name in MAY_REFUSE_CIRCULAR)
            continue
        assert mode in modes
        assert not bound.exact
        assert bound.upper.dtype == kernel.dtype
        assert float(bound.upper) >= norm, name
        assert bound.lower is None or float(bound.lower) <= norm * (1 + 1e-14), name


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("mode", ["torus", "zeros", "circular", "reflect", "replicate"])
def test_bounds_hold_on_every_geometry(mode, dtype):
    @settings(max_examples=60)
    @given(layers(mode=mode, dtype=dtype))
    def check(layer):
        hold(*layer)

    check()


LAPLACIAN = np.array([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]])
BOX = np.ones((3, 3))
DELTA = np.eye(9)[0].reshape(3, 3)
CHECKERBOARD = np.fromfunction(lambda i, j: (-1.0) ** (i + j), (3, 3))
ROTATION = np.stack([np.eye(2), [[0.0, -1.0], [1.0, 0.0]]], axis=-1)[..., None]
KERNELS = {
    "zero": np.zeros((2, 3, 3, 3)),
    "rank one": np.multiply.outer(np.multiply.outer([1.0, 2], [1.0, -1, 3]), np.outer([1, 2, 1], [1, 0, -1])),
    "delta": DELTA[None, None],
    "identity": np.multiply.outer(np.eye(3), np.eye(9)[4].reshape(3, 3)),
    "Laplacian": LAPLACIAN[None, None],
    "box": BOX[None, None],
    "checkerboard": CHECKERBOARD[None, None],
    "rotation": ROTATION,
    "two channels that cannot meet": np.multiply.outer(np.diag([1.0, 0.9]), BOX),
}


@pytest.mark.parametrize("mode", ANY)
@pytest.mark.parametrize("name", KERNELS)
def test_bounds_hold_for_kernels_on_which_bounds_fail(name, mode):
    kernel = KERNELS[name]
    pads = tuple(k // 2 for k in kernel.shape[2:])
    for size in ((3, 3), (5, 4)):
        for options in ({}, {"stride": 2}, {"dilation": 2}, {"stride": 2, "transposed": True}):
            try:
                geometry = cs.ConvGeometry(size, padding=pads, padding_mode=mode, **options)
                hold(kernel, geometry)
            except cs.GeometryError as error:
                assert "no output point" in str(error)  # noqa: PT017
    if kernel.shape[0] == 1:
        grouped = np.concatenate([kernel, -2 * kernel, 0 * kernel])
        hold(grouped, cs.ConvGeometry((4, 5), padding=1, padding_mode=mode, groups=3))


@pytest.mark.parametrize("name", METHODS)
def test_zero_is_zero_and_bounds_are_homogeneous(name):
    method = METHODS[name][0]
    geometry = cs.ConvGeometry((4, 5), padding=1)
    assert float(method(np.zeros((2, 3, 3, 3)), geometry).upper) == 0
    for dtype, scales in ((np.float64, (1e-200, 1e200)), (np.float32, (1e-30, 1e30))):
        kernel = np.random.default_rng(0).standard_normal((2, 3, 3, 3)).astype(dtype)
        one = method(kernel, geometry)
        for scale in scales:
            scaled = method((kernel * dtype(scale)).astype(dtype), geometry)
            np.testing.assert_allclose(scaled.upper / dtype(scale), one.upper, rtol=1e-5)
            if one.lower is not None:
                np.testing.assert_allclose(scaled.lower / dtype(scale), one.lower, rtol=1e-5)


# ---- published claims that are false as published


def test_samples_without_the_factor_are_no_bound():
    """Araujo et al.'s code samples 50 points from 0 to 2 pi, both ends among them, and takes the largest."""
    kernel = np.array([[[-1.0, 2.0, -1.0]]])
    angles = np.linspace(0, 2 * np.pi, 50)
    sampled = np.abs(np.exp(1j * np.multiply.outer(angles, range(3))) @ kernel[0, 0]).max()
    geometry = cs.ConvGeometry(100, padding=1)
    assert sampled < true_norm(kernel, geometry) <= bounds.araujo2021(kernel, geometry).upper


def test_the_tensor_norm_over_real_vectors_is_no_bound():
    kernel = ROTATION[..., 0]
    largest = max(
        np.linalg.norm(kernel @ [math.cos(t), math.sin(t)], 2) for t in np.linspace(0, 2 * np.pi, 360)
    )
    geometry = cs.ConvGeometry(4, **SAME)
    assert math.isclose(largest, 1)
    assert math.sqrt(2) * largest < true_norm(kernel, geometry) - 0.5
    bound = bounds.grishina2024(kernel, geometry)
    assert math.isclose(true_norm(kernel, geometry), 2)
    assert bound.upper <= 2 + 1e-12  # and complex vectors repair it


def test_alternating_maximisation_stops_below_the_norm():
    """Two directions that share nothing are two local maxima of the tensor, and random starts find both."""
    kernel = np.zeros((2, 2, 2))
    kernel[0, 0], kernel[1, 1] = [1, 1], [0.9, -0.9]
    geometry = cs.ConvGeometry(4, **SAME)
    norm = true_norm(kernel, geometry)
    published = [bounds.tensor_norm_estimate(kernel, geometry, seed=seed) for seed in range(20)]
    assert min(published) < 0.91 * norm
    assert max(published) >= norm * (1 - 1e-9)
    bound = bounds.grishina2024(kernel, geometry)
    assert bound.lower <= norm <= bound.upper


def test_alternating_maximisation_stops_below_the_norm_of_a_random_kernel():
    """So do 3 % of one start's results for Gaussian kernels of 4, 16 and 64 channels, by up to 5 %."""
    kernel = np.random.default_rng(0).standard_normal((4, 4, 3, 3))
    geometry = cs.ConvGeometry((8, 8), **SAME)
    published = bounds.tensor_norm_estimate(kernel, geometry, sweeps=2000)  # long converged
    assert published < 0.97 * cs.operator_norm(kernel, geometry).upper


@pytest.mark.parametrize("published", [bounds.singla2021, bounds.grishina2024, bounds.delattre2024])
def test_bounds_for_zero_padding_are_none_for_reflection(published):
    """`sqrt(k)` times the tensor's norm is published for "arbitrary padding"; the box mirrored exceeds it."""
    kernel = np.ones((1, 1, 3))
    mirrored = cs.ConvGeometry(3, padding=1, padding_mode="reflect")
    norm = true_norm(kernel, mirrored)
    assert float(published(kernel, cs.ConvGeometry(3, padding=1)).upper) < 3.01 < norm
    with pytest.raises(cs.GeometryError, match="copy_count"):
        published(kernel, mirrored)
    for method in (bounds.copy_count, bounds.holder, bounds.frobenius):
        assert method(kernel, mirrored).upper >= norm


def test_the_norm_on_the_inputs_own_torus_is_no_bound_for_zero_padding():
    kernel = np.array([[[-1.0, 2.0, -1.0]]])
    padded = cs.ConvGeometry(3, padding=1)
    on_torus = bounds.delattre2023(kernel, padded.on_torus()).upper
    assert on_torus < 3.001 < true_norm(kernel, padded) <= bounds.delattre2023(kernel, padded).upper


def test_a_bound_for_every_size_is_none_where_the_input_is_wrapped_twice():
    kernel = np.ones((1, 1, 1))
    twice = cs.ConvGeometry(2, padding=3, padding_mode="circular")
    norm = true_norm(kernel, twice)
    assert math.isclose(norm, 2)
    with pytest.raises(cs.GeometryError, match="copy_count"):
        bounds.singla2021(kernel, twice)
    assert norm <= bounds.copy_count(kernel, twice).upper <= 2 + 1e-9


# ---- what each is exactly


def test_gram_iteration_tends_to_the_norm_at_the_rate_it_says():
    kernel = np.random.default_rng(0).standard_normal((8, 6, 3, 3))
    geometry = cs.ConvGeometry((6, 6), **SAME)
    norm = float(cs.operator_norm(kernel, geometry).upper)
    found = [float(bounds.delattre2023(kernel, geometry, steps=steps).upper) / norm for steps in range(1, 9)]
    assert found == sorted(found, reverse=True)
    assert all(1 <= ratio <= 6 ** (0.5 ** (steps + 2)) for steps, ratio in enumerate(found))
    sup = float(bounds.pfister2018(kernel, geometry, oversampling=32).upper)
    without_size = [float(bounds.delattre2024(kernel, geometry, steps=n).upper) / sup for n in range(1, 6)]
    assert without_size == sorted(without_size, reverse=True)
    assert without_size[-1] < 1.12
    # It takes the steps that the memory has room for.
    assert (
        bounds.delattre2024(kernel, geometry, steps=5, compute=cs.Compute(memory=1)).upper / sup
        == without_size[0]
    )


@settings(max_examples=60)
@given(layers())
def test_one_bound_is_never_above_another(layer):
    kernel, geometry = layer
    slack = 1 + 1e-9
    assert bounds.grishina2024(kernel, geometry, starts=1, sweeps=1).upper <= (
        bounds.singla2021(kernel, geometry).upper * slack
    )
    rows = bounds.araujo2021(kernel, geometry, together=False)
    assert bounds.araujo2021(kernel, geometry).upper <= rows.upper * slack


@pytest.mark.parametrize("mode", ["torus", *ANY])
def test_elementary_norms_are_those_of_the_dense_operator(mode):
    @settings(max_examples=60, suppress_health_check=[HealthCheck.filter_too_much])
    @given(layers(mode=mode))
    def check(layer):
        kernel, geometry = layer
        ready, correlation = prepare(kernel, geometry)
        assume(correlation.groups == 1)
        dense = dense_operator(kernel, geometry)
        rank = min(dense.shape)
        found = bounds.frobenius(kernel, geometry)
        expected = np.linalg.norm(dense)
        np.testing.assert_allclose(found.lower * math.sqrt(rank), expected, rtol=1e-7, atol=1e-7)
        moduli = np.abs(dense_operator(np.abs(kernel), geometry))
        schur = math.sqrt(moduli.sum(axis=0).max() * moduli.sum(axis=1).max())
        np.testing.assert_allclose(bounds.holder(kernel, geometry).upper, schur, rtol=1e-9)
        assert ready.shape == (correlation.out_channels, correlation.in_channels, *correlation.kernel_size)

    check()


@pytest.mark.parametrize(
    ("mode", "padding", "expected"),
    [("zeros", 2, 1), ("reflect", 2, 2), ("reflect", 4, 3), ("replicate", 2, 3), ("circular", 2, 2)],
)
def test_copies_are_counted(mode, padding, expected):
    geometry = cs.ConvGeometry(6, padding=padding, padding_mode=mode)
    assert copies(geometry.correlation((1, 1, 3))) == expected
    if mode != "zeros":
        words = {"circular": "wrap", "replicate": "edge", "reflect": "reflect"}
        assert np.bincount(np.pad(np.arange(6), padding, mode=words[mode])).max() == expected
    # Where a stride leaves the copies unread there are none.
    skipping = cs.ConvGeometry(6, stride=3, padding=1, padding_mode="replicate")
    assert copies(skipping.correlation((1, 1, 1))) == 1


def test_patches_that_do_not_overlap_make_the_reshaped_kernel_exact():
    kernel = np.random.default_rng(0).standard_normal((4, 3, 2, 2))
    bound = bounds.reshaped_kernel(kernel, cs.ConvGeometry((6, 6), stride=2))
    assert bound.upper <= bound.lower * (1 + 1e-9)
    overlapping = cs.ConvGeometry((16, 16), stride=2, padding=1)
    assert read_count(overlapping.correlation((4, 3, 3, 3))) == 4
    kernel = np.random.default_rng(0).standard_normal((4, 3, 3, 3))
    ratio = bounds.reshaped_kernel(kernel, overlapping)
    np.testing.assert_allclose(ratio.upper, 2 * ratio.lower, rtol=1e-9)


@settings(max_examples=60)
@given(layers())
def test_the_plain_kernel_has_the_same_sup(layer):
    kernel, geometry = layer
    ready, correlation = prepare(kernel, geometry)
    plain = plain_kernel(ready, correlation)
    assert plain.shape[3:] == tuple(
        -(-k // max(1, min(k, s // math.gcd(s, d))))
        for k, s, d in zip(correlation.kernel_size, correlation.stride, correlation.dilation, strict=True)
    )
    np.testing.assert_allclose(np.sort(plain[plain != 0]), np.sort(ready[ready != 0]))
    size = tuple(8 * q for q in plain.shape[3:])
    many = np.concatenate(list(plain))
    undone = cs.ConvGeometry(size, groups=len(plain), **SAME)
    given_size = tuple(n * s for n, s in zip(size, correlation.stride, strict=True))
    strided = cs.ConvGeometry(
        given_size, correlation.stride, correlation.dilation, correlation.groups, **SAME
    )
    # Dilation permutes the samples where it and their number have no common divisor.
    if all(math.gcd(d, n) == 1 for d, n in zip(correlation.dilation, size, strict=True)):
        np.testing.assert_allclose(
            cs.operator_norm(many, undone).upper, cs.operator_norm(ready, strided).upper, rtol=1e-9
        )


# ---- gradients and array libraries

PLAIN = {name: method for name, (method, _) in METHODS.items() if "," not in name}
DIFFERENTIABLE = {name: method for name, method in PLAIN.items() if name != "rump2006"}


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_the_gradient_flows(name):
    torch = pytest.importorskip("torch")
    method = DIFFERENTIABLE[name]
    geometry = cs.ConvGeometry((5, 6), stride=(2, 1), padding=1)
    rng = np.random.default_rng(0)
    point, direction = rng.standard_normal((2, 3, 2, 3, 3))
    kernel = torch.tensor(point, requires_grad=True)
    method(kernel, geometry).upper.backward()
    step = 1e-6
    ahead, behind = (float(method(point + sign * step * direction, geometry).upper) for sign in (1, -1))
    np.testing.assert_allclose(
        float((kernel.grad * torch.tensor(direction)).sum()), (ahead - behind) / (2 * step), rtol=1e-5
    )
    for special in (0 * point, np.ones_like(point), np.multiply.outer(np.eye(3, 2), DELTA)):
        kernel = torch.tensor(special, requires_grad=True)
        method(kernel, geometry).upper.backward()
        assert torch.isfinite(kernel.grad).all()
        assert special.any() or not kernel.grad.any()


@pytest.mark.parametrize("library", ["strict", "torch", pytest.param("jax", marks=pytest.mark.slow)])
def test_all_libraries_agree(library):
    module = pytest.importorskip({"strict": "array_api_strict", "jax": "jax.numpy"}.get(library, library))
    if library == "jax":
        importlib.import_module("jax").config.update("jax_enable_x64", True)
    # JAX compiles each operation for each shape: one axis is enough.
    axes = 1 if library == "jax" else 2
    kernel = np.random.default_rng(0).standard_normal((4, 2, 3, 3)[: axes + 2])
    geometry = cs.ConvGeometry((6, 5)[:axes], stride=(2, 1)[:axes], groups=2, padding=1)
    for name, method in PLAIN.items():
        ours, theirs = method(kernel, geometry), method(module.asarray(kernel), geometry)
        assert type(theirs.upper) is type(module.asarray(kernel))
        np.testing.assert_allclose(to_numpy(theirs.upper), ours.upper, rtol=1e-10, err_msg=name)
        if ours.lower is not None:
            np.testing.assert_allclose(to_numpy(theirs.lower), ours.lower, rtol=1e-10, err_msg=name)


@pytest.mark.slow
def test_bounds_are_traced_by_jax():
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    kernel = np.random.default_rng(0).standard_normal((2, 2, 2))
    geometry = cs.ConvGeometry(3, padding=1)
    for name in ("delattre2023", "delattre2024", "grishina2024", "holder"):
        method = DIFFERENTIABLE[name]
        traced = jax.jit(jax.value_and_grad(lambda kernel, method=method: method(kernel, geometry).upper))
        value, slope = traced(kernel)
        np.testing.assert_allclose(value, method(kernel, geometry).upper, rtol=1e-10)
        assert np.isfinite(slope).all()
        value, slope = traced(0 * kernel)
        assert value == 0
        assert np.isfinite(slope).all()


def test_options_that_mean_nothing_are_refused():
    kernel, geometry = np.ones((1, 1, 3)), cs.ConvGeometry(5)
    for method in (bounds.delattre2023, bounds.delattre2024):
        with pytest.raises(cs.InputError, match=r"^steps"):
            method(kernel, geometry, steps=0)
    with pytest.raises(cs.InputError, match=r"^oversampling"):
        bounds.araujo2021(kernel, geometry, oversampling=1)
    one_point = cs.ConvGeometry(1, padding=1, padding_mode="reflect")
    for method in (bounds.copy_count, bounds.holder, bounds.frobenius):
        with pytest.raises(cs.GeometryError, match="two points"):
            method(kernel, one_point)
