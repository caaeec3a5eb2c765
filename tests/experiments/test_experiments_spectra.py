"""Figures 5 to 7 of any model: which layers, how many values, and curves that are thinned but true."""

from __future__ import annotations

import numpy as np
import pytest

from convspectra.analysis import analyze
from convspectra.demo import model_path
from convspectra.errors import InputError
from convspectra.models import read_model
from convspectra.models.records import Model
from convspectra_experiments.studies import network_spectra


@pytest.fixture(scope="module")
def demo_spectra():
    return network_spectra.spectra_of()


def test_only_layers_larger_than_one_tap(demo_spectra):
    model = read_model(model_path())
    large = [layer for layer in model.layers if max(layer.kernel.shape[2:], default=1) > 1]
    assert [layer.name for layer in demo_spectra.layers] == [layer.name for layer in large]
    assert demo_spectra.left_out == {"kernel of one tap": len(model.layers) - len(large)}
    assert demo_spectra.model == "digits.onnx"


def test_curves_and_counts_are_those_of_all_values(demo_spectra):
    report = {layer.name: layer for layer in analyze(read_model(model_path()), dtype="float64").layers}
    for layer in demo_spectra.layers:
        values = np.asarray(report[layer.name].spectrum.sorted())
        ranks = np.array(layer.ranks)
        assert (ranks[0], ranks[-1]) == (1, layer.count) == (1, len(values))
        assert len(ranks) <= network_spectra.POINTS
        np.testing.assert_array_equal(np.array(layer.values), values[ranks - 1])
        assert layer.norm == values[0]
        assert layer.at_least_one == (values >= 1).sum()
        assert layer.effective_rank == pytest.approx(report[layer.name].torus.effective_rank)
        lines = np.interp(np.arange(1, len(values) + 1), ranks, layer.values)
        assert np.abs(lines - values).max() <= network_spectra.TOLERANCE * values[0]


@pytest.mark.parametrize("count", [1, 2, 3, 1000])
def test_thinning_keeps_both_ends_and_no_more_points_than_asked_for(count):
    values = np.sort(np.random.default_rng(count).standard_normal(count) ** 2)[::-1]
    kept = network_spectra.thinned(values, points=20, tolerance=0.0)
    assert len(kept) == min(count, 20)
    assert (kept[0], kept[-1]) == (0, count - 1)
    assert (np.diff(kept) > 0).all()


def test_a_straight_line_and_zeros_need_their_ends_alone():
    assert network_spectra.thinned(np.linspace(3, 1, 500)).tolist() == [0, 499]
    assert network_spectra.thinned(np.zeros(500)).tolist() == [0, 499]


def test_writing_and_reading(demo_spectra, tmp_path):
    network_spectra.write(demo_spectra, tmp_path / "spectra.json")
    assert network_spectra.read(tmp_path / "spectra.json") == demo_spectra
    assert network_spectra.read(tmp_path / "none.json") is None


def test_a_model_without_such_layers_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(network_spectra, "read_model", lambda *_, **__: Model("empty", "onnx", ()))
    with pytest.raises(InputError, match="empty has no convolution larger than 1x1"):
        network_spectra.spectra_of(tmp_path / "model.onnx")
