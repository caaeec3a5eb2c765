"""What is measured on a network besides its error: singular values, gradients, attacks, certificates."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..spectrum import singular_values
from .attack import Normalised, attacked_error
from .certificate import certified_error, lipschitz_bound
from .controls import convolutions
from .data import Data
from .resnet import ResNet
from .run_records import finite
from .settings import Settings

ATTACKED = 200
"""Test images that are attacked; the first ones."""


def layer_numbers(model: nn.Module, image_shape: tuple[int, ...]) -> list[dict[str, Any]]:
    """Of each convolution: the largest and the smallest singular value with the boundary wrapped, as in the
    paper, and the norm of the last step's gradient (None where there is none). Numbers too large for the
    precision are None.
    """
    found = []
    with torch.no_grad(), np.errstate(over="ignore"):
        for name, (part, geometry) in convolutions(model, image_shape).items():
            values = singular_values(part.weight.detach().contiguous(), geometry).values
            # That of a parametrised weight goes by another name.
            [weight] = [one for name, one in part.named_parameters() if name != "bias"]
            found.append(
                {
                    "name": name,
                    "largest": finite(float(values.max())),
                    "smallest": finite(float(values.min())),
                    "gradient_norm": None if weight.grad is None else finite(float(weight.grad.norm())),
                }
            )
    return found


def final_numbers(
    model: ResNet, data: Data, images: Tensor, labels: Tensor, settings: Settings
) -> dict[str, Any]:
    """Norms of a trained network's layers; where asked for its error under attack, and what is certified.

    Arguments:
        images, labels: of the test, images in whole numbers up to 255.
    """
    shape = (data.channels, *data.size)
    layers = layer_numbers(model, shape)
    norms = [layer["largest"] for layer in layers]
    found: dict[str, Any] = {
        "largest_norm": None if None in norms else max(norms),
        "layers": [{"name": layer["name"], "norm": layer["largest"]} for layer in layers],
    }
    if not settings.attack_radii:
        return found
    model.eval()
    attacked = Normalised(model, data.mean, data.deviation).to(images.device)
    some, right = images[:ATTACKED].float() / 255, labels[:ATTACKED]
    bound = lipschitz_bound(model, shape, data.deviation)
    found["lipschitz"] = bound if math.isfinite(bound) else None
    found["attacked_images"] = len(some)
    with parametrize.cached():
        found["attack"] = [
            {
                "radius": radius,
                "error": attacked_error(
                    attacked, some, right, radius, generator=torch.Generator().manual_seed(settings.seed)
                ),
                "certified": certified_error(attacked, some, right, radius, bound),
            }
            for radius in settings.attack_radii
        ]
    return found
