"""Counts what is done more than once: kernel validations, torus problems, wave packets.

    python scripts/count_work.py [--json]

A torus problem is the symbol of one kernel on one torus, solved for its largest singular value, for all of
them, or for what exceeds a level; it is distinct by the kernel's entries and the torus. A validation is a
pass of the check that every kernel goes through at the public face. What is counted is wrapped where each
module refers to it, so that nothing of the library needs to know.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

import convspectra as cs
from convspectra import analysis, krylov, penalties  # noqa: F401  # so that they are wrapped, too
from convspectra._compat import to_numpy
from convspectra.demo import model_path
from convspectra.geometry import Correlation
from convspectra.models import read_model


@dataclass
class Work:
    """What was done, by kind; keys are digests of kernels, with the torus where there is one."""

    validated: Counter[str] = field(default_factory=Counter)
    tori: Counter[tuple[str, object]] = field(default_factory=Counter)
    packets: Counter[tuple[str, object]] = field(default_factory=Counter)

    def counts(self) -> dict[str, int]:
        return {
            "validations": self.validated.total(),
            "kernels": len(self.validated),
            "torus problems": self.tori.total(),
            "distinct": len(self.tori),
            "packets": self.packets.total(),
            "distinct packets": len(self.packets),
        }


def _digest(kernel: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(to_numpy(kernel)).tobytes()).hexdigest()[:16]


@contextmanager
def counting() -> Iterator[Work]:
    """Counts what is done inside."""
    work = Work()

    def validates(kernel: Any, *_: Any, **__: Any) -> None:
        if hasattr(kernel, "dtype"):
            work.validated[_digest(kernel)] += 1

    def solves(kernel: Any, torus: Correlation, *_: Any, **__: Any) -> None:
        # Blocks do not depend on the padding, which is the layer's.
        plain = replace(torus, padding=(), padding_mode="circular", transposed=False)
        work.tori[_digest(kernel), plain] += 1

    def makes_packet(vector: Any, _: object, torus: object, *__: Any) -> None:
        work.packets[_digest(vector), torus] += 1

    observers: dict[str, Callable[..., None]] = {
        "real_kernel": validates,
        "_top_block": solves,
        "spectrum_values": solves,
        "excess": solves,
        "input_wave": makes_packet,
    }
    wrapped: list[tuple[Any, str, Any]] = []
    modules = [m for name, m in sys.modules.items() if name.startswith("convspectra.") and m is not None]
    for module in modules:
        for name, observer in observers.items():
            genuine = vars(module).get(name)
            if callable(genuine) and getattr(genuine, "__module__", "").startswith("convspectra."):
                setattr(module, name, _observed(genuine, observer))
                wrapped.append((module, name, genuine))
    try:
        yield work
    finally:
        for module, name, genuine in wrapped:
            setattr(module, name, genuine)


def _observed(genuine: Callable[..., Any], observer: Callable[..., None]) -> Callable[..., Any]:
    def run(*args: Any, **options: Any) -> Any:
        observer(*args, **options)
        return genuine(*args, **options)

    return run


def norm_of(padding_mode: str, tolerance: float) -> None:
    """`operator_norm` of a layer that pads, too large to be decomposed."""
    kernel = np.random.default_rng(0).standard_normal((16, 16, 3, 3))
    geometry = cs.ConvGeometry((16, 16), padding=1, padding_mode=padding_mode)  # type: ignore[arg-type]
    cs.operator_norm(kernel, geometry, tolerance=tolerance)


def analysis_of_demo() -> None:
    """`analyze` of the demo network."""
    analysis.analyze(read_model(model_path()))


def step_of(method: str, guarantee: str) -> Callable[[], None]:
    """A training step with `SpectralClip`, after the step that measures and warms up."""
    import torch

    from convspectra.torch import SpectralClip

    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3, padding=1)
    )
    model(torch.zeros(1, 3, 16, 16))
    clip = SpectralClip(model, 0.5, method=method, guarantee=guarantee)  # type: ignore[arg-type]
    model(torch.zeros(1, 3, 16, 16))
    clip.step()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.5)
    return clip.step


def main() -> None:
    cases: dict[str, Callable[[], None]] = {
        "operator_norm, zeros": partial(norm_of, "zeros", 1e-6),
        "operator_norm, reflect": partial(norm_of, "reflect", 1e-6),
        "analyze, demo": analysis_of_demo,
    }
    for method in ("clip", "rescale", "project"):
        for guarantee in ("torus", "layer"):
            cases[f"SpectralClip.step, {method}, {guarantee}"] = step_of(method, guarantee)
    found = {}
    for name, run in cases.items():
        with counting() as work:
            run()
        found[name] = work.counts()
    if "--json" in sys.argv:
        print(json.dumps(found, indent=1))
        return
    for name, counts in found.items():
        print(f"{name:36s}", ", ".join(f"{count} {what}" for what, count in counts.items()))


if __name__ == "__main__":
    main()
