"""One way into the ball: every method, use and precision against the dense operator."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

import convspectra as cs
from convspectra.constrain import KEEPS_THE_LIMIT, Limits, Precision, Use, constrain
from convspectra.models.floats import EPSILON, rounded
from convspectra.models.writers import TensorLocation
from convspectra.operators.reference import dense_operator

PADDED = cs.ConvGeometry((6, 5), padding=1)
REFLECTED = cs.ConvGeometry((5, 5), padding=2, padding_mode="reflect", stride=2)
TRANSPOSED = cs.ConvGeometry((4, 3), stride=2, padding=1, transposed=True, groups=2)
CHANNELS_LAST = cs.ConvGeometry((6, 6), padding=1, layout="HWIO")

ONE = {
    "padded": (PADDED, (4, 3, 3, 3)),
    "reflected": (REFLECTED, (4, 3, 3, 3)),
    "transposed": (TRANSPOSED, (4, 3, 3, 3)),
    "channels last": (CHANNELS_LAST, (3, 3, 2, 4)),
}


def kernel_of(shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def dense_norm(kernel, geometry):
    return np.linalg.norm(dense_operator(np.asarray(kernel, np.float64), geometry), 2)


def folded(kernel, geometry, scale):
    """Each output channel times its scale, by loops over the operator's rows."""
    matrix = dense_operator(kernel, geometry)
    return np.repeat(scale, len(matrix) // len(scale))[:, None] * matrix


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("guarantee", ["layer", "torus", "any-size"])
@pytest.mark.parametrize("method", KEEPS_THE_LIMIT)
@pytest.mark.parametrize("name", ONE)
def test_one_use(name, method, guarantee, dtype):
    geometry, shape = ONE[name]
    if guarantee == "torus":
        geometry = geometry.on_torus() if name in ("padded", "channels last") else cs.ConvGeometry((4, 4))
        shape = shape if name in ("padded", "channels last") else (4, 3, 1, 1)
    kernel = kernel_of(shape, dtype=dtype)
    found = constrain(kernel, [Use(geometry)], Limits(1.0, method, guarantee))
    assert found.weight.dtype == dtype
    assert found.norms_before[0] > 1 >= found.norms[0] >= 0.9
    assert dense_norm(found.weight, geometry) <= 1
    again = constrain(found.weight, [Use(geometry)], Limits(1.0, method, guarantee))
    np.testing.assert_array_equal(again.weight, found.weight)


@pytest.mark.parametrize("method", ["appendix_a", "reshaped"])
def test_what_keeps_no_promise_says_what_is_left(method):
    geometry = PADDED.on_torus()
    found = constrain(kernel_of((4, 3, 3, 3)), [Use(geometry)], Limits(1.0, method))
    assert found.norms[0] == pytest.approx(dense_norm(found.weight, geometry))
    assert found.norms[0] > 1
    unmeasured = constrain(kernel_of((4, 3, 3, 3)), [Use(geometry)], Limits(1.0, method), measure=False)
    assert unmeasured.norms is None
    np.testing.assert_array_equal(unmeasured.weight, found.weight)


@pytest.mark.parametrize("stored", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("method", KEEPS_THE_LIMIT)
def test_the_precision_is_that_of_the_weight(method, stored):
    precision = Precision(EPSILON[stored], partial(rounded, stored=stored))
    for seed in range(3):
        kernel = rounded(kernel_of((4, 3, 3, 3), seed), stored)
        found = constrain(kernel, [Use(PADDED)], Limits(1.0, method), precision=precision)
        np.testing.assert_array_equal(rounded(found.weight, stored), found.weight)
        assert found.norms[0] <= 1
        assert 0.9 < dense_norm(found.weight, PADDED) <= 1
        if found.gap is not None:
            nearest = constrain(kernel, [Use(PADDED)], Limits(1.0, tolerance=1e-6)).weight
            assert np.linalg.norm(found.weight - nearest) <= np.sqrt(2 * found.gap) + 1e-3


@pytest.mark.parametrize("method", KEEPS_THE_LIMIT)
def test_all_uses_of_one_weight(method):
    uses = [Use(PADDED), Use(cs.ConvGeometry((4, 4), padding=2, dilation=2)), Use(cs.ConvGeometry((7, 5)))]
    found = constrain(kernel_of((3, 3, 3, 3)), uses, Limits(1.0, method))
    norms = [dense_norm(found.weight, use.geometry) for use in uses]
    assert max(norms) <= 1
    assert found.norms == pytest.approx([*map(float, found.norms)])
    assert all(norm <= bound * (1 + 1e-9) for norm, bound in zip(norms, found.norms, strict=True))
    assert max(found.norms) > 0.9


@pytest.mark.parametrize("name", ONE)
def test_the_batch_norm_behind_a_layer(name):
    geometry, shape = ONE[name]
    kernel = kernel_of(shape)
    channels = 6 if name == "transposed" else 4
    scale = np.array([3.0, -0.5, 0.0, 1.0, 1e-3, 2.0])[:channels]
    found = constrain(kernel, [Use(geometry, scale)], Limits(1.0))
    assert found.norms_before[0] >= np.linalg.norm(folded(kernel, geometry, scale), 2) > 1
    matrix = folded(found.weight, geometry, scale)
    assert 0.4 < np.linalg.norm(matrix, 2) <= found.norms[0] * (1 + 1e-12) <= 1 + 1e-12
    rows = np.repeat(scale == 0, len(matrix) // channels)
    np.testing.assert_array_equal(
        dense_operator(found.weight, geometry)[rows], dense_operator(kernel, geometry)[rows]
    )


def test_a_kernel_that_lies_elsewhere_in_its_tensor():
    kernel = kernel_of((4, 3, 3, 3))
    index = np.random.default_rng(1).permutation(kernel.size).reshape(kernel.shape)
    location = TensorLocation("w", "float64", kernel.shape, index, factor=-2.0)
    weight = location.weight(kernel)
    np.testing.assert_array_equal(location.kernel(weight), kernel)
    found = constrain(weight, [Use(PADDED, location=location)], Limits(1.0))
    plain = constrain(kernel, [Use(PADDED)], Limits(1.0))
    np.testing.assert_allclose(location.kernel(found.weight), plain.weight, atol=1e-12)


def test_a_use_with_a_guarantee_of_its_own():
    uses = [Use(PADDED), Use(PADDED, guarantee="any_size")]
    found = constrain(kernel_of((3, 3, 3, 3)), uses, Limits(1.0, "rescale", "layer"))
    alone = constrain(kernel_of((3, 3, 3, 3)), uses[:1], Limits(1.0, "rescale", "any_size"))
    assert found.norms[0] < found.norms[1] == pytest.approx(alone.norms[0], rel=1e-12)


def test_a_weight_at_the_limit_stays():
    identity = np.zeros((3, 3, 3, 3))
    identity[range(3), range(3), 1, 1] = 1
    for uses in (
        [Use(PADDED)],
        [Use(PADDED), Use(cs.ConvGeometry((8, 8), padding=1))],
        [Use(PADDED, np.ones(3))],
    ):
        for method in KEEPS_THE_LIMIT:
            found = constrain(identity, uses, Limits(1.0, method, "torus"))
            np.testing.assert_array_equal(found.weight, identity)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"max_norm": 0.0}, "max_norm"),
        ({"max_norm": np.nan}, "max_norm"),
        ({"max_norm": 1.0, "tolerance": -1}, "tolerance"),
        ({"max_norm": 1.0, "method": "clipp"}, "method"),
        ({"max_norm": 1.0, "guarantee": "any size"}, "guarantee"),
    ],
)
def test_arguments(options, name):
    with pytest.raises(cs.InputError, match=f"^{name} must be"):
        Limits(**options)
