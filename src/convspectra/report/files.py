"""Writing a report: every file whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ..atomic import atomic as atomic
from ..atomic import open_folder
from ..errors import InputError

if TYPE_CHECKING:
    from ..analysis import Report
    from ..comparison import Comparison
    from ..control import ClipReport
    from ..lipschitz import LipschitzReport

# Of which record, in which format -> the module of this package that writes it. By name, as a command has one
# of the records, and need not import what makes the others.
_WRITERS = {
    "Report": {
        "json": "json_file",
        "csv": "csv_file",
        "parquet": "parquet_file",
        "npz": "npz_file",
        "html": "html",
        "png": "pictures",
        "svg": "pictures",
    },
    "ClipReport": {"json": "clip_json"},
    "Comparison": {"json": "compare_json", "html": "compare_html", "png": "compare_pictures"},
    "LipschitzReport": {"json": "lipschitz_json", "png": "lipschitz_pictures", "svg": "lipschitz_pictures"},
}
_LIBRARIES = {"parquet": "pyarrow", "png": "matplotlib", "svg": "matplotlib"}
_EXTRAS = {"pyarrow": "parquet", "matplotlib": "figures", "torch": "torch"}

Targets = Mapping[str, Path | None]


def check_targets(files: Targets, folders: Targets) -> None:
    """Find out before the work whether all of it can be written.

    Raises:
        InputError: a file or folder that cannot be written, or a library that is missing; a file that is
            also another target.
    """
    taken: dict[Path, str] = {}
    for name, path in (*files.items(), *folders.items()):
        if path is not None:
            other = taken.setdefault(path.resolve(), name)
            if other != name and (other in files or name in files):
                raise InputError(f"--{other} and --{name} are both {path}; give two names")
    for name, path in files.items():
        if path is None:
            continue
        require(_LIBRARIES.get(name))
        if path.is_dir():
            raise InputError(f"--{name} {path} is a folder; give a file name")
        folder = path.absolute().parent
        if not folder.is_dir():
            raise InputError(f"--{name} {path} cannot be written: the folder {folder} does not exist")
        if not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
            raise InputError(f"--{name} {path} cannot be written: permission denied")
    for name, path in folders.items():
        if path is None:
            continue
        require(_LIBRARIES.get(name))
        nearest = path.absolute()
        while not nearest.exists():
            nearest = nearest.parent
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise InputError(f"--{name} {path} cannot be written: {nearest} is no folder one can write to")


def check_output(output: Path, model: Path, overwrite: bool, others: Iterable[Path | None] = ()) -> Path:
    """Find out before the work whether a changed model can be written.

    Arguments:
        others: what else will be written, which must be something else.

    Returns:
        Where to write: the file itself where `output` is a symbolic link to one.

    Raises:
        InputError: it cannot be; or it exists, or is the model itself, and nobody said to replace it.
    """
    if output.is_dir():
        raise InputError(f"--output {output} is a folder; give a file name")
    if any(other is not None and other.resolve() == output.resolve() for other in others):
        raise InputError(f"--output {output} is also where a report goes; give two names")
    if output.exists() and not overwrite:
        what = "is the model itself" if model.exists() and output.samefile(model) else "exists"
        raise InputError(f"--output {output} {what}; give another name, or --overwrite to replace it")
    target = output.resolve()
    if not target.parent.is_dir():
        raise InputError(f"--output {output} cannot be written: the folder {target.parent} does not exist")
    if not os.access(target.parent, os.W_OK) or (target.exists() and not os.access(target, os.W_OK)):
        raise InputError(f"--output {output} cannot be written: permission denied")
    return target


def require(library: str | None) -> None:
    """Raise the InputError of an optional library that is not installed."""
    if library is None:
        return
    try:
        import_module(library)
    except ImportError:
        extra = _EXTRAS[library]
        raise InputError(f"{library} is needed for this: pip install 'convspectra[{extra}]'") from None


def write_all(
    record: Report | ClipReport | Comparison | LipschitzReport, files: Targets, folders: Targets
) -> Iterator[Path | InputError]:
    """Write every target that is given; yields each path when it is complete.

    Yields the error of one that the disk refuses, and goes on: another may have room.
    """
    modules = _WRITERS[type(record).__name__]
    for name, path in files.items():
        if path is None:
            continue
        try:
            with atomic(path) as file:
                import_module(f".{modules[name]}", __package__).write(record, file)
        except InputError as error:
            yield error
        else:
            yield path
    for name, path in folders.items():
        if path is None:
            continue
        try:
            open_folder(path)
            yield from import_module(f".{modules[name]}", __package__).write_pictures(record, path, name)
        except InputError as error:
            yield error
