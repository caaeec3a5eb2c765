"""Layers with own padding beside the torus: distances known by hand, the rate, the oracle, which layers."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from convspectra import ConvGeometry, singular_values
from convspectra.errors import InputError
from convspectra.models.records import ConvLayer, Model
from convspectra.operators.reference import dense_operator
from convspectra_experiments.studies import boundary, distances
from convspectra_experiments.studies.catalogue import EXTENTS, Extent

LAPLACIAN = np.array([[[-1.0, 2.0, -1.0]]])
MEMORY = 2**28
SMALL = Extent(common=(4, 6), further=(8,), memory=2**26, layers=100)


def by_padding(kernel, geometry, n):
    return {point.padding: point for point in distances.points(kernel, geometry, n, memory=MEMORY)}


class TestWasserstein:
    @pytest.mark.parametrize(
        ("first", "second", "expected"),
        [
            ([1.0, 5.0, 2.0], [2.0, 1.0, 5.0], 0.0),
            ([0.0, 1.0], [5.0, 3.0], 3.5),
            ([0.0, 6.0], [0.0, 3.0, 6.0], 1.0),  # a sixth of the way from 3 to 0, a sixth from 3 to 6
            ([2.0], [0.0, 1.0, 5.0], 2.0),
        ],
    )
    def test_by_hand(self, first, second, expected):
        first, second = np.array(first), np.array(second)
        assert distances.wasserstein(first, second) == pytest.approx(expected, abs=1e-15)
        assert distances.wasserstein(second, first) == pytest.approx(expected, abs=1e-15)

    @pytest.mark.parametrize("counts", [(7, 7), (5, 8), (12, 9)])
    def test_it_is_the_area_between_the_staircases(self, counts):
        random = np.random.default_rng(sum(counts))
        first, second = (random.standard_normal(count) for count in counts)
        places = np.sort(np.concatenate([first, second]))
        shares = [(one[:, None] <= places[:-1]).mean(axis=0) for one in (first, second)]
        area = np.abs(shares[0] - shares[1]) @ np.diff(places)
        assert distances.wasserstein(first, second) == pytest.approx(area, rel=1e-13)


class TestLaplacian:
    """Padded with zeros: 2 + 2 cos(pi k / (n + 1)); on the torus: 2 - 2 cos(2 pi k / n)."""

    @pytest.mark.parametrize("n", [4, 6, 12, 64])
    def test_the_exact_numbers(self, n):
        point = by_padding(LAPLACIAN, ConvGeometry(n, padding=1), n)["zeros"]
        layer = np.sort(2 + 2 * np.cos(np.pi * np.arange(1, n + 1) / (n + 1)))
        torus = np.sort(2 - 2 * np.cos(2 * np.pi * np.arange(n) / n))
        assert (point.count, point.torus_count) == (n, n)
        assert point.torus_norm == pytest.approx(4, rel=1e-14)
        assert point.distance == pytest.approx(np.abs(layer - torus).mean() / 4, rel=1e-12)
        assert point.norm_ratio == pytest.approx((2 + 2 * np.cos(np.pi / (n + 1))) / 4, rel=1e-13)
        assert point.smallest_change == pytest.approx((2 - 2 * np.cos(np.pi / (n + 1))) / 4, rel=1e-9)

    def test_four_points_in_closed_form(self):
        # Golden ratio g: 2 + 2 cos(pi k / 5) is 2 + g, 1 + g, 3 - g, 2 - g; beside 4, 2, 2, 0.
        golden = (1 + 5**0.5) / 2
        point = by_padding(LAPLACIAN, ConvGeometry(4, padding=1), 4)["zeros"]
        assert (point.norm, point.smallest) == pytest.approx((2 + golden, 2 - golden), rel=1e-13)
        assert point.distance == pytest.approx(2 / 16, rel=1e-13)

    def test_on_three_points_the_torus_is_no_bound(self):
        point = by_padding(LAPLACIAN, ConvGeometry(3, padding=1), 3)["zeros"]
        assert point.norm_ratio == pytest.approx((2 + 2**0.5) / 3)

    @pytest.mark.parametrize("n", [4, 8, 16, 32, 64, 128])
    def test_the_rate_is_one_over_n(self, n):
        # Two entries of size 1 differ: by Mirsky at most 2 / n, of a norm of 4. Here it is attained.
        distance = by_padding(LAPLACIAN, ConvGeometry(n, padding=1), n)["zeros"].distance
        assert n * distance == pytest.approx(0.5, rel=1e-12)


@pytest.mark.parametrize("padding", distances.PADDINGS)
@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"padding": 1, "groups": 2},
        {"padding": 1, "stride": 2},
        {"padding": ((2, 0), (1, 1))},
    ],
    ids=str,
)
def test_the_values_are_those_of_the_oracle(padding, options):
    kernel = np.random.default_rng(0).standard_normal((4, 4 // options.get("groups", 1), 3, 3))
    geometry = ConvGeometry((9, 7), **options)  # the size of the layer itself plays no part
    mode = {"padding": 0} if padding == "none" else {"padding_mode": padding}
    dense = dense_operator(kernel, ConvGeometry((6, 6), **{**options, **mode}))
    values = np.linalg.svd(dense, compute_uv=False)
    torus = np.linalg.svd(
        dense_operator(kernel, ConvGeometry((6, 6), **options).on_torus()), compute_uv=False
    )
    point = by_padding(kernel, geometry, 6)[padding]
    assert (point.count, point.torus_count) == (values.size, torus.size)
    assert point.norm == pytest.approx(values[0], rel=1e-12)
    assert point.smallest == pytest.approx(values[-1], abs=1e-12 * values[0])
    assert point.torus_norm == pytest.approx(torus[0], rel=1e-12)
    assert point.torus_smallest == pytest.approx(torus[-1], abs=1e-12 * torus[0])
    quantiles = (np.arange(5000) + 0.5) / 5000
    apart = [np.sort(one)[(quantiles * one.size).astype(int)] for one in (values, torus)]
    area = np.abs(apart[0] - apart[1]).mean() / torus[0]
    assert point.distance == pytest.approx(area, abs=1e-2 * area + 1e-12)
    assert (point.distance < 1e-13) == (padding == "circular")


@pytest.mark.parametrize("stride", [1, 2])
def test_mirskys_inequality_bounds_every_padding(stride):
    kernel = np.random.default_rng(1).standard_normal((3, 2, 3, 3))
    for n in (4, 8, 12):
        outputs = n // stride
        # Windows of 3 that cross the edge of n points: at both ends, or at the first alone.
        inside = outputs - (2 if stride == 1 else 1)
        found = by_padding(kernel, ConvGeometry((n, n), padding=1, stride=stride), n)
        for padding in ("zeros", "reflect", "replicate"):
            point = found[padding]
            rank = 3 * (outputs**2 - inside**2)
            assert 0 < point.distance <= rank * (1 + point.norm_ratio) / point.count


@pytest.fixture(scope="module")
def demo_boundary():
    return boundary.boundary_of(extent=EXTENTS["smoke"])


def test_every_layer_at_every_common_size(demo_boundary):
    extent = EXTENTS["smoke"]
    assert demo_boundary.sizes == extent.common
    assert len(demo_boundary.layers) == extent.layers
    for layer in demo_boundary.layers:
        assert {(one.padding, one.n) for one in layer.points} >= {
            ("circular", 4),
            *((padding, n) for padding in distances.SHOWN for n in extent.common),
        }
    assert {layer.largest_n for layer in demo_boundary.layers} == {8, 12}  # as the matrix fits
    assert 0 < demo_boundary.control < 1e-14


def test_numbers_over_the_layers(demo_boundary):
    for n in demo_boundary.sizes:
        ratios = [layer.point("reflect", n).norm_ratio for layer in demo_boundary.layers]
        assert demo_boundary.spread("reflect", n, "norm_ratio") == boundary.Spread(
            min(ratios), float(np.median(ratios)), max(ratios)
        )
    assert demo_boundary.spread("reflect", 8, "norm_ratio").high > 1.1  # the torus is no bound


def test_the_rate_is_the_power_of_n(demo_boundary):
    def at(n):
        return distances.Point("zeros", n, n, n, 3 * n**-0.75, 1.0, 0.0, 1.0, 0.0)

    one = boundary.LayerDistances("a", (1, 1, 3), (1,), (1,), 1, ((1, 1),), True, tuple(map(at, (4, 6, 16))))
    made = boundary.Boundary("model", None, "0", (4, 6, 16), (one,), {}, ())
    assert made.rate("zeros") == pytest.approx(0.75)


def conv(name, shape, layout="OIHW", reason="", **options):
    geometry = None if reason else ConvGeometry((16, 16), **options)
    random = np.random.default_rng(len(name))
    return ConvLayer(name, "conv2d", random.standard_normal(shape), layout, geometry, reason=reason)


def taken(monkeypatch, *layers, extent=SMALL):
    monkeypatch.setattr(boundary, "trained_model", lambda *_, **__: Model("made up", "onnx", layers))
    return boundary.boundary_of(extent=extent)


def test_which_layers_are_left_out_and_why(monkeypatch):
    zero = conv("zero", (2, 2, 3, 3), padding=1)
    zero.kernel[...] = 0
    found = taken(
        monkeypatch,
        conv("padded", (2, 2, 3, 3), padding=1),
        conv("valid", (2, 2, 3, 3)),
        conv("strided", (2, 2, 3, 3), padding=1, stride=2),
        conv("one tap", (2, 2, 1, 1)),
        conv("tiles", (2, 2, 2, 2), stride=2),
        conv("unknown", (2, 2, 3, 3), reason="no input size"),
        conv("up", (2, 2, 3, 3), "IOHW", padding=1, transposed=True),
        conv("by three", (2, 2, 3, 3), padding=1, stride=3),
        conv("wide", (2, 2, 5, 5), padding=2),
        conv("large", (64, 64, 3, 3), padding=1),
        zero,
    )
    assert [(layer.name, layer.own_padding) for layer in found.layers] == [
        ("padded", True),
        ("valid", False),
        ("strided", True),
    ]
    assert found.layers[1].padding == found.layers[0].padding == ((1, 1), (1, 1))
    # Padding that keeps the size stands in for none: the same kernel gives the same torus.
    assert found.layers[1].point("zeros", 4).torus_count == 32
    counts = {re.sub(r"\d+", "N", reason): count for reason, count in found.left_out.items()}
    assert counts == {
        "it reads no padding: one tap, or taps that tile the input": 2,
        "its geometry is not known": 1,
        "transposed, for which no framework pads but with zeros": 1,
        "its stride does not divide every size": 1,
        "its taps reach over all of N points": 1,
        "its matrix takes over N MiB for n = N": 1,
        "its kernel is zero, or not finite": 1,
    }


def test_a_few_stand_for_many(monkeypatch):
    layers = [conv("x" * i, (1, 1, 3, 3), padding=1) for i in range(1, 8)]
    few = Extent(common=(4,), further=(), memory=2**26, layers=3)
    found = taken(monkeypatch, *layers, extent=few)
    assert [len(layer.name) for layer in found.layers] == [1, 4, 7]
    assert found.left_out == {"3 layers, evenly spaced, stand for all that fit": 4}


def test_a_model_without_such_layers_is_refused(monkeypatch):
    with pytest.raises(InputError, match=r"made up has no layer .* \(1: it reads no padding"):
        taken(monkeypatch, conv("one tap", (2, 2, 1, 1)))


def test_the_layout_of_other_frameworks(monkeypatch):
    kernel = np.random.default_rng(0).standard_normal((3, 2, 3, 3))
    ours = ConvLayer("a", "conv2d", kernel, "OIHW", ConvGeometry((8, 8), padding="same"))
    turned = ConvGeometry((8, 8), padding="same", layout="HWIO")
    theirs = ConvLayer("a", "conv2d", kernel.transpose(2, 3, 1, 0), "HWIO", turned)
    first, second = taken(monkeypatch, ours, theirs).layers
    assert first.own_padding
    assert second.own_padding
    for one, other in zip(first.points, second.points, strict=True):
        assert one.norm == pytest.approx(other.norm, rel=1e-13)
    torus = singular_values(kernel, ConvGeometry((4, 4)).on_torus())
    assert first.points[0].torus_norm == pytest.approx(float(torus.norm), rel=1e-13)


def test_writing_and_reading(demo_boundary, tmp_path):
    boundary.write(demo_boundary, tmp_path / "distances.json")
    assert boundary.read(tmp_path / "distances.json") == demo_boundary
    assert boundary.read(tmp_path / "none.json") is None
    again = boundary.boundary_of(extent=EXTENTS["smoke"])
    boundary.write(again, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "distances.json").read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: kept.pop("sizes"),
        lambda kept: kept.update(layers=[]),
        lambda kept: kept["layers"][0]["points"].pop(0),
        lambda kept: kept["layers"][0]["points"][0].update(padding="sideways"),
        lambda kept: kept["layers"][1]["points"][0].update(distance=None),
        lambda kept: kept["layers"][1]["points"][0].update(distance=float("nan")),
        lambda kept: kept["layers"][1]["points"][0].update(distance=-1.0),
        lambda kept: [one.update(torus_norm=0.0) for one in kept["layers"][1]["points"]],
    ],
    ids=["no sizes", "no layers", "no point", "unknown word", "no number", "NaN", "negative", "no norm"],
)
def test_a_damaged_file_is_named(demo_boundary, tmp_path, damage):
    path = tmp_path / "distances.json"
    boundary.write(demo_boundary, path)
    kept = json.loads(path.read_text())
    damage(kept)
    path.write_text(json.dumps(kept))
    with pytest.raises(InputError, match=re.escape(str(path))):
        boundary.read(path)
