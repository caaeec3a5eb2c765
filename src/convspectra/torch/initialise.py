"""Initial weights whose operator norm is known."""

from __future__ import annotations

import math
from itertools import product
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from ..checks import check_limit, check_word
from ..constrain import Limits, Use
from ..errors import InputError
from ..guarantee import Guarantee
from .orthogonal import orthonormal_factor
from .tensors import norm_of_tensor
from .weight_uses import promised_geometry

Start = Literal["delta_orthogonal", "scaled"]


def initialise_(
    module: nn.Module,
    norm: float = 1.0,
    *,
    method: Start = "delta_orthogonal",
    input_shape: tuple[int, ...] | None = None,
    guarantee: Guarantee = "layer",
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Set the weight of a layer, or of every layer of a model, in place, to one of this operator norm.

    `delta_orthogonal`: a random matrix with orthonormal rows or columns (whichever are fewer), times `norm`,
    at the tap that reads the pixel itself, all other taps zero: every singular value is `norm`, at every
    input size. A strided layer has one such matrix for all pixels that a step of the stride goes over (as far
    as the kernel covers them without overlap), side by side; pixels that none of these taps reads
    count as singular values 0. With groups each has its own.

    `scaled`: the weight as it is, times what gives it this norm at `input_shape`.

    Arguments:
        module: a convolution or linear layer, or a model that holds some (with `delta_orthogonal`). Biases
            are left as they are.
        norm: the operator norm to have, positive.
        method: `"delta_orthogonal"` or `"scaled"`.
        input_shape: for `scaled` only: as of `operator_norm`.
        guarantee: for `scaled` only: which operator's norm; with `layer` and `any_size` it is at most `norm`.
        generator: for the random matrices.

    Returns:
        The module.

    Raises:
        InputError: norm is not positive and finite, an unknown method.
        InputError: no layer; a weight that is computed from others, half precision with `delta_orthogonal`,
            a zero weight to scale, no input_shape, or `scaled` for more than one layer.

    Notes:
        Not guaranteed: `delta_orthogonal` singular values at the border of a layer that pads less than its
        tap reaches.

    References:
        Xiao, Bahri, Sohl-Dickstein, Schoenholz and Pennington (2018), Algorithm 1; Saxe, McClelland and
        Ganguli (2014).

    Examples:
        >>> layer = initialise_(nn.Conv2d(4, 4, 3, padding=1, bias=False), norm=2.0)
        >>> x = torch.randn(1, 4, 8, 8)
        >>> bool(torch.isclose(layer(x).norm(), 2 * x.norm()))
        True
    """
    target = check_limit("norm", norm)
    check_word("method", method, get_args(Start))
    layers = [part for part in module.modules() if isinstance(part, (_ConvNd, nn.Linear))]
    if not layers:
        raise InputError(f"module must be or hold a convolution or linear layer; got {type(module).__name__}")
    if method == "scaled" and len(layers) > 1:
        raise InputError(f"method='scaled' takes one layer with its input_shape; got {len(layers)} layers")
    for layer in layers:
        if "weight" not in layer._parameters:
            raise InputError(
                f"the weight of {layer} is computed from other parameters: initialise it before the "
                "parametrization is registered"
            )
    for layer in layers:
        made = (
            _scaled(layer, target, input_shape, guarantee)
            if method == "scaled"
            else _delta_orthogonal(layer, target, generator)
        )
        with torch.no_grad():
            layer.weight.copy_(made)
    return module


def _scaled(
    layer: _ConvNd | nn.Linear, norm: float, input_shape: tuple[int, ...] | None, guarantee: Guarantee
) -> torch.Tensor:
    weight = layer.weight.detach()
    use = Use(promised_geometry(layer, input_shape, guarantee))
    now = norm_of_tensor(weight, [use], Limits(norm, guarantee=guarantee))
    if now == 0:
        raise InputError(f"the weight of {layer} is zero and cannot be scaled; give it values first")
    return weight * (norm / now)


def _delta_orthogonal(
    layer: _ConvNd | nn.Linear, norm: float, generator: torch.Generator | None
) -> torch.Tensor:
    weight = layer.weight.detach()
    groups = layer.groups if isinstance(layer, _ConvNd) else 1
    places: list[tuple[int, ...]] = _taps_read_once(layer) if isinstance(layer, _ConvNd) else [()]
    rows, columns = weight.shape[0] // groups, weight.shape[1]
    made = torch.zeros(weight.shape, dtype=torch.float64)
    for group in range(groups):
        matrix = _orthonormal(rows, columns * len(places), generator)
        for place, part in zip(places, torch.split(matrix, columns, dim=1), strict=True):
            index: Any = (slice(group * rows, (group + 1) * rows), slice(None), *place)
            made[index] = norm * part
    return made.to(weight.dtype)


def _orthonormal(rows: int, columns: int, generator: torch.Generator | None) -> torch.Tensor:
    """Uniformly distributed, of full rank."""
    device = "cpu" if generator is None else generator.device
    tall = torch.randn(
        max(rows, columns), min(rows, columns), dtype=torch.float64, generator=generator, device=device
    )
    q, _ = orthonormal_factor(tall.cpu())
    return q if rows >= columns else q.T


def _taps_read_once(layer: _ConvNd) -> list[tuple[int, ...]]:
    """The taps, from the one that reads the pixel itself, that read different pixels at every step."""
    ranges = []
    for axis, (k, s, d) in enumerate(zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)):
        count = min(k, s // math.gcd(s, d))
        if isinstance(layer.padding, str):
            before = d * (k - 1) // 2 if layer.padding == "same" else 0
        else:
            before = int(layer.padding[axis])
        first = min(before // d, k - count)
        ranges.append(range(first, first + count))
    return list(product(*ranges))
