"""What the figures show: thinned curves, maps, colours, and files of pictures."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

import convspectra as cs
from convspectra.report import figures
from reports import ODD_NAME, deep_report, mixed_report


@pytest.fixture(scope="module")
def report():
    return mixed_report()


@pytest.mark.parametrize("kind", ["random", "low rank", "one value", "one tap"])
def test_a_thinned_curve_is_the_curve_to_a_pixel(kind):
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((12, 8, 3, 3))
    if kind == "low rank":
        kernel[6:] = kernel[:6]
    if kind == "one value":
        kernel = np.eye(8).reshape(8, 8, 1, 1)
    if kind == "one tap":
        kernel = rng.standard_normal((12, 8, 1, 1))
    spectrum = cs.singular_values(kernel, cs.ConvGeometry((48, 40), padding="same", padding_mode="circular"))
    values = spectrum.sorted()
    ranks, thinned = figures.thinned(spectrum, 240)
    assert len(ranks) <= 240
    assert ranks[0] == 1
    assert ranks[-1] == spectrum.count
    np.testing.assert_array_equal(thinned, values[ranks - 1])
    everywhere = np.arange(1, spectrum.count + 1)
    error = np.abs(np.interp(everywhere, ranks, thinned) - values)
    # Vertically off by a 240th of the height, or, at a step, horizontally by a 60th of the width.
    room = spectrum.count // 60 + 1
    steep = np.array(
        [values[max(0, i - room)] - values[min(i + room, spectrum.count - 1)] for i in range(spectrum.count)]
    )
    assert np.all(error <= values[0] / 240 + steep)


def test_maps_are_centred_and_pooled_by_the_largest_value(report):
    maps = {report.layers[one.layer].name: one for one in figures.frequency_maps(report)}
    assert {"pointwise", "head", "unknown", "broken"}.isdisjoint(maps)
    assert maps["stem"].values.shape == (16, 12)
    assert maps["volume"].values.shape == (5, 4)
    assert maps["audio"].values.shape == (1, 32)
    for layer in report.layers:
        if layer.name in maps:
            assert maps[layer.name].values.max() == pytest.approx(layer.torus.norm, rel=1e-12)
    (one,) = (layer for layer in report.layers if layer.name == "stem")
    flat = one.spectrum.frequency_map()
    assert maps["stem"].values[8, 6] == flat[0, 0]


def test_large_maps_are_reduced():
    kernel = np.random.default_rng(1).standard_normal((2, 2, 3, 3))
    spectrum = cs.singular_values(kernel, cs.ConvGeometry((70, 33), padding="same", padding_mode="circular"))
    reduced = figures._map(0, spectrum)
    assert reduced.pooled
    assert reduced.values.shape == (32, 32)
    assert reduced.values.max() == spectrum.norm


def test_colours_run_from_input_to_output_in_even_lightness():
    def lightness(colour):
        red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
        luminance = np.dot(linear, [0.2126, 0.7152, 0.0722])
        return 116 * np.cbrt(luminance) - 16

    for dark in (False, True):
        steps = [lightness(figures.colour(position, dark)) for position in np.linspace(0, 1, 9)]
        assert np.all(np.diff(steps) > 2), "layers would look alike without colour vision"


def test_pictures_are_written_for_a_paper(report, tmp_path):
    pytest.importorskip("matplotlib")
    from PIL import Image

    from convspectra.report.pictures import write_pictures

    for suffix in ("png", "svg"):
        (tmp_path / suffix).mkdir()
        written = list(write_pictures(report, tmp_path / suffix, suffix))
        assert [path.name for path in written] == [
            f"{name}.{suffix}" for name in ("figure5", "figure6", "figure7", "norms")
        ]
    with Image.open(tmp_path / "png" / "figure5.png") as picture:
        assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        assert len(set(picture.convert("RGB").get_flattened_data())) > 50
    root = ElementTree.parse(tmp_path / "svg" / "norms.svg").getroot()
    words = "".join(root.itertext())
    assert "depthwise" in words
    assert ODD_NAME[:4] in words or ODD_NAME[-23:] in words
    again = tmp_path / "again"
    again.mkdir()
    for path in write_pictures(report, again, "svg"):
        assert path.read_bytes() == (tmp_path / "svg" / path.name).read_bytes()


def test_a_report_of_many_layers_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    from convspectra.report.pictures import write_pictures

    assert len(list(write_pictures(deep_report(count=30, channels=4, size=12), tmp_path, "png"))) == 4
