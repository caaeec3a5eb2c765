"""Numbers at the edge: taps that cancel, kernels near the ends of the range."""

from __future__ import annotations

import io
import json
from fractions import Fraction

import numpy as np
import pytest

import convspectra as cs
from convspectra.analysis import analyze
from convspectra.models import Model
from convspectra.operators.reference import dense_operator
from convspectra.problem import problem_of
from convspectra.report import json_file
from convspectra.rounding import EXACT
from convspectra.spectrum import top_on
from reports import layer

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
        problem, true = problem_of(kernel, WRAPPED), norm_at_one_point(kernel)
        norm = float(top_on(problem, problem.correlation).norm)
        assert abs(norm - true) <= problem.norm_error(norm) <= problem.norm_error()
        outside_relative += abs(norm - true) > 1e3 * np.finfo(dtype).eps * true
    assert outside_relative  # no error relative to the norm would do


SHAPES = {"1x1": (2, 3, 1, 1), "3x3": (2, 3, 3, 3), "one": (1, 1, 3, 3)}
PADDED = {
    "zeros": cs.ConvGeometry((4, 5), padding=1),
    "circular": cs.ConvGeometry((4, 5), padding="same", padding_mode="circular"),
    "reflect": cs.ConvGeometry((4, 5), padding=1, padding_mode="reflect"),
    "strided": cs.ConvGeometry((5, 6), padding=1, stride=2),
}
METHODS = [name for name in cs.bounds.__all__ if name != "tensor_norm_estimate"]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("geometry", PADDED.values(), ids=PADDED)
@pytest.mark.parametrize("exponent", [-1060, -1021, -600, 600, 1000])
def test_every_bound_scales_exactly(shape, geometry, exponent):
    """A kernel times a power of two has the bounds times that power, rounded outwards."""
    kernel = np.random.default_rng(0).integers(-7, 8, shape) / 4.0
    kernel[0, 0, 0, 0] = 1.75  # the largest: in [1, 2), as all are computed
    scaled = np.ldexp(kernel, exponent)
    for name in METHODS:
        method = getattr(cs.bounds, name)
        try:
            plain = method(kernel, geometry)
        except cs.GeometryError:
            continue
        found = method(scaled, geometry)
        for side, sign in (("lower", 1), ("upper", -1)):
            one, two = getattr(plain, side), getattr(found, side)
            if one is None or two is None:
                assert one is two is None
                continue
            exact, got = Fraction(float(one)) * Fraction(2) ** exponent, Fraction(float(two))
            assert sign * (exact - got) >= 0 or found.exact, (name, side)
            assert abs(exact - got) <= Fraction(2) ** -1073, (name, side)
    if geometry.padding_mode == "circular":
        found = cs.singular_values(scaled, geometry)
        exact = np.ldexp(cs.singular_values(kernel, geometry).values, exponent)
        np.testing.assert_array_equal(found.values, exact)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("geometry", PADDED.values(), ids=PADDED)
def test_numbers_beyond_the_range_are_an_error_that_says_so(dtype, geometry):
    kernel = np.full((1, 1, 3, 3), 0.95 * np.finfo(dtype).max, dtype)
    for name in METHODS:
        if name in ("wave_packet", "frobenius"):  # whose value is in range where padding is read
            continue
        try:
            getattr(cs.bounds, name)(kernel, geometry)
        except cs.errors.RangeError as found:
            error = found
        except cs.GeometryError:
            continue
        else:
            raise AssertionError(name)
        assert "wider precision" in str(error)
    with pytest.raises(cs.errors.RangeError, match="beyond the range"):
        cs.singular_values(kernel, PADDED["circular"])
    for move in (cs.project, cs.rescale, cs.clip):
        with pytest.raises(cs.errors.RangeError, match="beyond the range"):
            move(kernel, PADDED["circular"], 1.0)


def test_krylov_gives_no_infinite_lower_bound():
    kernel = np.full((1, 1, 3, 3), 1.7e308)
    for function in (cs.krylov.largest, cs.krylov.all_values, cs.krylov.density):
        with pytest.raises(cs.errors.RangeError):
            function(kernel, PADDED["zeros"])
    tiny = np.full((1, 1, 3, 3), 5e-324)
    assert (
        0
        < cs.krylov.largest(tiny, PADDED["zeros"]).values[0]
        <= cs.krylov.largest(np.ones((1, 1, 3, 3)), PADDED["zeros"]).values[0] * 5e-324
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_intervals_of_taps_that_cancel(dtype, mode, size):
    """Never lower > upper, and the true norm inside, also where nothing but rounding is left of the taps."""
    if mode == "reflect" and size == 1:
        return
    intervals = 0
    for seed in range(20):
        kernel = cancelling(seed, dtype, 10.0 ** -(seed % 20))
        geometry = cs.ConvGeometry((size,), padding=1, padding_mode=mode)
        bound = cs.operator_norm(kernel, geometry)
        true = float(np.linalg.norm(dense_operator(kernel, geometry), 2))
        if size == 1 and mode != "zeros":
            true = norm_at_one_point(kernel)
        slack = 1 + (1e-3 if dtype == np.float32 else 1e-9 if bound.exact else 1e-13)
        assert float(bound.lower) <= float(bound.upper)
        assert float(bound.lower) <= true * slack
        assert true <= float(bound.upper) * slack
        intervals += bound.status == "interval"
        if mode == "circular":
            spectrum = cs.singular_values(kernel, geometry)
            dense = np.linalg.svd(dense_operator(kernel, geometry), compute_uv=False)
            if size == 1:
                sums = [[float(sum(map(Fraction, map(float, taps)))) for taps in row] for row in kernel]
                dense = np.linalg.svd(np.array(sums), compute_uv=False)
            assert np.abs(np.sort(spectrum.sorted()) - np.sort(dense)).max() <= spectrum.error
    assert intervals or size > 1 or mode == "zeros"


def test_layers_out_of_range_are_reported_as_such():
    """Their numbers are missing, JSON is JSON, and the report is not complete."""
    geometry = {"input_shape": (4, 4), "padding": 1}
    layers = (
        layer("huge", (1, 1, 3, 3), kernel=np.full((1, 1, 3, 3), 1.7e308), **geometry),
        layer("sum", (8, 8, 1, 1), kernel=np.full((8, 8, 1, 1), 1e306), **geometry),
        layer("nuclear", (8, 8, 1, 1), kernel=1e308 * np.eye(8)[..., None, None], **geometry),
        layer("no geometry", (1, 1, 3, 3), kernel=np.full((1, 1, 3, 3), 1.7e308)),
        layer("tiny", (1, 1, 3, 3), kernel=np.full((1, 1, 3, 3), 5e-324), **geometry),
    )
    report = analyze(Model(name="edge", format="onnx", layers=layers, other={}))
    status = {one.name: one.status for one in report.layers}
    assert status == {
        "huge": "out of range",
        "sum": "ok",
        "nuclear": "out of range",
        "no geometry": "out of range",
        "tiny": "ok",
    }
    assert all("beyond the range" in one.reason for one in report.layers if one.status == "out of range")
    assert not report.complete
    file = io.BytesIO()
    json_file.write(report, file)
    found = {one["name"]: one for one in json.loads(file.getvalue())["layers"]}
    assert found["huge"]["torus"] is found["huge"]["bounds"]["as_padded"] is None
    assert found["nuclear"]["torus"]["nuclear_norm"] is None
    assert found["nuclear"]["torus"]["norm"] == 1e308
    assert 0 < found["tiny"]["torus"]["norm"] <= 9 * 5e-324
    assert found["tiny"]["torus"]["error"] > 0


@pytest.mark.parametrize("move", [cs.project, cs.rescale])
@pytest.mark.parametrize("limit", [5e-324, 1e-310, 1e-300])
def test_limits_below_the_normal_numbers(move, limit):
    for mode, guarantee in (("circular", "torus"), ("zeros", "layer"), ("replicate", "layer")):
        geometry = cs.ConvGeometry((3,), padding=1, padding_mode=mode)
        kernel = np.random.default_rng(0).standard_normal((2, 2, 3)) * 1e-290
        moved = move(kernel, geometry, limit, guarantee=guarantee).kernel
        norm = np.linalg.norm(dense_operator(moved * 2.0**1000, geometry), 2)
        assert norm <= limit * 2.0**1000 * (1 + 1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_norms_near_the_smallest_normal_number(dtype, mode):
    """A norm that scaling makes inexact is exact within its allowance, or an interval around the true one."""
    limits, rng, lift, intervals = np.finfo(dtype), np.random.default_rng(0), 2.0**100, 0
    for power in [1.0] * 40 + [2.0**-3, 2.0**-6, 2.0**-9, float(limits.eps) * 64]:
        for shape, size in (((1, 2, 1), 2), ((7, 5, 3), 5)):
            geometry = cs.ConvGeometry(size, padding=shape[-1] // 2, padding_mode=mode)
            kernel = (rng.standard_normal(shape) * (float(limits.smallest_normal) * power)).astype(dtype)
            norm = np.linalg.norm(dense_operator(kernel.astype(np.float64) * lift, geometry), 2)
            bound = cs.operator_norm(kernel, geometry)
            lower, upper = float(bound.lower) * lift, float(bound.upper) * lift
            if bound.exact and lower == upper:
                assert abs(upper - norm) <= EXACT[np.dtype(dtype).name] * norm
            else:
                intervals += 1
                assert lower <= norm * (1 + 1e-14)
                assert norm <= upper * (1 + 1e-14)
    assert intervals
