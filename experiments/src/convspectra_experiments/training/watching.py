"""What is measured on a network besides its error: singular values, gradients, attacks, certificates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from convspectra.models.graphs import read_graph
from convspectra.network import LipschitzReport, lipschitz
from convspectra.network.complexity import margins
from convspectra.spectrum import singular_values

from ..data.datasets import Data
from .attack import Normalised, attacked_error
from .certificate import certified_error
from .controls import convolutions
from .run_records import finite
from .settings import Settings

Examples = tuple[Tensor, Tensor]
MARGIN_IMAGES = 5_000
"""Training images whose margins are told; the first ones."""
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
    model: nn.Module, data: Data, train: Examples, test: Examples, settings: Settings
) -> dict[str, Any]:
    """Norms of a trained network's layers; where asked for its error under attack, what is certified, its
    spectral complexity (Bartlett, Foster and Telgarsky 2017), and its margins on training images.

    Arguments:
        model: on the CPU, without hooks or parametrisations; moved to where the images are.
        train, test: images, whole numbers up to 255, and labels.
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
    attacked = Normalised(model, data.mean, data.deviation).eval()
    report = lipschitz(read_graph(module=attacked, sample_shape=shape))
    attacked.to(test[0].device)
    some, right = test[0][:ATTACKED].float() / 255, test[1][:ATTACKED]
    bound = report.joint.upper
    found["lipschitz"] = bound if math.isfinite(bound) else None
    found["complexity"] = {"log10": report.complexity.log10, "status": report.complexity.status}
    found["margins"] = _margins(attacked, train, report)
    found["attacked_images"] = len(some)
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


def _margins(model: nn.Module, examples: Examples, report: LipschitzReport) -> dict[str, Any]:
    """Quantiles of the margins, and of the margins relative to `R_A ||X||_F / n`, by level."""
    images, labels = (one[:MARGIN_IMAGES] for one in examples)
    entering = images.float() / 255
    with torch.inference_mode():
        values = torch.cat([model(some).double().cpu() for some in torch.split(entering, 125)])
    made = margins(
        report.outputs[0].name,
        values.numpy(),
        labels.cpu().numpy(),
        entering.cpu().numpy(),
        report.complexity,
    )
    normalised = None if made.normalised is None else _by_level(made.normalised)
    return {"images": made.examples, "quantiles": _by_level(made.quantiles), "normalised": normalised}


def _by_level(quantiles: Mapping[float, float]) -> dict[str, float | None]:
    return {f"{level:g}": finite(value) for level, value in quantiles.items()}
