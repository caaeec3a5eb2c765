"""A slice of `scripts/check_adversarial.py`, and its judge."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import convspectra as cs

_SCRIPT = Path(__file__).parents[1] / "scripts" / "check_adversarial.py"
_SPEC = importlib.util.spec_from_file_location("check_adversarial", _SCRIPT)
adversarial = importlib.util.module_from_spec(_SPEC)
sys.modules["check_adversarial"] = adversarial  # dataclasses look their module up
_SPEC.loader.exec_module(adversarial)


@pytest.mark.parametrize("start", [0, 100_000])
def test_nothing_of_a_slice_is_violated(start):
    found = [adversarial.Check(0, index).run() for index in range(start, start + 60)]
    assert [what for one in found for what in one.violated] == []
    assert sum(one.judge.decided_exactly for one in found) > 20
    assert len(set().union(*(one.counts for one in found))) > 15


def test_the_judge_tells_a_norm_from_the_next_number():
    kernel = np.array([[[0.6]], [[0.8]]])  # of norm 1 but for the rounding of its entries
    judge = adversarial.Judge(adversarial.exact_operator(kernel, cs.ConvGeometry((3,))))
    square = Fraction(0.6) ** 2 + Fraction(0.8) ** 2
    for limit in (1.0, np.nextafter(1.0, 0), np.nextafter(1.0, 2)):
        assert judge.at_most(limit) == (square <= Fraction(float(limit)) ** 2)
        assert judge.at_least(limit) == (square >= Fraction(float(limit)) ** 2)


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_the_judge_sees_what_cancels(scale):
    kernel = np.array([[[1.0, 1e-16, -1.0]]]) * scale
    wrapped = cs.ConvGeometry((1,), padding="same", padding_mode="circular")
    judge = adversarial.Judge(adversarial.exact_operator(kernel, wrapped))
    exact = sum(map(Fraction, map(float, kernel.ravel())))
    assert judge.at_most(float(exact) * 1.0001)
    assert not judge.at_most(float(exact) * 0.9999)


def test_wrong_bounds_are_violations():
    for index in range(30):
        one = adversarial.Check(0, index)
        if one.judge.norm == 0 or not 1e-30 < float(np.abs(one.kernel).max()) < 1e30:
            continue
        bound = cs.operator_norm(one.kernel, one.geometry)
        assert one.holds(bound) == ""
        assert one.holds(replace(bound, upper=bound.upper * 0.5, lower=None, exact=False))
        assert one.holds(replace(bound, lower=bound.upper * 2, upper=None, exact=False))
        assert one.holds(replace(bound, lower=bound.upper * 1.01, upper=bound.upper * 1.01, exact=True))


def test_ranges_are_resumed_and_merged(tmp_path, monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["check_adversarial.py", *map(str, arguments)])
        return adversarial.main()

    first, second, both, whole = (tmp_path / f"{name}.json" for name in ("first", "second", "both", "whole"))
    assert run("--stop", 4, "--chunk", 2, "--out", first) == 0
    assert run("--stop", 8, "--chunk", 2, "--out", first) == 0  # goes on
    assert run("--start", 8, "--stop", 12, "--out", second) == 0
    assert run("--merge", first, second, "--out", both) == 0
    assert run("--stop", 12, "--out", whole) == 0
    states = [json.loads(path.read_text()) for path in (both, whole)]
    assert states[0]["ranges"] == [[0, 8], [8, 12]]
    assert states[0]["checked"] == states[1]["checked"]
    assert states[0]["exactly"] == states[1]["exactly"]
