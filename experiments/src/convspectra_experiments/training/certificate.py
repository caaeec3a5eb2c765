"""What no attack can do: the images that a proven Lipschitz constant of a network certifies."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from convspectra.errors import InputError

from .attack import check_images, evaluating


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
        lipschitz: an upper bound of the Lipschitz constant of `model`, such as
            `convspectra.network.lipschitz` proves.
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
