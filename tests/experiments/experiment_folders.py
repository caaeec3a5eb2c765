"""Folders of experiments as a run leaves them, with made-up numbers."""

from __future__ import annotations

import json
import math

from convspectra_experiments.training.settings import Control, Settings

ODD = "<b>\"odd\" & 'name'</b> $x_1$"
ABOUT = {
    "versions": {"convspectra": "0", "torch": "2"},
    "machine": {"processor": "<i>Processor</i> & sons", "cores": 2, "device": "cpu"},
    "threads": 2,
    "parameters": 12345,
    "data": "digits of scikit-learn, 8x8",
}


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def epochs_of(errors, losses=None, layers=(), control=0.25, seconds=1.0):
    """Lines of metrics.jsonl; test errors as given."""
    for index, error in enumerate(errors):
        yield {
            "epoch": index + 1,
            "step": 10 * (index + 1),
            "rate": 0.1,
            "train_loss": losses[index] if losses else 2 * error,
            "train_error": error,
            "test_loss": 2 * error,
            "test_error": error,
            "seconds": seconds,
            "control_seconds": control,
            "test_seconds": 0.5,
            "total_seconds": seconds * (index + 1),
            "layers": [
                {
                    "name": name,
                    "largest": 3 / (1 + depth) + 0.2 * math.sin(index + depth),
                    "smallest": 0.01 * (1 + depth) / (1 + index),
                    "gradient_norm": 0.5 * 0.9**index * (1 + 0.3 * depth),
                }
                for depth, name in enumerate(layers)
            ],
        }


def result_of(error, status="done", attack=(), epochs=3, largest=1.5, lipschitz=None):
    return {
        "status": status,
        "epochs": epochs,
        "steps": 10 * epochs,
        "train_loss": None if status == "diverged" else 2 * error,
        "test_error": error,
        "test_loss": 2 * error,
        "seconds": float(epochs),
        "control_seconds": 0.25 * epochs,
        "largest_norm": largest,
        "layers": [{"name": "stem", "norm": largest}],
        "lipschitz": lipschitz,
        "attacked_images": 200 if attack else None,
        "attack": [{"radius": r, "error": e, "certified": c} for r, e, c in attack],
    }


def run(out, settings, errors=(), result=None, group=None, tail="", **options):
    """Write one run's folder; returns its entry in a plan. Without errors nothing is written."""
    folder = f"runs/{settings.name()}"
    place = out / folder
    if errors:
        write(place / "settings.json", {"settings": settings.to_dict(), **ABOUT})
        lines = "".join(json.dumps(line) + "\n" for line in epochs_of(errors, **options))
        (place / "metrics.jsonl").write_text(lines + tail)
    if result is not None:
        write(place / "result.json", result)
    return {"group": group or settings.control.label(), "seed": settings.seed, "folder": folder}


def plan(out, name, runs=None, **more):
    command = f"convspectra experiment {name} --preset small --out {out}"
    found = {"experiment": name, "preset": "small", "command": command, **more}
    if runs is not None:
        found["runs"] = runs
    write(out / f"{name}.json", found)


def clipped(limit, seed=0, **options):
    """Settings of a run clipped every 100 steps, or not at all."""
    control = Control() if limit is None else Control("clip", limit)
    return Settings(data="digits", depth=8, width=4, epochs=3, control=control, seed=seed, **options)


def figure2(out):
    """Three groups: two finished seeds; one diverged, one under way; one that has not started."""
    runs = [
        run(out, clipped(None), [0.5, 0.2, 0.10], result_of(0.10)),
        run(out, clipped(None, 1), [0.6, 0.3, 0.14], result_of(0.14, largest=2.5)),
        run(out, clipped(0.5), [0.9, 0.9], result_of(0.9, "diverged", epochs=2), losses=[None, math.nan]),
        run(out, clipped(0.5, 1), [0.4], seconds=2.0, tail='{"epoch": 2, "st'),
        run(out, clipped(1.0)),
    ]
    plan(out, "figure2", runs)
    return runs


def bench(out):
    curves = {
        "3x3 on 16x16": {
            "dense matrix": [[4, 0.1], [8, 1.1]],
            "two lines, NumPy": [[4, 0.002], [8, 0.006], [16, 0.02]],
            "two lines, torch": [[4, 0.002], [8, 0.004], [16, 0.01]],
            "half grid, LAPACK": [[4, 0.001], [8, 0.003], [16, 0.008]],
            "convspectra": [[4, 0.0002], [8, 0.0006], [16, 0.002]],
        },
        "11x11 on 64x64": {"convspectra": [[4, 0.002], [8, 0.006]]},
    }
    machine = {"convspectra": "0", "solver": "native", "threads": 2, "processor": "Processor"}
    write(out / "bench.json", {"machine": machine, "rows": [], "scaling": [], "memory": [], "curves": curves})
    plan(out, "figure1", bench="bench.json")
