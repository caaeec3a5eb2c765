"""Every interval against the dense norm, over many random small layers of every boundary.

    python scripts/check_bounds.py --count 100000 --seed 0 --out bounds.json

Layer `i` of a seed is always the same, and what is done is kept in `--out` after each chunk: stopped and
started again with the same seed it goes on where it was. Exit status 1 if an interval was violated.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np

import convspectra as cs
from convspectra import bounds, cost
from convspectra.atomic import atomic
from convspectra.operators.reference import dense_operator

MODES = ("zeros", "valid", "same", "circular", "reflect", "replicate")
METHODS = ("default", "certificates", "float32")
LARGEST = {1: 14, 2: 5, 3: 3}


def random_layer(seed: int, index: int) -> tuple[np.ndarray, cs.ConvGeometry, str] | None:
    """Kernel, geometry and mode of one layer; None where its sizes leave no output."""
    rng = np.random.default_rng([seed, index])
    axes = int(rng.choice([1, 1, 2, 2, 2, 3]))
    mode = str(rng.choice(MODES))
    stride, dilation = rng.integers(1, 4, axes), rng.integers(1, 4, axes)
    taps = rng.integers(1, 5 if axes < 3 else 4, axes)
    groups, transposed = int(rng.choice([1, 1, 2, 3])), bool(rng.random() < 0.3)
    shape = (groups * int(rng.integers(1, 4)), int(rng.integers(1, 4)), *map(int, taps))
    reach = dilation * (taps - 1)
    size = rng.integers(1, LARGEST[axes] + 1, axes) + (0 if transposed else rng.integers(0, reach + 1))
    padding: object = "same" if mode == "same" else "valid"
    if mode not in ("same", "valid"):
        padding = [tuple(map(int, rng.integers(0, r + 2, 2))) for r in reach]
    options = {
        "stride": tuple(map(int, stride)),
        "dilation": tuple(map(int, dilation)),
        "groups": groups,
        "transposed": transposed,
        "padding": padding,
        "padding_mode": mode if mode in ("circular", "reflect", "replicate") else "zeros",
    }
    if transposed and mode != "same":
        top = np.maximum(stride, dilation)
        options["output_padding"] = tuple(int(rng.integers(0, t)) for t in top)
    kind = str(rng.choice(["normal", "rank one", "sparse", "ones", "zero"], p=[0.6, 0.12, 0.12, 0.12, 0.04]))
    kernel = rng.standard_normal(shape)
    if kind == "rank one":
        kernel = np.multiply.outer(rng.standard_normal(shape[:2]), rng.standard_normal(shape[2:]))
    elif kind == "sparse":
        kernel = kernel * (rng.random(shape) < 0.4)
    elif kind != "normal":
        kernel = np.ones(shape) * (kind == "ones")
    try:
        geometry = cs.ConvGeometry(tuple(map(int, size)), **options)
        geometry.correlation(kernel.shape)
    except cs.GeometryError:
        return None
    return kernel, geometry, mode


def check(kernel: np.ndarray, geometry: cs.ConvGeometry, method: str) -> tuple[bool, float]:
    """Whether the interval holds, and its width `upper / lower - 1`."""
    single = method == "float32"
    kernel = kernel.astype(np.float32) if single else kernel
    norm = float(np.linalg.norm(dense_operator(kernel, geometry), 2))
    side = cost.LARGEST_MATRIX
    try:
        cost.LARGEST_MATRIX = 0 if method == "certificates" else side
        bound = bounds.operator_norm(kernel, geometry)
    finally:
        cost.LARGEST_MATRIX = side
    lower, upper = float(bound.lower), float(bound.upper)
    # The dense norm is itself rounded; the symbol's value, lower and upper in one, is so too.
    rounding = 20 * float(np.finfo(kernel.dtype).eps) if bound.method == "symbol" else 1e-14
    holds = lower <= norm * (1 + rounding) and norm <= upper * (1 + rounding)
    return holds, upper / lower - 1 if lower > 0 else 0.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--chunk", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    state = {"seed": options.seed, "done": 0, "checked": 0, "violated": [], "seconds": 0.0, "width": {}}
    if options.out and options.out.exists():
        found = json.loads(options.out.read_text())
        state = found if found.get("seed") == options.seed else state
    while state["done"] < options.count:
        began, stop = time.perf_counter(), min(state["done"] + options.chunk, options.count)
        for index in range(state["done"], stop):
            layer = random_layer(options.seed, index)
            if layer is None:
                continue
            kernel, geometry, mode = layer
            method = METHODS[index % len(METHODS)]
            try:
                holds, width = check(kernel, geometry, method)
            except ValueError as error:
                if "to mirror" not in str(error):
                    raise
                continue
            state["checked"] += 1
            if not holds:
                state["violated"].append({"index": index, "method": method})
            if method == "certificates":
                total, most, count = state["width"].get(mode, (0.0, 0.0, 0))
                state["width"][mode] = (total + math.log1p(width), max(most, width), count + 1)
        state["done"] = stop
        state["seconds"] += time.perf_counter() - began
        if options.out:
            with atomic(options.out) as file:
                file.write(json.dumps(state, indent=1).encode())
        print(f"{stop:>7} layers, {state['checked']} checked, {len(state['violated'])} violated", flush=True)
    for mode, (total, most, count) in sorted(state["width"].items()):
        mean = math.expm1(total / count)
        print(f"{mode:10} without the dense matrix: {mean:6.1%} wide (geometric mean), {most:.0%} at most")
    return 1 if state["violated"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
