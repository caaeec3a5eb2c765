"""What the analysis of layers takes, estimated before it is begun, and which of them are beyond a limit."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache

from .bounds.copy_count import covering_tori
from .bounds.pfister2018 import sampling_torus
from .bounds.rump2006 import quick_certificate
from .bounds.tori import refuse_repeated_inputs
from .bounds.wave_packet import PACKET_APPLICATIONS
from .cost import Cost, by_axis, memory_limit, of_applications
from .errors import InputError
from .geometry import ConvGeometry, Correlation
from .models.records import ConvLayer
from .symbol import cost_of

SECONDS, SECONDS_A_WEIGHT = 10.0, 4e-3
"""Of one core: what a model may take, and for each of its weights. Layers of common networks take up to
0.4 ms a weight (U-Net at 512 x 512), those of networks for 160,000 samples of sound up to 3 ms."""

KEPT_A_WEIGHT = 2**13
"""Bytes of singular values for each weight, beside `cost.memory_limit`."""

_SECONDS_A_LAYER = 0.02
_SECONDS_A_VALUE, _BYTES_A_VALUE = 1e-7, 40
"""Of what is computed from singular values: sorted, in quantiles, as ratios."""


def work_of(layer: ConvLayer) -> Cost:
    """Of the analysis of a layer; what is refused at once costs nothing."""
    with suppress(InputError):
        geometry = layer.geometry or anywhere(layer)
        return _work_of(layer.kernel.shape, geometry, layer.geometry is not None, memory_limit())
    return Cost(_SECONDS_A_LAYER)


@lru_cache(maxsize=4096)
def _work_of(shape: tuple[int, ...], geometry: ConvGeometry, sizes_known: bool, limit: float) -> Cost:
    """Kept under each memory limit, as models have many layers of one kind."""
    cost = Cost(_SECONDS_A_LAYER)
    for part in (work_for_any_size, work_as_padded, _work_of_spectrum)[: 3 if sizes_known else 1]:
        with suppress(InputError):
            cost = cost.then(part(shape, geometry))
    return cost


def work_for_any_size(shape: tuple[int, ...], geometry: ConvGeometry) -> Cost:
    """Of the bound for any size of a kernel of this shape.

    Raises:
        InputError: there is none.
    """
    correlation = geometry.correlation(shape)
    refuse_repeated_inputs("pfister2018", correlation)
    return _largest_on(sampling_torus(correlation, 8)[0])


def work_as_padded(shape: tuple[int, ...], geometry: ConvGeometry) -> Cost:
    """Of the norm of a layer with its own padding.

    Raises:
        InputError: there is none, or it is refused.
    """
    c = geometry.correlation(shape)
    of_applications(c, 1)
    if c.is_circulant:
        return _largest_on(c)
    cost, (tori, copies) = Cost(), covering_tori(c, 2)
    for torus in tori:
        cost = cost.then(_largest_on(torus))
    if copies > 1:
        return cost.then(quick_certificate(c))
    outputs, inputs = c.group_shape
    one_group = replace(c, groups=1, in_channels=inputs, out_channels=outputs)
    return cost.then(of_applications(one_group, PACKET_APPLICATIONS))


def _work_of_spectrum(shape: tuple[int, ...], geometry: ConvGeometry) -> Cost:
    cost = cost_of(geometry.on_torus().correlation(shape))
    values = cost.kept / 8
    return replace(
        cost,
        seconds=cost.seconds + _SECONDS_A_VALUE * values,
        memory=max(cost.memory, cost.kept + _BYTES_A_VALUE * values),
    )


def _largest_on(torus: Correlation) -> Cost:
    return replace(cost_of(torus), kept=0.0)


def anywhere(layer: ConvLayer) -> ConvGeometry:
    """The geometry whose bound for any size holds whatever the layer's own is: see `analysis`."""
    return ConvGeometry((1,) * (layer.kernel.ndim - 2), padding="same", layout=layer.layout)


def beyond(layers: Sequence[ConvLayer], work: Sequence[Cost], max_seconds: float | None) -> dict[int, str]:
    """The layers that a model cannot have within the limits, by their index, and why: the costliest.

    Arguments:
        layers: of the model.
        work: of each of them.
        max_seconds: of one core, for all of them together; default `SECONDS` and `SECONDS_A_WEIGHT`.
    """
    weights = weights_of(layers)
    seconds = SECONDS + SECONDS_A_WEIGHT * weights if max_seconds is None else max_seconds
    kept = memory_limit() + KEPT_A_WEIGHT * weights
    reasons, total = {}, Cost()
    for index in sorted(range(len(layers)), key=lambda index: work[index].seconds):
        more = total.then(work[index])
        if more.seconds <= seconds and more.kept <= kept:
            total = more
            continue
        limit = (
            f"max_seconds is {seconds:,.0f}: raise it"
            if more.seconds > seconds
            else f"singular values of the model may take {kept / 2**30:,.1f} GiB: raise max_memory, or give "
            "a smaller input shape"
        )
        reasons[index] = (
            f"inputs of {size_of(layers[index])} take {work[index]}, those of cheaper layers {total}; {limit}"
        )
    return reasons


def seconds_of(layers: Sequence[ConvLayer], max_seconds: float | None) -> float:
    """Of one core, for the layers that are within the limits."""
    work = [work_of(layer) for layer in layers]
    refused = beyond(layers, work, max_seconds)
    return sum(cost.seconds for index, cost in enumerate(work) if index not in refused)


def weights_of(layers: Sequence[ConvLayer]) -> int:
    """Their number; of kernels that are one array once, as a small file may have many layers of one."""
    return sum({one.kernel.__array_interface__["data"][0]: one.kernel.size for one in layers}.values())


def size_of(layer: ConvLayer) -> str:
    """The input of a layer as one says it."""
    return "any size" if layer.geometry is None else by_axis(layer.geometry.input_shape)
