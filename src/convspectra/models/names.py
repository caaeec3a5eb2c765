"""Layer names: those of the weights, without what only formats and wrappers add."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from ..errors import InputError

_SUFFIX = re.compile(r"[./_](weight|weights|kernel|depthwise_kernel|w)(:0)?$", re.IGNORECASE)
_MEANINGLESS = re.compile(r"^([\d.:_/-]*|onnx::\w+|.*/?Constant(_\d+)?_output_\d+)$")


def says_weight(tensor: str) -> bool:
    """Whether a tensor's name says by itself that it is the weight of a layer."""
    return _SUFFIX.search(tensor) is not None


def layer_name(weight: str, fallback: str) -> str:
    """The layer that a weight tensor belongs to, by its name; `fallback` where that says nothing."""
    name = _SUFFIX.sub("", weight)
    if name != weight:
        return name
    return fallback if _MEANINGLESS.match(name) else name


def matching(pattern: str, names: Sequence[str], where: str) -> list[str]:
    """The names that a name or a pattern such as `"layer1.*.conv?"` stands for.

    Arguments:
        where: what the message begins with: the option or file that the pattern is in.

    Raises:
        InputError: none; it names those that come near.
    """
    matched = [name for name in names if name == pattern or fnmatchcase(name, pattern)]
    if not matched:
        near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3]
        raise InputError(
            f"{where}: no layer is called {pattern!r}; near it are {', '.join(map(repr, near)) or 'none'}"
        )
    return matched


class Names:
    """Names given out so far: each comes out once, later ones with a number behind."""

    def __init__(self) -> None:
        self.given: set[str] = set()

    def unique(self, name: str) -> str:
        """`name`, or `name#2`, `name#3`, ... where it is taken."""
        chosen, count = name, 1
        while chosen in self.given:
            count += 1
            chosen = f"{name}#{count}"
        self.given.add(chosen)
        return chosen
