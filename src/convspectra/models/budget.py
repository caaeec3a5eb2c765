"""What reading one file may cost, counted before the work is done and before memory is taken."""

from __future__ import annotations

from dataclasses import InitVar, dataclass
from pathlib import Path

from ..errors import ModelError

EVALUATIONS = 200_000
"""Steps of one file that are evaluated. The largest exported networks have tens of thousands of nodes."""

BYTES = 2**28
"""Memory for what is computed from a small file. A large file may take a multiple of its own size."""

DEPTH = 32
"""Levels of nested parts: branches and loops inside each other, tables inside tables."""

_TIMES_THE_FILE = 8


class BudgetError(ModelError):
    """A file that would cost more than its budget: work, memory or depth."""


@dataclass
class Budget:
    """What is left for one file.

    Arguments:
        path: the file, named in errors.
        stored: bytes that lie in the file: memory grows with them.

    Raises:
        BudgetError: from each method, before anything is done.
    """

    path: Path
    stored: InitVar[int] = 0
    evaluations: int = EVALUATIONS
    bytes: int = BYTES

    def __post_init__(self, stored: int) -> None:
        self.store(stored)

    def store(self, size: int) -> None:
        """Count bytes of one more file that belongs to this one."""
        self.bytes += _TIMES_THE_FILE * size

    def evaluate(self, what: str, count: int = 1) -> None:
        """Count steps of work."""
        if count > self.evaluations:
            raise BudgetError(f"{self.path}: {what} goes beyond {EVALUATIONS} evaluations for one file")
        self.evaluations -= count

    def take(self, size: int, what: str) -> None:
        """Count bytes of memory."""
        if size > self.bytes:
            raise BudgetError(
                f"{self.path}: {what} would take {size:,} bytes of memory; this file has {self.bytes:,} left"
            )
        self.bytes -= size

    def descend(self, depth: int, what: str, most: int = DEPTH) -> None:
        """Check a level of nesting."""
        if depth > most:
            raise BudgetError(f"{self.path}: {what} is nested more than {most} levels deep")
