"""Attacks: images changed by little so that a network gets them wrong. What they find bounds from below.

Reference: Madry, Makelov, Schmidt, Tsipras and Vladu (2018), Towards deep learning models resistant to
adversarial attacks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from convspectra.errors import InputError


class Normalised(nn.Module):
    """A network behind the normalisation of its images: takes them between 0 and 1.

    Arguments:
        model: takes `(images - mean) / deviation`.
        mean, deviation: one number a channel.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], deviation: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation).reshape(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.model((x - self.mean) / self.deviation)
        return found


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards each part is in the mode it was in."""
    training = {part: part.training for part in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for part, mode in training.items():
            part.training = mode


def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    radius: float,
    *,
    steps: int = 20,
    step_size: float | None = None,
    restarts: int = 1,
    low: float | None = 0.0,
    high: float | None = 1.0,
    generator: torch.Generator,
) -> Tensor:
    """Images within `radius` of the given ones which a network finds hard: projected gradient ascent.

        x <- clamp(P(x + step_size g / ||g||)),    g the gradient of the cross entropy at x

    with P the projection on the l2 ball around the image, from a point drawn uniformly from the ball. Of all
    iterates of an image, and the image itself, one that is misclassified is kept if there is one, and of
    those the one of most loss.

    Arguments:
        model: takes images to logits of shape (N, classes), each by itself; evaluated in evaluation mode.
            Neither its parameters, their gradients, its buffers nor its mode are changed.
        images: floating point, of shape (N, C, H, W) or any other (N, ...), between `low` and `high`, on
            the device of the model. All are attacked at once; `attacked_error` takes them in batches.
        labels: whole numbers, of shape (N,).
        radius: l2, in units of the images.
        steps: gradients for each start.
        step_size: default `2.5 radius / steps`.
        restarts: how many starts.
        low, high: of images; None for no limit.
        generator: where starts are drawn, on its device.

    Returns:
        images of the same shape, in the box, and in the ball up to the rounding of `image + change` in their
        dtype.

    Raises:
        InputError: images that are no floating point numbers or outside of the box, another number of labels,
            a radius that is negative or no number, less than one step or restart, a step size of 0 or less.

    Not guaranteed: that an image which it leaves right is right everywhere in the ball.
    """
    attack = _Attack(model, radius, steps, step_size, restarts, low, high, generator)
    attack.check(images, labels)
    with torch.inference_mode(False), evaluating(model):
        # A clone of a tensor made in inference mode takes part in derivatives, the tensor itself does not.
        return attack.run(images.detach().clone(), labels.clone()).images


def attacked_error(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    radius: float,
    *,
    steps: int = 20,
    step_size: float | None = None,
    restarts: int = 1,
    low: float | None = 0.0,
    high: float | None = 1.0,
    batch: int = 500,
    generator: torch.Generator,
) -> float:
    """The share of images that are misclassified themselves or somewhere on the way of `pgd`.

    A LOWER bound of the robust error, the share of images with a misclassified point in their ball: another
    attack may find more. At radius 0 it is the error on the images.

    Arguments:
        model, images, labels, radius, steps, step_size, restarts, low, high, generator: as for `pgd`.
        batch: images at a time; those that were already wrong are not attacked again.

    Raises:
        InputError: as `pgd`; no images; a batch below 1.

    Not guaranteed: that it grows with the radius, or from one generator's state to another.
    """
    attack = _Attack(model, radius, steps, step_size, 1, low, high, generator)
    attack.check(images, labels)
    if restarts < 1 or batch < 1:
        raise InputError(f"restarts and batch must be at least 1; got {restarts!r} and {batch!r}")
    if not len(images):
        raise InputError("images must hold at least one image; got none")
    left = 0
    with torch.inference_mode(False), evaluating(model):
        for x, y in zip(torch.split(images, batch), torch.split(labels, batch), strict=True):
            with torch.no_grad():
                right = model(x).argmax(dim=1) == y
            for _ in range(restarts if radius > 0 else 0):
                places = right.nonzero().squeeze(1)
                if not len(places):
                    break
                right[places] = ~attack.run(x[places].detach(), y[places]).wrong
            left += int(right.sum())
    return 1 - left / len(images)


class _Worst:
    """For each image, of the iterates seen: a misclassified one if there was one, of those the most loss.

    Attributes:
        images: of shape (N, ...).
        wrong: whether they are misclassified, of shape (N,).
    """

    def __init__(self, images: Tensor) -> None:
        self.images = images
        self.wrong = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self.loss = torch.full((len(images),), -math.inf, dtype=images.dtype, device=images.device)

    @torch.no_grad()
    def see(self, x: Tensor, loss: Tensor, wrong: Tensor) -> None:
        loss = loss.to(self.loss.dtype)
        better = (wrong & ~self.wrong) | ((wrong == self.wrong) & (loss > self.loss))
        self.images = torch.where(_beside(better, x), x, self.images)
        self.loss = torch.where(better, loss, self.loss)
        self.wrong |= wrong


@dataclass(frozen=True)
class _Attack:
    """The arguments of `pgd`."""

    model: nn.Module
    radius: float
    steps: int
    step_size: float | None
    restarts: int
    low: float | None
    high: float | None
    generator: torch.Generator

    def check(self, images: Tensor, labels: Tensor) -> None:
        if not 0 <= self.radius < math.inf:
            raise InputError(f"radius must be a number of at least 0; got {self.radius!r}")
        if self.steps < 1 or self.restarts < 1:
            raise InputError(
                f"steps and restarts must be at least 1; got {self.steps!r} and {self.restarts!r}"
            )
        if self.step_size is not None and not 0 < self.step_size < math.inf:
            raise InputError(f"step_size must be positive, or None; got {self.step_size!r}")
        check_images(images, labels)
        if not len(images):
            return
        least, most = float(images.min()), float(images.max())
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        if not low <= least <= most <= high:
            raise InputError(
                f"images must lie between {low:g} and {high:g}; they reach from {least:g} to {most:g}; undo "
                "their normalisation, which belongs into the model (Normalised), or give low and high"
            )

    def run(self, images: Tensor, labels: Tensor) -> _Worst:
        worst = _Worst(images)
        self._see(worst, images, labels)
        if self.radius == 0:
            return worst
        size = 2.5 * self.radius / self.steps if self.step_size is None else self.step_size
        for _ in range(self.restarts):
            x = self._projected(images + self._drawn(images), images)
            for _ in range(self.steps):
                x = self._projected(x + size * self._direction(worst, x, labels), images)
            self._see(worst, x, labels)
        return worst

    def _see(self, worst: _Worst, x: Tensor, labels: Tensor) -> Tensor:
        """The loss of each image, noted."""
        logits = self.model(x)
        loss = functional.cross_entropy(logits, labels.long(), reduction="none")
        worst.see(x.detach(), loss.detach(), logits.detach().argmax(dim=1) != labels)
        return loss

    def _direction(self, worst: _Worst, x: Tensor, labels: Tensor) -> Tensor:
        """The gradient of each image's loss, of norm 1; zero where it is zero or no number."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self._see(worst, x, labels).sum(), x)
        gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
        # Where the network is sure, squares of the gradient's entries would all underflow.
        tiny = torch.finfo(gradient.dtype).tiny
        gradient = gradient / _beside(gradient.abs().flatten(1).amax(dim=1).clamp_min(tiny), gradient)
        return gradient / _beside(_norm(gradient).clamp_min(tiny), gradient)

    def _drawn(self, images: Tensor) -> Tensor:
        """Uniform in the ball around 0."""
        device, dtype = self.generator.device, images.dtype
        normal = torch.randn(images.shape, generator=self.generator, device=device, dtype=dtype)
        share = torch.rand(len(images), generator=self.generator, device=device, dtype=dtype)
        share = share ** (1 / max(images[0].numel(), 1))
        length = self.radius * share / _norm(normal)
        return (normal * _beside(length, normal)).to(images.device)

    def _projected(self, x: Tensor, images: Tensor) -> Tensor:
        """Onto the ball, then the box: that moves no entry away from the image, which is in the box."""
        change = x - images
        tiny = torch.finfo(change.dtype).tiny
        length = (self.radius / _norm(change).clamp_min(tiny)).clamp_max(1)
        x = images + change * _beside(length, change)
        return x if self.low is None and self.high is None else x.clamp(self.low, self.high)


def check_images(images: Tensor, labels: Tensor) -> None:
    """Raise the InputError that says why these are no images with labels."""
    if not images.is_floating_point() or images.ndim < 2:
        raise InputError(
            f"images must be floating point, of shape (N, ...); got {images.dtype} of shape "
            f"{tuple(images.shape)}; divide images of bytes by 255"
        )
    if labels.shape != images.shape[:1] or labels.is_floating_point():
        raise InputError(
            f"labels must be whole numbers of shape ({len(images)},), one an image; got {labels.dtype} of "
            f"shape {tuple(labels.shape)}"
        )


def _norm(x: Tensor) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return found


def _beside(values: Tensor, x: Tensor) -> Tensor:
    """One value an image, of shape (N, 1, ..., 1)."""
    return values.reshape(-1, *[1] * (x.ndim - 1))
