"""Bounds on the operator norm: one file a method, one signature, one result.

`method(kernel, geometry, *, executor=None, memory=...,
solver="auto") -> Bound`. To add one: a file here, an
export, a row in the table of `tests/test_bounds.py`.
"""

from .auto import operator_norm
from .circulant_embedding import circulant_embedding
from .pfister2018 import pfister2018
from .reshaped_kernel import reshaped_kernel
from .wave_packet import wave_packet

__all__ = ["circulant_embedding", "operator_norm", "pfister2018", "reshaped_kernel", "wave_packet"]
