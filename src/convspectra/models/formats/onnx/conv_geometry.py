"""The geometry that the attributes of a Conv or ConvTranspose state."""

from __future__ import annotations

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
    transposed: bool,
    found: dict[str, Any],
    size: list[int],
    taps: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    mode: PaddingMode = "zeros",
) -> ConvGeometry:
    """The geometry of a Conv or ConvTranspose with these attributes, at an input size.

    Raises:
        GeometryError: something that `ConvGeometry` cannot hold.
    """
    axes = len(taps)
    options: dict[str, Any] = {
        "stride": found.get("strides", [1] * axes),
        "dilation": found.get("dilations", [1] * axes),
        "groups": found.get("group", 1),
        "transposed": transposed,
        "padding_mode": mode,
    }
    if options["transposed"]:
        return _transposed_geometry(size, taps, found, pads, options)
    padding = auto_pads(found.get("auto_pad", "NOTSET"), size, taps, options) or pads
    return ConvGeometry(size, padding=padding, **options)


def pad_pairs(pads: list[int] | None, axes: int) -> tuple[tuple[int, int], ...]:
    if pads is None:
        return ((0, 0),) * axes
    return tuple((pads[i], pads[axes + i]) for i in range(axes))


def auto_pads(
    word: str, size: list[int], taps: tuple[int, ...], options: dict[str, Any]
) -> tuple[tuple[int, int], ...] | None:
    """The pads that `auto_pad` stands for; None where the explicit ones count."""
    if word in ("NOTSET", ""):
        return None
    pairs = []
    for n, k, s, d in zip(size, taps, options["stride"], options["dilation"], strict=True):
        outputs = -(-n // s)
        total = max((outputs - 1) * s + d * (k - 1) + 1 - n, 0) if word != "VALID" else 0
        less, more = total // 2, total - total // 2
        pairs.append((more, less) if word == "SAME_LOWER" else (less, more))
    return tuple(pairs)


def _transposed_geometry(
    size: list[int],
    taps: tuple[int, ...],
    found: dict[str, Any],
    pads: tuple[tuple[int, int], ...],
    options: dict[str, Any],
) -> ConvGeometry:
    """ConvTranspose: `output_shape` or `auto_pad` decide the pads, as the operator's text says."""
    extra = found.get("output_padding", [0] * len(size))
    word = found.get("auto_pad", "NOTSET")
    wanted = found.get("output_shape")
    if wanted is None and word in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [n * s for n, s in zip(size, options["stride"], strict=True)]
    if wanted is not None:
        pairs = []
        for n, k, s, d, e, out in zip(
            size, taps, options["stride"], options["dilation"], extra, wanted[-len(size) :], strict=True
        ):
            total = (n - 1) * s + e + d * (k - 1) + 1 - out
            if total < 0:
                raise GeometryError(f"output_shape {wanted} is larger than the kernel reaches")
            less, more = total // 2, total - total // 2
            pairs.append((less, more) if word == "SAME_UPPER" else (more, less))
        pads = tuple(pairs)
    elif word == "VALID":
        pads = ((0, 0),) * len(size)
    return ConvGeometry(size, padding=pads, output_padding=extra, **options)
