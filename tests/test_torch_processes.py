"""Two processes do what one does: real ones, started by torchrun, over gloo."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from convspectra.torch import sharing  # noqa: E402

if not torch.distributed.is_available():
    pytest.skip("torch.distributed is not in this build", allow_module_level=True)

pytestmark = pytest.mark.slow  # three interpreters that import PyTorch

SCENARIOS = [
    "replicated-clip",
    "replicated-project",
    "sharded-rescale",
    "nan_on_one-rescale",
    "differs_on_one-rescale",
    "failing_owner-rescale",
    "sizes_differ-rescale",
    "statistics_differ-rescale",
    "statistics_differ-project",
]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What became of all scenarios, run by one pair of processes: starting them takes the longest."""
    folder = tmp_path_factory.mktemp("processes")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    program = Path(__file__).with_name("torch_processes.py")
    result = subprocess.run(
        [*command, program, folder, *SCENARIOS], capture_output=True, text=True, timeout=600, check=False
    )
    found = {path.name: path.read_text() for path in folder.iterdir()}
    return found, result.stdout + result.stderr


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("rank", [0, 1])
def test_two_processes(outcomes, scenario, rank):
    found, output = outcomes
    assert f"{scenario}-{rank}" in found, output
    assert found[f"{scenario}-{rank}"] == ""


def test_work_is_shared_out_by_cost():
    assert sharing.owners([1, 8, 3, 4, 1], 2) == [1, 0, 1, 1, 0]
    assert sharing.owners([2, 2, 2], 1) == [0, 0, 0]
    assert sharing.owners([], 3) == []


def test_one_process_talks_to_nobody():
    assert (sharing.processes(), sharing.rank(), sharing.gathered("x")) == (1, 0, ["x"])
