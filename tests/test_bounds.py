"""Bounds: every method in one table, against the dense operator, on every geometry."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

import convspectra as cs
from convspectra import boundary, bounds
from convspectra.reference import dense_operator
from convspectra.spectrum import prepare
from strategies import layers


def any_size_upper(kernel, geometry):
    """What holds at every size holds at this one, if never from below; exact ones but for rounding."""
    bound = bounds.pfister2018(kernel, geometry)
    rounding = 1 + 20 * np.finfo(kernel.dtype).eps if bound.exact else 1
    return replace(bound, lower=None, exact=False, upper=bound.upper * rounding)


ZERO_PADDED = {
    "operator_norm": bounds.operator_norm,
    "circulant_embedding": bounds.circulant_embedding,
    "reshaped_kernel": bounds.reshaped_kernel,
    "wave_packet": bounds.wave_packet,
    "pfister2018": any_size_upper,
}


def true_norm(kernel, geometry):
    return np.linalg.norm(dense_operator(kernel, geometry).astype(np.float64), 2)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("method", ZERO_PADDED)
def test_holds_for_zero_and_no_padding(method, dtype):
    @settings(max_examples=200, deadline=None)
    @given(layers(mode="zeros", dtype=dtype))
    def check(layer):
        kernel, geometry = layer
        norm = true_norm(kernel, geometry)
        bound = ZERO_PADDED[method](kernel, geometry)
        if bound.exact:
            np.testing.assert_allclose(bound.upper, norm, rtol=20 * np.finfo(dtype).eps, atol=0)
            return
        # The dense norm is itself rounded, in float64.
        rounding = 1 + 1e-13
        assert bound.upper is None or bound.upper * rounding >= norm
        assert bound.lower is None or bound.lower <= norm * rounding

    check()


@settings(max_examples=100, deadline=None)
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
    assert bound.status == "interval"
    assert bound.lower <= norm <= bound.upper <= 4


def test_status_says_what_is_known():
    kernel = np.random.default_rng(0).standard_normal((2, 2, 3))
    padded = cs.ConvGeometry(5, padding=1)
    assert cs.operator_norm(kernel, padded).status == "interval"
    assert cs.operator_norm(kernel, padded.on_torus()).status == "exact"
    assert bounds.reshaped_kernel(kernel, padded).status == "lower"
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
    for method in (bounds.circulant_embedding, bounds.reshaped_kernel, bounds.wave_packet):
        with pytest.raises(cs.GeometryError, match=mode):
            method(kernel, geometry)
    with pytest.raises(cs.GeometryError, match="on_torus"):
        cs.operator_norm(kernel, geometry)


def test_an_oversampling_that_proves_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        bounds.pfister2018(np.ones((1, 1, 3)), cs.ConvGeometry(5), oversampling=1)


@settings(max_examples=100, deadline=None)
@given(layers(mode="zeros"))
def test_matrix_free_operator_is_the_dense_one_and_its_adjoint(layer):
    kernel, geometry = layer
    ready, correlation = prepare(kernel, geometry)
    if correlation.groups > 1:
        return
    matrix = dense_operator(kernel, geometry)
    forward = matrix.T if geometry.transposed else matrix
    rng = np.random.default_rng(0)
    x = rng.standard_normal((correlation.in_channels, *correlation.input_shape))
    y = rng.standard_normal((correlation.out_channels, *correlation.output_shape))
    np.testing.assert_allclose(boundary.apply(ready, correlation, x).ravel(), forward @ x.ravel(), atol=1e-12)
    np.testing.assert_allclose(
        boundary.adjoint(ready, correlation, y).ravel(), forward.T @ y.ravel(), atol=1e-12
    )


@pytest.mark.parametrize(
    ("channels", "n", "options"),
    [(16, 16, {}), (8, 15, {"stride": 2}), (8, 20, {"dilation": 2, "padding": 2}), (16, 16, {"groups": 16})],
)
def test_the_interval_of_a_common_layer_is_narrow(channels, n, options):
    kernel = np.random.default_rng(0).standard_normal((channels, channels // options.get("groups", 1), 3, 3))
    bound = cs.operator_norm(kernel, cs.ConvGeometry((n, n), **({"padding": 1} | options)))
    assert bound.upper <= 1.05 * bound.lower
