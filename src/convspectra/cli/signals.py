"""Interruptions: SIGTERM and SIGHUP are as SIGINT, and each ends a command once, in an orderly way."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

INTERRUPTED = 130
WHOLE = "every file is whole, or as it was"


class Interruption(KeyboardInterrupt):
    """A class of its own: where a KeyboardInterrupt passed through `exec`, Python ends without our status."""


@contextmanager
def orderly_interruptions() -> Iterator[None]:
    """Raise `Interruption` in the main thread at the first signal; when the block ends, ignore all."""
    # Windows has the first two of them, and no timer.
    ends = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # What is ignored already stays so: `nohup`, and the background of a shell.
    ours = [one for one in ends if signal.getsignal(one) is not signal.SIG_IGN]
    timer: Callable[[float], Any] | None = None
    if hasattr(signal, "setitimer"):
        ours.append(signal.SIGALRM)
        timer = partial(signal.setitimer, signal.ITIMER_REAL)
    began: list[float] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        """A signal that comes with the first is the same interruption, a later one ends at once."""
        if not began:
            began.append(time.monotonic())
            raise Interruption
        if time.monotonic() - began[0] > 1:
            os._exit(INTERRUPTED)

    def again(dropped: sys.UnraisableHookArgs) -> None:
        """Where Python dropped it, as in a destructor, it comes once more."""
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            sys.__unraisablehook__(dropped)
        elif began:
            began.clear()
            if timer is not None:
                timer(0.01)

    sys.unraisablehook = again
    for one in ours:
        signal.signal(one, interrupt)
    try:
        yield
    finally:
        for one in ours:  # what was to be done is done
            signal.signal(one, signal.SIG_IGN)
