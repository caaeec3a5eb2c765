"""What one training run is: every number that its result depends on, in one frozen record."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from convspectra.errors import InputError

Method = Literal[
    "none",
    "clip",
    "project",
    "rescale",
    "reshaped",
    "operator_norm",
    "orthogonality",
    "parseval",
    "max_gain",
]
"""Ways to control a layer while it trains; all but the first four are there to compare with."""

UNLIMITED = ("none", "orthogonality", "parseval")
"""Methods without a limit on the norm."""


@dataclass(frozen=True)
class Control:
    """How the layers are controlled.

    Attributes:
        method: `clip`, `project`, `rescale` and `reshaped` act every `every` steps, as `SpectralClip`;
            `operator_norm` is the parametrisation `SpectralNorm`; `orthogonality` a penalty, `weight` times
            `sum (sigma^2 - 1)^2` over the number of singular values, averaged over layers; `parseval` a step
            of `parseval_retraction` after each step, and the scaling of its outputs; `max_gain` the scaling
            by the largest ratio in the batch, after each step.
        limit: of the norm; of the ratio, for `max_gain`. None for the methods in `UNLIMITED`.
        every: act after so many steps, where a method acts between steps.
        fold_batch_norm: hold a convolution together with the batch norm behind it; for the methods of
            `SpectralClip`.
        weight: of the penalty; the `beta` of Parseval.

    Raises:
        InputError: an unknown method; a limit that is missing, not positive or not used; a `beta` that is
            none.
    """

    method: Method = "none"
    limit: float | None = None
    every: int = 100
    fold_batch_norm: bool = False
    weight: float = 0.0

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise InputError(f"method must be one of {', '.join(get_args(Method))}; got {self.method!r}")
        if self.method in UNLIMITED:
            if self.limit is not None:
                raise InputError(f"method {self.method!r} takes no limit; got {self.limit!r}")
        elif self.limit is None or not 0 < self.limit < math.inf:
            raise InputError(f"limit must be positive for method {self.method!r}; got {self.limit!r}")
        if self.limit is not None:
            object.__setattr__(self, "limit", float(self.limit))  # 1 and 1.0 are one run
        if self.every < 1:
            raise InputError(f"every must be at least 1; got {self.every!r}")
        if self.fold_batch_norm and self.method not in ("clip", "project", "rescale", "reshaped"):
            raise InputError(f"fold_batch_norm must be False for method {self.method!r}; got True")
        if self.method == "parseval" and not 0 < self.weight <= 1:
            raise InputError(f"weight must be above 0 and at most 1 for parseval; got {self.weight!r}")

    def label(self) -> str:
        """A few words, such as `clip 0.5` or `clip 0.5 every step`."""
        if self.method == "none":
            return "no clipping"
        words = [self.method.replace("_", " ")]
        if self.limit is not None:
            words.append(f"{self.limit:g}")
        if self.method in ("clip", "project", "rescale", "reshaped") and self.every != 100:
            words.append("every step" if self.every == 1 else f"every {self.every}")
        if self.fold_batch_norm:
            words.append("with batch norm")
        return " ".join(words)


_LEAST = {
    ("epochs", "batch", "epochs_per_decay", "width"): 1,
    ("train_images", "test_images", "norm_images", "seed"): 0,
}
_LATER = ("network", "schedule", "norm_images")
"""Fields that came after results were kept: at their defaults they are no part of a run's name."""

_WORDS = {
    "network": ("preactivation", "published"),
    "schedule": ("steps", "one-cycle"),
    "precision": ("float32", "bfloat16"),
}
WARM_UP = 0.1
"""Share of the steps of `one-cycle` in which the rate rises."""


@dataclass(frozen=True)
class Settings:
    """One training run; two runs of equal settings on one machine end with the same weights.

    Attributes:
        data: name of the data set, `cifar10` or `digits`.
        network: `preactivation`, of `cifar_resnet`, or `published`, of `published_resnet`.
        depth, width, batch_norm: of the network; the published one has batch norm.
        control: of the layers.
        epochs, batch: passes over the training images, images a step.
        schedule: of the learning rate. `steps`: multiplied by `decay` every `epochs_per_decay` epochs.
            `one-cycle`: a straight line from 0 to `rate` over the first tenth of all steps, then half a
            cosine down to 0.
        rate, decay, epochs_per_decay: the learning rate, the largest of `one-cycle`.
        momentum, weight_decay: of stochastic gradient descent.
        train_images, test_images: the first so many are used; 0 for all.
        augment: random crops and flips, as the data set allows.
        precision: of the products; weights are float32 throughout.
        norm_images: before a second test the batch norms' statistics are recomputed on the first so many
            training images, as the control left weights other than those averaged over; 0 for one test.
        observe: record each layer's largest and smallest singular value and the norm of its gradient after
            every epoch.
        attack_radii: l2 distances between images of values from 0 to 1, at which the network is attacked
            in the end.
        seed: of the start, the order and the augmentation.
    """

    data: str = "cifar10"
    network: Literal["preactivation", "published"] = "preactivation"
    depth: int = 32
    width: int = 36
    batch_norm: bool = True
    control: Control = field(default_factory=Control)
    epochs: int = 250
    batch: int = 128
    schedule: Literal["steps", "one-cycle"] = "steps"
    rate: float = 0.1
    decay: float = 0.95
    epochs_per_decay: int = 2
    momentum: float = 0.9
    weight_decay: float = 2e-4
    train_images: int = 0
    test_images: int = 0
    augment: bool = True
    precision: Literal["float32", "bfloat16"] = "float32"
    norm_images: int = 0
    observe: bool = False
    attack_radii: tuple[float, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for names, least in _LEAST.items():
            for name in names:
                if getattr(self, name) < least:
                    raise InputError(f"{name} must be at least {least}; got {getattr(self, name)!r}")
        if self.depth < 8 or self.depth % 6 != 2:
            raise InputError(f"depth must be 6 n + 2 for a whole n of at least 1; got {self.depth!r}")
        for name, words in _WORDS.items():
            if getattr(self, name) not in words:
                raise InputError(f"{name} must be {' or '.join(words)}; got {getattr(self, name)!r}")
        if self.network == "published" and not self.batch_norm:
            raise InputError("batch_norm must be True for the published network; got False")
        if not all(0 <= radius < math.inf for radius in self.attack_radii):
            raise InputError(f"attack_radii must be numbers of at least 0; got {self.attack_radii!r}")
        if not 0 < self.rate < math.inf:
            raise InputError(f"rate must be positive; got {self.rate!r}")

    def rate_at(self, step: int, steps: int) -> float:
        """The learning rate of a step, counted from 0, where an epoch has `steps`."""
        if self.schedule == "steps":
            return self.rate * self.decay ** (step // steps // self.epochs_per_decay)
        done = (step + 1) / (self.epochs * steps + 1)  # never 0, at the start and at the end
        if done < WARM_UP:
            return self.rate * done / WARM_UP
        return self.rate * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP))) / 2

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Settings:
        """What `to_dict` returned, through JSON or not.

        Raises:
            InputError: fields that these settings do not have.
        """
        known = {item.name for item in fields(cls)}
        if unknown := sorted(set(found) - known):
            raise InputError(f"settings have no field {unknown[0]!r}; they were written by another version")
        control = Control(**found.get("control", {}))
        radii = tuple(found.get("attack_radii", ()))
        return cls(**{**found, "control": control, "attack_radii": radii})

    def name(self) -> str:
        """Of the run's folder: readable, and different for different settings."""
        told = self.to_dict()
        for field_ in fields(self):
            if field_.name in _LATER and told[field_.name] == field_.default:
                del told[field_.name]
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:10]
        label = self.control.label().replace(" ", "-")
        return f"{label}-seed{self.seed}-{digest}"
