"""A penalty of all layers of a model as one number, to add to its loss."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from .. import penalties
from ..checks import check_word
from ..compute import DEFAULT
from ..errors import InputError
from ..geometry import ConvGeometry
from ..guarantee import Guarantee, target_from
from ..symbol import frequency_grid
from .forward_hooks import Watch
from .jobs import NOT_COMPARED
from .weight_uses import find_layers, has_geometry, is_unknown, promised_geometries

_LARGEST = ("condition_number", "norm", "squared_norm")
_SUMS = ("hinge", "log_volume", "nuclear_norm", "orthogonality", "schatten_norm")


class Penalty:
    """The mean over all layers of a penalty of each, with the geometry that each layer has.

    A sum over singular values (`hinge`, `log_volume`, `nuclear_norm`, `orthogonality`) is divided by their
    number, `schatten_norm` by that number to the power `1 / p`: so that a weight in the loss means the same
    at every size of the input and at every depth.

    Arguments:
        model: any module.
        function: a name of `convspectra.penalties`: condition_number, hinge, log_volume, norm, nuclear_norm,
            orthogonality, schatten_norm, squared_norm.
        input: a batch: one pass on it, in evaluation mode and without gradients, shows the sizes of every
            layer. A layer that runs several times counts once for each size.
        guarantee: whose singular values; see `convspectra.penalties`.
        include: names of layers, or patterns as of `fnmatch`; one or several.
        exclude: of those, names or patterns of layers that are left alone.
        **options: of the penalty, as `max_norm=` of `hinge`.

    Raises:
        InputError: another name; no layer, or a pattern that matches none; a layer that computes something
            else than its weight and geometry say, or that the pass never ran; options that do not fit.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3))
        >>> penalty = Penalty(model, "hinge", torch.zeros(1, 1, 8, 8), max_norm=1.0)
        >>> loss = model(torch.zeros(1, 1, 8, 8)).square().mean() + 0.1 * penalty()
        >>> loss.backward()
    """

    def __init__(
        self,
        model: nn.Module,
        function: str,
        input: torch.Tensor,  # noqa: A002  # as the module calls it
        *,
        guarantee: Guarantee = "layer",
        include: str | Sequence[str] = "*",
        exclude: str | Sequence[str] = (),
        **options: Any,
    ) -> None:
        check_word("function", function, (*_LARGEST, *_SUMS))
        layers = find_layers(model, include, exclude)
        watch = Watch(model, layers, pairs=False, sizes=True, own_padding=True)
        try:
            watch.observe(input)
        finally:
            watch.remove()
        self.function, self._options = function, {"guarantee": guarantee, **options}
        self._method: Callable[..., torch.Tensor] = getattr(penalties, function)
        try:
            inspect.signature(self._method).bind(None, None, **self._options)
        except TypeError as error:
            raise InputError(f"options must be those of penalties.{function}: {error}") from None
        self._terms: list[tuple[nn.Module, ConvGeometry, float]] = []
        for layer in layers:
            if layer.compared and layer.compared.differs:
                what = "computes something else than its weight and geometry say: exclude it"
                raise InputError(f"layer {layer.name!r} {what}")
            if not has_geometry(layer):
                raise InputError(f"layer {layer.name!r} did not run on this input: exclude it")
            if is_unknown(layer):
                raise InputError(f"layer {layer.name!r} {NOT_COMPARED}: give an input of ordinary size")
            for one in promised_geometries(layer, "layer"):
                self._terms.append((layer.module, one, self._divisor(layer.module, one)))

    def _divisor(self, module: nn.Module, geometry: ConvGeometry) -> float:
        kernel = _kernel_of(module).detach()
        self._method(kernel, geometry, **self._options)  # says what is wrong with the layer, or an option
        if self.function in _LARGEST:
            return 1.0
        torus = target_from(kernel, geometry, self._options["guarantee"], DEFAULT).torus
        grid = frequency_grid(torus)
        count = float(grid.multiplicity.sum()) * torus.groups * min(grid.block_shape)
        return count ** (1 / self._options["p"]) if self.function == "schatten_norm" else count

    def __call__(self) -> torch.Tensor:
        """The penalty of the weights as they are now.

        Returns:
            A scalar with a gradient; it is in the precision of the first layer's weight, at least float32.
        """
        each = [
            self._method(_kernel_of(module), geometry, **self._options) / divisor
            for module, geometry, divisor in self._terms
        ]
        return torch.stack([one.to(each[0]) for one in each]).mean()


def _kernel_of(module: nn.Module) -> torch.Tensor:
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    return weight[..., None] if weight.ndim == 2 else weight
