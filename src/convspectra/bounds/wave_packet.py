"""A proven lower bound that is nearly the norm: what the operator does to its worst plane wave."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .._compat import Array, is_concrete, like, to_numpy
from ..compute import DEFAULT, Compute
from ..errors import GeometryError
from ..geometry import ConvGeometry, Correlation
from ..operators.lanczos import proven_gains
from ..operators.padded import Operator, operator
from ..problem import Problem, homogeneous, in_numpy, once, problem_of
from ..results import Bound
from ..rounding import rounded_down
from ..spectrum import TopBlock, top_on
from ..symbol import frequency_grid, input_wave, symbol_blocks
from .tori import enclosing_tori

NumpyArray = np.ndarray[Any, Any]

PACKET_APPLICATIONS = 14
"""Of a layer or its adjoint in `packet_norm`."""


def wave_packet(
    kernel: Array, geometry: ConvGeometry, *, steps: int = 3, compute: Compute = DEFAULT
) -> Bound:
    """A lower bound for any boundary: `||A x|| / ||x||` for a well-chosen x.

    x is the plane wave whose block has the largest singular value on the enclosing torus, with its
    right singular vector across the channels, tapered by half a sine towards the edges. Each of
    `steps` power iterations `x <- A^T A x` can only raise the quotient.

    Arguments:
        kernel: as for `singular_values`; computed in NumPy, in float64, without gradient.
        geometry: any.
        steps: power iterations.
        compute: how; see `Compute`.

    Returns:
        `Bound` of the operator norm; its `status` says which sides are proven.

    Raises:
        GeometryError: values that cannot be looked at (a traced JAX array); padding by reflection over an
            axis of one point.

    Notes:
        Not guaranteed: tightness, though it is within 1 % of the norm on common layers with zero padding.
        What reflect and replicate padding add at the edges is seen only by the power iterations.

    References:
        The wave packets of Bottcher and Silbermann (1999), Introduction to large truncated Toeplitz
        matrices, section 5, that make Toeplitz norms tend to the sup of the symbol.
    """
    return homogeneous(wave_packet_of, problem_of(kernel, geometry, compute), steps)


def wave_packet_of(problem: Problem, steps: int = 3) -> Bound:
    """`wave_packet` of a problem whose entries are in range."""
    ready = problem.kernel
    if not is_concrete(ready):
        raise GeometryError("wave_packet needs concrete values; call it outside jax.jit")
    lower = packet_norm(problem, steps)
    return Bound(like(lower, ready, ready.dtype), None, method="wave_packet")


@once
def packet_norm(problem: Problem, steps: int = 3) -> float:
    """The quotient of the packet, proven, not above it in the kernel's dtype.

    The larger one of its real and its imaginary part: no less than that of both, which is a mean of these.
    """
    if not float(to_numpy(enclosing_top(problem).norm)) > 0:
        return 0.0
    layer, wave = forward_of_top_group(problem), packet(problem)
    best = max(_gain(layer, part, steps) for part in (wave.real, wave.imag))
    return float(rounded_down(np.float64(best), 1.0, to_numpy(problem.kernel)))


def _gain(layer: Operator, x: NumpyArray, steps: int) -> float:
    """The largest quotient of so many power iterations."""
    best = 0.0
    for step in range(steps + 1):
        length = float(np.linalg.norm(x))
        if length == 0:
            break
        x = x / length
        gains, image = proven_gains(layer, x)
        best = max(best, float(gains[0]))
        if step < steps:
            x = layer.T.apply(image)
    return best


def enclosing_top(problem: Problem) -> TopBlock:
    """The largest singular value on the smallest torus that holds the layer, and where it is reached."""
    return top_on(problem, enclosing_tori(problem.correlation, 1)[0])


@once
def packet(problem: Problem) -> NumpyArray:
    """The packet of one group on its top block: complex, shape (1, channels, *input_shape).

    Of the forward correlation, which has the norm of a transposed layer too.
    """
    correlation, top = problem.correlation, enclosing_top(problem)
    torus = enclosing_tori(correlation, 1)[0]
    grid = frequency_grid(torus)
    alone, torus_group = of_group(in_numpy(problem).kernel, torus, top.group)
    block = symbol_blocks(alone, torus_group, grid.at(slice(top.frequency, top.frequency + 1)))[0, 0]
    vector = np.linalg.svd(block, full_matrices=False)[2][0].conj()
    x = input_wave(vector, grid, torus_group, grid.index[top.frequency])
    for axis, n in enumerate(correlation.input_shape):
        # The torus may be smaller than an input whose end is not read.
        x = np.take(x, np.arange(n) % x.shape[axis + 1], axis=axis + 1)
        taper = np.sin(np.pi * (np.arange(n) + 1) / (n + 1))
        x = x * taper.reshape(-1, *(1,) * (len(correlation.input_shape) - axis - 1))
    return np.asarray(x[None])


def forward_of_top_group(problem: Problem) -> Operator:
    """The forward operator of the group of the packet, in float64."""
    alone, one = of_group(in_numpy(problem).kernel, problem.correlation, enclosing_top(problem).group)
    return operator(alone, replace(one, transposed=False))


def of_group(kernel: NumpyArray, correlation: Correlation, group: int) -> tuple[NumpyArray, Correlation]:
    """The kernel and correlation of one group, which is an operator of its own."""
    rows, columns = correlation.group_shape
    one = replace(correlation, out_channels=rows, in_channels=columns, groups=1)
    return kernel[group * rows : (group + 1) * rows], one
