"""From layers to work: which weights are to be moved, for which operators, and what forbids it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from ..errors import InputError
from ..projection import Guarantee
from . import sharing
from .holding import Use, torus_of
from .layers import (
    Layer,
    Weight,
    batch_norm_scale,
    output_scale,
    promised_geometries,
    promised_geometry,
    weights_of,
)
from .watching import Watch


@dataclass(frozen=True)
class Job:
    """A weight to be moved, with what it is used for."""

    weight: Weight
    uses: list[Use]


def jobs_of(layers: list[Layer], watch: Watch, guarantee: Guarantee, processes: int = 1) -> list[Job]:
    """A job for each weight that is held.

    Arguments:
        processes: with several, which all call this, batch norms scale by the most that one of them finds.

    Raises:
        InputError: no convolution has run and one must have, or nothing is held.
    """
    weights = weights_of(layers, guarantee)
    held, idle = ([w for w in weights if w.status == status] for status in ("held", "never run"))
    sized = [weight for weight in (*held, *idle) if not isinstance(weight.layers[0].module, nn.Linear)]
    if sized and all(weight in idle for weight in sized) and guarantee == "any_size":
        raise InputError(
            f"no layer has run yet whose class has a forward of its own (the first of {len(sized)} is "
            f"{sized[0].name!r}), so what it computes is not known: run one forward pass first"
        )
    if sized and all(weight in idle for weight in sized):
        raise InputError(
            f"no convolution has run yet, so input sizes are not known (the first of {len(sized)} is "
            f"{sized[0].name!r}): run one forward pass before the first step, or observe(batch) where the "
            "model was compiled after SpectralClip was made, or take guarantee='any_size'"
        )
    if not held:
        some = ", ".join(f"{weight.name!r} ({weight.status})" for weight in weights[:3])
        raise InputError(f"none of {len(weights)} weights can be held: {some}; see SpectralClip")
    return [Job(weight, uses_of(weight, watch, guarantee, processes)) for weight in held]


def uses_of(weight: Weight, watch: Watch, guarantee: Guarantee, processes: int = 1) -> list[Use]:
    """Every operator that the weight stands for: each layer, at each size, with each batch norm after it.

    Raises:
        InputError: sizes that do not fit, or a batch norm without running statistics.
    """
    found: list[Use] = []
    for layer in weight.layers:
        with named(layer.name):
            scales: list[torch.Tensor | None] = [
                output_scale(weight.tensor, _scale_by(norm, watch, processes), layer.module)
                for norm in watch.norms_after(layer.name)
            ]
            geometries = promised_geometries(layer, guarantee)
        for use in (Use(geometry, scale) for geometry in geometries for scale in scales or [None]):
            if use.scale is not None or use not in found:
                found.append(use)
    return found


def _scale_by(norm: str, watch: Watch, processes: int) -> torch.Tensor:
    scale = batch_norm_scale(watch.module(norm))
    if scale is None:
        raise InputError(
            f"fold_batch_norm needs the running variance of {norm!r}, which keeps none "
            "(track_running_stats=False): exclude the layer"
        )
    # Running statistics are those of each process's own batches.
    return sharing.largest(scale) if processes > 1 else scale


def refuse_promises(layers: list[Layer], guarantee: Guarantee) -> None:
    """Raise the GeometryError of a layer that has no such guarantee, whatever its weight and size."""
    for layer in layers:
        module: Any = layer.module
        copies = getattr(module, "padding_mode", "zeros") != "zeros"
        if copies and guarantee != "layer" and not isinstance(module.weight, UninitializedParameter):
            reach = zip(module.dilation, module.kernel_size, strict=True)
            # A size at which it wraps, where it wraps: that of a torus is seen later.
            sizes = tuple(math.lcm(*module.stride) * (d * (k - 1) + 2) for d, k in reach)
            with named(layer.name):
                torus_of(module.weight, Use(promised_geometry(module, sizes, guarantee)), guarantee)


def not_finite(layers: list[Layer]) -> str:
    """What is wrong with the weights of this process, in one line; empty if nothing is."""
    bad = []
    for weight in weights_of(layers, "any_size"):
        if weight.status == "held":
            count = int((~torch.isfinite(sharing.own_part(weight.tensor))).sum())
            if count:
                bad.append(f"{weight.name!r} has {count}")
    if not bad:
        return ""
    more = f" and {len(bad) - 3} more layers" if len(bad) > 3 else ""
    return (
        f"NaN or infinite weights: layer {', layer '.join(bad[:3])}{more}; no weight was changed; go back to "
        "an earlier checkpoint, or lower the learning rate"
    )


@contextmanager
def named(layer: str) -> Iterator[None]:
    """Errors inside say which layer they are about."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"layer {layer!r}: {error}; no weight was changed") from None
