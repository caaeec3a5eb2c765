"""`constrain` on tensors: half precision computed in float32, linear weights as kernels of one tap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from .._compat import Array
from ..constrain import Constrained, Limits, Precision, Use, constrain
from ..constrain.weight import Dual, norm_of, target_for
from ..errors import KernelError
from ..geometry import ConvGeometry
from ..guarantee import Guarantee

TOLERANCE = 0.1
"""Of `"project"`: the optimizer moves weights again at once, so that nearer is not worth its time."""


def constrain_tensor(
    weight: torch.Tensor,
    uses: Sequence[Use],
    limits: Limits,
    *,
    dual: Dual | None = None,
    measure: bool = True,
) -> Constrained:
    """`constrain` for a weight of any floating type, whose result is a new tensor of its shape and type.

    Differentiable where the method is, if the weight takes a gradient.
    """
    kernel = _wide(weight, uses)
    precision = None
    if kernel.dtype != weight.dtype:
        eps = float(torch.finfo(weight.dtype).eps)
        precision = Precision(eps, partial(_rounded, dtype=weight.dtype))
    start = None if dual is None else (dual[0], _array(dual[1]))
    found = constrain(_array(kernel), uses, limits, precision=precision, dual=start, measure=measure)
    return replace(
        found,
        weight=_tensor(found.weight).to(weight.dtype).reshape(weight.shape),
        dual=None if found.dual is None else (found.dual[0], _tensor(found.dual[1])),
    )


def norm_of_tensor(weight: torch.Tensor, uses: Sequence[Use], limits: Limits) -> float:
    """The largest operator norm of all uses."""
    kernel = _array(_wide(weight.detach(), uses))
    return max(norm_of(kernel, use, limits) for use in uses)


def torus_of(shape: Sequence[int], geometry: ConvGeometry, guarantee: Guarantee) -> tuple[int, ...]:
    """The torus that the guarantee is decided on for a weight of this shape; its output's if transposed.

    Raises:
        GeometryError: the layer has no such guarantee.
    """
    zeros = torch.zeros((*shape, 1) if len(shape) == 2 else tuple(shape), dtype=torch.float64)
    return target_for(zeros.numpy(), Use(geometry), Limits(1.0, guarantee=guarantee)).torus.input_shape


def cost_of(weight: torch.Tensor, uses: Sequence[Use]) -> float:
    """About how many multiplications `constrain` takes, up to a factor that all weights share."""
    shape = (*weight.shape, 1) if weight.ndim == 2 else tuple(weight.shape)
    points = sum(use.geometry.correlation(shape).points for use in uses)
    return float(points * shape[0] * shape[1] * min(shape[:2]))


def check_dtype(name: str, weight: torch.Tensor) -> None:
    """Raise the KernelError of a weight that is not of real floats that can be computed with."""
    if not weight.is_floating_point() or weight.dtype.itemsize < 2:
        raise KernelError(
            f"{name} must hold real floats of 16 bits or more; got {weight.dtype}: convert the module first, "
            "or take the real and the imaginary part as channels of one real layer"
        )


def _wide(weight: torch.Tensor, uses: Sequence[Use]) -> torch.Tensor:
    """The weight as a kernel, in the precision that is computed in: double where batch norms scale it."""
    kernel = weight[..., None] if weight.ndim == 2 else weight
    if any(use.scale is not None for use in uses):
        return kernel.double()
    return kernel.float() if kernel.dtype in (torch.float16, torch.bfloat16) else kernel


def _rounded(kernel: Array, dtype: torch.dtype) -> Array:
    given = _tensor(kernel)
    rounded = given.to(dtype).to(given.dtype)
    return rounded if kernel is given else rounded.numpy()


def _array(kernel: torch.Tensor) -> Array:
    """A NumPy view of what lies on the CPU and takes no gradient; else the tensor."""
    tracked = kernel.requires_grad and torch.is_grad_enabled()
    return kernel if tracked or kernel.device.type != "cpu" else kernel.detach().numpy()


def _tensor(array: Array) -> torch.Tensor:
    return array if isinstance(array, torch.Tensor) else torch.from_numpy(array)
