"""What became of a model that was clipped, as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import BinaryIO

from ..control import ClipReport
from .json_file import dump

SCHEMA = "convspectra.clip/1"


def write(report: ClipReport, file: BinaryIO) -> None:
    """Write the whole report under `schema/clip-1.schema.json`; UTF-8, two spaces of indent."""
    facts = {"schema": SCHEMA, **asdict(report)}
    dump(facts, file)
