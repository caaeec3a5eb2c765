"""The watch of `scripts/fuzz_models.py` sees what is planted, and nothing in what libraries do."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"

# Planted readers, and the fault that each is counted as; in a process of their own, as an audit hook stays.
CASES = {
    "nothing": ("pass", None),
    "own file": ("(folder / 'm.bin').read_bytes()", None),
    "table of the system": ("Path('/proc/self/status').read_bytes()", None),
    "a library's module": ("Path(np.__file__).read_bytes()", None),
    "a library's source": ("dataclasses.make_dataclass('A', ['a'])", None),
    "passwd": ("Path('/etc/passwd').read_bytes()", "outside /etc/passwd"),
    "descriptor": ("os.close(os.open('/etc/passwd', os.O_RDONLY))", "outside /etc/passwd"),
    "environment": ("Path('/proc/self/environ').read_bytes()", "outside /proc/"),
    "upwards": ("(folder / DECOY).read_bytes()", "outside "),
    "link": ("(folder / 'link.bin').read_bytes()", "outside "),
    "linked folder": ("(folder / 'folder' / 'secret.bin').read_bytes()", "outside "),
    "listing": ("list(folder.parent.iterdir())", "outside "),
    "by a compiled library": (
        "libc.fclose(ctypes.c_void_p(libc.fopen(bytes(folder / 'link.bin'), b'r')))",
        "outside decoy",
    ),
    "writes in a library": ("(Path(np.__file__).parent / 'made_up').mkdir()", "outside "),
    "exec": ("exec((folder / 'code.txt').read_text())", "code compile <string>"),
    "compile": ("compile((folder / 'code.txt').read_text(), 'x', 'exec')", "code compile x"),
    "class of a pickle": ("pickle.loads(b'cos\\nsystem\\n.')", "code pickle os.system"),
    "module by name": ("importlib.import_module('planted_module')", "code import planted_module"),
    "module beside": ("sys.path.insert(0, str(folder)); import planted", "code import planted"),
    "program": ("subprocess.run(['true'])", "code subprocess.Popen"),
    "library": ("ctypes.CDLL('libm.so.6')", "code ctypes.dlopen"),
}
PROGRAM = """
import ctypes, dataclasses, importlib, json, os, pickle, subprocess, sys, tempfile
from pathlib import Path
import numpy as np
from fuzz_models import opened, place
from fuzz_mutations import DECOY
from fuzz_watch import Watch, forget_peak, peak

with tempfile.TemporaryDirectory() as name:
    folder, decoy = opened(Path(name))
    place(folder, {"m.bin": b"1", "code.txt": b"1 + 1", "planted.py": b"found = 1"})
    watch, found = Watch(folder, (decoy,)), {}
    libc = ctypes.CDLL(None)
    libc.fopen.restype = ctypes.c_void_p
    sys.dont_write_bytecode = True
    for case, source in json.loads(sys.argv[1]).items():
        code = compile(source, __file__, "exec")
        run = __import__("types").FunctionType(code, globals())
        watch.begin()
        try:
            run()
        except (ImportError, OSError):
            pass
        found[case] = [" ".join(one) for one in watch.end()]
    forget_peak()
    before = peak()
    b"a" * 2**28
    after = peak()
    forget_peak()
    print(json.dumps([found, before, after, peak()]))
"""


@pytest.fixture(scope="module")
def found():
    sources = json.dumps({name: source for name, (source, _) in CASES.items()})
    program = Path(__file__).with_name("planted.py")
    command = [sys.executable, "-c", f"__file__ = {str(program)!r}\n{PROGRAM}", sources]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=SCRIPTS)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(not SCRIPTS.exists(), reason="the scripts are not beside the tests")
@pytest.mark.parametrize("case", CASES)
def test_what_is_planted_is_counted_and_nothing_else(case, found):
    wanted, seen = CASES[case][1], found[0][case]
    if wanted is None:
        assert seen == []
    else:
        assert any(one.startswith(wanted) for one in seen), seen


@pytest.mark.skipif(not SCRIPTS.exists(), reason="the scripts are not beside the tests")
def test_the_peak_of_memory_is_that_of_one_file(found):
    _, before, after, again = found
    assert after - before > 2**27
    assert again - before < 2**27


@pytest.mark.skipif(not SCRIPTS.exists(), reason="the scripts are not beside the tests")
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_ways_out_are_among_the_mutations(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import numpy as np
    from fuzz_mutations import mutated, payloads, seeds

    made, code = seeds(tmp_path), payloads(tmp_path)
    rng = np.random.default_rng(0)
    outs = {
        kind: b"".join(
            b"".join(mutated(rng, kind, made[kind], code, "/decoy").values()) for _ in range(count)
        )
        for kind, count in (("external", 200), ("pt2", 400), ("pytorch", 200), ("legacy", 300))
        if kind in made
    }
    for way in (b"/etc/passwd", b"../outside/secret.bin", b"link.bin", b"/decoy", b"/proc/self/environ"):
        assert way in outs["external"], way
        assert "pt2" not in outs or way in outs["pt2"], way
    for kind in outs.keys() & {"pytorch", "legacy", "pt2"}:
        for call in (b"system", b"PosixPath", b"planted_module", b"fromfile", b"marker", b"secret.bin"):
            assert call in outs[kind], (kind, call)


@pytest.mark.skipif(not SCRIPTS.exists(), reason="the scripts are not beside the tests")
@pytest.mark.parametrize(
    ("reader", "limits", "slow"),
    [
        ("busy", (0.05, 60), True),
        ("busy in a reader", (0.05, 60), True),
        ("waits", (0.05, 60), False),
        ("waits", (60, 0.05), True),
    ],
)
def test_processor_time_makes_a_file_slow_and_the_clock_only_one_that_hangs(
    reader, limits, slow, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import fuzz_models

    from convspectra.models.reading import reading

    def run(*_: object, **__: object) -> None:
        if reader == "waits":
            time.sleep(0.3)
        else:
            with reading(tmp_path) if reader == "busy in a reader" else nullcontext():
                sum(i for i in range(10**8))

    watch = SimpleNamespace(begin=lambda: None, end=lambda: ())
    monkeypatch.setattr(fuzz_models, "run", run)
    monkeypatch.setattr(fuzz_models, "SECONDS", limits[0])
    monkeypatch.setattr(fuzz_models, "HANG", limits[1])
    monkeypatch.setattr(fuzz_models, "MEMORY", 2**62)  # the tests before may have taken any amount
    end, faults = fuzz_models.one(watch, "onnx", tmp_path, {"m.onnx": b""})
    assert (end == "slow", [fault for fault, _ in faults]) == (slow, ["slow"] * slow)
