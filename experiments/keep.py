"""Copy the finished runs of a folder of experiments, without checkpoints: `python keep.py FROM TO`."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

KEPT = ("settings.json", "metrics.jsonl", "result.json")


def keep(source: Path, target: Path) -> int:
    """Copy every plan, and each finished run's files that are not there yet; how many runs were copied."""
    target.mkdir(parents=True, exist_ok=True)
    copied = 0
    for path in sorted(source.glob("*.json")):
        plan = json.loads(path.read_text(encoding="utf-8"))
        if "runs" not in plan:
            continue
        shutil.copyfile(path, target / path.name)
        for folder in (Path(one["folder"]) for one in plan["runs"]):
            if not (source / folder / "result.json").is_file() or (target / folder / "result.json").is_file():
                continue
            (target / folder).mkdir(parents=True, exist_ok=True)
            for name in KEPT:  # the result last: it says that the others are there
                shutil.copyfile(source / folder / name, target / folder / name)
            copied += 1
    return copied


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    print(f"{keep(*map(Path, sys.argv[1:]))} runs copied")
