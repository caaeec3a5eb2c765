"""The table as Parquet: one row a layer, shapes as lists."""

from __future__ import annotations

from typing import Any, BinaryIO

from ..analysis import Report
from .data import SCHEMA, flat

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


def write(report: Report, file: BinaryIO) -> None:
    """Write one row a layer; the model's name and digest are in the file's metadata."""
    import pyarrow as pa
    import pyarrow.parquet

    from .csv_file import _EMPTY

    types = {name: pa.list_(pa.int64()) for name in _INTEGERS}
    types |= {name: pa.string() for name in _WORDS}
    types |= {"padding": pa.list_(pa.list_(pa.int64())), "assumed": pa.list_(pa.string())}
    types |= {"groups": pa.int64(), "count": pa.int64(), "rank": pa.int64(), "transposed": pa.bool_()}
    metadata = {"schema": SCHEMA, "model": _encodable(report.model), "sha256": report.sha256 or ""}
    schema = pa.schema([(name, types.get(name, pa.float64())) for name in flat(_EMPTY)], metadata)
    rows = [{name: _encodable(value) for name, value in flat(layer).items()} for layer in report.layers]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows, schema=schema), file)


def _encodable(value: Any) -> Any:
    """Text as UTF-8 has it: half a surrogate pair is escaped."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
