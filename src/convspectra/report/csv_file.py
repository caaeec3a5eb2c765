"""The table as CSV: one row a layer."""

from __future__ import annotations

import csv
import io
from typing import Any, BinaryIO

from ..analysis import LayerReport, Report
from .data import flat
from .numbers import sizes

_EMPTY = LayerReport(name="", kind="", kernel_shape=(), layout="", status="ok")


def write(report: Report, file: BinaryIO) -> None:
    """Write one row a layer; shapes as `64x3x3`, unknown values empty, lists joined by spaces.

    A text that a spreadsheet would take for a formula has an apostrophe in front.
    """
    text = io.TextIOWrapper(file, "utf-8", errors="backslashreplace", newline="", write_through=True)
    writer = csv.DictWriter(text, fieldnames=list(flat(_EMPTY)))
    writer.writeheader()
    for layer in report.layers:
        writer.writerow({name: _cell(value) for name, value in flat(layer).items()})
    text.detach()


_FORMULA = tuple("=+-@\t\r\n＝＋－＠")  # noqa: RUF001  # spreadsheets take the wide ones for the others


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        if value and isinstance(value[0], list):
            return " ".join(f"{before},{after}" for before, after in value)
        value = sizes(value) if all(isinstance(item, int) for item in value) else " ".join(value)
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
