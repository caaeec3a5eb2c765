"""Public docstrings have the sections that Sphinx (napoleon) and editors read, and one entry a parameter."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re

import pytest

ROOMS = (
    "",
    ".analysis",
    ".bounds",
    ".constrain",
    ".krylov",
    ".models",
    ".penalties",
    ".published",
    ".published.paper",
    ".torch",
)
SECTIONS = {"Arguments", "Attributes", "Returns", "Yields", "Raises", "Notes", "References", "Examples"}


def public(room):
    """`(name, object)` of what a module exports, with the public methods of its classes."""
    try:
        module = importlib.import_module(f"convspectra{room}")
    except ModuleNotFoundError as missing:
        pytest.skip(f"could not import '{missing.name}'")
    for name in module.__all__:
        found = getattr(module, name)
        is_error = inspect.isclass(found) and issubclass(found, Exception)
        if is_error or not (inspect.isclass(found) or inspect.isroutine(found)):
            continue
        yield name, found
        if inspect.isclass(found):
            for method, value in vars(found).items():
                if inspect.isfunction(value) and not method.startswith("_") and value.__doc__:
                    yield f"{name}.{method}", value


def sections(text):
    """`{heading: its lines}` of a docstring: headings stand alone, what belongs to them is indented."""
    found, heading = {}, None
    for line in inspect.cleandoc(text).splitlines():
        if match := re.fullmatch(r"([A-Z]\w+):", line):
            heading = match[1]
            found[heading] = []
        elif heading and (not line or line.startswith("    ")):
            found[heading].append(line[4:])
        else:
            heading = None
    return found


def entries(lines):
    return [match[1] for line in lines if (match := re.match(r"(\*{0,2}\w+): \S", line))]


def parameters(function):
    """As written in a docstring, without `self`."""
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    found = inspect.signature(function).parameters.values()
    return [stars.get(one.kind, "") + one.name for one in found if one.name not in ("self", "cls")]


def faults(found):
    """What a docstring lacks, in words."""
    given = sections(found.__doc__ or "")
    if not found.__doc__:
        yield "no docstring"
    for line in inspect.cleandoc(found.__doc__ or "").splitlines():
        match = re.match(r"References?|Not guaranteed|Arguments?|Errors|Raises|>>>", line)
        if match and line.rstrip(":") not in SECTIONS:
            yield f"{match[0]} is no section of its own"
    yield from (f"unknown section {name}" for name in given if name not in SECTIONS)
    if inspect.isclass(found) and dataclasses.is_dataclass(found) and "Arguments" not in given:
        named = [field.name for field in dataclasses.fields(found) if not field.name.startswith("_")]
        if entries(given.get("Attributes", [])) != named:
            yield f"Attributes must be {', '.join(named)}"
        return
    asked = parameters(found)
    if asked and entries(given.get("Arguments", [])) != asked:
        yield f"Arguments must be {', '.join(asked)}"
    returned = inspect.signature(found).return_annotation
    if not inspect.isclass(found) and returned not in (None, "None") and not given.get("Returns"):
        yield "no Returns"


@pytest.mark.parametrize("room", ROOMS)
def test_public_names_have_one_entry_a_parameter(room):
    lacking = {name: list(faults(found)) for name, found in public(room)}
    assert {name: words for name, words in lacking.items() if words} == {}


def test_faults_are_found():
    def wrong(kernel, *, size) -> int:
        """What it does.

        Arguments:
            kernel, size: both at once.

        Reference: somebody.
        """

    assert list(faults(wrong)) == [
        "Reference is no section of its own",
        "Arguments must be kernel, size",
        "no Returns",
    ]
