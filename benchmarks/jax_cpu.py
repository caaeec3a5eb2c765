"""What compiled JAX programs on the CPU pay for norms and hinges, beside the paper's two lines in JAX.

    OPENBLAS_NUM_THREADS=1 python benchmarks/jax_cpu.py

Needs the extra `jax`. For layers of 3x3 taps, wrapped, in single precision: milliseconds of the compiled call
here, and how many times longer the paper's lines take, `jnp.linalg.svd(jnp.fft.fft2(kernel))` of half of the
frequencies, or their gradient. Both are checked against each other in the same run; the least of seven calls
counts, taken in turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import convspectra as cs

CASES = ((16, 32), (32, 16), (64, 16), (64, 32), (128, 16))


def papers(kernel: Any, points: int) -> Any:
    """All singular values, as Sedghi, Gupta and Long (2019) write them, of half of the frequencies."""
    symbol = jnp.fft.rfft2(kernel, (points, points), axes=(2, 3))
    return jnp.linalg.svd(jnp.transpose(symbol, (2, 3, 0, 1)), compute_uv=False)


def least(calls: list[Callable[[], Any]]) -> list[float]:
    """Milliseconds of each, in turn."""
    found = [float("inf")] * len(calls)
    for _ in range(7):
        for place, call in enumerate(calls):
            began = time.perf_counter()
            jax.block_until_ready(call())
            found[place] = min(found[place], 1e3 * (time.perf_counter() - began))
    return found


def main() -> None:
    print(f"{'channels, map':>16} {'what':>10} {'ms':>8} {'times':>6}")
    for channels, points in CASES:
        geometry = cs.ConvGeometry((points, points), padding="same", padding_mode="circular")
        drawn = np.random.default_rng(0).standard_normal((channels, channels, 3, 3))
        kernel = jnp.asarray(drawn / channels, jnp.float32)
        pairs: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
            "norm": (
                lambda k, g=geometry: cs.penalties.norm(k, g),
                lambda k, n=points: papers(k, n).max(),
            ),
            "hinge": (
                lambda k, g=geometry: cs.penalties.hinge(k, g, 0.2),
                lambda k, n=points: _twice(jnp.maximum(papers(k, n) - 0.2, 0) ** 2, n),
            ),
        }
        for name, (ours, theirs) in pairs.items():
            for what, change in ((name, jax.jit), ("its slope", lambda f: jax.jit(jax.grad(f)))):
                first, second = change(ours), change(theirs)
                np.testing.assert_allclose(first(kernel), second(kernel), rtol=1e-3, atol=1e-4)
                here, there = least([partial(first, kernel), partial(second, kernel)])
                print(f"{f'{channels}, {points}x{points}':>16} {what:>10} {here:8.2f} {there / here:6.1f}")


def _twice(values: Any, points: int) -> Any:
    """A sum over all frequencies, of those that `rfft2` gives; most stand for two."""
    weights = jnp.full(points // 2 + 1, 2.0).at[jnp.array([0, points // 2])].set(1.0)
    return (values.sum(-1) * weights).sum()


if __name__ == "__main__":
    main()
