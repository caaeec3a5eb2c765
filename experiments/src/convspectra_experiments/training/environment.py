"""What a run was made with: versions and machine, to be kept beside its results."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

import torch

from convspectra._version import __version__

from ..bench.measuring import processor

_PACKAGES = ("torch", "numpy", "optuna", "scikit-learn")


def describe(device: torch.device) -> dict[str, Any]:
    """Versions of what takes part, the processor, the device, the number of threads."""
    versions = {"convspectra": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    graphics = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "versions": versions,
        "machine": {"processor": processor(), "device": graphics or device.type},
        "threads": torch.get_num_threads(),
    }
