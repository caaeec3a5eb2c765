"""Which runs each experiment of the paper consists of, at four sizes.

The paper leaves open, and we fixed: the schedule of figure 2 ("determined by a grid search"): 0.1, times 0.95
after every second epoch; weight decay 2e-4 and Nesterov momentum 0.9. The small preset has fewer epochs,
and a decay such that the whole schedule spans the same factor. The medium one has the cycle of one rise and
one fall that few epochs ask for, and, as the paper names none, no weight decay.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

from convspectra.errors import InputError

from ..training.settings import Control, Method, Settings

Preset = Literal["smoke", "small", "medium", "paper"]
TRAINED = ("figure2", "figure3a", "figure3b", "figure4", "section44", "beyond", "variations")
SWEEPS = ("figure3a", "figure3b")
SPECTRA = ("figure5", "figure6", "figure7")
EXPERIMENTS = (
    "figure1",
    "figure2",
    *SWEEPS,
    "figure4",
    "section44",
    *SPECTRA,
    "boundary",
    "beyond",
    "variations",
)
"""All of the paper's, in the order of its pages, and three that are not the paper's."""


@dataclass(frozen=True)
class Planned:
    """One run of an experiment.

    Attributes:
        group: what it is one of over several seeds, such as `clip 0.5`.
    """

    group: str
    settings: Settings

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the experiment's plan."""
        return {
            "group": self.group,
            "seed": self.settings.seed,
            "folder": (Path("runs") / self.settings.name()).as_posix(),
        }


@dataclass(frozen=True)
class Scale:
    """What the presets differ in.

    Attributes:
        base: of figure 2, without clipping.
        sweep: of figure 3, without the numbers that are swept.
        every: steps between clips.
        limits: of figure 2; of the reshaped clip; of the sweep.
        rates: of the sweeps, without and with batch norm.
        batches, epochs_per_decay: of the sweeps.
        projected: limits of figure 2 at which the nearest kernel in the ball is taken as well.
        once: further limits of figure 2, with the first seed alone.
        large: of another size than `base`, for the variations; None for none.
    """

    base: Settings
    sweep: Settings
    every: int
    limits: tuple[float, ...]
    reshaped: tuple[float, ...]
    swept: tuple[float, ...]
    rates: tuple[tuple[float, ...], tuple[float, ...]]
    batches: tuple[int, ...]
    epochs_per_decay: tuple[int, ...]
    projected: tuple[float, ...] = ()
    once: tuple[float, ...] = ()
    large: Settings | None = None


_SMOKE = Settings(
    depth=8, width=4, epochs=2, batch=64, decay=0.3, epochs_per_decay=1, train_images=640, test_images=200
)
_SMALL = Settings(
    depth=8,
    width=16,
    epochs=12,
    decay=0.58,
    epochs_per_decay=1,
    train_images=10_000,
    test_images=5_000,
)
RADII = (0.0, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5)
"""Of attacks: l2 distances between images with values from 0 to 1."""
_MEDIUM = Settings(
    network="published",
    depth=20,
    width=16,
    epochs=60,
    schedule="one-cycle",
    rate=0.4,
    weight_decay=0.0,
    precision="bfloat16",
    norm_images=1_000,
    attack_radii=RADII,
)
SCALES = {
    "smoke": Scale(
        base=_SMOKE,
        sweep=_SMOKE,
        every=5,
        limits=(0.5, 1.0),
        reshaped=(0.2,),
        swept=(1.0,),
        rates=((0.03,), (0.1,)),
        batches=(32, 64),
        epochs_per_decay=(1,),
        large=replace(_SMOKE, depth=14),
    ),
    "small": Scale(
        base=_SMALL,
        sweep=replace(_SMALL, epochs=5, decay=0.36, train_images=5_000),
        every=100,
        limits=(0.1, 0.5, 1.0),
        reshaped=(0.05, 0.1, 0.2, 0.5, 1.0),
        swept=(0.5, 1.0, 2.0),
        rates=((0.01, 0.03, 0.1), (0.03, 0.1, 0.3)),
        batches=(64,),
        epochs_per_decay=(1, 2),
    ),
    "medium": Scale(
        base=_MEDIUM,
        # Without warm-up, as in the paper: whether a large rate is survived is the question.
        sweep=replace(
            _MEDIUM,
            network="preactivation",
            epochs=15,
            schedule="steps",
            decay=0.7,
            epochs_per_decay=1,
            attack_radii=(),
        ),
        every=100,
        limits=(0.5, 1.0),
        reshaped=(0.1, 0.2, 0.5, 1.0),
        swept=(0.5, 1.0, 2.0),
        rates=((0.01, 0.03, 0.1, 0.2, 0.4, 0.8), (0.03, 0.1, 0.2, 0.4, 0.8, 1.6)),
        batches=(128,),
        epochs_per_decay=(1,),
        projected=(0.5, 1.0),
        once=(0.1, 2.5, 3.0),
        large=replace(_MEDIUM, network="preactivation", depth=32, width=36, epochs=30),
    ),
    "paper": Scale(
        base=Settings(),
        sweep=Settings(epochs=100, epochs_per_decay=1),
        every=100,
        limits=(0.1, 0.5, 1.0, 2.5, 3.0),
        reshaped=(0.05, 0.1, 0.2, 0.5, 1.0),
        swept=(0.5, 1.0, 1.5, 2.0),
        rates=((0.001, 0.003, 0.01, 0.03, 0.1), (0.01, 0.03, 0.1, 0.2, 0.3)),
        batches=(32, 64),
        epochs_per_decay=(1, 2, 3),
    ),
}


@dataclass(frozen=True)
class Extent:
    """How far `boundary` goes: layers with their own padding beside the torus, over the size of the input.

    Attributes:
        common: points an axis, at which every layer is computed.
        further: at which those are whose matrix fits.
        memory: bytes that the matrix of a layer and its making may take.
        layers: at most so many.
    """

    common: tuple[int, ...]
    further: tuple[int, ...]
    memory: int
    layers: int

    @property
    def sizes(self) -> tuple[int, ...]:
        return (*self.common, *self.further)


EXTENTS: dict[Preset, Extent] = {
    "smoke": Extent(common=(4, 6, 8), further=(12,), memory=2**26, layers=3),
    "small": Extent(common=(4, 6, 8, 12, 16), further=(24, 32), memory=2**29, layers=5),
    "medium": Extent(common=(4, 6, 8, 12, 16), further=(24, 32), memory=2**29, layers=5),
    "paper": Extent(common=(4, 6, 8, 12, 16), further=(24, 32, 48, 64), memory=2**31, layers=100),
}


def plan(
    name: str, preset: Preset, data: str, seeds: Iterable[int] = (0,), changes: dict[str, Any] | None = None
) -> list[Planned]:
    """The runs of an experiment, those first that tell most: seeds outermost, in each of its parts.

    Arguments:
        name: one of `TRAINED`.
        data: name of the data set; the digits are few, and all are used.
        seeds: of the runs; some are planned for the first one alone.
        changes: other values for fields of `Settings`.

    Raises:
        InputError: an unknown experiment or preset, or what `Settings` raises.
    """
    if name not in TRAINED:
        raise InputError(f"experiment must be one of {', '.join(TRAINED)}; got {name!r}")
    if preset not in get_args(Preset):
        raise InputError(f"preset must be one of {', '.join(get_args(Preset))}; got {preset!r}")
    scale = SCALES[preset]
    whole: dict[str, Any] = {"data": data}
    if data == "digits":
        whole |= {"train_images": 0, "test_images": 0}
    several = list(seeds)
    parts = [(several, _RUNS[name](scale))]
    if name in ("figure2", "figure4"):
        parts += [
            (
                several,
                _controlled(scale, [Control("project", limit, scale.every) for limit in scale.projected]),
            ),
            (several[:1], _controlled(scale, [Control("clip", limit, scale.every) for limit in scale.once])),
        ]
    return [
        Planned(group, replace(settings, **whole, **(changes or {}), seed=seed))
        for these, made in parts
        for seed in these
        for group, settings in made
    ]


Runs = list[tuple[str, Settings]]


def _controlled(scale: Scale, controls: Iterable[Control]) -> Runs:
    return [(control.label(), replace(scale.base, control=control)) for control in controls]


def _clips(scale: Scale) -> list[Control]:
    return [Control(), *(Control("clip", limit, scale.every) for limit in scale.limits)]


def _figure2(scale: Scale) -> Runs:
    return _controlled(scale, _clips(scale))


def _section44(scale: Scale) -> Runs:
    ours = [limit for limit in scale.limits if limit in (0.5, 1.0)]
    controls = [Control()]
    for every in (scale.every, 1):
        controls += [Control("clip", limit, every) for limit in ours]
        controls += [Control("reshaped", limit, every) for limit in scale.reshaped]
    return _controlled(scale, controls)


def _sweep(scale: Scale, batch_norm: bool) -> Runs:
    controls = [Control(), *(Control("clip", limit, scale.every) for limit in scale.swept)]
    grid = product(controls, scale.rates[batch_norm], scale.batches, scale.epochs_per_decay)
    return [
        (
            control.label(),
            replace(
                scale.sweep,
                batch_norm=batch_norm,
                control=control,
                rate=rate,
                batch=batch,
                epochs_per_decay=epochs,
            ),
        )
        for control, rate, batch, epochs in grid
    ]


def _beyond(scale: Scale) -> Runs:
    limited: tuple[Method, ...] = ("clip", "project", "rescale", "operator_norm", "max_gain")
    controls = [
        Control(),
        *(Control(method, 1.0, scale.every) for method in limited),
        Control("clip", 1.0, scale.every, fold_batch_norm=True),
        Control("orthogonality", weight=0.01),
        Control("parseval", weight=1e-3),
    ]
    base = replace(scale.base, observe=True, attack_radii=RADII)
    return [(control.label(), replace(base, control=control)) for control in controls]


def _variations(scale: Scale) -> Runs:
    """Figure 2 with the usual weight decay, in float32 where that is not its precision, at another size."""
    decayed = replace(scale.base, weight_decay=5e-4)
    found = [
        (f"{control.label()}, weight decay 5e-4", replace(decayed, control=control))
        for control in _clips(scale)
    ]
    if scale.base.precision != "float32":
        found += [(f"{Control().label()}, float32", replace(scale.base, precision="float32"))]
    if scale.large is not None:
        size = f"{scale.large.depth} layers of width {scale.large.width}"
        found += [
            (f"{control.label()}, {size}", replace(scale.large, control=control)) for control in _clips(scale)
        ]
    return found


_RUNS = {
    "figure2": _figure2,
    "figure3a": lambda scale: _sweep(scale, batch_norm=False),
    "figure3b": lambda scale: _sweep(scale, batch_norm=True),
    "figure4": _figure2,
    "section44": _section44,
    "beyond": _beyond,
    "variations": _variations,
}
