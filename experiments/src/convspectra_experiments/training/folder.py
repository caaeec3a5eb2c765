"""The folder of one run, and who may write to it.

    OUT/runs/<settings.name()>/
        settings.json     {"settings": ..., "versions": ..., "machine": ..., "threads": ...}
        metrics.jsonl     one line for each finished epoch
        checkpoint.pt     everything that the run needs to go on; replaced whole
        result.json       the last line of metrics and what only the end knows; its presence says "finished"
        lock              held by the process that trains here

A lock is the operating system's: a process that dies, however it dies, holds it no longer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from convspectra.atomic import atomic
from convspectra.errors import InputError

from .settings import Settings


class InUseError(InputError):
    """Another process trains in this folder."""


def run_folder(out: Path, settings: Settings) -> Path:
    """Where a run of these settings is kept."""
    return out / "runs" / settings.name()


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path`, whose folder is made.

    Arguments:
        wait: for whoever holds it.

    Raises:
        InUseError: somebody holds it, and `wait` was not asked for.
        InputError: the folder cannot be made or written to.
    """
    from filelock import FileLock, Timeout

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise InUseError(
            f"{path.parent} is in use by another process; wait for it, or give another --out"
        ) from None
    except OSError as error:
        raise InputError(f"{path.parent} cannot be written: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()


def write_json(path: Path, value: Any) -> None:
    """Write a file that is there whole or not at all."""
    with atomic(path) as file:
        file.write((json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Traversable) -> Any:
    """The value in a file, None where there is no such file.

    Raises:
        InputError: it is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}; delete it to run this again") from None


def read_metrics(folder: Traversable) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`; a line that a dying process left unfinished is not one."""
    try:
        text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    whole = text[: text.rfind("\n") + 1]
    return [json.loads(line) for line in whole.splitlines()]


def append_line(path: Path, line: dict[str, Any]) -> None:
    """Add a line of JSON.

    Raises:
        InputError: the disk refuses.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None


def keep_lines(folder: Path, epochs: int) -> None:
    """Drop the metrics of later epochs, and what is left of a torn line.

    Raises:
        InputError: the earlier ones are not all there; the disk refuses.
    """
    path = folder / "metrics.jsonl"
    try:
        kept = [line for line in read_metrics(folder) if line["epoch"] <= epochs]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{path} cannot be read: {error}; delete {folder} to begin this run anew") from None
    if [line["epoch"] for line in kept] != list(range(1, epochs + 1)):
        raise InputError(
            f"{path} must hold epochs 1 to {epochs}, as the checkpoint does; delete {folder} to begin anew"
        )
    with atomic(path) as file:
        file.write("".join(json.dumps(line) + "\n" for line in kept).encode())


def finished_epochs(folder: Path) -> int:
    """How many there are in `metrics.jsonl`."""
    try:
        return (folder / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def read_result(folder: Path) -> dict[str, Any] | None:
    """The result of a finished run, None of one that is not."""
    found: dict[str, Any] | None = read_json(folder / "result.json")
    return found


def is_finished(folder: Path) -> bool:
    return (folder / "result.json").is_file()
