"""One run's folder as a record: its settings, its epochs, its result, and how far it has come."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import Any, Literal

from convspectra.errors import InputError

from .folder import read_json, read_metrics
from .settings import Settings

Status = Literal["done", "diverged", "under way", "not started"]


@dataclass(frozen=True)
class Layer:
    """One layer after one epoch; None where a number is not finite."""

    name: str
    largest: float | None
    smallest: float | None
    gradient_norm: float | None


@dataclass(frozen=True)
class Epoch:
    """One finished epoch.

    Attributes:
        train_loss, test_error: None where they are not finite; errors are shares.
        seconds, control_seconds: of this epoch; the control's are among the first.
        total_seconds: of training, until its end; total_processor_seconds: those of the processor, over all
            threads, which other work does not lengthen. None where they were not counted.
        test_error_recomputed: with batch norm statistics of the weights as they are; None if not asked for.
    """

    epoch: int
    step: int
    train_loss: float | None
    test_error: float | None
    seconds: float
    control_seconds: float
    total_seconds: float
    layers: tuple[Layer, ...]
    total_processor_seconds: float | None = None
    test_error_recomputed: float | None = None


@dataclass(frozen=True)
class Attacked:
    """A trained network under attack at one l2 distance.

    Attributes:
        error: under the attack: a lower bound of the largest error within this distance.
        certified: an upper bound of it; None where none is known.
    """

    radius: float
    error: float | None
    certified: float | None


@dataclass(frozen=True)
class Result:
    """What a finished run ended with.

    Attributes:
        test_error: of a diverged run too, which then is that of guessing or near it.
        largest_norm: of a layer, with wrapped boundary; None where it is not finite or was not measured.
        lipschitz: a bound of the network's constant; None where none is known.
        test_error_recomputed: as of an epoch.
        complexity: log10 of the spectral complexity of the network; None where none is known.
        median_margin: of training images, relative to complexity times `||X||_F / n`; None likewise.
        attacked_images: how many test images, the first ones, `attack` is about; None where it is not said.
    """

    diverged: bool
    epochs: int
    test_error: float
    largest_norm: float | None
    lipschitz: float | None
    attack: tuple[Attacked, ...]
    attacked_images: int | None
    test_error_recomputed: float | None = None
    complexity: float | None = None
    median_margin: float | None = None


@dataclass(frozen=True)
class Run:
    """One planned run.

    Attributes:
        group: of runs that differ in their seed alone, or of the same limit.
        folder: relative to the experiments' folder.
        settings, about: None and empty before it has started; `about` has what else `settings.json` says.
        result: None unless it has finished.
    """

    group: str
    seed: int
    folder: str
    settings: Settings | None
    about: Mapping[str, Any]
    epochs: tuple[Epoch, ...]
    result: Result | None

    @property
    def status(self) -> Status:
        if self.result is not None:
            return "diverged" if self.result.diverged else "done"
        return "under way" if self.epochs else "not started"


@contextmanager
def reading(path: Traversable) -> Iterator[None]:
    """Whatever a damaged file makes fail becomes one error that names it.

    Raises:
        InputError: a field is missing or is of another type, a line is no JSON, the file cannot be read.
    """
    try:
        yield
    except KeyError as error:
        raise InputError(f"{path} has no {error}; delete it to run this again") from None
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise InputError(f"{path} cannot be read: {error}; delete it to run this again") from None


def finite(value: Any) -> float | None:
    """A number, or None for null, NaN and infinity.

    Raises:
        TypeError: something else.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"a number was expected, not {value!r}")
    return float(value) if math.isfinite(value) else None


def read_run(out: Traversable, group: str, seed: int, folder: str) -> Run:
    """What a run has left in `out / folder` so far.

    Raises:
        InputError: a file that is damaged, or a result without settings; the message names the file.
    """
    place = out / folder
    settings, about = None, {}
    kept = read_json(place / "settings.json")
    if kept is not None:
        with reading(place / "settings.json"):
            settings = Settings.from_dict(kept["settings"])
            about = {name: value for name, value in kept.items() if name != "settings"}
    with reading(place / "metrics.jsonl"):
        epochs = tuple(_epoch(line) for line in read_metrics(place))
    result = None
    ended = read_json(place / "result.json")
    if ended is not None:
        with reading(place / "result.json"):
            result = _result(ended)
        if settings is None:
            raise InputError(
                f"{place / 'settings.json'} is missing beside a result; delete the folder to run this again"
            )
    return Run(group, seed, folder, settings, about, epochs, result)


def _epoch(line: dict[str, Any]) -> Epoch:
    return Epoch(
        epoch=int(line["epoch"]),
        step=int(line["step"]),
        train_loss=finite(line["train_loss"]),
        test_error=finite(line["test_error"]),
        seconds=float(line["seconds"]),
        control_seconds=float(line["control_seconds"]),
        total_seconds=float(line["total_seconds"]),
        layers=tuple(
            Layer(
                str(layer["name"]),
                finite(layer["largest"]),
                finite(layer["smallest"]),
                finite(layer["gradient_norm"]),
            )
            for layer in line.get("layers") or ()
        ),
        total_processor_seconds=finite(line.get("total_processor_seconds")),
        test_error_recomputed=finite(line.get("test_error_recomputed")),
    )


def _result(found: dict[str, Any]) -> Result:
    if found["status"] not in ("done", "diverged"):
        raise ValueError(f"its status is {found['status']!r}, neither 'done' nor 'diverged'")
    error = finite(found["test_error"])
    if error is None:
        raise ValueError("its test_error is no finite number")
    return Result(
        diverged=found["status"] == "diverged",
        epochs=int(found["epochs"]),
        test_error=error,
        largest_norm=finite(found.get("largest_norm")),
        lipschitz=finite(found.get("lipschitz")),
        attack=tuple(
            Attacked(float(one["radius"]), finite(one["error"]), finite(one.get("certified")))
            for one in found.get("attack") or ()
        ),
        attacked_images=None if (images := found.get("attacked_images")) is None else int(images),
        test_error_recomputed=finite(found.get("test_error_recomputed")),
        complexity=finite((found.get("complexity") or {}).get("log10")),
        median_margin=finite(((found.get("margins") or {}).get("normalised") or {}).get("0.5")),
    )
