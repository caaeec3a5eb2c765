"""One training run: seeded, stopped and killed anywhere, diverging; what it leaves in its folder."""

from __future__ import annotations

import json
import math
import random
import shutil
import time
from dataclasses import replace
from pathlib import Path

import experiment_processes as processes
import numpy as np
import pytest
import torch

from convspectra.atomic import _sweep
from convspectra.errors import InputError
from convspectra_experiments.data.datasets import digits
from convspectra_experiments.training import folder as folders
from convspectra_experiments.training import loop
from convspectra_experiments.training.controls import control_layers, convolutions
from convspectra_experiments.training.loop import build, train
from convspectra_experiments.training.settings import Control, Settings
from convspectra_experiments.training.watching import layer_numbers

# Of the 72 images each epoch leaves out 8: it has 4 steps.
TINY = Settings(
    data="digits",
    depth=8,
    width=2,
    epochs=3,
    batch=16,
    epochs_per_decay=1,
    train_images=72,
    test_images=50,
)
CONTROLS = (
    Control(),
    Control("clip", 0.5, every=2),
    Control("project", 0.5, every=2),
    Control("rescale", 0.5, every=2),
    Control("reshaped", 0.2, every=2),
    Control("operator_norm", 0.5),
    Control("orthogonality", weight=0.1),
    Control("parseval", weight=1e-3),
    Control("max_gain", 0.5),
    Control("clip", 0.5, every=2, fold_batch_norm=True),
)
CHANCE = 0.9


@pytest.fixture(scope="module")
def data():
    return digits()


pytestmark = pytest.mark.usefixtures("one_thread")


def label(control):
    return control.label().replace(" ", "-")


def every_so_many_steps(count):
    """For `stop`."""
    calls = iter(range(1, 10**9))
    return lambda: next(calls) % count == 0


def made(path):
    path.mkdir()
    return path


def state_in(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def same(one, other):
    """To the bit, nested however."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def same_states(one, other):
    return all(same(one[name], other[name]) for name in ("model", "optimizer", "control", "epoch", "step"))


def without_times(found):
    return {name: value for name, value in found.items() if not name.endswith("seconds")}


def metrics_of(folder):
    """What does not depend on the clock; strict JSON, each epoch once."""
    lines = [json.loads(line, parse_constant=pytest.fail) for line in open_lines(folder)]
    assert [line["epoch"] for line in lines] == list(range(1, len(lines) + 1))
    return [without_times(line) for line in lines]


def open_lines(folder):
    text = (folder / "metrics.jsonl").read_text()
    assert text.endswith("\n")
    return text.splitlines()


def result_of(folder):
    return without_times(json.loads((folder / "result.json").read_text(), parse_constant=pytest.fail))


# ---- it learns


@pytest.mark.parametrize("batch_norm", [True, False])
def test_it_learns(batch_norm, data, tmp_path):
    few = {"train_images": 640, "test_images": 200}
    settings = replace(TINY, width=4, batch_norm=batch_norm, epochs=8, decay=0.8, **few)
    shares = []
    result = train(settings, data, tmp_path, progress=lambda share, words: shares.append(share))
    losses = [line["train_loss"] for line in metrics_of(tmp_path)]
    assert losses[1] < losses[0]
    assert losses[-1] < (0.5 if batch_norm else 0.7) * losses[0]
    assert result["test_error"] < (0.4 if batch_norm else 0.6) < CHANCE
    assert result["status"] == "done"
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert len(shares) == 8 * 40


# ---- it is repeatable


def test_equal_settings_give_equal_weights_whatever_the_global_random_state(data, tmp_path):
    settings = replace(
        TINY, epochs=2, control=Control("clip", 0.5, every=2), observe=True, attack_radii=(0.0, 0.2)
    )
    for place in ("a", "b", "other"):
        torch.manual_seed(ord(place[0]))
        before = torch.random.get_rng_state()
        seeded = replace(settings, seed=int(place == "other"))
        train(seeded, data, made(tmp_path / place))
        assert torch.equal(torch.random.get_rng_state(), before)
    a, b, other = (state_in(tmp_path / place) for place in ("a", "b", "other"))
    assert same_states(a, b)
    assert not same(a["model"], other["model"])
    assert metrics_of(tmp_path / "a") == metrics_of(tmp_path / "b") != metrics_of(tmp_path / "other")
    assert result_of(tmp_path / "a") == result_of(tmp_path / "b")


def test_the_seed_decides_the_start_the_order_and_the_augmentation(data):
    first, again, other = (build(replace(TINY, seed=seed), data).state_dict() for seed in (5, 5, 6))
    assert same(first, again)
    assert not same(first, other)
    drawn = [torch.rand(3, generator=loop.seeded(*words)) for words in ((5, 1, 0), (5, 2, 0), (6, 1, 0))]
    assert not any(torch.equal(drawn[i], drawn[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize("changes", [{"augment": False}, {"momentum": 0.0}, {"weight_decay": 0.1}])
def test_settings_matter(changes, data, tmp_path):
    train(replace(TINY, epochs=1), data, made(tmp_path / "plain"))
    train(replace(TINY, epochs=1, **changes), data, made(tmp_path / "other"))
    assert not same(*(state_in(tmp_path / place)["model"] for place in ("plain", "other")))


# ---- it resumes


def check_resuming(settings, steps, data, folder):
    """Stopped after every so many steps, each time resumed by a new object."""
    train(settings, data, made(folder / "unbroken"))
    broken = made(folder / "broken")
    stop, stops = every_so_many_steps(steps), 0
    while train(settings, data, broken, stop=stop) is None:
        stops += 1
        assert not (broken / "result.json").exists()
        assert state_in(broken)["step"] == steps * stops
    assert stops >= 2
    assert same_states(state_in(broken), state_in(folder / "unbroken"))
    assert metrics_of(broken) == metrics_of(folder / "unbroken")
    assert result_of(broken) == result_of(folder / "unbroken")
    assert len(metrics_of(broken)) == settings.epochs


@pytest.mark.parametrize("control", CONTROLS, ids=label)
def test_going_on_is_exact(control, data, tmp_path):
    check_resuming(replace(TINY, control=control), 3, data, tmp_path)
    if control.method == "project":
        assert len(state_in(tmp_path / "broken")["control"]["duals"]) == 7  # not all starts were cold
    if control.fold_batch_norm:
        assert len(state_in(tmp_path / "broken")["control"]["batch_norms"]) >= 3


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, 4),  # at the ends of epochs
        ({}, 1),
        ({"batch_norm": False, "rate": 0.03, "control": Control("operator_norm", 0.5)}, 3),
        ({"batch_norm": False, "rate": 0.03, "control": Control("parseval", weight=1e-3)}, 3),
        ({"batch_norm": False, "rate": 0.03, "control": Control("max_gain", 0.5)}, 3),
        pytest.param(
            {"observe": True, "attack_radii": (0.1,), "control": Control("clip", 0.5, every=3)},
            5,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_going_on_is_exact_with_other_settings(changes, steps, data, tmp_path):
    check_resuming(replace(TINY, **changes), steps, data, tmp_path)


def test_a_finished_run_is_left_alone(data, tmp_path):
    result = train(replace(TINY, epochs=1), data, tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert train(replace(TINY, epochs=1), data, tmp_path) == result
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


def test_killed_at_any_moment(data, tmp_path):
    settings = replace(TINY, epochs=60, control=Control("clip", 0.5, every=3))
    train(settings, data, made(tmp_path / "unbroken"))
    folder, chance = made(tmp_path / "killed"), random.Random(0)
    kills = 0
    while not (folder / "result.json").exists():
        before = checkpoint_time(folder)
        process = processes.start(processes.one_run, settings, folder)
        processes.wait_for(lambda: checkpoint_time(folder) != before or not process.is_alive())  # noqa: B023
        if kills < 8:
            time.sleep(chance.uniform(0, 0.15))
            kills += processes.kill(process)
        process.join(240)
        assert kills <= 8
        assert process.exitcode in (0, -9)
    assert kills >= 4
    assert same_states(state_in(folder), state_in(tmp_path / "unbroken"))
    assert metrics_of(folder) == metrics_of(tmp_path / "unbroken")
    assert result_of(folder) == result_of(tmp_path / "unbroken")
    assert sorted(path.name for path in folder.iterdir()) == FILES


FILES = ["checkpoint.pt", "metrics.jsonl", "result.json", "settings.json"]


def checkpoint_time(folder):
    path = folder / "checkpoint.pt"
    return path.stat().st_mtime_ns if path.exists() else None


def test_what_a_killed_process_left_half_written_is_swept_up(data, tmp_path):
    train(TINY, data, tmp_path, stop=every_so_many_steps(3))
    _sweep.cache_clear()  # as in another process
    (tmp_path / ".checkpoint.pt.x1y2z3.convspectra-partial").write_bytes(b"half")
    train(TINY, data, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES


# ---- files that are not as they should be


@pytest.fixture(scope="module")
def stopped(data, tmp_path_factory):
    """A run that stands in its second epoch."""
    folder = tmp_path_factory.mktemp("stopped")
    train(TINY, data, folder, stop=every_so_many_steps(6))
    return folder


@pytest.fixture
def folder(stopped, tmp_path):
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def changed(**changes):
    return lambda path: torch.save(state_in(path.parent) | changes, path)


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda path: path.write_bytes(b""), "delete it"),
        (lambda path: path.write_bytes(b"no checkpoint\n" * 100), "delete it"),
        (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "delete it"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "delete it"),
        (lambda path: torch.save([1, 2], path), "delete it"),
        (lambda path: torch.save({}, path), "delete it"),
        (lambda path: torch.save({"settings": TINY.to_dict()}, path), "delete it"),
        (lambda path: torch.save(Path(), path), "delete it"),
        (changed(model={}), "delete it"),
        (changed(optimizer={"state": {}, "param_groups": []}), "delete it"),
        (changed(settings=TINY.to_dict() | {"colour": 1}), "colour"),
        (changed(settings=TINY.to_dict() | {"seed": 1}), "other settings"),
        (changed(device="cuda:0"), "--device cuda"),
    ],
)
def test_a_checkpoint_that_is_none_is_refused(damage, word, data, folder):
    path = folder / "checkpoint.pt"
    damage(path)
    before = path.read_bytes()
    with pytest.raises(InputError) as caught:
        train(TINY, data, folder)
    assert str(path) in str(caught.value)
    assert word in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert path.read_bytes() == before


def test_a_torn_line_and_epochs_after_the_checkpoint_are_done_again(data, folder, tmp_path):
    first = open_lines(folder)[0]
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(first.replace('"epoch": 1', '"epoch": 2') + "\n" + first[: len(first) // 2])
    assert len(folders.read_metrics(folder)) == 2
    train(TINY, data, folder)
    train(TINY, data, made(tmp_path / "unbroken"))
    assert metrics_of(folder) == metrics_of(tmp_path / "unbroken")


@pytest.mark.parametrize("text", ["", "garbage\n", "[1]\n", "{}\n", '{"epoch": 3}\n'])
def test_metrics_that_miss_epochs_before_the_checkpoint_are_refused(text, data, folder):
    (folder / "metrics.jsonl").write_text(text)
    with pytest.raises(InputError, match=r"metrics\.jsonl"):
        train(TINY, data, folder)


def test_a_result_that_is_no_json_is_refused(data, folder):
    (folder / "result.json").write_text('{"status": "do')
    with pytest.raises(InputError, match=r"result\.json"):
        train(TINY, data, folder)


def test_a_folder_that_is_missing_or_cannot_be_written_is_refused(data, tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        train(TINY, data, tmp_path / "nowhere")
    tmp_path.chmod(0o500)
    # Which does not stop root; nothing can be made in /proc.
    folder = Path("/proc/self") if Path("/proc/self").exists() else tmp_path
    with pytest.raises(InputError, match="cannot be written"):
        train(TINY, data, folder)
    tmp_path.chmod(0o700)


def test_a_full_disk_is_one_error_and_harms_nothing(data, tmp_path):
    folder, reason = made(tmp_path / "run"), tmp_path / "reason"
    processes.start(processes.one_run_on_a_full_disk, TINY, folder, 20_000, reason).join(240)
    assert "checkpoint.pt cannot be written" in reason.read_text()
    assert sorted(path.name for path in folder.iterdir()) == ["metrics.jsonl", "settings.json"]
    assert train(TINY, data, folder)["status"] == "done"


def test_data_that_the_settings_do_not_name_or_that_are_too_few_are_refused(data, tmp_path):
    with pytest.raises(InputError, match="cifar10"):
        train(replace(TINY, data="cifar10"), data, tmp_path)
    with pytest.raises(InputError, match="1397"):
        train(replace(TINY, train_images=5000), data, tmp_path)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"depth": 9}, "depth"),
        ({"depth": 2}, "depth"),
        ({"width": 0}, "width"),
        ({"epochs": 0}, "epochs"),
        ({"batch": 0}, "batch"),
        ({"rate": -0.1}, "rate"),
        ({"rate": math.nan}, "rate"),
        ({"seed": -1}, "seed"),
        ({"test_images": -1}, "test_images"),
        ({"precision": "float16"}, "precision"),
        ({"attack_radii": (0.1, -0.1)}, "attack_radii"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, word):
    with pytest.raises(InputError, match=word):
        replace(TINY, **changes)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"method": "magic"}, "method"),
        ({"method": "clip"}, "limit"),
        ({"method": "clip", "limit": 0.0}, "limit"),
        ({"method": "clip", "limit": math.inf}, "limit"),
        ({"method": "none", "limit": 1.0}, "takes no limit"),
        ({"method": "clip", "limit": 1.0, "every": 0}, "every"),
        ({"method": "parseval"}, "weight"),
    ],
)
def test_controls_that_cannot_be_are_refused(arguments, word):
    with pytest.raises(InputError, match=word):
        Control(**arguments)


# ---- runs that diverge

WITHOUT_FOLDING = [control for control in CONTROLS if not control.fold_batch_norm]


@pytest.mark.parametrize("control", WITHOUT_FOLDING, ids=label)
def test_a_run_that_diverges_ends_with_the_error_of_guessing(control, data, tmp_path):
    settings = replace(TINY, batch_norm=False, rate=1e6, epochs=20, control=control)
    if control.method in ("operator_norm", "max_gain"):  # which keep it from that
        settings = replace(settings, rate=1e37)
    result = train(settings, data, tmp_path)
    assert (result["status"], result["test_error"]) == ("diverged", CHANCE)
    assert result["train_loss"] is result["test_loss"] is None
    lines = metrics_of(tmp_path)
    assert result["epochs"] == len(lines) < 20
    assert (lines[-1]["test_error"], lines[-1]["train_loss"]) == (CHANCE, None)
    assert result_of(tmp_path) == without_times(result)
    assert train(settings, data, tmp_path) == result


@pytest.mark.parametrize("observe", [False, True])
@pytest.mark.parametrize("rate", [1e12, 1e20, 1e37])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_weights_that_overflow_in_the_last_step(batch_norm, rate, observe, data, tmp_path):
    settings = replace(TINY, batch_norm=batch_norm, rate=rate, epochs=2, batch=100, observe=observe)
    result = train(settings, data, tmp_path)
    assert result["status"] in ("done", "diverged")
    if result["status"] == "done":
        assert all(value.isfinite().all() for value in state_in(tmp_path)["model"].values())
    assert metrics_of(tmp_path)
    assert result_of(tmp_path) == without_times(result)


@pytest.mark.parametrize("control", [Control(), Control("clip", 0.5, every=2)], ids=label)
def test_a_diverged_run_killed_before_its_result_diverges_again(control, data, tmp_path, monkeypatch):
    settings = replace(TINY, batch_norm=False, rate=1e6, epochs=20, control=control)
    unbroken, broken = made(tmp_path / "unbroken"), made(tmp_path / "broken")
    train(settings, data, unbroken, checkpoint_seconds=0)
    write = folders.write_json

    def killed(path, value):
        if path.name == "result.json":
            raise KeyboardInterrupt
        write(path, value)

    with monkeypatch.context() as patched:
        patched.setattr(folders, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            train(settings, data, broken, checkpoint_seconds=0)
    train(settings, data, broken, checkpoint_seconds=0)
    assert metrics_of(broken) == metrics_of(unbroken)
    assert result_of(broken) == result_of(unbroken)


# ---- what it writes


def test_what_the_files_say(data, tmp_path):
    settings = replace(TINY, epochs=2, control=Control("clip", 0.5, every=2), decay=0.5)
    result = train(settings, data, tmp_path)
    lines = [json.loads(line) for line in open_lines(tmp_path)]
    fields = {"epoch", "step", "rate", "train_loss", "train_error", "test_loss", "test_error", "seconds"}
    times = {
        "control_seconds",
        "total_seconds",
        "test_seconds",
        "processor_seconds",
        "total_processor_seconds",
    }
    assert all(set(line) == fields | times for line in lines)
    assert [(line["epoch"], line["step"], line["rate"]) for line in lines] == [(1, 4, 0.1), (2, 8, 0.05)]
    assert all(0 < line["control_seconds"] <= line["seconds"] for line in lines)
    assert lines[-1]["total_seconds"] == sum(line["seconds"] for line in lines) == result["seconds"]
    assert result["control_seconds"] == sum(line["control_seconds"] for line in lines)
    assert (result["status"], result["epochs"], result["steps"]) == ("done", 2, 8)
    for name in ("train_loss", "train_error", "test_loss", "test_error"):
        assert result[name] == lines[-1][name]
    assert result["largest_norm"] == max(layer["norm"] for layer in result["layers"])
    assert [layer["name"] for layer in result["layers"]][:2] == ["stem", "blocks.0.conv1"]
    assert len(result["layers"]) == 7
    about = json.loads((tmp_path / "settings.json").read_text(), parse_constant=pytest.fail)
    assert Settings.from_dict(about["settings"]) == settings
    assert {"convspectra", "python", "torch", "numpy", "scikit-learn"} <= set(about["versions"])
    assert about["machine"]["device"] == "cpu"
    assert about["threads"] == 1
    assert about["parameters"] == sum(one.numel() for one in build(settings, data).parameters())


def test_losses_and_errors_are_those_of_the_images(data, tmp_path):
    """The test's number again, image by image; a batch of all images without a step before it."""
    settings = replace(TINY, epochs=1, batch=72, augment=False)
    result = train(settings, data, tmp_path)
    model = build(settings, data)
    images = (torch.from_numpy(data.train.images[:72]) / 255 - data.mean[0]) / data.deviation[0]
    labels = torch.from_numpy(data.train.labels[:72])
    with torch.no_grad():
        logits = model(images)
    assert result["train_loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)))
    assert result["train_error"] == pytest.approx(float((logits.argmax(1) != labels).float().mean()))
    model.load_state_dict(state_in(tmp_path)["model"])
    model.eval()
    wrong = []
    for image, right in zip(data.test.images[:50], data.test.labels[:50], strict=True):
        one = (torch.from_numpy(image)[None] / 255 - data.mean[0]) / data.deviation[0]
        wrong.append(int(model(one).argmax()) != right)
    assert result["test_error"] == np.mean(wrong)


def test_without_control_no_time_is_spent_on_it(data, tmp_path):
    assert train(replace(TINY, epochs=1), data, tmp_path)["control_seconds"] < 1e-3


def test_tensorboard(data, tmp_path):
    assert train(TINY, data, tmp_path, tensorboard=True, stop=every_so_many_steps(6)) is None
    assert train(TINY, data, tmp_path, tensorboard=True)["status"] == "done"
    written = b"".join(path.read_bytes() for path in sorted(tmp_path.glob("events*")))
    for name in (b"train_loss", b"test_error", b"rate"):
        assert written.count(name) == TINY.epochs


# ---- controls do what they say


@pytest.mark.parametrize(
    ("control", "most"),
    [
        (Control("clip", 0.5, every=1), 0.5 * 1.4),  # one clip goes beyond by so much; see SpectralClip
        (Control("project", 0.5, every=1), 0.5 * (1 + 1e-5)),
        (Control("rescale", 0.5, every=1), 0.5 * (1 + 1e-5)),
        (Control("operator_norm", 0.5), 0.5 * (1 + 1e-5)),
    ],
    ids=lambda value: value.method if isinstance(value, Control) else "",
)
def test_the_norms_are_what_the_limit_allows(control, most, data, tmp_path):
    free = train(replace(TINY, epochs=1), data, made(tmp_path / "free"))
    held = train(replace(TINY, epochs=1, control=control), data, made(tmp_path / "held"))
    assert free["largest_norm"] > 1.5
    assert 0.45 < held["largest_norm"] <= most


def test_the_reshaped_kernel_is_held(data, tmp_path):
    train(replace(TINY, control=Control("reshaped", 0.5, every=1)), data, tmp_path)
    model = state_in(tmp_path)["model"]
    kernels = [value for name, value in model.items() if value.ndim == 4]
    norms = [float(torch.linalg.matrix_norm(kernel.flatten(1), 2)) for kernel in kernels]
    assert len(norms) == 7
    assert 0.49 < max(norms) <= 0.5 * (1 + 1e-5)


def test_the_penalty_brings_singular_values_to_one(data, tmp_path):
    spreads = []
    for place, control in (("free", Control()), ("held", Control("orthogonality", weight=3.0))):
        train(replace(TINY, observe=True, control=control, augment=False), data, made(tmp_path / place))
        layers = metrics_of(tmp_path / place)[-1]["layers"]
        spreads.append(np.mean([abs(layer["largest"] ** 2 - 1) for layer in layers]))
    assert spreads[1] < 0.7 * spreads[0]


def test_parseval_keeps_rows_near_orthonormal_and_scales(data, tmp_path):
    settings = replace(TINY, rate=1e-3, control=Control("parseval", weight=0.5))
    train(settings, data, tmp_path)
    state = state_in(tmp_path)["model"]
    orthogonal = [value for name, value in state.items() if name.endswith("weight.original")]
    assert len(orthogonal) == 7
    for kernel in orthogonal:
        values = torch.linalg.svdvals(kernel.flatten(1))
        assert (values - 1).abs().max() < 0.02
    model = build(settings, data)
    control_layers(model, settings.control, (1, 8, 8))
    model.load_state_dict(state)
    for part, _ in convolutions(model, (1, 8, 8)).values():
        values = torch.linalg.svdvals(part.weight.flatten(1))
        assert (values * 7**0.5 - 1).abs().max() < 0.02


def test_max_gain_holds_the_largest_ratio_of_the_batch(data):
    model = build(replace(TINY, batch_norm=False), data)
    control = control_layers(model, Control("max_gain", 0.3), (1, 8, 8))
    with torch.no_grad():
        model.stem.bias.fill_(5.0)  # no part of the linear map
    images = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    model.train()
    model(images)
    control.step()
    with torch.no_grad():
        outputs = model.stem(images) - model.stem.bias[:, None, None]
    ratios = outputs.flatten(1).norm(dim=1) / images.flatten(1).norm(dim=1)
    assert float(ratios.max()) == pytest.approx(0.3, rel=1e-5)


def test_max_gain_is_not_lost_when_compiled(data, tmp_path):
    """As it was, after another run of the process: hooks are no part of what guards a compiled graph."""
    settings = replace(TINY, epochs=1, control=Control("max_gain", 0.5))
    for place in ("plain", "compiled"):
        train(settings, data, made(tmp_path / place), machine=loop.Machine(compiled=place == "compiled"))
    assert same_states(state_in(tmp_path / "plain"), state_in(tmp_path / "compiled"))
    assert not json.loads((tmp_path / "compiled" / "settings.json").read_text())["compiled"]


# ---- what is measured


def test_layers_are_observed_after_every_epoch(data, tmp_path):
    result = train(replace(TINY, observe=True), data, tmp_path)
    layers = [line["layers"] for line in metrics_of(tmp_path)]
    names = [layer["name"] for layer in result["layers"]]
    assert [[layer["name"] for layer in epoch] for epoch in layers] == [names] * 3
    assert [layer["largest"] for layer in layers[-1]] == [layer["norm"] for layer in result["layers"]]
    assert all(0 <= layer["smallest"] < layer["largest"] for epoch in layers for layer in epoch)
    assert all(layer["gradient_norm"] > 0 for epoch in layers for layer in epoch)
    assert layers[0] != layers[1]
    kernel = state_in(tmp_path)["model"]["stem.weight"].numpy().transpose(2, 3, 0, 1)
    values = np.linalg.svd(np.fft.fft2(kernel, (8, 8), axes=(0, 1)), compute_uv=False)
    assert layers[-1][0]["largest"] == pytest.approx(values.max(), rel=1e-5)
    assert layers[-1][0]["smallest"] == pytest.approx(values.min(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("control", [CONTROLS[0], CONTROLS[5], CONTROLS[7]], ids=label)
def test_the_gradient_is_that_of_the_weight_not_of_the_bias(control, data):
    model = build(replace(TINY, batch_norm=False), data)
    control_layers(model, control, (1, 8, 8))
    assert all(layer["gradient_norm"] is None for layer in layer_numbers(model, (1, 8, 8)))
    with torch.no_grad():
        model.head.weight.fill_(1.0)
    model(torch.ones(2, 1, 8, 8)).square().sum().backward()
    weights = {
        name.replace(".parametrizations.weight.original", "").removesuffix(".weight"): one.grad
        for name, one in model.named_parameters()
        if one.ndim == 4
    }
    found = {layer["name"]: layer["gradient_norm"] for layer in layer_numbers(model, (1, 8, 8))}
    assert found == {name: pytest.approx(float(grad.norm())) for name, grad in weights.items()}


@pytest.mark.parametrize(
    "control", [Control(), pytest.param(Control("operator_norm", 0.3), marks=pytest.mark.slow)], ids=label
)
def test_the_error_under_attack_lies_between_the_error_and_what_is_certified(control, data, tmp_path):
    radii = (0.0, 1e-4, 0.01, 0.1, 1.0)
    settings = replace(TINY, epochs=6, train_images=320, rate=0.05, attack_radii=radii, control=control)
    result = train(settings, data, tmp_path)
    assert result["attacked_images"] == 50
    assert [one["radius"] for one in result["attack"]] == list(radii)
    first = result["attack"][0]
    assert first["error"] == pytest.approx(result["test_error"])
    assert first["certified"] == pytest.approx(result["test_error"])
    for one in result["attack"]:
        assert result["test_error"] - 1e-9 <= one["error"] <= one["certified"] + 1e-9 <= 1 + 1e-9
    certified = [one["certified"] for one in result["attack"]]
    assert certified == sorted(certified)
    assert result["attack"][-1]["error"] > first["error"]
    assert 0 < result["lipschitz"] < math.inf
    if control.limit is not None:
        assert result["attack"][1]["certified"] < 1  # not nothing
