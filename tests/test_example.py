"""The example runs as its head says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="README.md is not beside the tests")
def test_a_network_trains_with_and_without_the_clip(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    out = tmp_path / "trained"
    script = ROOT / "examples" / "train_resnet.py"
    ran = subprocess.run(
        [sys.executable, script, "--out", out, "--epochs", "1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr
    assert "clipped at 1: largest norm of a layer 1." in ran.stdout
    compared = subprocess.run(
        [
            *(sys.executable, "-m", "convspectra", "compare", out / "plain.pt", out / "clipped.pt"),
            *("--model", "examples.train_resnet:network", "--input-shape", "1,8,8"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=600,
    )
    assert compared.returncode == 0, compared.stderr
    assert "8 layers in both, 8 changed" in compared.stdout
