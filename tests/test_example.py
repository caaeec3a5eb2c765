"""The examples run as their heads say, and what they print of norms is within the limit."""

from __future__ import annotations

import re
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


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="README.md is not beside the tests")
@pytest.mark.parametrize(
    ("name", "option", "pattern", "count", "limit"),
    [
        ("gan", "--steps=8", r"norm at most ([\d.]+)", 4, 1),
        ("invertible", "--epochs=1", r"constant at most ([\d.]+)", 4, 0.9),
        ("certified", "--epochs=1", r"constant of the network at most ([\d.]+)", 1, 1.0001),
        ("denoiser", "--epochs=2", r"norm at most ([\d.]+)", 3, 1),
    ],
)
def test_a_recipe(name, option, pattern, count, limit):
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    ran = subprocess.run(
        [sys.executable, ROOT / "examples" / f"{name}.py", option],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr
    found = [float(one) for one in re.findall(pattern, ran.stdout)]
    assert len(found) == count
    assert 0 < max(found) <= limit
    if name == "invertible":
        assert float(re.findall(r"error of the inverse: (\S+)", ran.stdout)[0]) < 1e-12
    if name == "certified":
        certified, withstand = (
            float(one) for one in re.findall(r"(?:certified|attack) ([\d.]+)%", ran.stdout)
        )
        assert certified <= withstand
