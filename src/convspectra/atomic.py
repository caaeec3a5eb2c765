"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from types import ModuleType
from typing import BinaryIO

from .errors import InputError

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_SUFFIX = ".convspectra-partial"
_ANY_WRITES = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
_QUIET = 60.0
"""Seconds: without locks, a file that was written to less long ago may be a living process's."""


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under `path` when the block ends well, and leaves nothing when it does not.

    Until then it lies beside it, under the yielded file's own `name`. What processes that were killed left
    there is taken away, by the first file that a process writes into a folder. A link stays, and the file
    that it leads to is written; into a device or a pipe it is written at once.

    Raises:
        InputError: the disk refuses.
    """
    with _refusals(path):
        if _is_device(path):
            with path.open("wb") as file:
                yield file
            return
        target = _resolved(path)
        _sweep(target.parent)
        with _partial(target.parent, target.name) as file:
            try:
                _keep_mode(target, Path(file.name))
                yield file
                file.flush()
                # Some file systems say only now that they are full, and what was there must stay then.
                os.fsync(file.fileno())
                if fcntl is None:
                    file.close()  # Windows renames no open file
                # Elsewhere while it is open and so locked, lest it be swept away as a dead process's.
                Path(file.name).replace(target)
            except BaseException:
                _drop(file)
                raise


def check_writable(path: Path) -> None:
    """Find out before the work whether a file, or a folder with its parents, can be written.

    Raises:
        InputError: it cannot. Found out by writing: permissions do not tell of every file system.
    """
    with _refusals(path):
        path.exists()  # raises where the name is too long
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, "permission denied")
        if path.is_file() and not path.stat().st_mode & _ANY_WRITES:  # the superuser may, and is not meant to
            raise PermissionError(errno.EACCES, "it is write-protected")
        if _is_device(path):
            return
        target = _resolved(path)
        folder = target if path.is_dir() else target.parent
        while not folder.exists():
            folder = folder.parent
        _sweep(folder)
        # Without a name where the system has such files: nobody sees it, and no interruption leaves it there.
        with TemporaryFile(dir=folder):
            pass


def open_folder(folder: Path) -> Path:
    """Make a folder to write into, if need be.

    Raises:
        InputError: it cannot be made or written to.
    """
    with _refusals(folder):
        folder.mkdir(parents=True, exist_ok=True)
    check_writable(folder)
    return folder


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """What the file system refuses as an InputError that names the path as it was given."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from None


def _resolved(path: Path) -> Path:
    """Where its links lead; `Path.resolve` raises where they go in a circle, but not since Python 3.13."""
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, "its links go in a circle")
    return target


def _keep_mode(old: Path, new: Path) -> None:
    """Who may read a file that is replaced stays as it was, also while the new one is written."""
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (old, new) if path.exists()]
    if modes[0] != modes[-1]:
        new.chmod(modes[0])


def _is_device(path: Path) -> bool:
    """Whether it is a device, a pipe or a socket: what is written into, never replaced."""
    return path.exists() and not (path.is_file() or path.is_dir())


def _drop(file: BinaryIO) -> None:
    if fcntl is None:
        file.close()  # Windows unlinks no open file
    Path(file.name).unlink(missing_ok=True)


def _partial(folder: Path, name: str) -> BinaryIO:
    """A new file, locked while it is open: the lock of a process that is killed goes with it."""
    while True:
        path = folder / f".{name[:40]}.{secrets.token_hex(8)}{_SUFFIX}"
        file = path.open("xb")
        if fcntl is None:
            return file
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
        with suppress(OSError):
            if fcntl is not None:
                with path.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails where its process lives
                    path.unlink()
            # Windows unlinks no file that is open; between its end and its name it is young.
            elif time.time() - path.stat().st_mtime > _QUIET:
                path.unlink()
