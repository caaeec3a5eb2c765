"""`convspectra experiment`: everything at its smallest, mistakes, and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter

import experiment_processes as processes
import pytest
import torch
from typer.testing import CliRunner

from convspectra.cli.app import app
from convspectra_experiments.studies import command, running
from convspectra_experiments.studies.catalogue import EXPERIMENTS, SWEEPS, TRAINED
from convspectra_experiments.training.settings import Settings

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def one_core(monkeypatch):
    """The machine may have others to serve."""
    monkeypatch.setattr(command, "available_cores", lambda: 1)


def experiment(*arguments):
    """In this process, which has PyTorch imported."""
    return CliRunner().invoke(app, ["experiment", *map(str, arguments)])


def refused(result, *words):
    """One clear line on standard error and nothing else."""
    assert result.exit_code == 2, (result.stderr, result.exception)
    assert isinstance(result.exception, SystemExit)
    [line] = result.stderr.splitlines()
    assert line.startswith("convspectra: ")
    for word in words:
        assert word in line
    assert not result.stdout


def plan(out, name):
    return json.loads((out / f"{name}.json").read_text())


def results(out):
    return {path: path.stat().st_mtime_ns for path in out.glob("runs/*/result.json")}


# ---- all of it


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """Every experiment in one folder; what each command came to, and which results were there after it."""
    out, found = tmp_path_factory.mktemp("experiments"), {}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(command, "available_cores", lambda: 1)
        before = torch.get_num_threads()
        for name in sorted(EXPERIMENTS):
            found[name] = experiment(name, "--preset", "smoke", "--out", out), results(out)
        torch.set_num_threads(before)
    return out, found


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_smoke_preset_runs_through(name, everything):
    out, found = everything
    result, _ = found[name]
    assert result.exit_code == 0, (result.stderr, result.exception)
    assert result.stderr.splitlines()[-1].startswith("done; for a page of it: convspectra experiment report")
    kept = plan(out, name)
    assert (kept["experiment"], kept["preset"]) == (name, "smoke")
    assert ("runs" in kept) == (name in TRAINED)
    for run in kept.get("runs", ()):
        assert json.loads((out / run["folder"] / "result.json").read_text())["status"] == "done"
        kept_settings = json.loads((out / run["folder"] / "settings.json").read_text())
        assert Settings.from_dict(kept_settings["settings"]).name() == run["folder"].removeprefix("runs/")
    assert (out / f"{name}.journal").exists() == (name in SWEEPS)


@pytest.mark.slow
def test_figure_4_finds_the_runs_of_figure_2(everything):
    out, found = everything
    assert {run["folder"] for run in plan(out, "figure2")["runs"]} == {
        run["folder"] for run in plan(out, "figure4")["runs"]
    }
    _, before = found["figure3b"]
    _, after = found["figure4"]
    assert before == after


@pytest.mark.slow
def test_the_report_of_it(everything):
    out, _ = everything
    result = experiment("report", "--out", out)
    assert result.exit_code == 0, (result.stderr, result.exception)
    written = [line.removeprefix("wrote ") for line in result.stderr.splitlines()]
    assert str(out / "report.html") in written
    for name in EXPERIMENTS:
        assert (out / "figures" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    assert (out / "report.html").stat().st_size > 100_000
    summary = json.loads((out / "summary.json").read_text(), parse_constant=pytest.fail)
    assert {one["name"] for one in summary["experiments"]} == set(EXPERIMENTS)
    assert all(one["complete"] for one in summary["experiments"])
    assert summary["not_run"] == []


# ---- what is asked for


def test_options_change_the_runs(tmp_path):
    options = ["--no-batch-norm", "--width", 2, "--epochs", 3, "--depth", 14, "--seeds", 2]
    result = experiment("figure2", *options, "--minutes", 0, "--out", tmp_path)
    assert result.exit_code == 0
    assert result.stderr.startswith("not finished: the same command resumes; ")
    runs = plan(tmp_path, "figure2")["runs"]
    assert Counter(run["group"] for run in runs) == {
        "no clipping": 2,
        "clip 0.5 every 5": 2,
        "clip 1 every 5": 2,
    }
    assert [run["seed"] for run in runs] == [0, 0, 0, 1, 1, 1]
    assert len({run["folder"] for run in runs}) == 6
    [begun] = tmp_path.glob("runs/*/settings.json")
    kept = Settings.from_dict(json.loads(begun.read_text())["settings"])
    assert (kept.batch_norm, kept.width, kept.epochs, kept.depth) == (False, 2, 3, 14)
    assert (kept.data, kept.precision) == ("digits", "float32")


def test_parts_and_what_each_says(tmp_path):
    options = ["figure3a", "--width", 2, "--epochs", 1, "--out", tmp_path]
    first = experiment(*options, "--shard", "1/2")
    assert first.exit_code == 0
    assert first.stderr.startswith("done; ")
    before = results(tmp_path)
    assert len(before) == 2
    assert not (tmp_path / "figure3a.journal").exists()
    assert experiment(*options, "--shard", "2/2").exit_code == 0
    assert len(results(tmp_path)) == len(plan(tmp_path, "figure3a")["runs"]) == 4
    assert before.items() <= results(tmp_path).items()
    refused(experiment("report", "--out", tmp_path / "runs"), "holds no experiment")


def test_tensorboard_is_asked_for(tmp_path):
    assert experiment("figure2", "--tensorboard", "--minutes", 0, "--out", tmp_path).exit_code == 0
    assert list(tmp_path.glob("runs/*/events.out.tfevents.*"))


# ---- mistakes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["figure8"], ["NAME", "figure3a", "figure8"]),
        (["figure2", "--shard", "3/2"], ["--shard", "3/2"]),
        (["figure2", "--shard", "0/2"], ["--shard", "0/2"]),
        (["figure2", "--shard", "x"], ["--shard", "'x'"]),
        (["figure2", "--device", "nonsense"], ["--device nonsense"]),
        (["figure2", "--device", "meta"], ["--device meta"]),
        (["figure2", "--device", "cuda:99"], ["--device cuda:99"]),
        (["figure2", "--data", "nowhere"], ["nowhere"]),
        (["figure2", "--depth", "9"], ["depth", "9"]),
        (["figure3a", "--depth", "-4"], ["depth", "-4"]),
        (["figure3b", "--no-batch-norm"], ["figure3b", "figure3a"]),
        (["figure5", "--model", "nowhere.onnx"], ["nowhere.onnx"]),
        (["figure5", "--input-shape", "3"], ["--input-shape"]),
        (["boundary", "--model", "nowhere.onnx"], ["nowhere.onnx"]),
        (["report"], ["holds no experiment", "convspectra experiment figure2"]),
    ],
)
def test_mistakes_are_one_line(arguments, words, tmp_path):
    refused(experiment(*arguments, "--out", tmp_path), *words)
    assert not list(tmp_path.glob("*.json")) or "--data" in arguments
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--preset", "huge"],
        ["--epochs", 0],
        ["--width", 0],
        ["--seeds", 0],
        ["--workers", 0],
        ["--minutes", -1],
    ],
)
def test_mistakes_that_the_parser_finds(arguments, tmp_path):
    result = experiment("figure2", *arguments, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert arguments[0] in result.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["figure1", "figure2", "figure5", "boundary", "report"])
def test_a_file_in_place_of_the_folder(name, tmp_path):
    (tmp_path / "out").write_text("")
    refused(experiment(name, "--out", tmp_path / "out"), str(tmp_path / "out"))


def test_a_scheduler_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "CONNECT_SECONDS", 0.5)
    refused(experiment("figure2", "--scheduler", "tcp://127.0.0.1:9", "--out", tmp_path), "no scheduler")


def test_a_run_of_another_device(tmp_path):
    options = ["figure2", "--width", 2, "--minutes", 0, "--out", tmp_path]
    assert experiment(*options).exit_code == 0
    [path] = tmp_path.glob("runs/*/checkpoint.pt")
    torch.save(torch.load(path, weights_only=True) | {"device": "cuda:0"}, path)
    refused(experiment(*options), str(path), "--device cuda:0")


# ---- Ctrl-C


def start(*arguments, cores):
    """As in a terminal, whose Ctrl-C all processes hear; on so many cores."""
    allowed = os.sched_getaffinity(0)
    # Inherited: a function that runs after the fork is not for processes with threads, such as JAX's.
    os.sched_setaffinity(0, sorted(allowed)[:cores])
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "convspectra", "experiment", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    finally:
        os.sched_setaffinity(0, allowed)


def interrupt(process, when):
    """When it has come so far; it says one line, and no process is left that would say more."""
    processes.wait_for(lambda: when() or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=240)
    assert said == ("", "convspectra: interrupted; the same command resumes from the last checkpoint\n")
    assert process.returncode == 130


def begun(out):
    return list(out.glob("runs/*/metrics.jsonl"))


@pytest.mark.slow
def test_interrupted_and_gone_on_with(tmp_path):
    options = ["figure2", "--width", 2, "--epochs", 4, "--out", tmp_path]
    interrupt(start(*options, cores=1), lambda: results(tmp_path) and len(begun(tmp_path)) >= 2)
    before = results(tmp_path)
    assert 1 <= len(before) < 3
    assert plan(tmp_path, "figure2")["command"].startswith(
        "convspectra experiment figure2 --width 2 --epochs"
    )
    result = experiment(*options)
    assert result.exit_code == 0
    assert result.stderr.startswith("done; ")
    assert len(results(tmp_path)) == 3
    assert before.items() <= results(tmp_path).items()


@pytest.mark.slow
def test_workers_interrupted_and_gone_on_with(tmp_path, monkeypatch):
    options = ["figure3a", "--width", 2, "--epochs", 4, "--workers", 2, "--out", tmp_path]
    interrupt(start(*options, cores=2), lambda: len(begun(tmp_path)) > len(results(tmp_path)))
    before = results(tmp_path)
    assert len(before) < 4
    monkeypatch.setattr(running.multiprocessing, "get_context", lambda method: processes.SERVER)
    result = experiment(*options)
    assert result.exit_code == 0
    assert result.stderr.startswith("done; ")
    assert len(results(tmp_path)) == 4
    assert before.items() <= results(tmp_path).items()
    for path in begun(tmp_path):
        assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == list(range(1, 5))
