"""The distribution of the experiments: its rooms, its version, what it ships, what it does not import."""

from __future__ import annotations

import tomllib
from importlib import resources
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import convspectra
import convspectra_experiments
from test_packaging import imported_modules, imports_of

PACKAGE = Path(convspectra_experiments.__file__).parent
SOURCES = {".".join(p.relative_to(PACKAGE).with_suffix("").parts): p for p in PACKAGE.rglob("*.py")}
PROJECT = tomllib.loads((Path(__file__).parents[2] / "experiments" / "pyproject.toml").read_text())["project"]

# From the ground up, as in the library.
FLOORS = ("data", "networks"), ("bench",), ("training",), ("studies",), ("report",), ("cli",)


@pytest.mark.parametrize("name", sorted(set(SOURCES) - {"__init__"}))
def test_imports_go_one_way(name):
    level = {room: i for i, floor in enumerate(FLOORS) for room in floor}
    room = name.split(".")[0]
    for module in imports_of(SOURCES[name], PACKAGE):
        parts = module.split(".")
        if parts[0] == "convspectra_experiments" and parts[1] != room:
            assert level[parts[1]] < level[room], f"{name} imports {module}"


def test_its_commands_import_nothing_heavy_before_they_run():
    brought = imported_modules("import convspectra_experiments.cli")
    assert not brought & {"torch", "matplotlib", "sklearn", "optuna", "onnx"}
    assert {point.name for point in entry_points(group="convspectra.commands")} >= {"bench", "experiment"}


def test_it_goes_with_this_version_of_the_library():
    assert PROJECT["version"] == convspectra.__version__
    assert f"convspectra[figures,torch]=={convspectra.__version__}" in PROJECT["dependencies"]


def test_what_it_reads_is_shipped():
    assert (resources.files("convspectra_experiments.report") / "page.css").is_file()
