"""The command line: arguments and exit statuses, nothing else.

This file imports little: until it runs, an interruption is a traceback.
"""

from __future__ import annotations

from ..report import terminal
from .signals import INTERRUPTED, WHOLE, orderly_interruptions


def main() -> None:
    """Entry point of the `convspectra` command: the process is this command's, and so are its signals."""
    with orderly_interruptions():
        try:
            from .app import app

            app()
        except KeyboardInterrupt:  # before there was a command
            terminal.tell(f"convspectra: interrupted; {WHOLE}")
            raise SystemExit(INTERRUPTED) from None
        except OSError as error:
            # Of help on standard output: a command turns every other one into a line that says more.
            terminal.tell(f"convspectra: {error}")
            terminal.discard_output()
            raise SystemExit(1) from None
