"""What a training step pays for its projections, in PyTorch, on whatever device it has.

Each way to clip gets a network of its own, equal at the start, that is really trained (on noise) and clipped
after every step, as it would be with `every=1`: how many blocks lie outside is then what training makes it.
A round takes one training step and one clip of every network in turn.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

WAYS = ("appendix_a", "reshaped", "rescale", "project")
"""Of `SpectralClip`; `reshaped` is the clip of the reshaped kernel that the paper compares with."""


@dataclass(frozen=True)
class Training:
    """A network and the size of what it is trained on."""

    name: str
    network: str
    image: int
    batch: int
    ways: tuple[str, ...] = WAYS
    max_norm: float = 1.0


TRAININGS = (
    Training("ResNet-32 of 2.4 M parameters, 32x32, batch 128", "cifar_resnet", 32, 128),
    Training(
        "ResNet-18, 224x224, batch 32", "imagenet_resnet18", 224, 32, ("appendix_a", "reshaped", "rescale")
    ),
    Training("ResNet-18, 224x224, batch 128", "imagenet_resnet18", 224, 128, ("appendix_a",)),
)


@dataclass(frozen=True)
class TrainingCost:
    """What one way to clip costs in one training.

    Attributes:
        step, first, later: seconds of a training step, of a clip of the untrained network, and of those
            after each training step but the first: medians.
        every_1, every_100: what the clip adds to the time of training, as a share: `later / step`, and
            `first / (100 step)`, since after 100 steps without one there is much to clip.
        norm: the largest norm of a layer afterwards, by the limit.
    """

    training: str
    way: str
    device: str
    step: float
    first: float
    later: float
    norm: float

    @property
    def every_1(self) -> float:
        return self.later / self.step

    @property
    def every_100(self) -> float:
        return self.first / (100 * self.step)


def measure_training(training: Training, rounds: int) -> list[TrainingCost]:
    """All ways, in turn, round by round."""
    import torch

    from convspectra.torch import SpectralClip

    from ..networks import resnet

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wait: Callable[[], Any] = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    generator = torch.Generator().manual_seed(0)
    shape = (training.batch, 3, training.image, training.image)
    images = torch.randn(shape, generator=generator).to(device)
    labels = torch.randint(10, (training.batch,), generator=generator).to(device)
    runs = {}
    for way in training.ways:
        torch.manual_seed(0)
        model = getattr(resnet, training.network)().to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        runs[way] = (model, optimizer, SpectralClip(model, training.max_norm, method=way, guarantee="torus"))  # type: ignore[arg-type]

    def step(model: Any, optimizer: Any) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss: Any = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    def seconds(call: Callable[[], Any]) -> float:
        wait()
        began = time.perf_counter()
        call()
        wait()
        return time.perf_counter() - began

    untrained = {way: {k: v.clone() for k, v in run[0].state_dict().items()} for way, run in runs.items()}
    steps: list[float] = []
    clips: dict[str, list[float]] = {way: [] for way in training.ways}
    for turn in range(rounds + 2):  # the first step of all warms up
        for way, (model, optimizer, clip) in runs.items():
            taken = seconds(partial(step, model, optimizer))
            if turn:
                steps.append(taken)
            clips[way].append(seconds(clip.step))
    costs = []
    for way, (model, _, clip) in runs.items():
        norms = [record.norm for record in clip.report() if record.norm is not None]
        model.load_state_dict(untrained[way])
        first = seconds(clip.act)
        costs.append(
            TrainingCost(
                training.name,
                way,
                torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
                statistics.median(steps),
                first,
                statistics.median(clips[way][1:]),
                float(max(norms)) / training.max_norm,
            )
        )
    return costs
