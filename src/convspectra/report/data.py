"""A report as plain data: the one shape behind JSON, CSV and Parquet."""

from __future__ import annotations

import math
from typing import Any

from ..analysis import LayerReport, Report, TorusSummary
from ..results import Bound

SCHEMA = "convspectra.report/1"


def as_dict(report: Report) -> dict[str, Any]:
    """The report under the schema `convspectra.report/1` (see `schema/report-1.schema.json`).

    Unknown numbers are None; so is one beyond the range of floats, as JSON has no infinity.
    """
    return {
        "schema": SCHEMA,
        "version": report.version,
        **model_dict(report),
        "dtype": report.dtype,
        "fold_batch_norm": report.fold_batch_norm,
        "layers": [layer_dict(layer) for layer in report.layers],
        "other": dict(report.other),
        "notes": list(report.notes),
        "unread": unread_list(report),
    }


def model_dict(report: Report) -> dict[str, Any]:
    """Which file the report is about."""
    return {name: getattr(report, name) for name in ("model", "path", "sha256", "format")}


def unread_list(report: Report) -> list[dict[str, Any]]:
    """What may be a layer and was not read."""
    return [{"name": one.name, "shape": _listed(one.shape), "reason": one.reason} for one in report.unread]


def layer_dict(layer: LayerReport) -> dict[str, Any]:
    """One layer of the report."""
    return {
        "name": layer.name,
        "kind": layer.kind,
        "kernel_shape": list(layer.kernel_shape),
        "layout": layer.layout,
        "input_shape": _listed(layer.input_shape),
        "stride": _listed(layer.stride),
        "dilation": _listed(layer.dilation),
        "groups": layer.groups,
        "transposed": layer.transposed,
        "padding": None if layer.padding is None else [list(pair) for pair in layer.padding],
        "padding_mode": layer.padding_mode,
        "assumed": list(layer.assumed),
        "source": layer.source,
        "batch_norm": layer.batch_norm,
        "status": layer.status,
        "reason": layer.reason,
        "torus": None if layer.torus is None else _torus(layer.torus),
        "bounds": {"as_padded": _bound(layer.as_padded), "any_size": _bound(layer.any_size)},
    }


def flat(layer: LayerReport) -> dict[str, Any]:
    """One layer as one row: nested names joined by an underscore, quantiles as `quantile_0.5`."""
    row = layer_dict(layer)
    torus, bounds = row.pop("torus"), row.pop("bounds")
    for name in TorusSummary.__dataclass_fields__:
        if name != "quantiles":
            row[name] = None if torus is None else torus[name]
    for level in QUANTILE_NAMES:
        row[f"quantile_{level}"] = None if torus is None else torus["quantiles"][level]
    for name, bound in bounds.items():
        for field in ("lower", "upper", "status"):
            row[f"{name}_{field}"] = None if bound is None else bound[field]
    return row


def _quantile_names() -> tuple[str, ...]:
    from ..analysis import QUANTILES

    return tuple(f"{level:g}" for level in QUANTILES)


QUANTILE_NAMES = _quantile_names()


def _torus(torus: TorusSummary) -> dict[str, Any]:
    return {
        "norm": torus.norm,
        "smallest": torus.smallest,
        "condition_number": torus.condition_number if math.isfinite(torus.condition_number) else None,
        "count": torus.count,
        "rank": torus.rank,
        "effective_rank": torus.effective_rank,
        "stable_rank": torus.stable_rank,
        "nuclear_norm": torus.nuclear_norm if math.isfinite(torus.nuclear_norm) else None,
        "error": torus.error,
        "quantiles": {f"{level:g}": value for level, value in torus.quantiles.items()},
    }


def _bound(bound: Bound | None) -> dict[str, Any] | None:
    if bound is None:
        return None
    return {
        "lower": bound.lower,
        "upper": bound.upper,
        "status": bound.status,
        "method": bound.method,
        "assumes": bound.assumes,
    }


def _listed(values: tuple[int, ...] | None) -> list[int] | None:
    return None if values is None else list(values)
