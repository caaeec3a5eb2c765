"""The records of all commands as plain data, and as JSON under the schemas in `schema/`."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, BinaryIO

from ..analysis import QUANTILES, LayerReport, Report, TorusSummary
from ..results import Bound

if TYPE_CHECKING:
    from ..analysis import Comparison
    from ..constrain.records import ClipReport
    from ..network import LipschitzReport

    Record = Report | ClipReport | Comparison | LipschitzReport

SCHEMA = "convspectra.report/1"
_LAYER_FACTS = (
    *("name", "kind", "kernel_shape", "layout", "input_shape", "stride", "dilation", "groups", "transposed"),
    *("padding", "padding_mode", "assumed", "source", "batch_norm", "status", "reason"),
)
RANGED = ("norm", "smallest", "condition_number", "rank", "effective_rank", "stable_rank", "nuclear_norm")
"""Numbers of the spectrum that can be estimates."""
QUANTILE_NAMES = tuple(f"{level:g}" for level in QUANTILES)


def write(record: Record, file: BinaryIO) -> None:
    """Write the whole record: UTF-8, two spaces of indent, no NaN and no infinity.

    Half a surrogate pair in a name becomes the escape that JSON has for it.
    """
    text = json.dumps(as_dict(record), indent=2, ensure_ascii=False, allow_nan=False)
    file.write(text.encode("utf-8", "backslashreplace") + b"\n")


def as_dict(record: Record) -> dict[str, Any]:
    """The record under its schema; None for what is unknown and for what left the range of floats."""
    # By name, as a command has one of the records, and need not import what makes the others.
    made: dict[str, Any] = _DICTS[type(record).__name__](record)
    return made


def _report(report: Report) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "version": report.version,
        **_model(report),
        "dtype": report.dtype,
        "fold_batch_norm": report.fold_batch_norm,
        "bounds": report.bounds,
        "spectrum": report.spectrum,
        "left_out": report.left_out,
        "layers": [layer_dict(layer) for layer in report.layers],
        **_rest(report),
    }


def _clip(report: ClipReport) -> dict[str, Any]:
    return {"schema": "convspectra.clip/1", **asdict(report)}


def _comparison(comparison: Comparison) -> dict[str, Any]:
    before, after = comparison.before, comparison.after
    return {
        "schema": "convspectra.comparison/1",
        "version": after.version,
        "dtype": after.dtype,
        "fold_batch_norm": after.fold_batch_norm,
        "bounds": after.bounds,
        "spectrum": after.spectrum,
        "before": {**_model(before), **_rest(before)},
        "after": {**_model(after), **_rest(after)},
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


def _lipschitz(report: LipschitzReport) -> dict[str, Any]:
    from ..network.complexity import SOURCE
    from ..network.records import ASSUMES, LOWER_ASSUMES

    facts = {
        "schema": "convspectra.lipschitz/1",
        **asdict(report),
        "assumes": ASSUMES,
        "lower_assumes": LOWER_ASSUMES if report.points else None,
    }
    facts["complexity"]["source"] = SOURCE
    found: dict[str, Any] = _finite(facts)
    return found


_DICTS: dict[str, Any] = {
    "Report": _report,
    "ClipReport": _clip,
    "Comparison": _comparison,
    "LipschitzReport": _lipschitz,
}


def _model(report: Report) -> dict[str, Any]:
    return {name: getattr(report, name) for name in ("model", "path", "sha256", "format")}


def _rest(report: Report) -> dict[str, Any]:
    unread = [{"name": one.name, "shape": _finite(one.shape), "reason": one.reason} for one in report.unread]
    return {"other": dict(report.other), "notes": list(report.notes), "unread": unread}


def layer_dict(layer: LayerReport) -> dict[str, Any]:
    """One layer of the report."""
    return {
        **_finite({name: getattr(layer, name) for name in _LAYER_FACTS}),
        "torus": None if layer.torus is None else _torus(layer.torus),
        "bounds": {"as_padded": _bound(layer.as_padded), "any_size": _bound(layer.any_size)},
    }


def flat(layer: LayerReport) -> dict[str, Any]:
    """One layer as one row: nested names joined by an underscore, quantiles as `quantile_0.5`."""
    row = layer_dict(layer)
    torus, bounds = row.pop("torus"), row.pop("bounds")
    for name in TorusSummary.__dataclass_fields__:
        if name not in ("quantiles", "ranges"):
            row[name] = None if torus is None else torus[name]
    for level in QUANTILE_NAMES:
        row[f"quantile_{level}"] = None if torus is None else torus["quantiles"][level]
    for name in RANGED:
        exact = None if torus is None else torus[name]
        one = (torus and torus["ranges"][name]) or {"lower": exact, "upper": exact}
        row |= {f"{name}_lower": one["lower"], f"{name}_upper": one["upper"]}
    for name, bound in bounds.items():
        for field in ("lower", "upper", "status"):
            row[f"{name}_{field}"] = None if bound is None else bound[field]
    return row


def _torus(torus: TorusSummary) -> dict[str, Any]:
    known = {name: torus.ranges.get(name) for name in RANGED}
    ranges = {name: one and dict(zip(("lower", "upper"), one, strict=True)) for name, one in known.items()}
    facts: dict[str, Any] = _finite({**asdict(torus), "ranges": ranges})
    return facts


def _bound(bound: Bound | None) -> dict[str, Any] | None:
    if bound is None:
        return None
    return {name: getattr(bound, name) for name in ("lower", "upper", "status", "method", "assumes")}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        # Levels of quantiles are numbers.
        return {name if isinstance(name, str) else f"{name:g}": _finite(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
