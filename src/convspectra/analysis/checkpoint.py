"""Finished layers on disk, so that a long analysis that was stopped goes on where it was.

One file a layer, named by a digest of everything its numbers depend on: kernel, geometry, precision,
solver and version. A file that is there is complete, since it is renamed into place.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from ..atomic import atomic
from ..compute import Compute
from ..geometry import ConvGeometry
from ..problem import Problem
from ..results import Bound, Spectrum
from ..spectrum import spectrum_from

Measured = tuple[Spectrum | None, Bound | None, Bound | None, str, str]
"""Torus spectrum, bound of the layer itself, any-size bound; the layer's status, and why a number lacks."""


def path_of(folder: Path, kernel: np.ndarray[Any, Any], geometry: ConvGeometry, compute: Compute) -> Path:
    """Where the numbers of this kernel under this geometry, by this solver, are kept."""
    digest = hashlib.sha256()
    for part in (__version__, compute.solver, str(kernel.dtype), str(kernel.shape), str(geometry)):
        digest.update(part.encode() + b"\0")
    digest.update(np.ascontiguousarray(kernel).tobytes())
    return folder / f"{digest.hexdigest()}.npz"


def save(path: Path, measured: Measured) -> None:
    """Keep the numbers of one layer; equal layers may do so at the same time.

    Raises:
        InputError: the disk refuses.
    """
    spectrum, as_padded, any_size, status, reason = measured
    facts = {
        "as_padded": None if as_padded is None else asdict(as_padded),
        "any_size": None if any_size is None else asdict(any_size),
        "status": status,
        "reason": reason,
    }
    arrays = {} if spectrum is None else {"values": spectrum.values}
    with atomic(path) as file:
        np.savez(file, facts=np.array(json.dumps(facts)), **arrays)


def load(path: Path, problem: Problem) -> Measured | None:
    """The numbers kept for one layer, None where there are none or they cannot be read."""
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            facts = json.loads(str(file["facts"]))
            values = file.get("values")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    bounds = [None if facts[name] is None else Bound(**facts[name]) for name in ("as_padded", "any_size")]
    spectrum = None if values is None else spectrum_from(problem, values, problem.wrapped)
    return spectrum, bounds[0], bounds[1], facts["status"], facts["reason"]
