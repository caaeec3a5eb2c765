"""How much a network can stretch, as JSON."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any, BinaryIO

from ..lipschitz import LipschitzReport
from ..lipschitz.complexity import SOURCE
from ..lipschitz.records import ASSUMES, LOWER_ASSUMES
from .json_file import dump

SCHEMA = "convspectra.lipschitz/1"


def write(report: LipschitzReport, file: BinaryIO) -> None:
    """Write the whole report; UTF-8, two spaces of indent, no NaN and no infinity."""
    dump(as_dict(report), file)


def as_dict(report: LipschitzReport) -> dict[str, Any]:
    """The report under `schema/lipschitz-1.schema.json`; None for what left the floating range."""
    facts = {
        "schema": SCHEMA,
        **asdict(report),
        "assumes": ASSUMES,
        "lower_assumes": LOWER_ASSUMES if report.points else None,
    }
    facts["complexity"]["source"] = SOURCE
    found: dict[str, Any] = _finite(facts)
    return found


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        # Levels of quantiles are numbers.
        return {name if isinstance(name, str) else f"{name:g}": _finite(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
