"""How a computation is done, in one record that every function takes as `compute=`."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Literal, get_args

from .checks import check_word
from .errors import InputError

Solver = Literal["auto", "native", "lapack", "torch"]

Progress = Callable[[float, str], None]
"""Called from any thread with the share of the work that is done, 0 to 1, and the name of what ended, which
is empty while a part goes on."""

DEFAULT_MEMORY = 256 * 2**20


@dataclass(frozen=True)
class Compute:
    """How a computation is done. No choice changes a result by more than rounding.

    Attributes:
        executor: any `concurrent.futures.Executor` for NumPy arrays; default a thread pool of this
            process. Other arrays run where they are.
        memory: bytes that blocks, matrices or iterates in flight may take together (at least one block
            a worker).
        solver: "native" (the C++ core: arrays on the CPU, no gradient), "lapack" (through NumPy: the
            same), "torch", or "auto": native where it applies, else the array's own library.

    Raises:
        InputError: memory is no positive integer, or the solver is unknown.

    Examples:
        >>> Compute(solver="lapack").memory == 256 * 2**20
        True
    """

    executor: Executor | None = None
    memory: int = DEFAULT_MEMORY
    solver: Solver = "auto"

    def __post_init__(self) -> None:
        if isinstance(self.memory, bool) or not (isinstance(self.memory, int) and self.memory > 0):
            raise InputError(f"memory must be a positive number of bytes; got {self.memory!r}")
        check_word("solver", self.solver, get_args(Solver))


DEFAULT = Compute()
