"""Writing a report: every file whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import BinaryIO

from ..analysis import Report
from ..errors import InputError

# Format -> module of this package with `write(report, file)`, and the library that it needs.
WRITERS = {
    "json": ("json_file", None),
    "csv": ("csv_file", None),
    "parquet": ("parquet_file", "pyarrow"),
    "npz": ("npz_file", None),
    "html": ("html", None),
}
FOLDERS = ("png", "svg")
_EXTRAS = {"pyarrow": "parquet", "matplotlib": "figures"}

Targets = Mapping[str, Path | None]


def check_targets(files: Targets, folders: Targets) -> None:
    """Find out before the work whether all of it can be written.

    Raises:
        InputError: a file or folder that cannot be written, or a library that is missing.
    """
    for name, path in files.items():
        if path is None:
            continue
        require(WRITERS[name][1])
        if path.is_dir():
            raise InputError(f"--{name} {path} is a folder; give a file name")
        folder = path.absolute().parent
        if not folder.is_dir():
            raise InputError(f"--{name} {path} cannot be written: the folder {folder} does not exist")
        if not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
            raise InputError(f"--{name} {path} cannot be written: permission denied")
    for name, path in folders.items():
        if path is None:
            continue
        require("matplotlib")
        nearest = path.absolute()
        while not nearest.exists():
            nearest = nearest.parent
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise InputError(f"--{name} {path} cannot be written: {nearest} is no folder one can write to")


def require(library: str | None) -> None:
    """Raise the InputError of an optional library that is not installed."""
    if library is None:
        return
    try:
        import_module(library)
    except ImportError:
        extra = _EXTRAS[library]
        raise InputError(f"{library} is needed for this: pip install 'convspectra[{extra}]'") from None


def write_all(report: Report, files: Targets, folders: Targets) -> Iterator[Path]:
    """Write every target that is given; yields each path when it is complete.

    Raises:
        InputError: the disk refuses.
    """
    for name, path in files.items():
        if path is not None:
            write: Callable[[Report, BinaryIO], None] = import_module(
                f".{WRITERS[name][0]}", __package__
            ).write
            with atomic(path) as file:
                write(report, file)
            yield path
    for name, path in folders.items():
        if path is not None:
            from .pictures import write_pictures

            path.mkdir(parents=True, exist_ok=True)
            yield from write_pictures(report, path, name)


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under `path` when the block ends well, and leaves nothing when it does not.

    Raises:
        InputError: the disk refuses.
    """
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.absolute().parent)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        # mkstemp makes private files; a report is as readable as any other file of the user.
        mask = os.umask(0)
        os.umask(mask)
        partial.chmod(0o666 & ~mask)
        partial.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
