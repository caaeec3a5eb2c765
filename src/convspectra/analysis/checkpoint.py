"""Finished layers on disk, so that a long analysis that was stopped goes on where it was.

One file a layer, named by a digest of everything its numbers depend on: kernel, geometry, precision,
solver, effort and version. A file that is there is complete, since it is renamed into place.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from ..atomic import atomic
from ..compute import Compute
from ..geometry import ConvGeometry
from ..problem import Problem
from ..results import Bound, Spectrum
from ..sampled import sample_of
from ..spectrum import spectrum_from, spectrum_from_sample
from ..work import Effort

Measured = tuple[Spectrum | None, Bound | None, Bound | None, str, str]
"""Torus spectrum, bound of the layer itself, any-size bound; the layer's status, and why a number lacks."""


def path_of(
    folder: Path, kernel: np.ndarray[Any, Any], geometry: ConvGeometry, compute: Compute, effort: Effort
) -> Path:
    """Where the numbers of this kernel under this geometry, by this solver and effort, are kept."""
    digest = hashlib.sha256()
    words = (compute.solver, effort.bounds, effort.spectrum)
    for part in (__version__, *words, str(kernel.dtype), str(kernel.shape), str(geometry)):
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
        "norm_interval": None if spectrum is None else spectrum.norm_interval,
        "error": None if spectrum is None else float(spectrum.error),
    }
    arrays = {} if spectrum is None else {"values": spectrum.values}
    with atomic(path) as file:
        np.savez(file, facts=np.array(json.dumps(facts)), **arrays)


def load(path: Path, problem: Problem, effort: Effort) -> Measured | None:
    """The numbers kept for one layer, None where there are none or they cannot be read."""
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            facts = json.loads(str(file["facts"]))
            values = file.get("values")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    bounds = [None if facts[name] is None else Bound(**facts[name]) for name in ("as_padded", "any_size")]
    spectrum = None
    if values is not None and facts["norm_interval"] is None:
        spectrum = spectrum_from(problem, values, problem.wrapped)
    elif values is not None:
        sample = sample_of(problem.wrapped, effort.spectrum, problem.itemsize)
        if sample is None:
            return None
        found = spectrum_from(problem, values, sample.torus)
        spectrum = spectrum_from_sample(found, sample, 0.0, tuple(facts["norm_interval"]))
        spectrum = replace(spectrum, error=facts["error"])
    return spectrum, bounds[0], bounds[1], facts["status"], facts["reason"]
