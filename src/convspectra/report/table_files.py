"""The layers of a report as tables, one row a layer (CSV, Parquet), and their singular values (NPZ)."""

from __future__ import annotations

import csv
import io
import math
from typing import Any, BinaryIO

import numpy as np

from ..analysis import LayerReport, Report
from .json_file import SCHEMA, flat
from .numbers import sizes

_COLUMNS = list(flat(LayerReport(name="", kind="", kernel_shape=(), layout="", status="ok")))
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")  # noqa: RUF001  # spreadsheets take the wide ones for the others
_INTEGERS = ("kernel_shape", "input_shape", "stride", "dilation")
_WORDS = (
    "name",
    "kind",
    "layout",
    "padding_mode",
    "source",
    "batch_norm",
    "status",
    "reason",
    "as_padded_status",
    "any_size_status",
)


def write_csv(report: Report, file: BinaryIO) -> None:
    """Write one row a layer; shapes as `64x3x3`, unknown values empty, lists joined by spaces.

    A text that a spreadsheet would take for a formula has an apostrophe in front.
    """
    text = io.TextIOWrapper(file, "utf-8", errors="backslashreplace", newline="", write_through=True)
    writer = csv.DictWriter(text, fieldnames=_COLUMNS)
    writer.writeheader()
    for layer in report.layers:
        writer.writerow({name: _cell(value) for name, value in flat(layer).items()})
    text.detach()


def write_parquet(report: Report, file: BinaryIO) -> None:
    """Write one row a layer; the model's name and digest are in the file's metadata."""
    import pyarrow as pa
    import pyarrow.parquet

    types = {name: pa.list_(pa.int64()) for name in _INTEGERS}
    types |= {name: pa.string() for name in _WORDS}
    types |= {"padding": pa.list_(pa.list_(pa.int64())), "assumed": pa.list_(pa.string())}
    types |= {"groups": pa.int64(), "count": pa.int64(), "rank": pa.int64(), "transposed": pa.bool_()}
    types |= {"structural_zeros": pa.int64(), "sampled": pa.bool_()}
    metadata = {"schema": SCHEMA, "model": _encodable(report.model), "sha256": report.sha256 or ""}
    schema = pa.schema([(name, types.get(name, pa.float64())) for name in _COLUMNS], metadata)
    rows = [{name: _encodable(value) for name, value in flat(layer).items()} for layer in report.layers]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows, schema=schema), file)


def write_npz(report: Report, file: BinaryIO) -> None:
    """Write `names`, and for the layer `names[i]` the array `values_i`: all its values, descending.

    Layers are numbered because a name may hold what the name of an array cannot. A layer without a
    spectrum has no array. Values are off by at most `errors[i]`; `sampled[i]` where they are estimates.
    """
    arrays = {
        f"values_{i}": layer.spectrum.sorted()
        for i, layer in enumerate(report.layers)
        if layer.spectrum is not None
    }
    summaries = [layer.torus for layer in report.layers]
    np.savez_compressed(
        file,
        names=np.array([layer.name for layer in report.layers], dtype=str),
        errors=np.array([math.nan if torus is None else torus.error for torus in summaries]),
        sampled=np.array([torus is not None and torus.sampled for torus in summaries]),
        **arrays,
    )


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        if value and isinstance(value[0], list):
            return " ".join(f"{before},{after}" for before, after in value)
        value = sizes(value) if all(isinstance(item, int) for item in value) else " ".join(value)
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _encodable(value: Any) -> Any:
    """Text as UTF-8 has it: half a surrogate pair is escaped."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
