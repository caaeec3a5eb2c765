"""One folder and many processes, killed and resumed: every run is done once, and the study records it."""

from __future__ import annotations

import gc
import json
import socket
import threading
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import experiment_processes as processes
import optuna
import pytest
import torch

from convspectra.errors import InputError
from convspectra_experiments.data.datasets import digits
from convspectra_experiments.studies import running
from convspectra_experiments.studies.catalogue import Planned
from convspectra_experiments.studies.optuna_study import Study
from convspectra_experiments.studies.running import Job, one, work, work_in_processes, work_on_cluster
from convspectra_experiments.training import folder as folders
from convspectra_experiments.training.loop import train
from convspectra_experiments.training.settings import Control, Settings

TINY = Settings(
    data="digits",
    depth=8,
    width=2,
    epochs=2,
    batch=16,
    epochs_per_decay=1,
    train_images=72,
    test_images=50,
)
CLIPPED = Control("clip", 1.0, every=3)


def planned(**changes):
    settings = replace(TINY, **changes)
    return Planned(settings.control.label(), settings)


RUNS = (planned(), planned(batch=32), planned(control=CLIPPED), planned(control=CLIPPED, seed=1))
LONG = planned(epochs=40, control=CLIPPED)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def short_polls(monkeypatch):
    monkeypatch.setattr(running, "POLL_SECONDS", 0.1)


@pytest.fixture
def job(tmp_path):
    return Job("figure3a", RUNS, tmp_path / "out", None)


def place(job, run):
    return folders.run_folder(job.out, run.settings)


def checkpoints(job):
    return list(job.out.glob("runs/*/checkpoint.pt"))


def results(job):
    return {path: path.stat().st_mtime_ns for path in job.out.glob("runs/*/result.json")}


def epochs_in(folder):
    return [line["epoch"] for line in folders.read_metrics(folder)]


def trials(job, state):
    """Of the study, as any other program sees it, by their run."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(job.out / f"{job.name}.journal")))
    study = optuna.load_study(study_name=job.name, storage=storage)
    found = [trial for trial in study.get_trials() if trial.state.name == state]
    return Counter(trial.user_attrs["run"] for trial in found), found


def check_finished(job, failed=()):
    """Every run finished, with its epochs once; complete once in the study, with its own numbers."""
    assert job.is_finished
    assert job.share == 1
    settings = {run.settings.name(): run.settings for run in job.runs}
    for run in job.runs:
        assert epochs_in(place(job, run)) == list(range(1, run.settings.epochs + 1))
    counts, complete = trials(job, "COMPLETE")
    assert counts == dict.fromkeys(settings, 1)
    assert trials(job, "FAIL")[0] == Counter(run.settings.name() for run in failed)
    assert not trials(job, "RUNNING")[1]
    assert not trials(job, "WAITING")[1]
    for trial in complete:
        its = settings[trial.user_attrs["run"]]
        result = folders.read_result(folders.run_folder(job.out, its))
        assert trial.value == result["test_error"]
        limit = {} if its.control.limit is None else {"limit": its.control.limit}
        assert trial.params == {
            "clipped": bool(limit),
            **limit,
            "rate": its.rate,
            "batch": its.batch,
            "epochs_per_decay": 1,
            "seed": its.seed,
        }


# ---- two processes


def test_two_processes_share_the_runs(job):
    job = replace(job, runs=tuple(planned(epochs=6, seed=seed) for seed in range(4)))
    both = [processes.start(processes.work, job) for _ in range(2)]
    processes.wait_for(lambda: len(checkpoints(job)) - len(results(job)) == 2)
    assert 0 <= job.share < 1
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0]
    check_finished(job)


def test_a_killed_process_has_its_run_taken_up_by_the_other(job, tmp_path):
    job = replace(job, runs=(LONG, *RUNS))
    dying = processes.start(processes.work, job)
    processes.wait_for(lambda: len(epochs_in(place(job, LONG))) >= 2)
    living = processes.start(processes.work, job)
    processes.wait_for(lambda: results(job))
    assert processes.kill(dying)
    assert not folders.is_finished(place(job, LONG))
    before = epochs_in(place(job, LONG))
    living.join(120)
    assert living.exitcode == 0
    check_finished(job, failed=[LONG])
    assert len(before) >= 2
    unbroken = tmp_path / "unbroken"
    unbroken.mkdir()
    torch.set_num_threads(1)
    train(LONG.settings, digits(), unbroken)
    ours, theirs = (
        torch.load(folder / "checkpoint.pt", weights_only=True)["model"]
        for folder in (place(job, LONG), unbroken)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_all_killed_and_started_again(job):
    job = replace(job, runs=(*RUNS[:2], LONG, *RUNS[2:]))
    both = [processes.start(processes.work, job) for _ in range(2)]
    processes.wait_for(lambda: len(results(job)) >= 1 and (place(job, LONG) / "checkpoint.pt").exists())
    for process in both:
        processes.kill(process)
    before = results(job)
    assert 1 <= len(before) < len(job.runs)
    shares = []
    work(job, lambda share, words: shares.append(share))
    assert before.items() <= results(job).items()
    stopped = [run for run in job.runs if trials(job, "FAIL")[0][run.settings.name()]]
    assert LONG in stopped
    check_finished(job, failed=stopped)
    assert shares
    again = results(job)
    work(job)
    assert results(job) == again
    check_finished(job, failed=stopped)


# ---- the study


def test_runs_that_the_study_was_not_told_of(job):
    """As of processes killed at the worst moments."""
    finished, untold, never_run, enqueued = RUNS
    one(job, finished, digits())  # before the study: it was made by a shard
    study = Study(make(job.out), job.name)
    study.begin(untold)
    one(job, untold, digits())
    study.begin(never_run)
    study.study.enqueue_trial({"rate": 7.0}, user_attrs={"run": enqueued.settings.name()})
    before = results(job)
    assert len(before) == 2
    work(job)
    assert before.items() <= results(job).items()
    check_finished(job, failed=[untold, never_run, enqueued])
    work(job)
    check_finished(job, failed=[untold, never_run, enqueued])


def make(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_a_run_is_told_of_once_whoever_tells(job):
    work(replace(job, runs=RUNS[:1]))
    study = Study(job.out, job.name)
    assert study.begin(RUNS[0]) is None
    study.end(None, {"test_error": 0.0})
    study.catch_up(RUNS)
    check_finished(replace(job, runs=RUNS[:1]))


def test_a_process_killed_while_it_wrote_to_the_journal_keeps_nobody_waiting(job, monkeypatch):
    from optuna.storages.journal import _file

    def wait(seconds):
        raise AssertionError("Optuna waits for its lock")

    monkeypatch.setattr(_file, "time", SimpleNamespace(sleep=wait, monotonic=time.monotonic))
    make(job.out)
    (job.out / "figure3a.journal.lock").touch()  # as Optuna does
    work(job)
    check_finished(job)


def test_a_lost_journal_is_made_again_and_a_broken_one_refused(job):
    work(job)
    journal = job.out / "figure3a.journal"
    journal.unlink()
    work(job)
    check_finished(job)
    for text in (b"garbage\n", b"[1]\n", b'{"op_code":0}\n', b"\xff\n", journal.read_bytes()[:-9]):
        journal.write_bytes(text)
        with pytest.raises(InputError, match=r"figure3a\.journal cannot be used: .*delete it"):
            work(job)


def test_experiments_that_are_no_sweeps_keep_no_study(job):
    work(replace(job, name="figure2", runs=RUNS[:1]))
    assert [path.name for path in job.out.iterdir()] == ["runs"]


# ---- parts and stops


def test_parts_are_disjoint_and_together_all(job):
    parts = [job.shard(index, 3) for index in range(3)]
    assert sorted(run.settings.name() for part in parts for run in part.runs) == sorted(
        run.settings.name() for run in job.runs
    )
    assert [len(part.runs) for part in parts] == [2, 1, 1]
    for part in parts:
        assert not part.is_finished
        assert part.share == 0
        work(part)
        assert part.is_finished
    assert job.is_finished
    assert [path.name for path in job.out.iterdir()] == ["runs"]
    work(job)  # now the study
    check_finished(job)


def test_a_part_of_nothing_is_done(job):
    part = job.shard(5, 9)
    assert part.is_finished
    assert 0 <= part.share <= 1
    work(part)


def test_no_time_at_all_keeps_checkpoints_and_is_gone_on_with(job):
    calls = []
    for _ in range(3):
        work(replace(job, minutes=0), lambda share, words: calls.append(share))
        assert not job.is_finished
    assert len(calls) == 3  # steps
    [path] = checkpoints(job)
    assert torch.load(path, weights_only=True)["step"] == 3
    work(job)
    check_finished(job, failed=[RUNS[0]] * 3)


def test_a_run_in_use_is_left_alone(job):
    held, release, holding = [], threading.Event(), threading.Event()

    def hold():
        holding.set()
        release.wait(120)
        return False

    thread = threading.Thread(target=lambda: held.append(one(job, RUNS[0], digits(), stop=hold)))
    thread.start()
    assert holding.wait(120)
    before = {path: path.read_bytes() for path in place(job, RUNS[0]).iterdir()}
    with pytest.raises(folders.InUseError, match="in use by another process"):
        one(job, RUNS[0], digits())
    assert before == {path: path.read_bytes() for path in place(job, RUNS[0]).iterdir()}
    assert one(job, RUNS[1], digits())["status"] == "done"
    release.set()
    thread.join(120)
    assert held[0]["status"] == "done"
    assert one(job, RUNS[0], digits()) == held[0]


def test_two_processes_want_one_run(job):
    process = processes.start(processes.work, replace(job, runs=(LONG,)))
    processes.wait_for(lambda: epochs_in(place(job, LONG)))
    with pytest.raises(folders.InUseError):
        one(job, LONG, digits())
    assert processes.kill(process)
    # The lock died with it.
    processes.wait_for(lambda: one(job, LONG, digits(), stop=lambda: True) is None)


def test_threads_of_one_process_take_turns(job):
    """The start of a network is drawn from PyTorch's own random state, which they share."""
    both = [threading.Thread(target=work, args=(job,)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(120)
    check_finished(job)


def test_folders_that_cannot_be_made_are_refused(job, tmp_path):
    (tmp_path / "out").write_text("")
    for name in ("figure2", "figure3a"):
        with pytest.raises(InputError, match="out"):
            work(replace(job, name=name))


# ---- processes that it starts itself


@pytest.fixture
def quick_start(monkeypatch):
    monkeypatch.setattr(running.multiprocessing, "get_context", lambda method: processes.SERVER)


def test_processes_of_its_own(job, quick_start):
    shares = []
    work_in_processes(job, 2, lambda share, words: shares.append(share))
    check_finished(job)
    assert shares == sorted(shares)


def spoilt(job):
    """A checkpoint that no process can read."""
    make(place(job, RUNS[0]))
    (place(job, RUNS[0]) / "checkpoint.pt").write_bytes(b"spoilt")
    return job


def test_processes_that_fail_are_told_of(job, quick_start):
    with pytest.raises(InputError, match="of 2 processes ended early"):
        work_in_processes(spoilt(job), 2)


def test_processes_out_of_time(job, quick_start):
    work_in_processes(replace(job, minutes=0), 2)
    assert not job.is_finished
    assert checkpoints(job)


def test_processes_end_with_the_one_that_started_them(job):
    long = replace(job, runs=tuple(planned(epochs=100_000, seed=seed) for seed in range(2)))
    parent = processes.start(processes.work_in_processes, long, daemon=False)
    processes.wait_for(lambda: all(epochs_in(place(job, run)) for run in long.runs))
    assert processes.kill(parent)
    for run in long.runs:
        processes.wait_for(lambda: is_free(job, run))  # noqa: B023


def is_free(job, run):
    try:
        with folders.locked(place(job, run) / "lock"):
            return True
    except folders.InUseError:
        return False


# ---- a cluster


@pytest.fixture(scope="module")
def cluster():
    import distributed

    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as found:
        yield found.scheduler_address


@pytest.mark.slow
def test_a_cluster(job, cluster):
    shares = []
    work_on_cluster(job, cluster, lambda share, words: shares.append(share))
    check_finished(job)
    assert shares == sorted(shares)
    assert {json.loads(path.read_text())["threads"] for path in job.out.glob("runs/*/settings.json")} == {1}


@pytest.mark.slow
def test_a_cluster_out_of_time(job, cluster):
    work_on_cluster(replace(job, minutes=0), cluster)
    assert not job.is_finished
    assert checkpoints(job)


@pytest.mark.slow
def test_a_failing_worker_is_told_of(job, cluster):
    with pytest.raises(InputError, match=r"a worker failed: .*checkpoint\.pt cannot be read"):
        work_on_cluster(spoilt(job), cluster)


@pytest.mark.slow
def test_workers_that_write_elsewhere_are_told_of(job, cluster, monkeypatch):
    """As on machines that do not share the folder."""
    monkeypatch.setattr(running, "work", partial(_elsewhere, job.out.with_name("elsewhere")))
    with pytest.raises(InputError, match="give a folder they share"):
        work_on_cluster(replace(job, runs=RUNS[:1]), cluster)


def _elsewhere(out, job):
    work(replace(job, out=out))


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense", "", "tcp://127.0.0.1:none"])
def test_no_scheduler(address, job, monkeypatch):
    monkeypatch.setattr(running, "CONNECT_SECONDS", 0.5)
    with pytest.raises(InputError, match="no scheduler answers at"):
        work_on_cluster(job, address)
    gc.collect()


@pytest.mark.slow
def test_what_is_no_scheduler(job, cluster, monkeypatch):
    """It listens and never answers; nothing of it is left that could disturb the next client."""
    monkeypatch.setattr(running, "CONNECT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        for _ in range(3):
            with pytest.raises(InputError, match="no scheduler answers at"):
                work_on_cluster(job, f"tcp://127.0.0.1:{server.getsockname()[1]}")
            gc.collect()
    monkeypatch.setattr(running, "CONNECT_SECONDS", 60.0)
    work_on_cluster(replace(job, minutes=0), cluster)


def test_a_cluster_whose_workers_went_away(job, monkeypatch):
    import distributed

    submit = distributed.Client.submit
    options = {"n_workers": 1, "processes": False, "dashboard_address": ":0"}
    with distributed.LocalCluster(**options) as found:

        def too_late(client, *arguments, **options):
            found.scale(0)
            processes.wait_for(lambda: not client.scheduler_info()["workers"])
            return submit(client, *arguments, **options)

        monkeypatch.setattr(distributed.Client, "submit", too_late)
        monkeypatch.setattr(running, "IDLE_SECONDS", 0.5)
        with pytest.raises(InputError, match=r"no worker .* computed anything for 0\.5 s"):
            work_on_cluster(job, found.scheduler_address)


def test_a_scheduler_without_workers(job):
    import distributed

    options = {"n_workers": 0, "processes": False, "dashboard_address": ":0"}
    with (
        distributed.LocalCluster(**options) as found,
        pytest.raises(InputError, match="has no workers"),
    ):
        work_on_cluster(job, found.scheduler_address)
