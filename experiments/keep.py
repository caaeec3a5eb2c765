"""Keep what a folder of experiments found in one file, without checkpoints: `python keep.py FROM TO.zip`."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

from convspectra.atomic import atomic


def keep(source: Path, target: Path) -> int:
    """Write every plan, what it names, and the files of its finished runs; how many runs the archive has.

    What an earlier archive has stays, and equal contents give equal bytes.
    """
    entries: dict[str, bytes] = {}
    if target.exists():
        with zipfile.ZipFile(target) as earlier:
            entries = {name: earlier.read(name) for name in earlier.namelist()}
    for path in source.glob("*.json"):
        plan = json.loads(path.read_text(encoding="utf-8"))
        if "experiment" not in plan:
            continue
        names = [path.name, *(plan[key] for key in ("bench", "spectra", "distances") if key in plan)]
        for folder in (Path(one["folder"]) for one in plan.get("runs", ())):
            if (source / folder / "result.json").is_file():
                names += [f"{folder}/{name}" for name in ("settings.json", "metrics.jsonl", "result.json")]
        entries |= {name: (source / name).read_bytes() for name in names}
    with atomic(target) as file, zipfile.ZipFile(file, "w") as archive:
        for name, content in sorted(entries.items()):
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED, 9)
    return sum(name.endswith("/result.json") for name in entries)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    print(f"{keep(*map(Path, sys.argv[1:]))} runs kept")
