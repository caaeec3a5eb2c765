"""Side by side in one process: every way to the spectrum and to the norm, timed and checked.

Times are compared as ratios within one round, since machines are shared and drift: in each round every
method runs once, and the median and the range of the rounds' ratios are reported. What a method returns
is checked in the same run against LAPACK in double precision on half of the frequencies.

References: the two lines of NumPy, Sedghi, Gupta and Long (2019), Section 1; Gram iteration, Delattre,
Barthelemy, Araujo and Allauzen (2023), Algorithm 3; the reshaped kernel, Yoshida and Miyato (2017).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np

from convspectra._solvers import pool
from convspectra.bounds import operator_norm
from convspectra.compute import Compute
from convspectra.geometry import ConvGeometry
from convspectra.operators.reference import dense_operator
from convspectra.problem import problem_of
from convspectra.results import Spectrum
from convspectra.spectrum import singular_values
from convspectra.symbol import frequency_grid, symbol_blocks

from .measuring import Case, NumpyArray, machine, seconds_of

Method = Callable[[NumpyArray, ConvGeometry], Any]

GRAM_ITERATIONS = 5
POWER_STEPS = 50


CASES = (
    Case("figure 1: 16 channels, 3x3 on 16x16", (16, 16, 3, 3), (16, 16)),
    Case("figure 1: 64 channels, 3x3 on 16x16", (64, 64, 3, 3), (16, 16)),
    Case("figure 1: 16 channels, 11x11 on 64x64", (16, 16, 11, 11), (64, 64)),
    Case("CIFAR ResNet: 16 channels, 32x32", (16, 16, 3, 3), (32, 32)),
    Case("CIFAR ResNet: 32 channels, 16x16", (32, 32, 3, 3), (16, 16)),
    Case("CIFAR ResNet: 64 channels, 8x8", (64, 64, 3, 3), (8, 8)),
    Case("ResNet: 64 channels, 56x56", (64, 64, 3, 3), (56, 56)),
    Case("ResNet: 128 channels, 28x28", (128, 128, 3, 3), (28, 28)),
    Case("ResNet: 256 channels, 14x14", (256, 256, 3, 3), (14, 14)),
    Case("ResNet: 512 channels, 7x7", (512, 512, 3, 3), (7, 7)),
    Case("ResNet stem: 7x7, stride 2, 3 to 64, 224x224", (64, 3, 7, 7), (224, 224), stride=2),
    Case("depthwise: 3x3, 128 channels, 56x56", (128, 1, 3, 3), (56, 56), groups=128),
    Case("pointwise: 2048 to 512, 2x2", (512, 2048, 1, 1), (2, 2)),
)
SMALL_CASES = (
    Case("4 channels, 3x3 on 8x8", (4, 4, 3, 3), (8, 8)),
    Case("stride 2, 3 to 8 channels", (8, 3, 3, 3), (8, 8), stride=2),
)
CURVES = {
    "3x3 on 16x16": ((3, 3), (16, 16), (4, 8, 16, 32, 64, 128), (4, 8, 16, 32, 64, 128, 256)),
    "11x11 on 64x64": ((11, 11), (64, 64), (4, 8, 16, 32), (4, 8, 16, 32, 64, 128)),
}
SMALL_CURVES = {"3x3 on 8x8": ((3, 3), (8, 8), (2, 4), (2, 4))}


# ---- the methods: kernel OIHW and geometry to all singular values, or to a norm


def dense_matrix(kernel: NumpyArray, geometry: ConvGeometry) -> NumpyArray:
    """The matrix of the whole operator, and its SVD."""
    return np.linalg.svd(dense_operator(kernel, geometry), compute_uv=False)


def two_lines_numpy(kernel: NumpyArray, geometry: ConvGeometry) -> NumpyArray:
    """The paper's two lines."""
    transforms = np.fft.fft2(np.transpose(kernel, (2, 3, 0, 1)), geometry.input_shape, axes=(0, 1))
    return np.linalg.svd(transforms, compute_uv=False)


def two_lines_torch(kernel: NumpyArray, geometry: ConvGeometry) -> NumpyArray:
    """The same in PyTorch."""
    import torch

    transforms = torch.fft.fft2(torch.from_numpy(kernel), geometry.input_shape).permute(2, 3, 0, 1)
    return np.asarray(torch.linalg.svdvals(transforms))


def half_grid_lapack(kernel: NumpyArray, geometry: ConvGeometry) -> NumpyArray:
    """`singular_values` through NumPy's LAPACK: half of the frequencies, threads over blocks."""
    return np.asarray(singular_values(kernel, geometry, compute=Compute(solver="lapack")).values)


def native_core(kernel: NumpyArray, geometry: ConvGeometry) -> NumpyArray:
    """`singular_values` by the solver it chooses."""
    return np.asarray(singular_values(kernel, geometry).values)


def norm_exact(kernel: NumpyArray, geometry: ConvGeometry) -> Any:
    return operator_norm(kernel, geometry).upper


def norm_gram(kernel: NumpyArray, geometry: ConvGeometry) -> float:
    """Gram iteration on half of the frequencies: an upper bound."""
    problem = problem_of(kernel, geometry)
    correlation = problem.correlation
    blocks = symbol_blocks(problem.kernel, correlation, frequency_grid(correlation))
    logarithm = np.zeros(blocks.shape[:2])
    for _ in range(GRAM_ITERATIONS):
        scale = np.linalg.norm(blocks, axis=(-2, -1), keepdims=True)
        blocks = blocks / scale
        logarithm = 2 * (logarithm + np.log(scale[..., 0, 0]))
        blocks = np.matmul(np.conj(np.swapaxes(blocks, -1, -2)), blocks)
    last = np.linalg.norm(blocks, axis=(-2, -1))
    return float(np.exp((np.log(last) + logarithm) / 2**GRAM_ITERATIONS).max())


def norm_power(kernel: NumpyArray, geometry: ConvGeometry) -> float:
    """Power iteration on the layer itself in PyTorch, a fixed number of steps: a lower estimate."""
    import torch

    functional = torch.nn.functional
    weight = torch.from_numpy(kernel)
    reach = [k - 1 for k in kernel.shape[2:]]
    x = torch.randn(1, kernel.shape[1], *geometry.input_shape, generator=torch.Generator().manual_seed(1))
    value = 0.0
    for _ in range(POWER_STEPS):
        x = x / torch.linalg.vector_norm(x)
        y = functional.conv2d(functional.pad(x, (0, reach[1], 0, reach[0]), mode="circular"), weight)
        value = float(torch.linalg.vector_norm(y))
        flipped = weight.flip(2, 3).transpose(0, 1)
        x = functional.conv2d(functional.pad(y, (reach[1], 0, reach[0], 0), mode="circular"), flipped)
    return value


def norm_reshaped(kernel: NumpyArray, _: ConvGeometry) -> float:
    """The reshaped kernel's norm: neither bound nor estimate of a wrapped layer's."""
    return float(np.linalg.norm(kernel.reshape(len(kernel), -1), 2))


def spectrum_methods(case: Case, dense_limit: int = 1600) -> dict[str, Method]:
    """Those that apply to a case; the dense matrix where it has at most `dense_limit` rows."""
    methods: dict[str, Method] = {}
    inputs = case.kernel_shape[1] * case.groups * int(np.prod(case.input_shape))
    if case.is_plain:
        methods["two lines, NumPy"] = two_lines_numpy
        methods["two lines, torch"] = two_lines_torch
    if inputs <= dense_limit:
        methods["dense matrix"] = dense_matrix
    methods["half grid, LAPACK"] = half_grid_lapack
    methods["convspectra"] = native_core
    return methods


def norm_methods(case: Case) -> dict[str, Method]:
    methods: dict[str, Method] = {"all singular values": native_core, "convspectra": norm_exact}
    if min(case.kernel_shape[:2]) > 1 and case.groups == 1:
        methods[f"Gram iteration, {GRAM_ITERATIONS}"] = norm_gram
    if case.is_plain:
        methods[f"power iteration, {POWER_STEPS}"] = norm_power
    methods["reshaped kernel"] = norm_reshaped
    return methods


# ---- measuring


@dataclass(frozen=True)
class Row:
    """One method on one case.

    Attributes:
        seconds: of each round.
        ratio: how many times faster than the case's first method: median and range over the rounds.
        error: the largest error over all values (or of the norm, signed), divided by the norm.
        rate: share of the machine's matrix-product rate; None where no decomposition is needed.
    """

    case: str
    kind: str
    method: str
    seconds: list[float]
    ratio: tuple[float, float, float]
    error: float
    rate: float | None = None


@dataclass
class Results:
    """All rows, and the machine and versions that they were measured with."""

    machine: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    scaling: list[dict[str, Any]] = field(default_factory=list)
    memory: list[dict[str, Any]] = field(default_factory=list)
    curves: dict[str, dict[str, list[tuple[int, float]]]] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"


def measure(case: Case, rate: float, rounds: int = 5, limit: float = 8.0) -> list[Row]:
    """All methods for the spectrum, then all for the norm, in turn, round by round.

    Arguments:
        rate: matrix-product rate in GFLOP/s, for the share of it.
        limit: no further round begins after so many seconds.
    """
    kernel, geometry = case.kernel(), case.geometry
    exact = singular_values(kernel.astype(np.float64), geometry, compute=Compute(solver="lapack"))
    flops = case.flops()
    rows = []
    for kind, methods in (("spectrum", spectrum_methods(case)), ("norm", norm_methods(case))):
        # The first run warms up, and is what is checked.
        errors = {name: _error(method(kernel, geometry), exact) for name, method in methods.items()}
        seconds: dict[str, list[float]] = {name: [] for name in methods}
        began = time.perf_counter()
        for done in range(rounds):
            if done and time.perf_counter() - began > limit:
                break
            for name, method in methods.items():
                seconds[name].append(seconds_of(partial(method, kernel, geometry)))
        reference = seconds[next(iter(methods))]
        for name, times in seconds.items():
            ratios = [a / b for a, b in zip(reference, times, strict=True)]
            share = None
            if flops and kind == "spectrum":
                share = flops / statistics.median(times) / 1e9 / rate
            spread = (statistics.median(ratios), min(ratios), max(ratios))
            rows.append(Row(case.name, kind, name, times, spread, errors[name], share))
    return rows


def _error(found: Any, exact: Spectrum) -> float:
    """Of all singular values the largest error, of a norm the signed one; by the exact norm."""
    norm = float(exact.norm)
    if not isinstance(found, np.ndarray):
        return (float(found) - norm) / norm
    expected = exact.sorted()
    if found.size < expected.size:
        found = np.repeat(found, exact.multiplicity, axis=0)
    values = np.sort(found.reshape(-1))[::-1]
    return float(np.abs(values - expected).max()) / norm


def scaling(small: bool) -> Iterator[dict[str, Any]]:
    """The same layer on larger inputs, and with more threads: seconds, the best of three."""
    kernel = Case("", (8, 8, 3, 3) if small else (64, 64, 3, 3), (8, 8)).kernel()
    for n in (8, 16) if small else (16, 32, 64):
        geometry = Case("", kernel.shape, (n, n)).geometry
        yield {
            "what": f"{len(kernel)} channels, {n}x{n}",
            "seconds": min(seconds_of(partial(singular_values, kernel, geometry)) for _ in range(3)),
        }
    threads = 1
    while threads <= pool.available_cores():
        with ThreadPoolExecutor(threads) as executor:
            call = partial(singular_values, kernel, geometry, compute=Compute(executor=executor))
            yield {
                "what": f"{len(kernel)} channels, {n}x{n}, threads: {threads}",
                "seconds": min(seconds_of(call) for _ in range(3)),
            }
        threads *= 2


_MEMORY = """
from convspectra import singular_values
from convspectra_experiments import bench
def high_water():
    with open("/proc/self/status") as lines:
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
other = bench.Case("", (2, 2, 3, 3), (8, 8))
singular_values(other.kernel(), other.geometry)
case = bench.Case("", {shape}, {size})
kernel, geometry = case.kernel(), case.geometry
with open("/proc/self/clear_refs", "w") as reset:
    reset.write("5")
before = high_water()
values = singular_values(kernel, geometry).values
print(high_water() - before - values.nbytes, values.nbytes)
"""


def memory(case: Case) -> dict[str, Any]:
    """Peak memory of one call beyond its input and output, in a process of its own (Linux)."""
    code = _MEMORY.format(shape=case.kernel_shape, size=case.input_shape)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    beyond, output = map(int, ran.stdout.split())
    return {"case": case.name, "beyond_mib": beyond / 2**20, "output_mib": output / 2**20}


def curve(
    taps: tuple[int, int], size: tuple[int, int], channels: tuple[int, ...], limit: float
) -> dict[str, list[tuple[int, float]]]:
    """Seconds of each method over the number of channels: the paper's figure 1.

    A method that took longer than `limit` seconds is not tried on more channels.
    """
    found: dict[str, list[tuple[int, float]]] = {}
    for count in channels:
        case = Case("", (count, count, *taps), size)
        kernel, geometry = case.kernel(), case.geometry
        for name, method in spectrum_methods(case, dense_limit=2100).items():
            points = found.setdefault(name, [])
            if points and (points[-1][1] > limit or points[-1][0] != _before(channels, count)):
                continue
            call = partial(method, kernel, geometry)
            times = [seconds_of(call), seconds_of(call)]
            while len(times) < 7 and sum(times) < 1.0:
                times.append(seconds_of(call))
            points.append((count, min(times)))
    return found


def _before(channels: tuple[int, ...], count: int) -> int:
    return channels[max(0, channels.index(count) - 1)]


def run(
    full: bool = False, small: bool = False, progress: Callable[[float, str], None] | None = None
) -> Results:
    """Everything: the table of cases, scaling, memory, and figure 1.

    Arguments:
        full: the paper's whole curves in figure 1, and more patience; about an hour.
        small: only toy cases, in seconds: to see that it works.
    """
    cases, curves = (SMALL_CASES, SMALL_CURVES) if small else (CASES, CURVES)
    results = Results(machine())
    rate = results.machine["matrix_product_gflops"]
    steps = len(cases) + len(curves) + 1
    tell = progress or (lambda share, what: None)
    for i, case in enumerate(cases):
        tell(i / steps, case.name)
        results.rows += measure(case, rate, limit=60.0 if full else 10.0)
    tell(len(cases) / steps, "scaling and memory")
    results.scaling = list(scaling(small))
    if sys.platform == "linux":
        largest = max(cases, key=lambda case: case.flops())
        wide = () if small else (Case("64 channels, 256x256", (64, 64, 3, 3), (256, 256)),)
        results.memory = [memory(case) for case in (largest, *wide)]
    for i, (name, (taps, size, some, whole)) in enumerate(curves.items()):
        tell((len(cases) + 1 + i) / steps, f"figure 1: {name}")
        results.curves[name] = curve(taps, size, whole if full else some, limit=600.0 if full else 6.0)
    tell(1.0, "done")
    return results
