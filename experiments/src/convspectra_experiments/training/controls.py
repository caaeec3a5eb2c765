"""What keeps the layers of a network in check while it trains: one object for each method of `Control`.

Only convolutions are controlled, as in the paper; the linear layer at the end is free.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from convspectra import penalties, published
from convspectra.geometry import ConvGeometry
from convspectra.torch import SpectralClip, spectral_norm, trace

from .settings import Control


def convolutions(model: nn.Module, image_shape: tuple[int, ...]) -> dict[str, tuple[nn.Conv2d, ConvGeometry]]:
    """Every convolution with the geometry at which it runs, boundary wrapped as in the paper."""
    found = {}
    for layer in trace(model, image_shape).layers:
        part = model.get_submodule(layer.name)
        if isinstance(part, nn.Conv2d) and layer.geometry is not None:
            found[layer.name] = (part, layer.geometry.on_torus())
    return found


class NoControl:
    """No control; base class of the others.

    Attributes:
        seconds: spent in `penalty` and `step` so far, kept by the caller; what a method does inside the
            forward pass is not in it.
        acts_next: whether the next `step` will do anything.
    """

    acts_next = False

    def __init__(self) -> None:
        self.seconds = 0.0

    def penalty(self) -> Tensor | None:
        """To be added to the loss of this step."""
        return None

    def step(self) -> None:
        """To be called after each step of the optimizer."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""


class Clipped(NoControl):
    """`SpectralClip`."""

    def __init__(self, model: nn.Module, control: Control, image_shape: tuple[int, ...]) -> None:
        super().__init__()
        assert control.limit is not None
        self.clip = SpectralClip(
            model,
            control.limit,
            control.every,
            method="appendix_a" if control.method == "clip" else control.method,  # type: ignore[arg-type]
            guarantee="torus",
            exclude=[name for name, part in model.named_modules() if isinstance(part, nn.Linear)],
            fold_batch_norm=control.fold_batch_norm,
        )
        weight = next(model.parameters())
        self.clip.observe(torch.zeros((1, *image_shape), device=weight.device))

    @property
    def acts_next(self) -> bool:  # type: ignore[override]
        return (self.clip.steps + 1) % self.clip.every == 0

    def step(self) -> None:
        self.clip.step()

    def state_dict(self) -> dict[str, Any]:
        return self.clip.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.clip.load_state_dict(state)


class Parametrised(NoControl):
    """`SpectralNorm` on each convolution: it acts in the forward pass."""

    def __init__(self, model: nn.Module, control: Control, image_shape: tuple[int, ...]) -> None:
        super().__init__()
        assert control.limit is not None
        for part, geometry in convolutions(model, image_shape).values():
            spectral_norm(part, control.limit, input_shape=geometry.input_shape, guarantee="torus")


class Penalised(NoControl):
    """`penalties.orthogonality` by the number of singular values, averaged over the layers."""

    acts_next = True

    def __init__(self, model: nn.Module, control: Control, image_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = control.weight
        self.layers = list(convolutions(model, image_shape).values())

    def penalty(self) -> Tensor:
        total = torch.zeros((), device=self.layers[0][0].weight.device)
        for part, geometry in self.layers:
            values = min(part.weight.shape[:2]) * int(torch.tensor(geometry.input_shape).prod())
            total = total + penalties.orthogonality(part.weight, geometry, guarantee="torus") / values
        return self.weight * total / len(self.layers)


class Scaled(nn.Module):
    """A parametrisation: the weight times a number, as if the layer's output were."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, weight: Tensor) -> Tensor:
        return self.scale * weight

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight / self.scale


class Parseval(NoControl):
    """A retraction step of each reshaped kernel after each step, and outputs scaled as the paper says."""

    acts_next = True

    def __init__(self, model: nn.Module, control: Control, image_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.beta = control.weight
        self.layers: list[tuple[Tensor, ConvGeometry]] = []
        for part, geometry in convolutions(model, image_shape).values():
            with torch.no_grad():
                part.weight.copy_(published.parseval_projection(part.weight, geometry))
            scale = published.parseval_scale(part.weight, geometry)
            parametrize.register_parametrization(part, "weight", Scaled(scale))
            [orthogonal] = part.parametrizations["weight"].parameters()  # type: ignore[index,union-attr]
            self.layers.append((orthogonal, geometry))

    @torch.no_grad()
    def step(self) -> None:
        for orthogonal, geometry in self.layers:
            orthogonal.copy_(published.parseval_retraction(orthogonal, geometry, beta=self.beta))


class MaxGain(NoControl):
    """Each kernel scaled down by the largest ratio between input and output in the batch, after each step."""

    acts_next = True

    def __init__(self, model: nn.Module, control: Control, image_shape: tuple[int, ...]) -> None:
        super().__init__()
        assert control.limit is not None
        self.limit = control.limit
        self.ratios: dict[nn.Conv2d, Tensor] = {}
        for part, _ in convolutions(model, image_shape).values():
            part.register_forward_hook(self._saw)

    @torch.no_grad()
    def _saw(self, part: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(part, nn.Conv2d)
        if part.training:
            linear = output if part.bias is None else output - part.bias[:, None, None]
            self.ratios[part] = published.largest_ratio(inputs[0].float(), linear.float())

    @torch.no_grad()
    def step(self) -> None:
        for part, ratio in self.ratios.items():
            part.weight.mul_((self.limit / ratio.clamp(min=self.limit)).to(part.weight.dtype))
        self.ratios.clear()


def control_layers(model: nn.Module, control: Control, image_shape: tuple[int, ...]) -> NoControl:
    """Put a model under control.

    Arguments:
        model: changed in place, before its optimizer is made.
        control: the method and its limit.
        image_shape: channels and sizes of one input.
    """
    kinds: dict[str, Any] = {
        "operator_norm": Parametrised,
        "orthogonality": Penalised,
        "parseval": Parseval,
        "max_gain": MaxGain,
    }
    if control.method == "none":
        return NoControl()
    found: NoControl = kinds.get(control.method, Clipped)(model, control, image_shape)
    return found
