"""The residual networks for CIFAR-10 whose weights are published: activation after the sum, shortcuts A.

Reference: He, Zhang, Ren and Sun (2015), Deep residual learning for image recognition, Section 4.2; weights
of `akamaster/pytorch_resnet_cifar10` (BSD-2): `resnet20-12fca82f.th`, `resnet32-d509ac18.th`, ...
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional

from convspectra.errors import InputError
from convspectra.models.formats.pytorch.reader import load

MEAN = (0.485, 0.456, 0.406)
"""Per channel; subtracted from images in [0, 1] before they go into a published network."""

DEVIATION = (0.229, 0.224, 0.225)
"""Per channel; what is left is divided by it."""

_STAGES = 3
_PREFIX = "module."


class _Block(nn.Module):
    """`relu(shortcut(x) + bn2(conv2(relu(bn1(conv1(x))))))`, new channels zero, half before, half behind."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.more = stride, width - channels

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.more:
            half = self.more // 2
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.more - half))
        return functional.relu(x + inner)


class _PublishedResNet(nn.Module):
    def __init__(self, blocks: int, widths: tuple[int, ...], channels: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        before = widths[0]
        for stage, width in enumerate(widths, 1):
            parts = []
            for _ in range(blocks):
                parts.append(_Block(before, width, 2 if width > before else 1))
                before = width
            self.add_module(f"layer{stage}", nn.Sequential(*parts))
        self.linear = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        for stage in range(1, _STAGES + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        found: Tensor = self.linear(x.mean(dim=(2, 3)))
        return found


def published_resnet(depth: int, width: int = 16, channels: int = 3, classes: int = 10) -> nn.Module:
    """A network of `depth = 6 n + 2` layers, its parameters named as in the published files.

    Takes images of shape (N, channels, H, W) to logits of shape (N, classes); the published ones have the
    defaults, and take images normalised by `MEAN` and `DEVIATION`. The stages have `width` times 1, 2 and 4
    channels. Kernels are drawn at random (He et al. 2015), as those published were.

    Raises:
        InputError: a depth that is not 6 n + 2.

    >>> sum(parameter.numel() for parameter in published_resnet(20).parameters())
    269722
    """
    if depth < 8 or depth % 6 != 2:
        raise InputError(f"depth must be 6 n + 2 for a whole n of at least 1; got {depth!r}")
    widths = tuple(width * 2**stage for stage in range(_STAGES))
    model = _PublishedResNet(depth // 6, widths, channels, classes)
    for part in model.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight)
    return model


def published_resnet20() -> nn.Module:
    """`published_resnet(20)`, to be named where a factory without arguments is asked for."""
    return published_resnet(20)


def published_resnet32() -> nn.Module:
    """`published_resnet(32)`, likewise."""
    return published_resnet(32)


def load_published(path: Path) -> nn.Module:
    """A published network, on the CPU and in evaluation mode; nothing in the file is run.

    Arguments:
        path: `{"state_dict": {"module.conv1.weight": ..., ...}, "best_prec1": ...}` as `torch.save` wrote it,
            with or without the prefix `module.`; the depth is read off the names.

    Raises:
        InputError: there is no such file, it is no checkpoint or holds code (`ModelError`), it holds no state
            dict, or one whose names or shapes are those of another network.

    Not guaranteed: that the weights are the published ones; their error on the test set tells.
    """
    weights = _state_dict(path)
    blocks = {name.split(".")[1] for name in weights if re.fullmatch(r"layer1\.\d+\.conv1\.weight", name)}
    if not blocks:
        raise InputError(
            f"{path} holds no published CIFAR ResNet: no 'layer1.0.conv1.weight' among its {len(weights)} "
            "tensors; give resnet20-12fca82f.th or another file of akamaster/pytorch_resnet_cifar10"
        )
    model = published_resnet(6 * len(blocks) + 2)
    _compare(path, weights, model.state_dict())
    # A count of batches is not in all of the files; in evaluation it is not read.
    model.load_state_dict(weights, strict=False)
    return model.eval()


def _state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of the file by name, without the prefix."""
    try:
        loaded = load(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    found = loaded.get("state_dict") if isinstance(loaded, Mapping) else None
    if not isinstance(found, Mapping):
        holds = (
            ", ".join(map(str, list(loaded)[:5])) if isinstance(loaded, Mapping) else type(loaded).__name__
        )
        raise InputError(
            f"{path} must hold a dictionary with a 'state_dict'; it holds {holds or 'nothing'}; "
            "save {'state_dict': model.state_dict()}"
        )
    return {
        str(name).removeprefix(_PREFIX): value for name, value in found.items() if isinstance(value, Tensor)
    }


def _compare(path: Path, weights: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Raise the InputError that names the first tensor which is missing, too much or of another shape."""
    whose = f"{path} holds another network than a published CIFAR ResNet"
    for name, tensor in expected.items():
        if name not in weights:
            if not name.endswith("num_batches_tracked"):
                raise InputError(f"{whose}: {name!r} is missing; give the file as it was published")
        elif weights[name].shape != tensor.shape:
            raise InputError(
                f"{whose}: {name!r} must have shape {tuple(tensor.shape)}; got {tuple(weights[name].shape)}"
            )
    if unknown := sorted(set(weights) - set(expected)):
        raise InputError(f"{whose}: it has {unknown[0]!r} besides; give the file as it was published")
