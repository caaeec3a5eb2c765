"""Convolutions as they run, whatever their boundary: matrix-free apply and adjoint.

A correlation reads a padded copy of its input through one window a tap. Along each axis padding is a table:
which input point a padded one copies, or none. So `A = T E`, with `E` that copying and `T` a correlation
without padding; the adjoint adds into the windows and then onto the points that were copied.

Plain array operations, so that PyTorch differentiates through them; NumPy, PyTorch and strict arrays are
added to in place, in buffers of their own.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from .._compat import Array, is_torch, like, namespace
from ..cost import of_applications
from ..errors import GeometryError, InputError
from ..geometry import Correlation

NumpyArray = np.ndarray[Any, Any]
Shape = tuple[int, ...]
Index = tuple[Any, ...]

_WINDOWS = 2**22
"""Entries of windows that are laid side by side at once."""


@dataclass(frozen=True)
class Operator:
    """The linear map of a layer, without its bias.

        apply:    y[o, r] = sum_{i,p} W[o, i, p] x[i, s r + d p - a],  reads beyond the input as the mode says

    and for a transposed layer the adjoint of that. Made by `operator`.

    Attributes:
        kernel: axes in the order of `Correlation`.
        correlation: its geometry.
    """

    kernel: Array
    correlation: Correlation

    @property
    def x_shape(self) -> Shape:
        """Channels and sizes of what goes into the layer."""
        c = self.correlation
        return _sides(c)[1 if c.transposed else 0]

    @property
    def y_shape(self) -> Shape:
        """Channels and sizes of what comes out."""
        c = self.correlation
        return _sides(c)[0 if c.transposed else 1]

    @property
    def T(self) -> Operator:  # noqa: N802  # as NumPy has it
        """The adjoint as an operator."""
        return replace(
            self, correlation=replace(self.correlation, transposed=not self.correlation.transposed)
        )

    def apply(self, x: Array) -> Array:
        """The layer: shape (batch, *x_shape) to (batch, *y_shape).

        Arguments:
            x: of the kernel's library, device and dtype, or of the complex dtype of that precision.

        Raises:
            InputError: another shape.
        """
        if tuple(x.shape[1:]) != self.x_shape:
            expected = ", ".join(map(str, self.x_shape))
            raise InputError(f"x must have the shape (batch, {expected}); got {tuple(x.shape)}")
        run = _written if self.correlation.transposed else _read
        return _by_parts(lambda part: run(self.kernel, self.correlation, part), x)

    def adjoint(self, y: Array) -> Array:
        """Its adjoint: shape (batch, *y_shape) to (batch, *x_shape)."""
        return self.T.apply(y)

    def matrix(self, batch: int = 64) -> Array:
        """Dense, one matrix a group: shape (groups, outputs, inputs), channels first and row-major.

        The operator is their direct sum. Unit vectors go through it, a batch at a time, from the smaller
        side.
        """
        rows, columns = self.sides
        if rows < columns:
            return namespace(self.kernel).matrix_transpose(self.T.matrix(batch))
        xp, groups = namespace(self.kernel), self.correlation.groups
        identity = np.eye(columns)
        parts = []
        for start in range(0, columns, batch):
            units = np.tile(identity[start : start + batch], (1, groups))
            x = like(units.reshape(-1, *self.x_shape), self.kernel, self.kernel.dtype)
            parts.append(xp.reshape(self.apply(x), (x.shape[0], groups, rows)))
        return xp.permute_dims(xp.concat(parts, axis=0), (1, 2, 0))

    @property
    def sides(self) -> tuple[int, int]:
        """Rows and columns of the matrix of one group."""
        groups = self.correlation.groups
        return math.prod(self.y_shape) // groups, math.prod(self.x_shape) // groups


def operator(kernel: Array, correlation: Correlation) -> Operator:
    """The layer as it runs, of a kernel in the order of `Correlation`.

    Raises:
        GeometryError: padding by reflection over an axis of one point, where nothing can be mirrored.
        CostError: it is too large; the message says what it would take.

    Examples:
        >>> from convspectra import ConvGeometry
        >>> kernel = np.array([[[1.0, 2.0, 4.0]]])
        >>> mirrored = ConvGeometry(3, padding=1, padding_mode="reflect").correlation(kernel.shape)
        >>> operator(kernel, mirrored).apply(np.array([[[1.0, 10.0, 100.0]]]))
        array([[[ 52., 421., 250.]]])
    """
    of_applications(correlation, 1)  # refused before memory is taken
    for axis in range(len(correlation.input_shape)):
        sources(correlation, axis)
    return Operator(kernel, correlation)


@lru_cache(maxsize=256)
def sources(correlation: Correlation, axis: int) -> NumpyArray:
    """Which input point each padded point copies, along an axis; -1 for a padded zero.

    Of the padded points from the first read to the last; with a stride or dilation some between are not read.

    Raises:
        GeometryError: as `operator`.
    """
    c, n = correlation, correlation.input_shape[axis]
    before = c.padding[axis][0]
    points = np.arange(c.stride[axis] * (c.output_shape[axis] - 1) + c.reach[axis] + 1) - before
    if c.padding_mode == "zeros":
        found = np.where((points >= 0) & (points < n), points, -1)
    elif c.padding_mode == "circular":
        found = points % n
    elif c.padding_mode == "replicate":
        found = np.clip(points, 0, n - 1)
    elif n > 1:
        turned = points % (2 * (n - 1))
        found = np.minimum(turned, 2 * (n - 1) - turned)
    elif np.any(points != 0):
        raise GeometryError(
            f"reflect padding needs at least two points to mirror; axis {axis} has one: give a larger "
            "input_shape, or another padding_mode"
        )
    else:
        found = points
    found.flags.writeable = False
    return found


def reads(correlation: Correlation, axis: int) -> NumpyArray:
    """The input point that each output reads through each tap along an axis, -1 for none.

    Shape (outputs, taps).
    """
    c = correlation
    first = c.stride[axis] * np.arange(c.output_shape[axis])
    taps = c.dilation[axis] * np.arange(c.kernel_size[axis])
    return np.asarray(sources(c, axis)[first[:, None] + taps])


def read_count(correlation: Correlation) -> int:
    """How often, at most, an input point is read.

    `R^T R <= read_count` for the map `R` from the input to what each tap of each output reads.
    """
    counts = 1
    for axis in range(len(correlation.kernel_size)):
        table = reads(correlation, axis)
        counts *= int(np.bincount(table[table >= 0]).max(initial=0))
    return counts


def _sides(c: Correlation) -> tuple[Shape, Shape]:
    return (c.in_channels, *c.input_shape), (c.out_channels, *c.output_shape)


def _by_parts(run: Callable[[Array], Array], x: Array) -> Array:
    """A real map of a complex array: of its real and imaginary parts, in one batch."""
    xp = namespace(x)
    if not xp.isdtype(x.dtype, "complex floating"):
        return run(x)
    both = run(xp.concat([xp.real(x), xp.imag(x)], axis=0))
    return xp.astype(both[: x.shape[0], ...], x.dtype) + 1j * xp.astype(both[x.shape[0] :, ...], x.dtype)


def _read(kernel: Array, c: Correlation, x: Array) -> Array:
    """The correlation."""
    padded = x
    for axis in range(len(c.kernel_size)):
        padded = _padded(padded, c, axis)
    if _has_convolutions(x):
        return _framework("conv", c)(padded, kernel, stride=c.stride, dilation=c.dilation, groups=c.groups)
    xp, batch = namespace(x), x.shape[0]
    weights = xp.reshape(kernel, (c.groups, c.group_shape[0], -1))
    parts = []
    for part, rows in _slabs(c, batch):
        windows = _windows(padded[rows], part)
        columns = xp.reshape(windows, (batch, c.groups, weights.shape[2], -1))
        parts.append(xp.reshape(xp.matmul(weights, columns), (batch, c.out_channels, *part.output_shape)))
    return parts[0] if len(parts) == 1 else xp.concat(parts, axis=2)


def _written(kernel: Array, c: Correlation, y: Array) -> Array:
    """Its adjoint."""
    if _has_convolutions(y):
        padded = _framework("conv_transpose", c)(
            y, kernel, stride=c.stride, dilation=c.dilation, groups=c.groups
        )
    else:
        padded = _padded_from_outputs(kernel, c, y)
    for axis in range(len(c.kernel_size)):
        padded = _folded(padded, c, axis)
    return padded


def _padded_from_outputs(kernel: Array, c: Correlation, y: Array) -> Array:
    xp, batch = namespace(y), y.shape[0]
    weights = xp.reshape(kernel, (c.groups, c.group_shape[0], -1))
    sizes = tuple(len(sources(c, axis)) for axis in range(len(c.kernel_size)))
    padded, first = None, 0
    for part, rows in _slabs(c, batch):
        outputs = y[:, :, first : first + part.output_shape[0], ...]
        first += part.output_shape[0]
        flat = xp.reshape(outputs, (batch, c.groups, weights.shape[1], -1))
        columns = xp.matmul(xp.matrix_transpose(weights), flat)
        columns = xp.reshape(columns, (batch, c.in_channels, *c.kernel_size, *part.output_shape))
        if padded is None and part is c:
            return _added_windows(columns, part, sizes)
        piece = _added_windows(columns, part, (rows[2].stop - rows[2].start, *sizes[1:]))
        padded = _zeros(y, (batch, c.in_channels, *sizes)) if padded is None else padded
        padded = _add(padded, rows, piece)
    return padded


def _slabs(c: Correlation, batch: int) -> Iterator[tuple[Correlation, Index]]:
    """The correlation in pieces of outputs along the first axis, and the padded points that each reads."""
    entries = batch * c.in_channels * math.prod(c.kernel_size) * c.points
    m, s = c.output_shape[0], c.stride[0]
    pieces = min(m, -(-entries // _WINDOWS))
    if pieces == 1:
        yield c, (slice(None), slice(None), slice(None), ...)
        return
    edges = [m * i // pieces for i in range(pieces + 1)]
    for start, stop in itertools.pairwise(edges):
        rows = slice(s * start, s * (stop - 1) + c.reach[0] + 1)
        yield (
            replace(c, output_shape=(stop - start, *c.output_shape[1:])),
            (slice(None), slice(None), rows, ...),
        )


def _windows(x: Array, c: Correlation) -> Array:
    """What each tap reads of the padded points: shape (batch, channels, *taps, *outputs)."""
    for axis in range(len(c.kernel_size)):
        cut = [x[window] for window in _along(c, axis)]
        x = namespace(x).stack(cut, axis=2 + axis)
    return x


def _added_windows(columns: Array, c: Correlation, sizes: Shape) -> Array:
    """The adjoint of `_windows`, onto padded points of these sizes."""
    for axis in reversed(range(len(c.kernel_size))):
        at, shape = 2 + axis, tuple(columns.shape)
        # (batch, channels, taps before, this tap, outputs before, this output, points after)
        found = _zeros(
            columns, (*shape[:at], *shape[at + 1 : at + 1 + axis], sizes[axis], *shape[4 + 2 * axis :])
        )
        for tap, window in enumerate(_along(c, axis)):
            found = _add(found, window, columns[(slice(None),) * at + (tap, ...)])
        columns = found
    return columns


def _along(c: Correlation, axis: int) -> Iterator[Index]:
    """For each tap along an axis what the outputs read, of arrays whose axes before have taps and outputs."""
    s, d, m = c.stride[axis], c.dilation[axis], c.output_shape[axis]
    for tap in range(c.kernel_size[axis]):
        yield (slice(None),) * (2 + 2 * axis) + (slice(d * tap, d * tap + s * (m - 1) + 1, s), ...)


def _interior(c: Correlation, axis: int) -> tuple[NumpyArray, slice]:
    """The sources of the padded points, and those among them that are the input itself."""
    table, before = sources(c, axis), c.padding[axis][0]
    start = min(before, len(table))
    return table, slice(start, max(start, min(before + c.input_shape[axis], len(table))))


def _padded(x: Array, c: Correlation, axis: int) -> Array:
    table, inside = _interior(c, axis)
    xp, whole = namespace(x), (slice(None),) * (2 + axis)
    pieces = []
    for border in (table[: inside.start], None, table[inside.stop :]):
        if border is None:
            pieces.append(x[(*whole, slice(0, inside.stop - inside.start), ...)])
        elif len(border) and c.padding_mode == "zeros":
            pieces.append(_zeros(x, (*x.shape[: 2 + axis], len(border), *x.shape[3 + axis :])))
        elif len(border):
            pieces.append(xp.take(x, like(border, x), axis=2 + axis))
    return pieces[0] if len(pieces) == 1 else xp.concat(pieces, axis=2 + axis)


def _folded(padded: Array, c: Correlation, axis: int) -> Array:
    """The adjoint of `_padded`."""
    table, inside = _interior(c, axis)
    n, whole = c.input_shape[axis], (slice(None),) * (2 + axis)
    kept = padded[(*whole, inside, ...)]
    borders = [j for j in (*range(inside.start), *range(inside.stop, len(table))) if table[j] >= 0]
    if not borders and inside.stop - inside.start == n:
        return kept
    found = _zeros(padded, (*padded.shape[: 2 + axis], n, *padded.shape[3 + axis :]))
    found = _add(found, (*whole, slice(0, inside.stop - inside.start), ...), kept)
    for j in borders:
        source = int(table[j])
        copied = padded[(*whole, slice(j, j + 1), ...)]
        found = _add(found, (*whole, slice(source, source + 1), ...), copied)
    return found


def _zeros(x: Array, shape: Shape) -> Array:
    return like(np.zeros(shape), x, x.dtype)


def _add(array: Array, index: Index, values: Array) -> Array:
    """`array` with `values` added at an index: in place, but for JAX, whose arrays never change."""
    if hasattr(array, "at"):
        return array.at[index].add(values)
    array[index] += values
    return array


def _has_convolutions(x: Array) -> bool:
    """Whether the library's own convolution is as exact as this one: that of cuDNN may round to 10 bits."""
    return is_torch(x) and x.device.type == "cpu"


def _framework(name: str, c: Correlation) -> Any:
    return getattr(sys.modules["torch"].nn.functional, f"{name}{len(c.kernel_size)}d")
