"""`convspectra info`: what this installation computes with."""

from __future__ import annotations

from importlib import metadata

from .._solvers import choice, pool
from .._version import __version__
from ..report import terminal


def info() -> None:
    """Say which solver is in use and why, with how many threads, and what is installed."""
    terminal.write("".join(f"{line}\n" for line in _lines()))


def _lines() -> list[str]:
    found = []
    for name in ("numpy", "torch", "jax", "onnx", "pyarrow", "matplotlib"):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"{name} not installed")
    return [
        f"convspectra {__version__}",
        f"solver:  {choice.describe()}",
        f"threads: {pool.available_cores()} (the cores this process may use)",
        f"found:   {', '.join(found)}",
    ]
