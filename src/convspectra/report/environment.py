"""What this installation computes with: the text of `convspectra info`."""

from __future__ import annotations

from importlib import metadata

from .._solvers import choice, pool
from .._version import __version__


def describe() -> list[str]:
    """What `convspectra info` prints: version, solver, threads, and the optional libraries found."""
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
