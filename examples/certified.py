"""A classifier that is certified: orthogonal layers and sorting activations, so that it is 1-Lipschitz.

    pip install ".[torch]" scikit-learn
    python examples/certified.py

A margin of m between the first and the second class is closed by no change of the image of norm below m /
sqrt(2). Beside the share of images that is certified stands the share that withstands an attack, which
must be larger. Handwritten digits of 8x8 pixels that come with scikit-learn, scaled to [0, 1]; half a
minute on two cores. In the way of Anil, Lucas and Grosse (2019) and of Li and others (2019).
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

import convspectra as cs
from convspectra.torch import orthogonal

RADIUS = 0.3


class MaxMin(nn.Module):
    """The larger and the smaller of each pair of channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, 1)
        return torch.cat([torch.maximum(first, second), torch.minimum(first, second)], 1)


def network() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), MaxMin(), nn.Conv2d(16, 32, 4, stride=2, padding=1), MaxMin()),
        *(nn.Conv2d(32, 64, 4, stride=2, padding=1), MaxMin(), nn.Flatten()),
        *(nn.Linear(256, 64), MaxMin(), nn.Linear(64, 10)),
    )


def attacked(model: nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int = 40) -> torch.Tensor:
    """Images of at most the radius away on which the loss was brought up (projected gradient)."""
    away = torch.zeros_like(x)
    for _ in range(steps):
        away.requires_grad_()
        (slope,) = torch.autograd.grad(functional.cross_entropy(50 * model(x + away), y), away)
        away = away.detach() + 0.1 * RADIUS * functional.normalize(slope.flatten(1)).reshape(x.shape)
        size = away.flatten(1).norm(dim=1).clamp(min=RADIUS)[:, None, None, None]
        away = away * (RADIUS / size)
    return x + away


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=10)
    epochs = parser.parse_args().epochs
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    y = torch.tensor(labels)
    model = orthogonal(network())
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(epochs):
        for batch in torch.randperm(1400).split(64):
            optimizer.zero_grad()
            # A small temperature asks for margins.
            functional.multi_margin_loss(model(x[batch]), y[batch], margin=1.5).backward()
            optimizer.step()
    model.eval().requires_grad_(requires_grad=False)
    x, y = x[1400:], y[1400:]
    outputs = model(x)
    first, second = outputs.topk(2).values.T
    right = outputs.argmax(1) == y
    constant = cs.lipschitz(cs.read_graph(module=model, sample_shape=(1, 8, 8))).joint.upper
    certified = right & ((first - second) / (2**0.5 * constant) > RADIUS)
    withstand = right & (model(attacked(model, x, y)).argmax(1) == y)
    shares = [f"{float(one.float().mean()):.1%}" for one in (right, certified, withstand)]
    print(f"right {shares[0]}; within {RADIUS}: certified {shares[1]}, withstand an attack {shares[2]}")
    print(f"constant of the network at most {constant:.6f}")


if __name__ == "__main__":
    main()
