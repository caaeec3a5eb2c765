"""Norms proven by factorisations: the dense operator as judge, and limits just below the norm."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import convspectra as cs
from convspectra import bounds, cost
from convspectra._solvers.block_cholesky import indefiniteness
from convspectra.bounds.rump2006 import cost_of_certificate, norm_below
from convspectra.errors import CostError
from convspectra.operators.gram_matrix import gram_layout, gram_matrix
from convspectra.operators.reference import dense_operator
from convspectra.problem import problem_of
from strategies import layers

MODES = st.sampled_from(["zeros", "circular", "reflect", "replicate"])


def true_norm(kernel, geometry):
    return np.linalg.norm(dense_operator(kernel, geometry), 2)


def whole(matrix, points):
    """The symmetric matrix that panels stand for."""
    panels = list(matrix.panels(points, np.float64))
    size = sum(panel.shape[1] for panel in panels)
    found, at = np.zeros((size, size)), 0
    for panel in panels:
        found[at : at + len(panel), at : at + panel.shape[1]] = panel
        at += panel.shape[1]
    return np.tril(found) + np.tril(found, -1).T


@settings(max_examples=100)
@given(MODES.flatmap(layers), st.integers(1, 4))
def test_a_gram_matrix_has_the_eigenvalues_of_the_layer(layer, points):
    kernel, geometry = layer
    geometry = replace(geometry, groups=1)
    problem = problem_of(kernel, geometry)
    correlation = replace(problem.correlation, transposed=False)
    values = np.linalg.svd(dense_operator(kernel, geometry), compute_uv=False) ** 2
    layout = gram_layout(correlation)
    if layout is None:
        assert not values.any()
        return
    gram = gram_matrix(problem.kernel, layout)
    found = np.linalg.eigvalsh(whole(gram, points))[::-1]
    common = min(len(found), len(values))
    scale = 1e-12 * max(1.0, values[0])
    np.testing.assert_allclose(found[:common], values[:common], atol=scale)
    assert max(np.abs(found[common:]).max(initial=0), values[common:].max(initial=0)) <= scale
    assert (gram.rows - gram.columns).max() <= layout.bandwidth


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_interval_holds_and_is_narrow_for_every_boundary(dtype):
    @settings(max_examples=100)
    @given(MODES.flatmap(lambda mode: layers(mode, dtype)), st.sampled_from([0.1, 0.01, 1e-4]))
    def check(layer, tolerance):
        kernel, geometry = layer
        norm = true_norm(kernel, geometry)
        bound = bounds.rump2006(kernel, geometry, tolerance=tolerance)
        assert bound.upper.dtype == kernel.dtype
        assert float(bound.upper) >= norm
        assert float(bound.lower) <= norm * (1 + 1e-14)
        # Of groups that are alike another one may be larger than the one that is iterated on.
        assert geometry.groups > 1 or norm < 1e-3 or float(bound.upper) <= norm * (1 + 8 * tolerance)

    check()


@settings(max_examples=150)
@given(MODES.flatmap(layers), st.sampled_from([1e-2, 1e-6, 1e-10, 1e-12]))
def test_a_limit_below_the_norm_is_never_proven(layer, below):
    kernel, geometry = layer
    norm, problem = true_norm(kernel, geometry), problem_of(kernel, geometry)
    for lower in (0.0, norm * (1 - 2 * below)):  # with and without room for single precision
        assert norm_below(problem, norm * (1 - below), lower) == math.inf or norm < 1e-12
        above = norm_below(problem, norm * (1 + below), lower)
        assert above >= norm * (1 - 1e-14)


@settings(max_examples=60)
@given(layers("reflect"))
def test_a_limit_above_the_norm_is_proven(layer):
    kernel, geometry = layer
    norm, problem = true_norm(kernel, geometry), problem_of(kernel, geometry)
    if norm > 1e-3 * np.abs(kernel).sum():
        assert norm <= norm_below(problem, norm * (1 + 1e-9), norm) <= norm * (1 + 1.01e-9)
        assert norm <= norm_below(problem, norm * 1.1, norm) <= norm * 1.101


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
def test_taps_that_cancel_are_not_proven_to_be_less_than_they_are(mode):
    """The norm is little more than what rounding does to the taps, and the bound says so."""
    rng = np.random.default_rng(0)
    for size in (1e8, 1e14):
        first = rng.standard_normal((2, 2, 1, 1)) * size
        kernel = np.concatenate([first, -first + rng.standard_normal((2, 2, 1, 1))], axis=3)
        geometry = cs.ConvGeometry((4, 1), padding=((0, 0), (1, 0)), padding_mode=mode)
        if mode == "reflect":
            geometry = cs.ConvGeometry((4, 2), padding=((0, 0), (1, 0)), padding_mode=mode)
        norm = true_norm(kernel, geometry)
        bound = bounds.rump2006(kernel, geometry)
        assert float(bound.lower) <= norm <= float(bound.upper)


@pytest.mark.parametrize(("scale", "dtype"), [(1e150, np.float64), (1e-150, np.float64), (1e30, np.float32)])
def test_scales_whose_squares_leave_the_range(scale, dtype):
    kernel = np.random.default_rng(0).standard_normal((3, 2, 3, 3))
    geometry = cs.ConvGeometry((6, 5), padding=1, padding_mode="reflect")
    norm = true_norm(kernel, geometry)
    bound = bounds.rump2006((kernel * scale).astype(dtype), geometry, tolerance=1e-4)
    rounding = 2 * float(np.finfo(dtype).eps)
    assert norm * (1 - rounding) <= float(bound.upper) / scale <= norm * (1 + 1.1e-4)
    assert norm * (1 - 1e-4) <= float(bound.lower) / scale <= norm * (1 + rounding)


# ---- the factorisation


def panels_of(matrix, size, reach, dtype):
    count = len(matrix) // size
    for panel in range(count):
        height = min(reach + 1, count - panel) * size
        first = panel * size
        yield matrix[first : first + height, first : first + size].astype(dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("reach", [0, 1, 3])
def test_what_is_said_of_a_matrix_holds(reach, dtype):
    """Eigenvalues from below 1 to above it: the first few are proven to be at most 1, the last are not."""
    rng = np.random.default_rng(0)
    size, count = 4, 8
    near = np.abs(np.subtract.outer(np.arange(count), np.arange(count))) <= reach
    random = rng.standard_normal((size * count, size * count)) * np.kron(near, np.ones((size, size)))
    random = random + random.T
    eps = float(np.finfo(dtype).eps)
    for largest in (0.5, 0.99, 1 - 1e3 * eps, 1.0, 1 + 10 * eps, 1.01, 2.0):
        matrix = (random / np.linalg.eigvalsh(random)[-1] * largest).astype(dtype).astype(np.float64)
        exact = np.linalg.eigvalsh(matrix)[-1]
        found = indefiniteness(panels_of(matrix, size, reach, dtype), np.linalg.norm(np.abs(matrix), 2))
        assert 1 + found >= exact
        assert found < 1e4 * eps if largest < 1 - 100 * eps else found == math.inf or exact <= 1 + 100 * eps


def test_numbers_that_are_none_prove_nothing():
    for bad in (np.nan, np.inf):
        matrix = 0.1 * np.eye(8)
        matrix[5, 2] = bad
        with np.errstate(invalid="ignore"):
            assert indefiniteness(panels_of(matrix, 4, 1, np.float64), 1.0) == math.inf


def test_nothing_is_begun_after_the_deadline():
    assert indefiniteness(panels_of(np.zeros((8, 8)), 4, 1, np.float64), 0.0) < 1e-12
    past = time.monotonic() - 1
    assert indefiniteness(panels_of(np.zeros((8, 8)), 4, 1, np.float64), 0.0, past) == math.inf


# ---- where it is used


def mirrored(channels, n, mode="reflect", **options):
    kernel = np.random.default_rng(0).standard_normal((channels, channels, 3, 3)) / channels
    return kernel, cs.ConvGeometry((n, n), padding_mode=mode, **{"padding": 1, **options})


@pytest.mark.parametrize(
    "options",
    [{}, {"mode": "replicate"}, {"dilation": 2, "padding": 2}, {"mode": "circular", "stride": 2}],
)
def test_the_norm_of_a_layer_that_copies_is_within_one_percent(options, monkeypatch):
    monkeypatch.setattr(cost, "LARGEST_MATRIX", 0)
    kernel, geometry = mirrored(4, 13, **options)
    norm = true_norm(kernel, geometry)
    for precision in (np.float32, np.float64):
        bound = cs.operator_norm(kernel.astype(precision), geometry)
        assert "rump2006" in bound.method
        assert bound.lower * (1 - 1e-6) <= norm <= bound.upper * (1 + 1e-6)
        assert bound.upper <= 1.01 * bound.lower
    rough = cs.operator_norm(kernel, geometry, tolerance=0.05)
    assert rough.lower * 1.01 < rough.upper <= rough.lower * 1.05
    fine = cs.operator_norm(kernel, geometry, tolerance=1e-5)
    assert norm <= fine.upper <= norm * (1 + 1e-5)


def test_what_takes_longer_than_the_seconds_is_not_begun(monkeypatch):
    monkeypatch.setattr(cost, "LARGEST_MATRIX", 0)
    begun = []
    monkeypatch.setattr(bounds.auto, "norm_below", lambda *args: begun.append(args) or math.inf)
    kernel, geometry = mirrored(16, 32)
    cs.operator_norm(kernel, geometry, seconds=0.1)
    assert not begun
    cs.operator_norm(kernel, geometry, seconds=60, tolerance=0.01)
    assert begun


def test_no_more_memory_is_taken_than_is_allowed():
    kernel, geometry = mirrored(8, 16)
    needed = cost_of_certificate(geometry.correlation(kernel.shape)).memory
    small = cs.Compute(memory=int(needed) - 1)
    with pytest.raises(CostError, match=r"rump2006 takes .*Compute\(memory=\.\.\.\)"):
        bounds.rump2006(kernel, geometry, compute=small)
    assert "rump2006" not in cs.operator_norm(kernel, geometry, compute=small).method


def test_a_tolerance_that_is_none_is_named():
    with pytest.raises(cs.InputError, match=r"^tolerance"):
        bounds.rump2006(np.ones((1, 1, 3)), cs.ConvGeometry(5), tolerance=0)
