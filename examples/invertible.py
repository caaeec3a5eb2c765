"""An invertible residual network: each block is the identity plus a function of Lipschitz constant below 1.

    pip install ".[torch]" scikit-learn
    python examples/invertible.py

Padding by reflection has a larger norm than the wrapped kernel: a bound for the torus would not do.
Handwritten digits of 8x8 pixels that come with scikit-learn; half a minute on two cores. In the way of
Behrmann, Grathwohl, Chen, Duvenaud and Jacobsen (2019).
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

import convspectra as cs
from convspectra.torch import spectral_norm

LIMIT = 0.9


class Block(nn.Module):
    """`x + f(x)`, where f has two layers of norm at most the root of the limit each, and ELU between."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        options = {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"}
        self.inner = nn.Sequential(
            nn.ELU(), nn.Conv2d(channels, 16, **options), nn.ELU(), nn.Conv2d(16, channels, **options)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)

    def inverse(self, y: torch.Tensor, iterations: int = 200) -> torch.Tensor:
        """The fixed point of `x = y - f(x)`: each iteration brings it nearer by the factor of the limit."""
        x = y
        for _ in range(iterations):
            x = y - self.inner(x)
        return x


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=5)
    epochs = parser.parse_args().epochs
    torch.manual_seed(0)
    x, y = load_digits(return_X_y=True)
    images = torch.tensor(x, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1
    labels = torch.tensor(y)
    squeeze = nn.PixelUnshuffle(2)
    blocks = nn.Sequential(*(Block(4) for _ in range(4)))
    head = nn.Linear(64, 10)
    # Of each convolution at most the root, so that both together are at most the limit.
    spectral_norm(blocks, max_norm=LIMIT**0.5, input=squeeze(images[:2]))
    optimizer = torch.optim.Adam([*blocks.parameters(), *head.parameters()], 5e-3)
    for epoch in range(epochs):
        for batch in torch.randperm(1400).split(64):
            optimizer.zero_grad()
            outputs = head(blocks(squeeze(images[batch])).flatten(1))
            functional.cross_entropy(outputs, labels[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            found = head(blocks(squeeze(images[1400:])).flatten(1)).argmax(1)
        print(f"epoch {epoch}: test error {float((found != labels[1400:]).float().mean()):.1%}")
    blocks.double().eval()
    with torch.no_grad():
        given = squeeze(images[1400:]).double()
        back = blocks(given)
        for block in reversed(blocks):
            back = block.inverse(back)
    print(f"largest error of the inverse: {float((back - given).abs().max()):.1e}")
    for number, block in enumerate(blocks):
        report = cs.analyze(cs.read_model(module=block, sample_shape=(4, 4, 4)))
        norms = [layer.as_padded.upper for layer in report.layers]
        print(f"block {number}: constant at most {norms[0] * norms[1]:.4f}")


if __name__ == "__main__":
    main()
