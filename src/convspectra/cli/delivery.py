"""What a command ends with: the files, then the terminal, then the exit status."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from ..errors import InputError
from ..report import terminal
from .options import with_options

if TYPE_CHECKING:
    from rich.console import Console

    from ..report.files import Targets

INCOMPLETE = 3


def deliver(
    record: Any, files: Targets, folders: Targets, render: Callable[[Any, Console], None], complete: bool
) -> None:
    """Write the files, then print: what was computed does not depend on a terminal.

    Nothing is printed where standard output is one of the files. The command ends with status 3 where not all
    of it could be written, or the record is not `complete`.
    """
    from ..report.files import STANDARD_OUTPUT, write_all

    record = with_options(record)
    for written in write_all(record, files, folders):
        failed = isinstance(written, InputError)
        if failed or written != STANDARD_OUTPUT:
            terminal.tell(f"convspectra: {written}" if failed else f"wrote {written}")
        complete = complete and not failed
    if STANDARD_OUTPUT not in files.values():
        complete = terminal.show(partial(render, record)) and complete
    if not complete:
        raise typer.Exit(INCOMPLETE)
