"""Bounds on the operator norm: one file a method, one signature, one result.

`method(kernel, geometry, *, compute=...) -> Bound`. To add one: a file here, an
export, a row in the table of `tests/test_bounds_published.py`.
"""

from .araujo2021 import araujo2021
from .auto import operator_norm
from .circulant_embedding import circulant_embedding
from .copy_count import copy_count
from .delattre2023 import delattre2023
from .delattre2024 import delattre2024
from .duffin1938 import duffin1938
from .frobenius import frobenius
from .grishina2024 import grishina2024, tensor_norm_estimate
from .holder import holder
from .pfister2018 import pfister2018
from .reshaped_kernel import reshaped_kernel
from .rump2006 import rump2006
from .singla2021 import singla2021
from .wave_packet import wave_packet

__all__ = [
    "araujo2021",
    "circulant_embedding",
    "copy_count",
    "delattre2023",
    "delattre2024",
    "duffin1938",
    "frobenius",
    "grishina2024",
    "holder",
    "operator_norm",
    "pfister2018",
    "reshaped_kernel",
    "rump2006",
    "singla2021",
    "tensor_norm_estimate",
    "wave_packet",
]
