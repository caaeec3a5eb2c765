"""Mutated model files through the readers, `analyze` and `clip`: each ends in a report or one line.

    python scripts/fuzz_models.py --count 1000000 --seed 0 --workers 2 --out fuzz.json

File `i` of a seed is always the same (but for the path of the decoy). What is done is kept in `--out` after
each chunk: stopped and started again with the same seed it goes on where it was. Counted by signature
(format, exception, place): exceptions that are no `InputError`, code that ran, was compiled or was imported,
files over 20 s of processor time (400 s by the clock: a busy machine makes no file slow) or 2 GB, files
opened outside of the model's folder (`fuzz_watch` says what may be opened).
Exit status 1 if there was any.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_mutations import DECOY, LINKS, Files, mutated, payloads, seeds
from fuzz_watch import Watch, forget_peak, peak

from convspectra.analysis import analyze
from convspectra.atomic import atomic
from convspectra.constrain import Limits
from convspectra.constrain.file import clip_file
from convspectra.errors import InputError
from convspectra.models import geometry_file, read_model
from convspectra.models.graphs import read_graph

SECONDS, MEMORY, CHUNK = 20, 2 * 2**30, 500
HANG = 20 * SECONDS
"""Seconds by the clock: what waits for ever takes no processor time."""

# Of all files; formats that take milliseconds a file have fewer.
SHARES = {
    "onnx": 0.15,
    "external": 0.08,
    "neighbour": 0.03,
    "safetensors": 0.24,
    "pytorch": 0.15,
    "legacy": 0.13,
    "pt2": 0.015,
    "tensorflow": 0.15,
    "toml": 0.055,
}
GRAPHS = ("onnx", "external", "pt2")
GRAPH_SHARE = 0.5
"""Of the files with a graph that are not analysed."""

WRITTEN = ("onnx", "external", "safetensors", "pytorch", "legacy")
CLIP_SHARE = 0.25
"""Of the analysed files of a format that is written: those that are also clipped."""

FAULTS = ("foreign", "code", "slow", "memory", "outside")


class _TooSlowError(KeyboardInterrupt):
    """An interruption, as readers turn any other exception into an error about the file."""


def run(kind: str, folder: Path, files: Files, *, whole: bool, graph: bool, clip: bool = False) -> None:
    """Read, and analyse and clip where asked."""
    path = folder / next(iter(files))
    if kind == "toml":
        geometry_file.load(folder / "m.toml")
    if graph:
        read_graph(path)
        return
    model = read_model(path, sample_shape=None if kind in ("onnx", "external", "pt2") else (2, 6, 6))
    if whole:
        analyze(model)
    if clip:
        output = folder / f"clipped{path.suffix}"
        clip_file(model, path, output, Limits(1.0, method="rescale"))
        read_model(output)


def place(folder: Path, files: Files) -> None:
    """The files of one model in an empty folder, with links that lead out beside them."""
    for old in folder.iterdir():
        old.unlink()
    for name, target in LINKS.items():
        (folder / name).symlink_to(target)
    for name, data in files.items():
        (folder / name).write_bytes(data)


@contextmanager
def alarms() -> Iterator[None]:
    """End what takes too long."""

    def too_slow(*_: object) -> None:
        raise _TooSlowError

    timers = {signal.ITIMER_PROF: SECONDS, signal.ITIMER_REAL: HANG}
    before = {alarm: signal.signal(alarm, too_slow) for alarm in (signal.SIGPROF, signal.SIGALRM)}
    try:
        for timer, seconds in timers.items():
            signal.setitimer(timer, seconds)
        yield
    finally:
        for timer in timers:
            signal.setitimer(timer, 0)
        for alarm, handler in before.items():
            signal.signal(alarm, handler)


def one(
    watch: Watch, kind: str, folder: Path, files: Files, **how: bool
) -> tuple[str, list[tuple[str, str]]]:
    """How one file ends: `read`, `refused` or a fault, and its faults with their signatures."""
    place(folder, files)
    forget_peak()
    error, end, began, clock = None, "read", time.process_time(), time.monotonic()
    watch.begin()
    try:
        with alarms():
            run(kind, folder, files, **how)
    except InputError:
        end = "refused"
    except BaseException as raised:  # noqa: BLE001  # what is looked for
        error = raised
    finally:
        faults = list(watch.end())
    # Whatever became of the alarm, which a coarse clock may ring a little early.
    over = time.process_time() - began > SECONDS or time.monotonic() - clock > HANG
    if over or isinstance(error, _TooSlowError):
        faults.append(("slow", _place(error)))
    elif error is not None:
        faults.append(("foreign", f"{type(error).__name__} {_place(error)}"))
    if (folder / "marker").exists():
        faults.append(("code", "marker"))
    if peak() > MEMORY:
        faults.append(("memory", kind))
    return end if not faults else faults[0][0], faults


def _place(error: BaseException | None) -> str:
    own = [
        f for f in traceback.extract_tb(error.__traceback__ if error else None) if "convspectra" in f.filename
    ]
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "?"


def chunk(options: argparse.Namespace, start: int, stop: int, made: dict[str, Files]) -> dict[str, Any]:
    """The files `start` to `stop` of a seed, in this process."""
    warnings.simplefilter("ignore")
    if options.quiet:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    ends: Counter[str] = Counter()
    whole_count, graph_count, clip_count, faults = 0, 0, 0, []
    with tempfile.TemporaryDirectory() as name:
        folder, decoy = opened(Path(name))
        watch, code = Watch(folder, (decoy,)), payloads(folder)

        kinds = [kind for kind in SHARES if kind in made]
        share = np.array([SHARES[kind] for kind in kinds])
        for index in range(start, stop):
            rng = np.random.default_rng([options.seed, index])
            kind = str(rng.choice(kinds, p=share / share.sum()))
            whole = bool(rng.random() < options.analyze_share)
            graph = not whole and kind in GRAPHS and bool(rng.random() < GRAPH_SHARE)
            # A generator of its own, so that file `i` of a seed stays what it was.
            clip = (
                whole
                and kind in WRITTEN
                and np.random.default_rng([options.seed, index, 1]).random() < CLIP_SHARE
            )
            files = mutated(rng, kind, made[kind], code, str(decoy))
            end, found = one(watch, kind, folder, files, whole=whole, graph=graph, clip=clip)
            ends[f"{kind} {end}"] += 1
            whole_count += whole
            clip_count += clip
            graph_count += graph
            for fault, what in found:
                faults.append({"fault": fault, "signature": f"{kind} {what}", "index": index})
                if options.keep:
                    target = options.keep / f"{fault}-{index}"
                    target.mkdir(parents=True, exist_ok=True)
                    for file, data in files.items():
                        (target / file).write_bytes(data)
    return {
        "ends": dict(ends),
        "analysed": whole_count,
        "graphs": graph_count,
        "clipped": clip_count,
        "faults": faults,
    }


def opened(parent: Path) -> tuple[Path, Path]:
    """An empty folder for models, and the decoy outside of it."""
    folder = parent / "model"
    decoy = (folder / DECOY).resolve()
    folder.mkdir()
    decoy.parent.mkdir()
    decoy.write_bytes(bytes(4096))
    return folder, decoy


def _commit() -> str:
    """Of the code that is tried; `+` where files differ from it."""
    said = ["git", "-C", str(Path(__file__).parent)]
    found = subprocess.run([*said, "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout
    changed = subprocess.run(
        [*said, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=False
    ).stdout
    return found.strip() + "+" * bool(changed)


def in_children(options: argparse.Namespace, start: int, made: dict[str, Files]) -> Iterator[tuple[int, Any]]:
    """Chunks in processes that are forked for each; one that dies is itself a fault."""
    running: dict[int, tuple[int, int, float]] = {}
    while start < options.count or running:
        while start < options.count and len(running) < options.workers:
            stop = min(start + CHUNK, options.count)
            out, into = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(out)
                resource.setrlimit(resource.RLIMIT_AS, (24 * 2**30, 24 * 2**30))
                with os.fdopen(into, "w") as pipe:
                    json.dump(chunk(options, start, stop, made), pipe)
                os._exit(0)
            os.close(into)
            running[out] = (start, stop, time.time())
            start = stop
        out = min(running, key=lambda fd: running[fd][0])
        first, stop, _ = running.pop(out)
        with os.fdopen(out) as pipe:
            text = pipe.read()
        os.wait()
        fault = {"fault": "foreign", "signature": "the process died", "index": first}
        yield (
            stop,
            json.loads(text)
            if text
            else {"ends": {}, "analysed": 0, "graphs": 0, "clipped": 0, "faults": [fault]},
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--analyze-share", type=float, default=0.2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--keep", type=Path, help="folder for the files that show a fault")
    parser.add_argument("--quiet", action="store_true", help="nothing of what libraries print")
    options = parser.parse_args()
    state: dict[str, Any] = {
        "seed": options.seed,
        "commit": _commit(),
        "done": 0,
        "analysed": 0,
        "graphs": 0,
        "clipped": 0,
        "seconds": 0.0,
        "ends": {},
        "signatures": {},
        **dict.fromkeys(FAULTS, 0),
    }
    if options.out and options.out.exists():
        kept = json.loads(options.out.read_text())
        if any(kept[name] != state[name] for name in ("seed", "commit")):
            parser.error(f"{options.out} is of seed {kept['seed']} and commit {kept['commit']}: take another")
        state = kept
    with tempfile.TemporaryDirectory() as name:
        folder, _ = opened(Path(name))
        made = seeds(folder.parent)
        # Imports of the readers are done once, before the children are forked.
        for kind, files in made.items():
            place(folder, files)
            run(kind, folder, files, whole=True, graph=False, clip=kind in WRITTEN)
            if kind in GRAPHS:
                run(kind, folder, files, whole=False, graph=True)
    sys.dont_write_bytecode = True
    began = time.perf_counter()
    for stop, result in in_children(options, state["done"], made):
        state["done"] = stop
        for name in ("analysed", "graphs", "clipped"):
            state[name] += result[name]
        ends = Counter(state["ends"])
        ends.update(result["ends"])
        state["ends"] = dict(sorted(ends.items()))
        for fault in result["faults"]:
            state[fault["fault"]] += 1
            first = state["signatures"].setdefault(
                f"{fault['fault']} {fault['signature']}", [0, fault["index"]]
            )
            first[0] += 1
        state["seconds"] += time.perf_counter() - began
        began = time.perf_counter()
        if options.out:
            with atomic(options.out) as file:
                file.write(json.dumps(state, indent=1).encode())
        if stop % (20 * CHUNK) == 0 or stop == options.count:
            found = ", ".join(f"{fault} {state[fault]}" for fault in FAULTS)
            print(
                f"{stop:>8} files, {state['analysed']} analysed, {state['seconds']:.0f} s; {found}",
                flush=True,
            )
    for signature, (count, index) in sorted(state["signatures"].items()):
        print(f"{count:>6} {signature} (first: {index})")
    return 1 if any(state[fault] for fault in FAULTS) else 0


if __name__ == "__main__":
    raise SystemExit(main())
