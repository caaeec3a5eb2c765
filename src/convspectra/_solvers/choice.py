"""Which engine solves the blocks: by what was asked for, what the array is, and what is installed."""

from __future__ import annotations

from typing import Literal

from .._compat import Array, is_torch, is_untracked_on_cpu, to_numpy, to_torch
from ..compute import Compute
from ..errors import InputError
from . import native

Engine = Literal["native", "lapack", "torch", "namespace"]


def choose(compute: Compute, kernel: Array, block_shape: tuple[int, int], blocks: int) -> Engine:
    """The engine for `blocks` different blocks of this shape.

    `auto` is `native` for arrays on the CPU that need no gradient, where there are several blocks of a
    side it is good at; anything else is solved by the array's own library.

    Raises:
        InputError: the solver is not installed, or the array is traced or needs a gradient that
            the solver does not give.
    """
    solver, plain = compute.solver, is_untracked_on_cpu(kernel)
    side = min(block_shape)
    if solver == "auto":
        suits = plain and 1 < side <= native.LARGEST_SIDE and blocks > 1
        return "native" if suits and native.why_unavailable() is None else "namespace"
    if solver == "torch":
        if not is_torch(kernel) and not plain:
            raise InputError(
                "solver='torch' takes PyTorch arrays, or others on the CPU outside jit; "
                f"got {type(kernel).__name__}"
            )
        try:
            import torch  # noqa: F401
        except ImportError:
            raise InputError("solver='torch' needs PyTorch: pip install 'convspectra[torch]'") from None
        return "torch"
    if not plain:
        raise InputError(
            f"solver={solver!r} takes arrays on the CPU that need no gradient; detach the kernel and move it "
            "there, or use solver='auto'"
        )
    if solver == "native" and native.why_unavailable() is not None:
        raise InputError(f"solver='native' is not available: {native.why_unavailable()}; use solver='auto'")
    return "native" if solver == "native" and side > 1 else "lapack"


def taken_by(engine: Engine, kernel: Array) -> Array:
    """The kernel as the engine's own kind of array."""
    if engine in ("native", "lapack"):
        return to_numpy(kernel)
    if engine == "torch" and not is_torch(kernel):
        return to_torch(kernel)
    return kernel


def describe() -> str:
    """One line: the solver that `auto` uses on the CPU, its instruction set, and why."""
    reason = native.why_unavailable()
    if reason is None:
        sets = native.instruction_sets()
        others = f"; {', '.join(sets[1:])} also built" if sets[1:] else ""
        return f"native, {sets[0]} (the widest that this processor supports{others})"
    return f"lapack, through NumPy: {reason}"
