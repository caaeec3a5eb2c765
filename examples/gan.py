"""A GAN whose discriminator's layers have a true operator norm of 1, not what power iteration takes for it.

    pip install ".[torch]" scikit-learn
    python examples/gan.py

Handwritten digits of 8x8 pixels that come with scikit-learn; half a minute on two cores. In the way of
Miyato, Kataoka, Koyama and Yoshida (2018), who divide by the norm of the reshaped kernel.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

import convspectra as cs
from convspectra.torch import spectral_norm


def generator() -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(16, 64 * 4), nn.Unflatten(1, (64, 2, 2))),
        *(nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.ConvTranspose2d(32, 1, 4, stride=2, padding=1), nn.Tanh()),
    )


def discriminator() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.LeakyReLU(0.1)),
        *(nn.Conv2d(32, 64, 4, stride=2, padding=1), nn.LeakyReLU(0.1)),
        *(nn.Conv2d(64, 64, 4, stride=2, padding=1), nn.LeakyReLU(0.1)),
        *(nn.Flatten(), nn.Linear(256, 1)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=300)
    steps = parser.parse_args().steps
    torch.manual_seed(0)
    images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 8 - 1
    make, judge = generator(), discriminator()
    spectral_norm(judge, max_norm=1.0, input=images[:2])
    optimizers = [torch.optim.Adam(one.parameters(), 2e-3, betas=(0.5, 0.9)) for one in (make, judge)]
    for step in range(steps):
        real = images[torch.randint(len(images), (64,))]
        fake = make(torch.randn(64, 16))
        optimizers[1].zero_grad()
        loss = functional.relu(0.1 - judge(real)).mean() + functional.relu(0.1 + judge(fake.detach())).mean()
        loss.backward()
        optimizers[1].step()
        optimizers[0].zero_grad()
        (-judge(fake).mean()).backward()
        optimizers[0].step()
        if step % 100 == 0:
            print(f"step {step}: discriminator {loss.item():.3f}")
    report = cs.analyze(cs.read_model(module=judge.eval(), sample_shape=(1, 8, 8)))
    for layer in report.layers:
        print(f"{layer.name}: norm at most {layer.as_padded.upper:.6f}")


if __name__ == "__main__":
    main()
