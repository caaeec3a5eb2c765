"""The largest slope of each function that acts on every entry by itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Parameters = Mapping[str, Any]

GELU = (1 + math.erf(1)) / 2 + math.exp(-1) / math.sqrt(math.pi)
"""`f' = Phi + x phi` is largest where `f'' = (2 - x^2) phi` changes its sign, at the root of 2."""

# Of the largest slope the next number of seven digits; at x = 2.3994, 1.4977, 1.4172.
SILU = 1.099840
MISH = 1.088499
GELU_TANH = 1.129

SLOPES: dict[str, Callable[[Parameters], float]] = {
    "relu": lambda _: 1.0,
    "leaky_relu": lambda given: max(1.0, abs(given["alpha"])),
    "prelu": lambda given: max(1.0, float(np.abs(given["slope"]).max())),
    # Below zero alpha exp(x), steepest at 0.
    "elu": lambda given: max(1.0, abs(given["alpha"])),
    "selu": lambda given: abs(given["gamma"]) * max(1.0, abs(given["alpha"])),
    # Below zero exp(x / alpha); a negative alpha grows without end.
    "celu": lambda given: 1.0 if given["alpha"] > 0 else math.inf,
    "sigmoid": lambda _: 0.25,
    "hardsigmoid": lambda given: abs(given["alpha"]),
    # (2 x + 3) / 6 up to x = 3.
    "hardswish": lambda _: 1.5,
    "tanh": lambda _: 1.0,
    "softplus": lambda _: 1.0,
    "softsign": lambda _: 1.0,
    "logsigmoid": lambda _: 1.0,
    "gelu": lambda _: GELU,
    "gelu_tanh": lambda _: GELU_TANH,
    "silu": lambda _: SILU,
    # x sigmoid(alpha x) = silu(alpha x) / alpha.
    "swish": lambda given: SILU if given["alpha"] else 0.5,
    "mish": lambda _: MISH,
    "clip": lambda given: 1.0 if given["low"] < given["high"] else 0.0,
    "softshrink": lambda _: 1.0,
    "abs": lambda _: 1.0,
    "sin": lambda _: 1.0,
    "cos": lambda _: 1.0,
    "atan": lambda _: 1.0,
    "erf": lambda _: 2 / math.sqrt(math.pi),
}
"""By name: `sup |f'|`, a function of the parameters."""

NOT_ZERO_AT_ZERO: dict[str, Callable[[Parameters], bool]] = {
    "sigmoid": lambda _: True,
    "softplus": lambda _: True,
    "logsigmoid": lambda _: True,
    "cos": lambda _: True,
    "hardsigmoid": lambda given: given["beta"] > 0,
    "clip": lambda given: not given["low"] <= 0 <= given["high"],
}
"""By name, the functions for which `f(0) != 0`, with which parameters."""
