"""Layer names: those of the weights, without what only formats and wrappers add."""

from __future__ import annotations

import re

_SUFFIX = re.compile(r"[./_](weight|weights|kernel|depthwise_kernel|w)(:0)?$", re.IGNORECASE)
_MEANINGLESS = re.compile(r"^([\d.:_/-]*|onnx::\w+|.*/?Constant(_\d+)?_output_\d+)$")


def layer_name(weight: str, fallback: str) -> str:
    """The layer that a weight tensor belongs to, by its name; `fallback` where that says nothing."""
    name = _SUFFIX.sub("", weight)
    if name != weight:
        return name
    return fallback if _MEANINGLESS.match(name) else name


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
