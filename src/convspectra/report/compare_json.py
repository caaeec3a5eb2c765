"""Two models side by side as JSON; each layer as in the report of one model."""

from __future__ import annotations

from typing import Any, BinaryIO

from ..analysis import Report
from ..comparison import Comparison
from .data import layer_dict, model_dict, unread_list
from .json_file import dump

SCHEMA = "convspectra.comparison/1"


def write(comparison: Comparison, file: BinaryIO) -> None:
    """Write the whole comparison; UTF-8, two spaces of indent, no NaN and no infinity."""
    dump(as_dict(comparison), file)


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """The comparison under `schema/comparison-1.schema.json`; `before` and `after` None where missing."""
    return {
        "schema": SCHEMA,
        "version": comparison.after.version,
        "dtype": comparison.after.dtype,
        "fold_batch_norm": comparison.after.fold_batch_norm,
        "before": _model(comparison.before),
        "after": _model(comparison.after),
        "layers": [
            {
                "name": layer.name,
                "match": layer.match,
                "relative_change": layer.relative_change,
                "before": None if layer.before is None else layer_dict(layer.before),
                "after": None if layer.after is None else layer_dict(layer.after),
            }
            for layer in comparison.layers
        ],
    }


def _model(report: Report) -> dict[str, Any]:
    return {
        **model_dict(report),
        "other": dict(report.other),
        "notes": list(report.notes),
        "unread": unread_list(report),
    }
