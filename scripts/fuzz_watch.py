"""What one model file makes a process do: files it opens, code it runs, modules it imports.

Python's own events are seen by an audit hook, and judged against exact lists; what compiled libraries open
they do not report, so decoys lie outside of the model's folder, and the kernel tells when one is opened.
"""

from __future__ import annotations

import ctypes
import os
import re
import site
import sys
import sysconfig
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from types import CodeType
from typing import Any

# What the interpreter and the libraries look up while they run.
_SYSTEM = re.compile(
    r"/proc/(self|\d+)(/task/\d+)?/(status|statm|stat|maps|cgroup|mountinfo|clear_refs|fd)"
    r"|/proc/(cpuinfo|meminfo|stat|filesystems|sys/vm/overcommit_memory)"
    r"|/sys/fs/cgroup/.*|/sys/devices/system/(cpu|node)/.*|/dev/(urandom|random|null|shm)"
    r"|/usr/share/zoneinfo/.*|/etc/(localtime|ld\.so\.cache)|(/usr)?/lib(64)?/.*\.so(\.\d+)*"
)
_PROGRAMS = {
    *("subprocess.Popen", "os.system", "os.exec", "os.spawn", "os.posix_spawn", "os.fork", "os.forkpty"),
    *("socket.connect", "socket.bind", "socket.getaddrinfo", "ctypes.dlopen", "pty.spawn"),
}
_LISTS = {"os.listdir", "os.scandir"}
_CHANGES = {
    *("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"),
    *("os.chmod", "os.chown", "shutil.rmtree", "shutil.move"),
}
# Where libraries make source of their own: file of the function that calls compile, exec or eval.
_GENERATORS = re.compile(
    r"/(dataclasses|collections/__init__|enum|inspect|linecache|typing|ast|functools|traceback"
    r"|torch/fx/(graph_module|_lazy_graph_module|graph|experimental/symbolic_shapes|experimental/sym_node|experimental/proxy_tensor)"
    r"|torch/_export/serde/serialize|torch/(_jit_internal|_sources)|torch/jit/\w+"
    r"|torch/utils/_sympy/\w+|torch/utils/_config_module|torch/_library/\w+|torch/_ops"
    r"|sympy/(parsing/sympy_parser|core/sympify|utilities/lambdify)"
    r"|numpy/lib/_\w+|attr/_make|importlib/\w+)\.py$|^<frozen [\w.]+>$"
)
_OPENED = 0x20


def _libraries() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    found = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    found |= {*site.getsitepackages(), *(entry for entry in sys.path if "site-packages" in entry)}
    found.add(str(Path(str(sys.modules["convspectra"].__file__)).parent))
    found.add(str(Path(__file__).parent))  # sources are looked up for stack traces
    # As they are named, and where links lead.
    return tuple({f"{path}/" for name in found for path in (name, os.path.realpath(name))})


class Watch:
    """Records what happens between `begin` and `end`.

    Arguments:
        folder: the model's; what lies in it may be opened, and none of it may run.
        decoys: files outside that nothing may open.
    """

    def __init__(self, folder: Path, decoys: tuple[Path, ...] = ()) -> None:
        self.folder = f"{folder.resolve()}/"
        self.active = False
        self.seen: list[tuple[str, str]] = []
        self.libraries = _libraries()
        self.modules = {
            *sys.stdlib_module_names,
            *(name.partition(".")[0] for name in sys.modules),
            *_top_level(self.libraries),
        }
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.inotify = self.libc.inotify_init1(os.O_NONBLOCK)
        if self.inotify < 0 or any(self._watch(decoy) < 0 for decoy in decoys):
            raise OSError(ctypes.get_errno(), "the decoys cannot be watched")
        sys.addaudithook(self)
        sys.meta_path.insert(0, self)  # `importlib.import_module` raises no audit event

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """See the imports of what is not a library's; find none."""
        if self.active and name.partition(".")[0] not in self.modules:
            self.seen.append(("code", f"import {name}"))

    def _watch(self, decoy: Path) -> int:
        return int(self.libc.inotify_add_watch(self.inotify, os.fsencode(decoy), _OPENED))

    def begin(self) -> None:
        self._opened()
        self.seen, self.active = [], True

    def end(self) -> list[tuple[str, str]]:
        """Kinds of fault, `outside` or `code`, and what it was."""
        self.active = False
        if self._opened():
            self.seen.append(("outside", "decoy"))
        return self.seen

    def _opened(self) -> bool:
        try:
            return bool(os.read(self.inotify, 65536))
        except BlockingIOError:
            return False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        found = self._judge(event, arguments)
        if found:
            self.seen.append(found)

    def _judge(self, event: str, arguments: tuple[Any, ...]) -> tuple[str, str] | None:
        if event == "open":
            path, mode, flags = arguments
            writes = bool(set(mode) & set("wax+")) if isinstance(mode, str) else bool((flags or 0) & 3)
            return self._path(path, writes)
        if event in _CHANGES or event in _LISTS:
            return self._path(arguments[0], event in _CHANGES)
        if event in _PROGRAMS:
            return ("code", event)
        if event == "pickle.find_class":
            return ("code", f"pickle {arguments[0]}.{arguments[1]}")
        if event in ("exec", "compile"):
            return self._source(event, arguments)
        return None

    def _source(self, event: str, arguments: tuple[Any, ...]) -> tuple[str, str] | None:
        """Code of a library's file, or made by a library that makes code, is no fault."""
        code = arguments[0]
        if event == "compile":
            name = str(arguments[1])
        else:
            name = code.co_filename if isinstance(code, CodeType) else "?"
        if name.startswith(self.libraries) or name.startswith("<frozen "):
            return None
        caller = sys._getframe(3).f_code.co_filename
        if _GENERATORS.search(caller) and (caller.startswith(self.libraries) or caller[0] == "<"):
            return None if not name.startswith(self.folder) else ("code", f"{event} {name}")
        return ("code", f"{event} {Path(name).name} by {Path(caller).name}")

    def _path(self, path: Any, writes: bool) -> tuple[str, str] | None:
        if isinstance(path, int):
            return None
        name = os.path.realpath(os.fsdecode(path))
        if f"{name}/".startswith(self.folder):
            ran = name.endswith((".py", ".pyc", ".so", ".pth.py"))
            return ("code", f"open {Path(name).suffix}") if ran else None
        reads = not writes and (f"{name}/".startswith(self.libraries))
        if reads or (_SYSTEM.fullmatch(name) and (not writes or name.startswith("/dev/"))):
            return None
        return ("outside", name)


def _top_level(folders: Iterable[str]) -> set[str]:
    found = (Path(folder).iterdir() for folder in folders if Path(folder).is_dir())
    return {entry.name.partition(".")[0] for entry in chain.from_iterable(found)}


def peak() -> int:
    """Bytes of memory at most since `forget_peak`."""
    text = Path("/proc/self/status").read_bytes()
    return int(text.partition(b"VmHWM:")[2].split(None, 1)[0]) * 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")
