"""The table in a terminal."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from convspectra import Bound
from convspectra.report import numbers
from convspectra.report.text import render, summary, watching
from reports import mixed_report

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def report():
    return mixed_report()


def rendered(report, width):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    render(report, console)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 200])
def test_table_is_the_golden_one(report, width, update_golden):
    # The singular layer's smallest value is rounding noise, which differs between machines.
    calm = [
        replace(layer, torus=replace(layer.torus, smallest=0.0, condition_number=float("inf")))
        if layer.name == "singular"
        else layer
        for layer in report.layers
    ]
    text = rendered(replace(report, layers=tuple(calm)), width)
    path = GOLDEN / f"mixed-{width}.txt"
    if update_golden:
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("width", [60, 80, 100, 140, 240])
def test_numbers_are_never_cut_and_rows_never_wrap(report, width):
    table = rendered(report, width).splitlines()[: len(report.layers) + 1]
    assert table[0].split()[0] == "layer"
    for line, layer in zip(table[1:], report.layers, strict=True):
        assert len(line.rstrip()) <= width
        if layer.torus is not None:
            assert numbers.number(layer.torus.norm) in line.split()


def test_summary_says_what_was_found_and_what_was_not(report):
    line = summary(report)
    assert line.startswith("mixed.onnx: 13 convolutions, 1 linear")
    assert "1 with a number missing; 1 skipped; 1 failed" in line
    assert "7 Relu, 2 Add" in line
    assert "\n" not in line


def test_assumptions_and_reasons_are_said(report):
    text = rendered(report, 200)
    assert "audio*" in text
    assert "* assumed, as the file does not state it: stride, padding" in text
    assert "odd: partial: no torus spectrum: stride (2, 2) does not divide" in text
    assert "broken: failed: kernel has 144 NaN" in text


@pytest.mark.parametrize("value", [1 / 3, 2 / 3, 123456.789, 1e-9 / 7, 9.99999])
def test_bounds_are_rounded_to_the_side_on_which_they_hold(value):
    assert float(numbers.lower(value)) <= value <= float(numbers.upper(value))
    assert float(numbers.upper(value)) - float(numbers.lower(value)) <= 1.001e-3 * value
    assert numbers.interval(Bound(value, value, "m", exact=True)).startswith("= ")
    assert numbers.interval(Bound(None, value, "m")).startswith("<= ")
    assert numbers.interval(Bound(value, None, "m")).startswith(">= ")


def test_progress_bar_shows_only_in_a_terminal():
    silent = Console(file=io.StringIO(), width=80)
    with watching(silent) as told:
        told["progress"](0.5, "layer")
    assert silent.file.getvalue() == ""
    shown = Console(file=io.StringIO(), width=80, force_terminal=True)
    with watching(shown) as told:
        told["progress"](0.5, "layer")
    assert "50%" in shown.file.getvalue()
