"""The benchmark of bounds: that it runs, and that what it reports is true in the same run."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.console import Console

from convspectra import bounds
from convspectra.demo import model_path
from convspectra_experiments import bench
from convspectra_experiments.report import benchmarks
from test_cli import convspectra


@pytest.fixture(scope="module")
def results():
    return bench.bounds.run(small=True)


def test_every_bound_holds_and_has_a_row(results):
    public = set(bounds.__all__)
    assert {row.method.split(",")[0] for row in results.rows} == public
    assert {row.padding for row in results.rows} == {"zeros", "circular"}
    for row in results.rows:
        assert row.norm[0] <= row.norm[1]
        if row.kind == "estimate":
            assert row.method == "tensor_norm_estimate"
            continue
        # Exact values are rounded, in single precision.
        assert row.upper is None or row.upper >= 1 - 1e-6, row
        # For every input size at once a lower bound is not one of this size.
        assert row.lower is None or row.lower <= 1 + 1e-6 or row.method in ("pfister2018", "duffin1938"), row


def test_what_is_tight_is_seen_to_be(results):
    found = {(row.layer, row.padding, row.method): row for row in results.rows}
    assert found["one channel: box", "circular", "singla2021"].upper < 1.001
    assert found["one channel: delta", "circular", "singla2021"].upper > 2.99
    assert found["one channel: Laplacian", "circular", "delattre2024"].upper < 1.001
    medians = {(one.padding, one.method): one.upper for one in results.summary}
    assert medians["circular", "grishina2024"] <= medians["circular", "singla2021"] * (1 + 1e-6)


def test_it_is_rendered(results):
    written = io.StringIO()
    benchmarks.render_bounds(results, Console(width=140, file=written))
    text = written.getvalue()
    assert "circular, norm 9 " in text
    assert "estimate" in text


def test_the_layers_of_a_model_are_measured():
    layers = list(bench.bounds.layers(full=False, small=True, model=model_path()))
    assert len(layers) == 8  # those of one tap are left out
    assert all(kernel.dtype == np.float32 for _, kernel, _ in layers)
    names = [name for name, _, _ in bench.bounds.layers(full=True, small=False, model=None)]
    assert {name.split(":")[0] for name in names} == {"random", "one channel", "demo"}


def test_the_command_writes_what_it_prints(tmp_path):
    ran = convspectra("bench", "--bounds", "--small", "--out", "kept", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    kept = json.loads((tmp_path / "kept" / "bounds.json").read_text())
    assert {row["method"] for row in kept["summary"]} >= {"operator_norm", "delattre2024", "holder"}
    assert "delattre2024" in ran.stdout
    for wrong in (("--bounds", "--projection"), ("--model", "model.onnx")):
        ran = convspectra("bench", "--small", *wrong, cwd=tmp_path)
        assert ran.returncode == 2
        assert wrong[0] in ran.stderr
