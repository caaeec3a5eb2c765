"""The medium preset: its plan, its schedule, its precision, and what its runs leave that others do not."""

from __future__ import annotations

import json
import math
import runpy
import shutil
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from convspectra.errors import InputError
from convspectra_experiments.data.datasets import digits
from convspectra_experiments.networks.published import published_resnet
from convspectra_experiments.studies import results
from convspectra_experiments.studies.catalogue import SCALES, plan
from convspectra_experiments.studies.pairing import paired, two_sided
from convspectra_experiments.training import loop, precision
from convspectra_experiments.training.batch_norms import recomputed_norms
from convspectra_experiments.training.loop import train
from convspectra_experiments.training.settings import Control, Settings

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
TINY = replace(
    SCALES["medium"].base,
    data="digits",
    depth=8,
    width=2,
    epochs=2,
    batch=16,
    rate=0.1,
    train_images=72,
    test_images=50,
    norm_images=40,
    attack_radii=(0.0, 0.1),
)
FLOAT32 = replace(TINY, precision="float32")


@pytest.fixture(scope="module")
def data():
    return digits()


pytestmark = pytest.mark.usefixtures("one_thread")

# ---- the plan


def test_the_plan_is_fixed_and_begins_with_what_tells_most():
    found = [(one.group, one.settings.seed) for one in plan("figure2", "medium", "cifar10", range(3))]
    first = [("no clipping", 0), ("clip 0.5", 0), ("clip 1", 0)]
    assert found[:3] == first
    assert found[:9] == [(group, seed) for seed in range(3) for group, _ in first]
    assert found[9:15] == [(f"project {limit}", seed) for seed in range(3) for limit in ("0.5", "1")]
    assert found[15:] == [("clip 0.1", 0), ("clip 2.5", 0), ("clip 3", 0)]


def test_the_base_is_the_published_network_on_all_images():
    base = SCALES["medium"].base
    network = loop.build(base, replace(digits(), train=replace_channels(digits().train)))
    assert sum(one.numel() for one in network.parameters()) == 269_722
    assert (base.train_images, base.test_images, base.weight_decay, base.epochs) == (0, 0, 0.0, 60)
    assert base.augment


def replace_channels(split):
    return replace(split, images=np.repeat(split.images, 3, axis=1))


def test_runs_shared_by_experiments_are_one_run():
    ours = {one.settings.name() for one in plan("figure2", "medium", "cifar10", (0,))}
    shared = [one for one in plan("section44", "medium", "cifar10", (0,)) if one.settings.name() in ours]
    assert [one.group for one in shared] == ["no clipping", "clip 0.5", "clip 1"]


def test_the_sweep_has_no_batch_norm_and_no_warm_up():
    runs = plan("figure3a", "medium", "cifar10", (0,))
    assert len({one.settings.name() for one in runs}) == len(runs) >= 24
    assert not any(one.settings.batch_norm for one in runs)
    assert {one.settings.schedule for one in runs} == {"steps"}


def test_variations_differ_in_what_their_names_say():
    base = SCALES["medium"].base
    runs = {one.group: one.settings for one in plan("variations", "medium", "cifar10", (0,))}
    assert runs["no clipping, float32"] == replace(base, precision="float32")
    assert runs["clip 1, weight decay 5e-4"].weight_decay == 5e-4
    large = [one for name, one in runs.items() if "width 36" in name]
    assert [one.control.limit for one in large] == [None, 0.5, 1.0]
    assert all(one.epochs == 30 for one in large)


def test_names_of_kept_runs_stay():
    runs = results.read(EXPERIMENTS / "results" / "small.zip").runs
    assert sum(run.status == "done" for run in runs) == 81
    assert all(run.folder == f"runs/{run.settings.name()}" for run in runs)


# ---- the schedule


def test_one_cycle_rises_and_falls():
    settings = replace(TINY, epochs=10, rate=0.4)
    rates = [settings.rate_at(step, 20) for step in range(200)]
    top = int(np.argmax(rates))
    assert 0.09 * 200 <= top <= 0.11 * 200
    assert 0.39 < rates[top] <= 0.4
    assert np.all(np.diff(rates[: top + 1]) > 0)
    assert np.all(np.diff(rates[top:]) < 0)
    assert 0 < rates[0] < 0.05
    assert 0 < rates[-1] < 1e-3


def test_steps_are_whole_epochs():
    settings = Settings(rate=1.0, decay=0.5, epochs_per_decay=2, epochs=6)
    assert [settings.rate_at(step, 3) for step in range(18)] == [1.0] * 6 + [0.5] * 6 + [0.25] * 6


@pytest.mark.parametrize(
    ("field", "value"),
    [("schedule", "cosine"), ("network", "resnet"), ("norm_images", -1), ("batch_norm", False)],
)
def test_settings_name_what_is_wrong(field, value):
    with pytest.raises(InputError, match=field):
        replace(TINY, **{field: value})


# ---- precision


def test_bfloat16_is_refused_where_the_processor_lacks_it(data, tmp_path, monkeypatch):
    monkeypatch.setattr(
        loop.check_bfloat16.__globals__["torch"].cpu, "_is_avx512_bf16_supported", lambda: False
    )
    precision.has_bfloat16.cache_clear()
    try:
        with pytest.raises(InputError, match="float32 on this processor"):
            train(TINY, data, tmp_path)
    finally:
        precision.has_bfloat16.cache_clear()


@pytest.mark.parametrize(
    "probe", ["import os; os.abort()", "raise SystemExit(1)", "import time; time.sleep(60)"]
)
def test_bfloat16_is_not_used_where_the_probe_fails(probe, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(precision, "_PROBE", probe)
    monkeypatch.setattr(precision, "_PROBE_SECONDS", 120.0 if "sleep" not in probe else 0.5)
    precision.has_bfloat16.cache_clear()
    try:
        assert not precision.has_bfloat16()
    finally:
        precision.has_bfloat16.cache_clear()


def test_the_probe_is_asked_once(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    done = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(precision.subprocess, "run", lambda *_, **__: asked.append(1) or done)
    precision.has_bfloat16.cache_clear()
    try:
        assert precision.has_bfloat16()
        assert precision.has_bfloat16()
    finally:
        precision.has_bfloat16.cache_clear()
    assert len(asked) == 1


# ---- batch norms


def test_recomputed_statistics_are_those_of_the_images_and_are_restored():
    torch.manual_seed(0)
    model = published_resnet(8, 2, 1, 10).eval()
    batches = [torch.randn(6, 1, 8, 8) + 3 for _ in range(3)]
    before = {name: one.clone() for name, one in model.state_dict().items()}
    with recomputed_norms(model, batches):
        assert not model.training
        entering = [model.conv1(batch) for batch in batches]
        means = torch.stack([one.mean(dim=(0, 2, 3)) for one in entering]).mean(dim=0)
        variances = torch.stack([one.var(dim=(0, 2, 3)) for one in entering]).mean(dim=0)
        torch.testing.assert_close(model.bn1.running_mean, means)
        torch.testing.assert_close(model.bn1.running_var, variances)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert model.bn1.momentum == 0.1
    assert not model.training


# ---- a run


@pytest.mark.parametrize(
    "settings", [FLOAT32, pytest.param(TINY, marks=pytest.mark.slow)], ids=["float32", "bfloat16"]
)
@pytest.mark.parametrize(
    "control",
    [
        pytest.param(Control(), marks=pytest.mark.slow),
        Control("clip", 0.5, every=3),
        pytest.param(Control("project", 0.5, every=3), marks=pytest.mark.slow),
    ],
)
def test_a_run_stopped_anywhere_ends_with_the_same_weights(settings, control, data, tmp_path):
    if settings.precision == "bfloat16" and not precision.has_bfloat16():
        pytest.skip("this processor has no bfloat16")
    settings = replace(settings, control=control)
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    whole = train(settings, data, tmp_path / "whole")
    broken = None
    while broken is None:
        broken = train(settings, data, tmp_path / "broken", stop=lambda: True)
    states = [
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["model"]
        for name in ("whole", "broken")
    ]
    assert all(torch.equal(one, states[1][name]) for name, one in states[0].items())
    assert without_times(whole) == without_times(broken)


def without_times(found):
    return {name: value for name, value in found.items() if not name.endswith("seconds")}


def test_what_a_run_tells(data, tmp_path):
    result = train(replace(FLOAT32, control=Control("clip", 0.5, every=4)), data, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for line in (*lines, result):
        assert 0 <= line["test_error_recomputed"] <= 1
        assert line["processor_seconds"] > 0
    assert lines[-1]["total_processor_seconds"] == result["processor_seconds"]
    assert lines[-1]["total_processor_seconds"] == pytest.approx(
        sum(one["processor_seconds"] for one in lines)
    )
    assert result["lipschitz"] > 0
    assert math.isfinite(result["complexity"]["log10"])
    assert result["margins"]["images"] == 72
    assert set(result["margins"]["quantiles"]) == set(result["margins"]["normalised"])


def test_statistics_matter_right_after_a_clip(data, tmp_path):
    """A clip at the last step of an epoch: the recomputed error is that of the weights as they are."""
    few = {"train_images": 640, "test_images": 200, "norm_images": 640, "width": 4, "epochs": 5}
    settings = replace(FLOAT32, **few, attack_radii=(), control=Control("clip", 0.05, every=40))
    result = train(settings, data, tmp_path)
    assert result["test_error_recomputed"] < result["test_error"]


# ---- what is told of runs


def test_students_distribution_is_that_of_scipy():
    from scipy import stats

    for freedom in range(1, 12):
        for t in (0.0, 0.3, -2.5, 40.0):
            expected = 2 * stats.t.sf(abs(t), freedom)
            assert two_sided(t, freedom) == pytest.approx(expected, rel=1e-9, abs=1e-13)


def test_pairs_are_those_of_equal_seeds():
    from scipy import stats

    found = paired({0: 0.1, 1: 0.12, 2: 0.09, 3: 0.5}, {0: 0.11, 1: 0.14, 2: 0.12, 7: 0.0})
    expected = stats.ttest_rel([0.1, 0.12, 0.09], [0.11, 0.14, 0.12])
    assert (found.seeds, found.mean) == (3, pytest.approx(-0.02))
    assert found.p == pytest.approx(expected.pvalue)
    assert paired({0: 0.1}, {1: 0.1}) is None
    assert paired({0: 0.1}, {0: 0.2}).p is None
    assert paired({0: 0.25, 1: 0.5}, {0: 0.125, 1: 0.375}).p is None  # equal differences


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    """Figure 2 with two seeds of each clip, nothing of its other runs, and one run of the variations."""
    out = tmp_path_factory.mktemp("results")
    small = {
        "depth": 8,
        "width": 2,
        "epochs": 2,
        "precision": "float32",
        "norm_images": 40,
        "attack_radii": (0.0, 0.1),
    }
    for name, count in (("figure2", 6), ("variations", 1)):
        runs = plan(name, "medium", "digits", range(2), small)
        about = {"experiment": name, "preset": "medium", "command": f"convspectra experiment {name}"}
        (out / f"{name}.json").write_text(json.dumps({**about, "runs": [one.to_dict() for one in runs]}))
        for one in runs[:count]:
            where = out / one.to_dict()["folder"]
            where.mkdir(parents=True)
            train(one.settings, data, where)
    return out


@pytest.mark.slow
def test_groups_have_the_numbers_of_their_runs(folder):
    found = {one.name: one for one in results.read(folder).experiments}
    free, half, *_ = found["figure2"].groups
    ended = [run.result for run in half.runs]
    assert half.recomputed.mean == pytest.approx(np.mean([one.test_error_recomputed for one in ended]))
    assert half.against_free.seeds == 2
    assert half.against_free.mean == pytest.approx(half.test_error.mean - free.test_error.mean)
    assert free.against_free is None
    assert half.complexity.count == half.median_margin.count == half.lipschitz.count == 2
    last = half.curve[-1].total_processor_seconds.mean
    assert last == pytest.approx(np.mean([run.epochs[-1].total_processor_seconds for run in half.runs]))


@pytest.mark.slow
def test_the_page_shows_them(folder):
    from convspectra_experiments.report import write_report

    written = {path.name for path in write_report(folder)}
    assert {"figure2.png", "figure2-recomputed.png", "figure4.png", "variations.png"} <= written
    page = (folder / "report.html").read_text()
    for words in (
        "statistics recomputed",
        "p (Student, two-sided)",
        "spectral complexity",
        "weight decay 5e-4",
    ):
        assert words in page


@pytest.mark.slow
def test_finished_runs_are_kept_without_checkpoints(folder, tmp_path):
    keep = runpy.run_path(str(EXPERIMENTS / "keep.py"))["keep"]
    source, target = tmp_path / "runs", tmp_path / "kept.zip"
    shutil.copytree(folder, source)
    assert keep(source, target) == 7
    with zipfile.ZipFile(target) as archive:
        names = {Path(name).name for name in archive.namelist() if name.startswith("runs/")}
    assert names == {"settings.json", "metrics.jsonl", "result.json"}
    mine, kept = (results.read(out) for out in (source, target))
    assert mine.experiments == kept.experiments
    before = target.read_bytes()
    assert keep(source, target) == 7
    assert target.read_bytes() == before
    # What is no longer there stays kept; what has not finished is not.
    gone, unfinished = [source / run.folder for run in mine.runs if run.status == "done"][:2]
    shutil.rmtree(gone)
    (unfinished / "result.json").unlink()
    assert keep(source, target) == 7
    assert results.read(target).experiments == mine.experiments
    assert keep(source, tmp_path / "other.zip") == 5
