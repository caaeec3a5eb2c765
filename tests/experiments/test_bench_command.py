"""The command `convspectra bench`: what it writes is checked in the same run."""

from __future__ import annotations

import json

import pytest

from test_cli import convspectra
from test_terminal import on_a_small_disk


@pytest.mark.slow
def test_bench_checks_what_it_times(tmp_path):
    ran = convspectra("bench", "--small", "--out", "kept", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    kept = json.loads((tmp_path / "kept" / "bench.json").read_text())
    exact = [row for row in kept["rows"] if row["kind"] == "spectrum" or row["method"] == "convspectra"]
    assert {row["method"] for row in exact} >= {"dense matrix", "two lines, NumPy", "convspectra"}
    assert all(abs(row["error"]) < 2e-6 for row in exact)
    assert all(row["error"] > -1e-6 for row in kept["rows"] if row["method"].startswith("Gram"))
    assert all(row["error"] < 1e-6 for row in kept["rows"] if row["method"].startswith("power"))
    assert (tmp_path / "kept" / "figure1.png").stat().st_size > 5000
    assert "figure 1" in convspectra("bench", "--help", cwd=tmp_path).stdout


@pytest.mark.slow
def test_bench_of_projections_checks_what_it_times(tmp_path):
    ran = convspectra("bench", "--projection", "--small", "--out", "kept", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    kept = json.loads((tmp_path / "kept" / "projection.json").read_text())
    assert {row["method"] for row in kept["clips"]} >= {"appendix A, NumPy", "clip", "rescale"}
    assert all(row["error"] < 1e-5 for row in kept["clips"] if row["error"] is not None)
    assert all(row["norm"] <= 1 for row in kept["clips"] if row["error"] is None)
    assert {row["method"] for row in kept["nearest"]} == {
        "augmented_lagrangian",
        "accelerated_dual",
        "dykstra",
    }
    assert all(row["gap"] <= 1e-3 and row["distance"] <= 0.05 for row in kept["nearest"])


def test_a_disk_without_room_for_benchmarks_shows_them(tmp_path):
    done = on_a_small_disk(500, "bench --bounds --small --out kept", tmp_path)
    assert done.returncode == 3, done.stderr
    assert "bounds.json cannot be written: File too large" in done.stderr
    assert "All layers: medians" in done.stdout
