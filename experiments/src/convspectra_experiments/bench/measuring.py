"""What every benchmark shares: layers to measure on, the machine, the clock."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from convspectra._solvers import choice, pool
from convspectra._version import __version__
from convspectra.geometry import ConvGeometry
from convspectra.symbol import frequency_grid

NumpyArray = np.ndarray[Any, Any]
Found = TypeVar("Found")

PAUSE = 0.1
"""Seconds before each measurement."""


@dataclass(frozen=True)
class Case:
    """A layer to measure on: a random kernel in float32, boundary wrapped."""

    name: str
    kernel_shape: tuple[int, ...]
    input_shape: tuple[int, ...]
    stride: int = 1
    groups: int = 1

    @property
    def geometry(self) -> ConvGeometry:
        return ConvGeometry(
            self.input_shape, self.stride, groups=self.groups, padding="same", padding_mode="circular"
        )

    @property
    def is_plain(self) -> bool:
        """Whether the paper's two lines are about this layer."""
        fits = all(k <= n for k, n in zip(self.kernel_shape[2:], self.input_shape, strict=True))
        return self.stride == 1 and self.groups == 1 and fits

    def kernel(self) -> NumpyArray:
        rng = np.random.default_rng(0)
        scale = np.sqrt(np.prod(self.kernel_shape[1:]))
        return np.asarray(rng.standard_normal(self.kernel_shape) / scale, dtype=np.float32)

    def flops(self) -> float:
        """Real operations of bidiagonalising the blocks of half of the frequencies."""
        grid = frequency_grid(self.geometry.correlation(self.kernel_shape))
        m, n = max(grid.block_shape), min(grid.block_shape)
        if n == 1 or len(grid.index) == 1:
            return 0.0
        return (16.0 * m * n * n - 16.0 * n**3 / 3) * len(grid.index) * self.groups


def timed(call: Callable[[], Found]) -> tuple[float, Found]:
    """Seconds that a call took, and what it returned."""
    # Threads that the last call left spinning (OpenBLAS's do, for a while) are not billed to this one.
    time.sleep(PAUSE)
    began = time.perf_counter()
    found = call()
    return time.perf_counter() - began, found


def seconds_of(call: Callable[[], object]) -> float:
    return timed(call)[0]


def machine() -> dict[str, Any]:
    """What was measured on, and its matrix-product rate in float32, GFLOP/s over all threads."""
    a = np.random.default_rng(0).standard_normal((1536, 1536)).astype(np.float32)
    best = min(seconds_of(lambda: a @ a) for _ in range(5))
    return {
        "convspectra": __version__,
        "solver": choice.describe(),
        "threads": pool.available_cores(),
        "processor": processor(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "matrix_product_gflops": round(2 * len(a) ** 3 / best / 1e9, 1),
    }


def processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
