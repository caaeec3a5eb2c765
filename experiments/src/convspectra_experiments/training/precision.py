"""Whether a processor multiplies in bfloat16 without harm: with its own instructions, and without a crash."""

from __future__ import annotations

import subprocess
import sys
from functools import cache

import torch

from convspectra.errors import InputError

_PROBE_SECONDS = 300.0
_PROBE = """
import torch
layer = torch.nn.Conv2d(16, 16, 3, stride=2, padding=1, bias=False)
network = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.BatchNorm2d(16), layer)
network.to(memory_format=torch.channels_last)
images = torch.rand(8, 3, 32, 32).contiguous(memory_format=torch.channels_last)
with torch.autocast("cpu", torch.bfloat16):
    found = network(images)
found.float().square().mean().backward()
assert found.dtype == torch.bfloat16 and layer.weight.grad.isfinite().all()
"""
"""One step of training; some processors end the process at it."""


@cache
def has_bfloat16() -> bool:
    """Whether this processor has AVX512-BF16 and one step of training succeeds, in a process of its own."""
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # there is no public way to ask
    if supported is None or not supported():
        return False
    try:
        ended = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, timeout=_PROBE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return ended.returncode == 0


def check_bfloat16(device: torch.device) -> None:
    """Refuse bfloat16 where it is slow or crashes.

    Raises:
        InputError: the device is a processor without it.
    """
    if device.type == "cpu" and not has_bfloat16():
        raise InputError(
            "precision must be float32 on this processor, which lacks AVX512-BF16 or fails in it; got "
            "'bfloat16'"
        )
