"""Bounds: every method in one table, against the dense operator, on every geometry."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import convspectra as cs
from convspectra import bounds, cost
from convspectra.operators.reference import dense_operator
from strategies import layers


def any_size_upper(kernel, geometry, method=bounds.pfister2018):
    """What holds at every size holds at this one, if never from below; exact ones but for rounding."""
    bound = method(kernel, geometry)
    rounding = 1 + 20 * np.finfo(kernel.dtype).eps if bound.exact else 1
    return replace(bound, lower=None, exact=False, upper=bound.upper * rounding)


ZERO_PADDED = {
    "operator_norm": bounds.operator_norm,
    "circulant_embedding": bounds.circulant_embedding,
    "reshaped_kernel": bounds.reshaped_kernel,
    "wave_packet": bounds.wave_packet,
    "pfister2018": any_size_upper,
    "duffin1938": functools.partial(any_size_upper, method=bounds.duffin1938),
}


def true_norm(kernel, geometry):
    return np.linalg.norm(dense_operator(kernel, geometry).astype(np.float64), 2)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("method", ZERO_PADDED)
def test_holds_for_zero_and_no_padding(method, dtype):
    @settings(max_examples=60)
    @given(layers(mode="zeros", dtype=dtype))
    def check(layer):
        kernel, geometry = layer
        norm = true_norm(kernel, geometry)
        bound = ZERO_PADDED[method](kernel, geometry)
        if bound.exact and bound.lower == bound.upper:
            np.testing.assert_allclose(bound.upper, norm, rtol=20 * np.finfo(dtype).eps, atol=0)
            return
        # The dense norm is itself rounded, in float64.
        rounding = 1 + 1e-13
        assert bound.upper is None or bound.upper * rounding >= norm
        assert bound.lower is None or bound.lower <= norm * rounding

    check()


@settings(max_examples=100)
@given(layers())
def test_any_size_holds_on_every_torus(layer):
    kernel, geometry = layer
    bound = bounds.pfister2018(kernel, geometry)
    assert bound.lower <= bound.upper
    upper = bound.upper * (1 + 1e-13)
    for larger in range(3):
        size = tuple(
            n + larger * (1 if geometry.transposed else s)
            for n, s in zip(geometry.input_shape, geometry.stride, strict=True)
        )
        assert cs.singular_values(kernel, replace(geometry, input_shape=size)).norm <= upper


@pytest.mark.parametrize(
    ("kernel_shape", "options"),
    [
        ((4, 3, 3), {}),
        ((4, 3, 4), {"dilation": 3}),
        ((2, 2, 3, 3), {"stride": 2}),
        ((2, 2, 2, 2), {"stride": 2, "transposed": True}),
        ((4, 1, 3, 3), {"groups": 4}),
    ],
)
def test_any_size_interval_encloses_a_fine_sampling_and_shrinks(kernel_shape, options):
    kernel = np.random.default_rng(0).standard_normal(kernel_shape)
    axes = len(kernel_shape) - 2
    fine = cs.ConvGeometry(
        (720 if axes == 1 else 96,) * axes, padding="same", padding_mode="circular", **options
    )
    sup = cs.singular_values(kernel, fine).norm
    gaps = []
    for oversampling in (2, 4, 8, 16):
        bound = bounds.pfister2018(kernel, fine, oversampling=oversampling)
        assert sup <= bound.upper * (1 + 1e-12)
        gaps.append(bound.upper / bound.lower)
        if not bound.exact:
            proven = math.cos(math.pi / (2 * oversampling)) ** -axes
            assert gaps[-1] <= proven * (1 + 1e-9)
    assert gaps == sorted(gaps, reverse=True)


def test_the_circular_value_is_not_a_bound_and_is_not_passed_off_as_one():
    laplacian = np.array([[[-1.0, 2.0, -1.0]]])
    padded = cs.ConvGeometry(3, padding=1)
    norm = true_norm(laplacian, padded)
    assert math.isclose(norm, 2 + math.sqrt(2))
    assert cs.operator_norm(laplacian, padded.on_torus()).upper < norm
    bound = cs.operator_norm(laplacian, padded)
    assert (bound.status, bound.method) == ("exact", "dense")
    assert bound.lower <= norm <= bound.upper <= norm * (1 + 1e-12)
    certificate = bounds.circulant_embedding(laplacian, padded)
    assert certificate.status == "interval"
    assert certificate.lower <= norm <= certificate.upper <= 4


def test_status_says_what_is_known():
    kernel = np.random.default_rng(0).standard_normal((2, 2, 3))
    padded = cs.ConvGeometry(5, padding=1)
    assert cs.operator_norm(kernel, padded).status == "exact"
    assert cs.operator_norm(kernel, cs.ConvGeometry(5000, padding=1)).status == "interval"
    assert cs.operator_norm(kernel, padded.on_torus()).status == "exact"
    assert bounds.reshaped_kernel(kernel, padded).status == "interval"
    assert bounds.holder(kernel, padded).status == "upper"
    assert cs.Bound(None, 1.0, "by hand").status == "upper"
    # Boundaries that are never read leave nothing to bound.
    assert cs.operator_norm(kernel[..., :1], cs.ConvGeometry(5)).status == "exact"
    assert cs.operator_norm(kernel, cs.ConvGeometry(6, stride=3)).status == "exact"


def test_zero_kernel_has_norm_zero_everywhere():
    kernel = np.zeros((2, 3, 3, 3))
    for method in ZERO_PADDED.values():
        bound = method(kernel, cs.ConvGeometry((4, 5), padding=1))
        assert (bound.lower or 0) == 0 == (bound.upper or 0)


def test_all_reads_on_padding_is_the_zero_operator():
    kernel = np.ones((1, 1, 2))
    geometry = cs.ConvGeometry(1, dilation=4, padding=2)
    assert not dense_operator(kernel, geometry).any()
    assert cs.operator_norm(kernel, geometry).lower == 0


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_other_boundaries_are_refused_by_name(mode):
    kernel, geometry = np.ones((1, 1, 3)), cs.ConvGeometry(5, padding=1, padding_mode=mode)
    for method in (bounds.circulant_embedding, bounds.reshaped_kernel):
        with pytest.raises(cs.GeometryError, match=mode):
            method(kernel, geometry)


def test_nothing_to_mirror_is_refused():
    with pytest.raises(cs.GeometryError, match="reflect padding needs at least two points"):
        cs.operator_norm(np.ones((1, 1, 3)), cs.ConvGeometry(1, padding=1, padding_mode="reflect"))


ANY_BOUNDARY = {
    "operator_norm": bounds.operator_norm,
    "tolerance": functools.partial(bounds.operator_norm, tolerance=1e-6),
    "without the dense matrix": None,
    "wave_packet": bounds.wave_packet,
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("method", ANY_BOUNDARY)
def test_holds_for_every_boundary(method, dtype, monkeypatch):
    if ANY_BOUNDARY[method] is None:
        monkeypatch.setattr(cost, "LARGEST_MATRIX", 0)
    run = ANY_BOUNDARY[method] or functools.partial(bounds.operator_norm, tolerance=0.01)

    @settings(max_examples=60)
    @given(st.sampled_from(["zeros", "circular", "reflect", "replicate"]).flatmap(lambda m: layers(m, dtype)))
    def check(layer):
        kernel, geometry = layer
        norm = true_norm(kernel, geometry)
        bound = run(kernel, geometry)
        if bound.method == "symbol":
            np.testing.assert_allclose(bound.upper, norm, rtol=20 * np.finfo(dtype).eps, atol=0)
            return
        assert kernel.dtype == np.asarray(bound.lower).dtype
        # In float64 too: the dense norm is itself rounded.
        assert bound.upper is None or float(bound.upper) * (1 + 1e-14) >= norm
        assert float(bound.lower) <= norm * (1 + 1e-14)
        if bound.exact:
            assert float(bound.upper) <= float(bound.lower) * (1 + 8 * np.finfo(dtype).eps + 1e-10)

    check()


BOX = np.ones((3, 3))
KERNELS = {
    "zero": np.zeros((2, 2, 3, 3)),
    "delta": np.eye(2)[:, :, None, None] * np.eye(9)[4].reshape(3, 3),
    "laplacian": np.array([[[[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]]]]),
    "box": np.multiply.outer(np.ones((2, 3)), BOX),
    "checkerboard": np.multiply.outer(np.ones((3, 2)), (-1.0) ** np.add.outer(np.arange(3), np.arange(3))),
    "rank one": np.multiply.outer(np.outer([1.0, -2], [3.0, 1]), np.outer([1.0, 2, 3], [1.0, 0, -1])),
}


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("largest_side", [0, 1500])
def test_kernels_on_which_methods_fail(name, mode, largest_side, monkeypatch):
    monkeypatch.setattr(cost, "LARGEST_MATRIX", largest_side)
    for options in ({}, {"stride": 2}, {"padding": 2, "dilation": 2}):
        geometry = cs.ConvGeometry((7, 6), padding_mode=mode, **({"padding": 1} | options))
        norm = true_norm(KERNELS[name], geometry)
        bound = bounds.operator_norm(KERNELS[name], geometry, tolerance=1e-3)
        if bound.method == "symbol":
            np.testing.assert_allclose(bound.upper, norm, rtol=1e-14)
        else:
            assert bound.lower <= norm * (1 + 1e-14)
            assert bound.upper * (1 + 1e-14) >= norm
            assert bound.lower >= 0.999 * norm


def test_reflection_exceeds_the_torus_and_the_interval_says_so():
    worst = 0.0
    for seed in range(40):
        kernel = np.random.default_rng(seed).standard_normal((2, 2, 3, 3))
        mirrored = cs.ConvGeometry((4, 4), padding=1, padding_mode="reflect")
        torus = float(cs.operator_norm(kernel, mirrored.on_torus()).upper)
        bound = cs.operator_norm(kernel, mirrored)
        assert bound.lower <= true_norm(kernel, mirrored) <= bound.upper
        worst = max(worst, float(bound.lower) / torus)
    assert worst > 1.1


def test_a_tolerance_buys_width_and_a_warm_start_the_lower_side():
    kernel = np.random.default_rng(0).standard_normal((8, 8, 3, 3))
    geometry = cs.ConvGeometry((11, 11), padding=5, dilation=5)
    plain = bounds.operator_norm(kernel, geometry)
    asked = bounds.operator_norm(kernel, geometry, tolerance=1e-9)
    assert asked.exact
    assert plain.lower * (1 - 1e-10) <= asked.lower <= asked.upper <= plain.upper
    rows = np.linalg.svd(dense_operator(kernel, geometry))[2]
    started = bounds.operator_norm(kernel, geometry, start=rows[0].reshape(8, 11, 11))
    assert started.lower >= asked.lower * (1 - 1e-9)
    with pytest.raises(cs.InputError, match=r"^start"):
        bounds.operator_norm(kernel, geometry, start=np.ones((8, 11)))
    with pytest.raises(cs.InputError, match=r"^tolerance"):
        bounds.operator_norm(kernel, geometry, tolerance=-1)


def test_seconds_buy_width():
    kernel = np.random.default_rng(0).standard_normal((8, 8, 3, 3))
    geometry = cs.ConvGeometry((11, 11), padding=5, dilation=5)
    certified = bounds.circulant_embedding(kernel, geometry)
    none, some = (bounds.operator_norm(kernel, geometry, seconds=seconds) for seconds in (1e-9, 60))
    assert (none.lower, none.upper) == (certified.lower, certified.upper)
    assert some.exact
    assert none.upper / none.lower > 1.2
    within = bounds.operator_norm(kernel, geometry, seconds=60, tolerance=0.5)
    assert not within.exact
    assert within.upper <= 1.5 * within.lower
    with pytest.raises(cs.InputError, match=r"^seconds"):
        bounds.operator_norm(kernel, geometry, seconds=0)


def test_one_method_by_name():
    kernel, geometry = np.random.default_rng(0).standard_normal((3, 2, 3)), cs.ConvGeometry(9, padding=1)
    for name in ("frobenius", "delattre2024", "pfister2018"):
        named = cs.operator_norm(kernel, geometry, method=name)
        own = getattr(bounds, name)(kernel, geometry)
        assert (named.method, named.upper) == (own.method, own.upper)
    auto = cs.operator_norm(kernel, geometry, method="auto")
    assert auto.upper == cs.operator_norm(kernel, geometry).upper
    with pytest.raises(cs.InputError, match=r"^method"):
        cs.operator_norm(kernel, geometry, method="power")
    with pytest.raises(cs.InputError, match=r"^tolerance, seconds and start "):
        cs.operator_norm(kernel, geometry, method="frobenius", tolerance=0.1)


def test_an_oversampling_that_proves_nothing_is_refused():
    with pytest.raises(cs.InputError, match=r"^oversampling"):
        bounds.pfister2018(np.ones((1, 1, 3)), cs.ConvGeometry(5), oversampling=1)


@pytest.mark.parametrize(
    ("channels", "n", "options"),
    [(16, 16, {}), (8, 15, {"stride": 2}), (8, 20, {"dilation": 2, "padding": 2}), (16, 16, {"groups": 16})],
)
def test_the_interval_of_a_common_layer_is_narrow(channels, n, options):
    kernel = np.random.default_rng(0).standard_normal((channels, channels // options.get("groups", 1), 3, 3))
    bound = cs.operator_norm(kernel, cs.ConvGeometry((n, n), **({"padding": 1} | options)))
    assert bound.upper <= 1.05 * bound.lower


EXTREME = [
    *((library, scale) for library in ("numpy", "torch") for scale in (1e-40, 1e-37, 1e-23, 1e20, 1e36)),
    # 1e-40 is subnormal, which is zero in JAX.
    *(pytest.param("jax", scale, marks=pytest.mark.slow) for scale in (1e-37, 1e-23, 1e20, 1e36)),
]


@pytest.mark.parametrize(("library", "scale"), EXTREME)
@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 4, 3), (4, 1, 3), (3, 3, 3)])
def test_scales_whose_squares_leave_the_range(scale, shape, mode, library):
    """Blocks of one row or column, whose norm needs no decomposition, as well as others."""
    asarray = {"numpy": np.asarray}.get(library) or pytest.importorskip(
        {"torch": "torch", "jax": "jax.numpy"}[library]
    ).asarray
    kernel = (np.random.default_rng(0).uniform(0.5, 1.5, shape) * scale).astype(np.float32)
    geometry = cs.ConvGeometry(8, padding=1, padding_mode=mode)
    norm = true_norm(kernel.astype(np.float64) / scale, geometry)
    bound = cs.operator_norm(asarray(kernel), geometry)
    rounding = 1e-5 if scale > 1e-39 else 1e-3
    assert float(bound.lower) / scale <= norm * (1 + rounding)
    assert norm <= float(bound.upper) / scale * (1 + rounding)
    if library == "jax":
        return
    for method in (cs.rescale, cs.project):
        held = method(asarray(kernel), geometry, 0.3 * scale, guarantee="layer")
        after = true_norm(np.asarray(held.kernel).astype(np.float64) / scale, geometry)
        assert 0.1 < after <= 0.3
    found = np.asarray(cs.singular_values(asarray(kernel), geometry.on_torus()).sorted()) / scale
    dense = np.linalg.svd(dense_operator(kernel / scale, geometry.on_torus()), compute_uv=False)
    np.testing.assert_allclose(found, dense, atol=rounding * dense[0])


def test_a_small_channel_beside_a_large_one_is_not_zero():
    kernel = np.multiply.outer([1.0, 1e-200], [[1.0, 2.0, 3.5]])
    values = cs.singular_values(kernel, cs.ConvGeometry(8, groups=2, padding="same", padding_mode="circular"))
    assert 0.5e-200 < values.values.min() < 7e-200


@pytest.mark.parametrize("padding", [1, 3])
def test_the_bound_for_every_size_is_refused_where_padding_copies(padding):
    for mode in ("reflect", "replicate"):
        geometry = cs.ConvGeometry(8, padding=padding, padding_mode=mode)
        with pytest.raises(cs.GeometryError, match=r"bounds.pfister2018 is about zero, no or circular"):
            cs.operator_norm(np.ones((1, 1, 3)), geometry, method="pfister2018")


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (np.full((1, 9), np.nan), "start must hold finite real numbers"),
        (np.full((1, 9), np.inf), "start must hold finite real numbers"),
        (1j * np.ones((1, 9)), "start must hold finite real numbers; got .* complex128"),
        (np.full((1, 9), "a"), "start must hold finite real numbers"),
        ([1.0] * 9, r"start must have the shape \(1, 9\)"),
        ("a", r"start must have the shape \(1, 9\); got 'a'"),
    ],
)
@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_what_is_no_start_is_refused(mode, start, words):
    kernel, geometry = np.array([[[1.0, 2, 3]]]), cs.ConvGeometry(9, padding=1, padding_mode=mode)
    for call in (bounds.operator_norm, cs.krylov.largest):
        with pytest.raises(cs.InputError, match=words):
            call(kernel, geometry, start=start)


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e300])
def test_a_start_of_any_length(scale):
    kernel, geometry = np.array([[[1.0, 2, 3]]]), cs.ConvGeometry(9, padding=1)
    start = np.random.default_rng(0).standard_normal((1, 9)) * scale
    np.testing.assert_allclose(
        cs.krylov.largest(kernel, geometry, start=start).values, true_norm(kernel, geometry)
    )


@pytest.mark.filterwarnings("error")
def test_a_parameter_of_a_layer_is_bounded_without_a_warning():
    torch = pytest.importorskip("torch")
    layer = torch.nn.Conv2d(3, 4, 3, padding=1)
    bound = cs.operator_norm(layer.weight, cs.ConvGeometry((8, 8), padding=1))
    exact = true_norm(layer.weight.detach().double().numpy(), cs.ConvGeometry((8, 8), padding=1))
    assert bound.lower.item() <= exact <= bound.upper.item()


@pytest.mark.parametrize("name", ["tolerance", "seconds"])
@pytest.mark.parametrize("value", ["a", np.nan, np.array([0.1, 0.2])])
def test_what_is_no_budget_is_refused(name, value):
    with pytest.raises(cs.InputError, match=rf"^{name}"):
        bounds.operator_norm(np.ones((1, 1, 3)), cs.ConvGeometry(9), **{name: value})
