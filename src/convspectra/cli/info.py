"""`convspectra info`."""

from __future__ import annotations

from ..report import terminal


def info() -> None:
    """Say which solver is in use and why, with how many threads, and what is installed."""
    from ..report.environment import describe

    terminal.write("".join(f"{line}\n" for line in describe()))
