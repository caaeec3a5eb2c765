"""Projections side by side: the paper's clip and ours, ways to the nearest kernel, what training pays.

As in `spectra`, times are compared as ratios within one round, and what a method returns is checked in the
same run. Methods for the nearest kernel all run until the same proven gap.

References: the clip, Sedghi, Gupta and Long (2019), Appendix A; Dykstra (1983); the reshaped kernel, Yoshida
and Miyato (2017).
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, get_args

import numpy as np

from convspectra.bounds import operator_norm
from convspectra.geometry import ConvGeometry
from convspectra.projection import clip, project, rescale
from convspectra.projection.nearest import Method
from convspectra.results import Projection

from .measuring import Case, NumpyArray, machine, seconds_of, timed
from .training_steps import TRAININGS, Training, TrainingCost, measure_training

CASES = (
    Case("16 channels, 32x32", (16, 16, 3, 3), (32, 32)),
    Case("32 channels, 16x16", (32, 32, 3, 3), (16, 16)),
    Case("64 channels, 32x32", (64, 64, 3, 3), (32, 32)),
    Case("64 channels, 56x56", (64, 64, 3, 3), (56, 56)),
    Case("128 channels, 28x28", (128, 128, 3, 3), (28, 28)),
    Case("256 channels, 14x14", (256, 256, 3, 3), (14, 14)),
)
SMALL_CASES = (Case("4 channels, 8x8", (4, 4, 3, 3), (8, 8)),)
NEAREST = (
    Case("8 channels, 16x16", (8, 8, 3, 3), (16, 16)),
    Case("16 channels, 16x16", (16, 16, 3, 3), (16, 16)),
    Case("16 channels, 32x32", (16, 16, 3, 3), (32, 32)),
    Case("32 channels, 16x16", (32, 32, 3, 3), (16, 16)),
)
GAP = 1e-3
LIMITS = (0.5, 0.9)
"""Limits of the clip, as shares of the norm: most blocks outside, and few."""


def appendix_a(kernel: NumpyArray, geometry: ConvGeometry, limit: float) -> NumpyArray:
    """The paper's appendix A in NumPy, line by line, for a kernel OIHW."""
    transforms = np.fft.fft2(np.transpose(kernel, (2, 3, 0, 1)), geometry.input_shape, axes=[0, 1])
    u, d, v = np.linalg.svd(transforms, compute_uv=True, full_matrices=False)
    clipped = np.matmul(u * np.minimum(d, limit)[..., None, :], v)
    back = np.fft.ifft2(clipped, axes=[0, 1]).real
    return np.asarray(np.transpose(back[np.ix_(*map(range, kernel.shape[2:]))], (2, 3, 0, 1)))


def appendix_a_torch(kernel: NumpyArray, geometry: ConvGeometry, limit: float) -> NumpyArray:
    """The same in PyTorch."""
    import torch

    transforms = torch.fft.fft2(torch.from_numpy(kernel), geometry.input_shape).permute(2, 3, 0, 1)
    u, d, v = torch.linalg.svd(transforms, full_matrices=False)
    clipped = (u * d.clamp(max=limit)[..., None, :]) @ v
    back = torch.fft.ifft2(clipped, dim=(0, 1)).real
    return np.asarray(back[: kernel.shape[2], : kernel.shape[3]].permute(2, 3, 0, 1))


@dataclass(frozen=True)
class ClipRow:
    """One way to clip on one case.

    Attributes:
        limit: as a share of the norm.
        seconds, ratio: of each round; how many times faster than appendix A, median and range.
        error: largest difference to appendix A in double precision, by the kernel's largest entry; None
            where the method is another one.
        norm: after, by the limit.
    """

    case: str
    limit: float
    method: str
    seconds: list[float]
    ratio: tuple[float, float, float]
    error: float | None
    norm: float


@dataclass(frozen=True)
class NearestRow:
    """One method for the nearest kernel, run until the gap.

    Attributes:
        sweeps, gap: taken, and reached, relative to half the squared distance.
        ratio: how many times faster than Dykstra's algorithm.
        distance: to the kernel found with a gap of 1e-6, by the distance moved; proven to be at most
            about the root of the gap.
    """

    case: str
    method: str
    seconds: float
    sweeps: int
    gap: float
    ratio: float
    distance: float


@dataclass
class Results:
    """All rows, and the machine and versions that they were measured with."""

    machine: dict[str, Any]
    clips: list[ClipRow] = field(default_factory=list)
    nearest: list[NearestRow] = field(default_factory=list)
    training: list[TrainingCost] = field(default_factory=list)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"


def measure_clips(case: Case, share: float, rounds: int = 5, limit_seconds: float = 15.0) -> list[ClipRow]:
    """All ways to clip, in turn, round by round."""
    kernel, geometry = case.kernel(), case.geometry
    norm = norm_of(kernel, geometry)
    methods: dict[str, Callable[..., Any]] = {
        "appendix A, NumPy": appendix_a,
        "appendix A, torch": appendix_a_torch,
        "clip": clip,
        "rescale": rescale,
    }
    expected = appendix_a(kernel.astype(np.float64), geometry, share * norm)
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    found = {name: _kernel(method(kernel, geometry, share * norm)) for name, method in methods.items()}
    for done in range(rounds):
        if done and sum(map(sum, seconds.values())) > limit_seconds:
            break
        for name, method in methods.items():
            seconds[name].append(seconds_of(partial(method, kernel, geometry, share * norm)))
    rows = []
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(seconds["appendix A, NumPy"], times, strict=True)]
        error = float(np.abs(found[name] - expected).max() / np.abs(kernel).max())
        after = norm_of(found[name], geometry) / (share * norm)
        spread = (statistics.median(ratios), min(ratios), max(ratios))
        same = "clip" in name or "appendix" in name
        rows.append(ClipRow(case.name, share, name, times, spread, error if same else None, after))
    return rows


def norm_of(kernel: NumpyArray, geometry: ConvGeometry) -> float:
    upper: Any = operator_norm(kernel, geometry).upper
    return float(upper)


def _kernel(found: Any) -> NumpyArray:
    return np.asarray(found.kernel if isinstance(found, Projection) else found)


def measure_nearest(case: Case, share: float = 0.5, most: int = 20_000) -> list[NearestRow]:
    """Every method that converges to the nearest kernel, until the same gap, in double precision."""
    kernel, geometry = case.kernel().astype(np.float64), case.geometry
    limit = share * norm_of(kernel, geometry)
    run = partial(project, kernel, geometry, limit, max_iterations=most)
    best = run(tolerance=1e-6)
    moved = float(np.linalg.norm(best.kernel - kernel))
    results = {}
    for method in get_args(Method):
        if method != "alternate":
            results[method] = timed(partial(run, tolerance=GAP, method=method))
    return [
        NearestRow(
            case.name,
            method,
            seconds,
            found.iterations,
            float(found.gap or 0) / (float(np.sum((found.kernel - kernel) ** 2)) / 2),
            results["dykstra"][0] / seconds,
            float(np.linalg.norm(found.kernel - best.kernel)) / moved,
        )
        for method, (seconds, found) in results.items()
    ]


def run(
    full: bool = False, small: bool = False, progress: Callable[[float, str], None] | None = None
) -> Results:
    """Everything: clips, nearest kernels, and training steps.

    Arguments:
        full: more rounds, and longer trainings.
        small: only toy cases, in seconds: to see that it works.
    """
    cases, nearest = (SMALL_CASES, SMALL_CASES) if small else (CASES, NEAREST)
    trainings: tuple[Training, ...] = () if small else TRAININGS
    steps = len(cases) * len(LIMITS) + len(nearest) + 3 * len(trainings)
    results, done = Results(machine()), 0
    tell = progress or (lambda share, what: None)
    for case in cases:
        for share in LIMITS:
            tell(done / steps, f"clip: {case.name}")
            results.clips += measure_clips(case, share, rounds=15 if full else 5)
            done += 1
    for case in nearest:
        tell(done / steps, f"nearest kernel: {case.name}")
        results.nearest += measure_nearest(case)
        done += 1
    for training in trainings:
        tell(done / steps, f"training: {training.name}")
        results.training += measure_training(training, rounds=10 if full else 3)
        done += 3
    tell(1.0, "done")
    return results
