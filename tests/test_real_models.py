"""Real model files that others trained: every number again by a plain full-grid SVD."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from convspectra.analysis import analyze
from convspectra.cli.app import app
from convspectra.constrain import Limits
from convspectra.constrain.file import clip_file
from convspectra.models import read_model
from convspectra.operators.reference import dense_operator

DATA = os.environ.get("CONVSPECTRA_DATA")
pytestmark = pytest.mark.skipif(DATA is None, reason="CONVSPECTRA_DATA is not set")

MODELS = {
    "version-RFB-320.onnx": None,
    "version-RFB-320.pth": None,
    "silero_vad_openvino_16k.onnx": None,
    "silero_vad_16k.safetensors": (1, 64),
    "resnet20-12fca82f.th": (3, 32, 32),
    "resnet32-d509ac18.th": (3, 32, 32),
}


def path(name):
    return Path(DATA) / "models" / name


def plain_singular_values(kernel, geometry):
    """Every block of every frequency by FFT and SVD: no half grid, no polyphase form, no shortcuts."""
    correlation = geometry.correlation(kernel.shape)
    ordered = np.transpose(kernel, geometry.kernel_axes)
    sizes, strides = correlation.input_shape, correlation.stride
    taps = np.zeros((*ordered.shape[:2], *sizes))
    for p in np.ndindex(*correlation.kernel_size):
        at = tuple(d * q % n for d, q, n in zip(correlation.dilation, p, sizes, strict=True))
        taps[(slice(None), slice(None), *at)] += ordered[(slice(None), slice(None), *p)]
    axes = tuple(range(2, taps.ndim))
    symbol = np.fft.fftn(taps, axes=axes)
    coarse = [n // s for n, s in zip(sizes, strides, strict=True)]
    aliases = []
    for j in np.ndindex(*strides):
        window = [slice(c * k, c * (k + 1)) for c, k in zip(coarse, j, strict=True)]
        aliases.append(symbol[(slice(None), slice(None), *window)])
    blocks = np.concatenate(aliases, axis=1) / math.sqrt(math.prod(strides))
    rows = ordered.shape[0] // correlation.groups
    found = []
    for group in range(correlation.groups):
        part = blocks[group * rows : (group + 1) * rows].reshape(rows, blocks.shape[1], -1)
        found.append(np.linalg.svd(np.moveaxis(part, -1, 0), compute_uv=False).ravel())
    return np.sort(np.concatenate(found))[::-1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MODELS)
def test_every_spectrum_is_that_of_a_plain_svd(name, dtype):
    model = read_model(path(name), sample_shape=MODELS[name])
    report = analyze(model, dtype=dtype)
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    compared = 0
    for layer, found in zip(model.layers, report.layers, strict=True):
        if found.spectrum is None:
            assert found.reason
            continue
        torus = layer.geometry.on_torus()
        expected = plain_singular_values(layer.kernel, torus)
        np.testing.assert_allclose(found.spectrum.sorted(), expected, rtol=0, atol=tolerance * expected[0])
        assert math.isclose(found.torus.norm, expected[0], rel_tol=tolerance)
        assert math.isclose(found.torus.nuclear_norm, expected.sum(), rel_tol=tolerance)
        compared += 1
        correlation = torus.correlation(layer.kernel.shape)
        inputs = correlation.in_channels * math.prod(correlation.input_shape)
        if inputs * correlation.out_channels * correlation.points <= 4e6:
            dense = np.linalg.svd(dense_operator(layer.kernel, torus), compute_uv=False)
            np.testing.assert_allclose(expected, dense, rtol=0, atol=1e-12 * dense[0])
            padded = np.linalg.norm(dense_operator(layer.kernel, layer.geometry), 2)
            bound = found.as_padded
            if bound.method == "symbol":
                assert math.isclose(bound.upper, padded, rel_tol=tolerance)
            else:
                assert not bound.exact or bound.upper <= bound.lower * (1 + max(1e-9, tolerance))
                assert bound.lower * (1 - 1e-13) <= padded <= bound.upper * (1 + 1e-13)
    assert compared >= len(model.layers) // 2


def test_one_network_in_three_files_gives_the_same_kernels_and_numbers():
    onnx = read_model(path("version-RFB-320.onnx"))
    torch = read_model(path("version-RFB-320.pth"))
    tensorflow = read_model(path("rfb320_variables"), sample_shape=(3, 240, 320))
    assert len(onnx.layers) == 52

    def canonical(layer):
        order = (layer.geometry or layer).layout
        letters = "OI" + "".join(letter for letter in order if letter not in "OI")
        return np.transpose(layer.kernel, [order.index(letter) for letter in letters]).astype(np.float32)

    def by_kernel(model):
        return {canonical(layer).tobytes(): layer for layer in model.layers}

    tables = [by_kernel(model) for model in (onnx, torch, tensorflow)]
    assert len(tables[0]) == 52
    assert tables[0].keys() == tables[1].keys() == tables[2].keys()
    first, second = analyze(onnx), analyze(torch)
    numbers = [
        {
            canonical(layer).tobytes(): found.torus
            for layer, found in zip(model.layers, report.layers, strict=True)
        }
        for model, report in ((onnx, first), (torch, second))
    ]
    assert numbers[0] == numbers[1]


def test_intervals_are_narrow_on_real_layers():
    report = analyze(read_model(path("version-RFB-320.onnx")))
    assert len(report.layers) == 52
    ratios = {layer.name: layer.as_padded.upper / layer.as_padded.lower for layer in report.layers}
    assert np.median(list(ratios.values())) <= 1.005
    assert max(ratios.values()) <= 1.05
    # On maps of a few pixels the padded norm lies well under that of any torus: the matrix is decomposed.
    small = [layer for layer in report.layers if max(layer.input_shape) <= 10]
    assert len(small) >= 8
    assert all(layer.as_padded.exact for layer in small)


CLIPPED = {
    "version-RFB-320.onnx": None,
    "silero_vad_openvino_16k.onnx": None,
    "silero_vad_16k.safetensors": (1, 64),
    "resnet20-12fca82f.th": (3, 32, 32),
}


@pytest.mark.parametrize("name", CLIPPED)
def test_a_clipped_model_keeps_the_promise_and_everything_else(name, tmp_path):
    before = read_model(path(name), sample_shape=CLIPPED[name])
    written = tmp_path / name
    report = clip_file(before, path(name), written, Limits(1.0, guarantee="any_size"))
    assert {layer.status for layer in report.layers} <= {"changed", "inside"}
    after = read_model(written, sample_shape=CLIPPED[name])
    for layer in analyze(after, dtype="float64").layers:
        norms = [layer.any_size.upper]
        norms += [layer.torus.norm] if layer.torus else []
        norms += [layer.as_padded.upper] if layer.as_padded else []
        assert max(norms) <= 1, layer.name
    for old, new, record in zip(before.layers, after.layers, report.layers, strict=True):
        assert (old.name, old.kernel.dtype) == (new.name, new.kernel.dtype)
        assert (record.status == "inside") == np.array_equal(old.kernel, new.kernel)
        # To the nearest kernel whose samples are inside, a larger ball: what the norm rises between counts.
        assert record.distance_to_nearest < 0.5
    assert written.stat().st_size == pytest.approx(path(name).stat().st_size, rel=1e-3)


def test_the_face_detector_runs_after_the_command(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    written = tmp_path / "clipped.onnx"
    command = ["clip", path("version-RFB-320.onnx"), "--max-norm", 1, "--output", written]
    result = CliRunner().invoke(app, list(map(str, command)))
    assert result.exit_code == 0, result.stderr
    assert "46 of 52 layers changed, 6 already inside" in result.stdout
    x = np.random.default_rng(0).standard_normal((1, 3, 240, 320)).astype(np.float32)
    found = {}
    for file in (path("version-RFB-320.onnx"), written):
        session = runtime.InferenceSession(str(file))
        found[file] = session.run(None, {session.get_inputs()[0].name: x})
    first, second = found.values()
    assert [one.shape for one in first] == [one.shape for one in second]
    assert all(np.isfinite(one).all() for one in second)
    assert not np.allclose(first[0], second[0])


def test_nothing_but_the_named_layer_changes_what_the_runtime_computes(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    model = read_model(path("version-RFB-320.onnx"))
    clip_file(model, path(model.name), tmp_path / "same.onnx", Limits(100.0))
    clip_file(model, path(model.name), tmp_path / "one.onnx", Limits(1.0), layers=["regression_headers.3"])
    x = np.random.default_rng(0).standard_normal((1, 3, 240, 320)).astype(np.float32)
    outputs = []
    for file in (path(model.name), tmp_path / "same.onnx", tmp_path / "one.onnx"):
        session = runtime.InferenceSession(str(file))
        outputs.append(session.run(None, {session.get_inputs()[0].name: x}))
    original, same, one = outputs
    for first, second in zip(original, same, strict=True):
        np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(original[0], one[0])  # the scores do not pass through that layer
    assert not np.array_equal(original[1], one[1])
