"""Singular values of a layer with its own padding, whatever it is: a few of them, all of them, their density.

`singular_values` and `svd` are for wrapped boundaries, whose symbol gives everything; here the layer is
applied. NumPy, in float64, without gradient.

Not used, as they stall or miss: power iteration (1 % low after 100 steps on common layers), LOBPCG, PROPACK
at its defaults.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ._compat import Array, in_range_again, is_concrete
from .bounds.wave_packet import enclosing_top, packet
from .checks import check_count
from .compute import DEFAULT, Compute
from .errors import InputError
from .geometry import ConvGeometry
from .operators.lanczos import Triplets, bidiagonal, largest_triplets, start_vector
from .operators.padded import Operator, operator
from .problem import Problem, in_numpy, problem_of, scaled

__all__ = ["Density", "Triplets", "all_values", "bytes_of_all", "density", "largest", "smallest"]

NumpyArray = np.ndarray[Any, Any]

_NORMAL = float(np.finfo(np.float64).smallest_normal)
_LEAST = float(np.finfo(np.float64).smallest_subnormal)


def largest(
    kernel: Array,
    geometry: ConvGeometry,
    k: int = 1,
    *,
    tolerance: float = 1e-6,
    start: Array | None = None,
    applications: int = 1000,
    seed: int = 0,
) -> Triplets:
    """The k largest singular triplets, by Golub-Kahan-Lanczos bidiagonalisation (`lanczos.py`).

    Arguments:
        kernel: real array in the layout of `geometry`.
        geometry: any.
        k: how many, at least 1.
        tolerance: stops where all residuals are at most this times the largest value.
        start: shape (channels, *input_shape) of the layer's input, such as `right[0]` of a call before
            (of a kernel nearby: fewer steps). Default: the wave packet of `bounds.wave_packet`.
        applications: of the layer or its adjoint, at the most; `converged` says whether they were enough.
        seed: of directions that come from nowhere else.

    Returns:
        `Triplets`, whose `values` are proven lower bounds of the norm, the first the best, and whose
        `residuals` say how close to each there is a singular value.

    Raises:
        InputError: k is no integer between 1 and the smaller side of the operator, a start of another shape;
            a traced JAX array.
        GeometryError, KernelError: as `bounds.operator_norm`.

    Notes:
        Not guaranteed: that none is larger, or that a repeated value comes as often as it is repeated, though
        it was looked for from two random directions. A proven upper bound is that of `bounds.operator_norm`.

    References:
        Golub and Kahan (1965); Baglama and Reichel (2005), augmented implicitly restarted Lanczos
        bidiagonalization methods.

    Examples:
        >>> laplacian, geometry = np.array([[[-1.0, 2.0, -1.0]]]), ConvGeometry(64, padding=1)
        >>> found = largest(laplacian, geometry, 2)
        >>> bool(np.allclose(found.values, 2 + 2 * np.cos(np.pi * np.array([1, 2]) / 65)))
        True
    """
    problem, power = _in_doubles(kernel, geometry)
    layer = operator(problem.kernel, problem.correlation)
    check_count("k", k, 1, min(_whole_sides(layer)))
    given = None if start is None else start_vector(start, layer.x_shape)
    if not layer.kernel.any():
        return _of_zero(layer, k)
    first = _start(problem, layer, seed) if given is None else given
    found = largest_triplets(
        layer, first, k=k, tolerance=tolerance, applications=applications, random_restarts=2, seed=seed
    )
    values, residuals = (in_range_again(each, power) for each in (found.values, found.residuals))
    least = _LEAST * ((values < _NORMAL) & (power < 1))  # what such numbers are rounded to multiples of
    return replace(found, values=np.maximum(values - least, 0.0), residuals=residuals + 2 * least)


def all_values(kernel: Array, geometry: ConvGeometry, *, compute: Compute = DEFAULT) -> NumpyArray:
    """All singular values of a small operator, descending: its matrix, decomposed group by group.

    Arguments:
        kernel: real array in the layout of `geometry`.
        geometry: any.
        compute: its `memory` is what the matrix and its making may take.

    Returns:
        Shape (count,), `count` the smaller side of the matrix of a group times the groups; exact up to
        rounding, an absolute error of a few epsilons times the norm.

    Raises:
        InputError: the operator does not fit; a traced JAX array.
        GeometryError, KernelError: as `bounds.operator_norm`.

    Examples:
        >>> mirrored = ConvGeometry(3, padding=1, padding_mode="replicate")
        >>> np.round(all_values(np.array([[[-1.0, 2.0, -1.0]]]), mirrored), 9)
        array([3., 1., 0.])
    """
    return _all_values(*_in_doubles(kernel, geometry, compute))


def _all_values(problem: Problem, power: float) -> NumpyArray:
    layer, memory = operator(problem.kernel, problem.correlation), problem.compute.memory
    (rows, columns), needed = layer.sides, _bytes(layer)
    if needed > memory:
        raise InputError(
            f"all singular values of an operator of {rows} x {columns} take {needed / 2**20:.0f} MiB, memory "
            f"allows {memory / 2**20:.0f}: raise memory, take krylov.largest or krylov.density, or "
            "singular_values(kernel, geometry.on_torus()) for the wrapped layer"
        )
    values = in_range_again(np.linalg.svd(layer.matrix(), compute_uv=False), power)
    return np.sort(values.reshape(-1))[::-1]


def bytes_of_all(kernel: Array, geometry: ConvGeometry) -> int:
    """What `all_values` takes: of the matrix, its making and its decomposition.

    Arguments:
        kernel: real array in the layout of `geometry`.
        geometry: any.

    Returns:
        A number of bytes.
    """
    problem = problem_of(kernel, geometry)
    return _bytes(operator(problem.kernel, problem.correlation))


def _bytes(layer: Operator) -> int:
    rows, columns = layer.sides
    return 8 * layer.correlation.groups * (3 * rows * columns + min(rows, columns) ** 2)


def smallest(kernel: Array, geometry: ConvGeometry, k: int = 1, *, compute: Compute = DEFAULT) -> NumpyArray:
    """The k smallest singular values, ascending, by the full decomposition.

    There is no proven way without it: a Krylov space converges to the small end last, its values approach it
    from above, and a residual says that some singular value is near, not which.

    Arguments:
        kernel: real array in the layout of `geometry`.
        geometry: any.
        k: how many, at least 1.
        compute: its `memory` is what the matrix and its making may take.

    Returns:
        Shape (k,); exact as `all_values` is.

    Raises:
        InputError: k is no integer between 1 and the number of values; as `all_values`.
        GeometryError, KernelError: as `bounds.operator_norm`.

    Examples:
        >>> float(smallest(np.ones((1, 1, 1)), ConvGeometry(4))[0])
        1.0
    """
    problem, power = _in_doubles(kernel, geometry, compute)
    layer = operator(problem.kernel, problem.correlation)
    check_count("k", k, 1, min(layer.sides) * problem.correlation.groups)
    return _all_values(problem, power)[::-1][:k]


@dataclass(frozen=True)
class Density:
    """An ESTIMATE of how the singular values are distributed, from random probes; nothing in it is proven.

    Attributes:
        nodes: shape (probes, steps): where each probe's measure lies. Probes are independent, so that their
            spread gives the error of their mean.
        weights: of the nodes, likewise; those of a probe add up to 1.
        count: number of singular values: the smaller side of the operator's matrix.
    """

    nodes: NumpyArray
    weights: NumpyArray
    count: int

    def mean(self, function: Callable[[NumpyArray], NumpyArray]) -> tuple[float, float]:
        """The mean of `function(sigma)` over all singular values, and its standard error over the probes.

        Arguments:
            function: of an array of singular values, elementwise.

        Returns:
            Both as floats.
        """
        found = (self.weights * function(self.nodes)).sum(axis=1)
        return float(found.mean()), float(found.std(ddof=1) / math.sqrt(len(found)))

    def cumulative(self, levels: Array) -> tuple[NumpyArray, NumpyArray]:
        """The share of singular values that are at most each level, and the standard errors.

        Steps of the quadrature blur it by about the norm divided by their number.

        Arguments:
            levels: of any shape.

        Returns:
            Two arrays of that shape.
        """
        at_most = self.nodes[..., None] <= np.asarray(levels, dtype=np.float64).reshape(-1)
        found = (self.weights[..., None] * at_most).sum(axis=1)
        error = found.std(axis=0, ddof=1) / math.sqrt(len(found))
        return found.mean(axis=0).reshape(np.shape(levels)), error.reshape(np.shape(levels))


def density(
    kernel: Array, geometry: ConvGeometry, *, probes: int = 16, steps: int = 40, seed: int = 0
) -> Density:
    """The distribution of all singular values by stochastic Lanczos quadrature: an estimate.

        mean_i f(sigma_i) = E[v^T f(|A|) v],    v uniform on the sphere of the smaller side,

    each `v^T f(|A|) v` by the Gauss quadrature that `steps` steps of bidiagonalisation from `v` make.

    Arguments:
        kernel: real array in the layout of `geometry`.
        geometry: any.
        probes: at least 2: the error falls with their root.
        steps: of each; smooth functions need few.
        seed: of the probes.

    Returns:
        `Density`, which gives means of functions and the cumulative distribution with standard errors over
        the probes. The error of the quadrature is not among them.

    Raises:
        InputError: fewer than 2 probes or 1 step; as `largest`.
        GeometryError, KernelError: as `largest`.

    Notes:
        Cost: `2 probes steps` applications.

    References:
        Golub and Meurant (2010); Ubaru, Chen and Saad (2017), fast estimation of tr(f(A)).

    Examples:
        >>> identity = density(np.eye(3).reshape(3, 3, 1), ConvGeometry(10), probes=2, steps=5)
        >>> [round(number, 12) for number in identity.mean(np.log1p)] == [round(math.log(2), 12), 0.0]
        True
    """
    check_count("probes", probes, 2)
    check_count("steps", steps)
    problem, power = _in_doubles(kernel, geometry)
    layer = operator(problem.kernel, problem.correlation)
    rows, columns = _whole_sides(layer)
    if rows < columns:  # the zeros that only the larger side has do not count
        layer = layer.T
    count = min(rows, columns)
    steps = min(steps, count)
    random = np.random.default_rng(seed)
    nodes, weights = np.zeros((2, probes, steps))
    for probe in range(probes):
        start = random.standard_normal(layer.x_shape)
        small = bidiagonal(layer, start, steps, seed=seed + probe)
        _, nodes[probe], right = np.linalg.svd(small)
        weights[probe] = right[:, 0] ** 2
    return Density(in_range_again(nodes, power), weights, count)


def _in_doubles(kernel: Array, geometry: ConvGeometry, compute: Compute = DEFAULT) -> tuple[Problem, float]:
    """The problem in float64 with its entries in range, and the power that they were divided by."""
    problem = problem_of(kernel, geometry, compute)
    if not is_concrete(problem.kernel):
        raise InputError("krylov needs concrete values: call it outside jax.jit")
    return scaled(in_numpy(problem))


def _whole_sides(layer: Operator) -> tuple[int, int]:
    return math.prod(layer.y_shape), math.prod(layer.x_shape)


def _start(problem: Problem, layer: Operator, seed: int) -> NumpyArray:
    """A wave packet as the layer's input, with a little of everything else."""
    c = problem.correlation
    forward = layer.T if c.transposed else layer
    top = enclosing_top(problem)
    x = np.zeros(forward.x_shape)
    columns = c.group_shape[1]
    wave = packet(problem)[0].real
    x[top.group * columns : (top.group + 1) * columns] = wave / (np.linalg.norm(wave) or 1.0)
    other = np.random.default_rng(seed).standard_normal(x.shape)
    x += 0.01 * other / np.linalg.norm(other)
    return np.asarray(forward.apply(x[None])[0]) if c.transposed else x


def _of_zero(layer: Operator, k: int) -> Triplets:
    """Of the zero operator every vector is one."""
    rows, columns = _whole_sides(layer)
    return Triplets(
        values=np.zeros(k),
        left=np.eye(k, rows).reshape(k, *layer.y_shape),
        right=np.eye(k, columns).reshape(k, *layer.x_shape),
        residuals=np.zeros(k),
        applications=0,
        converged=True,
    )
