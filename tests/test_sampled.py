"""Some frequencies for all: sorted values are off by no more than is said, against the dense matrix."""

from __future__ import annotations

import csv
import io
import json
import math
from importlib import resources

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import convspectra as cs
from convspectra import sampled
from convspectra.analysis import analyze, analyze_layer, compare
from convspectra.models import ConvLayer, Model
from convspectra.operators.reference import dense_operator
from convspectra.problem import problem_of
from convspectra.report import compare_text, html, json_file, table_files, text
from convspectra.sampled import norm_interval, sampling_error, smaller_torus
from convspectra.spectrum import spectrum_from_sample, spectrum_on
from convspectra.work import Effort


@st.composite
def cases(draw):
    axes = draw(st.integers(1, 3))
    several = lambda low, high: st.tuples(*[st.integers(low, high)] * axes)  # noqa: E731
    stride = draw(several(1, 2))
    sides = draw(several(1, (30, 8, 4)[axes - 1]))
    shape = tuple(n * s for n, s in zip(sides, stride, strict=True))
    geometry = cs.ConvGeometry(
        shape,
        stride,
        dilation=draw(several(1, 3)),
        groups=draw(st.integers(1, 2)),
        padding="same",
        padding_mode="circular",
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    kernel = rng.standard_normal((2 * geometry.groups, 2, *draw(several(1, 3))))
    return np.abs(kernel) if draw(st.booleans()) else kernel, geometry, draw(st.integers(1, 30))


@given(cases())
@settings(max_examples=60, deadline=None)
def test_sorted_values_are_within_the_error_of_the_dense_ones(case):
    kernel, geometry, points = case
    problem = problem_of(kernel, geometry)
    sample = smaller_torus(problem.correlation, points)
    if sample is None:
        return
    error = sampling_error(problem, sample)
    few = spectrum_on(problem, sample.torus)
    norms = norm_interval(problem, problem.correlation, float(few.norm), few.error + error)
    found = spectrum_from_sample(few, sample, error, norms)
    exact = np.linalg.svd(dense_operator(kernel, geometry), compute_uv=False)
    assert found.sampled
    assert found.count == exact.size
    assert np.abs(found.sorted() - exact).max() <= found.error + 1e-12 * exact[0]
    assert norms[0] <= exact[0] * (1 + 1e-12)
    assert exact[0] <= norms[1] * (1 + 1e-12)


def test_the_error_is_reached_up_to_little():
    kernel = np.array([[[1.0, -1.0]]])
    geometry = cs.ConvGeometry(24, padding="same", padding_mode="circular")
    problem = problem_of(kernel, geometry)
    sample = smaller_torus(problem.correlation, 6)
    error = sampling_error(problem, sample)
    few = spectrum_from_sample(spectrum_on(problem, sample.torus), sample, error, (2.0, 2.0))
    exact = np.linalg.svd(dense_operator(kernel, geometry), compute_uv=False)
    assert np.abs(few.sorted() - exact).max() > error / 2


def test_the_error_by_taps_where_there_is_no_search(monkeypatch):
    kernel = np.random.default_rng(0).standard_normal((2, 2, 3, 3))
    geometry = cs.ConvGeometry((24, 24), padding="same", padding_mode="circular")
    problem = problem_of(kernel, geometry)
    sample = smaller_torus(problem.correlation, 64)
    searched = sampling_error(problem, sample)
    monkeypatch.setattr(sampled, "_searched", lambda problem, width: None)
    assert searched < sampling_error(problem, sample)
    few = spectrum_on(problem, sample.torus)
    low, high = norm_interval(problem, problem.correlation, float(few.norm), few.error + searched)
    assert low <= float(cs.singular_values(kernel, geometry).norm) <= high


def test_auto_takes_all_frequencies_of_what_is_cheap_and_refuses_other_words():
    kernel, geometry = np.ones((2, 2, 3, 3)), cs.ConvGeometry((8, 8), padding=1).on_torus()
    assert not cs.singular_values(kernel, geometry, spectrum="auto").sampled
    assert not cs.singular_values(kernel, geometry, spectrum="sampled").sampled
    assert cs.singular_values(kernel, cs.ConvGeometry((80, 80)).on_torus(), spectrum="sampled").sampled
    with pytest.raises(cs.InputError, match="spectrum must be one of"):
        cs.singular_values(kernel, geometry, spectrum="some")


def test_a_kernel_whose_derivative_is_wanted_is_refused():
    torch = pytest.importorskip("torch")
    kernel = torch.ones((2, 2, 3, 3), requires_grad=True)
    with pytest.raises(cs.InputError, match="spectrum must be 'exact'"):
        cs.singular_values(kernel, cs.ConvGeometry((80, 80)).on_torus(), spectrum="sampled")


def smooth(seed=0, channels=3):
    kernel = np.random.default_rng(seed).standard_normal((channels, channels, 3, 3))
    window = np.exp(-(np.add.outer(np.arange(-1, 2) ** 2, np.arange(-1, 2) ** 2)) / 2)
    return kernel * window + 4 * np.eye(channels)[:, :, None, None] * (window > 0.9)


def model(seed=0):
    geometry = cs.ConvGeometry((80, 80), padding=1)
    return Model("m", "by hand", (ConvLayer("large", "conv2d", smooth(seed), "OIHW", geometry),))


def report(seed=0):
    return analyze(model(seed), spectrum="sampled")


RANGED = ("norm", "smallest", "condition_number", "rank", "effective_rank", "stable_rank", "nuclear_norm")


@pytest.mark.parametrize("seed", range(4))
def test_every_number_of_a_sampled_layer_has_an_interval_that_holds_the_exact_one(seed):
    layer = model(seed).layers[0]
    found = analyze_layer(layer, effort=Effort("none", "sampled")).torus
    exact = analyze_layer(layer, effort=Effort("none", "exact")).torus
    assert found.sampled
    assert set(found.ranges) == set(RANGED)
    assert found.count == exact.count
    for name in RANGED:
        low, high = found.ranges[name]
        value = getattr(exact, name)
        assert low * (1 - 1e-9) <= value <= high * (1 + 1e-9), name
        assert low <= getattr(found, name) * (1 + 1e-9), name
        assert getattr(found, name) <= high * (1 + 1e-9), name
    assert found.ranges["norm"][1] <= found.ranges["norm"][0] * 1.002
    for level, value in exact.quantiles.items():
        assert abs(value - found.quantiles[level]) <= found.error


def shown(render, record, width=200):
    console = Console(file=io.StringIO(), width=width)
    render(record, console)
    return console.file.getvalue()


def test_no_format_shows_an_estimate_as_exact(tmp_path):
    found = report()
    torus = found.layers[0].torus
    table = shown(text.render, found)
    row = next(line for line in table.splitlines() if line.startswith("large"))
    assert row.count("±") == 3  # norm, effective and stable rank
    assert row.count(">=") == 2  # condition number and rank
    assert row.count("<=") == 1  # smallest
    assert "sampled: a part of the frequencies stands for all" in table
    assert f"{torus.norm:.4g} ±" in table.splitlines()[-1]
    document = json_file.as_dict(found)
    schema = json.loads((resources.files("convspectra.report") / "schema/report-1.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(document)
    assert document["layers"][0]["torus"]["sampled"] is True
    assert set(document["layers"][0]["torus"]["ranges"]) == set(RANGED)
    file = io.BytesIO()
    table_files.write_csv(found, file)
    (line,) = csv.DictReader(io.StringIO(file.getvalue().decode()))
    assert line["sampled"] == "True"
    assert float(line["smallest_lower"]) < float(line["smallest"]) < float(line["smallest_upper"])
    file = io.BytesIO()
    table_files.write_npz(found, file)
    file.seek(0)
    arrays = np.load(file)
    assert arrays["sampled"].tolist() == [True]
    assert arrays["errors"].tolist() == [torus.error]
    page = html.page_data(found)
    assert page["curves"][0]["error"] > 0
    assert page["maps"][0]["sampled"]
    assert "±" in page["layers"][0]["wrapped"]
    assert sum("±" in str(cell[0]) for cell in page["layers"][0]["cells"]) == 3


def test_a_comparison_shows_the_errors_of_both_sides():
    found = compare(model(0), model(1), spectrum="sampled")
    table = shown(compare_text.render, found)
    row = next(line for line in table.splitlines() if line.startswith("large"))
    assert row.count("±") >= 4
    assert table.splitlines()[-1].count("±") >= 1
    assert "sampled: a part of the frequencies stands for all" in table


def test_finished_sampled_layers_are_taken_from_the_disk_as_they_were(tmp_path):
    first = analyze(model(), spectrum="sampled", resume=tmp_path)
    again = analyze(model(), spectrum="sampled", resume=tmp_path)
    assert again.layers[0].torus == first.layers[0].torus
    exact = analyze(model(), spectrum="exact", resume=tmp_path)
    assert not exact.layers[0].torus.sampled


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [((4, 2, 1, 1), 2, 1), ((6, 2, 3, 3), 2, 2)])
def test_columns_that_no_tap_reads_are_left_out_of_smallest_and_condition(kernel, stride, dilation):
    weights = np.random.default_rng(0).standard_normal(kernel)
    geometry = cs.ConvGeometry((8, 8), stride, dilation=dilation, padding_mode="circular", padding="same")
    torus = analyze_layer(ConvLayer("l", "conv2d", weights, "OIHW", geometry)).torus
    matrix = dense_operator(weights, geometry)
    values = np.linalg.svd(matrix, compute_uv=False)
    read = int((np.abs(matrix).sum(axis=0) > 0).sum())
    assert torus.count == values.size
    assert torus.structural_zeros == max(0, values.size - read)
    assert torus.structural_zeros > 0
    np.testing.assert_allclose(torus.smallest, values[: values.size - torus.structural_zeros][-1])
    assert math.isfinite(torus.condition_number)


def test_large_blocks_have_every_number():
    kernel = np.random.default_rng(0).standard_normal((132, 132, 3, 3)).astype(np.float32)
    geometry = cs.ConvGeometry((6, 6), padding=1)
    found = analyze_layer(ConvLayer("l", "conv2d", kernel, "OIHW", geometry))
    assert found.status == "ok"
    exact = cs.bounds.duffin1938(kernel, geometry)
    assert found.any_size.lower <= exact.upper
    assert exact.lower <= found.any_size.upper
