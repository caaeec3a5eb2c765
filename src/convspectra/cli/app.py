"""All commands, and how each of them ends: the exit statuses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from .._version import __version__
from ..errors import InputError
from ..report import terminal
from .analyze import analyze
from .clip import clip
from .compare import compare
from .demo import demo
from .extensions import ExtensibleGroup
from .info import info
from .lipschitz import lipschitz
from .options import in_options
from .signals import INTERRUPTED, WHOLE

BAD_INPUT = 2
_UsageError: Any = typer.BadParameter.__base__
"""Of the Click that Typer uses: the package, or a copy of its own."""


class _Commands(ExtensibleGroup):
    """All commands: errors of the user end in one line, and an interruption in another."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        with _endings():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        with _endings():
            return super().invoke(ctx)


@contextmanager
def _endings() -> Iterator[None]:
    try:
        yield
    except InputError as error:
        terminal.tell(f"convspectra: {in_options(str(error))}")
        raise typer.Exit(BAD_INPUT) from None
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            raise
        terminal.tell(f"convspectra: {_usage(error)}")
        raise typer.Exit(BAD_INPUT) from None
    except KeyboardInterrupt as stop:
        terminal.tell(f"convspectra: interrupted; {str(stop) or WHOLE}")
        raise typer.Exit(INTERRUPTED) from None


def _usage(error: Any) -> str:
    """A usage error as one line: the option, what was expected, what came, and where help is."""
    line = error.format_message().strip().rstrip(".").partition(", unable to parse")[0]
    line = re.sub(r"^Invalid value for '?([^': ]+)'?: Input should be ", r"\1 must be ", line)
    line = re.sub(r"^Invalid value for '?([^': ]+)'?", r"\1", line)
    validation = error.__cause__
    if hasattr(validation, "errors"):  # of Pydantic, whose message does not say what came
        line += f"; got {validation.errors()[0]['input']!r}"
    where = f"; see {error.ctx.command_path} --help" if error.ctx else ""
    return f"{line[0].lower()}{line[1:]}{where}"


app = typer.Typer(
    cls=_Commands,
    help="Singular values of convolutional layers: exact spectra and proven bounds.",
    epilog="Exit status: 0 all of it was done, 1 internal failure, 2 bad input, 3 nothing, or not "
    "everything, could be read, analysed or written, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (analyze, clip, compare, lipschitz, demo, info):
    app.command()(command)


def _version(wanted: bool) -> None:
    if wanted:
        terminal.write(f"convspectra {__version__}\n")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
