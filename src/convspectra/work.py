"""What the analysis of layers takes, estimated before it is begun, and which of them are beyond a limit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Literal, get_args

from .bounds.auto import FEWEST_BLOCKS, QUICK
from .bounds.copy_count import covering_tori
from .bounds.duffin1938 import is_large
from .bounds.rump2006 import quick_certificate
from .bounds.tori import refuse_repeated_inputs
from .bounds.wave_packet import PACKET_APPLICATIONS
from .checks import check_word
from .cost import Cost, by_axis, memory_limit, of_applications, of_search
from .errors import InputError
from .geometry import ConvGeometry, Correlation
from .models.records import ConvLayer
from .sampled import SECONDS as SAMPLED_SECONDS
from .sampled import Sampling, sample_of
from .symbol import cost_of, is_constant

SECONDS, SECONDS_A_WEIGHT = 10.0, 4e-3
"""Of one core: what a model may take, and for each of its weights. Layers of common networks take up to
0.4 ms a weight (U-Net at 512 x 512), those of networks for 160,000 samples of sound up to 3 ms."""

KEPT_A_WEIGHT = 2**13
"""Bytes of singular values for each weight, beside `cost.memory_limit`."""

_SECONDS_A_LAYER = 2e-3
_SECONDS_A_VALUE, _BYTES_A_VALUE = 1e-7, 40
"""Of what is computed from singular values: sorted, in quantiles, as ratios."""

Bounds = Literal["none", "fast", "tight"]

ANY_SIZE_WIDTH, ANY_SIZE_TESTS = 0.01, 400
"""Of the bound for any size of large blocks, unless tight ones are wanted: its width and the most
frequencies."""

_TESTS, _TIGHT_TESTS = 64, 250
"""Of a search over all frequencies, for trained kernels, to 1 % and to 0.01 %."""

_SMALL = 12
"""Points of an axis for each one that a kernel reaches beyond its first: on smaller maps the layer's norm is
mostly 1 % less than the largest over all frequencies."""

_APPLICATIONS = 50
"""Of a Krylov method on such layers, both ways."""

_TIGHT_SECONDS = 30.0
"""What the tightest bound of a layer with its own padding may ask for."""


@dataclass(frozen=True)
class Effort:
    """How much is computed of each layer.

    Attributes:
        bounds: `"fast"` stops where an interval is within 1 %, `"tight"` goes as far as it can, `"none"`
            leaves bounds out.
        spectrum: of the circular layer; as for `singular_values`.
    """

    bounds: Bounds = "fast"
    spectrum: Sampling = "auto"

    def __post_init__(self) -> None:
        check_word("bounds", self.bounds, get_args(Bounds))
        check_word("spectrum", self.spectrum, get_args(Sampling))


DEFAULT_EFFORT = Effort()


def work_of(layer: ConvLayer, effort: Effort = DEFAULT_EFFORT) -> Cost:
    """Of the analysis of a layer; what is refused at once costs nothing."""
    with suppress(InputError):
        geometry = layer.geometry or anywhere(layer)
        known = layer.geometry is not None
        return _work_of(layer.kernel.shape, geometry, known, itemsize_of(layer), effort, memory_limit())
    return Cost(_SECONDS_A_LAYER)


def itemsize_of(layer: ConvLayer) -> int:
    """Bytes of a number of the computation, for the kernel as it is."""
    return 4 if layer.kernel.itemsize <= 4 else 8


@lru_cache(maxsize=4096)
def _work_of(
    shape: tuple[int, ...],
    geometry: ConvGeometry,
    sizes_known: bool,
    itemsize: int,
    effort: Effort,
    limit: float,
) -> Cost:
    """Kept under each memory limit, as models have many layers of one kind."""
    cost, tight = Cost(_SECONDS_A_LAYER), effort.bounds == "tight"
    parts: list[Callable[[], Cost]] = []
    if effort.bounds != "none":
        parts.append(partial(work_for_any_size, shape, geometry, tight))
        if sizes_known:
            parts.append(partial(work_as_padded, shape, geometry, itemsize, tight))
    if sizes_known:
        parts.append(partial(work_of_spectrum, shape, geometry, itemsize, effort.spectrum))
    for part in parts:
        with suppress(InputError):
            cost = cost.then(part())
    return cost


def work_for_any_size(shape: tuple[int, ...], geometry: ConvGeometry, tight: bool = False) -> Cost:
    """Of the bound for any size of a kernel of this shape.

    Raises:
        InputError: there is none.
    """
    correlation = geometry.correlation(shape)
    refuse_repeated_inputs("duffin1938", correlation)
    if is_constant(correlation):
        return Cost()  # known from the spectrum
    return of_search(correlation, _TESTS if is_large(correlation) and not tight else _TIGHT_TESTS)


def work_as_padded(
    shape: tuple[int, ...], geometry: ConvGeometry, itemsize: int = 8, tight: bool = False
) -> Cost:
    """Of the norm of a layer with its own padding.

    Raises:
        InputError: there is none, or it is refused.
    """
    c = geometry.correlation(shape)
    applying = of_applications(c, 1)
    if c.is_circulant:
        return Cost()  # known from the spectrum
    tori, copies = covering_tori(c, 2)
    cost = replace(applying, seconds=0.0)
    if copies == 1 and sum(math.prod(torus.output_shape) // 2 + 1 for torus in tori) >= FEWEST_BLOCKS:
        cost = cost.then(of_search(c, _TESTS))
        reaches = zip(c.output_shape, c.reach, c.stride, strict=True)
        if not tight and all(m >= _SMALL * reach // s for m, reach, s in reaches):
            return cost
    for torus in tori:
        cost = cost.then(_largest_on(torus, itemsize))
    outputs, inputs = c.group_shape
    one_group = c if copies > 1 else replace(c, groups=1, in_channels=inputs, out_channels=outputs)
    packet = of_applications(one_group, PACKET_APPLICATIONS) if copies == 1 else quick_certificate(c)
    refined = of_applications(one_group, 524 if tight else _APPLICATIONS).seconds
    if tight:
        refined += 12 * _largest_on(tori[0], itemsize).seconds
    return cost.then(packet).then(Cost(min(refined, _TIGHT_SECONDS if tight else QUICK)))


def work_of_spectrum(
    shape: tuple[int, ...], geometry: ConvGeometry, itemsize: int, sampling: Sampling
) -> Cost:
    """Of the singular values on the layer's torus, all or some for all.

    Raises:
        InputError: there are none.
    """
    torus = geometry.on_torus().correlation(shape)
    sample = sample_of(torus, sampling, itemsize)
    cost = cost_of(torus if sample is None else sample.torus, itemsize)
    values = cost.kept / 8
    cost = replace(
        cost,
        seconds=cost.seconds + _SECONDS_A_VALUE * values,
        memory=max(cost.memory, cost.kept + _BYTES_A_VALUE * values),
    )
    if sample is None:
        return cost
    # The largest derivative for each choice of signs, and the norm, if each takes little time.
    one, searches = of_search(torus, _TESTS), 1 + 2 ** (len(torus.output_shape) - 1)
    return cost.then(replace(one, seconds=searches * min(one.seconds, SAMPLED_SECONDS)))


def _largest_on(torus: Correlation, itemsize: int = 8) -> Cost:
    return replace(cost_of(torus, itemsize), kept=0.0)


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


def seconds_of(
    layers: Sequence[ConvLayer], max_seconds: float | None, effort: Effort = DEFAULT_EFFORT
) -> float:
    """Of one core, for the layers that are within the limits."""
    work = [work_of(layer, effort) for layer in layers]
    refused = beyond(layers, work, max_seconds)
    return sum(cost.seconds for index, cost in enumerate(work) if index not in refused)


def weights_of(layers: Sequence[ConvLayer]) -> int:
    """Their number; of kernels that are one array once, as a small file may have many layers of one."""
    return sum({one.kernel.__array_interface__["data"][0]: one.kernel.size for one in layers}.values())


def size_of(layer: ConvLayer) -> str:
    """The input of a layer as one says it."""
    return "any size" if layer.geometry is None else by_axis(layer.geometry.input_shape)
