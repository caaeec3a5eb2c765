"""What the tests of the experiments do in other processes, which are real ones and can be killed.

They are forked off a server that has imported what they need, so that each starts in a moment.
"""

from __future__ import annotations

import multiprocessing
import resource
import signal
import time
from functools import partial

import torch

from convspectra.errors import InputError
from convspectra_experiments.data.datasets import digits
from convspectra_experiments.studies import running
from convspectra_experiments.training.loop import train

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["pytest", "sklearn.datasets", "optuna", "convspectra_experiments.studies.running"]
)


def start(call, *arguments, daemon=True):
    """A process that does it; its exit status is 0 when done, 2 after an InputError."""
    process = SERVER.Process(target=_done, args=(call, *arguments), daemon=daemon)
    process.start()
    return process


def _done(call, *arguments):
    torch.set_num_threads(1)
    try:
        call(*arguments)
    except InputError:
        raise SystemExit(2) from None


def kill(process):
    """With SIGKILL, unless it has ended; whether it was killed."""
    process.kill()
    process.join(120)
    return process.exitcode == -signal.SIGKILL


def wait_for(condition, seconds=240.0):
    """Poll; fails after so long."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def one_run(settings, folder):
    """Train with a checkpoint after every step."""
    train(settings, digits(), folder, checkpoint_seconds=0)


def one_run_on_a_full_disk(settings, folder, size, reason):
    """Likewise, where no file can be larger than so many bytes; into `reason` what the error says."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    try:
        one_run(settings, folder)
    except InputError as error:
        reason.write_text(str(error))


def work_in_processes(job):
    """By two more processes, started as ever."""
    running.work_in_processes(job, 2)


def work(job):
    """Take part in a job, with a checkpoint after every step."""
    running.train = partial(train, checkpoint_seconds=0)
    running.work(job)
