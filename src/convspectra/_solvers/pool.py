"""Ranges of frequencies over an executor, in bounded memory, with one BLAS thread to each worker."""

from __future__ import annotations

import itertools
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

import threadpoolctl

Result = TypeVar("Result")

# Below this many seconds a range is not worth a task of its own.
_SMALLEST_TASK = 1e-3

_lock = threading.Lock()
_users = 0
_restore = ExitStack()
_libraries: tuple[int, threadpoolctl.ThreadpoolController] | None = None


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Cap BLAS at one thread for the whole process until the last concurrent user leaves.

    Counted, because the cap is global: two overlapping users that each saved and restored what
    they found would leave it behind.
    """
    global _users, _libraries
    with _lock:
        if _users == 0:
            # To look for libraries takes as long as many a layer, and they come with modules.
            if _libraries is None or _libraries[0] != len(sys.modules):
                _libraries = len(sys.modules), threadpoolctl.ThreadpoolController()
            _restore.enter_context(_libraries[1].limit(limits=1, user_api="blas"))
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _restore.close()


def available_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_default: tuple[int, ThreadPoolExecutor] | None = None


def default_executor() -> Executor:
    """The thread pool of this process, made at the first call: a thread for each core but the caller's.

    Kept, because starting threads takes longer than many a layer, and the native core keeps its
    workspace with its thread. A forked child makes another: its parent's threads are not there.
    """
    global _default
    with _lock:
        if _default is None or _default[0] != os.getpid():
            _default = (
                os.getpid(),
                ThreadPoolExecutor(max(1, available_cores() - 1), thread_name_prefix="convspectra"),
            )
        return _default[1]


def ranges(
    count: int, workers: int, bytes_each: int, seconds_each: float, memory: int, unit: int = 1
) -> list[tuple[int, int]]:
    """Split `range(count)` into (start, stop) pieces.

    At most `memory` bytes are in flight on `workers` workers (one item at the least), each has a
    few pieces to even out, no piece is too small to be worth its overhead, and if they can be
    pieces are multiples of `unit`.
    """
    fits = max(1, memory // (workers * bytes_each))
    pieces = min(4 * workers, int(count * seconds_each / _SMALLEST_TASK)) if workers > 1 else 1
    if pieces > 1:
        pieces = math.ceil(pieces / workers) * workers
    pieces = max(pieces, math.ceil(count / fits))
    edges = [count * i // pieces // unit * unit for i in range(pieces)] + [count]
    return [(start, stop) for start, stop in itertools.pairwise(edges) if start < stop]


def capped(task: Callable[[int, int], Result], start: int, stop: int) -> Result:
    """`task(start, stop)` with BLAS at one thread, in whatever thread or process runs it."""
    with single_threaded_blas():
        return task(start, stop)


_told_of_pieces: ContextVar[Callable[[float], None] | None] = ContextVar("told_of_pieces", default=None)


@contextmanager
def telling_of_pieces(tell: Callable[[float], None] | None) -> Iterator[None]:
    """In this thread `run` calls a function with the share of each piece that is done, from any thread."""
    token = _told_of_pieces.set(tell)
    try:
        yield
    finally:
        _told_of_pieces.reset(token)


def run(
    task: Callable[[int, int], Result],
    pieces: list[tuple[int, int]],
    executor: Executor | None,
    uses_blas: bool = True,
) -> list[Result]:
    """`[task(start, stop) for start, stop in pieces]`, in order, over the executor.

    Without one, over this process's thread pool. A failure cancels what has not started.
    """
    if len(pieces) == 1:
        return [task(*pieces[0])]
    tell = _told_of_pieces.get()
    with ExitStack() as stack:
        if uses_blas:
            stack.enter_context(single_threaded_blas())
            task = partial(capped, task)
        futures = [(executor or default_executor()).submit(task, *piece) for piece in pieces]
        if tell is not None:
            for future in futures:
                future.add_done_callback(lambda _: tell(1 / len(pieces)))
        try:
            if executor is None:
                # Not idle while the pool works: from the other end, take back what has not started.
                own = {i: task(*pieces[i]) for i in reversed(range(len(pieces))) if futures[i].cancel()}
                return [own[i] if i in own else future.result() for i, future in enumerate(futures)]
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            raise


def workers_of(executor: Executor | None) -> int:
    """How many tasks an executor runs at once, as far as it tells."""
    stated: Any = getattr(executor, "_max_workers", None)
    return stated if isinstance(stated, int) else available_cores()
