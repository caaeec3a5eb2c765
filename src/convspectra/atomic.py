"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import InputError


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under `path` when the block ends well, and leaves nothing when it does not.

    Until then it lies beside it, under the yielded file's own `name`.

    Raises:
        InputError: the disk refuses.
    """
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.absolute().parent)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None
    partial = Path(name)
    try:
        os.close(descriptor)
        with partial.open("wb") as file:
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
