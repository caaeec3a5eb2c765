"""Residual networks with full pre-activation, for images of CIFAR's and of ImageNet's size.

Reference: He, Zhang, Ren and Sun (2016), Identity mappings in deep residual networks.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """`x + conv(relu(bn(conv(relu(bn(x))))))`; where the shape changes, the shortcut has no parameters.

    It drops every second point and fills the new channels with zeros (He et al. 2015, option A).
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.stride, self.more = stride, width - channels

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv1(functional.relu(self.norm1(x)))
        inner = self.conv2(functional.relu(self.norm2(inner)))
        if self.stride > 1 or self.more:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        found: Tensor = x + inner
        return found


class ResNet(nn.Module):
    """A pre-activation residual network.

    Arguments:
        blocks: of each stage; each stage but the first halves the size.
        widths: channels of each stage.
        classes: number of outputs.
        stem: `"small"` (3x3) for 32x32 images, `"large"` (7x7, stride 2, then pooling) for 224x224.
        channels: of the input.
    """

    def __init__(
        self,
        blocks: tuple[int, ...] = (5, 5, 5),
        widths: tuple[int, ...] = (36, 72, 144),
        classes: int = 10,
        stem: Literal["small", "large"] = "small",
        channels: int = 3,
    ) -> None:
        super().__init__()
        large = stem == "large"
        taps, stride, padding = (7, 2, 3) if large else (3, 1, 1)
        self.stem = nn.Conv2d(channels, widths[0], taps, stride, padding, bias=False)
        self.pool = nn.MaxPool2d(3, 2, padding=1) if large else nn.Identity()
        stages: list[nn.Module] = []
        before = widths[0]
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            for place in range(count):
                stages.append(Block(before, width, 2 if stage and not place else 1))
                before = width
        self.blocks = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(before)
        self.head = nn.Linear(before, classes)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.pool(self.stem(x)))
        x = functional.relu(self.norm(x)).mean(dim=(2, 3))
        found: Tensor = self.head(x)
        return found


def cifar_resnet(depth: int = 32, width: int = 36, channels: int = 3, classes: int = 10) -> ResNet:
    """A network of `depth = 6 n + 2` layers, three stages of `width` times 1, 2 and 4 channels.

    32 layers of width 36 have 2.35 million parameters, the paper's "32 layer residual network with 2.4M
    training parameters"; which widths it had is not said there.

    Raises:
        ValueError: a depth that is not 6 n + 2.
    """
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"depth must be 6 n + 2 for a whole n of at least 1; got {depth}")
    return ResNet((depth // 6,) * 3, (width, 2 * width, 4 * width), classes, "small", channels)


def imagenet_resnet18(classes: int = 1000) -> ResNet:
    """ResNet-18 for 224x224 images."""
    return ResNet((2, 2, 2, 2), (64, 128, 256, 512), classes, "large")


def parameter_count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
