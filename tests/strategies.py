"""Hypothesis strategies: random layers of every geometry, small enough for the dense operator."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from convspectra import ConvGeometry
from convspectra.problem import problem_of

LARGEST = {1: 12, 2: 5, 3: 3}
SPATIAL = {1: "W", 2: "HW", 3: "DHW"}


@st.composite
def kernels(draw, shape, dtype=np.float64):
    seed = draw(st.integers(0, 2**32 - 1))
    kind = draw(st.sampled_from(["normal", "normal", "rank one", "sparse", "ones"]))
    rng = np.random.default_rng(seed)
    if kind == "normal":
        kernel = rng.standard_normal(shape)
    elif kind == "rank one":
        kernel = np.multiply.outer(rng.standard_normal(shape[:2]), rng.standard_normal(shape[2:]))
    elif kind == "sparse":
        kernel = rng.standard_normal(shape) * (rng.random(shape) < 0.4)
    else:
        kernel = np.ones(shape)
    return kernel.astype(dtype)


def per_axis(low, high, axes):
    return st.tuples(*[st.integers(low, high)] * axes)


@st.composite
def layers(draw, mode="torus", dtype=np.float64, mirrored=True):
    """`(kernel, geometry)`; mode "torus" (block-circulant) or a padding mode with explicit pads.

    `mirrored=False` also draws reflected layers of one point, which has nothing to mirror.
    """
    axes = draw(st.sampled_from([1, 1, 2, 2, 2, 3]))
    stride = draw(per_axis(1, 3, axes))
    dilation = draw(per_axis(1, 3, axes))
    taps = draw(per_axis(1, 4 if axes < 3 else 3, axes))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    transposed = draw(st.booleans())
    rows, columns = groups * draw(st.integers(1, 3)), draw(st.integers(1, 3))
    layout = draw(st.permutations("OI" + SPATIAL[axes]).map("".join))
    options = {
        "stride": stride,
        "dilation": dilation,
        "groups": groups,
        "transposed": transposed,
        "layout": layout,
    }
    canonical = (rows, columns, *taps)
    letters = ("IO" if transposed else "OI") + SPATIAL[axes]
    shape = tuple(canonical[letters.index(letter)] for letter in layout)
    kernel = draw(kernels(shape, dtype))
    outputs = draw(per_axis(1, LARGEST[axes], axes))
    if mode == "torus":
        size = outputs if transposed else tuple(s * m for s, m in zip(stride, outputs, strict=True))
        return kernel, ConvGeometry(size, padding="same", padding_mode="circular", **options)
    reach = [d * (k - 1) for d, k in zip(dilation, taps, strict=True)]
    pads = tuple((draw(st.integers(0, r + 1)), draw(st.integers(0, r + 1))) for r in reach)
    if transposed:
        extra = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
        points = [
            (m - 1) * s + r + 1 - a - b + e
            for m, s, r, (a, b), e in zip(outputs, stride, reach, pads, extra, strict=True)
        ]
        # A point more of output padding where the pads would eat the whole output.
        if min(points) < 1:
            pads = ((0, 0),) * axes
        size, options["output_padding"] = outputs, extra
    else:
        size = tuple(
            max(1, r + 1 - a - b + draw(st.integers(0, LARGEST[axes])))
            for r, (a, b) in zip(reach, pads, strict=True)
        )
    geometry = ConvGeometry(size, padding=pads, padding_mode=mode, **options)
    assume(not mirrored or mode != "reflect" or 1 not in geometry.correlation(shape).input_shape)
    return kernel, geometry


def prepare(kernel, geometry):
    """The kernel in the order of its correlation, and that."""
    problem = problem_of(kernel, geometry)
    return problem.kernel, problem.correlation


def plain_symbol(kernel, frequency, shape, dilation):
    """`sum_p W[:, :, p] exp(2 pi i f.(d p) / n)` by its definition, for an OI... kernel."""
    total = np.zeros(kernel.shape[:2], dtype=complex)
    for p in np.ndindex(*kernel.shape[2:]):
        turns = sum(f * d * q / n for f, d, q, n in zip(frequency, dilation, p, shape, strict=True))
        total += kernel[(slice(None), slice(None), *p)] * np.exp(2j * math.pi * turns)
    return total
