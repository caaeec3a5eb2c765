"""The report as JSON, under the schema in `schema/report-1.schema.json`."""

from __future__ import annotations

import json
from typing import BinaryIO

from ..analysis import Report
from .data import as_dict


def write(report: Report, file: BinaryIO) -> None:
    """Write the whole report; UTF-8, two spaces of indent, no NaN and no infinity."""
    file.write(json.dumps(as_dict(report), indent=2, ensure_ascii=False, allow_nan=False).encode())
    file.write(b"\n")
