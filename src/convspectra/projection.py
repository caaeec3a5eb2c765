"""Moving a kernel towards the operator-norm ball."""

from __future__ import annotations

import math
from concurrent.futures import Executor
from functools import partial
from typing import Any

import numpy as np

from ._compat import Array, is_numpy, like, namespace, to_numpy
from ._solvers import array_api, native, pool
from ._solvers.choice import Solver
from ._solvers.pool import DEFAULT_MEMORY
from .geometry import ConvGeometry, Correlation
from .results import Projection
from .spectrum import over_grid, prepare, top_block
from .symbol import FrequencyGrid, frequency_grid, symbol_adjoint, symbol_blocks


def clip(
    kernel: Array,
    geometry: ConvGeometry,
    max_norm: float,
    *,
    executor: Executor | None = None,
    memory: int = DEFAULT_MEMORY,
) -> Array:
    """One clip of the singular values at `max_norm`, cut back to the kernel's own taps.

        W - S^+ [ U max(sigma - c, 0) V^H ]

    the paper's appendix A: the nearest operator of norm at most `c`, of which only the `k^D` taps
    of the kernel are kept. Written as a difference so that a kernel inside the ball stays as it is.

    Arguments:
        kernel, executor, memory: as `singular_values`.
        geometry: block-circulant, as `singular_values`.
        max_norm: the radius `c`, positive.

    Returns:
        The new kernel, in the layout and dtype that `kernel` has (at least float32).

    Raises:
        ValueError: max_norm is not positive and finite.
        GeometryError, KernelError: as `singular_values`.

    Not guaranteed: norm at most `max_norm`. Cutting back to `k^D` taps raises it again, by 15 to
    40 % on random kernels.

    Reference: Sedghi, Gupta and Long (2019), Section 3 and Appendix A.
    """
    _check_limit(max_norm)
    ready, correlation = prepare(kernel, geometry)
    grid = frequency_grid(correlation)
    task = partial(_excess, ready, correlation, grid, float(max_norm))
    parts = over_grid(task, ready, correlation, grid, executor, memory)
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    scale = math.prod(grid.shape) * _copies(correlation)
    return _as_given(ready - total / like(scale, ready, ready.dtype), geometry)


def rescale(
    kernel: Array,
    geometry: ConvGeometry,
    max_norm: float,
    *,
    executor: Executor | None = None,
    memory: int = DEFAULT_MEMORY,
    solver: Solver = "auto",
) -> Array:
    """The kernel divided by what its norm exceeds `max_norm` by, if it does.

    Arguments, errors: as `project`. The norm of the result, as `operator_norm` computes it, is at most
    `max_norm` in exact comparison.
    """
    _check_limit(max_norm)
    solve = {"executor": executor, "memory": memory, "solver": solver}
    ready, correlation = prepare(kernel, geometry)
    scaled, _ = _inside(ready, correlation, max_norm, solve)
    return _as_given(scaled, geometry)


def project(
    kernel: Array,
    geometry: ConvGeometry,
    max_norm: float,
    *,
    tolerance: float = 1e-2,
    max_iterations: int = 1000,
    dual: Array | None = None,
    executor: Executor | None = None,
    memory: int = DEFAULT_MEMORY,
    solver: Solver = "auto",
) -> Projection:
    """The nearest kernel with the same taps and operator norm at most `max_norm`.

        min ||K - W||  subject to  ||S(K)(g)|| <= c  for all frequencies g

    Its dual `max <W, S* Y> - ||S* Y||^2 / 2 - c sum ||Y(g)||_nuclear`, with `K = W - S* Y`, is solved by
    accelerated proximal gradient steps, each a soft threshold of the singular values of all
    blocks, with restarts; for an unaccelerated step of this size it is Dykstra's algorithm. It stops when the
    duality gap proves that the kernel, scaled back into the ball, is near the nearest one.

    Arguments:
        kernel, executor, memory, solver: as `singular_values`; no gradient.
        geometry: block-circulant, as `singular_values`.
        max_norm: the radius `c`, positive.
        tolerance: stop when `gap` is at most this times half of the squared distance moved.
        max_iterations: stop then at the latest, and say what was reached.
        dual: `Projection.dual` of an earlier call with the same geometry, for a kernel that has
            changed little.

    Returns:
        `Projection`.

    Raises:
        ValueError: max_norm is not positive and finite, tolerance not positive, max_iterations
            below 1, or a dual of another shape.
        GeometryError, KernelError, InputError: as `singular_values`.

    Not guaranteed: anything about other boundaries than the wrapped one. Memory is not bounded by
    `memory` here: the dual stands in it, twice the symbol, in double precision.

    Reference: Dykstra (1983); Beck and Teboulle (2009); restarts, O'Donoghue and Candes (2015). Sedghi,
    Gupta and Long (2019), Section 3, suggest alternating projections, which converge to another kernel.

    >>> import numpy as np
    >>> twice = 2 * np.eye(3).reshape(3, 3, 1, 1)
    >>> geometry = ConvGeometry((8, 8), padding="same", padding_mode="circular")
    >>> nearest = project(twice, geometry, max_norm=1.0)
    >>> bool(np.allclose(nearest.kernel, twice / 2)), bool(nearest.norm <= 1)
    (True, True)
    """
    _check_limit(max_norm)
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive; got {tolerance}")
    if max_iterations < 1:
        raise ValueError(f"max_iterations must be at least 1; got {max_iterations}")
    solve: dict[str, Any] = {"executor": executor, "memory": memory, "solver": solver}
    given, correlation = prepare(kernel, geometry)
    norm_before = top_block(given, correlation, **solve).norm
    if float(norm_before) <= max_norm:
        return Projection(kernel, norm_before, norm_before, 0, 0.0)
    grid = frequency_grid(correlation)
    shape = (len(grid.index), *symbol_blocks(given, correlation, grid, 0, 1).shape[1:])
    state = np.zeros(shape, dtype=np.complex128) if dual is None else to_numpy(dual)
    if state.shape != shape:
        raise ValueError(f"dual must come from a call with the same geometry; got shape {state.shape}")
    # In units of the limit, so that tiny and huge kernels stay in range.
    start = to_numpy(given).astype(np.float64) / max_norm
    best, gap, state, iterations = _nearest(start, correlation, grid, state, tolerance, max_iterations, solve)
    inside, norm = _inside(like(best * max_norm, given, given.dtype), correlation, max_norm, solve)
    # What rounding to the kernel's precision and the last division added to the distance.
    drift = float(np.linalg.norm(to_numpy(inside).astype(np.float64) / max_norm - best))
    gap += drift * float(np.linalg.norm(best - start)) + drift**2 / 2
    return Projection(
        _as_given(inside, geometry), norm_before, norm, iterations, gap * max_norm**2, like(state, given)
    )


def _nearest(
    start: np.ndarray[Any, Any],
    correlation: Correlation,
    grid: FrequencyGrid,
    state: np.ndarray[Any, Any],
    tolerance: float,
    max_iterations: int,
    solve: dict[str, Any],
) -> tuple[np.ndarray[Any, Any], float, np.ndarray[Any, Any], int]:
    """The best kernel found in the unit ball, its gap, the dual that it came from, and the sweeps taken."""
    weights = grid.multiplicity.astype(np.float64)
    step = 1.0 / float(math.prod(grid.shape) * _copies(correlation).max())
    ahead, momentum = state, 1.0
    best, best_gap, iterations = start, math.inf, 0
    while iterations < max_iterations:
        current = start - symbol_adjoint(ahead, correlation, grid)
        moved = ahead + step * symbol_blocks(current, correlation, grid)
        following, nuclear = _soft_threshold(moved, step, weights, solve)
        iterations += 1
        uphill = ((ahead - following).conj() * (following - state)).real
        if np.tensordot(weights, uphill, axes=1).sum() > 0:
            momentum = 1.0  # the momentum points away from the optimum
        faster = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        ahead = following + (momentum - 1) / faster * (following - state)
        state, momentum = following, faster
        if iterations % _BETWEEN_CHECKS and iterations != max_iterations:
            continue
        # Every dual point bounds the optimum from below; the best feasible kernel so far is kept.
        shift = symbol_adjoint(state, correlation, grid)
        lower = float(np.sum(start * shift) - np.sum(shift**2) / 2 - nuclear)
        candidate, _ = _inside(start - shift, correlation, 1.0, solve)
        distance = float(np.sum((candidate - start) ** 2)) / 2
        if distance - lower < best_gap:
            best, best_gap = candidate, distance - lower
        if best_gap <= tolerance * distance:
            break
    return best, best_gap, state, iterations


_BETWEEN_CHECKS = 5
"""Sweeps between two looks at the gap, each of which costs a norm."""


def _soft_threshold(
    blocks: np.ndarray[Any, Any], threshold: float, weights: np.ndarray[Any, Any], solve: dict[str, Any]
) -> tuple[np.ndarray[Any, Any], float]:
    """Each block with its singular values lowered by the threshold, and their weighted sum over all."""
    lowered = np.zeros_like(blocks)

    def part(start: int, stop: int) -> float:
        part_lowered, sums = _lowered(blocks[start:stop], threshold)
        lowered[start:stop] = part_lowered
        return float(np.tensordot(weights[start:stop], sums, axes=1).sum())

    rows, columns = blocks.shape[-2:]
    seconds_each = 30.0 * blocks[0].size * min(rows, columns) / 4e9
    workers = pool.workers_of(solve["executor"])
    pieces = pool.ranges(len(blocks), workers, 1, seconds_each, solve["memory"])
    return lowered, sum(pool.run(part, pieces, solve["executor"]))


def _lowered(
    blocks: np.ndarray[Any, Any], threshold: float
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Blocks with their singular values lowered by the threshold, `max(sigma - t, 0)`, and their sums.

    From the smaller Gram matrix, in double precision: only values above the threshold are divided by.
    Blocks without any are not decomposed.
    """
    flat = blocks.reshape(-1, *blocks.shape[-2:])
    lowered, sums = np.zeros_like(flat), np.zeros(len(flat))
    above = _largest(flat) > threshold
    if above.any():
        wide = flat.shape[1] <= flat.shape[2]
        chosen = flat[above].astype(np.complex128)
        squares, vectors = np.linalg.eigh(array_api.smaller_gram(chosen))
        values = np.sqrt(np.maximum(squares, threshold**2))
        share = np.matmul(vectors * (1 - threshold / values)[..., None, :], vectors.conj().swapaxes(-1, -2))
        lowered[above] = np.matmul(share, chosen) if wide else np.matmul(chosen, share)
        sums[above] = (values - threshold).sum(axis=-1)
    return lowered.reshape(blocks.shape), sums.reshape(blocks.shape[:-2])


def _largest(blocks: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The largest singular value of each block of a stack, by the fastest way at hand."""
    if native.why_unavailable() is None and min(blocks.shape[1:]) > 1:
        return native.singular_values_of_blocks(blocks)[0][:, 0]
    return np.asarray(array_api.largest_singular_value(blocks))


def _inside(
    kernel: Array, correlation: Correlation, max_norm: float, solve: dict[str, Any]
) -> tuple[Array, Array]:
    """The kernel scaled into the ball, and its norm, computed anew and compared exactly."""
    norm = top_block(kernel, correlation, **solve).norm
    factor, inside, slack = 1.0, kernel, 0.0
    while float(norm) > max_norm:
        factor = factor * (max_norm / float(norm)) * (1 - slack)
        inside = kernel * factor
        norm = top_block(inside, correlation, **solve).norm
        slack = max(2 * slack, 2.0**-24 if norm.dtype == namespace(kernel).float32 else 2.0**-53)
    return inside, norm


def _check_limit(max_norm: float) -> None:
    if not (math.isfinite(max_norm) and max_norm > 0):
        raise ValueError(f"max_norm must be positive and finite; got {max_norm}")


def _as_given(kernel: Array, geometry: ConvGeometry) -> Array:
    """From the order of `Correlation` back to the layout of the geometry."""
    axes = tuple(int(axis) for axis in np.argsort(geometry.kernel_axes))
    return namespace(kernel).permute_dims(kernel, axes)


def _excess(
    kernel: Array, correlation: Correlation, grid: FrequencyGrid, max_norm: float, start: int, stop: int
) -> Array:
    """The adjoint symbol of the part of some blocks that lies above `max_norm`."""
    xp = namespace(kernel)
    blocks = symbol_blocks(kernel, correlation, grid, start, stop)
    if is_numpy(kernel):
        return symbol_adjoint(_lowered(blocks, max_norm)[0], correlation, grid, start, stop)
    left, values, right = array_api.svd(blocks)
    over = xp.where(values > max_norm, values - max_norm, xp.zeros_like(values))
    excess = xp.matmul(left * xp.astype(over, blocks.dtype)[..., None, :], right)
    return symbol_adjoint(excess, correlation, grid, start, stop)


def _copies(correlation: Correlation) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """How many taps of a kernel land on the same point of the torus as each of them: 1 unless it wraps."""
    counts = np.ones((), dtype=np.int64)
    for k, d, n in zip(correlation.kernel_size, correlation.dilation, correlation.input_shape, strict=True):
        landing = d * np.arange(k) % n
        counts = np.multiply.outer(counts, (landing[:, None] == landing).sum(axis=1))
    return counts
