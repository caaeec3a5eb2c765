"""Functions of the core fit a screen; measured by `scripts/count_house.py`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "count_house.py"
NATIVE = SCRIPT.parents[1] / "src" / "convspectra" / "_native"

pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="the scripts are not beside the tests")

SOURCE = """
#define LOOP(i) \\
  for (int i = 0;;) {
namespace {
template <class T, int N> struct Box {
  T x = {}; // not a brace: }
  template <class U>
  void put(U from) {
    if (from) {
      x = from;
    }
  }
};
const char *text = "{";
int one() { return 1; }
} // namespace
"""


def functions(text):
    spec = importlib.util.spec_from_file_location("count_house", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(module.functions(text))


def test_functions_are_found_by_their_braces():
    assert functions(SOURCE) == [(7, 6), (15, 1)]
    assert functions(SOURCE.replace("x = from;", "x = from;\n" * 60)) == [(7, 66), (75, 1)]


@pytest.mark.skipif(not NATIVE.is_dir(), reason="README.md is not beside the tests")
def test_no_function_of_the_core_is_longer_than_sixty_lines():
    sources = [path for path in NATIVE.iterdir() if path.suffix in (".h", ".cpp")]
    lengths = {
        f"{path.name}:{line}": length
        for path in sources
        for line, length in functions(path.read_text("utf-8"))
    }
    assert len(lengths) > 100
    assert {where: length for where, length in lengths.items() if length > 60} == {}
