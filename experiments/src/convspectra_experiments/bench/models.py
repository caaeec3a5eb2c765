"""What an analysis of whole networks takes: seconds, memory, and how much of it the bounds are.

The networks are built here, as lists of layers with smooth kernels whose singular values decay as trained
ones do; nothing is trained and nothing is loaded. Each is analysed in a process of its own, for its peak of
memory.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from convspectra.analysis import analyze, plan
from convspectra.compute import Progress
from convspectra.geometry import ConvGeometry
from convspectra.models import ConvLayer, Model

from .measuring import NumpyArray, machine

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ModelRow:
    """One network.

    Attributes:
        name: of the network.
        layers, weights: how many.
        sampled: of how many layers the spectrum was sampled.
        estimated: seconds of one core, as `plan` has them.
        seconds: of the whole analysis, on all cores.
        without_bounds: seconds of the same with `bounds="none"`.
        megabytes: peak of the process, with the libraries and the kernels.
        goal: seconds on two idle cores; None for toy networks.
    """

    name: str
    layers: int
    weights: int
    sampled: int
    estimated: float
    seconds: float
    without_bounds: float
    megabytes: float
    goal: float | None

    @property
    def share_of_bounds(self) -> float:
        """Of the time."""
        return max(0.0, 1 - self.without_bounds / self.seconds)


@dataclass(frozen=True)
class Results:
    """Everything that was measured."""

    machine: dict[str, Any]
    rows: list[ModelRow] = field(default_factory=list)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"


def smooth_kernel(shape: Shape, rng: np.random.Generator) -> NumpyArray:
    """A kernel whose taps fall off from the middle, of channels whose gains decay, and some noise."""
    outputs, inputs, *sides = shape
    rank = min(outputs, inputs)
    left, right = (rng.standard_normal((side, rank)) / np.sqrt(side) for side in (outputs, inputs))
    gains = 1 / (1 + np.arange(rank) / (rank / 8 + 1))
    squares = sum(
        np.square(axis - (side - 1) / 2) for axis, side in zip(np.indices(sides), sides, strict=True)
    )
    filters = np.exp(-squares / 2) * (1 + 0.5 * rng.standard_normal((rank, *sides)))
    kernel = np.tensordot(left * gains, right[..., None] * filters.reshape(1, rank, -1), axes=(1, 1))
    noise = 0.1 * rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    return np.asarray(kernel.reshape(shape) + noise, dtype=np.float32)


@dataclass
class _Builder:
    """Layers in order, each with a kernel of its own."""

    layers: list[ConvLayer] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def add(self, input_shape: Shape, kernel_shape: Shape, **options: Any) -> None:
        geometry = ConvGeometry(input_shape, **({"padding": "same"} | options))
        name, kind = f"layer{len(self.layers)}", f"conv{len(input_shape)}d"
        kernel = smooth_kernel(kernel_shape, self.rng)
        self.layers.append(ConvLayer(name, kind, kernel, geometry.layout, geometry))


def resnet50(build: _Builder, size: int = 224) -> None:
    """He et al. (2016), bottlenecks with the stride in the 3x3 convolution."""
    build.add((size, size), (64, 3, 7, 7), stride=2, padding=3)
    inputs, n = 64, size // 4
    for stage, blocks in enumerate((3, 4, 6, 3)):
        middle = 64 << stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            build.add((n, n), (middle, inputs, 1, 1))
            build.add((n, n), (middle, middle, 3, 3), stride=stride, padding=1)
            if not block:
                build.add((n, n), (4 * middle, inputs, 1, 1), stride=stride, padding=0)
            n //= stride
            build.add((n, n), (4 * middle, middle, 1, 1))
            inputs = 4 * middle
    build.add((1,), (1000, inputs, 1))


def unet(build: _Builder, size: int = 256, width: int = 64) -> None:
    """Ronneberger et al. (2015), padded: 31 million weights at a width of 64."""
    for level in range(5):
        n, c = (size >> level,) * 2, width << level
        build.add(n, (c, c // 2 if level else 3, 3, 3))
        build.add(n, (c, c, 3, 3))
    for level in reversed(range(4)):
        n, c = (size >> level,) * 2, width << level
        build.add((n[0] // 2,) * 2, (2 * c, c, 2, 2), stride=2, transposed=True, padding=0)
        build.add(n, (c, 2 * c, 3, 3))
        build.add(n, (c, c, 3, 3))


def wavenet(build: _Builder, samples: int = 16_000, channels: int = 64, layers: int = 30) -> None:
    """Van den Oord et al. (2016): dilations 1 to 512, causal, as convolutions with padding on both sides."""
    for place in range(layers):
        dilation = 2 ** (place % 10)
        build.add((samples,), (2 * channels, channels, 2), dilation=dilation, padding=dilation)
        build.add((samples,), (channels, channels, 1))


def vae_decoder(build: _Builder, size: int = 512, width: int = 128) -> None:
    """Rombach et al. (2022): three residual blocks a level, 512, 512, 256 and 128 channels."""
    inputs = 4 * width
    build.add((size // 8,) * 2, (inputs, 4, 3, 3))
    for level, channels in enumerate((4 * width, 4 * width, 2 * width, width)):
        n = (size >> (3 - level),) * 2
        for _ in range(3):
            build.add(n, (channels, inputs, 3, 3))
            build.add(n, (channels, channels, 3, 3))
            inputs = channels
        if level < 3:
            build.add((2 * n[0],) * 2, (channels, channels, 3, 3))
    build.add((size, size), (3, inputs, 3, 3))


def many(build: _Builder, layers: int = 1000) -> None:
    """Layers of 16 channels on maps of 16 x 16."""
    for _ in range(layers):
        build.add((16, 16), (16, 16, 3, 3))


NETWORKS: dict[str, tuple[Callable[[_Builder], None], float | None]] = {
    "ResNet-50, 224x224": (resnet50, 6.0),
    "U-Net, 256x256": (unet, 60.0),
    "WaveNet, 16,000 samples": (wavenet, 10.0),
    "VAE decoder, 512x512": (vae_decoder, 300.0),
    "1,000 layers, 16x16": (many, 15.0),
}
SMALL: dict[str, tuple[Callable[[_Builder], None], float | None]] = {
    "U-Net, 16x16, 4 channels": (lambda build: unet(build, 16, 4), None),
    "10 layers, 16x16": (lambda build: many(build, 10), None),
}


def run(*, full: bool = False, small: bool = False, progress: Progress | None = None) -> Results:
    """Analyse each network once with and once without bounds.

    What is missing in a report is an error.

    Arguments:
        full: as otherwise; no network has a larger version.
        small: toy networks.
        progress: as everywhere.
    """
    del full
    networks = SMALL if small else NETWORKS
    rows = []
    for place, name in enumerate(networks):
        rows.append(_alone(name, small))
        if progress is not None:
            progress((place + 1) / len(networks), name)
    return Results(machine(), rows)


def _alone(name: str, small: bool) -> ModelRow:
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(measured, (name, small))


def measured(name: str, small: bool) -> ModelRow:
    """One network, in this process."""
    construct, goal = (SMALL if small else NETWORKS)[name]
    build = _Builder()
    construct(build)
    model = Model(name, "by hand", tuple(build.layers))
    seconds = {}
    for bounds in _twice():
        began = time.perf_counter()
        report = analyze(model, bounds=bounds)
        seconds[bounds] = time.perf_counter() - began
        if not report.complete:
            raise RuntimeError(f"{name}: an analysis with missing numbers is not a benchmark of one")
    return ModelRow(
        name=name,
        layers=len(model.layers),
        weights=sum(layer.kernel.size for layer in model.layers),
        sampled=sum(layer.torus is not None and layer.torus.sampled for layer in report.layers),
        estimated=plan(model).seconds,
        seconds=seconds["fast"],
        without_bounds=seconds["none"],
        megabytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        goal=goal,
    )


def _twice() -> Iterator[Any]:
    yield "none"
    yield "fast"
