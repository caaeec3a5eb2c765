"""A kernel and the layer it belongs to: checked once at the public face, and what is computed once for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import numpy as np

from . import rounding
from ._compat import Array, in_range, is_on_gpu, is_torch, namespace, real_kernel, to_numpy, untracked
from .checks import check_kind
from .compute import DEFAULT, Compute
from .errors import GeometryError
from .geometry import ConvGeometry, Correlation
from .results import Bound

P = ParamSpec("P")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Problem:
    """A checked kernel, its geometry, and how to compute. Made by `problem_of`.

    Attributes:
        kernel: float32 or float64, axes in the order of `Correlation`.
        geometry: as the caller gave it.
        correlation: what that stands for with this kernel.
        compute: how.
    """

    kernel: Array
    geometry: ConvGeometry
    correlation: Correlation
    compute: Compute = DEFAULT
    _known: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    @property
    def wrapped(self) -> Correlation:
        """The operator on the layer's torus, its boundary wrapped: the paper's setting."""
        shape = tuple(self.kernel.shape[axis] for axis in self._layout_axes)
        return self.geometry.on_torus().correlation(shape)

    @property
    def _layout_axes(self) -> tuple[int, ...]:
        """The permutation from the order of `Correlation` back to the layout that the caller uses."""
        axes = self.geometry.kernel_axes
        return tuple(axes.index(axis) for axis in range(len(axes)))

    @property
    def itemsize(self) -> int:
        """Bytes of one number of the computation."""
        return 4 if self.kernel.dtype == namespace(self.kernel).float32 else 8

    def moved(self, kernel: Array) -> Problem:
        """The same problem with another kernel, of which nothing is known yet."""
        return replace(self, kernel=kernel)

    def in_layout(self, kernel: Array) -> Array:
        """A kernel in the order of `Correlation`, in the layout that the caller uses."""
        return namespace(kernel).permute_dims(kernel, self._layout_axes)

    def norm_error(self, norm: Array | None = None) -> Any:
        """How far a computed norm on any torus may be from the true one; see `rounding.norm_error`."""
        return rounding.norm_error(self.kernel, self.correlation, moduli(self), norm)

    def symbol_error(self) -> Any:
        """How far the blocks of a computed symbol may be off; see `rounding.symbol_error`."""
        return rounding.symbol_error(self.kernel, self.correlation, moduli(self))


def problem_of(kernel: Array, geometry: ConvGeometry, compute: Compute = DEFAULT) -> Problem:
    """The problem of a kernel in the layout of its geometry.

    Raises:
        KernelError: the kernel is no real array, or has NaN or infinite entries.
        GeometryError: kernel and geometry do not fit, or it is no geometry.
    """
    kernel = real_kernel(kernel)
    if not isinstance(geometry, ConvGeometry):
        raise GeometryError(
            f"geometry must be a ConvGeometry, such as ConvGeometry(input_shape=(32, 32), padding=1); "
            f"got {geometry!r}"
        )
    check_kind("compute", compute, Compute, "convspectra.Compute()")
    correlation = geometry.correlation(kernel.shape)
    ordered = namespace(kernel).permute_dims(kernel, geometry.kernel_axes)
    return Problem(ordered, geometry, correlation, compute)


def once(
    function: Callable[Concatenate[Problem, P], Result],
) -> Callable[Concatenate[Problem, P], Result]:
    """A function of a problem whose result is kept with the problem, by the other arguments."""

    @wraps(function)
    def of_problem(problem: Problem, *args: P.args, **options: P.kwargs) -> Result:
        kept, key = problem._known, (function, args, tuple(options.items()))
        if key not in kept:
            kept[key] = function(problem, *args, **options)
        found: Result = kept[key]
        return found

    return cast(Callable[Concatenate[Problem, P], Result], of_problem)


def known(problem: Problem, function: Callable[Concatenate[Problem, P], Result], *args: Any) -> Result | None:
    """What a function made by `once` gave for this problem before, None where it was not called."""
    found: Result | None = problem._known.get((function.__wrapped__, args, ()))  # type: ignore[attr-defined]
    return found


def scaled(problem: Problem) -> tuple[Problem, Any]:
    """The problem divided by a power of two that brings its entries into range, and that; see `in_range`."""
    other, power = _scaled(problem)
    return other or problem, power


def widened(problem: Problem) -> Problem:
    """The problem in double precision, where its library and device have it; see `rounding.widened`."""
    return _changed(problem, rounding.widened) or problem


def without_gradient(problem: Problem) -> Problem:
    """The problem of the values alone."""
    return _changed(problem, untracked) or problem


def in_doubles(problem: Problem) -> Problem:
    """The problem of the values alone in float64, where there is such: on its device, or in NumPy."""
    return _changed(problem, _as_doubles) or problem


def in_numpy(problem: Problem) -> Problem:
    """The problem of the values alone in NumPy, in double precision."""
    return _changed(problem, _as_numpy) or problem


def _as_doubles(kernel: Array) -> Array:
    return untracked(kernel).double() if is_torch(kernel) and is_on_gpu(kernel) else _as_numpy(kernel)


def _as_numpy(kernel: Array) -> Array:
    return to_numpy(kernel).astype(np.float64, copy=False)


# None for the problem itself, which would keep itself alive.
@once
def _changed(problem: Problem, change: Callable[[Array], Array]) -> Problem | None:
    kernel = change(problem.kernel)
    return None if kernel is problem.kernel else problem.moved(kernel)


@once
def _scaled(problem: Problem) -> tuple[Problem | None, Any]:
    kernel, power = in_range(problem.kernel)
    return None if kernel is problem.kernel else problem.moved(kernel), power


@once
def moduli(problem: Problem) -> rounding.Moduli:
    inside, power = scaled(problem)
    return rounding.moduli(inside.kernel, inside.correlation), power


def homogeneous(
    method: Callable[Concatenate[Problem, P], Bound], problem: Problem, *args: P.args, **options: P.kwargs
) -> Bound:
    """A bound of the kernel in range, times the power of two that brought it there.

    Raises:
        RangeError: the bound is beyond the range of the kernel's precision.
    """
    inside, power = scaled(problem)
    return rounding.times(method(inside, *args, **options), power)
