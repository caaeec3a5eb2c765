"""What no attack can do: a proven Lipschitz constant of `resnet.ResNet`, and the images it certifies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from convspectra.bounds import operator_norm
from convspectra.errors import InputError
from convspectra.models import ConvLayer
from convspectra.torch import trace

from ..networks.resnet import Block, ResNet
from .attack import check_images, evaluating

# Folding rounds in float64 and a model may hold its deviations in float32: a few 1e-8 together.
_ALLOWANCE = 1 + 1e-6

Array = np.ndarray[Any, Any]


def lipschitz_bound(
    model: ResNet, image_shape: tuple[int, ...], deviation: float | Sequence[float] = 1.0
) -> float:
    """An UPPER bound of the Lipschitz constant of a network's logits, from l2 to l2, in evaluation mode.

        L = ||stem / deviation|| P prod_blocks (1 + ||conv1 S1|| ||conv2 S2||) ||head S|| / sqrt(H W)

    S is the diagonal `gamma / sqrt(var + eps)` of the batch norm in front, 1 without it, folded onto the
    input channels of what follows: `relu(S x + t) - relu(S y + t) = D S (x - y)` with a diagonal
    `0 <= D <= 1`, and D S = S D, so `||K (relu(S x + t) - relu(S y + t))|| <= ||K S|| ||x - y||`. Further

    - each norm is the upper side of `operator_norm` for the layer as it pads, at the size it runs at;
    - a shortcut, which drops points and adds zeros, has norm 1;
    - P is 1 without max pooling. A pixel is in at most `w = ceil(k / s)^2` windows, 4 for 3x3 windows of
      stride 2, and a maximum moves by no more than the largest change in its window: P = sqrt(w) = 2;
    - the mean over H W pixels has norm `1 / sqrt(H W)`.

    Arguments:
        model: on any device, in any mode, its weights parametrised or not.
        image_shape: channels, height and width.
        deviation: images in [0, 1] are divided by it before they enter the model; one number, or one a
            channel. 1 for the constant with respect to what enters.

    Returns:
        computed in float64; inf where it is too large for that, or a weight is infinite or NaN.

    Raises:
        InputError: another kind of network, a batch norm without running variance, a deviation that is not
            positive, an image shape that the model does not take, a hook that changes what a convolution or
            the head returns.
        GeometryError: reflect padding of a single point.

    Not guaranteed: tightness, as it is a product over layers, and grows exponentially with depth. The
    rounding of the network's own arithmetic is not in it; nor are hooks on other parts.
    """
    if not isinstance(model, ResNet):
        raise InputError(f"model must be a convspectra.experiments.resnet.ResNet; got {type(model).__name__}")
    layers = {layer.name: layer for layer in trace(model, image_shape).layers}
    with evaluating(model), torch.no_grad():
        scale = _inverse(deviation, model.stem.in_channels)
        factors = [_norm(model, layers["stem"], scale), _pool_factor(model.pool)]
        for place, block in model.blocks.named_children():
            assert isinstance(block, Block)
            first = _norm(
                model, layers[f"blocks.{place}.conv1"], _scale(block.norm1, f"blocks.{place}.norm1")
            )
            second = _norm(
                model, layers[f"blocks.{place}.conv2"], _scale(block.norm2, f"blocks.{place}.norm2")
            )
            factors.append(1 + first * second)
        head = _norm(model, layers["head"], _scale(model.norm, "norm"))
    factors.append(head / math.sqrt(_points(list(layers.values()))))
    if not all(math.isfinite(factor) for factor in factors):
        return math.inf
    # Zero times a product that overflowed would be NaN.
    return 0.0 if 0.0 in factors else math.prod(factors) * _ALLOWANCE


def certified_error(
    model: nn.Module, images: Tensor, labels: Tensor, radius: float, lipschitz: float, *, batch: int = 500
) -> float:
    """The share of images that are not certified to be right within `radius`.

    An image is certified where the logit of its label leads by more than `sqrt(2) lipschitz radius`: the
    difference of two logits is `(e_y - e_j)^T z`, hence `sqrt(2) lipschitz`-Lipschitz. An UPPER bound of the
    robust error, the share of images with a misclassified point in their l2 ball. At radius 0 it is the
    error on the images, ties counted as wrong.

    Arguments:
        model: takes images to logits of shape (N, classes); evaluated in evaluation mode, and left as it was.
        images: floating point, of shape (N, ...), on the device of the model.
        labels: whole numbers, of shape (N,).
        radius: l2, in units of the images.
        lipschitz: an upper bound of the Lipschitz constant of `model`, such as `lipschitz_bound` with the
            deviation by which it divides.
        batch: images at a time.

    Raises:
        InputError: images or labels as for `attack.pgd`, no images, a radius or constant that is negative or
            NaN, a batch below 1.

    Not guaranteed: anything about the rounding of the logits; leads within it may be certified.

    Reference: Tsuzuku, Sato and Sugiyama (2018), Proposition 1.
    """
    check_images(images, labels)
    if not len(images) or batch < 1:
        raise InputError(
            f"images must hold at least one image and batch be at least 1; got {len(images)}, {batch!r}"
        )
    if not (0 <= radius < math.inf and lipschitz >= 0):
        raise InputError(f"radius and lipschitz must be at least 0; got {radius!r} and {lipschitz!r}")
    needed = math.sqrt(2) * lipschitz * radius if radius > 0 else 0.0
    certified = 0
    with evaluating(model), torch.no_grad():
        for x, y in zip(torch.split(images, batch), torch.split(labels, batch), strict=True):
            certified += int((_leads(model(x).double(), y.long()) > needed).sum())
    return 1 - certified / len(images)


def _leads(logits: Tensor, labels: Tensor) -> Tensor:
    """By how much the logit of the label is above the largest other one, of shape (N,)."""
    own = logits.gather(1, labels[:, None])
    return (own - logits.scatter(1, labels[:, None], -math.inf)).amin(dim=1)


def _norm(model: nn.Module, layer: ConvLayer, scale: Array) -> float:
    """Upper bound for a layer after a diagonal on its input channels; NaN where an entry is not finite."""
    kernel = layer.kernel.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        kernel = kernel * scale.reshape(1, -1, *[1] * (kernel.ndim - 2))
    if not np.isfinite(kernel).all():
        return math.nan
    assert layer.geometry is not None
    bound = operator_norm(kernel, layer.geometry)
    assert bound.upper is not None
    _check_hooks(model.get_submodule(layer.name), layer)
    return float(bound.upper)


def _check_hooks(part: nn.Module, layer: ConvLayer) -> None:
    """Hooks that only watch are welcome; others would make another layer of it."""
    assert isinstance(part, (nn.Conv2d, nn.Linear))
    assert layer.geometry is not None
    channels = part.in_channels if isinstance(part, nn.Conv2d) else part.in_features
    points = layer.geometry.input_shape if isinstance(part, nn.Conv2d) else ()
    draw = torch.randn((1, channels, *points), generator=torch.Generator().manual_seed(0))
    x = draw.to(part.weight.device, part.weight.dtype)
    if not torch.equal(part(x), part.forward(x)):
        raise InputError(
            f"hooks on {layer.name} must leave its output alone, as its norm is that of its kernel; remove "
            "them, or make them a parametrisation of the weight"
        )


def _pool_factor(pool: nn.Module) -> float:
    if isinstance(pool, nn.Identity):
        return 1.0
    assert isinstance(pool, nn.MaxPool2d)
    taps, stride = pool.kernel_size, pool.stride
    assert isinstance(taps, int)
    assert isinstance(stride, int)
    return float(-(-taps // stride))


def _scale(norm: nn.Module, name: str) -> Array:
    """`gamma / sqrt(var + eps)` of shape (C,); 1 of shape () where there is no batch norm."""
    if isinstance(norm, nn.Identity):
        return np.ones(())
    if not isinstance(norm, nn.BatchNorm2d) or norm.running_var is None:
        raise InputError(
            f"{name} must be a batch norm with running statistics, or Identity; got {norm}; without them its "
            "factor depends on the batch"
        )
    variance = norm.running_var.double().cpu().numpy()
    gamma = 1.0 if norm.weight is None else norm.weight.double().cpu().numpy()
    return np.asarray(gamma / np.sqrt(variance + norm.eps))


def _inverse(deviation: float | Sequence[float], channels: int) -> Array:
    found = np.asarray(deviation, np.float64)
    if found.shape not in ((), (1,), (channels,)) or not (found > 0).all():
        raise InputError(
            f"deviation must be positive, one number or {channels}, one a channel; got {deviation}"
        )
    return np.broadcast_to(1 / found, (channels,))


def _points(layers: list[ConvLayer]) -> int:
    """Pixels that the mean in front of the head, the last layer, is taken over."""
    last = layers[-2]
    assert last.geometry is not None
    return last.geometry.correlation(last.kernel.shape).points
