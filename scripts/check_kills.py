"""Commands killed at random moments: nothing may be half written, and run again they end as if never killed.

    python scripts/check_kills.py --kills 1000 --seed 0 --out kills.json

Each case is one command in a folder of its own: killed up to three times (SIGKILL, SIGTERM or SIGINT, to the
process or to its whole group), then left to end. Case `i` of a seed draws the same command, signals and
moments. What is done is kept in `--out` after each case: stopped and started again with the same seed it
goes on where it was. Several seeds at once: `--merge FILE...` adds their results up. Exit status 1 if
anything was wrong; every fault is in `--out`. On Linux, as commands are forked off this process.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from convspectra import analysis, constrain  # noqa: F401  # imported once, for all forks
from convspectra.atomic import atomic
from convspectra.cli import app  # noqa: F401
from convspectra.cli import main as main_of_commands
from convspectra.cli.signals import INTERRUPTED
from convspectra.constrain import file as _file  # noqa: F401
from convspectra.models.formats.onnx import reader, writer  # noqa: F401
from convspectra.report import clip_text, compare_html, compare_text, html, lipschitz_text  # noqa: F401
from convspectra_experiments.studies import command, running
from convspectra_experiments.studies.catalogue import Planned
from convspectra_experiments.training.loop import train
from convspectra_experiments.training.settings import Control, Settings

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
LIMIT = 1200.0
"""Seconds by the clock after which a command hangs: some hundred times what one takes, as a busy machine
makes none hang."""

COMMANDS = {
    "analyze": "analyze m.onnx --resume kept --json r.json --csv r.csv --npz r.npz --html r.html",
    "clip": "clip m.onnx --max-norm 1 --output o.onnx --json r.json --overwrite",
    "compare": "compare m.onnx other.onnx --json r.json --html r.html",
    "experiment": "experiment figure2 --out out --device cpu",
    "experiment by two": "experiment figure2 --out out --device cpu --workers 2",
}
TINY = Settings(
    data="digits", depth=8, width=2, epochs=3, batch=24, epochs_per_decay=1, train_images=72, test_images=50
)
RUNS = [
    Planned(settings.control.label(), settings)
    for settings in (TINY, Settings(**{**vars(TINY), "control": Control("clip", 0.5, every=2)}))
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=COMMANDS, action="append", help="of the commands; default all")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--merge", type=Path, nargs="+", metavar="FILE", help="add up results; no kills")
    options = parser.parse_args()
    if options.merge:
        state = merged([json.loads(path.read_text()) for path in options.merge])
    else:
        state = campaign(options)
    if options.out:
        keep(state, options.out)
    for name, counts in state["commands"].items():
        print(f"{name:18} {', '.join(f'{count} {what}' for what, count in sorted(counts.items()))}")
    print(f"{state['kills']} kills in {state['seconds']:.0f} s, {len(state['faults'])} faults")
    for fault in state["faults"]:
        print(json.dumps(fault))
    return 1 if state["faults"] else 0


def campaign(options: argparse.Namespace) -> dict[str, Any]:
    """Cases until so many kills are counted."""
    state: dict[str, Any] = {"seeds": [options.seed], "cases": 0, "kills": 0, "seconds": 0.0}
    state |= {"commands": {}, "faults": []}
    if options.out and options.out.exists():
        found = json.loads(options.out.read_text())
        state = found if found.get("seeds") == [options.seed] else state
    prepare()
    names = options.only or list(COMMANDS)
    with tempfile.TemporaryDirectory() as place:
        references = {name: Reference(name, Path(place)) for name in names}
        while state["kills"] < options.kills:
            began, index = time.perf_counter(), state["cases"]
            chance = random.Random(f"{options.seed} {index}")
            name = chance.choice(names)
            counts = state["commands"].setdefault(name, {})
            folder = Path(place) / f"case{index}"
            for fault in case(references[name], folder, chance, counts, state):
                state["faults"].append({"seed": options.seed, "case": index, "command": name, "fault": fault})
                print(state["faults"][-1], flush=True)
            shutil.rmtree(folder, ignore_errors=True)
            state["cases"] += 1
            state["seconds"] += time.perf_counter() - began
            if options.out:
                keep(state, options.out)
            if index % 20 == 0:
                print(f"{state['kills']:>5} kills, {len(state['faults'])} faults", flush=True)
    return state


def keep(state: dict[str, Any], path: Path) -> None:
    with atomic(path) as file:
        file.write((json.dumps(state, indent=1) + "\n").encode())


def merged(states: list[dict[str, Any]]) -> dict[str, Any]:
    """Results of several seeds as one."""
    total: dict[str, Any] = {
        "seeds": [],
        "cases": 0,
        "kills": 0,
        "seconds": 0.0,
        "commands": {},
        "faults": [],
    }
    for state in states:
        for key in ("seeds", "cases", "kills", "seconds", "faults"):
            total[key] += state[key]
        for name, counts in state["commands"].items():
            sums = total["commands"].setdefault(name, {})
            for what, count in counts.items():
                sums[what] = sums.get(what, 0) + count
    if len(set(total["seeds"])) != len(total["seeds"]):
        raise SystemExit("results of one seed cannot be added up twice")
    return total


def prepare() -> None:
    """Set this process up so that a fork of it does what a new process would, on small data."""
    import sklearn.datasets

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as of a process that has not begun
    torch.set_num_threads(1)
    sklearn.datasets.load_digits()
    command.plan = lambda *arguments: RUNS
    running.train = partial(train, checkpoint_seconds=0)
    running.POLL_SECONDS = 0.05
    fork = multiprocessing.get_context("fork")
    running.multiprocessing.get_context = lambda method: fork
    running._process = worker
    # Processes whose parent was killed become children of this one, which so knows when they are gone.
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


_PROCESS = running._process


def worker(job: running.Job) -> None:
    """As one that was spawned, SIGTERM ends it at once."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _PROCESS(job)


class Reference:
    """A command, how long it takes and what it leaves behind when nobody disturbs it."""

    def __init__(self, name: str, place: Path) -> None:
        self.name, self.arguments = name, COMMANDS[name].split()
        folder = place / name.replace(" ", "-")
        self.make(folder)
        began = time.perf_counter()
        status, said = finish(start(self.arguments, folder), folder)
        self.seconds = time.perf_counter() - began
        assert status == 0, said
        self.files = contents(folder)

    def make(self, folder: Path) -> None:
        """The inputs of the command."""
        folder.mkdir()
        if "m.onnx" in self.arguments:
            write_model(folder / "m.onnx", 0)
            write_model(folder / "other.onnx", 1)
        if self.name == "clip":
            (folder / "o.onnx").write_bytes((folder / "m.onnx").read_bytes())


def write_model(path: Path, seed: int) -> None:
    """Eight convolutions, two of them equal."""
    rng = np.random.default_rng(seed)
    kernels = [rng.standard_normal((12, 12, 3, 3)).astype(np.float32) for _ in range(7)]
    kernels.append(kernels[0])
    helper, real = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"x{i + 1}"], name=f"n{i}", pads=[1] * 4)
        for i in range(len(kernels))
    ]
    ends = [helper.make_tensor_value_info(one, real, [1, 12, 16, 16]) for one in ("x0", f"x{len(kernels)}")]
    weights = [onnx.numpy_helper.from_array(kernel, f"w{i}") for i, kernel in enumerate(kernels)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())


def case(
    reference: Reference, folder: Path, chance: random.Random, counts: dict[str, int], state: dict[str, Any]
) -> list[str]:
    """What is wrong after some kills, and after the command was left to end."""
    reference.make(folder)
    before, faults = contents(folder), []
    for _ in range(chance.choice([1, 1, 2, 3])):
        number, group = chance.choice(SIGNALS), chance.random() < 0.5
        what = f"{signal.Signals(number).name}{' to the group' if group else ''}"
        earlier = contents(folder)  # what was killed before may have left something, for a run that ends
        process = start(reference.arguments, folder)
        time.sleep(chance.uniform(0, 1.05 * reference.seconds))
        with suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(process, number)
        status, said = finish(process, folder)
        state["kills"] += 1
        counts[what] = counts.get(what, 0) + 1
        if status == 0:
            counts["ended before"] = counts.get("ended before", 0) + 1
        allowed = {0, -number if number == signal.SIGKILL else INTERRUPTED}
        if not said:  # it had not begun
            allowed.add(-number)
        if status not in allowed or "Traceback" in said:
            faults.append(f"{what}: status {status}: {said[-2000:]}")
        # Workers are ended at once, and swept up after like the killed.
        orderly = number != signal.SIGKILL and reference.name != "experiment by two"
        for name, value in contents(folder).items():
            if name not in reference.files:
                faults += [f"{what}: {name} is left over"] if orderly and name not in earlier else []
            elif not name.startswith("out/") and value not in (before.get(name), reference.files[name]):
                faults.append(f"{what}: {name} is half written")
    status, said = finish(start(reference.arguments, folder), folder)
    found = contents(folder)
    if status != 0:
        faults.append(f"run again: status {status}: {said[-2000:]}")
    for name in sorted({*found, *reference.files}):
        if name not in found or name not in reference.files:
            faults.append(f"run again: {name} is {'left over' if name in found else 'missing'}")
        elif found[name] != reference.files[name]:
            faults.append(f"run again: {name} is another")
    return faults


def contents(folder: Path) -> dict[str, bytes]:
    """What is in each file, without what the clock wrote there."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "lock":
            found[path.relative_to(folder).as_posix()] = content(path, folder)
    return found


def content(path: Path, folder: Path) -> bytes:
    if path.suffix in (".json", ".jsonl"):
        text = path.read_text().replace(str(folder), "")
        lines = [text] if path.suffix == ".json" else text.splitlines()
        return json.dumps([timeless(json.loads(line)) for line in lines]).encode()
    if path.suffix == ".pt":
        state = torch.load(path, weights_only=True)
        return b"".join(tensor.numpy().tobytes() for tensor in state["model"].values())
    return path.read_bytes()


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: timeless(one) for name, one in value.items() if not name.endswith("seconds")}
    return [timeless(one) for one in value] if isinstance(value, list) else value


def start(arguments: list[str], folder: Path) -> int:
    """The command in a fork, the first process of a group of its own; the number of both."""
    folder.with_suffix(".said").write_text("")  # a process killed before it begins has said nothing
    process = os.fork()
    if process:
        with suppress(OSError):  # whichever of the two is first
            os.setpgid(process, process)
        return process
    status = 1
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        said = os.open(folder.with_suffix(".said"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        sys.argv = ["convspectra", *arguments]
        main_of_commands()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001  # whatever it is, it is told of
        traceback.print_exc()
    finally:
        os._exit(status)


def finish(process: int, folder: Path) -> tuple[int, str]:
    """Exit status, or minus the signal, and what was said; every process of the group is gone then."""
    end = time.monotonic() + LIMIT
    status = None
    while True:
        try:
            number, raw = os.waitpid(-process, os.WNOHANG)
        except ChildProcessError:
            break
        if number == process:
            status = os.waitstatus_to_exitcode(raw)
        elif number == 0:
            if time.monotonic() > end:
                os.killpg(process, signal.SIGKILL)
            time.sleep(0.002)
    if time.monotonic() > end:
        status = 999
    said = folder.with_suffix(".said").read_text(errors="replace")
    return (999 if status is None else status), said


if __name__ == "__main__":
    raise SystemExit(main())
