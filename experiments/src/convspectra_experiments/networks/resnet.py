"""Residual networks with full pre-activation, for images of CIFAR's and of ImageNet's size.

Reference: He, Zhang, Ren and Sun (2016), Identity mappings in deep residual networks.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from convspectra.errors import InputError


class Block(nn.Module):
    """`x + conv(relu(bn(conv(relu(bn(x))))))`; where the shape changes, the shortcut has no parameters.

    It drops every second point and fills the new channels with zeros (He et al. 2015, option A). Without
    batch norm the convolutions have biases.
    """

    def __init__(self, channels: int, width: int, stride: int, batch_norm: bool = True) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels) if batch_norm else nn.Identity()
        self.norm2 = nn.BatchNorm2d(width) if batch_norm else nn.Identity()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=not batch_norm)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=not batch_norm)
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
        batch_norm: without it, each block begins as its shortcut alone: its second convolution is zero, its
            first one He's divided by the root of the number of blocks, and the head is zero, which keeps the
            output's change in a step from growing with depth (Zhang, Dauphin and Ma 2019, Fixup, without its
            scalar multipliers).
    """

    def __init__(
        self,
        blocks: tuple[int, ...] = (5, 5, 5),
        widths: tuple[int, ...] = (36, 72, 144),
        classes: int = 10,
        stem: Literal["small", "large"] = "small",
        channels: int = 3,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        large = stem == "large"
        taps, stride, padding = (7, 2, 3) if large else (3, 1, 1)
        self.stem = nn.Conv2d(channels, widths[0], taps, stride, padding, bias=not batch_norm)
        self.pool = nn.MaxPool2d(3, 2, padding=1) if large else nn.Identity()
        stages: list[nn.Module] = []
        before = widths[0]
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            for place in range(count):
                stages.append(Block(before, width, 2 if stage and not place else 1, batch_norm))
                before = width
        self.blocks = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(before) if batch_norm else nn.Identity()
        self.head = nn.Linear(before, classes)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
        if not batch_norm:
            self._begin_as_shortcuts()

    @torch.no_grad()
    def _begin_as_shortcuts(self) -> None:
        for block in self.blocks:
            assert isinstance(block, Block)
            block.conv1.weight /= len(self.blocks) ** 0.5
            block.conv2.weight.zero_()
        for part in self.modules():
            if isinstance(part, (nn.Conv2d, nn.Linear)) and part.bias is not None:
                part.bias.zero_()
        self.head.weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.pool(self.stem(x)))
        x = functional.relu(self.norm(x)).mean(dim=(2, 3))
        found: Tensor = self.head(x)
        return found


def cifar_resnet(
    depth: int = 32, width: int = 36, channels: int = 3, classes: int = 10, batch_norm: bool = True
) -> ResNet:
    """A network of `depth = 6 n + 2` layers, three stages of `width` times 1, 2 and 4 channels.

    32 layers of width 36 have 2.35 million parameters, the paper's "32 layer residual network with 2.4M
    training parameters". It says neither the widths nor the kind of shortcut: we take the three stages of the
    cited paper for images of 32x32 pixels, the one width that gives this number, pre-activation as
    in that paper, and shortcuts without parameters (He et al. 2015, option A).

    Raises:
        InputError: a depth that is not 6 n + 2.
    """
    if depth < 8 or depth % 6 != 2:
        raise InputError(f"depth must be 6 n + 2 for a whole n of at least 1; got {depth}")
    return ResNet((depth // 6,) * 3, (width, 2 * width, 4 * width), classes, "small", channels, batch_norm)


def imagenet_resnet18(classes: int = 1000) -> ResNet:
    """ResNet-18 for 224x224 images."""
    return ResNet((2, 2, 2, 2), (64, 128, 256, 512), classes, "large")


def parameter_count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
