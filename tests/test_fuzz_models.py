"""A slice of the mutated files of `scripts/fuzz_models.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "fuzz_models.py"


@pytest.mark.slow
@pytest.mark.skipif(not SCRIPT.exists(), reason="README.md is not beside the tests")
def test_mutated_files_end_in_a_report_or_one_line(tmp_path):
    count = int(os.environ.get("CONVSPECTRA_FUZZ", "1000"))
    out = tmp_path / "fuzz.json"
    command = [sys.executable, str(SCRIPT), "--count", str(count), "--seed", "1", "--out", str(out)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=900,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    found = json.loads(out.read_text())
    assert found["signatures"] == {}
    assert found["done"] == count
    assert done.returncode == 0
