"""A small report with every kind of row, made by the library itself, for the renderers' tests."""

from __future__ import annotations

import numpy as np

from convspectra import ConvGeometry
from convspectra.analysis import analyze
from convspectra.models import ConvLayer, Model, Unread

ODD_NAME = '</script><img src=x onerror="document.title=1">'


def layer(
    name, shape, *, kernel=None, assumed=(), reason="", batch_norm_scale=None, kind="conv2d", **options
):
    seed = sum(map(ord, name))
    if kernel is None:
        kernel = np.random.default_rng(seed).standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    geometry = ConvGeometry(**options) if options else None
    layout = geometry.layout if geometry else "OI" + "DHW"[-(len(shape) - 2) :]
    return ConvLayer(
        name, kind, kernel, layout, geometry, assumed, batch_norm_scale, "graph" if geometry else "", reason
    )


def mixed_model():
    broken = np.full((4, 4, 3, 3), np.nan)
    return Model(
        name="mixed.onnx",
        format="onnx",
        sha256="0" * 64,
        layers=(
            layer("stem", (8, 3, 3, 3), input_shape=(16, 12), padding=1, batch_norm_scale=np.ones(8)),
            layer("down", (8, 8, 3, 3), input_shape=(16, 12), stride=2, padding=1),
            layer("odd", (8, 8, 3, 3), input_shape=(15, 12), stride=2, padding=1),
            layer("depthwise", (8, 1, 3, 3), input_shape=(8, 6), groups=8, padding=1),
            layer("pointwise", (16, 8, 1, 1), input_shape=(8, 6)),
            layer("singular", (8, 8, 3, 3), kernel=np.ones((8, 8, 3, 3)), input_shape=(8, 6), padding=1),
            layer("reflected", (8, 8, 3, 3), input_shape=(8, 6), padding=1, padding_mode="reflect"),
            layer("up", (8, 4, 2, 2), input_shape=(8, 6), stride=2, transposed=True, kind="conv_transpose2d"),
            layer(
                "audio", (6, 2, 5), input_shape=(40,), padding=2, kind="conv1d", assumed=("stride", "padding")
            ),
            layer("volume", (3, 2, 3, 3, 3), input_shape=(6, 5, 4), padding=1, kind="conv3d"),
            layer("unknown", (4, 4, 3, 3), reason="input size unknown: give sample_shape"),
            layer("broken", (4, 4, 3, 3), kernel=broken, input_shape=(8, 6), padding=1),
            layer(ODD_NAME, (4, 4, 3, 3), input_shape=(8, 6), padding=1),
            layer("head", (10, 16, 1), input_shape=(1,), kind="linear"),
        ),
        other={"Relu": 7, "Add": 2},
        notes=("one & only <b>note</b>",),
        unread=(
            Unread("stage.f1", (3, 3, 8, 8), "no layer is stated: give module="),
            Unread("a & <b>.original", None, "computed by code"),
        ),
    )


def mixed_report():
    return analyze(mixed_model())


def deep_report(count=60, channels=16, size=40):
    rng = np.random.default_rng(0)
    layers = []
    for i in range(count):
        kernel = rng.standard_normal((channels, channels, 3, 3)) / (3 * np.sqrt(channels)) * 0.97**i
        geometry = ConvGeometry((size, size), padding=1)
        layers.append(ConvLayer(f"stages.{i // 10}.blocks.{i % 10}.conv", "conv2d", kernel, "OIHW", geometry))
    return analyze(Model("deep", "by hand", tuple(layers)))
