"""A denoiser for plug-and-play: no layer of what it takes away stretches anything.

    pip install ".[torch]" scikit-learn
    python examples/denoiser.py

D(x) = x - r(x) with the norm of every layer of r at most 1: iterating `x = D(x - t A^T(A x - b))` needs
such a bound (Ryu, Liu, Wang, Chen, Wang and Yin, 2019). Handwritten digits of 8x8 pixels that come with
scikit-learn, in-painted from half of their pixels; ten seconds on two cores.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

import convspectra as cs
from convspectra.torch import SpectralClip

SIGMA = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=10)
    epochs = parser.parse_args().epochs
    torch.manual_seed(0)
    images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 16
    residual = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()),
        nn.Conv2d(32, 1, 3, padding=1),
    )
    optimizer = torch.optim.Adam(residual.parameters(), 2e-3)
    clip = SpectralClip(residual, max_norm=1.0, every=10, method="project")
    optimizer.register_step_post_hook(clip)
    for _ in range(epochs):
        for batch in torch.randperm(1400).split(64):
            noise = SIGMA * torch.randn_like(images[batch])
            optimizer.zero_grad()
            (residual(images[batch] + noise) - noise).square().mean().backward()
            optimizer.step()
    clip.act()  # what the last steps moved
    residual.eval().requires_grad_(requires_grad=False)
    clean = images[1400:]
    seen = (torch.rand_like(clean) < 0.5).float()
    x = clean * seen
    moves = []
    for _ in range(60):
        last, step = x, x - seen * (x - clean)
        x = step - 0.5 * residual(step)
        moves.append(float((x - last).norm()))
    before, after = (float((one - clean).square().mean()) for one in (clean * seen, x))
    print(f"error {before:.4f} before, {after:.4f} after")
    print(f"the last step moved {moves[-1]:.1e}, the first {moves[0]:.1e}")
    report = cs.analyze(cs.read_model(module=residual, sample_shape=(1, 8, 8)))
    for layer in report.layers:
        print(f"{layer.name}: norm at most {layer.as_padded.upper:.6f}")


if __name__ == "__main__":
    main()
