"""Files that appear whole or not at all, whatever becomes of the process that writes them."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import threading

import pytest

from convspectra.atomic import _sweep, atomic, check_writable, open_folder
from convspectra.errors import InputError


@pytest.fixture(autouse=True)
def another_process():
    """As far as a process remembers in which folders it has swept."""
    _sweep.cache_clear()


def test_a_file_is_there_when_the_block_ends_well(tmp_path):
    path = tmp_path / "r.json"
    mask = os.umask(0o027)
    try:
        with atomic(path) as file:
            file.write(b"new")
            assert not path.exists()
            assert os.path.dirname(file.name) == str(tmp_path)  # noqa: PTH120
    finally:
        os.umask(mask)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def _stop_half_way(file, error):
    file.write(b"half")
    raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_was_there_stays_when_it_does_not(tmp_path, error):
    path = tmp_path / "r.json"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic(path) as file:
        _stop_half_way(file, error)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_refuses_is_an_error_of_one_line(tmp_path):
    with (
        pytest.raises(InputError, match=r"r\.json cannot be written: No such file"),
        atomic(tmp_path / "no" / "r.json"),
    ):
        pass
    long = tmp_path / ("n" * 250)
    with atomic(long) as file:
        file.write(b"1")
    assert list(tmp_path.iterdir()) == [long]
    with pytest.raises(InputError, match="cannot be written: File exists"):
        open_folder(long)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1][1]))
    try:
        with (
            pytest.raises(InputError, match=r"big cannot be written: File too large"),
            atomic(tmp_path / "big") as file,
        ):
            file.write(bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before[1])
        signal.signal(signal.SIGXFSZ, before[0])
    assert list(tmp_path.iterdir()) == [long]


WRITING = """
import sys, pathlib
from convspectra.atomic import atomic
with atomic(pathlib.Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_the_leftovers_of_the_dead_are_swept_away_and_those_of_the_living_are_not(tmp_path):
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITING, tmp_path / name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for name in ("dead", "living")
    ]
    for writer in writers:
        assert writer.stdout.readline() == b"writing\n"
    dead, living = writers
    dead.kill()
    dead.wait(120)
    foreign = tmp_path / ".somebody-else.partial"
    foreign.touch()
    assert len(list(tmp_path.iterdir())) == 3
    with atomic(tmp_path / "next") as file:
        file.write(b"1")
    assert len(list(tmp_path.iterdir())) == 3
    living.communicate(b"", timeout=120)
    for writer in writers:
        writer.stdout.close()
        writer.stdin.close()
    assert (living.returncode, dead.returncode) == (0, -signal.SIGKILL)
    assert {path.name for path in tmp_path.iterdir()} == {"next", "living", foreign.name}


def test_many_write_one_file_and_sweep_at_the_same_time(tmp_path):
    path, wrong = tmp_path / "one", []

    def write(number):
        try:
            for _ in range(50):
                _sweep.cache_clear()
                with atomic(path) as file:
                    file.write(bytes([number]) * 1000)
        except Exception as error:  # noqa: BLE001
            wrong.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert wrong == []
    assert not any(thread.is_alive() for thread in threads)
    assert len(set(path.read_bytes())) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_pipe_and_a_device_stay_what_they_are(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with atomic(pipe) as file:
            file.write(b"new")
        assert os.read(reader, 9) == b"new"
    finally:
        os.close(reader)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]
    assert pipe.is_fifo()


def test_a_file_without_permission_to_write_is_refused_even_to_the_superuser(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"kept")
    path.chmod(0o444)
    with pytest.raises(
        InputError, match=r"model\.onnx cannot be written: (permission denied|it is write-prot)"
    ):
        check_writable(path)
    assert path.read_bytes() == b"kept"


def test_a_link_stays_and_its_file_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    file, link = tmp_path / "there" / "r.json", tmp_path / "r.json"
    file.write_text("old")
    link.symlink_to(file)
    with atomic(link) as written:
        written.write(b"new")
    assert link.is_symlink()
    assert file.read_text() == "new"


def test_who_may_read_a_file_stays_as_it_was(tmp_path):
    path = tmp_path / "private.onnx"
    path.write_bytes(b"old")
    path.chmod(0o640)
    with atomic(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640


def test_where_there_are_no_locks_only_what_is_old_is_swept(tmp_path, monkeypatch):
    """As on Windows, which renames no open file and unlinks none."""
    import convspectra.atomic as module

    monkeypatch.setattr(module, "fcntl", None)
    young, old = (tmp_path / f".{name}.0{module._SUFFIX}" for name in ("young", "old"))
    young.touch()
    old.touch()
    os.utime(old, (1, 1))
    renamed = []
    replace = module.Path.replace

    def of_a_closed_file(self, target):
        renamed.append(opened.closed)
        return replace(self, target)

    monkeypatch.setattr(module.Path, "replace", of_a_closed_file)
    with atomic(tmp_path / "r.json") as opened:
        opened.write(b"new")
    assert renamed == [True]
    assert {path.name for path in tmp_path.iterdir()} == {"r.json", young.name}
    with pytest.raises(ValueError, match="half"), atomic(tmp_path / "r.json") as opened:
        _stop_half_way(opened, ValueError("half"))
    assert {path.name for path in tmp_path.iterdir()} == {"r.json", young.name}
    assert (tmp_path / "r.json").read_bytes() == b"new"


def test_a_disk_that_is_full_only_when_the_file_ends_keeps_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    path.write_bytes(b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"), atomic(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="files without a name are of Linux")
def test_whether_a_folder_can_be_written_is_found_out_without_a_file_in_it(tmp_path):
    """So that no interruption, wherever it comes, leaves one."""
    code = """
import os, sys
from convspectra.atomic import open_folder

seen = set()

def audit(event, arguments):
    if event != "os.listdir" and os.path.isdir("kept"):
        seen.update(os.listdir("kept"))

sys.addaudithook(audit)
open_folder(__import__("pathlib").Path("kept"))
sys.exit(f"{seen} lay there" if seen or not os.path.isdir("kept") else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
