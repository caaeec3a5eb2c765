"""What is shown in a terminal, in a pipe, and where neither takes it: files are written all the same."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

pytest.importorskip("onnx")

from commands import forked, fresh
from convspectra.analysis import analyze
from convspectra.report import html, json_file, table_files, terminal, text
from reports import layer, mixed_model
from test_cli import chain, convspectra, write_onnx  # noqa: F401  # a fixture

ODD = "a\x1b[31mb\u202ec\nd\x07"
SHOWN = r"a\x1b[31mb\u202ec\nd\x07"


def test_what_cannot_be_seen_is_escaped():
    assert terminal.printable("conv1.weight é 层") == "conv1.weight é 层"
    assert terminal.printable(ODD) == SHOWN
    assert terminal.printable("\ud800\u200b\u2028\x9b") == r"\ud800\u200b\u2028\x9b"


COMMANDS = {
    "analyze": ("analyze chain.onnx --json r.json --html r.html", ["r.json", "r.html"]),
    "clip": ("clip chain.onnx --max-norm 1 --output o.onnx --json r.json", ["o.onnx", "r.json"]),
    "compare": ("compare chain.onnx chain.onnx --json r.json", ["r.json"]),
    "lipschitz": ("lipschitz chain.onnx --points 0 --json r.json", ["r.json"]),
    "demo": ("demo", ["convspectra-demo.html"]),
}


def closed_pipe():
    """The end to write into of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("name", COMMANDS)
def test_files_are_written_whatever_becomes_of_the_terminal(name, chain, tmp_path):  # noqa: F811
    line, files = COMMANDS[name]
    arguments = line.split()

    def written():
        found = [path.stat().st_size > 100 for path in map(tmp_path.joinpath, files)]
        for path in map(tmp_path.joinpath, files):
            path.unlink()
        return all(found)

    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = forked(*arguments, cwd=tmp_path, stdout=full.fileno())
    assert written()
    assert done.returncode == 3
    lines = done.stderr.decode().splitlines()
    assert lines[-1] == "convspectra: standard output cannot be written: No space left on device"
    writer = closed_pipe()
    done = forked(*arguments, cwd=tmp_path, stdout=writer)
    os.close(writer)
    assert written()
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr
    assert b"Broken" not in done.stderr


@pytest.mark.parametrize("name", ["analyze", "clip", "compare", "lipschitz"])
def test_standard_output_is_one_report_and_nothing_else(name, chain, tmp_path):  # noqa: F811
    arguments = COMMANDS[name][0].replace("r.json", "-").split()
    done = forked(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["layers" if name != "lipschitz" else "nodes"]
    assert b"wrote -" not in done.stderr
    assert not (tmp_path / "-").exists()
    if name == "clip":
        arguments.append("--overwrite")
    line = f"'{sys.executable}' -m convspectra {' '.join(arguments)} >&-"
    with open("/dev/full", "w") as full:  # noqa: PTH123
        on_a_full_disk = forked(*arguments, cwd=tmp_path, stdout=full.fileno())
    writer = closed_pipe()
    for done, status in (
        (on_a_full_disk, 3),
        (subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, timeout=300, check=False), 3),
        (forked(*arguments, cwd=tmp_path, stdout=writer), 0),
    ):
        assert done.returncode == status, done.stderr
        assert (b"standard output cannot be written" in done.stderr) == bool(status)
        assert b"Traceback" not in done.stderr
    os.close(writer)


def test_standard_output_takes_every_format_of_one_file(chain, tmp_path):  # noqa: F811
    for name, start in (("csv", b"name,kind"), ("npz", b"PK"), ("html", b"<!DOCTYPE html>")):
        done = forked("analyze", "chain.onnx", f"--{name}", "-", "--json", "r.json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(start)
        assert done.stderr == b"wrote r.json\n"
    figures = importlib.util.find_spec("matplotlib")  # without it that is what is said first
    for options, word in (
        (("--json", "-", "--csv", "-"), b"give two names"),
        (("--svg", "-"), b"--svg -" if figures else b"matplotlib"),
        (("--resume", "-"), b"--resume -"),
    ):
        done = forked("analyze", "chain.onnx", *options, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, b"")
        assert word in done.stderr
    done = forked("clip", "chain.onnx", "--max-norm", "1", "--output", "-", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"--output -" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"chain.onnx", "r.json"}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["info"], ["analyze", "--help"]])
def test_a_full_disk_is_one_line(arguments, tmp_path):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = fresh(*arguments, cwd=tmp_path, stdout=full)
    assert len(done.stderr.splitlines()) == 1
    assert b"No space left" in done.stderr


def test_standard_error_that_is_full_or_closed_loses_nothing(chain, tmp_path):  # noqa: F811
    for redirect in ("2>/dev/full", "2>&-", ">&- 2>&-"):
        line = f"'{sys.executable}' -m convspectra analyze chain.onnx --json r.json {redirect}"
        done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, timeout=300, check=False)
        assert done.returncode == 0
        assert json.loads((tmp_path / "r.json").read_text())["layers"]
        (tmp_path / "r.json").unlink()


def on_a_small_disk(size, line, cwd):
    """The command where no file can be larger than so many bytes."""
    run = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size})); "
        "from convspectra.cli import main; main()"
    )
    command = [sys.executable, "-c", run, *line.split()]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


def test_a_disk_without_room_for_checkpoints_is_one_line(chain, tmp_path):  # noqa: F811
    done = on_a_small_disk(500, "analyze chain.onnx --resume kept --json r.json", tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert ".npz cannot be written: File too large" in done.stderr
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_disk_that_is_full_for_one_file_gets_the_others(chain, tmp_path):  # noqa: F811
    """The larger file has no room: the smaller one is there, and the table is shown."""
    done = on_a_small_disk(100_000, "analyze chain.onnx --html r.html --json r.json --csv r.csv", tmp_path)
    assert done.returncode == 3
    assert "convspectra: r.html cannot be written: File too large" in done.stderr.splitlines()
    assert "layer0" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"chain.onnx", "r.json", "r.csv"}


def test_characters_that_the_terminal_lacks_are_escaped(tmp_path):
    kernel = np.ones((2, 2, 3, 3), np.float32)
    write_onnx(tmp_path / "層.onnx", [kernel], pads=[1] * 4)
    environment = os.environ | {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    done = fresh("analyze", "層.onnx", cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert rb"\u5c64.onnx" in done.stdout


def test_a_pipe_gets_names_whole_and_no_colours(tmp_path):
    long = "stage." + "block." * 40 + "conv"
    path = write_onnx(tmp_path / "m.onnx", [np.ones((2, 2, 3, 3), np.float32)], pads=[1] * 4)
    import onnx

    model = onnx.load(path)
    model.graph.initializer[0].name = model.graph.node[0].input[1] = f"{long}.weight"
    onnx.save(model, path)
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "NO_COLOR")}
    done = forked("analyze", "m.onnx", cwd=tmp_path, env=environment | {"COLUMNS": "80"})
    row = next(line for line in done.stdout.decode().splitlines() if line.startswith(long))
    assert "…" not in row
    assert "2x2x3x3" in row
    assert len(row) > 250
    assert b"\x1b" not in done.stdout


def odd_report():
    named = [
        layer(name, (2, 2, 3, 3), input_shape=(6, 6), padding=1) for name in (ODD, "[bold]x[/bold]", "=1+1")
    ]
    model = replace(mixed_model(), name=ODD, layers=(*named, *mixed_model().layers), notes=(ODD,))
    return analyze(model)


def test_names_with_control_characters_are_escaped_in_texts_and_pages(capsys):
    report = odd_report()
    assert terminal.show(partial(text.render, report))
    table = capsys.readouterr().out
    for rendered in (table, html.render(report)):
        assert SHOWN in rendered.replace("\\\\", "\\")
        assert not set(rendered) & set("\x1b\u202e\x07")
    assert "[bold]x[/bold]" in table
    file = io.BytesIO()
    json_file.write(report, file)
    assert json.loads(file.getvalue())["layers"][0]["name"] == ODD


def test_errors_are_one_line_without_control_characters(tmp_path):
    done = forked("analyze", ODD, cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert SHOWN.encode() in done.stderr
    assert b"\x1b" not in done.stderr


def test_no_cell_of_the_table_is_a_formula():
    names = ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "＝1", "plain", "a=b", "'x"]  # noqa: RUF001
    layers = tuple(layer(name, (2, 2, 3, 3), input_shape=(4, 4), padding=1) for name in names)
    file = io.BytesIO()
    table_files.write_csv(analyze(replace(mixed_model(), layers=layers)), file)
    rows = list(csv.DictReader(io.StringIO(file.getvalue().decode(), newline="")))
    assert [row["name"] for row in rows] == [f"'{name}" for name in names[:7]] + names[7:]


def test_names_that_are_no_unicode_are_written(tmp_path):
    model = replace(mixed_model(), layers=(layer("a\ud800", (2, 2, 3, 3), input_shape=(4, 4), padding=1),))
    report = analyze(model)
    from convspectra.report.files import write_all

    targets = {name: tmp_path / f"r.{name}" for name in ("json", "csv", "npz", "html")}
    assert list(write_all(report, targets, {})) == list(targets.values())
    assert json.loads((tmp_path / "r.json").read_text())["layers"][0]["name"] == "a\ud800"
