"""The layers of a live model: names without wrappers, weights, and the geometry that a promise is about."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from ..errors import GeometryError, InputError
from ..geometry import ConvGeometry
from ..models import batch_norm
from ..models.modules import geometry_of
from ..projection import Guarantee
from .comparing import Compared, given_to, is_stock, is_traced
from .sharing import own_part, whole
from .tensors import check_dtype

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)
_WRAPPED = ("_orig_mod", "_checkpoint_wrapped_module")

MOST_SIZES = 4
"""Different sizes of one layer that are held one by one; more of them are better held all at once."""

Status = Literal[
    "held",
    "frozen",
    "computed",
    "never run",
    "not compared",
    "computes something else",
    "replaced",
    "added later",
    "quantised",
    "no layer",
]


class SeenSizes:
    """A forward pre-hook: the spatial sizes at which one convolution ran, in the order of their coming.

    Attributes:
        sizes: at most `MOST_SIZES`.
        dropped: one that came after those, None if there was none.
        in_graph: the latest one of a compiled graph, which its code writes whenever it runs.
    """

    def __init__(self, axes: int) -> None:
        self.axes = axes
        self.sizes: list[tuple[int, ...]] = []
        self.dropped: tuple[int, ...] | None = None
        self.in_graph: tuple[int, ...] | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = given_to(args, kwargs)
        symbolic = not isinstance(given, torch.Tensor)
        if symbolic or torch.compiler.is_exporting() or is_traced():
            return
        size = tuple(given.shape[-self.axes :])
        if torch.compiler.is_compiling():
            self.in_graph = size  # nothing is read here, so that there is nothing to guard
        else:
            self.add(size)

    def learn_from_graph(self) -> bool:
        """Take over the size that a compiled graph ran at; whether it was not known."""
        found, self.in_graph = self.in_graph, None
        if found is None or found in self.sizes:
            return False
        self.add(found)
        return True

    def add(self, size: tuple[int, ...]) -> None:
        if size in self.sizes:
            return
        if len(self.sizes) < MOST_SIZES:
            self.sizes.append(size)
        else:
            self.dropped = size


@dataclass(eq=False)
class Layer:
    """A convolution or linear module.

    Attributes:
        seen: the sizes at which it ran; None where none are looked for.
        compared: whether it computes what its weight and geometry say; None before it is watched.
        gone: it is no longer in the model.
    """

    name: str
    module: nn.Module
    seen: SeenSizes | None = None
    compared: Compared | None = None
    gone: bool = False


@dataclass(eq=False)
class Weight:
    """One weight with all layers that use it.

    Attributes:
        status: as in `LayerRecord`.
    """

    layers: list[Layer]
    status: Status

    @property
    def name(self) -> str:
        return self.layers[0].name

    @property
    def tensor(self) -> torch.Tensor:
        weight = self.layers[0].module.weight
        assert isinstance(weight, torch.Tensor)  # of every class that `find_layers` takes
        return weight


def names_of(model: nn.Module) -> dict[nn.Module, str]:
    """Every module by its name in the user's model: without what DDP, EMA and `torch.compile` put before."""
    dropped, found = set(), {}
    for full, part in model.named_modules():
        if isinstance(part, _WRAPPERS):
            dropped.add(f"{full}.module".lstrip("."))
        parts = full.split(".")
        found[part] = ".".join(
            word
            for i, word in enumerate(parts)
            if word not in _WRAPPED and ".".join(parts[: i + 1]) not in dropped
        )
    return found


def find_layers(model: nn.Module, include: str | Sequence[str], exclude: str | Sequence[str]) -> list[Layer]:
    """The convolutions and linear layers whose name a pattern of `include` matches and none of `exclude`.

    Raises:
        InputError: no such layer at all, a pattern that matches none, or nothing left; or this is no module.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model must be a torch.nn.Module; got {type(model).__name__}")
    if any(type(part).__name__ == "FullyShardedDataParallel" for part in model.modules()):
        raise InputError(
            "model is wrapped in FullyShardedDataParallel, which flattens weights; shard it with "
            "torch.distributed.fsdp.fully_shard (FSDP2)"
        )
    names = names_of(model)
    every = [Layer(names[part], part) for part in names if isinstance(part, (_ConvNd, nn.Linear))]
    if not every:
        raise InputError(
            f"model has no convolution or linear layer: {type(model).__name__} holds "
            f"{len(names) - 1} modules; give the model that has them"
        )
    for pattern in (*_listed(include), *_listed(exclude)):
        if not any(fnmatchcase(layer.name, pattern) for layer in every):
            some = ", ".join(repr(layer.name) for layer in every[:5])
            raise InputError(
                f"no layer matches the pattern {pattern!r}; of {len(every)} layers the first are {some}"
            )
    chosen = [layer for layer in every if is_chosen(layer.name, include, exclude)]
    if not chosen:
        raise InputError(f"include={include!r} and exclude={exclude!r} leave none of {len(every)} layers")
    return chosen


def is_chosen(name: str, include: str | Sequence[str], exclude: str | Sequence[str]) -> bool:
    """Whether a name matches a pattern of `include` and none of `exclude`."""
    some, none = (any(fnmatchcase(name, one) for one in _listed(words)) for words in (include, exclude))
    return some and not none


def _listed(patterns: str | Sequence[str]) -> Sequence[str]:
    return [patterns] if isinstance(patterns, str) else patterns


def not_held(model: nn.Module, layers: list[Layer], known: set[str]) -> list[tuple[str, Status]]:
    """What of a model may be an operator and is none of its layers, by name.

    Modules that came later, quantised modules, and parameters of two or more axes that belong to no
    convolution and no linear layer: those of raw functional calls, of attention and of recurrent layers,
    embeddings.

    Arguments:
        known: the names of all convolutions and linear layers that there were at first.
    """
    ours = {id(layer.module) for layer in layers}
    names, chosen = names_of(model), {layer.name for layer in layers}
    found: list[tuple[str, Status]] = []
    operators = [part for part in names if isinstance(part, (_ConvNd, nn.Linear))]
    inside = {id(inner) for part in operators for inner in part.modules()}
    for part, name in names.items():
        if id(part) in ours:
            continue
        if isinstance(part, (_ConvNd, nn.Linear)):
            if name not in known or name in chosen:
                found.append((name, "added later"))
        elif ".quantized." in type(part).__module__ and hasattr(part, "weight"):
            found.append((name, "quantised"))
        elif id(part) not in inside:
            found += [
                (f"{name}.{own}".lstrip("."), "no layer")
                for own, parameter in part._parameters.items()
                if parameter is not None
                and not isinstance(parameter, UninitializedParameter)
                and parameter.ndim >= 2
            ]
    return found


def weights_of(layers: Iterable[Layer], guarantee: Guarantee) -> list[Weight]:
    """The layers by their weight: those that share a parameter stand together, at the first one's place."""
    found: dict[Hashable, Weight] = {}
    for layer in layers:
        # In `_parameters`, because a weight that is computed is made anew whenever it is asked for.
        parameter = layer.module._parameters.get("weight")
        key = id(layer) if parameter is None else _place(parameter)
        if key in found:
            found[key].layers.append(layer)
            continue
        status: Status = "held"
        if parameter is None or layer.module.weight is not parameter:  # a property may stand before it
            status = "computed"
        elif isinstance(parameter, UninitializedParameter):
            status = "never run"
        elif not parameter.requires_grad:
            status = "frozen"
        found[key] = Weight([layer], status)
    for weight in found.values():
        if weight.status != "held":
            continue
        if all(layer.gone for layer in weight.layers):
            weight.status = "replaced"
        elif any(layer.compared and layer.compared.differs for layer in weight.layers):
            weight.status = "computes something else"
        elif guarantee != "any_size" and not any(map(has_geometry, weight.layers)):
            weight.status = "never run"
        elif unknown := [layer for layer in weight.layers if is_unknown(layer)]:
            ran = any(layer.compared and layer.compared.ran for layer in unknown)
            weight.status = "not compared" if ran else "never run"
    return list(found.values())


def _place(parameter: torch.Tensor) -> Hashable:
    """Equal for parameters that are the same numbers, though maybe other objects."""
    if isinstance(parameter, UninitializedParameter):
        return id(parameter)
    part = own_part(parameter)
    if part.is_meta or part.data_ptr() == 0:
        return id(parameter)
    return part.device, part.data_ptr(), part.shape, part.stride()


def is_unknown(layer: Layer) -> bool:
    """Whether only a forward pass can tell what the layer computes, and none did."""
    return not (is_stock(layer.module) or (layer.compared and layer.compared.agrees))


def has_geometry(layer: Layer) -> bool:
    """Whether the layer has run, or needs not to."""
    return isinstance(layer.module, nn.Linear) or bool(layer.seen and layer.seen.sizes)


def promised_geometries(layer: Layer, guarantee: Guarantee) -> list[ConvGeometry]:
    """What a promise is about, for each size at which the layer ran; see `promised_geometry`."""
    if isinstance(layer.module, nn.Linear) or guarantee == "any_size":
        return [promised_geometry(layer.module, None, guarantee)]
    sizes = layer.seen.sizes if layer.seen else []
    return [promised_geometry(layer.module, size, guarantee) for size in sizes]


def promised_geometry(
    module: nn.Module, input_shape: tuple[int, ...] | None, guarantee: Guarantee
) -> ConvGeometry:
    """The geometry of a layer that a guarantee is about.

    `layer`: as it runs. `torus`: with the boundary wrapped, on the input rounded up to a multiple of the
    stride where that does not divide it; a layer that wraps is taken as it wraps. `any_size`: with its own
    padding, at a size that does not matter. A linear layer has one point.

    Raises:
        GeometryError: another kind of module, sizes that do not fit, `torus` for padding by reflection or
            replication.
        InputError: no input_shape, where one is needed.
    """
    if isinstance(module, nn.Linear):
        return ConvGeometry((1,))
    if not isinstance(module, _ConvNd):
        return geometry_of(module, input_shape or ())
    if guarantee == "any_size":
        input_shape = tuple(d * (k - 1) + 2 for d, k in zip(module.dilation, module.kernel_size, strict=True))
    elif input_shape is None:
        raise InputError(f"input_shape is needed for guarantee={guarantee!r}, sizes only, such as (32, 32)")
    if guarantee == "layer" or module.padding_mode != "zeros":
        return geometry_of(module, input_shape)
    if not isinstance(module, _ConvTransposeNd) and len(input_shape) == len(module.stride):
        input_shape = tuple(math.ceil(n / s) * s for n, s in zip(input_shape, module.stride, strict=True))
    return geometry_of(module, input_shape).on_torus()


def batch_norm_scale(norm: nn.Module) -> torch.Tensor | None:
    """`|gamma| / sqrt(running_var + eps)` in double precision; None where there is no running variance."""
    variance, gamma = getattr(norm, "running_var", None), getattr(norm, "weight", None)
    if variance is None:
        return None
    factor = None if gamma is None else whole(gamma).double().abs()
    scale: torch.Tensor = batch_norm.scale(factor, whole(variance).double(), float(norm.eps))  # type: ignore[arg-type]
    return scale


def has_parametrization(module: nn.Module, name: str, kind: type[nn.Module]) -> bool:
    """Whether a parameter has a parametrization of this kind."""
    if not parametrize.is_parametrized(module, name):
        return False
    return any(isinstance(one, kind) for one in module.parametrizations[name])  # type: ignore[index]


def check_parametrizable(module: nn.Module, name: str, kind: type[nn.Module]) -> None:
    if not isinstance(module, (_ConvNd, nn.Linear)):
        raise GeometryError(f"module must be a convolution or linear layer; got {type(module).__name__}")
    found = getattr(module, name, None)
    if isinstance(found, UninitializedParameter):
        raise InputError(f"the {name} of {module} has no shape yet: run one forward pass first")
    if not isinstance(found, torch.Tensor) or found.ndim < 2:
        names = ", ".join(one for one, _ in module.named_parameters()) or "none"
        raise InputError(
            f"name must be that of a parameter of two or more axes; got {name!r}, and the module has {names}"
        )
    check_dtype(name, found)
    if has_parametrization(module, name, kind):
        raise InputError(
            f"{name} of {type(module).__name__} already has {kind.__name__}: remove it first, by "
            f"torch.nn.utils.parametrize.remove_parametrizations(module, {name!r})"
        )
