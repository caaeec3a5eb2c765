"""Writing a report: every file whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..atomic import atomic as atomic
from ..atomic import check_writable, open_folder
from ..errors import InputError
from .terminal import standard_output

if TYPE_CHECKING:
    from .json_file import Record

# Of which record, in which format -> the function of this package that writes it. By name, as a command has
# one of the records, and need not import what makes the others.
_WRITERS = {
    "Report": {
        "json": "json_file.write",
        "csv": "table_files.write_csv",
        "parquet": "table_files.write_parquet",
        "npz": "table_files.write_npz",
        "html": "html.write",
        "png": "pictures.write_pictures",
        "svg": "pictures.write_pictures",
    },
    "ClipReport": {"json": "json_file.write"},
    "Comparison": {
        "json": "json_file.write",
        "html": "compare_html.write",
        "png": "compare_pictures.write_pictures",
    },
    "LipschitzReport": {
        "json": "json_file.write",
        "png": "lipschitz_pictures.write_pictures",
        "svg": "lipschitz_pictures.write_pictures",
    },
}
_LIBRARIES = {"parquet": "pyarrow", "png": "matplotlib", "svg": "matplotlib"}
_SUFFIXES = {name: (f".{name}",) for name in _WRITERS["Report"]} | {"html": (".html", ".htm")}
_EXTRAS = {"pyarrow": "parquet", "matplotlib": "figures", "torch": "torch"}

Targets = Mapping[str, Path | None]
STANDARD_OUTPUT = Path("-")
"""As a file: one report goes there, and nothing else is printed."""


def check_targets(files: Targets, folders: Targets) -> None:
    """Find out before the work whether all of it can be written.

    Raises:
        InputError: a file or folder that cannot be written, or a library that is missing; a file that is
            also another target, or has the name of another kind of report.
    """
    given = [(name, path) for name, path in (*files.items(), *folders.items()) if path is not None]
    for name, path in given:
        require(_LIBRARIES.get(name))
        if name in files and path == STANDARD_OUTPUT:
            continue
        _check_path(name, path, folder=name in folders)
        # A slip of the hand: the model, its external data, the points or the geometry would be lost.
        if name in files:
            _check_suffix(name, path)
        if path.is_file() and path.suffix.lower() not in _SUFFIXES.get(name, ()):
            raise InputError(f"--{name} {path} exists and is no .{name} file; give another name")
    taken: dict[Path, str] = {}
    for name, path in given:
        other = taken.setdefault(path.resolve(), name)
        if other != name and (other in files or name in files):
            raise InputError(f"--{other} and --{name} are both {path}; give two names")


def _check_suffix(name: str, path: Path) -> None:
    """Raise the InputError of a name that is another report's, as where two options were swapped."""
    for other, suffixes in _SUFFIXES.items():
        if other != name and path.suffix.lower() in suffixes:
            raise InputError(f"--{name} {path} has the name of a .{other} file; give another name")


def _check_path(name: str, path: Path, folder: bool) -> None:
    option = f"--{name} {path}"
    if path == STANDARD_OUTPUT:
        raise InputError(f"{option} would be standard output, where it cannot go; give a name")
    try:
        check_writable(path)
    except InputError as error:
        raise InputError(f"--{name} {error}") from None
    if folder and path.exists() and not path.is_dir():
        raise InputError(f"{option} is no folder; give another name")
    if not folder and path.is_dir():
        raise InputError(f"{option} is a folder; give a file name")
    if not folder and not path.absolute().parent.is_dir():
        raise InputError(f"{option} cannot be written: the folder {path.absolute().parent} does not exist")


def check_output(output: Path, model: Path, overwrite: bool, others: Iterable[Path | None] = ()) -> Path:
    """Find out before the work whether a changed model can be written.

    Arguments:
        others: what else will be written, which must be something else.

    Returns:
        Where to write: the file itself where `output` is a symbolic link to one.

    Raises:
        InputError: it cannot be; or it exists, or is the model itself, and nobody said to replace it.
    """
    _check_path("output", output, folder=False)
    _check_suffix("output", output)
    if any(other is not None and other.resolve() == output.resolve() for other in others):
        raise InputError(f"--output {output} is also where a report goes; give two names")
    if output.exists() and not overwrite:
        what = "is the model itself" if model.exists() and output.samefile(model) else "exists"
        raise InputError(f"--output {output} {what}; give another name, or --overwrite to replace it")
    return output.resolve()


def require(library: str | None) -> None:
    """Raise the InputError of an optional library that is not installed."""
    if library is None:
        return
    try:
        import_module(library)
    except ImportError:
        extra = _EXTRAS[library]
        raise InputError(f"{library} is needed for this: pip install 'convspectra[{extra}]'") from None


def write_all(record: Record, files: Targets, folders: Targets) -> Iterator[Path | InputError]:
    """Write every target that is given; yields each path when it is complete.

    Yields the error of one that the disk refuses, and goes on: another may have room.
    """
    # Standard output last: it may hang on another program.
    for name, path in sorted(files.items(), key=lambda item: item[1] == STANDARD_OUTPUT):
        if path is None:
            continue
        try:
            with standard_output() if path == STANDARD_OUTPUT else atomic(path) as file:
                _writer(record, name)(record, file)
        except InputError as error:
            yield error
        else:
            yield path
    for name, path in folders.items():
        if path is None:
            continue
        try:
            open_folder(path)
            yield from _writer(record, name)(record, path, name)
        except InputError as error:
            yield error


def _writer(record: Record, name: str) -> Callable[..., Any]:
    module, function = _WRITERS[type(record).__name__][name].split(".")
    found: Callable[..., Any] = getattr(import_module(f".{module}", __package__), function)
    return found
