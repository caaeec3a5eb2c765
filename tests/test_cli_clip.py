"""`convspectra clip` as a user runs it, and what it does to a model as a whole."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from importlib import resources
from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest
from typer.testing import CliRunner

from convspectra import ConvGeometry, InputError
from convspectra.analysis import analyze
from convspectra.cli.app import app
from convspectra.constrain import Limits
from convspectra.constrain import file as constrain_file
from convspectra.constrain.file import clip_file
from convspectra.models import read_model
from convspectra.models.formats.onnx.writer import OnnxWriter
from convspectra.operators.reference import dense_operator
from test_cli import convspectra as in_a_process
from test_cli import refused, without_estimates, write_onnx

onnx = pytest.importorskip("onnx")


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


def convspectra(*arguments, cwd):
    """The command in this process, which saves the start of another one."""
    with contextlib.chdir(cwd):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return SimpleNamespace(returncode=result.exit_code, stdout=result.stdout, stderr=result.stderr)


@pytest.fixture
def chain(tmp_path):
    rng = np.random.default_rng(0)
    kernels = [rng.standard_normal((4, 3, 3, 3)), rng.standard_normal((5, 4, 3, 3))]
    return write_onnx(tmp_path / "chain.onnx", [k.astype(np.float32) for k in kernels], pads=[1, 1, 1, 1])


def norms(path, guarantee="layer", **options):
    """Every norm that `analyze` shows and the guarantee covers."""
    for layer in analyze(read_model(path), dtype="float64", **options).layers:
        yield layer.as_padded.upper
        if guarantee == "any_size":
            yield from (layer.torus.norm, layer.any_size.upper)


GUARANTEES = {(): "layer", ("--guarantee", "layer"): "layer", ("--guarantee", "any-size"): "any_size"}


@pytest.mark.parametrize("options", GUARANTEES)
def test_it_writes_a_model_that_runs_and_says_what_changed(options, chain, tmp_path):
    kept, guarantee = chain.read_bytes(), GUARANTEES[options]
    result = convspectra(
        "clip", chain, "--max-norm", 1, "--output", "out.onnx", "--json", "r.json", *options, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.splitlines() == ["wrote out.onnx", "wrote r.json"]
    assert "2 of 2 layers changed" in result.stdout
    assert ("every input size" in result.stdout) == (guarantee == "any_size")
    assert max(norms(tmp_path / "out.onnx", guarantee)) <= 1
    assert chain.read_bytes() == kept
    report = json.loads((tmp_path / "r.json").read_text())
    schema = resources.files("convspectra.report") / "schema" / "clip-1.schema.json"
    validator = jsonschema.Draft202012Validator(json.loads(schema.read_text()))
    validator.check_schema(validator.schema)
    validator.validate(report)
    assert report["limit"] == {
        "max_norm": 1.0,
        "method": "project",
        "guarantee": guarantee,
        "fold_batch_norm": False,
        "tolerance": 0.01,
    }
    for layer in report["layers"]:
        assert layer["guarantee"] == guarantee
        assert layer["norm_before"] > 1 >= layer["norm_after"] > 0.999
        assert 0 < layer["distance_to_nearest"] < layer["relative_change"] < 1
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(tmp_path / "out.onnx"))
    x = np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)
    (y,) = session.run(None, {"x0": x})
    expected = x.ravel()
    for layer in read_model(tmp_path / "out.onnx").layers:
        expected = dense_operator(layer.kernel, layer.geometry) @ expected
    np.testing.assert_allclose(y.ravel(), expected, atol=1e-5)
    assert np.linalg.norm(y) <= np.linalg.norm(x)


@pytest.mark.parametrize("limit", ["0", "-1", "nan", "inf"])
def test_a_limit_that_is_none_is_refused(limit, chain, tmp_path):
    result = convspectra("clip", chain, f"--max-norm={limit}", "--output", "out.onnx", cwd=tmp_path)
    refused(result, "--max-norm must be positive and finite")
    assert set(tmp_path.iterdir()) == {chain}


def test_nothing_is_replaced_unless_told_to(chain, tmp_path):
    (tmp_path / "there.onnx").write_bytes(b"mine")
    (tmp_path / "link.onnx").symlink_to(chain)
    os.link(chain, tmp_path / "hard.onnx")
    kept = chain.read_bytes()
    for name, word in {"there": "exists", "link": "itself", "hard": "itself", "chain": "itself"}.items():
        result = convspectra("clip", chain, "--max-norm", 1, "--output", f"{name}.onnx", cwd=tmp_path)
        refused(result, f"{name}.onnx", word, "--overwrite")
    assert (tmp_path / "there.onnx").read_bytes() == b"mine"
    assert chain.read_bytes() == kept
    result = convspectra("clip", chain, "--max-norm", 1, "--output", "link.onnx", "--force", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "link.onnx").is_symlink()
    assert max(norms(chain)) <= 1
    assert (tmp_path / "hard.onnx").read_bytes() == kept


def test_targets_that_cannot_be_are_refused_before_the_work(chain, tmp_path):
    for options, words in {
        ("--output", "no/such/folder/out.onnx"): "does not exist",
        ("--output", "."): "is a folder",
        ("--output", "out.safetensors"): "has the name of a safetensors file",
        ("--output", "out.onnx", "--json", "out.onnx"): "two names",
        ("--output", "out.onnx", "--layers", "layr1"): "near it are 'layer1'",
        ("--output", "out.onnx", "--tolerance", "0"): "--tolerance",
    }.items():
        refused(convspectra("clip", chain, "--max-norm", 1, *options, cwd=tmp_path), words)
    (tmp_path / "graph.pb").write_bytes(b"\x0a\x0a\x0a")
    refused(convspectra("clip", "graph.pb", "--max-norm", 1, "--output", "o.pb", cwd=tmp_path), "graph.pb")
    (tmp_path / "v.index").write_bytes(b"x" * 60)
    refused(
        convspectra("clip", "v.index", "--max-norm", 1, "--output", "o", cwd=tmp_path),
        "tensorflow file, which is read but not written",
    )
    assert {path.name for path in tmp_path.iterdir()} == {"chain.onnx", "graph.pb", "v.index"}


def test_nan_names_the_layer_and_writes_nothing(tmp_path):
    kernels = [np.ones((3, 3, 3, 3), np.float32) for _ in range(3)]
    kernels[1][0, 0, 0, 0] = np.nan
    path = write_onnx(tmp_path / "nan.onnx", kernels, pads=[1, 1, 1, 1])
    refused(
        in_a_process("clip", path, "--max-norm", 1, "--output", "o.onnx", cwd=tmp_path), "'layer1'", "NaN"
    )
    assert set(tmp_path.iterdir()) == {path}
    result = convspectra(
        "clip", path, "--max-norm", 1, "--output", "o.onnx", "--layers", "layer[02]", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert "2 of 2 layers changed" in result.stdout
    assert "1 not selected" in result.stdout


def test_what_cannot_be_written_is_said_and_exits_with_3(chain, tmp_path):
    model = onnx.load(chain)
    model.graph.node.insert(0, onnx.helper.make_node("Mul", ["k", "two"], ["layer0.weight"]))
    model.graph.initializer[0].name = "k"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(2), "two"))
    onnx.save(model, chain)
    result = convspectra("clip", chain, "--max-norm", 1, "--output", "o.onnx", cwd=tmp_path)
    assert result.returncode == 3, result.stderr
    assert "NOT WRITTEN" in result.stdout
    assert "layer0: not written: its kernel 'layer0.weight' is computed by Mul" in result.stdout
    assert "1 could not be written" in result.stdout


@pytest.mark.parametrize("method", ["project", "clip", "rescale", "appendix_a"])
def test_the_paper_s_clip_ends_above_the_limit_and_says_so(method, chain, tmp_path):
    result = convspectra(
        "clip",
        chain,
        "--max-norm",
        1,
        "--method",
        method,
        "--guarantee",
        "torus",
        "--output",
        "o.onnx",
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert ("2 still above 1" in result.stdout) == (method == "appendix_a")
    written = analyze(read_model(tmp_path / "o.onnx"), dtype="float64")
    largest = max(layer.torus.norm for layer in written.layers)
    assert (largest > 1.01) == (method == "appendix_a")


def test_project_moves_kernels_less_than_rescale(chain, tmp_path):
    moved = {}
    for method in ("project", "rescale"):
        report = clip_file(read_model(chain), chain, tmp_path / f"{method}.onnx", Limits(1.0, method=method))
        moved[method] = [layer.relative_change for layer in report.layers]
    assert all(a < b for a, b in zip(moved["project"], moved["rescale"], strict=True))


def write_batch_norm(path, scale):
    kernel = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    path = write_onnx(path, [kernel], pads=[1, 1, 1, 1])
    model = onnx.load(path)
    model.graph.node[0].output[0] = "c"
    model.graph.node.append(onnx.helper.make_node("BatchNormalization", ["c", *"gbmv"], ["x1"], epsilon=0.5))
    values = {"g": scale, "b": [0, 0, 0, 0], "m": [0, 0, 0, 0], "v": [0.5] * 4}
    for name, value in values.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, np.float32), name))
    onnx.save(model, path)
    return path, kernel


@pytest.mark.parametrize(
    ("operator", "shape", "given", "channels"),
    [
        ("MatMul", (4, 4), (1, 4, 4), 4),  # the batch norm is of the sequence
        ("MatMul", (4, 4), (1, 3, 4), 3),
        ("Conv", (4, 2, 3), (1, 2, 6), 3),  # it contradicts the convolution
    ],
)
def test_a_batch_norm_of_other_channels_is_not_folded(operator, shape, given, channels, tmp_path):
    kernel = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    norm = np.arange(1, channels + 1, dtype=np.float32)
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node(operator, ["x", "w"], ["c"]),
            onnx.helper.make_node("BatchNormalization", ["c", *["n"] * 4], ["y"]),
        ],
        "graph",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, given)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(kernel, "w"), onnx.numpy_helper.from_array(norm, "n")],
    )
    path = tmp_path / "m.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), path)
    model = read_model(path)
    (folded,) = analyze(model, fold_batch_norm=True).layers
    (alone,) = analyze(model).layers
    assert folded.batch_norm == "none"
    assert folded.torus == alone.torus
    limits = Limits(0.5, fold_batch_norm=True)
    (record,) = clip_file(model, path, tmp_path / "o.onnx", limits).layers
    assert record.batch_norm == "none"
    assert max(norms(tmp_path / "o.onnx")) <= 0.5


@pytest.mark.parametrize("guarantee", ["layer", "any_size"])
def test_a_folded_batch_norm_is_held_with_its_convolution(guarantee, tmp_path):
    scale = np.array([3.0, -0.01, 0.0, 1.0])
    path, kernel = write_batch_norm(tmp_path / "m.onnx", scale)
    out = tmp_path / "o.onnx"
    limits = Limits(1.0, guarantee=guarantee, fold_batch_norm=True)
    (record,) = clip_file(read_model(path), path, out, limits).layers
    assert max(norms(out, guarantee, fold_batch_norm=True)) <= 1
    assert record.batch_norm == "folded"
    assert record.norm_after == pytest.approx(1, abs=1e-6)
    (after,) = read_model(out).layers
    np.testing.assert_array_equal(after.kernel[2], kernel[2])
    dense = dense_operator(scale[:, None, None, None] * after.kernel, after.geometry)
    assert np.linalg.norm(dense, 2) <= 1


def test_a_guarantee_that_a_layer_cannot_have_is_refused(chain, tmp_path):
    path = write_onnx(tmp_path / "odd.onnx", [np.ones((3, 3, 3, 3), np.float32)], size=7, strides=[2, 2])
    result = convspectra(
        "clip", path, "--max-norm", 1, "--guarantee", "torus", "--output", "o.onnx", cwd=tmp_path
    )
    refused(result, "'layer0'", "does not divide", "--guarantee any-size")
    model = read_model(chain)
    geometry = ConvGeometry((1, 8), padding=1, padding_mode="reflect")
    layer = type(model.layers[0])(**{**vars(model.layers[0]), "geometry": geometry})
    reflecting = type(model)(**{**vars(model), "layers": (layer, *model.layers[1:])})
    with pytest.raises(InputError, match=r"'layer0': .*reflect"):
        clip_file(reflecting, chain, tmp_path / "o.onnx", Limits(1.0, guarantee="layer"))
    assert {path.name for path in tmp_path.iterdir()} == {"chain.onnx", "odd.onnx"}


def test_weights_without_geometry(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    kernel = np.random.default_rng(0).standard_normal((4, 1, 3, 3)).astype(np.float32)
    safetensors.save_file({"stem.weight": kernel}, tmp_path / "w.safetensors")
    arguments = ["clip", "w.safetensors", "--max-norm", 1, "--output"]
    refused(
        convspectra(*arguments, "a.safetensors", "--guarantee", "torus", cwd=tmp_path),
        "'stem'",
        "--input-shape",
        "--guarantee any-size",
    )
    kept = convspectra(*arguments, "a.safetensors", "--json", "a.json", cwd=tmp_path)
    assert kept.returncode == 0
    (layer,) = json.loads((tmp_path / "a.json").read_text())["layers"]
    assert layer["guarantee"] == "any_size"
    shown = convspectra(*arguments, "a.safetensors", "--overwrite", cwd=tmp_path).stdout
    assert "norm: a proven upper bound for every input size" in shown
    assert layer["note"].startswith("held for every stride")
    result = convspectra(
        *arguments, "b.safetensors", "--input-shape", "4,8,8", "--json", "r.json", cwd=tmp_path
    )
    assert "* assumed, as the file does not state it: input_shape, stride" in result.stdout
    assert "stride" in json.loads((tmp_path / "r.json").read_text())["layers"][0]["assumed"]
    safe, depthwise = (
        safetensors.load_file(tmp_path / f"{name}.safetensors")["stem.weight"] for name in "ab"
    )
    # What holds for every number of groups is stricter than what the depthwise layer needs.
    assert np.linalg.norm(safe) < np.linalg.norm(depthwise) < np.linalg.norm(kernel)


def test_geometry_from_a_module(tmp_path):
    torch = pytest.importorskip("torch")
    (tmp_path / "net_to_clip.py").write_text(
        "import torch\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    first, second = torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Conv2d(4, 4, 3, groups=4)\n"
        "    return torch.nn.Sequential(first, second)\n"
    )
    states = {f"module.{i}.weight": torch.randn(4, 3 if i == 0 else 1, 3, 3) for i in range(2)}
    states |= {f"module.{i}.bias": torch.zeros(4) for i in range(2)}
    torch.save({"state_dict": states}, tmp_path / "w.pt")
    options = ["--model", "net_to_clip:make", "--input-shape", "3,8,8", "--guarantee", "torus"]
    result = convspectra("clip", "w.pt", "--max-norm", 1, "--output", "o.pt", *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "2 of 2 layers changed" in result.stdout
    analysed = convspectra(
        "analyze", "o.pt", *options[:4], "--dtype", "float64", "--json", "r.json", cwd=tmp_path
    )
    assert analysed.returncode == 0, analysed.stderr
    found = json.loads((tmp_path / "r.json").read_text())["layers"]
    assert all(0.99 < layer["torus"]["norm"] <= 1 for layer in found)


def test_a_write_that_fails_halfway_leaves_nothing(chain, tmp_path, monkeypatch):
    (tmp_path / "there.onnx").write_bytes(b"mine")

    def fail(self, changed, file, output):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(OnnxWriter, "write", fail)
    with pytest.raises(InputError, match="No space left"):
        clip_file(read_model(chain), chain, tmp_path / "there.onnx", Limits(1.0))
    assert (tmp_path / "there.onnx").read_bytes() == b"mine"
    assert {path.name for path in tmp_path.iterdir()} == {"chain.onnx", "there.onnx"}


def test_a_file_that_reads_back_otherwise_is_not_left(chain, tmp_path, monkeypatch):
    write = OnnxWriter.write

    def other(self, changed, file, output):
        return write(self, {name: 1.001 * values for name, values in changed.items()}, file, output)

    monkeypatch.setattr(OnnxWriter, "write", other)
    with pytest.raises(RuntimeError, match="reads back"):
        clip_file(read_model(chain), chain, tmp_path / "out.onnx", Limits(1.0))
    assert set(tmp_path.iterdir()) == {chain}


def test_progress_ends_at_one(chain, tmp_path):
    seen = []
    clip_file(
        read_model(chain),
        chain,
        tmp_path / "o.onnx",
        Limits(1.0),
        progress=lambda share, name: seen.append(share),
    )
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1)


def test_a_model_without_layers_is_refused(chain, tmp_path):
    model = read_model(chain)
    with pytest.raises(InputError, match="holds no convolution"):
        constrain_file.clip_file(type(model)("none", "onnx", ()), chain, tmp_path / "o.onnx", Limits(1.0))


def test_interruption_leaves_no_file(tmp_path):
    rng = np.random.default_rng(0)
    kernels = [rng.standard_normal((128, 128, 5, 5)).astype(np.float32) for _ in range(4)]
    path = write_onnx(tmp_path / "long.onnx", kernels, size=32, pads=[2, 2, 2, 2])
    options = ["--max-norm", "60", "--tolerance", "1e-9", "--output", "o.onnx"]
    started = "from convspectra.cli import main; print('started', flush=True); main()"
    process = subprocess.Popen(
        [sys.executable, "-c", started, "clip", path, *options],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "started\n"
    time.sleep(3)
    assert process.poll() is None, process.communicate(timeout=120)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert without_estimates(errors) == ["convspectra: interrupted; every file is whole, or as it was"]
    assert set(tmp_path.iterdir()) == {path}
