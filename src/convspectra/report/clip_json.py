"""What became of a model that was clipped, as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import BinaryIO

from ..control import ClipReport

SCHEMA = "convspectra.clip/1"


def write(report: ClipReport, file: BinaryIO) -> None:
    """Write the whole report under `schema/clip-1.schema.json`; UTF-8, two spaces of indent."""
    facts = {"schema": SCHEMA, **asdict(report)}
    file.write(json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False).encode())
    file.write(b"\n")
