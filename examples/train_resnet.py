r"""Train a small residual network with and without the clip, and keep both to be compared.

    pip install . ./experiments
    python examples/train_resnet.py --out trained
    convspectra compare trained/plain.pt trained/clipped.pt \
        --model examples.train_resnet:network --input-shape 1,8,8 --html trained/compare.html

Handwritten digits of 8x8 pixels that come with scikit-learn; about a minute on two cores. The clip is the
paper's (Sedghi, Gupta and Long, 2019), every 10 steps.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from convspectra.torch import SpectralClip
from convspectra_experiments.networks.resnet import ResNet, cifar_resnet


def network() -> ResNet:
    """Eight layers, 16 to 64 channels, for one channel of input."""
    return cifar_resnet(depth=8, width=16, channels=1)


def digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images and labels to train on, and the last 400 to test on."""
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1
    y = torch.tensor(labels)
    return x[:-400], y[:-400], x[-400:], y[-400:]


def train(max_norm: float | None, epochs: int, seed: int) -> nn.Module:
    """The network after some epochs; in the ball of `max_norm` for each convolution, if one is given."""
    torch.manual_seed(seed)
    x, y, x_test, y_test = digits()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    if max_norm is not None:
        clip = SpectralClip(model, max_norm=max_norm, every=10)
        optimizer.register_step_post_hook(clip)
    began = time.perf_counter()
    for _ in range(epochs):
        model.train()
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    seconds = time.perf_counter() - began
    if max_norm is not None:
        clip.act()  # what the last steps moved
        largest = max(record.norm or 0.0 for record in clip.report())
        print(f"clipped at {max_norm:g}: largest norm of a layer {largest:.3f}")
    model.eval()
    with torch.no_grad():
        errors = float((model(x_test).argmax(dim=1) != y_test).float().mean())
    print(f"{'plain' if max_norm is None else 'clipped'}: test error {errors:.1%}, {seconds:.1f} s")
    return model


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("trained"), help="folder for both state dicts")
    parser.add_argument("--max-norm", type=float, default=1.0)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, max_norm in (("plain", None), ("clipped", arguments.max_norm)):
        model = train(max_norm, arguments.epochs, arguments.seed)
        torch.save(model.state_dict(), arguments.out / f"{name}.pt")


if __name__ == "__main__":
    main()
