"""The largest singular value on a large torus, by a search, is that of all frequencies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

import convspectra as cs
from convspectra import grid_search
from convspectra._solvers import native
from convspectra.problem import problem_of, scaled
from strategies import layers

pytestmark = pytest.mark.skipif(not native.tests_grams(), reason="the native core was not built")


def searched(kernel, geometry):
    problem, power = scaled(problem_of(kernel, geometry))
    torus = problem.correlation
    found = grid_search.searched_top(problem, torus, native.prepare(problem.kernel, torus))
    return None if found is None else (found[0] * power, *found[1:])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_is_the_largest_of_all(dtype, monkeypatch):
    monkeypatch.setattr(grid_search, "_SHARE", 1e-4)  # never given up
    found_any = []

    @settings(max_examples=80)
    @given(layers(dtype=dtype))
    def check(layer):
        kernel, geometry = layer
        spectrum = cs.singular_values(kernel, geometry, compute=cs.Compute(solver="lapack"))
        found = searched(kernel, geometry)
        if found is None:  # taps cancel
            return
        norms = spectrum.values[:, 0].reshape(-1, spectrum.groups)
        assert found[0] == pytest.approx(norms.max(), rel=1e-12 if dtype is np.float64 else 1e-5)
        assert norms[found[1], found[2]] == pytest.approx(
            norms.max(), rel=1e-12 if dtype is np.float64 else 1e-5
        )
        found_any.append(found)

    check()
    assert found_any


@pytest.mark.parametrize("options", [{}, {"dilation": 3}, {"stride": 2}, {"groups": 2}])
def test_a_large_torus_is_searched(options, monkeypatch):
    geometry = cs.ConvGeometry((190, 170), padding="same", padding_mode="circular", **options)
    groups, channels = geometry.groups, 4
    decay = np.arange(1, channels + 1) ** -0.7
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((channels, channels // groups, 3, 3)) * decay[:, None, None, None]
    torus = geometry.correlation(kernel.shape)
    monkeypatch.setattr(grid_search, "_SHARE", 4)
    found = searched(kernel, geometry)
    assert found is not None
    spectrum = cs.singular_values(kernel, geometry)
    assert found[0] == pytest.approx(float(spectrum.norm), rel=1e-13)
    assert "stride" in options or "dilation" in options or grid_search.pays(torus)
    assert float(cs.operator_norm(kernel, geometry).upper) == pytest.approx(found[0], rel=1e-13)


def test_flat_spectra_are_left_to_the_whole_grid():
    geometry = cs.ConvGeometry((190, 170), padding="same", padding_mode="circular")
    delta = np.zeros((4, 4, 3, 3))
    delta[range(4), range(4), 1, 1] = 1
    delta[range(4), range(4), 0, 1] = 1e-6
    assert searched(delta, geometry) is None
    assert float(cs.operator_norm(delta, geometry).upper) == pytest.approx(1 + 1e-6, rel=1e-14)
