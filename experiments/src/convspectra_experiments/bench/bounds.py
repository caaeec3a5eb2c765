"""Bounds side by side: how tight, at what cost, on random, on trained and on the worst of kernels.

Each method bounds the norm of each layer, padded with zeros and with its boundary wrapped, beside what
`operator_norm` proves of that norm: the exact value (a symbol, or a layer small enough to be decomposed), or
else an interval. A ratio is to the side of it that makes the method look worse.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from convspectra import bounds
from convspectra.compute import Compute
from convspectra.demo import model_path
from convspectra.errors import CostError, GeometryError
from convspectra.geometry import ConvGeometry
from convspectra.models import read_model

from .measuring import Case, NumpyArray, machine, seconds_of

METHODS: dict[str, Callable[..., Any]] = {
    "operator_norm": bounds.operator_norm,
    "circulant_embedding": bounds.circulant_embedding,
    "pfister2018": bounds.pfister2018,
    "duffin1938": bounds.duffin1938,
    "delattre2023": bounds.delattre2023,
    "delattre2024": bounds.delattre2024,
    "grishina2024": bounds.grishina2024,
    "singla2021": bounds.singla2021,
    "araujo2021": bounds.araujo2021,
    "araujo2021, rows": partial(bounds.araujo2021, together=False),
    "reshaped_kernel": bounds.reshaped_kernel,
    "holder": bounds.holder,
    "frobenius": bounds.frobenius,
    "copy_count": bounds.copy_count,
    # Where it takes more than seconds it is refused.
    "rump2006": partial(bounds.rump2006, compute=Compute(memory=32 * 2**20)),
    "wave_packet": bounds.wave_packet,
    "tensor_norm_estimate": bounds.tensor_norm_estimate,
}
CASES = (
    Case("random: 16 channels, 32x32", (16, 16, 3, 3), (32, 32)),
    Case("random: 32 channels, 16x16", (32, 32, 3, 3), (16, 16)),
    Case("random: 64 channels, 8x8", (64, 64, 3, 3), (8, 8)),
    Case("random: 64 channels, 56x56", (64, 64, 3, 3), (56, 56)),
    Case("random: 64 to 128, stride 2, 56x56", (128, 64, 3, 3), (56, 56), stride=2),
    Case("random: stem 7x7, stride 2, 112x112", (64, 3, 7, 7), (112, 112), stride=2),
    Case("random: depthwise, 64 channels, 28x28", (64, 1, 3, 3), (28, 28), groups=64),
)
LARGE_CASES = (
    Case("random: 128 channels, 28x28", (128, 128, 3, 3), (28, 28)),
    Case("random: 256 channels, 14x14", (256, 256, 3, 3), (14, 14)),
)
SMALL_CASES = (Case("random: 4 channels, 8x8", (4, 4, 3, 3), (8, 8)),)
SINGLE = {
    "delta": [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
    "box": [[1.0] * 3] * 3,
    "Laplacian": [[0.0, -1.0, 0.0], [-1.0, 4.0, -1.0], [0.0, -1.0, 0.0]],
}
"""Kernels of one channel, on 16x16, on which bounds are loosest or tightest."""


@dataclass(frozen=True)
class BoundRow:
    """One method on one layer.

    Attributes:
        layer, padding: which; padding is "zeros" or "circular".
        kind: what the method claims, `Bound.status`, or "estimate" where it claims nothing.
        norm: what is proven of the norm, both sides; equal where it is exact.
        upper, lower: the method's sides, by `norm[0]` and by `norm[1]`; None for no claim. An estimate's
            value stands in `upper`.
        seconds: of the fastest call.
    """

    layer: str
    padding: str
    method: str
    kind: str
    norm: tuple[float, float]
    upper: float | None
    lower: float | None
    seconds: float


@dataclass(frozen=True)
class Summary:
    """One method on all layers of one padding: medians, and the loosest."""

    padding: str
    method: str
    layers: int
    upper: float | None
    loosest: float | None
    lower: float | None
    seconds: float


@dataclass
class Results:
    """All rows, and the machine and versions that they were measured with."""

    machine: dict[str, Any]
    rows: list[BoundRow] = field(default_factory=list)
    summary: list[Summary] = field(default_factory=list)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"


def layers(full: bool, small: bool, model: Path | None) -> Iterator[tuple[str, NumpyArray, ConvGeometry]]:
    """Name, kernel and zero-padded geometry of what is measured."""
    if model is None:
        for case in SMALL_CASES if small else CASES + (LARGE_CASES if full else ()):
            pads = tuple(k // 2 for k in case.kernel_shape[2:])
            yield case.name, case.kernel(), replace_padding(case.geometry, pads)
        for name, taps in SINGLE.items():
            kernel = np.asarray([[taps]], dtype=np.float32)
            yield f"one channel: {name}", kernel, ConvGeometry((16, 16), padding=1)
    if model is not None or not small:
        for layer in read_model(model or model_path()).layers:
            if layer.geometry is not None and not is_pointwise(layer.kernel, layer.geometry):
                kernel = np.asarray(layer.kernel, dtype=np.float32)
                yield f"{'demo' if model is None else model.stem}: {layer.name}", kernel, layer.geometry


def replace_padding(geometry: ConvGeometry, pads: tuple[int, ...]) -> ConvGeometry:
    return replace(geometry, padding=tuple((pad, pad) for pad in pads), padding_mode="zeros")


def is_pointwise(kernel: NumpyArray, geometry: ConvGeometry) -> bool:
    """Whether there is one tap: one matrix, and nothing to bound."""
    return bool(np.prod(geometry.correlation(kernel.shape).kernel_size) == 1)


def measure(
    name: str, kernel: NumpyArray, geometry: ConvGeometry, padding: str, rounds: int = 2
) -> list[BoundRow]:
    """Every method that takes the geometry; the norm of the kernel in double precision.

    Arguments:
        rounds: timed calls after the first; with 0 that one is timed, which has nothing warm.
    """
    exact = bounds.operator_norm(kernel.astype(np.float64), geometry, tolerance=1e-3)
    low, high = exact.lower, exact.upper
    norm = float(np.asarray(low)), float(np.asarray(high))
    rows = []
    for method, call in METHODS.items():
        began = time.perf_counter()
        try:
            found = call(kernel, geometry)
        except (CostError, GeometryError):
            continue
        taken = [time.perf_counter() - began]
        taken = [seconds_of(partial(call, kernel, geometry)) for _ in range(rounds)] or taken
        if isinstance(found, float):
            sides, kind = (found, None), "estimate"
        else:
            sides, kind = (found.upper, found.lower), found.status
        upper, lower = (
            None if side is None or not of > 0 else float(side) / of
            for side, of in zip(sides, norm, strict=True)
        )
        rows.append(BoundRow(name, padding, method, kind, norm, upper, lower, min(taken)))
    return rows


def summarise(rows: list[BoundRow]) -> list[Summary]:
    """Each method over all layers."""
    found = []
    for padding in dict.fromkeys(row.padding for row in rows):
        for method in dict.fromkeys(row.method for row in rows):
            mine = [row for row in rows if (row.padding, row.method) == (padding, method)]
            if not mine:
                continue
            uppers = [row.upper for row in mine if row.upper is not None]
            lowers = [row.lower for row in mine if row.lower is not None]
            found.append(
                Summary(
                    padding,
                    method,
                    len(mine),
                    statistics.median(uppers) if uppers else None,
                    max(uppers, default=None),
                    statistics.median(lowers) if lowers else None,
                    statistics.median(row.seconds for row in mine),
                )
            )
    return found


def run(
    full: bool = False,
    small: bool = False,
    progress: Callable[[float, str], None] | None = None,
    model: Path | None = None,
) -> Results:
    """Every method on every layer, zero-padded and wrapped.

    Arguments:
        full: wide layers too, which take minutes.
        small: only toy layers, in seconds: to see that it works.
        model: a model file, whose layers are measured instead.

    Raises:
        ModelError: the file is missing, damaged, or no model.
    """
    chosen, results = list(layers(full, small, model)), Results(machine())
    tell = progress or (lambda share, what: None)
    for done, (name, kernel, geometry) in enumerate(chosen):
        tell(done / len(chosen), name)
        for padding, shaped in (("zeros", geometry), ("circular", geometry.on_torus())):
            if padding == "zeros" and geometry.padding_mode != "zeros":
                continue
            if padding == "circular" and not shaped.correlation(kernel.shape).is_circulant:
                continue
            results.rows += measure(name, kernel, shaped, padding, rounds=0 if small else 2)
    results.summary = summarise(results.rows)
    tell(1.0, "done")
    return results
