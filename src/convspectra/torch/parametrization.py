"""Parametrizations of which exported and traced programs hold a plain weight."""

from __future__ import annotations

import itertools
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from .comparing import is_traced

_LIVING: weakref.WeakValueDictionary[int, Parametrization] = weakref.WeakValueDictionary()
_NUMBERS = itertools.count(1)


class Parametrization(nn.Module):
    """A function of a weight; in a program that is exported or traced, what it makes of the weight there is.

    While a program is made the weight has no values, or whatever is done with them is written down. So the
    parameter is remembered from the last pass before, and computed with in another thread, where nothing is
    recorded.
    """

    _parameter: weakref.ref[torch.Tensor] | None = None
    _number: int

    def __init__(self) -> None:
        super().__init__()
        self._begin()

    def _begin(self) -> None:
        self._number = next(_NUMBERS)
        _LIVING[self._number] = self

    def made_of(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight that the layer computes with."""
        raise NotImplementedError

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_exporting():
            plain: torch.Tensor = _plain_of(self._number)
            return plain
        if torch.compiler.is_compiling():
            return self.made_of(weight)
        if isinstance(weight, nn.Parameter):
            self._parameter = weakref.ref(weight)
        if not is_traced():
            return self.made_of(weight)
        if self.training:
            kind = type(self).__name__
            raise InputError(f"torch.jit traces {kind} as a plain weight: call module.eval() before")
        return self.plain()

    def plain(self) -> torch.Tensor:
        """What is made of the parameter as it is now, without a gradient."""
        weight = None if self._parameter is None else self._parameter()
        if weight is None:
            raise InputError(
                f"a layer with {type(self).__name__} must have run once before it is exported, with the "
                "parameter that it has now: run the module on an input first"
            )
        with ThreadPoolExecutor(1) as aside:
            return aside.submit(_without_gradient, self, weight).result()

    def __getstate__(self) -> dict[str, Any]:
        own = ("_parameter", "_number")
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._begin()


def _without_gradient(module: Parametrization, weight: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return module.made_of(weight.detach()).clone()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _plain_of(number: int) -> torch.Tensor:
    return _LIVING[number].plain()
