"""Benchmarks that anyone can run: ratios within one run, every method checked in it."""

from . import bounds, projections, spectra
from .measuring import Case

__all__ = ["Case", "bounds", "projections", "spectra"]
