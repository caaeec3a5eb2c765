"""Standard output and standard error: what is shown there, and what happens where that fails."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

from ..errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

_ENDLESS = 1_000_000
"""Columns of what is no terminal: a file or a program gets every name whole."""


def printable(text: str) -> str:
    """The same text with what a terminal obeys, or what nobody can see, escaped as in a Python string."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def tell(line: str) -> None:
    """Write one line to standard error; where that is gone, nobody is told."""
    if sys.stderr is not None:
        print(printable(line), file=cast(IO[str], _Forgiving(sys.stderr)), flush=True)


def show(render: Callable[[Console], None]) -> bool:
    """Render something for standard output, then write it.

    Returns:
        Whether it could be written. A reader that has gone away (`| head`) has what it wanted; of any other
        failure a line on standard error tells.
    """
    page = _Page()
    render(_console(page))
    return write(page.getvalue())


def write(text: str) -> bool:
    """Write to standard output as `show` does; characters that its encoding lacks are escaped."""
    if sys.stdout is None:
        return True
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            tell(f"convspectra: standard output cannot be written: {error.strerror}")
        discard_output()
        return isinstance(error, BrokenPipeError)
    return True


@contextmanager
def standard_output() -> Iterator[BinaryIO]:
    """A file whose bytes go to standard output when the block ends well.

    Raises:
        InputError: they cannot be written. A reader that has gone away (`| head`) has what it wanted.
    """
    page = io.BytesIO()
    yield page
    if sys.stdout is None:
        raise InputError("standard output cannot be written: it is closed")
    try:
        sys.stdout.buffer.write(page.getvalue())
        sys.stdout.flush()
    except OSError as error:
        discard_output()
        if not isinstance(error, BrokenPipeError):
            raise InputError(f"standard output cannot be written: {error.strerror}") from None


def discard_output() -> None:
    """Let what is left in the buffer of standard output go nowhere, as Python writes it when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with suppress(OSError, ValueError):
        os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def status() -> Console:
    """Standard error, for a bar of progress."""
    return _console(io.StringIO() if sys.stderr is None else cast(IO[str], _Forgiving(sys.stderr)))


def _console(file: IO[str]) -> Console:
    """Where text is rendered: names are no markup, and what is no terminal has no end of a line."""
    from rich.console import Console

    width = None if file.isatty() else _ENDLESS
    return Console(file=file, width=width, markup=False, emoji=False, highlight=False)


class _Page(io.StringIO):
    """Text as it will be on standard output."""

    def isatty(self) -> bool:
        return sys.stdout is not None and sys.stdout.isatty()


class _Forgiving:
    """A stream whose failures are nobody's: a terminal that was closed must not end hours of work."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
