"""The floating-point types that files keep weights in: rounding to them, and their bytes."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

NumpyArray = np.ndarray[Any, Any]

StoredType = Literal["float16", "bfloat16", "float32", "float64"]
STORED_TYPES: tuple[StoredType, ...] = get_args(StoredType)

EPSILON: dict[StoredType, float] = {
    "bfloat16": 2.0**-7,
    **{name: float(np.finfo(name).eps) for name in STORED_TYPES if name != "bfloat16"},
}
"""The distance from 1 to the next number, by type."""


def rounded(values: NumpyArray, stored: StoredType) -> NumpyArray:
    """The nearest values that the type holds, in float64 (for bfloat16 by way of float32)."""
    if stored == "bfloat16":
        return (_upper_halves(values).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return values.astype(stored).astype(np.float64)


def to_bytes(values: NumpyArray, stored: StoredType) -> bytes:
    """The values in that type, little-endian, in C order."""
    if stored == "bfloat16":
        return _upper_halves(values).astype("<u2").tobytes()
    return values.astype(np.dtype(stored).newbyteorder("<")).tobytes()


def from_bytes(data: bytes, kind: str) -> NumpyArray:
    """The values that were stored as this type of NumPy, or as bfloat16, which become float32."""
    if kind == "bfloat16":
        return (np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, dtype=kind)


def _upper_halves(values: NumpyArray) -> NumpyArray:
    """bfloat16 is the upper half of a float32, rounded to even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
