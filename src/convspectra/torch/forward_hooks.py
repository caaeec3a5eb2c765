"""What forward passes tell: the sizes at which layers run, and which batch norm follows which layer.

The hooks hold no module and no `SpectralClip`, so that a copy or a pickle of a model takes only a few
numbers with it. While `torch.compile` traces they do nothing: no graph breaks, no guard.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.hooks import RemovableHandle

from .comparing import Compared, code_of, is_stock
from .weight_uses import BATCH_NORMS, MOST_SIZES, Layer, SeenSizes, names_of


class Pairing:
    """Batch norms found to be given the very tensor that a layer returned.

    Whether something else reads that tensor too is not seen.

    Attributes:
        norms: of each layer's name, the names of those batch norms.
        across: the same of those that scale another axis than that of the layer's channels.
    """

    def __init__(self) -> None:
        self.norms: dict[str, list[str]] = {}
        self.across: dict[str, list[str]] = {}
        # Kept with its tensor, so that the id cannot be given to another one; emptied after each pass.
        self.returned: dict[int, tuple[torch.Tensor, str, bool]] = {}

    def after_layer(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        """A forward hook of a layer."""
        if not torch.compiler.is_compiling() and isinstance(output, torch.Tensor):
            axes = 0 if isinstance(module, nn.Linear) else len(module.kernel_size)  # type: ignore[arg-type]
            self.returned[id(output)] = (output, name, output.ndim == axes + 2)

    def before_norm(self, name: str, module: nn.Module, inputs: Any) -> None:
        """A forward pre-hook of a batch norm."""
        if torch.compiler.is_compiling():
            return
        _, source, same_axis = self.returned.get(id(inputs[0]), (None, None, True))
        found = self.norms if same_axis else self.across
        if source is not None and name not in found.setdefault(source, []):
            found[source].append(name)

    def after_pass(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """A forward hook of the whole model: no tensor is kept from one pass to the next."""
        self.returned.clear()

    @property
    def shown(self) -> tuple[dict[str, list[str]], ...]:
        """What passes have shown."""
        return self.norms, self.across

    def learn(self, shown: Iterable[tuple[dict[str, list[str]], ...]]) -> None:
        """Take over what passes in other processes have shown."""
        self.norms, self.across = map(_together, zip(*shown, strict=True))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "returned": {}}


def _together(every: Sequence[dict[str, list[str]]]) -> dict[str, list[str]]:
    return {
        layer: list(dict.fromkeys(chain.from_iterable(one.get(layer, []) for one in every)))
        for layer in sorted(set().union(*every))
    }


class Watch:
    """The hooks on a model, and what they learn.

    Attributes:
        pairing: empty where nobody asked for batch norms.
    """

    def __init__(
        self, model: nn.Module, layers: list[Layer], pairs: bool, sizes: bool, own_padding: bool
    ) -> None:
        self.model = model
        self.pairing = Pairing()
        self._hooks: list[RemovableHandle] = []
        self._removed = False
        self._pairing_hooks: list[RemovableHandle] = []
        self._layers = layers
        self._rehearsed: list[str] = []
        self._rehearsing = False
        if sizes:
            self._watch_sizes(layers)
        if pairs:
            self._watch_pairs(layers)
        for layer in layers:
            layer.compared = Compared(layer.module, own_padding)
            layer.compared.attach(layer.module)
        if sizes or pairs or not all(is_stock(layer.module) for layer in layers):
            self._hooks.extend(
                part.register_forward_pre_hook(self._before_compiled, with_kwargs=True)
                for part in model.modules()
                if hasattr(part, "_orig_mod")
            )

    def norms_after(self, layer: str) -> list[str]:
        """The batch norms that follow a layer, by name."""
        return self.pairing.norms.get(layer, [])

    def module(self, name: str) -> nn.Module:
        return next(part for part, found in names_of(self.model).items() if found == name)

    def observe(self, *args: Any, **kwargs: Any) -> None:
        """One pass of the model on these arguments, uncompiled, in evaluation mode, without gradients."""
        self._rehearse(self.model, args, kwargs)

    def end_pairing(self) -> None:
        """Take the hooks off that keep tensors until the end of a pass, and those that have seen enough.

        PyTorch's own layers compute the same at every size and time; others are compared again.
        """
        for layer in self._layers:
            if layer.compared and layer.compared.agrees and is_stock(layer.module):
                layer.compared.remove()
            elif layer.compared:
                layer.compared.calls.clear()
        for handle in self._pairing_hooks:
            handle.remove()
        self._pairing_hooks = []
        self.pairing.returned.clear()

    def remove(self) -> None:
        self.end_pairing()
        for handle in self._hooks:
            handle.remove()
        for layer in self._layers:
            if layer.compared:
                layer.compared.remove()
        self._hooks, self._removed = [], True

    def _watch_sizes(self, layers: list[Layer]) -> None:
        for layer in layers:
            if isinstance(layer.module, _ConvNd):
                layer.seen = SeenSizes(len(layer.module.kernel_size))
                self._hooks.append(layer.module.register_forward_pre_hook(layer.seen, with_kwargs=True))

    def compare_again(self) -> None:
        """Anew, at their next pass, the layers whose code, hooks or settings have changed."""
        for layer in self._layers:
            known = layer.compared
            if known and known.code != code_of(layer.module):
                known.remove()
                layer.compared = Compared(layer.module, known.own_padding)
                if not self._removed:
                    layer.compared.attach(layer.module)

    def _watch_pairs(self, layers: list[Layer]) -> None:
        after, before = self.pairing.after_layer, self.pairing.before_norm
        hooks = [layer.module.register_forward_hook(partial(after, layer.name)) for layer in layers]
        hooks += [
            part.register_forward_pre_hook(partial(before, name))
            for part, name in names_of(self.model).items()
            if isinstance(part, BATCH_NORMS)
        ]
        self._pairing_hooks = [*hooks, self.model.register_forward_hook(self.pairing.after_pass)]

    def _before_compiled(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward pre-hook of a compiled module: what its own hooks will not see, seen beforehand."""
        if torch.compiler.is_compiling() or self._rehearsing:
            return
        shapes = str([tuple(part.shape[1:]) for part in args if isinstance(part, torch.Tensor)])
        if shapes not in self._rehearsed and len(self._rehearsed) <= MOST_SIZES:
            self._rehearsed.append(shapes)
            self._rehearse(module, args, kwargs)

    def _rehearse(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        training = {part: part.training for part in module.modules()}
        self._rehearsing = True
        try:
            module.eval()
            with torch.no_grad(), torch.random.fork_rng(devices=[]), torch.compiler.set_stance("force_eager"):
                module(*args, **kwargs)
        finally:
            self._rehearsing = False
            for part, mode in training.items():
                part.training = mode
