"""One training run: from settings to a folder with its metrics, which can be stopped anywhere and goes on.

Every random number is a function of the seed and of where it is used (the epoch's order, the step's
augmentation), none of what happened before: a run that goes on from a checkpoint does what the unbroken
one does, to the bit, on one machine with one number of threads.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from convspectra.atomic import atomic
from convspectra.errors import InputError, KernelError

from ..data.datasets import Data, augmented, normalised, to_device
from ..networks.published import published_resnet
from ..networks.resnet import cifar_resnet, parameter_count
from . import folder as folders
from .batch_norms import recomputed_norms
from .controls import control_layers
from .environment import describe
from .precision import check_bfloat16
from .run_records import finite
from .settings import Settings
from .watching import final_numbers, layer_numbers

Progress = Callable[[float, str], None]
_UNREADABLE = (
    OSError,
    RuntimeError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    EOFError,
    pickle.UnpicklingError,
)
Found = TypeVar("Found")
# On a CPU, small ones: memory that is used again is faster than new pages.
TEST_BATCH = {"cpu": 125}


@dataclass(frozen=True)
class Machine:
    """What a run runs on; its result does not depend on it but for rounding.

    Attributes:
        device: of PyTorch.
        compiled: through `torch.compile`; not with `max_gain`, which acts through hooks.
    """

    device: str = "cpu"
    compiled: bool = False


def train(
    settings: Settings,
    data: Data,
    folder: Path,
    *,
    machine: Machine | None = None,
    progress: Progress | None = None,
    tensorboard: bool = False,
    checkpoint_seconds: float = 30.0,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
    """Train, or go on, or return the result at once where the folder has it.

    Arguments:
        settings: what to train; `settings.data` must be the name of `data`.
        data: images and labels.
        folder: of this run, which exists; the caller holds its lock. See `folder.py` for what it will hold.
        machine: where.
        progress: called after each step with the share done and a few words.
        tensorboard: also write the metrics for TensorBoard, into the folder.
        checkpoint_seconds: the least time between two checkpoints; at most so much, and a step, is lost.
        stop: asked after each step; when it says True the run keeps a checkpoint and ends.

    Returns:
        The result, or None where `stop` ended the run.

    Raises:
        InputError: other data than the settings name, a checkpoint of something else, a disk that refuses,
            tensorboardX asked for and not installed.
    """
    found = folders.read_result(folder)
    if found is not None:
        return found
    run = _Run(settings, data, folder, machine or Machine(), tensorboard)
    try:
        return run.go(progress, checkpoint_seconds, stop)
    finally:
        run.close()


def seeded(*words: int) -> torch.Generator:
    """A generator for one purpose."""
    state = np.random.SeedSequence(words).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 31 | int(state[1]) >> 1)


def build(settings: Settings, data: Data) -> nn.Module:
    """The network at its start, on the CPU; the global random state is left as it was."""
    size = (settings.depth, settings.width, data.channels, data.classes)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)
        if settings.network == "published":
            return published_resnet(*size)
        return cifar_resnet(*size, settings.batch_norm)


class _Run:
    """A run under way. `epoch` and `step` count what is finished; `sums` are of the epoch under way."""

    def __init__(
        self, settings: Settings, data: Data, folder: Path, machine: Machine, tensorboard: bool
    ) -> None:
        if settings.data != data.name:
            raise InputError(f"settings are for data {settings.data!r}; got {data.name!r}")
        self.settings, self.data, self.folder, self.machine = settings, data, folder, machine
        device = self.device = torch.device(machine.device)
        if settings.precision == "bfloat16":
            check_bfloat16(device)
        self.model = build(settings, data).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.shape = (data.channels, *data.size)
        self.control = control_layers(self.model, settings.control, self.shape)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            settings.rate,
            settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.momentum > 0,
        )
        self.forward: Callable[[Tensor], Tensor] = self.model
        # A graph compiled for an earlier run is used again without a look at this one's hooks.
        if machine.compiled and settings.control.method != "max_gain":
            self.forward = torch.compile(self.model)
        self.images, self.labels = to_device(data.train, device, settings.train_images)
        self.test = to_device(data.test, device, settings.test_images)
        self.batch = min(settings.batch, len(self.images))
        self.steps = len(self.images) // self.batch
        self.epoch = self.step = 0
        self.sums = self._no_sums()
        self.total_seconds = self.total_control = self.total_processor = 0.0
        self._go_on()
        self._describe()
        self.writer = _tensorboard(folder, self.step) if tensorboard else None

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()

    def go(
        self, progress: Progress | None, checkpoint_seconds: float, stop: Callable[[], bool]
    ) -> dict[str, Any] | None:
        """Train until the end, or until `stop`."""
        settings, saved = self.settings, time.monotonic()
        diverged = False
        while self.epoch < settings.epochs:
            diverged = not self._one_step()
            if progress is not None:
                share = self.step / (settings.epochs * self.steps)
                progress(share, f"{settings.control.label()}, epoch {self.epoch + 1}")
            if diverged or self.step % self.steps == 0:
                diverged = not self._end_epoch(diverged)
            if diverged:  # the last checkpoint leads here again
                break
            if self.epoch < settings.epochs and stop():
                self._save()
                return None
            if time.monotonic() - saved >= checkpoint_seconds:
                self._save()
                saved = time.monotonic()
        if not diverged:
            self._save()
        result = self._result(diverged)
        folders.write_json(self.folder / "result.json", result)
        return result

    def _one_step(self) -> bool:
        """One step of the optimizer; False where a weight was found to be no finite number any more."""
        began, worked, controlled = time.perf_counter(), time.process_time(), self.control.seconds
        settings, place = self.settings, self.step % self.steps
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate_at(self.step, self.steps)
        order = self._order()[place * self.batch : (place + 1) * self.batch]
        images, labels = normalised(self.images[order], self.data), self.labels[order]
        if settings.augment:
            generator = seeded(settings.seed, 2, self.step)
            images = augmented(images, self.data.crop, self.data.flips, generator)
        images = images.contiguous(memory_format=torch.channels_last)
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        try:
            with self._autocast():
                logits = self.forward(images).float()
            loss = functional.cross_entropy(logits, labels)
            penalty = self._controlled(self.control.penalty)
            total: Any = loss if penalty is None else loss + penalty
            total.backward()
            self.optimizer.step()
            self._controlled(self.control.step)
        except KernelError:
            return False
        wrong = (logits.detach().argmax(dim=1) != labels).sum()
        self.sums["loss"] += loss.detach().double() * len(labels)
        self.sums["wrong"] += wrong
        self.step += 1
        self.sums["control_seconds"] += self.control.seconds - controlled
        self.sums["seconds"] += time.perf_counter() - began
        self.sums["processor_seconds"] += time.process_time() - worked
        return True

    def _controlled(self, call: Callable[[], Found]) -> Found:
        """Call something of the control, on the clock where it does anything."""
        acts = self.control.acts_next
        self._wait(acts)
        began = time.perf_counter()
        found = call()
        self._wait(acts)
        if acts:
            self.control.seconds += time.perf_counter() - began
        return found

    def _end_epoch(self, diverged: bool) -> bool:
        """A line of metrics; whether the loss and the weights are still numbers."""
        settings, sums, seen = self.settings, self.sums, self.batch * self.steps
        began = time.perf_counter()
        self._wait()
        sums["seconds"] += time.perf_counter() - began
        self.total_seconds += sums["seconds"]
        self.total_control += sums["control_seconds"]
        self.total_processor += sums["processor_seconds"]
        began = time.perf_counter()
        loss = float(sums["loss"]) / seen
        diverged = diverged or not np.isfinite(loss) or not self._is_finite()
        self.epoch += 1
        line: dict[str, Any] = {
            "epoch": self.epoch,
            "step": self.step,
            "rate": settings.rate_at(max(0, self.step - 1), self.steps),
            "train_loss": None if diverged else loss,
            "train_error": None if diverged else float(sums["wrong"]) / seen,
        }
        line |= self._chance() if diverged else self._tested()
        line |= {
            "seconds": sums["seconds"],
            "control_seconds": sums["control_seconds"],
            "total_seconds": self.total_seconds,
            "processor_seconds": sums["processor_seconds"],
            "total_processor_seconds": self.total_processor,
            "test_seconds": time.perf_counter() - began,
        }
        if settings.observe and not diverged:
            line["layers"] = layer_numbers(self.model, self.shape)
        self._append(line)
        self.sums = self._no_sums()
        return not diverged

    def _tested(self) -> dict[str, float | None]:
        """Loss and error over the test images; where asked for, once more with recomputed statistics."""
        self.model.eval()
        found = self._errors()
        if self.settings.norm_images and self.settings.batch_norm:
            some = torch.split(self.images[: self.settings.norm_images], self.batch)
            with self._autocast(), recomputed_norms(self.model, map(self._entering, some)):
                again = self._errors()
            found |= {f"{name}_recomputed": value for name, value in again.items()}
        return found

    def _entering(self, images: Tensor) -> Tensor:
        """Images as they enter the network, unless they are augmented."""
        return normalised(images, self.data).contiguous(memory_format=torch.channels_last)

    def _errors(self) -> dict[str, float | None]:
        loss = wrong = torch.zeros((), dtype=torch.float64, device=self.device)
        images, labels = self.test
        with torch.inference_mode(), self._autocast():
            size = TEST_BATCH.get(self.device.type, 2000)
            for first in range(0, len(images), size):
                some, right = images[first : first + size], labels[first : first + size]
                logits = self.model(self._entering(some)).float()
                loss = loss + functional.cross_entropy(logits, right, reduction="sum")
                wrong = wrong + (logits.argmax(dim=1) != right).sum()
        return {"test_loss": finite(float(loss) / len(images)), "test_error": float(wrong) / len(images)}

    def _is_finite(self) -> bool:
        return all(bool(one.isfinite().all()) for one in self.model.state_dict().values())

    def _chance(self) -> dict[str, float | None]:
        """What a network that diverged is worth: a guess."""
        guessed: dict[str, float | None] = {"test_loss": None, "test_error": 1 - 1 / self.data.classes}
        if self.settings.norm_images and self.settings.batch_norm:
            guessed |= {f"{name}_recomputed": value for name, value in guessed.items()}
        return guessed

    def _result(self, diverged: bool) -> dict[str, Any]:
        last = folders.read_metrics(self.folder)[-1]
        result = {
            "status": "diverged" if diverged else "done",
            "epochs": self.epoch,
            "steps": self.step,
            **{
                name: value for name, value in last.items() if name.startswith(("train_", "test_l", "test_e"))
            },
            "seconds": self.total_seconds,
            "control_seconds": self.total_control,
            "processor_seconds": self.total_processor,
        }
        if not diverged:
            result |= final_numbers(
                self._bare(), self.data, (self.images, self.labels), self.test, self.settings
            )
        return result

    def _bare(self) -> nn.Module:
        """The network as it is now, on the CPU, without hooks and parametrisations."""
        model = build(self.settings, self.data)
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                owner, _, leaf = name.rpartition(".")
                tensor.copy_(getattr(self.model.get_submodule(owner), leaf))
        return model.eval()

    def _order(self) -> Tensor:
        """Of this epoch's images."""
        if getattr(self, "_ordered", None) != self.epoch:
            generator = seeded(self.settings.seed, 1, self.epoch)
            self._permutation = torch.randperm(len(self.images), generator=generator).to(self.device)
            self._ordered = self.epoch
        return self._permutation

    def _no_sums(self) -> dict[str, Any]:
        zero = torch.zeros((), dtype=torch.float64, device=self.device)
        clocks = dict.fromkeys(("seconds", "control_seconds", "processor_seconds"), 0.0)
        return {"loss": zero, "wrong": zero.clone(), **clocks}

    def _autocast(self) -> torch.autocast:
        enabled = self.settings.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def _wait(self, wanted: bool = True) -> None:
        """Until the device has done what it was given."""
        if wanted and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _append(self, line: dict[str, Any]) -> None:
        folders.append_line(self.folder / "metrics.jsonl", line)
        if self.writer is not None:
            for name, value in line.items():
                if isinstance(value, float):
                    self.writer.add_scalar(name, value, self.step)

    def _state(self) -> dict[str, Any]:
        return {
            "settings": self.settings.to_dict(),
            "device": self.machine.device,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "control": self.control.state_dict(),
            "control_seconds": self.control.seconds,
            "epoch": self.epoch,
            "step": self.step,
            "sums": self.sums,
            "total": [self.total_seconds, self.total_control, self.total_processor],
        }

    def _save(self) -> None:
        with atomic(self.folder / "checkpoint.pt") as file:
            torch.save(self._state(), file)

    def _go_on(self) -> None:
        """From the checkpoint, if there is one; metrics of epochs after it are dropped."""
        path = self.folder / "checkpoint.pt"
        if path.exists():
            self._load(path)
        folders.keep_lines(self.folder, self.epoch)

    def _load(self, path: Path) -> None:
        with _reading(path):
            state = torch.load(path, map_location=self.device, weights_only=True)
            begun, device = Settings.from_dict(state["settings"]), torch.device(state["device"])
        if begun != self.settings:
            raise InputError(f"{path} is of a run with other settings; give another --out")
        if device.type != self.device.type:
            raise InputError(f"{path} was begun on {device}; give --device {device}")
        with _reading(path):
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.control.load_state_dict(state["control"])
            self.control.seconds = state["control_seconds"]
            self.epoch, self.step, self.sums = state["epoch"], state["step"], state["sums"]
            self.total_seconds, self.total_control, self.total_processor = state["total"]

    def _describe(self) -> None:
        folders.write_json(
            self.folder / "settings.json",
            {
                "settings": self.settings.to_dict(),
                "data": self.data.description,
                "parameters": parameter_count(self.model),
                "compiled": self.forward is not self.model,
                **describe(self.device),
            },
        )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever a torn or foreign checkpoint makes fail becomes one error that names it."""
    try:
        yield
    except _UNREADABLE as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} cannot be read: {line}; delete it to begin this run anew") from None


def _tensorboard(folder: Path, step: int) -> Any:
    """A writer to a file of its own; what an earlier one wrote of later steps is not shown."""
    from tensorboardX import SummaryWriter

    return SummaryWriter(os.fspath(folder), purge_step=step + 1 if step else None, filename_suffix=f".{step}")
