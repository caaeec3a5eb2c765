"""CIFAR-10 from the files its author publishes, checked byte for byte, mapped where that can be.

Whatever the form, what is read becomes records as in the binary batches: one row an image, its label, then
its red, green and blue planes row by row.

Reference: Krizhevsky (2009), Learning multiple layers of features from tiny images, technical report.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from convspectra.atomic import atomic
from convspectra.errors import InputError

Array = np.ndarray[Any, Any]
Part = tuple[Array, Array]
"""Images, uint8 of shape (N, 3, 32, 32), and labels, int64 of shape (N,)."""

SHAPE = (3, 32, 32)
CLASSES = 10
RECORD = 1 + 3 * 32 * 32

# MD5 of the official files; the last one of each is the test set.
BINARY = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
PYTHON = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
_FOLDERS = ("cifar-10-batches-bin", "cifar-10-batches-py")
_AGAIN = "get it again from https://www.cs.toronto.edu/~kriz/cifar.html"

# A batch is 31 MB, an archive unpacked 186 MB: nothing much larger is read into memory.
_LARGEST_BATCH = 2**25
_LARGEST_ARCHIVE = 2**28


def read(source: Path, cache: Path | None = None, *, check: bool = True) -> tuple[Part, Part]:
    """The training set and the test set.

    Arguments:
        source: the folder of the python or of the binary batches, the folder that holds it, or the archive
            of either (`.tar.gz` or unpacked to `.tar`; what is in it counts, not its name). Where both
            forms are there, the binary one is read.
        cache: folder, made if need be, for what cannot be mapped as it lies: a training set (five files) and
            python batches. It is written once for each content of the source, and mapped afterwards; several
            processes may do so at once. Without it those parts are in memory.
        check: compare each batch with its official MD5 before anything else is done with it. Without it
            any number of images will do.

    Returns:
        images and labels of either set. Images of a mapping are read-only, and their files must stay as they
        are while in use.

    Raises:
        InputError: there is no such source, it holds no or not all batches, a file is cut short, has another
            MD5 or holds something else; a pickle that names anything but arrays, which is not run; an archive
            with a member outside of it; a cache that cannot be written.

    Not guaranteed: that a file in the cache whose size and labels are as they should be was not altered.
    """
    try:
        batches = _folder_batches(source) if source.is_dir() else _archive_batches(source)
    except OSError as error:
        raise InputError(f"{error.filename or source} cannot be read: {error.strerror}") from None
    official = BINARY if next(iter(batches)) in BINARY else PYTHON
    sums = {name: hashlib.md5(data.data, usedforsecurity=False).hexdigest() for name, data in batches.items()}
    for name, found in sums.items():
        if check and found != official[name]:
            raise InputError(
                f"{name} of {source} is not the official file: {batches[name].size} bytes of MD5 {found}, "
                f"expected {official[name]}; {_AGAIN}"
            )
    *train, test = batches
    parts = []
    for kind, names in (("train", train), ("test", [test])):
        mapped = len(names) == 1 and official is BINARY and isinstance(batches[names[0]], np.memmap)
        path = None if cache is None or mapped else cache / _cache_name(kind, (sums[name] for name in names))
        records = None if path is None else _cached_records(path)
        if records is None:
            read_one = _binary_records if official is BINARY else _python_records
            every = [read_one(f"{name} of {source}", batches[name]) for name in names]
            records = every[0] if len(every) == 1 else np.concatenate(every)
            records = records if path is None else _keep(path, records)
        parts.append((records[:, 1:].reshape(-1, *SHAPE), np.array(records[:, 0], np.int64)))
    return parts[0], parts[1]


def _folder_batches(source: Path) -> dict[str, Array]:
    """The bytes of each batch under its name, mapped."""
    places = (source, *(source / name for name in _FOLDERS))
    present = {
        name: place / name for place in places for name in (*BINARY, *PYTHON) if (place / name).is_file()
    }
    return {name: _mapped_bytes(present[name]) for name in _complete(source, present)}


def _mapped_bytes(path: Path) -> Array:
    size = path.stat().st_size
    if not 0 < size <= _LARGEST_BATCH:
        raise InputError(f"{path} is no batch of CIFAR-10: it has {size} bytes; {_AGAIN}")
    return np.memmap(path, np.uint8, mode="r")


def _archive_batches(source: Path) -> dict[str, Array]:
    """The bytes of each batch in a tar file under its name. Nothing is written to a disk."""
    data = _unpacked(source)
    found: dict[str, Array] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            members = archive.getmembers()
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise InputError(
            f"{source} is neither a folder nor a whole .tar.gz of CIFAR-10 ({error}); {_AGAIN}"
        ) from None
    for member in members:
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts:
            raise InputError(
                f"{source} holds {member.name!r}, a name outside of it: no archive of CIFAR-10; {_AGAIN}"
            )
        # A sparse member is larger than what lies in the archive.
        if path.name in BINARY | PYTHON and member.isreg() and not member.issparse():
            if not 0 < member.size <= _LARGEST_BATCH:
                raise InputError(f"{path.name} of {source} is no batch: it has {member.size} bytes; {_AGAIN}")
            whole = np.frombuffer(data, np.uint8)
            found[path.name] = whole[member.offset_data : member.offset_data + member.size]
    return {name: found[name] for name in _complete(source, found)}


def _unpacked(source: Path) -> bytes:
    """A file without its gzip compression, if it has one."""
    try:
        with source.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            data: bytes = (gzip.GzipFile(fileobj=file) if packed else file).read(_LARGEST_ARCHIVE + 1)
    except FileNotFoundError:
        raise InputError(f"{source} does not exist; give the folder or the archive of CIFAR-10") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{source} is cut short or damaged ({error}); {_AGAIN}") from None
    if len(data) > _LARGEST_ARCHIVE:
        raise InputError(f"{source} is larger than any archive of CIFAR-10; {_AGAIN}")
    return data


def _complete(source: Path, present: Mapping[str, object]) -> tuple[str, ...]:
    """The names of that form of which every batch is present, the binary one first."""
    missing = {form: [n for n in form if n not in present] for form in (tuple(BINARY), tuple(PYTHON))}
    form = min(missing, key=lambda form: len(missing[form]))
    if len(missing[form]) == len(form):
        raise InputError(
            f"{source} holds no batches of CIFAR-10: expected {form[0]} to {form[-1]} or data_batch_1 to "
            f"test_batch; {_AGAIN}"
        )
    if missing[form]:
        raise InputError(f"{source} lacks {', '.join(missing[form])} of CIFAR-10; {_AGAIN}")
    return form


def _binary_records(where: str, data: Array) -> Array:
    """The records of a binary batch, of shape (N, 3073); a view."""
    if data.size % RECORD:
        raise InputError(f"{where} is cut short: {data.size} bytes, no multiple of {RECORD}; {_AGAIN}")
    records = data.reshape(-1, RECORD)
    if records[:, 0].max() >= CLASSES:
        raise InputError(f"{where}: labels must be 0 to 9; got {records[:, 0].max()}; {_AGAIN}")
    return records


def _python_records(where: str, data: Array) -> Array:
    """The records of a python batch, of shape (N, 3073)."""
    found = _unpickled(where, data)
    if not isinstance(found, dict) or not {b"data", b"labels"} <= found.keys():
        raise InputError(f"{where} must be a dictionary of data and labels; {_AGAIN}")
    labels, images = found[b"labels"], _array(found[b"data"])
    if images is None or not isinstance(labels, list) or images.shape != (len(labels), RECORD - 1):
        shape = "something else" if images is None else f"shape {images.shape}"
        count = len(labels) if isinstance(labels, list) else "no"
        raise InputError(
            f"{where}: data must be bytes of shape (labels, {RECORD - 1}); got {shape} and {count} labels; "
            f"{_AGAIN}"
        )
    wrong = next((label for label in labels if type(label) is not int or not 0 <= label < CLASSES), None)
    if wrong is not None or not labels:
        raise InputError(f"{where}: labels must be 0 to 9; got {wrong!r}; {_AGAIN}")
    return np.concatenate([np.array(labels, np.uint8)[:, None], images], axis=1)


class _Inert:
    """What becomes of any NumPy object in a pickle: it keeps what it is given and does nothing with it.

    NumPy's own objects trust the state that a pickle hands them, even where that makes pointers of bytes.
    """

    given: tuple[Any, ...] = ()
    state: Any = ()

    def __init__(self, *given: Any) -> None:
        self.given = given

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Containers, numbers, bytes and `_Inert`; the names are those in the official files."""

    where = ""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
        ):
            return _Inert
        raise InputError(f"{self.where} holds code ({module}.{name}) and was not run; {_AGAIN}")


def _unpickled(where: str, data: Array) -> Any:
    unpickler = _Unpickler(io.BytesIO(data.data), encoding="bytes")
    unpickler.where = where
    try:
        return unpickler.load()
    except InputError:
        raise
    # A damaged pickle fails in whatever way its bytes happen to say.
    except Exception as error:  # noqa: BLE001
        raise InputError(f"{where} is no python batch, or it is cut short ({error}); {_AGAIN}") from None


def _array(pickled: Any) -> Array | None:
    """A pickled array of bytes in C order and two axes, None of anything else."""
    match pickled:
        case _Inert(
            state=(_, (int(rows), int(columns)), _Inert(given=(b"u1" | "u1", *_)), order, bytes(raw))
        ):
            if not order and rows >= 0 and columns >= 0 and rows * columns == len(raw):
                return np.frombuffer(raw, np.uint8).reshape(rows, columns)
    return None


def _cache_name(kind: str, sums: Iterable[str]) -> str:
    return f"cifar10-{kind}-{hashlib.sha256(' '.join(sums).encode()).hexdigest()[:16]}.npy"


def _cached_records(path: Path) -> Array | None:
    """The records in a file of the cache, mapped; None where there is no file or not a whole one."""
    try:
        records = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if not isinstance(records, np.memmap) or records.dtype != np.uint8 or not records.flags.c_contiguous:
        return None
    if records.ndim != 2 or records.shape[1] != RECORD or not len(records) or records[:, 0].max() >= CLASSES:
        return None
    return records


def _keep(path: Path, records: Array) -> Array:
    """The same records, written to the cache and mapped."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the cache {path.parent} cannot be made: {error.strerror}") from None
    with atomic(path) as file:
        np.save(file, records, allow_pickle=False)
    mapped = _cached_records(path)
    return records if mapped is None else mapped
