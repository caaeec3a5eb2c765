"""Files that appear whole or not at all."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

from .errors import InputError

_SUFFIX = ".convspectra-partial"


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under `path` when the block ends well, and leaves nothing when it does not.

    Until then it lies beside it, under the yielded file's own `name`. What processes that were killed left
    there is taken away, by the first file that a process writes into a folder. A link stays, and the file
    that it leads to is written; into a device or a pipe it is written at once.

    Raises:
        InputError: the disk refuses.
    """
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            with path.open("wb") as file:
                yield file
            return
        target = path.resolve()
        _sweep(target.parent)
        with _partial(target.parent, target.name) as file:
            try:
                yield file
                file.flush()
                # While it is open and so locked, lest it be swept away as a dead process's.
                Path(file.name).replace(target)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from None


def open_folder(folder: Path) -> Path:
    """Make a folder to write into, if need be.

    Raises:
        InputError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise InputError(f"{folder} cannot be written: permission denied")
    return folder


def _partial(folder: Path, name: str) -> BinaryIO:
    """A new file, locked while it is open: the lock of a process that is killed goes with it."""
    while True:
        path = folder / f".{name[:40]}.{secrets.token_hex(8)}{_SUFFIX}"
        file = path.open("xb")
        with suppress(OSError):  # a file system without locks: nothing is swept there either
            fcntl.flock(file, fcntl.LOCK_EX)
        # Between the two, another process may have taken it for a dead one's.
        if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
            return file
        file.close()


@cache
def _sweep(folder: Path) -> None:
    """Take away what processes that were killed left half written."""
    for path in folder.glob(f".*{_SUFFIX}"):
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails where its process lives
            path.unlink()
