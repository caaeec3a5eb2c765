"""The report as one page: self-contained, no network, nothing of it computed here."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import lzma
from collections.abc import Iterable
from importlib import resources
from typing import Any, BinaryIO

from ..analysis import LayerReport, Report
from .columns import PAGE
from .figures import Curve, FrequencyMap, colour, curves, frequency_maps, norms, positions
from .numbers import estimate
from .terminal import printable
from .text import not_read, summary, uncertain


def write(report: Report, file: BinaryIO) -> None:
    """Write the page, UTF-8."""
    file.write(render(report).encode("utf-8", "backslashreplace"))


def render(report: Report) -> str:
    """The page as text."""
    return filled_page(
        page_data(report),
        title=f"Singular values of {report.model}",
        summary=summary(report),
        notes=[*uncertain(report.layers), *not_read(report.unread), *report.notes],
        models=(("Model", report),),
    )


def filled_page(
    data: dict[str, Any],
    *,
    title: str,
    summary: str,
    notes: Iterable[str],
    models: Iterable[tuple[str, Report]],
    **captions: str,
) -> str:
    """The page with its data in it.

    Arguments:
        data: what the script draws, as `page_data` has it.
        models: the reports that it is about, with a heading for each.
        captions: HTML that is added to the captions `curves`, `own_norm` and `norms`.
    """
    page = resources.files(__package__) / "page"
    parts = {name: (page / name).read_text(encoding="utf-8") for name in ("page.html", "page.css")}
    echarts = lzma.decompress((page / "echarts.min.js.xz").read_bytes()).decode()
    scripts = [echarts, (page / "page.js").read_text(encoding="utf-8")]
    filled = {
        "title": _text(title),
        "summary": _text(summary),
        "models": "".join(f'<h2>{word}</h2><dl class="facts">{_facts(one)}</dl>' for word, one in models),
        "notes": "".join(f"<li>{_text(note)}</li>" for note in notes),
        **{name: captions.get(name, "") for name in ("curves", "own_norm", "norms")},
        "css": parts["page.css"],
        "hashes": " ".join(f"'sha256-{_digest(script)}'" for script in scripts),
        "echarts": scripts[0],
        "data": _embedded(data),
        "script": scripts[1],
    }
    text = parts["page.html"]
    # One pass from left to right: what is filled in is never searched for placeholders again.
    pieces = text.split("{{")
    return pieces[0] + "".join(
        filled[name] + rest for name, _, rest in (piece.partition("}}") for piece in pieces[1:])
    )


def page_data(report: Report) -> dict[str, Any]:
    """What the page's script draws, numbers to five digits."""
    places = positions(report)
    return {
        "layers": [
            {
                "name": printable(layer.name),
                "light": colour(place),
                "dark": colour(place, dark=True),
                "norms": [short(value) for value in norms(layer)],
                "wrapped": wrapped_norm(layer),
                "exact": layer.as_padded is not None and layer.as_padded.exact,
                "cells": [[column.cell(layer), column.key(layer)] for column in PAGE],
                "status": layer.status,
                "reason": printable(layer.reason),
                "assumed": list(layer.assumed),
            }
            for layer, place in zip(report.layers, places, strict=True)
        ],
        "columns": [{"title": column.title, "numeric": column.right} for column in PAGE],
        "curves": [curve_data(curve) for curve in curves(report)],
        "maps": [map_data(one) for one in frequency_maps(report)],
    }


def wrapped_norm(layer: LayerReport | None) -> str:
    """The norm with wrapped boundary, with its error where it is an estimate."""
    torus = None if layer is None else layer.torus
    return "-" if torus is None else estimate(torus.norm, torus.ranges.get("norm"))


def curve_data(curve: Curve) -> dict[str, Any]:
    """A curve as the page's script takes it."""
    return {
        "layer": curve.layer,
        "ranks": curve.ranks,
        "values": [short(value) for value in curve.values],
        "count": curve.count,
        "norm": short(curve.norm),
        "error": short(curve.error) if curve.sampled else None,
    }


def map_data(one: FrequencyMap) -> dict[str, Any]:
    """A frequency map as the page's script takes it."""
    return {
        "layer": one.layer,
        "pooled": one.pooled,
        "sampled": one.sampled,
        "values": [[short(value) for value in row] for row in one.values.tolist()],
    }


def _facts(report: Report) -> str:
    pairs = {
        "file": report.path or report.model,
        "sha256": report.sha256 or "none: a live module",
        "format": report.format,
        "precision": "that of each kernel" if report.dtype == "kernel" else report.dtype,
        "bounds": report.bounds,
        "spectrum": report.spectrum,
        "batch norm": "folded into the kernels" if report.fold_batch_norm else "not folded",
        "convspectra": report.version,
    }
    rows = (f"<dt>{name}</dt><dd>{_text(str(value))}</dd>" for name, value in pairs.items())
    return "".join(rows)


def short(value: float | None) -> float | None:
    """Five digits, as much as a page shows."""
    return None if value is None else float(f"{value:.5g}")


def _text(text: str) -> str:
    return html.escape(printable(text))


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _embedded(data: dict[str, Any]) -> str:
    """JSON that cannot end the script element it stands in, whatever names it holds."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
