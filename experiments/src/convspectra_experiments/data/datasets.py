"""Images to train on: CIFAR-10, or scikit-learn's digits where there is none; and what is done to a batch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from convspectra.errors import InputError

from . import cifar

Array = np.ndarray[Any, Any]

_DIGITS_TEST = 400


@dataclass(frozen=True)
class Split:
    """Images and what they show.

    Attributes:
        images: uint8, of shape (N, C, H, W); may be a read-only mapping of a file.
        labels: int64, of shape (N,).
    """

    images: Array
    labels: Array


@dataclass(frozen=True)
class Data:
    """A data set for classification, and how it is shown to a network.

    Attributes:
        name: `cifar10` or `digits`.
        mean: per channel, of images / 255, over the training set.
        deviation: likewise, the standard deviation.
        flips: mirrored images are of the same class.
        crop: pixels of zero padding of the random crop.
        description: a line with the source.
    """

    name: str
    train: Split
    test: Split
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    flips: bool
    crop: int
    description: str

    @property
    def classes(self) -> int:
        return int(self.train.labels.max()) + 1

    @property
    def channels(self) -> int:
        return int(self.train.images.shape[1])

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.train.images.shape[2:]
        return int(height), int(width)


def load(source: Path | None, cache: Path | None = None) -> Data:
    """CIFAR-10 where `source` is given, otherwise scikit-learn's digits.

    Arguments:
        source: folder or archive of the official files.
        cache: folder for what cannot be mapped as it lies; see `cifar.read`.

    Raises:
        InputError: as `cifar.read` and `digits`.
    """
    if source is None:
        return digits()
    train, test = cifar.read(source, cache)
    return Data(
        name="cifar10",
        train=Split(*train),
        test=Split(*test),
        # Of the official training set, whose bytes were just compared.
        mean=(0.4914, 0.4822, 0.4465),
        deviation=(0.2470, 0.2435, 0.2616),
        flips=True,
        crop=4,
        description="CIFAR-10: 60,000 colour photographs of 32x32 pixels in 10 classes (Krizhevsky 2009)",
    )


def digits() -> Data:
    """The 1,797 handwritten 8x8 digits in scikit-learn, in its order; the last 400 are the test set."""
    from sklearn.datasets import load_digits

    found = load_digits()
    # 0 to 16 there.
    images = np.rint(found.images[:, None] * (255 / 16)).astype(np.uint8)
    labels = found.target.astype(np.int64)
    train = Split(images[:-_DIGITS_TEST], labels[:-_DIGITS_TEST])
    scaled = train.images / 255
    return Data(
        name="digits",
        train=train,
        test=Split(images[-_DIGITS_TEST:], labels[-_DIGITS_TEST:]),
        mean=(float(scaled.mean()),),
        deviation=(float(scaled.std()),),
        flips=False,
        crop=1,
        description="scikit-learn's 1,797 handwritten digits of 8x8 pixels (Alpaydin and Kaynak 1998)",
    )


def to_device(split: Split, device: torch.device | str, count: int = 0) -> tuple[Tensor, Tensor]:
    """The first `count` images, or all for 0, and their labels as tensors of their own on a device.

    Returns:
        images, uint8 of shape (count, C, H, W), and labels, int64 of shape (count,).

    Raises:
        InputError: there are not so many.
    """
    if not 0 <= count <= len(split.labels):
        raise InputError(f"count must be 1 to {len(split.labels)}, or 0 for all images; got {count}")
    count = count or len(split.labels)
    # Copied: a tensor that shares a read-only mapping could be written to, and the process would die of it.
    images, labels = np.array(split.images[:count]), np.array(split.labels[:count])
    return torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device)


def normalised(images: Tensor, data: Data) -> Tensor:
    """`(images / 255 - mean) / deviation` in float32, on the device of the images.

    Arguments:
        images: uint8, of shape (N, C, H, W).
    """
    mean = torch.tensor(data.mean, device=images.device).reshape(-1, 1, 1)
    scale = torch.tensor([1 / value for value in data.deviation], device=images.device).reshape(-1, 1, 1)
    return images.to(torch.float32).div_(255).sub_(mean).mul_(scale)


def augmented(images: Tensor, crop: int, flips: bool, generator: torch.Generator) -> Tensor:
    """Random crops of the images with `crop` zeros around them, and mirrored with probability 1/2.

    In training it follows `normalised`, so that the zeros are the mean pixel.

    Arguments:
        images: of shape (N, C, H, W) and any type; not changed.
        crop: each image is moved by -crop to crop pixels along either axis; 0 to leave it in place.
        flips: mirror some of them left to right.
        generator: where the random numbers are drawn, on its device. As many are drawn whatever is asked for,
            so that one on the CPU gives the same images on every device.

    Returns:
        new images of the same shape, type and device.
    """
    count, channels, height, width = images.shape
    drawn, here = generator.device, images.device
    down, right = torch.randint(2 * crop + 1, (2, count, 1), generator=generator, device=drawn).to(here)
    mirrored = torch.randint(2, (count, 1), generator=generator, device=drawn).to(here)
    rows, columns = torch.arange(height, device=here), torch.arange(width, device=here)
    if flips:
        columns = torch.where(mirrored == 1, width - 1 - columns, columns)
    # One gather from flat planes: indexing the axes one by one takes three times as long on a CPU.
    places = (rows + down)[:, :, None] * (width + 2 * crop) + (columns + right)[:, None, :]
    planes = functional.pad(images, (crop,) * 4).flatten(2)
    return planes.gather(2, places.reshape(count, 1, -1).expand(-1, channels, -1)).reshape(images.shape)
