"""The house keeps its promises: what an import brings, which room may see which, what is shipped."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import convspectra

PACKAGE = Path(convspectra.__file__).parent
SOURCES = {".".join(p.relative_to(PACKAGE).with_suffix("").parts): p for p in PACKAGE.rglob("*.py")}
ROOT = Path(__file__).parents[1]


def imported_modules(statement):
    code = f"import sys; before = set(sys.modules); {statement}; print(*sorted(set(sys.modules) - before))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600
    )
    return {name.split(".")[0] for name in result.stdout.split()}


def test_importing_the_package_imports_numpy_and_nothing_heavier():
    brought = imported_modules("import convspectra") - set(sys.stdlib_module_names)
    brought = {name for name in brought if not name.startswith("_")}
    assert brought <= {"convspectra", "numpy", "array_api_compat", "threadpoolctl"}


def test_the_command_is_imported_where_there_are_no_locks_and_no_hangups():
    """As on Windows."""
    without = (
        "import sys, signal, runpy; sys.modules['fcntl'] = None; sys.argv[1:] = ['--version']\n"
        "for name in ('SIGHUP', 'SIGALRM', 'ITIMER_REAL', 'setitimer'): delattr(signal, name)\n"
        "runpy.run_module('convspectra', run_name='__main__')"
    )
    result = subprocess.run(
        [sys.executable, "-c", without], capture_output=True, text=True, check=False, timeout=600
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("convspectra ")


def test_heavy_names_are_imported_on_first_use():
    code = """
import sys, convspectra as cs
heavy = {"convspectra.analysis", "convspectra.models", "convspectra.network"}
assert not heavy & set(sys.modules)
assert {"analyze", "read_model", "lipschitz"} <= set(dir(cs))
assert all(map(callable, (cs.analyze, cs.read_model, cs.lipschitz, cs.read_graph)))
assert heavy <= set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)
    with pytest.raises(AttributeError, match="nothing"):
        convspectra.nothing  # noqa: B018


def test_the_public_face_is_small_and_documented():
    assert len(convspectra.__all__) <= 40
    assert convspectra.__all__ == sorted(convspectra.__all__)
    for name in convspectra.__all__:
        assert getattr(convspectra, name).__doc__ or name == "__version__"


def imports_of(path, root=PACKAGE):
    """Absolute names of what a file of a package imports, also when it is called."""
    package = [root.name, *path.relative_to(root).parts[:-1]]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{stem}.{alias.name}" for alias in node.names)


def users_of(prefix):
    return {
        name
        for name, path in SOURCES.items()
        if any(module == prefix or module.startswith(f"{prefix}.") for module in imports_of(path))
    }


def test_one_door_to_the_array_libraries():
    assert users_of("array_api_compat") == {"_compat"}


def test_the_oracle_shares_no_code_with_what_it_checks():
    own = {
        module for module in imports_of(SOURCES["operators.reference"]) if module.startswith("convspectra")
    }
    assert {module.split(".")[1] for module in own} <= {"_compat", "errors", "geometry"}
    assert users_of("convspectra.operators.reference") == set()


# From the ground up; a room sees the floors below its own, and nothing beside or above it.
FLOORS = (
    ("_native", "_version", "demo", "errors"),
    ("_compat", "atomic", "checks"),
    ("compute", "geometry", "transforms"),
    ("cost",),
    ("operators", "symbol"),
    ("_solvers", "results"),
    ("rounding",),
    ("problem",),
    ("supremum",),
    ("grid_search", "sampled"),
    ("spectrum",),
    ("bounds", "functions"),
    ("guarantee", "krylov"),
    ("projection",),
    ("penalties", "published"),
    ("models",),
    ("work",),
    ("analysis", "network"),
    ("constrain",),
    ("torch",),
    ("report",),
    ("cli",),
)


@pytest.mark.parametrize("name", sorted(set(SOURCES) - {"__init__", "__main__"}))
def test_imports_go_one_way(name):
    level = {room: i for i, floor in enumerate(FLOORS) for room in floor}
    room = name.split(".")[0]
    for module in imports_of(SOURCES[name]):
        parts = module.split(".")
        if parts[0] != "convspectra" or parts[1] == room:
            continue
        assert level[parts[1]] < level[room], f"{name} imports {module}"


def test_only_the_readers_and_writers_of_a_format_import_its_library():
    assert users_of("onnx") <= {name for name in SOURCES if name.startswith("models.formats.onnx.")}
    assert users_of("safetensors") <= {"models.formats.safetensors.reader"}
    assert users_of("pyarrow") == {"report.table_files"}
    assert users_of("matplotlib") == {"report.pictures"}
    torch_rooms = ("models.formats.pytorch.", "models.formats.torch_export.", "torch.")
    assert users_of("torch") <= {name for name in SOURCES if name.startswith(torch_rooms)} | {
        "models.live",
        "models.modules",
        "network.jacobian",
        "network.gains",
        "_compat",
        "_solvers.choice",
        "transforms",
    }
    assert users_of("jax") == set()
    assert users_of("convspectra_experiments") == set()


def test_what_the_package_reads_is_shipped():
    files = [
        "py.typed",
        "demo/digits.onnx",
        *(f"report/schema/{name}-1.schema.json" for name in ("report", "clip", "comparison", "lipschitz")),
        *(f"report/page/{name}" for name in ("page.html", "page.css", "page.js", "echarts.min.js.xz")),
    ]
    assert [name for name in files if not (PACKAGE / name).is_file()] == []


def test_no_file_of_the_package_names_a_machine():
    for path in PACKAGE.rglob("*"):
        if path.suffix in {".py", ".js", ".css", ".html", ".json"}:
            found = re.findall(
                r"(?:/home/|/root/|/work/|/tmp/|C:\\\\Users)", path.read_text(encoding="utf-8")
            )
            assert found == [], path


PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


@pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="README.md is not beside the tests")
class TestPages:
    def test_the_readme_holds_the_two_commands(self):
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        assert re.findall(r"<!-- command -->\n```sh\n(.+)\n```", text) == [
            "pip install . && convspectra demo",
            'pip install -c constraints.txt -e ".[test]" -e "./experiments[cluster]" && pytest',
        ]

    def test_the_readme_fits_a_screen_or_two(self):
        assert len((ROOT / "README.md").read_text(encoding="utf-8")) < 6000

    @pytest.mark.slow
    @pytest.mark.parametrize("page", ["README.md", "docs/python.md", "docs/training.md"])
    def test_python_of_a_page_runs_as_it_stands(self, page, tmp_path):
        text = (ROOT / page).read_text(encoding="utf-8")
        blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
        assert blocks
        script = tmp_path / "readme.py"
        script.write_text("\n".join(blocks))
        result = subprocess.run(
            [sys.executable, "-W", "error", script],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            timeout=600,
        )
        assert result.returncode == 0, result.stderr

    @pytest.mark.parametrize("page", PAGES)
    def test_links_of_a_page_lead_somewhere(self, page):
        path = ROOT / page
        for target in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
            assert target.startswith("http") or (path.parent / target.split("#")[0]).exists(), target


@pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="README.md is not beside the tests")
def test_the_oldest_versions_that_are_tested_are_those_that_are_allowed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *(one for name in extras if name != "docs" for one in extras[name])]
    allowed = dict(line.split(">=") for line in lines if ">=" in line)
    tested = dict(
        re.findall(r"^([\w-]+)==(.+)$", (ROOT / "constraints-oldest.txt").read_text(), re.MULTILINE)
    )
    for name in allowed.keys() - {"mypy", "ruff"}:
        assert re.fullmatch(rf"{re.escape(allowed[name])}(\.0)*", tested[name]), name
