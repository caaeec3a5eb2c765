"""The command line: arguments and exit statuses, nothing else.

This file imports as little as it can: until `main` runs, an interruption is a traceback.
"""

from __future__ import annotations

import os
import signal


def main() -> None:
    """Entry point of the `convspectra` command: the process is this command's, and so are its signals."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        # While libraries are imported nothing is there yet that could be left half done.
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))
    from ..report import terminal
    from .app import app
    from .signals import INTERRUPTED, WHOLE, orderly_interruptions

    with orderly_interruptions():
        try:
            app()
        except KeyboardInterrupt:  # before there was a command
            terminal.tell(f"convspectra: interrupted; {WHOLE}")
            raise SystemExit(INTERRUPTED) from None
        except OSError as error:
            # Of help on standard output: a command turns every other one into a line that says more.
            terminal.tell(f"convspectra: {error}")
            terminal.discard_output()
            raise SystemExit(1) from None
