"""Whether a layer computes what its weight and geometry say, by what it did to an input."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils.hooks import RemovableHandle

from .sharing import is_cut_up

# Of half the sum of squares of all products. Winograd's algorithm loses digits, TF32 has 10 bits.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}
_TF32 = 1e-2
_ROWS = 64
"""Rows of an input of a linear layer that are compared."""


class Compared:
    """A forward hook of one layer: at each new size the first sample, or rows of it, is computed again.

    In training and in evaluation, which a forward of its own can tell apart.

    Attributes:
        shapes: those compared so far, each with the mode, at most `most`; none of an input that says nothing
            (zeros, NaN).
        differs: whether one of them came out otherwise.
        code: what ran when they were compared; see `code_of`.
    """

    def __init__(self, own_padding: bool, most: int) -> None:
        self.own_padding, self.most = own_padding, most
        self.shapes: list[tuple[int | bool, ...]] = []
        self.differs = False
        self.code: list[str] = []
        self.handle: RemovableHandle | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
        if torch.compiler.is_compiling() or tracing or len(self.shapes) >= self.most:
            return
        given = args[0] if args else kwargs.get("input")
        shape = (module.training, *getattr(given, "shape", ())[1:])
        if shape in self.shapes:
            return
        agrees = computes_what_it_says(module, given, output, self.own_padding)
        if agrees is not None:
            self.shapes.append(shape)
            self.differs = self.differs or not agrees
            self.code = code_of(module)


def has_own_forward(module: nn.Module) -> bool:
    """Whether it computes by other code than PyTorch's own layers, whose forward passes are known."""
    code = [getattr(module, name) for name in ("forward", "_conv_forward") if hasattr(module, name)]
    return not all(str(one.__module__).startswith("torch.nn.modules.") for one in code)


def code_of(module: nn.Module) -> list[str]:
    """What runs when the module is called, by name: its functions, and hooks that are not this package's."""
    functions = [getattr(module, name) for name in ("forward", "_conv_forward") if hasattr(module, name)]
    hooks = [one for one in module._forward_hooks.values() if not _is_ours(one)]
    named = [one if hasattr(one, "__qualname__") else type(one) for one in (*functions, *hooks)]
    return [f"{one.__module__}.{one.__qualname__}" for one in named]


def _is_ours(hook: object) -> bool:
    return type(hook).__module__.startswith(f"{__package__}.")


def computes_what_it_says(module: nn.Module, given: Any, output: Any, own_padding: bool) -> bool | None:
    """Whether a convolution or linear layer turned an input into what weight, bias and geometry make of it.

    Arguments:
        own_padding: the output of a transposed layer must have the size that its `output_padding` says.

    Returns:
        None where that cannot be told: the input is zero, or not finite, or the weight is cut up.
    """
    if not isinstance(output, torch.Tensor):
        return False
    weight, bias = module.weight, module.bias
    if not isinstance(given, torch.Tensor) or given.is_complex() or is_cut_up(weight):  # type: ignore[arg-type]
        return None
    with torch.no_grad(), torch.autocast(given.device.type, enabled=False):
        precision = _precision(given, output)
        wide = torch.float64 if precision == torch.float64 else torch.float32
        x, y = (_sample(module, part.detach()).to(wide) for part in (given, output))
        w = weight.detach().to(wide)  # type: ignore[operator]
        expected = _linear_part(module, x, w)
        if isinstance(module, _ConvTransposeNd) and not own_padding:
            axes = tuple(map(min, expected.shape, y.shape))
            expected, y = (part[tuple(map(slice, axes))] for part in (expected, y))
        if expected.shape != y.shape:
            return False
        products = _linear_part(module, x.square(), w.square()).clamp(min=0)
        size = float(products.sum().sqrt())
        if bias is not None:
            last = expected.ndim - 1 if isinstance(module, nn.Linear) else -len(w.shape[2:]) - 1
            shape = [-1 if axis == last % expected.ndim else 1 for axis in range(expected.ndim)]
            expected = expected + bias.detach().to(wide).reshape(shape)  # type: ignore[operator]
        away = float((y - expected).norm())
        if not (size > 0 and math.isfinite(size + away)):
            return None
        tolerance = _TOLERANCE[precision]
        if given.device.type == "cuda" and precision == torch.float32:
            tolerance = _TF32
        return away <= tolerance * (size + 1e-3 * float(expected.norm()))


def _precision(given: torch.Tensor, output: torch.Tensor) -> torch.dtype:
    """The least precise of what may have been computed in."""
    found = {given.dtype, output.dtype}
    return max((d for d in found if d in _TOLERANCE), key=lambda d: torch.finfo(d).eps, default=torch.float32)


def _sample(module: nn.Module, values: torch.Tensor) -> torch.Tensor:
    if isinstance(module, nn.Linear):
        return values.reshape(-1, values.shape[-1])[:_ROWS]
    assert isinstance(module, _ConvNd)
    return values[:1] if values.ndim == len(module.kernel_size) + 2 else values


def _linear_part(module: nn.Module, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    if isinstance(module, nn.Linear):
        return functional.linear(x, weight)
    assert isinstance(module, _ConvNd)
    axes = len(module.kernel_size)
    if isinstance(module, _ConvTransposeNd):
        convolve = getattr(functional, f"conv_transpose{axes}d")
        more = (module.output_padding, module.groups, module.dilation)
        found: torch.Tensor = convolve(x, weight, None, module.stride, module.padding, *more)
        return found
    stock: Any = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[axes]
    correlated: torch.Tensor = stock._conv_forward(module, x, weight, None)
    return correlated
