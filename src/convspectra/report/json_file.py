"""The report as JSON, under the schema in `schema/report-1.schema.json`."""

from __future__ import annotations

import json
from typing import Any, BinaryIO

from ..analysis import Report
from .data import as_dict


def write(report: Report, file: BinaryIO) -> None:
    """Write the whole report; UTF-8, two spaces of indent, no NaN and no infinity."""
    dump(as_dict(report), file)


def dump(value: Any, file: BinaryIO) -> None:
    """Write any of the reports; half a surrogate pair in a name becomes the escape that JSON has for it."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    file.write(text.encode("utf-8", "backslashreplace") + b"\n")
