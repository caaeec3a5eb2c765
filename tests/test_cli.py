"""The command as a user runs it: real processes, exit statuses, one line for each mistake."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from commands import forked, fresh

onnx = pytest.importorskip("onnx")


def convspectra(*arguments, cwd, start=forked):
    done = start(*arguments, cwd=cwd, env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1"})
    done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
    return done


def write_onnx(path, kernels, size=8, **attributes):
    """A chain of convolutions, as an ONNX file."""
    nodes, initializers = [], []
    for i, kernel in enumerate(kernels):
        nodes.append(
            onnx.helper.make_node(
                "Conv", [f"x{i}", f"layer{i}.weight"], [f"x{i + 1}"], name=f"node{i}", **attributes
            )
        )
        initializers.append(onnx.numpy_helper.from_array(kernel, f"layer{i}.weight"))
    real = onnx.TensorProto.FLOAT
    shape = [1, kernels[0].shape[1], *([size] * (kernels[0].ndim - 2))]
    graph = onnx.helper.make_graph(
        nodes,
        "chain",
        [onnx.helper.make_tensor_value_info("x0", real, shape)],
        [onnx.helper.make_tensor_value_info(f"x{len(kernels)}", real, None)],
        initializers,
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 9
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def chain(tmp_path):
    rng = np.random.default_rng(0)
    kernels = [rng.standard_normal((4, 3, 3, 3)), rng.standard_normal((5, 4, 3, 3))]
    return write_onnx(tmp_path / "chain.onnx", [k.astype(np.float32) for k in kernels], pads=[1, 1, 1, 1])


def refused(result, *words, status=2):
    """One clear line on standard error and nothing else."""
    assert result.returncode == status, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("convspectra: ")
    for word in words:
        assert word in lines[0], lines[0]
    assert "Traceback" not in result.stderr


def test_analyze_prints_a_table_and_writes_every_format(chain, tmp_path):
    targets = {"json": "r.json", "csv": "r.csv", "npz": "r.npz", "html": "r.html"}
    options = [part for name, file in targets.items() for part in (f"--{name}", file)]
    result = convspectra("analyze", chain, *options, cwd=tmp_path, start=fresh)
    assert result.returncode == 0, result.stderr
    assert "layer0" in result.stdout
    assert "layer1" in result.stdout
    for file in targets.values():
        assert (tmp_path / file).stat().st_size > 100
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["schema"] == "convspectra.report/1"
    assert [layer["input_shape"] for layer in report["layers"]] == [[8, 8], [8, 8]]
    with np.load(tmp_path / "r.npz") as file:
        assert len(file.files) >= 2


def test_layers_by_name_are_analysed_alone(chain, tmp_path):
    for options, shown in (
        (["--layers", "layer1"], ["layer1"]),
        (["--layers", "*0", "--layers", "layer1"], None),
    ):
        result = convspectra("analyze", chain, *options, "--json", "r.json", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        report = json.loads((tmp_path / "r.json").read_text())
        names = [layer["name"] for layer in report["layers"]]
        assert names == (shown or ["layer0", "layer1"])
        assert report["left_out"] == 2 - len(names)
    assert "1 not asked for" in convspectra("analyze", chain, "--layers", "layer1", cwd=tmp_path).stdout
    refused(convspectra("analyze", chain, "--layers", "none", cwd=tmp_path), "--layers", "'none'", "layer0")


def test_without_bounds_there_are_no_columns_of_them(chain, tmp_path):
    found = {}
    for bounds in ("none", "fast", "tight"):
        result = convspectra("analyze", chain, "--bounds", bounds, "--json", "r.json", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert ("own padding" in convspectra("analyze", chain, "--bounds", bounds, cwd=tmp_path).stdout) == (
            bounds != "none"
        )
        found[bounds] = json.loads((tmp_path / "r.json").read_text())
        assert found[bounds]["bounds"] == bounds
    for none, fast, tight in zip(*(found[name]["layers"] for name in ("none", "fast", "tight")), strict=True):
        assert none["bounds"] == {"as_padded": None, "any_size": None}
        assert none["torus"] == fast["torus"]
        for name in ("as_padded", "any_size"):
            width = [one["bounds"][name]["upper"] - one["bounds"][name]["lower"] for one in (tight, fast)]
            assert width[0] <= width[1] + 1e-6
    refused(
        convspectra("analyze", chain, "--bounds", "some", cwd=tmp_path), "--bounds must be one of none, fast"
    )


def test_a_dry_run_computes_nothing_and_ends_as_the_run_would(chain, tmp_path):
    result = convspectra("analyze", chain, "--dry-run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "layer1" in result.stdout
    assert "2 layers, nothing computed; estimated" in result.stdout
    one = convspectra("analyze", chain, "--dry-run", "--layers", "layer0", cwd=tmp_path)
    assert "1 layer, nothing computed" in one.stdout
    little = ["--max-seconds", "0.0001"]
    for options in (little, [*little, "--dry-run"]):
        result = convspectra("analyze", chain, *options, cwd=tmp_path)
        assert result.returncode == 3
        assert "2 skipped" in result.stdout
    broken = write_onnx(tmp_path / "nan.onnx", [np.full((2, 2, 3, 3), np.nan, np.float32)])
    assert convspectra("analyze", broken, "--dry-run", cwd=tmp_path).returncode == 3
    strided = [np.ones((2, 2, 3, 3), np.float32)]
    odd = write_onnx(tmp_path / "odd.onnx", strided, size=7, strides=[2, 2], pads=[1] * 4)
    for options in ([], ["--dry-run"]):
        result = convspectra("analyze", odd, *options, cwd=tmp_path)
        assert (result.returncode, "does not divide" in result.stdout) == (3, True)
    refused(
        convspectra("analyze", chain, "--dry-run", "--json", "r.json", cwd=tmp_path), "--dry-run", "--json"
    )


def test_the_precision_is_that_of_the_kernel_unless_another_is_asked_for(chain, tmp_path):
    errors = {}
    for options in ([], ["--dtype", "float64"]):
        convspectra("analyze", chain, *options, "--json", "r.json", cwd=tmp_path)
        report = json.loads((tmp_path / "r.json").read_text())
        errors[report["dtype"]] = report["layers"][0]["torus"]["error"]
    assert errors["float64"] < 1e-10 < errors["kernel"] < 1e-2


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "empty"), (b"not a model at all, only text\n" * 20, ""), (b"\x08\x07" * 9, "")],
)
def test_what_is_no_model_is_refused(content, words, tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    refused(convspectra("analyze", path, "--json", "r.json", cwd=tmp_path), "broken.onnx", words)
    assert not (tmp_path / "r.json").exists()


def test_truncated_missing_and_unreadable_files_are_refused(chain, tmp_path):
    short = tmp_path / "short.onnx"
    short.write_bytes(chain.read_bytes()[:-200])
    refused(convspectra("analyze", short, cwd=tmp_path), "short.onnx")
    refused(convspectra("analyze", tmp_path / "nowhere.onnx", cwd=tmp_path), "nowhere.onnx")
    refused(convspectra("analyze", tmp_path, cwd=tmp_path), tmp_path.name)
    refused(convspectra("analyze", cwd=tmp_path), "--model")


def test_messages_name_options_and_leave_names_of_layers_alone():
    from convspectra.cli.options import in_options, with_options
    from convspectra.models import Unread

    for said, told in {
        "max_norm must be positive; got -1": "--max-norm must be positive; got -1",
        "give sample_shape= or geometry=": "give --input-shape or --geometry FILE",
        "raise max_seconds or give module=": "raise --max-seconds or give --model package.module:factory",
        "guarantee='any_size' holds it": "--guarantee any_size holds it",
        "layer 'sample_shape' of geometry a.max_norm, output of layers": None,
        "'module=x' and net.module=1": None,
    }.items():
        assert in_options(said) == (told or said)
    report = with_options(analyze_unread(Unread("module=", None, "give module=")))
    assert report.unread == (Unread("module=", None, "give --model package.module:factory"),)


def analyze_unread(unread):
    from convspectra.analysis import analyze
    from convspectra.models import Model

    return analyze(Model("m", "onnx", (), unread=(unread,)))


@pytest.mark.parametrize("shape", ["3,0,8", "3,-8,8", "3", "a,b,c", "3,8.5,8", ""])
def test_sizes_that_are_none_are_refused(shape, chain, tmp_path):
    refused(convspectra("analyze", chain, f"--input-shape={shape}", cwd=tmp_path), "--input-shape")


def test_nan_names_the_layer_and_reports_the_others(tmp_path):
    rng = np.random.default_rng(0)
    kernels = [rng.standard_normal((3, 3, 3, 3)).astype(np.float32) for _ in range(3)]
    kernels[1][0, 0, 0, 0] = np.nan
    path = write_onnx(tmp_path / "nan.onnx", kernels, pads=[1, 1, 1, 1])
    result = convspectra("analyze", path, "--json", "r.json", "--html", "r.html", cwd=tmp_path)
    assert result.returncode == 3, result.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    assert [layer["status"] for layer in report["layers"]] == ["ok", "failed", "ok"]
    assert "NaN" in report["layers"][1]["reason"]
    assert "layer1" in result.stdout


def test_a_report_that_cannot_be_written_is_refused_before_the_work(chain, tmp_path):
    for target in (tmp_path / "no" / "such" / "folder" / "r.json", tmp_path):
        refused(convspectra("analyze", chain, "--json", target, cwd=tmp_path), str(target))
    for options in (("--json", "r", "--html", "r"), ("--json", "./r", "--npz", "r")):
        refused(convspectra("analyze", chain, *options, cwd=tmp_path), "--json", "give two names")
    assert set(tmp_path.iterdir()) == {chain}


def test_a_report_replaces_no_file_of_another_kind(chain, tmp_path):
    content = chain.read_bytes()
    link = tmp_path / "link"
    link.symlink_to(chain)
    for command in (["analyze", chain], ["compare", chain, chain], ["lipschitz", chain]):
        for target in ("chain.onnx", "./chain.onnx", "link"):
            refused(convspectra(*command, "--json", target, cwd=tmp_path), "is no .json file")
    clip = ["clip", chain, "--max-norm", "1", "--output", "o.onnx", "--json", chain]
    refused(convspectra(*clip, cwd=tmp_path), "is no .json file")
    assert chain.read_bytes() == content
    assert set(tmp_path.iterdir()) == {chain, link}
    (tmp_path / "r.json").write_text("an older report")
    assert convspectra("analyze", chain, "--json", "r.json", cwd=tmp_path).returncode == 0
    assert json.loads((tmp_path / "r.json").read_text())["layers"]


def test_the_folder_of_resume_is_no_report(chain, tmp_path):
    refused(convspectra("analyze", chain, "--resume", "kept", "--json", "kept", cwd=tmp_path), "--resume")
    refused(convspectra("analyze", chain, "--resume", chain, cwd=tmp_path), "--resume", "no folder")
    assert set(tmp_path.iterdir()) == {chain}


def test_names_that_no_file_can_have_are_refused_before_the_work(chain, tmp_path):
    (tmp_path / "circle.json").symlink_to("circle.json")
    (tmp_path / "circle").symlink_to("circle")
    long = "n" * 300
    files = ("circle.json", f"{long}.json", "chain.onnx/r.json", "/proc/r.json", "/dev/full/r.json")
    for target in files:
        refused(convspectra("analyze", chain, "--json", target, cwd=tmp_path), f"--json {target}")
    for folder in ("circle", long, "chain.onnx/d", "/proc/d"):
        for option in ("--svg", "--resume") if importlib.util.find_spec("matplotlib") else ("--resume",):
            refused(convspectra("analyze", chain, option, folder, cwd=tmp_path), f"{option} {folder}")
    for target in ("circle.onnx", f"{long}.onnx", "/proc/o.onnx"):
        (tmp_path / "circle.onnx").unlink(missing_ok=True)
        (tmp_path / "circle.onnx").symlink_to("circle.onnx")
        clip = ["clip", chain, "--max-norm", "1", "--output", target]
        refused(convspectra(*clip, cwd=tmp_path), f"--output {target}")
    assert {path.name for path in tmp_path.iterdir()} == {chain.name, "circle", "circle.json", "circle.onnx"}


def test_unknown_layers_and_sizes_too_small_in_a_geometry_file_are_refused(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    weights = tmp_path / "weights.safetensors"
    kernel = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    safetensors.save_file({"stem.weight": kernel}, weights)
    geometry = tmp_path / "geometry.toml"
    geometry.write_text('[layers."stam"]\nstride = 2\n')
    refused(convspectra("analyze", weights, "--geometry", geometry, cwd=tmp_path), "stam", "geometry.toml")
    geometry.write_text('[layers."stem"]\nstrides = 2\n')
    named = convspectra("analyze", weights, "--geometry", geometry, cwd=tmp_path)
    refused(named, "no field 'strides'", "the fields are 'input_shape', 'stride'")
    geometry.write_text('[layers."stem"]\ninput_shape = [2, 2]\npadding = "valid"\n')
    refused(convspectra("analyze", weights, "--geometry", geometry, cwd=tmp_path), "stem", "no output point")
    geometry.write_text('[layers."stem"]\ninput_shape = [9, 9]\nstride = 2\npadding = 1\n')
    result = convspectra("analyze", weights, "--geometry", geometry, "--json", "r.json", cwd=tmp_path)
    assert result.returncode == 3, result.stderr
    (layer,) = json.loads((tmp_path / "r.json").read_text())["layers"]
    assert (layer["stride"], layer["status"]) == ([2, 2], "partial")


def test_assumptions_are_marked_in_every_output(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    weights = tmp_path / "weights.safetensors"
    kernel = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    safetensors.save_file({"stem.weight": kernel}, weights)
    result = convspectra(
        "analyze", weights, "--input-shape", "3,8,8", "--json", "r.json", "--csv", "r.csv", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert "assumed" in result.stdout
    (layer,) = json.loads((tmp_path / "r.json").read_text())["layers"]
    assert {"stride", "padding", "input_shape"} <= set(layer["assumed"])
    assert "stride" in (tmp_path / "r.csv").read_text().splitlines()[1]
    unknown = convspectra("analyze", weights, "--json", "r.json", cwd=tmp_path)
    assert unknown.returncode == 3, unknown.stderr
    (layer,) = json.loads((tmp_path / "r.json").read_text())["layers"]
    assert layer["status"] == "skipped"
    assert "--input-shape" in layer["reason"]
    assert layer["torus"] is None
    assert layer["bounds"]["any_size"]["upper"] > 0


def test_a_pickle_with_code_in_it_is_refused_and_named(tmp_path):
    torch = pytest.importorskip("torch")

    class Payload:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    torch.save({"state_dict": Payload()}, tmp_path / "evil.pt")
    refused(convspectra("analyze", tmp_path / "evil.pt", cwd=tmp_path), "evil.pt", "system")
    assert not (tmp_path / "ran").exists()


def without_estimates(errors):
    """What standard error tells beside how long it takes and how far it is: of a slow machine more."""
    told = re.compile(r"convspectra: (estimated \d+ minutes? on \d+ cores?|\d+% \S+)")
    return [line for line in errors.splitlines() if not told.fullmatch(line)]


def test_interruption_leaves_no_file(tmp_path):
    rng = np.random.default_rng(0)
    kernels = [rng.standard_normal((64, 64, 5, 5)).astype(np.float32) for _ in range(32)]
    path = write_onnx(tmp_path / "long.onnx", kernels, size=64, pads=[2, 2, 2, 2])
    before = set(tmp_path.iterdir())
    options = ["--json", "r.json", "--html", "r.html", "--resume", "layers"]
    process = subprocess.Popen(
        [sys.executable, "-m", "convspectra", "analyze", path, *options],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    layers = tmp_path / "layers"
    end = time.monotonic() + 300
    while process.poll() is None and not any(layers.glob("[!.]*")):
        assert time.monotonic() < end, "no layer was kept"
        time.sleep(0.02)
    assert process.poll() is None, process.communicate(timeout=120)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    kept = len(list(layers.iterdir()))
    assert 0 < kept < 32
    assert without_estimates(errors) == [f"convspectra: interrupted; {kept} of 32 layers kept in layers"]
    assert set(tmp_path.iterdir()) == {*before, layers}


SIGNALLED = """
import os, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the shell of the tests ignores

def audit(event, arguments):
    if event == "import" and arguments[0] == MOMENT:
        os.kill(os.getpid(), signal.SIGINT)

sys.addaudithook(audit)
sys.argv = ["convspectra", "info"]
from convspectra.cli import main
main()
"""


@pytest.mark.parametrize(
    "moment", ["convspectra.cli.app", "typer", "numpy", "numpy._core._multiarray_umath", "convspectra.bounds"]
)
def test_an_interruption_before_there_is_a_command_is_quiet(moment, tmp_path):
    code = SIGNALLED.replace("MOMENT", repr(moment))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.1, 0.2, 0.4])
def test_an_interruption_from_the_entry_point_on_is_one_line_at_most(delay, tmp_path):
    code = (
        "import sys; sys.argv[:] = ['c', 'demo']; from convspectra.cli import main; print(flush=True); main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", f"import signal; signal.signal(2, signal.default_int_handler); {code}"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.readline()
    time.sleep(0.005 + delay)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert errors in ("", "convspectra: interrupted; every file is whole, or as it was\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["analyze", "--jsn", "x"], ["--jsn", "--json", "convspectra analyze --help"]),
        (["clip", "m.onnx", "--output", "o"], ["--max-norm"]),
        (["clip", "m.onnx", "--max-norm", "one", "--output", "o"], ["--max-norm", "number", "'one'"]),
        (["clip"], ["missing argument", "model"]),
        (["lipschitz", "m.onnx", "--points", "-3"], ["--points", "0", "-3"]),
        (["lipschitz", "m.onnx", "--points", "few"], ["--points", "integer", "'few'"]),
        (["analyze", "m.onnx", "n.onnx", "o.onnx"], ["n.onnx o.onnx"]),
        (["analyze", "--json"], ["--json", "argument"]),
        (["analyze", "--fold-batch-norm=3"], ["--fold-batch-norm", "value"]),
        (["analyse"], ["'analyse'", "analyze"]),
        (["--jso"], ["--jso"]),
    ],
)
def test_errors_of_usage_are_one_line(arguments, words, tmp_path):
    refused(convspectra(*arguments, cwd=tmp_path), *words)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_an_interruption_that_a_destructor_drops_comes_again(name, tmp_path):
    code = f"""
import os, signal, time
from convspectra import cli
from convspectra.cli import app as commands

signal.signal(signal.{name}, signal.SIG_DFL)  # whatever the shell of the tests ignores

class Closing:
    def __del__(self):
        os.kill(os.getpid(), signal.{name})
        time.sleep(0.2)

def app():
    Closing()
    time.sleep(1000)

commands.app = app
cli.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 130
    assert done.stderr == "convspectra: interrupted; every file is whole, or as it was\n"


def test_demo_needs_nothing(tmp_path):
    result = convspectra("demo", cwd=tmp_path, start=fresh)
    assert result.returncode == 0, result.stderr
    page = tmp_path / "convspectra-demo.html"
    assert page.stat().st_size > 1000
    assert str(page.resolve()) in result.stdout.replace("\n", "")


def test_help_and_version_start_quickly_and_import_little(tmp_path):
    assert convspectra("--version", cwd=tmp_path, start=fresh).stdout.startswith("convspectra ")
    listed = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "convspectra", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    assert "analyze" in listed.stdout
    for heavy in ("torch", "jax", "onnx", "matplotlib", "pyarrow", "scipy"):
        assert f"| {heavy}" not in listed.stderr.replace("|   ", "| "), heavy


def test_info_says_what_is_in_use_and_why(tmp_path):
    lines = convspectra("info", cwd=tmp_path, start=fresh).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["convspectra", "solver:", "threads:", "found:"]
    assert lines[1].split()[1].rstrip(",") in ("native", "lapack")


def test_the_solver_can_be_named(chain, tmp_path):
    tables = [convspectra("analyze", chain, "--solver", name, cwd=tmp_path) for name in ("auto", "lapack")]
    assert tables[0].stdout == tables[1].stdout
    refused(convspectra("analyze", chain, "--solver", "eigen", cwd=tmp_path), "--solver", "native", "'eigen'")


def test_the_report_of_a_path_with_odd_characters(chain, tmp_path):
    odd = tmp_path / "a [b] 'c' é.onnx"
    odd.write_bytes(chain.read_bytes())
    result = convspectra("analyze", odd, "--json", "r.json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(Path(tmp_path / "r.json").read_text())["path"].endswith("é.onnx")
