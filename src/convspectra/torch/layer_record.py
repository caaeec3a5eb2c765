"""What `SpectralClip` says of each weight."""

from __future__ import annotations

from dataclasses import dataclass

from ..projection import Guarantee
from .weight_uses import Status


@dataclass(frozen=True)
class LayerRecord:
    """What `SpectralClip.report` says of one weight.

    Attributes:
        name: of the layer, without what wrappers put before it.
        shared_with: the other layers that use the same weight.
        status: `"held"`, or why it is left alone: `"frozen"`; `"computed"` (from other parameters);
            `"never run"`; `"not compared"`, as other code than PyTorch's own runs (a forward or hooks of its
            own) and no input showed what it computes; `"computes something else"` than weight and geometry
            say, as a forward pass showed; `"replaced"` by another module; `"added later"`, a module that
            came after; `"quantised"`; `"no layer"`, a parameter of two or more axes that belongs to no
            convolution or linear layer (of raw functional calls, attention, recurrent layers, embeddings).
        guarantee: which operator's norm.
        max_norm: the limit.
        input_shapes: the spatial sizes at which its layers ran, in the order of their coming.
        tori: the torus that the promise is held on, one for each; of a transposed layer its output's.
        batch_norms: those whose scaling is taken into account.
        norm: the largest operator norm of all its uses, of the weight as it is now; proven for what
            `guarantee` names. None if it never ran.
        norm_before: before the last action, where it was computed (see `SpectralClip`).
        norm_after: after it, where it is known.
        gap: as `Projection.gap` at the last action.
    """

    name: str
    shared_with: tuple[str, ...]
    status: Status
    guarantee: Guarantee
    max_norm: float
    input_shapes: tuple[tuple[int, ...], ...] = ()
    tori: tuple[tuple[int, ...], ...] = ()
    batch_norms: tuple[str, ...] = ()
    norm: float | None = None
    norm_before: float | None = None
    norm_after: float | None = None
    gap: float | None = None
