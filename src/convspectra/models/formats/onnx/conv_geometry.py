"""The geometry that the attributes of a Conv or ConvTranspose state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....errors import GeometryError
from ....geometry import ConvGeometry, PaddingMode

PAD_MODES: dict[str, PaddingMode] = {
    "constant": "zeros",
    "reflect": "reflect",
    "edge": "replicate",
    "wrap": "circular",
}


def stated_geometry(
    transposed: bool, found: dict[str, Any], size: list[int], taps: tuple[int, ...]
) -> ConvGeometry:
    """The geometry of a Conv or ConvTranspose with these attributes, at an input size.

    Raises:
        GeometryError: something that `ConvGeometry` cannot hold.
    """
    stride, dilation = (found.get(name, [1] * len(taps)) for name in ("strides", "dilations"))
    word, pads = found.get("auto_pad", "NOTSET"), pad_pairs(found.get("pads"), len(taps))
    extra: Any = 0
    if transposed:
        extra = found.get("output_padding", [0] * len(size))
        pads = _transposed_pads(word, size, taps, stride, dilation, extra, found.get("output_shape")) or pads
    else:
        pads = auto_pads(word, size, taps, stride, dilation) or pads
    return ConvGeometry(
        size,
        stride=stride,
        dilation=dilation,
        groups=found.get("group", 1),
        transposed=transposed,
        padding=pads,
        output_padding=extra,
    )


def pad_pairs(pads: list[int] | None, axes: int) -> tuple[tuple[int, int], ...]:
    if pads is None:
        return ((0, 0),) * axes
    return tuple((pads[i], pads[axes + i]) for i in range(axes))


def auto_pads(
    word: str, size: Sequence[int], taps: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[tuple[int, int], ...] | None:
    """The pads that `auto_pad` stands for; None where the explicit ones count."""
    if word in ("NOTSET", ""):
        return None
    pairs = []
    for n, k, s, d in zip(size, taps, stride, dilation, strict=True):
        outputs = -(-n // s)
        total = max((outputs - 1) * s + d * (k - 1) + 1 - n, 0) if word != "VALID" else 0
        less, more = total // 2, total - total // 2
        pairs.append((more, less) if word == "SAME_LOWER" else (less, more))
    return tuple(pairs)


def _transposed_pads(
    word: str,
    size: Sequence[int],
    taps: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    extra: Sequence[int],
    wanted: Sequence[int] | None,
) -> tuple[tuple[int, int], ...] | None:
    """Those of a ConvTranspose: `output_shape` or `auto_pad` decide, as the operator's text says."""
    if wanted is None and word in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [n * s for n, s in zip(size, stride, strict=True)]
    if wanted is None:
        return ((0, 0),) * len(size) if word == "VALID" else None
    pairs = []
    sides = zip(size, taps, stride, dilation, extra, wanted[-len(size) :], strict=True)
    for n, k, s, d, e, out in sides:
        total = (n - 1) * s + e + d * (k - 1) + 1 - out
        if total < 0:
            raise GeometryError(f"output_shape {wanted} is larger than the kernel reaches")
        less, more = total // 2, total - total // 2
        pairs.append((less, more) if word == "SAME_UPPER" else (more, less))
    return tuple(pairs)
