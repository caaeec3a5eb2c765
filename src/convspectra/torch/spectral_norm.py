"""A parametrization for `torch.nn.utils.parametrize`: weights whose operator norm is bounded.

Unlike `SpectralClip` it is part of the model: the bound holds at every forward pass, and gradients pass
through it.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from .. import transforms
from .._compat import with_vjp
from ..constrain import Limits, Use
from ..errors import InputError
from ..geometry import ConvGeometry
from ..guarantee import Guarantee
from .comparing import given_to, is_stock, is_traced
from .forward_hooks import Watch
from .jobs import NOT_COMPARED, named
from .parametrization import Parametrization
from .tensors import constrain_tensor
from .weight_uses import (
    MOST_SIZES,
    Layer,
    check_parametrizable,
    find_layers,
    has_geometry,
    has_parametrization,
    is_chosen,
    is_unknown,
    promised_geometries,
    promised_geometry,
)


@dataclass(frozen=True, eq=False)
class _Bounded:
    """A weight and what was made of it, with the graph between them where it has a gradient."""

    weight: torch.Tensor
    inside: torch.Tensor
    promise: tuple[Limits, tuple[Use, ...]]

    def is_of(self, weight: torch.Tensor) -> bool:
        """Whether it was made of these numbers: compared, as writes through `weight.data` leave no trace."""
        mine = self.weight
        return (mine.device, mine.dtype) == (weight.device, weight.dtype) and torch.equal(mine, weight)

    def gradient(self, cotangent: torch.Tensor) -> torch.Tensor:
        [found] = torch.autograd.grad(self.inside, self.weight, cotangent, retain_graph=True)
        return found


class SpectralNorm(Parametrization):
    """`W min(1, c / ||W||)`, with the operator norm of the layer: exact, in training and evaluation alike.

    In place of `torch.nn.utils.parametrizations.spectral_norm`, which divides by an estimate of the reshaped
    matrix's norm: the operator norm of a layer comes out up to the root of its number of taps times as large.
    Here it is at most `c`, and a weight inside the ball is left as it is.

    The norm is computed once for each value of the weight: what was made of it is kept until another weight
    is given, in the memory of three more weights. Compiled graphs and transformed functions have it as one
    operator, exported programs as a plain tensor.

    Arguments:
        max_norm: the radius `c`, positive.
        geometry: of the layer, or of all uses of its weight; see `spectral_norm`, which reads it off the
            module.
        guarantee: which operator's norm: `"layer"`, `"torus"` or `"any_size"`.

    Raises:
        InputError: max_norm is not positive and finite, an unknown guarantee.
        GeometryError, KernelError, InputError: when used, as `convspectra.rescale`.

    Notes:
        The gradient is that of `convspectra.rescale`; once differentiable.

    Examples:
        >>> layer = spectral_norm(nn.Conv1d(1, 1, 2, bias=False), max_norm=0.5, input_shape=(16,))
        >>> with torch.no_grad():
        ...     layer.weight = torch.tensor([[[1.0, -1.0]]])  # its norm is 2
        >>> layer.weight.detach().numpy().round(3)
        array([[[ 0.25, -0.25]]], dtype=float32)
    """

    _kept: _Bounded | None = None

    def __init__(
        self, max_norm: float, geometry: ConvGeometry | Sequence[ConvGeometry], guarantee: Guarantee = "layer"
    ) -> None:
        super().__init__()
        self.limits = Limits(max_norm, "rescale", guarantee)
        geometries = [geometry] if isinstance(geometry, ConvGeometry) else geometry
        self.uses = tuple(Use(one) for one in geometries)

    def _begin(self) -> None:
        super()._begin()
        own = weakref.ref(self)

        def bounded(weight: torch.Tensor) -> _Bounded:
            module = own()
            assert module is not None  # its handle goes with it
            return module._of(weight)

        self._opaque = transforms.Opaque(
            lambda weight: bounded(weight).inside.detach().clone(),
            lambda weight, cotangent: bounded(weight).gradient(cotangent),
            keeps_shape=True,
        )
        self._handle = transforms.handle_of(self._opaque, self)

    def made_of(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight inside of the ball.

        Arguments:
            weight: as it is kept, of the shape of the layer's.

        Returns:
            One of its shape and type, of norm at most `max_norm`.
        """
        found: torch.Tensor
        if torch.compiler.is_compiling():
            found = torch.ops.convspectra.value(weight, self._handle)
        elif transforms.hides_values(weight):
            found = transforms.applied(self._opaque, weight)
        else:
            kept = self._of(weight)
            # A copy, so that a caller who writes into the weight does not write into what is kept.
            found = with_vjp(lambda _: (kept.inside.detach().clone(), kept), _Bounded.gradient, weight)
        return found

    def _of(self, weight: torch.Tensor) -> _Bounded:
        kept = self._kept
        if kept is None or kept.promise != (self.limits, self.uses) or not kept.is_of(weight):
            kept = self._kept = self._bounded(weight)
        return kept

    def _bounded(self, weight: torch.Tensor) -> _Bounded:
        # With its graph also where none is asked for: what has no gradient may be bounded more tightly, and
        # evaluation is to have the weight of training.
        with (
            transforms.recording(),
            torch.autocast(weight.device.type, enabled=False),
        ):
            given = weight.detach().clone().requires_grad_()
            inside = constrain_tensor(given, self.uses, self.limits, measure=False).weight
        return _Bounded(given, inside, (self.limits, self.uses))

    def __getstate__(self) -> dict[str, Any]:
        # Tensors with a graph can be neither copied nor pickled, nor what is of this module alone.
        own = ("_kept", "_handle", "_opaque")
        return {name: value for name, value in super().__getstate__().items() if name not in own}

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """What is kept for an assigned weight: the weight itself.

        Arguments:
            weight: as it was assigned.

        Returns:
            It, so that a weight inside the ball comes back as it was assigned.
        """
        return weight

    def extra_repr(self) -> str:
        return f"max_norm={self.limits.max_norm}, guarantee={self.limits.guarantee!r}"


def spectral_norm(
    module: nn.Module,
    max_norm: float | Mapping[str, float] = 1.0,
    *,
    input_shape: int | tuple[int, ...] | Sequence[tuple[int, ...]] | None = None,
    input: torch.Tensor | None = None,  # noqa: A002  # as the module calls it
    name: str = "weight",
    guarantee: Guarantee = "layer",
    include: str | Sequence[str] = "*",
    exclude: str | Sequence[str] = (),
) -> nn.Module:
    """Register `SpectralNorm` on a layer, or on all layers of a model, in the way of torch's `spectral_norm`.

    Arguments:
        module: a convolution or linear layer; or a model, whose every such layer is bounded.
        max_norm: the radius of the ball, positive; of a model also one for each pattern of names of layers,
            of which the first that matches counts: layers that none matches are left alone.
        input_shape: of one layer, the spatial sizes at which it runs, such as `(32, 32)` or `32` for all
            axes, or a list of several such. With "torus" it is rounded up to a multiple of the stride.
        input: in its place, and for a model, a batch: one pass on it, in evaluation mode and without
            gradients, shows the sizes of every layer.
        name: of the parameter.
        guarantee: which operator's norm: `"layer"` with its own padding, `"torus"` with its boundary wrapped,
            or `"any_size"`, with its own padding at every input size.
        include: of a model, names of layers, or patterns as of `fnmatch`; one or several.
        exclude: of those, names or patterns of layers that are left alone.

    Returns:
        The module. The norm of each layer is at most `max_norm` from now on, until `remove_parametrizations`
        of `torch.nn.utils.parametrize` makes the weight an ordinary one again, or another parametrization is
        registered on it. A weight that several layers share is bounded for all of them. Without `input_shape`
        and `input` a layer is bounded for every size until it has run, and from then on for the sizes at
        which it ran.

    Raises:
        InputError: max_norm is not positive and finite; another kind of module; sizes that do not fit; a
            layer without this guarantee, that computes something else than its weight and geometry say, of
            which no input showed what it computes, or that the pass never ran; a pattern that matches none.
    """
    guarantee = Limits(1.0, guarantee=guarantee).guarantee
    layers, limits = _layers(module, name, max_norm, include, exclude)
    learning = input is None and input_shape is None and guarantee != "any_size"
    _learn_sizes(module, layers, input_shape, input, "any_size" if learning else guarantee)
    # In `_parameters`, because a weight that is computed is made anew whenever it is asked for.
    keys = [id(layer.module._parameters.get(name, layer)) for layer in layers]
    shared: dict[int, list[ConvGeometry]] = {}
    for layer, key in zip(layers, keys, strict=True):
        with named(layer.name):
            geometries = promised_geometries(layer, "any_size" if learning else guarantee)
        known = shared.setdefault(key, [])
        known.extend(geometry for geometry in geometries if geometry not in known)
    of_weight: dict[int, list[SpectralNorm]] = {}
    for layer, key, limit in zip(layers, keys, limits, strict=True):
        made = SpectralNorm(limit, shared[key], "any_size" if learning else guarantee)
        of_weight.setdefault(key, []).append(made)
        parametrize.register_parametrization(layer.module, name, made)
        if isinstance(layer.module, _ConvNd):
            seen = layer.seen.sizes if layer.seen and guarantee != "any_size" else None
            learns = _Learning(of_weight[key], limit, guarantee) if learning else None
            hook = _Sizes(layer.module, [] if learning else seen, name, learns)
            layer.module.register_forward_pre_hook(hook, with_kwargs=True)
    return module


def _layers(
    module: nn.Module,
    name: str,
    max_norm: float | Mapping[str, float],
    include: str | Sequence[str],
    exclude: str | Sequence[str],
) -> tuple[list[Layer], list[float]]:
    """The layers that are bounded, and each one's limit."""
    several = isinstance(max_norm, Mapping)
    if not several:
        Limits(max_norm)  # type: ignore[arg-type]  # which says what is wrong with it
    if isinstance(module, (_ConvNd, nn.Linear)) or not isinstance(module, nn.Module):
        if several:
            raise InputError(f"max_norm must be a number for one layer; got {max_norm!r}")
        found = [Layer("", module)]
    else:
        found = find_layers(module, [*max_norm] if isinstance(max_norm, Mapping) else include, exclude)
    for layer in found:
        check_parametrizable(layer.module, name, SpectralNorm)
    if not isinstance(max_norm, Mapping):
        return found, [max_norm] * len(found)
    found = [layer for layer in found if is_chosen(layer.name, include, exclude)]
    limits = [next(v for k, v in max_norm.items() if is_chosen(layer.name, k, ())) for layer in found]
    for limit in limits:
        Limits(limit)
    return found, limits


def _learn_sizes(
    module: nn.Module,
    layers: list[Layer],
    input_shape: int | tuple[int, ...] | Sequence[tuple[int, ...]] | None,
    given: torch.Tensor | None,
    guarantee: Guarantee,
) -> None:
    """The sizes of each layer, and whether it computes what its weight and geometry say."""
    watch = Watch(module, layers, pairs=False, sizes=True, own_padding=guarantee == "layer")
    try:
        if given is not None:
            watch.observe(given)
        elif layers[0].module is module:
            _learn_given(layers[0], input_shape, guarantee, watch)
        elif guarantee != "any_size":
            raise InputError("input_shape is of one layer; for a model give input, a batch")
    finally:
        watch.remove()
    for layer in layers:
        if layer.compared and layer.compared.differs:
            raise InputError(
                f"layer {layer.name!r} computes something else than its weight and geometry say, so that a "
                "norm of these bounds nothing: take a module without a forward or hooks of its own"
            )
        if is_unknown(layer):
            raise InputError(f"layer {layer.name!r} {NOT_COMPARED}: give input, a batch of ordinary size")
        if guarantee != "any_size" and not has_geometry(layer):
            raise InputError(f"layer {layer.name!r} did not run on this input: give one on which it does")


def _learn_given(
    layer: Layer,
    input_shape: int | tuple[int, ...] | Sequence[tuple[int, ...]] | None,
    guarantee: Guarantee,
    watch: Watch,
) -> None:
    module: Any = layer.module
    if layer.seen is None:
        return  # linear
    given: Any = input_shape
    several = isinstance(given, (list, tuple)) and any(isinstance(one, (list, tuple)) for one in given)
    for size in given if several else [given]:
        size = _spatial(size, module)
        promised_geometry(module, size, guarantee)  # which says what is wrong with it
        if size is not None:
            layer.seen.sizes.append(size)
            if not is_stock(module):
                weight = module.weight
                x = torch.randn(1, module.in_channels, *size, dtype=weight.dtype, device=weight.device)
                watch.observe(x)


def _spatial(size: Any, module: _ConvNd) -> tuple[int, ...] | None:
    """Sizes of all axes of a layer's input, of which one number may be all.

    Raises:
        InputError: the channels are among them.
    """
    axes = len(module.kernel_size)
    if size is None:
        return None
    if not isinstance(size, (list, tuple, torch.Size)):
        return (size,) * axes
    if len(size) == axes + 1 and size[0] == module.in_channels:
        spatial = tuple(size[1:])
        raise InputError(f"input_shape must have spatial sizes only; got {tuple(size)}: give {spatial}")
    return tuple(size)


@dataclass(eq=False)
class _Learning:
    """What bounds a weight for the sizes at which its layers run, once they do.

    Attributes:
        norms: of all layers that share the weight.
    """

    norms: list[SpectralNorm]
    max_norm: float
    guarantee: Guarantee

    def add(self, geometry: ConvGeometry) -> None:
        for one in self.norms:
            begun = one.limits.guarantee == self.guarantee
            known = one.uses if begun else ()
            one.limits = Limits(self.max_norm, "rescale", self.guarantee)
            one.uses = (*known, Use(geometry))


class _Sizes:
    """A forward pre-hook: learns sizes, or warns once where a layer runs otherwise than it was bounded.

    Attributes:
        sizes: at which it is bounded; None for all.
        learning: None where the sizes were given.
    """

    def __init__(
        self, module: nn.Module, sizes: list[tuple[int, ...]] | None, name: str, learning: _Learning | None
    ) -> None:
        self.sizes, self.name, self.warned, self.learning = sizes, name, False, learning
        self.settings = module.extra_repr()

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling() or is_traced() or self.warned:
            return
        given = given_to(args, kwargs)
        if not has_parametrization(module, self.name, SpectralNorm) or not isinstance(given, torch.Tensor):
            return
        kind, now, text = type(module).__name__, module.extra_repr(), ""
        axes = len(module.kernel_size)  # type: ignore[arg-type]
        size = None if self.sizes is None else tuple(given.shape[-axes:])
        if now != self.settings:
            text = f"{kind}({now}) was ({self.settings}) when spectral_norm bounded it: remove the "
            text += "parametrization and register it again"
        elif self.sizes is not None and size is not None and size not in self.sizes:
            if self.learning is None or len(self.sizes) == MOST_SIZES:
                text = f"{kind} runs at size {size}, and spectral_norm bounds it at input_shape="
                text += f"{self.sizes}: give that size as well, or guarantee='any_size'"
            else:
                self.learning.add(promised_geometry(module, size, self.learning.guarantee))
                self.sizes.append(size)
        if text:
            self.warned = True
            warnings.warn(f"{text} (said once)", stacklevel=3)
