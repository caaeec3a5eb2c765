"""The benchmark of whole networks: that it runs, and that its networks are those that it names."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from convspectra_experiments.bench import models
from convspectra_experiments.report import benchmarks


def test_toy_networks_are_analysed_in_this_process_and_shown():
    rows = [models.measured(name, True) for name in models.SMALL]
    assert all(row.seconds > 0 and row.megabytes > 10 and row.sampled == 0 for row in rows)
    assert rows[1].layers == 10
    console = Console(file=io.StringIO(), width=200)
    benchmarks.render_models(models.Results({"solver": "", "processor": "", "threads": 1}, rows), console)
    assert all(row.name in console.file.getvalue() for row in rows)


@pytest.mark.parametrize(
    ("name", "weights"),
    [("ResNet-50, 224x224", 25.5e6), ("U-Net, 256x256", 31e6), ("1,000 layers, 16x16", 2.3e6)],
)
def test_networks_have_the_weights_of_those_they_are_named_after(name, weights, monkeypatch):
    monkeypatch.setattr(models, "smooth_kernel", lambda shape, rng: models.np.broadcast_to(0.0, shape))
    build = models._Builder()
    models.NETWORKS[name][0](build)
    assert sum(layer.kernel.size for layer in build.layers) == pytest.approx(weights, rel=0.02)
