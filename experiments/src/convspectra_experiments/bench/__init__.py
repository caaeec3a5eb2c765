"""Benchmarks that anyone can run: ratios within one run, every method checked in it."""

from . import bounds, models, projections, spectra
from .measuring import Case

__all__ = ["Case", "bounds", "models", "projections", "spectra"]
