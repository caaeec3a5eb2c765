"""What became of a model file whose kernels were moved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..guarantee import Guarantee
from ..models.records import Unread
from .limits import Limits

ClipStatus = Literal["changed", "inside", "unwritable"]


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
        distance_to_nearest: proven: the nearest kernel in the ball is no further from this one, relative
            to the norm `||W||` of the given one; None where nothing is proven.
        seconds: spent on its tensor.
        guarantee: `"any_size"` where the file states no geometry, whatever was asked for.
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
    guarantee: Guarantee = "layer"
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
    limit: Limits
    version: str
    layers: tuple[LayerClip, ...]
    not_selected: tuple[str, ...]
    notes: tuple[str, ...]
    unread: tuple[Unread, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every layer that was asked for could be held."""
        return not self.unread and all(layer.status != "unwritable" for layer in self.layers)
