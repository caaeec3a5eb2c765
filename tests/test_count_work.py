"""What is computed for one problem is computed once; counted by `scripts/count_work.py`."""

from __future__ import annotations

import importlib.util
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import convspectra as cs

SCRIPT = Path(__file__).parents[1] / "scripts" / "count_work.py"

pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="the scripts are not beside the tests")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("count_work", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def counted(script, run):
    with script.counting() as work:
        run()
    return work.counts()


def check(found, kernels, tori, packets=0):
    """Once each, and something at all."""
    assert found["validations"] == found["kernels"] == kernels
    assert found["torus problems"] == found["distinct"] >= tori
    assert found["packets"] == found["distinct packets"] == packets


@pytest.mark.parametrize(("padding_mode", "tori"), [("zeros", 2), ("reflect", 3)])
def test_a_padded_norm(script, padding_mode, tori):
    check(counted(script, partial(script.norm_of, padding_mode, 1e-6)), 1, tori, packets=1)


def test_the_analysis_of_the_demo(script):
    pytest.importorskip("onnx")
    check(counted(script, script.analysis_of_demo), 10, 26, packets=8)


@pytest.mark.parametrize("guarantee", ["torus", "layer"])
@pytest.mark.parametrize("method", ["clip", "rescale", "project"])
def test_a_step_of_training(script, method, guarantee):
    pytest.importorskip("torch")
    check(counted(script, script.step_of(method, guarantee)), 2, 4 if method == "clip" else 2)


def test_the_count_sees_what_is_done_twice(script):
    kernel, geometry = np.ones((2, 2, 3, 3)), cs.ConvGeometry((8, 8), padding=1, padding_mode="circular")
    found = counted(script, lambda: [cs.singular_values(kernel, geometry) for _ in range(2)])
    assert found["validations"] == found["torus problems"] == 2
    assert found["kernels"] == found["distinct"] == 1
