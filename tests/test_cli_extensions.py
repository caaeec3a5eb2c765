"""Commands of other distributions: found by entry point, imported when used, named where they are missing."""

from __future__ import annotations

from functools import partial
from importlib.metadata import EntryPoints

import pytest
from typer.testing import CliRunner

from commands import fresh
from convspectra.cli import extensions
from convspectra.cli.app import app
from test_cli import convspectra as in_a_process

convspectra = partial(in_a_process, start=fresh)  # the path is read when an interpreter starts


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A folder on the path with a distribution that adds two commands."""
    about = tmp_path / "greeting-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: greeting\nVersion: 1\n")
    (about / "entry_points.txt").write_text(
        "[convspectra.commands]\ngreet = greeting:greet\nabsent = no_such_module:absent\n"
    )
    (tmp_path / "greeting.py").write_text(
        "from convspectra.errors import InputError\n\n"
        "def greet(name: str, loud: bool = False) -> None:\n"
        '    """Greet somebody."""\n'
        '    if name == "nobody":\n        raise InputError("name must be somebody")\n'
        "    print(name.upper() if loud else name)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_a_command_of_another_distribution_is_one_of_ours(path):
    ran = convspectra("greet", "Ada", "--loud", cwd=path)
    assert (ran.returncode, ran.stdout) == (0, "ADA\n")
    assert "Greet somebody." in convspectra("greet", "--help", cwd=path).stdout
    refused = convspectra("greet", "nobody", cwd=path)
    assert (refused.returncode, refused.stderr) == (2, "convspectra: name must be somebody\n")


def test_one_that_cannot_be_imported_spoils_no_other(path):
    ran = convspectra("absent", cwd=path)
    assert ran.returncode == 2
    assert ran.stderr == (
        "convspectra: the command absent of greeting cannot be loaded: No module named 'no_such_module'\n"
    )
    assert convspectra("greet", "Ada", cwd=path).returncode == 0
    shown = convspectra("--help", cwd=path)
    assert shown.returncode == 0
    assert "Greet somebody." in shown.stdout


@pytest.mark.parametrize("name", ["experiment", "bench"])
@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_the_laboratory_is_named_where_it_is_not_installed(name, arguments, monkeypatch):
    monkeypatch.setattr(extensions, "entry_points", lambda **_: EntryPoints())
    ran = CliRunner().invoke(app, [name, *arguments])
    assert ran.exit_code == 2
    assert ran.stderr == (
        f"convspectra: the command {name} is part of convspectra-experiments, which is not installed; "
        "run pip install ./experiments in a checkout of convspectra\n"
    )
    shown = CliRunner().invoke(app, ["--help"]).stdout
    assert f"\n  {name} " not in shown
    assert "analyze" in shown
