"""One tensor of a file, moved until every layer that uses it keeps the limit, in its stored precision."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import projection
from ..compute import Compute
from ..errors import GeometryError, InputError, KernelError
from ..guarantee import target_of
from ..models import batch_norm
from ..models.floats import EPSILON, rounded
from ..models.records import ConvLayer
from ..models.writers import Home
from ..problem import problem_of
from ..results import Projection
from ..work import anywhere
from .records import Limit

NumpyArray = np.ndarray[Any, Any]

# Another engine, which rounds otherwise, must find the norm inside as well.
_MARGIN = 64 * float(np.finfo(np.float64).eps)
_PASSES = 8


@dataclass(frozen=True)
class Held:
    """A layer as it is held: which operator of it, and with which factor for each output channel."""

    layer: ConvLayer
    limit: Limit
    compute: Compute

    @property
    def scale(self) -> NumpyArray:
        """The batch norm behind the layer, where that is folded; broadcasts to the kernel."""
        return batch_norm.layer_factors(self.layer) if self.limit.fold_batch_norm else np.ones(())

    def measured(self, plain: NumpyArray) -> tuple[float, bool]:
        """The norm of this layer with another kernel, and whether it is proven to keep the limit.

        Raises:
            KernelError: NaN or infinite entries.
            GeometryError: there is no such proof for the layer.
            InputError: its geometry is needed and unknown.
        """
        name, geometry, kernel = self.layer.name, self.layer.geometry, plain * self.scale
        if geometry is None and self.limit.guarantee != "any_size":
            raise InputError(f"layer {name!r}: {self.layer.reason}; or hold it with --guarantee any-size")
        try:
            problem = problem_of(kernel, geometry or anywhere(self.layer), self.compute)
            target = target_of(problem, self.limit.guarantee)
            return float(target.norm), target.keeps(self.limit.max_norm)
        except KernelError as error:
            raise KernelError(f"layer {name!r}: {error}; nothing was written") from None
        except GeometryError as error:
            raise GeometryError(f"layer {name!r}: {error}; or hold it with --guarantee any-size") from None

    def moved(self, plain: NumpyArray) -> tuple[NumpyArray, Projection]:
        """The kernel moved into the ball, as far as the method does; output channels of scale 0 stay."""
        scale, limit = self.scale, self.limit
        options: dict[str, Any] = {"guarantee": limit.guarantee, "compute": self.compute}
        if limit.method == "project":
            options["tolerance"] = limit.tolerance
        move = getattr(projection, limit.method)
        result = move(plain * scale, self.layer.geometry or anywhere(self.layer), limit.max_norm, **options)
        divided = result.kernel / np.where(scale != 0, scale, 1.0)
        return np.where(np.broadcast_to(scale != 0, plain.shape), divided, plain), result


@dataclass(frozen=True)
class Use:
    """A layer that is held, and where its kernel lies."""

    held: Held
    home: Home

    def plain(self, values: NumpyArray) -> NumpyArray:
        return self.home.kernel(values, self.held.layer.kernel.shape)

    def measured(self, values: NumpyArray) -> tuple[float, bool]:
        return self.held.measured(self.plain(values))


@dataclass(frozen=True)
class Move:
    """Where a tensor went.

    Attributes:
        values: flat, as the file will hold them.
        distances: by layer's name: as in `LayerClip`; the layers that are missing have no proof.
    """

    values: NumpyArray
    iterations: int
    seconds: float
    distances: dict[str, float]


def move(
    uses: Sequence[Use], found: Sequence[tuple[float, bool]], values: NumpyArray, limit: Limit
) -> Move | None:
    """A tensor's values, moved for all its uses, which were `measured`; None where all are inside.

    The use that exceeds the limit most is moved first, until none does; then the whole is scaled down by
    what rounding to the stored type added. Where one projection was enough, its proof of nearness holds
    for all uses together, as the nearest kernel for all is no nearer than that for one.
    """
    began = time.perf_counter()
    once = limit.method == "clip"
    norms = [norm for norm, _ in found]
    if max(norms) <= limit.max_norm and (once or all(kept for _, kept in found)):
        return None
    current, iterations, steps = values, 0, 0
    result, worst = None, uses[0]
    for _ in range(len(uses) if once else _PASSES * len(uses)):
        at = steps if once else int(np.argmax(norms))
        if norms[at] > limit.max_norm * (1 + _MARGIN):
            worst = uses[at]
            kernel, result = worst.held.moved(worst.plain(current))
            current = worst.home.values(kernel)
            iterations += result.iterations
            norms = [use.measured(current)[0] for use in uses]
        elif not once:
            break
        steps += 1
    final = rounded(current, worst.home.stored) if once else _settled(uses, current, limit)
    distances = {}
    if steps == 1 and result is not None and result.gap is not None:
        distances[worst.held.layer.name] = _distance(worst, values, final, result)
    return Move(final, iterations, time.perf_counter() - began, distances)


def _settled(uses: Sequence[Use], values: NumpyArray, limit: Limit) -> NumpyArray:
    """The values in the type that they are stored in, scaled down until every norm of these is inside."""
    stored = uses[0].home.stored
    live = np.zeros(values.shape, dtype=bool)
    for use in uses:
        shape = use.held.layer.kernel.shape
        mask = np.broadcast_to(use.held.scale != 0, shape).astype(np.float64)
        live |= use.home.values(mask) != 0
    top, margin = limit.max_norm * (1 - _MARGIN), EPSILON[stored] / 8
    final = rounded(values, stored)
    while True:
        norms, kept = zip(*(use.measured(final) for use in uses), strict=True)
        if max(norms) <= top and all(kept):
            break
        # Rounding moves the norm by about as much as the margin is; it grows until that is enough.
        values = np.where(live, values * (top / max(*norms, top) * (1 - min(margin, 1.0))), values)
        final, margin = rounded(values, stored), 2 * margin
    return final


def _distance(use: Use, values: NumpyArray, final: NumpyArray, result: Projection) -> float:
    """How far the nearest kernel can be from this one, rounding included, in parts of the given norm."""
    scale = use.held.scale
    given = use.plain(values) * scale
    moved = float(np.linalg.norm(np.asarray(result.kernel) - given))
    away = float(np.linalg.norm(use.plain(final) * scale - given))
    gap = (result.gap or 0.0) + (away - moved) * (away + moved) / 2
    return float(np.sqrt(2 * max(gap, 0.0)) / np.linalg.norm(given))
