"""Reading geometry off live modules: one forward pass, watched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from ..errors import GeometryError, InputError
from ..geometry import ConvGeometry
from . import batch_norm
from .names import Names
from .reading import first_line
from .records import ConvLayer, Model
from .weights import linear, stated_convolution

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_FUNCTIONAL = {
    getattr(torch.nn.functional, name)
    for name in (
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
    )
}


def geometry_of(module: nn.Module, input_shape: tuple[int, ...]) -> ConvGeometry:
    """The geometry of one convolution module at a spatial input size.

    Arguments:
        module: Conv1d/2d/3d, ConvTranspose1d/2d/3d, or Linear (whose input size is one point).
        input_shape: sizes only, one an axis.

    Returns:
        `ConvGeometry`, as the layer runs.

    Raises:
        GeometryError: another kind of module.
    """
    if isinstance(module, nn.Linear):
        return ConvGeometry((1,))
    if not isinstance(module, _ConvNd):
        raise GeometryError(f"expected a convolution or linear module; got {type(module).__name__}")
    transposed = isinstance(module, _ConvTransposeNd)
    return ConvGeometry(
        input_shape,
        stride=module.stride,
        dilation=module.dilation,
        groups=module.groups,
        transposed=transposed,
        padding=module.padding,  # type: ignore[arg-type]  # "same" and "valid" or integers
        padding_mode=module.padding_mode,
        output_padding=module.output_padding if transposed else 0,
    )


def trace(module: nn.Module, sample_shape: tuple[int, ...], *, name: str | None = None) -> Model:
    """Every convolution and linear layer of a module, in the order in which one forward pass runs them.

    The pass is of zeros in evaluation mode, without gradients; hooks and training modes are put back.

    Arguments:
        module: takes one tensor.
        sample_shape: channels and sizes of one input, without the batch.
        name: what reports call it; default its class.

    Returns:
        `Model` of format `module`. A layer that runs at several sizes has one row for each; one
        that never runs has no geometry. A batch norm is taken to follow a convolution when it is
        given the very tensor that the convolution returned; whether something else reads that tensor
        too is not seen.

    Raises:
        InputError: the forward pass fails at this shape.
    """
    watcher = _Watcher(module)
    example = example_of(module, sample_shape)
    try:
        watcher.attach()
        with evaluating(module), watcher.functional:
            module(example)
    except Exception as error:  # noqa: BLE001  # whatever a user's forward raises
        raise InputError(
            f"{type(module).__name__} failed on an input of shape {tuple(example.shape)}: "
            f"{type(error).__name__}: {first_line(error)}; give the sample_shape it takes"
        ) from None
    finally:
        watcher.detach()
    return Model(
        name=name or type(module).__name__,
        format="module",
        layers=tuple(watcher.layers()),
        other=dict(watcher.other()),
        notes=tuple(watcher.notes()),
    )


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; each part's training mode is put back."""
    training = {part: part.training for part in module.modules()}
    try:
        module.eval()
        with torch.no_grad():
            yield
    finally:
        for part, mode in training.items():
            part.training = mode


def example_of(module: nn.Module, sample_shape: tuple[int, ...]) -> torch.Tensor:
    """Zeros of one sample, of the type and on the device of the module's parameters."""
    floating = [part for part in module.parameters() if part.is_floating_point()]
    dtype = floating[0].dtype if floating else torch.float32
    device = floating[0].device if floating else torch.device("cpu")
    return torch.zeros((1, *sample_shape), dtype=dtype, device=device)


class _CountFunctional(TorchFunctionMode):
    """Counts convolutions that run; those of modules are subtracted by the watcher."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _FUNCTIONAL:
            self.calls += 1
        return func(*args, **(kwargs or {}))


class _Watcher:
    """What a forward pass did, by module."""

    def __init__(self, module: nn.Module) -> None:
        self.modules = {part: name for name, part in module.named_modules()}
        self.sizes: dict[nn.Module, list[tuple[int, ...]]] = {}
        self.returned: dict[int, tuple[torch.Tensor, nn.Module]] = {}
        self.norms: dict[nn.Module, nn.Module] = {}
        self.handles: list[RemovableHandle] = []
        self.functional = _CountFunctional()
        self.calls = 0

    def attach(self) -> None:
        for part in self.modules:
            if isinstance(part, (_ConvNd, nn.Linear, *_BATCH_NORMS)):
                self.handles.append(part.register_forward_hook(self.saw))

    def detach(self) -> None:
        for handle in self.handles:
            handle.remove()

    def saw(self, part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """A forward hook: one call of one module."""
        if isinstance(part, _BATCH_NORMS):
            source = self.returned.get(id(inputs[0]))
            if source is not None:
                self.norms[source[1]] = part
            return
        size = tuple(inputs[0].shape[-len(part.kernel_size) :]) if isinstance(part, _ConvNd) else (1,)
        seen = self.sizes.setdefault(part, [])
        if size not in seen:
            seen.append(size)
        if isinstance(part, _ConvNd):
            self.calls += 1
        if isinstance(part, _ConvNd) and output.ndim == part.weight.ndim:  # else it has no batch
            # Kept with its tensor, so that the id cannot be given to another one.
            self.returned[id(output)] = (output, part)

    def layers(self) -> list[ConvLayer]:
        """Layers in the order of their first call, then those that were never called."""
        names = Names()
        found = []
        for part, sizes in self.sizes.items():
            for size in sizes:
                suffix = f"@{'x'.join(map(str, size))}" if len(sizes) > 1 else ""
                found.append(self.layer(part, size, names.unique(self.modules[part] + suffix)))
        found.extend(
            self.layer(part, None, names.unique(name))
            for part, name in self.modules.items()
            if isinstance(part, (_ConvNd, nn.Linear)) and part not in self.sizes
        )
        return found

    def layer(self, part: Any, size: tuple[int, ...] | None, name: str) -> ConvLayer:
        kernel = part.weight.detach().cpu()
        kernel = kernel.float() if kernel.dtype == torch.bfloat16 else kernel
        geometry = None if size is None else geometry_of(part, size)
        reason = "" if geometry else "the forward pass never ran this layer"
        name, source = name or type(part).__name__, "traced module"
        if isinstance(part, nn.Linear):
            return replace(linear(name, kernel.numpy(), source), geometry=geometry, reason=reason)
        transposed = isinstance(part, _ConvTransposeNd)
        layer = stated_convolution(name, kernel.numpy(), transposed, geometry, source, reason)
        return replace(layer, batch_norm_scale=_scale(self.norms.get(part)))

    def other(self) -> Counter[str]:
        """Leaf modules that are no convolution, by class."""
        return Counter(
            type(part).__name__
            for part in self.modules
            if not isinstance(part, (_ConvNd, nn.Linear)) and not any(True for _ in part.children())
        )

    def notes(self) -> list[str]:
        unseen = self.functional.calls - self.calls
        if unseen <= 0:
            return []
        return [f"{unseen} convolutions ran as functions, not as modules; they are not in this report"]


def _scale(norm: Any) -> np.ndarray[Any, Any] | None:
    if norm is None or norm.running_var is None:
        return None
    gamma = None if norm.weight is None else norm.weight.detach().cpu().double().numpy()
    variance = norm.running_var.detach().cpu().double().numpy()
    return np.asarray(batch_norm.scale(gamma, variance, norm.eps))
