"""Doing what an experiment plans, with any number of processes, on one machine or on many.

Every process walks the same list: it skips a run that is finished, or whose folder another process has
locked, and takes the next. When nothing is left but runs that others hold, it waits for them: should one of
them die, its lock is free and its run is taken up from its last checkpoint. So nothing is lost, nothing is
done twice, and no process need know of another; all they share is a folder.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from convspectra.errors import InputError

from ..data.datasets import Data, load
from ..training import folder as folders
from ..training.loop import Machine, Progress, train
from .catalogue import SWEEPS, Planned
from .optuna_study import Study

POLL_SECONDS, CONNECT_SECONDS = 1.0, 10.0
IDLE_SECONDS = 120.0
"""For so long a cluster may compute nothing at all while it has something to do."""
_TURN = threading.Lock()
"""The random state and the number of threads of PyTorch belong to the process."""


@dataclass(frozen=True)
class Job:
    """What a process needs to take part in an experiment; can be sent to another one.

    Attributes:
        name: of the experiment.
        runs: all of them; see `shard`.
        out: folder that all processes share.
        data: folder or archive of CIFAR-10, None for the digits.
        machine: where each process computes.
        threads: of each process; a worker of a cluster uses as many as it has.
        study: keep an Optuna study of a sweep.
        minutes: end after so many, keeping checkpoints; None for never.
    """

    name: str
    runs: tuple[Planned, ...]
    out: Path
    data: Path | None
    machine: Machine = Machine()  # noqa: RUF009  # frozen
    threads: int = 1
    tensorboard: bool = False
    study: bool = True
    minutes: float | None = None

    def shard(self, index: int, count: int) -> Job:
        """The part of the runs that is number `index` of `count`, without a study."""
        return replace(self, runs=self.runs[index::count], study=False)

    @property
    def is_finished(self) -> bool:
        return all(folders.is_finished(folders.run_folder(self.out, one.settings)) for one in self.runs)

    @property
    def share(self) -> float:
        """How much is done, by finished epochs."""
        done = 0
        for planned in self.runs:
            folder = folders.run_folder(self.out, planned.settings)
            all_of_it = folders.is_finished(folder)
            done += planned.settings.epochs if all_of_it else folders.finished_epochs(folder)
        return done / max(1, sum(planned.settings.epochs for planned in self.runs))


def work(job: Job, progress: Progress | None = None) -> None:
    """Take part until every run is finished, or the time is over.

    Threads of one process do this one after the other.

    Raises:
        InputError: as `train`.
    """
    end = None if job.minutes is None else time.monotonic() + 60 * job.minutes
    with _TURN:
        _work(job, progress, end)


def _work(job: Job, progress: Progress | None, end: float | None) -> None:
    torch.set_num_threads(job.threads)
    data = load(job.data, job.out / "cache")
    study = Study(job.out, job.name) if job.study and job.name in SWEEPS else None
    while not job.is_finished:
        busy = 0
        for number, planned in enumerate(job.runs):
            part = None if progress is None else _part(progress, number, len(job.runs))
            try:
                one(job, planned, data, study, part, lambda: end is not None and time.monotonic() > end)
            except folders.InUseError:
                busy += 1
            if end is not None and time.monotonic() > end:
                return
        if busy:
            time.sleep(POLL_SECONDS)
    if study is not None:
        study.catch_up(job.runs)


def one(
    job: Job,
    planned: Planned,
    data: Data,
    study: Study | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
    """One run, under its lock; its result, None where `stop` ended it.

    Raises:
        InUseError: another process has it.
        InputError: as `train`.
    """
    folder = folders.run_folder(job.out, planned.settings)
    found = folders.read_result(folder)
    if found is not None:
        return found
    with folders.locked(folder / "lock"):
        trial = None if study is None else study.begin(planned)
        result = train(
            planned.settings,
            data,
            folder,
            machine=job.machine,
            progress=progress,
            tensorboard=job.tensorboard,
            stop=stop,
        )
        if study is not None:
            study.end(trial, result)
        return result


def work_in_processes(job: Job, count: int, progress: Progress | None = None) -> None:
    """The same by several processes on this machine, which share its cores.

    Raises:
        InputError: one failed and the others could not finish without it; it has said why on standard error.
    """
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_process, args=(job,), daemon=True) for _ in range(count)]
    try:
        with _interrupts_left_to_this_process():
            for process in processes:
                process.start()
        while any(process.is_alive() for process in processes):
            _tell(job, progress)
            processes[0].join(POLL_SECONDS / 2)
            time.sleep(POLL_SECONDS / 2)
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
    failed = [process.exitcode for process in processes if process.exitcode]
    if failed and not job.is_finished:
        raise InputError(
            f"{len(failed)} of {count} processes ended early (status {failed[0]}); the same command resumes "
            "from what is there"
        )


def work_on_cluster(job: Job, scheduler: str, progress: Progress | None = None) -> None:
    """The same by all workers of a dask cluster, which must see the folders `out` and `data`.

    Raises:
        InputError: dask is not installed, no scheduler answers, it has no workers or goes away, or they
            cannot write where they should; or none of them begins.
    """
    with _client(scheduler) as client:
        workers = client.scheduler_info(n_workers=-1)["workers"]
        if not workers:
            raise InputError(f"the scheduler at {scheduler} has no workers; start `dask worker {scheduler}`")
        futures = [
            client.submit(
                work,
                replace(job, threads=about["nthreads"]),
                workers=[address],
                allow_other_workers=True,
                pure=False,
            )
            for address, about in workers.items()
        ]
        busy = time.monotonic()
        while not all(future.done() for future in futures):
            _tell(job, progress)
            time.sleep(POLL_SECONDS)
            if any(client.processing().values()):
                busy = time.monotonic()
            elif time.monotonic() - busy > IDLE_SECONDS:
                raise InputError(
                    f"no worker of the scheduler at {scheduler} computed anything for {IDLE_SECONDS:g} s; "
                    "see what became of them, and give the same command again"
                )
        problems = [future.exception() for future in futures if future.status == "error"]
        lost = any(future.cancelled() for future in futures)
    if problems and not job.is_finished:
        raise InputError(f"a worker failed: {problems[0]}") from problems[0]
    if lost and not job.is_finished:
        raise InputError(f"the scheduler at {scheduler} is gone; the same command resumes from what is there")
    if job.minutes is None and not job.is_finished:
        raise InputError(f"the workers wrote to another {job.out} than this one; give a folder they share")


def _client(scheduler: str) -> Any:
    try:
        import distributed
    except ImportError:
        raise InputError(
            "dask is needed for --scheduler: pip install 'convspectra-experiments[cluster]'"
        ) from None
    client: Any = distributed.Client.__new__(distributed.Client)
    try:
        _ask(scheduler)
        client.__init__(scheduler, timeout=CONNECT_SECONDS)
    except (OSError, TimeoutError, ValueError) as error:
        # One that is half made would be closed by the collector, maybe while the next one is made, and wait
        # for a lock that its own thread holds.
        if hasattr(client, "status"):
            client.close(timeout=CONNECT_SECONDS)
        raise InputError(f"no scheduler answers at {scheduler}: {error}") from None
    return client


def _ask(scheduler: str) -> None:
    """Raise an error if no scheduler is at an address; a client would wait for ever for what only listens."""
    address = urlsplit(scheduler if "://" in scheduler else f"tcp://{scheduler}")
    if address.scheme not in ("tcp", "tls", "ws", "wss"):
        return
    if not address.hostname or address.port is None:
        raise ValueError("an address is tcp://HOST:PORT")
    with socket.create_connection((address.hostname, address.port), CONNECT_SECONDS) as connection:
        if address.scheme == "tcp" and not connection.recv(1):  # dask is the first to speak
            raise ValueError("what listens there is no dask scheduler")


@contextmanager
def _interrupts_left_to_this_process() -> Iterator[None]:
    """Processes started here do not hear Ctrl-C, which is for all of a terminal's; this one ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _process(job: Job) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        work(job)
    except InputError as error:
        print(f"convspectra: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _end_with_parent() -> None:
    """End this process at once when the one that started it is gone: nobody would know of it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _tell(job: Job, progress: Progress | None) -> None:
    if progress is not None:
        progress(job.share, job.name)


def _part(progress: Progress, number: int, count: int) -> Progress:
    return lambda share, words: progress((number + share) / count, words)
