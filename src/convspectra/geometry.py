"""The geometry of a convolution, as values: sizes, stride, dilation, groups, padding, kernel layout.

`ConvGeometry` is what a caller writes down; `Correlation` is the one cross-correlation it stands
for once the kernel's shape is known. Nothing behind this file asks about layouts, words for
padding, or transposition.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, SupportsIndex, TypeGuard, cast

from .checks import check_word
from .errors import GeometryError

PaddingMode = Literal["zeros", "circular", "reflect", "replicate"]
Pads = tuple[tuple[int, int], ...]

PADDING_MODES: tuple[PaddingMode, ...] = ("zeros", "circular", "reflect", "replicate")
_SPATIAL = {1: "W", 2: "HW", 3: "DHW"}


@dataclass(frozen=True, init=False)
class ConvGeometry:
    """Where a convolution acts: everything about a layer except its kernel. PyTorch's words.

    Arguments:
        input_shape: spatial size of the input, one integer an axis (1, 2 or 3 axes), in pixels.
        stride: input points between two outputs; one integer, or one an axis.
        dilation: input points between two taps; one integer, or one an axis.
        groups: number of independent groups of channels.
        transposed: the layer is the adjoint of the strided convolution with this kernel
            ("deconvolution"); `input_shape` is still the size of what goes into the layer.
        padding: one integer, one an axis, one pair (before, after) an axis, `"valid"` (none), or
            `"same"` (output size `ceil(n / stride)`, an odd point goes after).
        padding_mode: `"zeros"`, `"circular"`, `"reflect"` or `"replicate"`.
        output_padding: transposed only: points added after the output, as in PyTorch.
        layout: the kernel's axes by letter, `O` and `I` for the channels that come out of and go
            into the layer and `W`, `HW` or `DHW` for the taps. Default: PyTorch's, `"OIHW"`
            (`"IOHW"` when transposed). TensorFlow, JAX and the paper use `"HWIO"`.

    Raises:
        GeometryError: a size below 1, a negative padding, a wrong number of axes, a layout whose
            letters do not fit, an unknown word.

    Notes:
        The kernel's channel axis that is divided by `groups` is `I`, or `O` when transposed, as in
        every framework.

    Examples:
        >>> ConvGeometry(input_shape=(32, 32), padding=1, padding_mode="circular").stride
        (1, 1)
    """

    input_shape: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    transposed: bool
    padding: Pads | Literal["same"]
    padding_mode: PaddingMode
    output_padding: tuple[int, ...]
    layout: str

    def __init__(
        self,
        input_shape: SupportsIndex | Sequence[SupportsIndex],
        stride: SupportsIndex | Sequence[SupportsIndex] = 1,
        dilation: SupportsIndex | Sequence[SupportsIndex] = 1,
        groups: SupportsIndex = 1,
        transposed: bool = False,
        padding: SupportsIndex
        | Sequence[SupportsIndex]
        | Sequence[Sequence[SupportsIndex]]
        | Literal["same", "valid"] = 0,
        padding_mode: PaddingMode = "zeros",
        output_padding: SupportsIndex | Sequence[SupportsIndex] = 0,
        layout: str | None = None,
    ) -> None:
        axes = _count_axes(input_shape)
        check_word("padding_mode", padding_mode, PADDING_MODES, GeometryError)
        if not isinstance(transposed, bool):
            raise GeometryError(f"transposed must be True or False; got {transposed!r}")
        fields = {
            "input_shape": _per_axis("input_shape", input_shape, axes, least=1),
            "stride": _per_axis("stride", stride, axes, least=1),
            "dilation": _per_axis("dilation", dilation, axes, least=1),
            "groups": _integer("groups", groups, least=1),
            "transposed": transposed,
            "padding": _normal_padding(padding, axes),
            "padding_mode": padding_mode,
            "output_padding": _per_axis("output_padding", output_padding, axes, least=0),
            "layout": _normal_layout(layout, axes, transposed),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        if any(self.output_padding) and not transposed:
            raise GeometryError(
                f"output_padding={self.output_padding} belongs to transposed convolutions; "
                "leave it out or set transposed=True"
            )

    @property
    def axes(self) -> int:
        """Number of spatial axes: 1, 2 or 3."""
        return len(self.input_shape)

    def on_torus(self) -> ConvGeometry:
        """The circular geometry of the same layer: same sizes and strides, boundaries wrapped.

        Returns:
            A geometry with `padding="same"` and `padding_mode="circular"`.

        Notes:
            Its spectrum is the paper's approximation to that of a padded layer. It is neither an
            upper nor a lower bound for it.
        """
        return replace(self, padding="same", padding_mode="circular", output_padding=(0,) * self.axes)

    def correlation(self, kernel_shape: Sequence[int]) -> Correlation:
        """The cross-correlation that this geometry and a kernel of this shape stand for.

        Arguments:
            kernel_shape: the kernel's shape in this `layout`, channels included.

        Returns:
            The `Correlation`, with every size known.

        Raises:
            GeometryError: a kernel with the wrong number of axes, empty axes, channels that
                `groups` does not divide, or no output point at all (input smaller than the kernel).
        """
        return _correlation(self, tuple(map(int, kernel_shape)))

    @property
    def kernel_axes(self) -> tuple[int, ...]:
        """The permutation that brings a kernel of this layout to `Correlation`'s axis order."""
        channels = "IO" if self.transposed else "OI"
        return tuple(self.layout.index(letter) for letter in channels + _SPATIAL[self.axes])


@dataclass(frozen=True)
class Correlation:
    """One cross-correlation `y[o, r] = sum_{i,p} W[o, i, p] x[i, s r + d p - a]`, all sizes known.

    Kernel axes are always `(out_channels, in_channels / groups, *kernel_size)`. A transposed layer
    is the adjoint of this map, which has the same singular values: then `in_channels`,
    `input_shape` describe what comes out of the layer, and `transposed` is kept only for those who
    need to know which side is which.
    """

    out_channels: int
    in_channels: int
    kernel_size: tuple[int, ...]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    padding: Pads
    padding_mode: PaddingMode
    transposed: bool = False

    @property
    def reach(self) -> tuple[int, ...]:
        """Distance from the first tap to the last, per axis: `d (k - 1)`."""
        return tuple(d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True))

    @property
    def group_shape(self) -> tuple[int, int]:
        """Output and input channels of one group."""
        return self.out_channels // self.groups, self.in_channels // self.groups

    @property
    def block_shape(self) -> tuple[int, int]:
        """Rows and columns of a block of its symbol, a column for each channel and polyphase component."""
        rows, columns = self.group_shape
        return rows, columns * math.prod(self.stride)

    @property
    def stride_divides(self) -> bool:
        """Whether the stride divides the input along every axis."""
        return all(n % s == 0 for n, s in zip(self.input_shape, self.stride, strict=True))

    @property
    def is_circulant(self) -> bool:
        """Whether the operator is block-circulant, so that its symbol gives all its singular values.

        True when the boundary wraps, or is never read (1x1 kernels, patches that tile the input),
        and each axis gives `n / s` outputs.
        """
        wraps = self.padding_mode == "circular" or not any(map(any, self.padding))
        tiles = all(
            m * s == n for m, s, n in zip(self.output_shape, self.stride, self.input_shape, strict=True)
        )
        return wraps and tiles

    def require_circulant(self) -> None:
        """Raise the GeometryError that explains why there is no block-circulant operator here."""
        if self.is_circulant:
            return
        if not self.stride_divides and self.padding_mode == "circular":
            advice = "; ".join(
                f"axis {axis}: {n // s * s or s} or {-(-n // s) * s} instead of {n}"
                for axis, (n, s) in enumerate(zip(self.input_shape, self.stride, strict=True))
                if n % s
            )
            raise GeometryError(
                f"stride {self.stride} does not divide the input {self.input_shape}, so the operator"
                f" is not block-circulant; sizes that would do: {advice}"
            )
        if self.padding_mode == "circular":
            raise GeometryError(
                f"circular padding {self.padding} gives {self.output_shape} outputs, not the "
                f"{tuple(n // s for n, s in zip(self.input_shape, self.stride, strict=True))} of a "
                'block-circulant operator; use padding="same" or geometry.on_torus()'
            )
        raise GeometryError(
            f"a convolution padded with {self.padding_mode} {self.padding} is not block-circulant and "
            "has no exact spectrum here; geometry.on_torus() gives the spectrum of its circular "
            "version, operator_norm(kernel, geometry) a proven interval for the norm of the layer itself"
        )

    def embedded(self, output_shape: Sequence[int]) -> Correlation:
        """The same taps on the torus with these many outputs (and `stride` times as many inputs)."""
        shape = tuple(output_shape)
        return replace(
            self,
            input_shape=tuple(m * s for m, s in zip(shape, self.stride, strict=True)),
            output_shape=shape,
            padding_mode="circular",
        )

    @property
    def points(self) -> int:
        """Number of output points."""
        return math.prod(self.output_shape)


@lru_cache(maxsize=1024)
def _correlation(geometry: ConvGeometry, shape: tuple[int, ...]) -> Correlation:
    if len(shape) != geometry.axes + 2:
        raise GeometryError(
            f"kernel must have {geometry.axes + 2} axes ({geometry.layout}) for input_shape="
            f"{geometry.input_shape}, which has sizes alone; got shape {shape}"
        )
    if min(shape) < 1:
        raise GeometryError(f"kernel must have no empty axis; got shape {shape}")
    ordered = tuple(shape[axis] for axis in geometry.kernel_axes)
    rows, columns, taps = ordered[0], ordered[1], ordered[2:]
    if rows % geometry.groups:
        raise GeometryError(
            f"groups={geometry.groups} must divide the {rows} {'input' if geometry.transposed else 'output'}"
            f" channels of a kernel of shape {shape} in layout {geometry.layout}"
        )
    if any(
        geometry.output_padding[i] >= max(geometry.stride[i], geometry.dilation[i])
        for i in range(geometry.axes)
    ):
        raise GeometryError(
            f"output_padding={geometry.output_padding} must be smaller than the stride "
            f"{geometry.stride} or the dilation {geometry.dilation}"
        )
    reach = tuple(d * (k - 1) for d, k in zip(geometry.dilation, taps, strict=True))
    sizes = [_forward_sizes(geometry, axis, reach[axis]) for axis in range(geometry.axes)]
    return Correlation(
        out_channels=rows,
        in_channels=columns * geometry.groups,
        kernel_size=taps,
        input_shape=tuple(size[0] for size in sizes),
        output_shape=tuple(size[1] for size in sizes),
        stride=geometry.stride,
        dilation=geometry.dilation,
        groups=geometry.groups,
        padding=tuple(size[2] for size in sizes),
        padding_mode=geometry.padding_mode,
        transposed=geometry.transposed,
    )


def _forward_sizes(geometry: ConvGeometry, axis: int, reach: int) -> tuple[int, int, tuple[int, int]]:
    """(input, output, padding) along one axis of the forward correlation."""
    n, s = geometry.input_shape[axis], geometry.stride[axis]
    if geometry.padding == "same":
        points = n * s if geometry.transposed else n
        outputs = -(-points // s)
        total = max((outputs - 1) * s + reach + 1 - points, 0)
        if geometry.transposed:
            points += geometry.output_padding[axis]
        return points, outputs, (total // 2, total - total // 2)
    before, after = geometry.padding[axis]
    if geometry.transposed:
        points = (n - 1) * s - before - after + reach + 1 + geometry.output_padding[axis]
        outputs = n
    else:
        points = n
        outputs = (n + before + after - reach - 1) // s + 1
    if points < 1 or outputs < 1:
        raise GeometryError(
            f"no output point along axis {axis}: input size {n} with padding ({before}, {after}) "
            f"and a kernel ({geometry.layout}) that reaches over {reach + 1} points; "
            f"give a larger input_shape or more padding"
        )
    return points, outputs, (before, after)


def _count_axes(input_shape: SupportsIndex | Sequence[SupportsIndex]) -> int:
    axes = len(input_shape) if _is_list(input_shape) else 1
    if axes not in _SPATIAL:
        raise GeometryError(
            f"input_shape must have 1, 2 or 3 spatial axes; got {input_shape!r} "
            "(leave the batch and the channels out)"
        )
    return axes


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    """Whether it has entries, as an array of one number without axes has none."""
    return isinstance(value, Iterable) and getattr(value, "ndim", 1) > 0


def _integer(name: str, value: object, least: int) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(cast(SupportsIndex, value))
    except TypeError:
        raise GeometryError(f"{name} must be an integer; got {value!r}") from None
    if number < least:
        raise GeometryError(f"{name} must be at least {least}; got {value!r}")
    return number


def _per_axis(name: str, value: object, axes: int, least: int) -> tuple[int, ...]:
    if isinstance(value, str) or not _is_list(value):
        return (_integer(name, value, least),) * axes
    numbers = tuple(_integer(name, item, least) for item in value)
    if len(numbers) != axes:
        raise GeometryError(f"{name} must be one integer or {axes}, one an axis; got {value!r}")
    return numbers


def _normal_padding(padding: object, axes: int) -> Pads | Literal["same"]:
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise GeometryError(f'padding must be "same", "valid" or integers; got {padding!r}')
        return "same" if padding == "same" else ((0, 0),) * axes
    if _is_list(padding):
        sides = list(padding)
        if any(map(_is_list, sides)):
            if len(sides) != axes or not all(
                _is_list(side) and not isinstance(side, str) and len(list(side)) == 2 for side in sides
            ):
                raise GeometryError(
                    f"padding must be one (before, after) pair for each of {axes} axes; got {padding!r}"
                )
            pairs = [tuple(_integer("padding", item, 0) for item in side) for side in sides]
            return tuple((before, after) for before, after in pairs)
        padding = tuple(sides)
    return tuple((amount, amount) for amount in _per_axis("padding", padding, axes, least=0))


def _normal_layout(layout: str | None, axes: int, transposed: bool) -> str:
    spatial = _SPATIAL[axes]
    if layout is None:
        return ("IO" if transposed else "OI") + spatial
    if not isinstance(layout, str) or sorted(layout) != sorted("OI" + spatial):
        raise GeometryError(
            f"layout must hold each letter of OI{spatial} once for {axes} spatial axes, "
            f'such as "OI{spatial}" or "{spatial}IO"; got {layout!r}'
        )
    return layout
