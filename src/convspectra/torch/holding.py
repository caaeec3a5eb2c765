"""One weight and all its uses: from where it is to where it should be. Nothing is written here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from .._compat import Array
from ..errors import KernelError
from ..geometry import ConvGeometry
from ..guarantee import Target, target_of
from ..problem import problem_of
from ..projection import Guarantee, clip, clip_reshaped_kernel, project, rescale
from ..results import Projection

Method = Literal["clip", "project", "rescale", "reshaped"]

KEEPS_ITS_PROMISE = ("project", "rescale")
"""Methods after which every norm is at most `max_norm`, in exact comparison."""


TOLERANCE = 0.1
"""Of `project`: the optimizer moves weights again at once, so that nearer is not worth its time."""


@dataclass(frozen=True)
class Use:
    """One operator that a weight stands for.

    Attributes:
        geometry: as `promised_geometry` gives it.
        scale: of its output channels, by the batch norm that follows; shaped to multiply the weight.
    """

    geometry: ConvGeometry
    scale: torch.Tensor | None = None


@dataclass(frozen=True)
class Limits:
    """What is asked of every weight."""

    max_norm: float
    method: Method
    guarantee: Guarantee


Dual = tuple[tuple[int, ...], torch.Tensor]
"""`Projection.dual`, and the input size that it belongs to."""


@dataclass(frozen=True)
class Held:
    """A weight in the ball of all its uses.

    Attributes:
        weight: of the given one's shape, dtype and device.
        norm_before, norm: the largest over the uses; None where nobody asked.
        gap: as `Projection.gap`, None where there are several uses or the weight was rounded.
        dual: to start the next call from.
    """

    weight: torch.Tensor
    norm_before: float | None = None
    norm: float | None = None
    gap: float | None = None
    dual: Dual | None = None


def hold(
    weight: torch.Tensor,
    uses: list[Use],
    limits: Limits,
    *,
    dual: Dual | None = None,
    measure: bool = True,
) -> Held:
    """The weight moved into the ball by the method that `limits` names.

    With several uses `rescale` meets the tightest need exactly; `project` finds the nearest weight for the
    use with the largest norm and scales it down for the others; `clip` and `reshaped` clip for one after
    the other. Half precision is computed in float32, scaled rows (`Use.scale`) in float64; what rounding to
    the weight's own precision adds is taken off again by the methods of `KEEPS_ITS_PROMISE`.

    Arguments:
        dual: `Held.dual` of an earlier call; not used where another size has the largest norm by now.
        measure: also compute norms that the method does not need.

    Raises:
        GeometryError, KernelError, InputError: as the functions of `convspectra.projection`.
    """
    given = _computed_in(weight, uses)
    if len(uses) > 1 and limits.method == "project":
        uses = sorted(uses, key=lambda use: -norm_of(given, use, limits.guarantee))
    warm = dual[1] if dual is not None and dual[0] == uses[0].geometry.input_shape else None
    moved, first, final = given, None, None
    for i, use in enumerate(uses):
        method: Method = "rescale" if i and limits.method == "project" else limits.method
        moved, result = _moved(moved, use, limits, method, None if i else warm, measure)
        first, final = first or result, result
    assert first is not None  # there is a use
    assert final is not None
    plain = len(uses) == 1 and moved.dtype == weight.dtype and uses[0].scale is None
    before, after = (None if norm is None else float(norm) for norm in (first.norm_before, final.norm))
    rounded = moved if plain else moved.to(weight.dtype)
    if not plain:
        before = max(norm_of(given, use, limits.guarantee) for use in uses) if measure else None
        rounded, after = _rounded(moved, weight.dtype, uses, limits, measure)
    return Held(
        weight=rounded.reshape(weight.shape),
        norm_before=before,
        norm=after,
        gap=first.gap if plain else None,
        dual=None if first.dual is None else (uses[0].geometry.input_shape, _tensor(first.dual)),
    )


def norm_of(weight: torch.Tensor, use: Use, guarantee: Guarantee) -> float:
    """What is known of the operator's norm for this use."""
    target = _promised(weight, use, guarantee)
    return float(target.norm)


def is_kept(weight: torch.Tensor, use: Use, max_norm: float, guarantee: Guarantee) -> bool:
    """Whether the weight, as it stands, is proven to keep the promise for this use."""
    target = _promised(weight, use, guarantee)
    return target.keeps(max_norm)


def _promised(weight: torch.Tensor, use: Use, guarantee: Guarantee) -> Target:
    kernel = _scaled(_computed_in(weight, [use]), use)
    return target_of(problem_of(_given(kernel), use.geometry), guarantee)


def torus_of(weight: torch.Tensor, use: Use, guarantee: Guarantee) -> tuple[int, ...]:
    """The sizes of the torus that the promise is held on; of a transposed layer, on its output's side."""
    one = torch.zeros(_computed_in(weight, [use]).shape, dtype=torch.float64)
    return target_of(problem_of(_given(one), use.geometry), guarantee).torus.input_shape


def cost_of(weight: torch.Tensor, uses: list[Use]) -> float:
    """About how many multiplications `hold` takes, up to a factor that all weights share."""
    shape = (*weight.shape, 1) if weight.ndim == 2 else tuple(weight.shape)
    side = min(shape[:2])
    points = sum(use.geometry.correlation(shape).points for use in uses)
    return float(points * shape[0] * shape[1] * side)


def check_dtype(name: str, weight: torch.Tensor) -> None:
    """Raise the KernelError of a weight that is not of real floats that can be computed with."""
    if not weight.is_floating_point() or weight.dtype.itemsize < 2:
        raise KernelError(
            f"{name} must hold real floats of 16 bits or more; got {weight.dtype}: convert the module first, "
            "or take the real and the imaginary part as channels of one real layer"
        )


def _computed_in(weight: torch.Tensor, uses: list[Use]) -> torch.Tensor:
    """The weight as a kernel (a linear one has a single tap), in the precision that is computed in."""
    kernel = weight.detach()
    if any(use.scale is not None for use in uses):
        kernel = kernel.double()
    elif kernel.dtype in (torch.float16, torch.bfloat16):
        kernel = kernel.float()
    return kernel[..., None] if kernel.ndim == 2 else kernel


def _scaled(kernel: torch.Tensor, use: Use) -> torch.Tensor:
    if use.scale is None:
        return kernel
    return kernel * use.scale.reshape(*use.scale.shape, *(1,) * (kernel.ndim - use.scale.ndim))


def _given(kernel: torch.Tensor) -> Array:
    """As the core takes it with the least ado."""
    return kernel.numpy() if kernel.device.type == "cpu" else kernel


def _tensor(array: Array) -> torch.Tensor:
    return array if isinstance(array, torch.Tensor) else torch.from_numpy(array)


def _moved(
    kernel: torch.Tensor,
    use: Use,
    limits: Limits,
    method: Method,
    dual: torch.Tensor | None,
    measure: bool,
) -> tuple[torch.Tensor, Projection]:
    """The kernel after one method for one use."""
    scaled = _scaled(kernel, use)
    result = _METHODS[method](_given(scaled), use.geometry, limits, dual, measure)
    moved = _tensor(result.kernel)
    if use.scale is None:
        return moved, result
    # As a difference, so that rows that did not move stay as they are; those of scale zero cannot move.
    scale = _scaled(torch.ones_like(kernel), use)
    alive = scale > 0
    return kernel + torch.where(alive, (moved - scaled) / torch.where(alive, scale, 1.0), 0.0), result


def _rounded(
    kernel: torch.Tensor, dtype: torch.dtype, uses: list[Use], limits: Limits, measure: bool
) -> tuple[torch.Tensor, float | None]:
    """The kernel in the weight's precision and its norm; scaled down until rounding keeps the promise."""
    rounded = kernel.to(dtype)
    promised = limits.method in KEEPS_ITS_PROMISE
    if not (promised or measure):
        return rounded, None
    alive = torch.zeros_like(kernel, dtype=torch.bool)
    for use in uses:
        alive |= _scaled(torch.ones_like(kernel), use) > 0
    margin = float(torch.finfo(dtype).eps) / 4
    while True:
        norm = max(norm_of(rounded, use, limits.guarantee) for use in uses)
        kept = (is_kept(rounded, use, limits.max_norm, limits.guarantee) for use in uses)
        if not promised or (norm <= limits.max_norm and all(kept)):
            return rounded, norm
        factor = (1 - margin) * min(1.0, limits.max_norm / norm)
        kernel = torch.where(alive, kernel * factor, kernel)
        rounded, margin = kernel.to(dtype), min(1.0, 2 * margin)


def _clip(kernel: Array, geometry: ConvGeometry, limits: Limits, _: Any, measure: bool) -> Projection:
    return clip(kernel, geometry, limits.max_norm, guarantee=limits.guarantee, measure=measure)


def _reshaped(kernel: Array, geometry: ConvGeometry, limits: Limits, _: Any, measure: bool) -> Projection:
    return clip_reshaped_kernel(
        kernel, geometry, limits.max_norm, guarantee=limits.guarantee, measure=measure
    )


def _rescale(kernel: Array, geometry: ConvGeometry, limits: Limits, _: Any, measure: bool) -> Projection:
    return rescale(kernel, geometry, limits.max_norm, guarantee=limits.guarantee)


def _project(
    kernel: Array, geometry: ConvGeometry, limits: Limits, dual: torch.Tensor | None, measure: bool
) -> Projection:
    start = None if dual is None else _given(dual)
    return project(
        kernel, geometry, limits.max_norm, guarantee=limits.guarantee, dual=start, tolerance=TOLERANCE
    )


_METHODS: dict[Method, Callable[[Array, ConvGeometry, Limits, Any, bool], Projection]] = {
    "clip": _clip,
    "project": _project,
    "rescale": _rescale,
    "reshaped": _reshaped,
}
