"""One boundary around every reader: whatever a file makes it raise becomes one sentence about the file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import GeometryError, InputError, KernelError, ModelError


def first_line(error: BaseException) -> str:
    """What an error says, without what follows in further lines."""
    return next(iter(str(error).strip().splitlines()), "")


def digest(path: Path) -> str:
    """sha256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def reading(path: Path, kind: str = "model") -> Iterator[None]:
    """Inside it, any error about the file at `path` leaves as a `ModelError` of file, format and cause.

    An `InputError` that says what to do (an option, a missing library) passes as it is. The error that was
    raised stays the `__cause__`.
    """
    try:
        yield
    except ModelError:
        raise
    except (GeometryError, KernelError) as error:
        raise ModelError(f"{path} ({kind}): {error}") from error
    except InputError:
        raise
    except ImportError as error:
        raise InputError(f"a library that reads {kind} files cannot be imported: {error}") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise ModelError(f"{path} ({kind}) declares more than the memory of this machine holds") from error
    except RecursionError as error:
        raise ModelError(f"{path} ({kind}) is nested too deeply, or refers to itself") from error
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # libraries raise whatever, panics of Rust are no Exception
        line = " ".join(str(error).split())[:200]
        cause = type(error).__name__ + (f": {line}" if line else "")
        raise ModelError(f"{path} is no {kind} file that can be read, or it is damaged: {cause}") from error
