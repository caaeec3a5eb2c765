"""Commands that other distributions add by entry points of the group `convspectra.commands`.

An entry point is a function with Typer's annotations, imported when its command is used or listed.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from typer.core import TyperGroup

from ..errors import InputError

_GROUP = "convspectra.commands"
_LABORATORY = {"bench", "experiment"}  # commands of convspectra-experiments


class ExtensibleGroup(TyperGroup):
    """The group's own commands, and after them those of the entry points.

    Raises:
        InputError: a command of convspectra-experiments, which is not installed; a command that is used
            and cannot be imported.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *sorted(entry_points(group=_GROUP).names)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if own := super().get_command(ctx, cmd_name):
            return own
        for point in entry_points(group=_GROUP, name=cmd_name):
            single = typer.Typer(add_completion=False, rich_markup_mode=None)
            anything = {"allow_extra_args": True, "ignore_unknown_options": True}
            try:
                single.command(cmd_name)(point.load())
            except ImportError as error:  # told when it is used: the list of commands is for all
                single.command(cmd_name, context_settings=anything)(_refusal(point, error))
            return typer.main.get_command(single)
        if cmd_name in _LABORATORY:
            raise InputError(
                f"the command {cmd_name} is part of convspectra-experiments, which is not installed; run "
                "pip install ./experiments in a checkout of convspectra"
            )
        return None


def _refusal(point: EntryPoint, error: ImportError) -> Callable[[], None]:
    owner = point.dist.name if point.dist else point.value
    line = f"the command {point.name} of {owner} cannot be loaded: {error}"

    def refuse() -> None:
        """Not usable: it cannot be loaded."""
        raise InputError(line)

    return refuse
