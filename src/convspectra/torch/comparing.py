"""Whether a layer computes what its weight and geometry say, by what it did to an input."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from functools import partial
from typing import Any, TypeGuard

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules import module as global_hooks
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils.hooks import RemovableHandle

from .sharing import is_cut_up

# Of half the sum of squares of all products. Winograd's algorithm loses digits, TF32 has 10 bits.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}
_TF32 = 1e-2
_ROWS = 64
"""Rows of an input of a linear layer that are compared."""


class Compared:
    """Hooks of one layer: the first sample of an input, or rows of it, is computed again.

    Of each size and mode at the first call, the second, the fourth and so on, counted anew after each action.
    The input is that which the caller gives, before any other hook; the output that which the caller gets.

    Attributes:
        calls: how often each size was met, by the mode and the size, since the last action.
        ran: whether there was any call.
        agrees: whether an input showed that the layer computes what it says; inputs that show nothing
            (zeros, NaN) leave it False.
        differs: whether one of them came out otherwise.
        code: what runs when the layer is called; see `code_of`.
    """

    def __init__(self, module: nn.Module, own_padding: bool) -> None:
        self.own_padding = own_padding
        self.calls: dict[tuple[int | bool, ...], int] = {}
        self.ran = self.agrees = self.differs = False
        self.code = code_of(module)
        self._samples: dict[int, torch.Tensor] = {}  # by thread: those of DataParallel share the hooks
        self._handles: list[RemovableHandle] = []

    def attach(self, module: nn.Module) -> None:
        """Register the hooks, before and after all others that the layer has by now."""
        last = module.register_forward_hook(self.after, with_kwargs=True)
        first = module.register_forward_pre_hook(self.before, with_kwargs=True, prepend=True)
        self._handles = [first, last]

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The pre-hook: keeps a sample of what is given."""
        given = given_to(args, kwargs)
        if not _has_values(given) or not _is_stock_call(module):
            return
        self.ran = True
        if any(map(_is_foreign, global_hooks._global_forward_pre_hooks.values())):
            return  # they came first: what the caller gave is not known
        place = self._handles[1].id
        if place in module._forward_hooks and next(reversed(module._forward_hooks)) != place:
            module._forward_hooks.move_to_end(place)  # type: ignore[attr-defined]
        size = (module.training, *given.shape[1:])
        self.calls[size] = count = self.calls.get(size, 0) + 1
        if count & (count - 1) == 0 or not self.agrees:
            self._samples[threading.get_ident()] = _sample(module, given.detach()).clone()

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """The forward hook: computes the sample again."""
        sample = None if torch.compiler.is_compiling() else self._samples.pop(threading.get_ident(), None)
        if sample is not None:
            agrees = computes_what_it_says(module, sample, output, self.own_padding)
            self.agrees = self.agrees or agrees is True
            self.differs = self.differs or agrees is False

    @property
    def shown(self) -> tuple[bool, bool, bool]:
        """What passes have shown."""
        return self.ran, self.agrees, self.differs

    def learn(self, shown: Iterable[tuple[bool, bool, bool]]) -> None:
        """Take over what passes in other processes have shown."""
        self.ran, self.agrees, self.differs = map(any, zip(*shown, strict=True))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_samples": {}}


def given_to(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a layer was given."""
    return args[0] if args else kwargs.get("input")


def is_traced() -> bool:
    """Whether `torch.jit` traces."""
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    return tracing


def _has_values(given: Any) -> TypeGuard[torch.Tensor]:
    """Whether an input is no stand-in, as of traced graphs and transformed functions."""
    if not isinstance(given, torch.Tensor) or given.is_meta or torch.compiler.is_compiling():
        return False
    transformed: bool = torch._C._functorch.is_functorch_wrapped_tensor(given)
    return not (is_traced() or transformed)


def is_stock(module: nn.Module) -> bool:
    """Whether only PyTorch's own code runs when the layer is called: then what it computes is known."""
    hooks = _foreign_hooks(module)
    return not hooks and _is_stock_call(module) and all(map(_is_of_layers, _functions(module)))


def _is_stock_call(module: nn.Module) -> bool:
    """Whether hooks see all of what a call does."""
    return str(type(module).__call__.__module__).startswith("torch.")


def code_of(module: nn.Module) -> list[str]:
    """What runs when the module is called, by name: functions and foreign hooks; and its settings."""
    parts = (*_functions(module), type(module).__call__, *_foreign_hooks(module))
    named = [one if hasattr(one, "__qualname__") else type(one) for one in parts]
    return [*(f"{one.__module__}.{one.__qualname__}" for one in named), module.extra_repr()]


def _functions(module: nn.Module) -> list[Any]:
    return [getattr(module, name) for name in ("forward", "_conv_forward") if hasattr(module, name)]


def _is_of_layers(function: Any) -> bool:
    return str(function.__module__).startswith("torch.nn.modules.")


def _foreign_hooks(module: nn.Module) -> list[Any]:
    """Neither this package's nor PyTorch's own, such as those of FSDP2; those of all modules included."""
    hooks = (
        *global_hooks._global_forward_pre_hooks.values(),
        *global_hooks._global_forward_hooks.values(),
        *module._forward_pre_hooks.values(),
        *module._forward_hooks.values(),
    )
    return [one for one in hooks if _is_foreign(one)]


def _is_foreign(hook: Any) -> bool:
    return not _home_of(hook).startswith((f"{__package__}.", "torch."))


def _home_of(hook: Any) -> str:
    function = hook.func if isinstance(hook, partial) else hook
    owner = getattr(function, "__self__", function)
    return str(owner.__module__ if hasattr(owner, "__qualname__") else type(owner).__module__)


def computes_what_it_says(module: nn.Module, given: Any, output: Any, own_padding: bool) -> bool | None:
    """Whether a convolution or linear layer turned an input into what weight, bias and geometry make of it.

    Arguments:
        own_padding: the output of a transposed layer must have the size that its `output_padding` says.

    Returns:
        None where that cannot be told: the input is zero, or not finite, or so small that rounding hides it
            behind the bias, or the weight is cut up.
    """
    if not isinstance(output, torch.Tensor):
        return False
    if not (_has_values(given) and _has_values(output)) or given.is_complex():
        return None
    if is_cut_up(module.weight):  # type: ignore[arg-type]
        return None
    with torch.no_grad(), torch.autocast(given.device.type, enabled=False):
        precision = _precision(given, output)
        wide = torch.float64 if precision == torch.float64 else torch.float32
        parts = _sample(module, given), module.weight, _sample(module, output)
        x, w, y = (part.detach().to(wide) for part in parts)  # type: ignore[operator]
        # Products of squares stay in range.
        size_of_x, size_of_w = (float(part.abs().amax()) if part.numel() else 0.0 for part in (x, w))
        unit = size_of_x * size_of_w
        if not (unit > 0 and math.isfinite(unit)):
            return None
        x, w, y = x / size_of_x, w / size_of_w, y / unit
        expected = _linear_part(module, x, w)
        if isinstance(module, _ConvTransposeNd) and not own_padding:
            axes = tuple(map(min, expected.shape, y.shape))
            expected, y = (part[tuple(map(slice, axes))] for part in (expected, y))
        if expected.shape != y.shape:
            return False
        size = float(_linear_part(module, x.square(), w.square()).clamp(min=0).sum().sqrt())
        if module.bias is not None:
            channel = expected.ndim - 1 if isinstance(module, nn.Linear) else expected.ndim - w.ndim + 1
            shape = [-1 if axis == channel else 1 for axis in range(expected.ndim)]
            expected = expected + (module.bias.detach().to(wide) / unit).reshape(shape)  # type: ignore[operator]
        away, tolerance = float((y - expected).norm()), _TOLERANCE[precision]
        if given.device.type == "cuda" and precision == torch.float32:
            tolerance = _TF32
        limits = torch.finfo(precision)
        least = limits.tiny * (limits.eps if precision == torch.float16 else 1)
        rounding = limits.eps * float(expected.norm()) + least / unit * math.sqrt(expected.numel())
        if not (size > 0 and rounding <= tolerance * size and math.isfinite(away)):
            return None
        return away <= tolerance * size + rounding


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
    transposed = isinstance(module, _ConvTransposeNd)
    convolve = getattr(functional, f"conv{'_transpose' * transposed}{axes}d")
    padding: Any = module.padding
    if module.padding_mode != "zeros":
        x, padding = functional.pad(x, _pads(module), mode=module.padding_mode), 0
    more: tuple[Any, ...]
    if transposed:
        more = (module.stride, padding, module.output_padding, module.groups, module.dilation)
    else:
        more = (module.stride, padding, module.dilation, module.groups)
    found: torch.Tensor = convolve(x, weight, None, *more)
    return found


def _pads(module: _ConvNd) -> list[int]:
    """As `functional.pad` takes them, the last axis first, by what the settings say now."""
    pads: list[int] = []
    for axis in reversed(range(len(module.kernel_size))):
        if module.padding == "same":
            total = module.dilation[axis] * (module.kernel_size[axis] - 1)
            pads += [total // 2, total - total // 2]
        else:
            pads += [0, 0] if module.padding == "valid" else [int(module.padding[axis])] * 2
    return pads
