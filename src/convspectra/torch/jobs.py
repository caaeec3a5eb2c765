"""From layers to work: which weights are to be moved, for which operators, and what forbids it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from ..constrain import Use
from ..errors import InputError
from ..projection import Guarantee
from . import sharing
from .forward_hooks import Watch
from .tensors import check_dtype, torus_of
from .weight_uses import Layer, Weight, batch_norm_scale, promised_geometries, promised_geometry, weights_of

NOT_COMPARED = (
    "has a forward or hooks of its own, and no input showed what it computes (zeros, NaN, too small beside "
    "its bias, or given to a hook before all modules)"
)


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
        InputError: no convolution has run and one must have; nothing is held; a weight that cannot be written
            without changing another one, or not at all.
    """
    weights = weights_of(layers, guarantee)
    held = [weight for weight in weights if weight.status == "held"]
    idle = [weight for weight in weights if weight.status in ("never run", "not compared")]
    sized = [weight for weight in (*held, *idle) if not isinstance(weight.layers[0].module, nn.Linear)]
    if sized and all(weight in idle for weight in sized):
        first = sized[0]
        if first.status == "not compared":
            why = f"{NOT_COMPARED}: run one forward pass on an input of ordinary size"
        elif guarantee == "any_size":
            why = "has not run yet, and has a forward or hooks of its own: run one forward pass first"
        else:
            why = (
                "has not run yet, so its input size is not known: run one forward pass before the first "
                "step, or observe(batch) where the model was compiled after SpectralClip was made, or take "
                "guarantee='any_size'"
            )
        raise InputError(f"none of {len(sized)} convolutions can be held yet: {first.name!r} {why}")
    if not held:
        some = ", ".join(f"{weight.name!r} ({weight.status})" for weight in weights[:3])
        raise InputError(f"none of {len(weights)} weights can be held: {some}; see SpectralClip")
    _refuse_unwritable(held)
    return [Job(weight, uses_of(weight, watch, guarantee, processes)) for weight in held]


def _refuse_unwritable(weights: list[Weight]) -> None:
    """Raise the InputError of a weight that cannot be written, or not without changing another one."""
    before, end = "", ("", 0)
    for weight in sorted(weights, key=lambda one: _memory(one.tensor)):
        part = sharing.own_part(weight.tensor)
        device, first, last = _memory(weight.tensor)
        with named(weight.name):
            if part.is_inference() and not torch.is_inference_mode_enabled():
                raise InputError("weight was made in inference mode: give the layer a copy, weight.clone()")
            if any(size > 1 and step == 0 for size, step in zip(part.shape, part.stride(), strict=True)):
                raise InputError("weight is an expanded view: give the layer a copy, weight.clone()")
            if (device, first) < end:
                raise InputError(
                    f"weight lies in the memory of that of layer {before!r}, so that moving one moves the "
                    "other: exclude one of them, or give it a copy, weight.clone()"
                )
        if last > first:
            before, end = weight.name, (device, last)


def _memory(weight: torch.Tensor) -> tuple[str, int, int]:
    """Where a weight lies in this process: the device, its first byte, and the one behind its last."""
    part = sharing.own_part(weight)
    if part.numel() == 0 or part.is_meta:
        return "", 0, 0
    reach = 1 + sum((size - 1) * step for size, step in zip(part.shape, part.stride(), strict=True))
    return str(part.device), part.data_ptr(), part.data_ptr() + reach * part.itemsize


def uses_of(weight: Weight, watch: Watch, guarantee: Guarantee, processes: int = 1) -> list[Use]:
    """Every operator that the weight stands for: each layer, at each size, with each batch norm after it.

    Raises:
        InputError: sizes that do not fit, or a batch norm without running statistics, or along another axis.
    """
    found: list[Use] = []
    for layer in weight.layers:
        with named(layer.name):
            for norm in watch.pairing.across.get(layer.name, ()):
                raise InputError(
                    "fold_batch_norm needs a batch norm of the layer's channels, and the one that follows, "
                    f"{norm!r}, scales another axis: exclude the layer"
                )
            scales: list[np.ndarray[Any, Any] | None] = [
                _scale_by(norm, watch, processes) for norm in watch.norms_after(layer.name)
            ]
            geometries = promised_geometries(layer, guarantee)
        for use in (Use(geometry, scale) for geometry in geometries for scale in scales or [None]):
            if use.scale is not None or use not in found:
                found.append(use)
    return found


def _scale_by(norm: str, watch: Watch, processes: int) -> np.ndarray[Any, Any]:
    scale = batch_norm_scale(watch.module(norm))
    if scale is None:
        raise InputError(
            f"fold_batch_norm needs the running variance of {norm!r}, which keeps none "
            "(track_running_stats=False): exclude the layer"
        )
    # Running statistics are those of each process's own batches.
    scale = sharing.largest(scale) if processes > 1 else scale
    return scale.detach().cpu().numpy()


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
                torus_of(module.weight.shape, promised_geometry(module, sizes, guarantee), guarantee)


def not_finite(layers: list[Layer]) -> str:
    """What is wrong with the weights of this process, in one line; empty if nothing is.

    Raises:
        KernelError: a weight of complex numbers, or of too few bits.
    """
    bad = []
    for weight in weights_of(layers, "any_size"):
        if weight.status == "held":
            with named(weight.name):
                check_dtype("weight", weight.tensor)
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
