"""What is asked of a model, and what became of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ..errors import InputError
from ..guarantee import Guarantee
from ..models.records import Unread

Method = Literal["project", "clip", "rescale"]
ClipStatus = Literal["changed", "inside", "unwritable"]


@dataclass(frozen=True)
class Limit:
    """What is asked for.

    Attributes:
        max_norm: the radius of the ball.
        method: `project` (the nearest kernel in the ball), `rescale`, or the paper's `clip`, which does
            not keep the promise.
        guarantee: whose norm is held: see `guarantee.py`.
        fold_batch_norm: of the convolution together with the batch norm behind it.
        tolerance: of `project`.

    Raises:
        InputError: a number that is not positive and finite.
    """

    max_norm: float
    method: Method = "project"
    guarantee: Guarantee = "any_size"
    fold_batch_norm: bool = False
    tolerance: float = 1e-2

    def __post_init__(self) -> None:
        for option, value in (("--max-norm", self.max_norm), ("--tolerance", self.tolerance)):
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"{option} must be positive and finite; got {value}")


@dataclass(frozen=True)
class LayerClip:
    """What became of one layer.

    Attributes:
        status: `changed`; `inside` (it was, and is as it was, bit for bit); `unwritable` (it exceeds the
            limit, and `reason` says why it was left as it is).
        norm_before, norm_after: of the operator that the guarantee names: exact for `torus`, else proven
            upper bounds; `norm_after` is computed from the file as written.
        relative_change: `||K - W|| / ||W||` over the taps.
        iterations: sweeps of decompositions.
        distance_to_nearest: proven: the nearest kernel in the ball is no further from this one, in parts
            of the norm `||W||` of the given one; None where nothing is proven.
        seconds: spent on its tensor.
        assumed: as in `ConvLayer`.
        batch_norm: whether one follows, and whether it was taken into the norm.
        note: what else changes with it; else empty.
    """

    name: str
    kind: str
    kernel_shape: tuple[int, ...]
    status: ClipStatus
    norm_before: float
    norm_after: float
    relative_change: float = 0.0
    iterations: int = 0
    distance_to_nearest: float | None = 0.0
    seconds: float = 0.0
    assumed: tuple[str, ...] = ()
    batch_norm: Literal["none", "separate", "folded"] = "none"
    reason: str = ""
    note: str = ""


@dataclass(frozen=True)
class ClipReport:
    """What became of a model.

    Attributes:
        path, sha256, format: of the file that was read.
        output, output_sha256: of the one that was written.
        layers: those that were asked for, and those that share a tensor with them.
        not_selected: the names of all others, where layers were picked also of what was not read.
        unread: as in `Model`, where all layers were asked for: what may be one and stays as it is.
    """

    model: str
    path: str
    sha256: str
    format: str
    output: str
    output_sha256: str
    limit: Limit
    version: str
    layers: tuple[LayerClip, ...]
    not_selected: tuple[str, ...]
    notes: tuple[str, ...]
    unread: tuple[Unread, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every layer that was asked for could be held."""
        return not self.unread and all(layer.status != "unwritable" for layer in self.layers)
