"""What each operator of PyTorch is among the operations of `operations`: one table."""

from __future__ import annotations

import functools
import math
from collections import ChainMap
from collections.abc import Mapping
from typing import Any

import numpy as np

from ....geometry import PaddingMode
from ... import ordering, refusals, rules
from ...graph_builder import UnsupportedError
from ...operations import (
    Array,
    AxisMatrices,
    Move,
    Pointwise,
    Softmax,
    positions_in,
)
from ...step import Step, Tensor
from . import aten_windows as windows
from .aten_layers import CONVOLUTIONS
from .parts import check_parts

PAD_MODES: dict[str, PaddingMode] = {
    "constant": "zeros",
    "reflect": "reflect",
    "replicate": "replicate",
    "circular": "circular",
}

LOOPS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
"""Operators that take as many steps as an axis is long, whatever its size."""


def _linear(step: Step) -> None:
    matrix = rules.layer(step).kernel[..., 0]
    step.emit(AxisMatrices({len(step.sizes) - 1: matrix}, step.optional("bias"), weights=True))


def _addmm(step: Step) -> None:
    given = step.found["mat1"]
    if not step.builder.depends(given):
        raise UnsupportedError("a constant times what depends on the input of the network")
    matrix = rules.layer(step).kernel[..., 0]
    shift = step.constant("self").astype(np.float64) * float(step.found["beta"])
    step.emit(AxisMatrices({1: matrix}, shift, weights=True), given)


def _batch_norm(step: Step) -> None:
    if step.found.get("training", False):
        raise UnsupportedError(refusals.TRAINING)
    rules.batch_norm(step, ("weight", "bias", "running_mean", "running_var"), step.found["eps"])


def _layer_norm(step: Step) -> None:
    sizes, rank = step.found["normalized_shape"], len(step.shape)
    sides = step.optional("weight"), step.optional("bias")
    axes = range(rank - len(sizes), rank)
    rules.normalised(step, step.shape, axes, step.found["eps"], *sides, centred="rms" not in step.word)


def _group_norm(step: Step) -> None:
    shape, found = step.shape, step.found
    groups = int(found["num_groups"] if "num_groups" in found else found["group"])
    grouped = (shape[0], groups, math.prod(shape[1:]) // groups)
    rules.normalised(step, grouped, [2], found["eps"], *_by_channel(step))


def _instance_norm(step: Step) -> None:
    if step.found["use_input_stats"]:
        axes = range(2, len(step.shape))
        rules.normalised(step, step.shape, axes, step.found["eps"], *_by_channel(step))
    else:
        rules.batch_norm(step, ("weight", "bias", "running_mean", "running_var"), step.found["eps"])


def _by_channel(step: Step) -> tuple[Array | None, Array | None]:
    scale, shift = (rules.by_channel(step.optional(name), len(step.shape)) for name in ("weight", "bias"))
    return scale, shift


def _sort(step: Step) -> None:
    found = step.found
    ordering.sort(step, found.get("dim", -1), descending=bool(found.get("descending", False)))


def _top(step: Step) -> None:
    found = step.found
    if not found["sorted"]:
        raise UnsupportedError("the largest in no order that is known")
    ordering.sort(step, found["dim"], descending=bool(found["largest"]), chosen=slice(int(found["k"])))


def _ranked(step: Step) -> None:
    """The k-th smallest entry, or the median, the lower of two."""
    found, shape = step.found, step.shape
    if "dim" not in found:
        raise UnsupportedError("a median of all entries; along an axis it is taken")
    k = int(found["k"]) if step.word == "kthvalue" else (shape[found["dim"]] + 1) // 2
    ordering.sort(step, found["dim"], descending=False, chosen=slice(k - 1, k), keep=bool(found["keepdim"]))


def _extreme(step: Step) -> None:
    found, largest = step.found, "max" in step.word
    if "other" in found:
        names = [_operand(step, place) for place in ("self", "other")]
        ordering.elementwise(step, names, largest=largest)
        return
    dim = found.get("dim")
    axes = [dim] if isinstance(dim, int) else dim
    ordering.extreme(step, axes, largest=largest, keep=bool(found.get("keepdim", False)))


def _arithmetic(word: str) -> rules.Rule:
    def rule(step: Step) -> None:
        if step.found.get("rounding_mode") is not None:
            raise UnsupportedError("a division that rounds jumps")
        names = [_operand(step, place) for place in ("self", "other")]
        if word == "rsub":
            names.reverse()
        factor = float(step.found.get("alpha", 1))
        if factor != 1:
            names[1] = _scaled(step, names[1], factor)
        step.builder.arithmetic(
            step.label, step.word, "sub" if word == "rsub" else word, names, step.outputs[0]
        )

    return rule


def _operand(step: Step, place: str) -> str:
    """The name of a tensor, or that of a number kept as a constant."""
    given = step.found[place]
    if isinstance(given, Tensor):
        return given
    name = step.builder.tensors.unique(f"{step.outputs[0]}/{place}")
    step.builder.constants[name] = np.asarray(given, dtype=np.float64)
    return name


def _scaled(step: Step, name: str, factor: float) -> str:
    made = step.builder.tensors.unique(f"{step.outputs[0]}/scaled")
    if step.builder.depends(name):
        return step.builder.affine(step.label, step.word, np.asarray(factor), np.zeros(()), name, made)
    step.builder.constants[made] = step.builder.constants[name].astype(np.float64) * factor
    return made


def _concat(step: Step) -> None:
    rules.concat(step, step.found["tensors"], step.found["dim"])


def _stack(step: Step) -> None:
    names: list[str] = step.found["tensors"]
    if not all(map(step.builder.depends, names)):
        raise UnsupportedError("constants stacked with what depends on the input of the network")
    shape = step.builder.shape(names[0])
    axis = step.found["dim"] % (len(shape) + 1)
    longer = (*shape[:axis], 1, *shape[axis:])
    names = [step.between(Move(longer, lambda: positions_in(longer)), name) for name in names]
    rules.concat(step, names, axis)


def _elu(step: Step) -> None:
    if step.found["scale"] != 1 or step.found["input_scale"] != 1:
        raise UnsupportedError("scales other than 1")
    step.emit(Pointwise("elu", {"alpha": float(step.found["alpha"])}))


def _prelu(step: Step) -> None:
    slope = step.constant("weight").astype(np.float64).reshape(-1)
    rank = len(step.shape)
    step.emit(Pointwise("prelu", {"slope": slope.reshape((1, -1, *[1] * (rank - 2))[:rank])}))


def _softplus(step: Step) -> None:
    if step.found["beta"] * 1.0 <= 0 or step.found["threshold"] < 20:
        raise UnsupportedError("with a threshold below 20 it jumps by more than rounding")
    step.emit(Pointwise("softplus", {"beta": float(step.found["beta"])}))


def _threshold(step: Step) -> None:
    if step.found["threshold"] != step.found["value"]:
        raise UnsupportedError("it jumps")
    step.emit(Pointwise("clip", {"low": float(step.found["value"]), "high": math.inf}))


def _softmax(step: Step) -> None:
    step.emit(Softmax(step.found["dim"] % len(step.shape), "log" in step.word))


def _moved(step: Step) -> None:
    """Operators that only move entries: by what PyTorch makes of their positions."""
    import torch

    (call, tensors), source, sizes = step.given, step.source, step.shape
    found = dict(step.found)
    fill, padding = 0.0, None
    mode = found.get("mode", "constant" if step.word == "constant_pad_nd" else "")
    if mode == "constant":
        fill, found["value"] = float(found.get("value") or 0.0), -1.0
    if mode in PAD_MODES and min(found["pad"]) >= 0 and not fill:
        # PyTorch lists the last axis first.
        pairs = [tuple(found["pad"][i : i + 2]) for i in range(0, len(found["pad"]), 2)][::-1]
        padding = (PAD_MODES[mode], ((0, 0),) * (len(sizes) - len(pairs)) + tuple(pairs))
    check_parts(call, sizes, found)

    def moved_of(tensor: Any) -> list[Any]:
        held = ChainMap({source: tensor}, tensors)
        return called(call.operator, {name: valued(one, held) for name, one in found.items()})

    @functools.cache
    def moved() -> list[Any]:
        # In float64, which holds every position exactly and which every operator takes; from 1 on, as what
        # pads on its own account does so with 0.
        filled = mode == "constant"
        positions = torch.from_numpy(positions_in(sizes).astype(np.float64))
        return moved_of(positions) if filled else [one - 1 for one in moved_of(positions + 1)]

    made = moved_of(torch.empty(sizes, dtype=torch.float64, device="meta"))
    for place, (output, one) in enumerate(zip(step.outputs, made, strict=False)):
        positions = functools.partial(lambda place: moved()[place].numpy(), place)
        step.emit(Move(tuple(one.shape), positions, fill, padding), output=output)


def called(operator: Any, found: Mapping[str, Any]) -> list[Any]:
    """What an operator makes of arguments by name."""
    schema = operator._schema.arguments
    made = operator(
        *(found[one.name] for one in schema if not one.kwarg_only),
        **{one.name: found[one.name] for one in schema if one.kwarg_only},
    )
    return list(made) if isinstance(made, (list, tuple)) else [made]


def valued(argument: Any, tensors: Mapping[str, Any]) -> Any:
    """An argument with the tensors that it names, none of which may depend on the input."""
    if isinstance(argument, (list, tuple)):
        return type(argument)(valued(one, tensors) for one in argument)
    if not isinstance(argument, Tensor):
        return argument
    if argument not in tensors:
        raise UnsupportedError("where its entries go depends on the input of the network")
    return tensors[argument]


def _identity(step: Step) -> None:
    if step.found.get("train", False):
        raise UnsupportedError("in training mode it draws random numbers")
    dtype = step.found.get("dtype")
    if dtype is not None and not dtype.is_floating_point:
        raise UnsupportedError("a cast to whole numbers jumps")
    rules.identity(step)


_MOVING = """
view _unsafe_view reshape permute transpose t numpy_T flatten unflatten squeeze unsqueeze slice select narrow
split chunk unbind split_with_sizes expand repeat pad constant_pad_nd flip roll index index_select
tensor_split pixel_shuffle pixel_unshuffle channel_shuffle movedim unfold im2col
"""
_MOVING_MAPS = "upsample_nearest _upsample_nearest_exact reflection_pad replication_pad"

TABLE: dict[str, rules.Rule] = {
    **dict.fromkeys(CONVOLUTIONS, rules.convolution("bias")),
    "linear": _linear,
    "addmm": _addmm,
    "matmul": rules.matmul("self", "other"),
    "mm": rules.matmul("self", "mat2"),
    **dict.fromkeys(("batch_norm", "_native_batch_norm_legit_no_training"), _batch_norm),
    **{word: _arithmetic(word) for word in ("add", "sub", "mul", "div", "rsub")},
    "neg": rules.negative,
    "cat": _concat,
    "stack": _stack,
    **{word: rules.pointwise(word) for word in ("relu", "sigmoid", "tanh", "silu", "mish", "hardswish")},
    **{word: rules.pointwise(word) for word in ("abs", "sin", "cos", "atan", "erf")},
    "log_sigmoid": rules.pointwise("logsigmoid"),
    "leaky_relu": rules.pointwise("leaky_relu", alpha="negative_slope"),
    "elu": _elu,
    "celu": rules.pointwise("celu", alpha="alpha"),
    "selu": rules.pointwise("selu", alpha=1.6732632423543772, gamma=1.0507009873554805),
    "prelu": _prelu,
    "gelu": rules.gelu,
    "softplus": _softplus,
    "hardsigmoid": rules.pointwise("hardsigmoid", alpha=1 / 6, beta=0.5),
    "relu6": rules.pointwise("clip", low=0.0, high=6.0),
    **dict.fromkeys(("hardtanh", "clamp", "clamp_min", "clamp_max"), rules.clip),
    "threshold": _threshold,
    "softshrink": rules.pointwise("softshrink", threshold="lambd"),
    **dict.fromkeys(("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm"), _layer_norm),
    **dict.fromkeys(("group_norm", "native_group_norm"), _group_norm),
    "instance_norm": _instance_norm,
    "sort": _sort,
    "topk": _top,
    **dict.fromkeys(("kthvalue", "median"), _ranked),
    **dict.fromkeys(("max", "min", "amax", "amin", "maximum", "minimum", "fmax", "fmin"), _extreme),
    "cumsum": lambda step: ordering.running_sum(step, step.found["dim"]),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax", "_log_softmax"), _softmax),
    **dict.fromkeys(
        (f"max_pool{n}d{indices}" for n in (1, 2, 3) for indices in ("", "_with_indices")), windows.pool
    ),
    **dict.fromkeys((f"avg_pool{n}d" for n in (1, 2, 3)), windows.pool),
    **dict.fromkeys((f"adaptive_avg_pool{n}d" for n in (1, 2, 3)), windows.adaptive),
    **dict.fromkeys((f"_adaptive_avg_pool{n}d" for n in (2, 3)), windows.adaptive),
    **dict.fromkeys((f"adaptive_max_pool{n}d" for n in (1, 2, 3)), windows.adaptive),
    **dict.fromkeys(("mean", "sum"), windows.reduce),
    **dict.fromkeys(
        ("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d"), windows.interpolated
    ),
    **dict.fromkeys(
        ("dropout", "clone", "contiguous", "detach", "alias", "to", "_to_copy", "lift_fresh_copy"), _identity
    ),
    **dict.fromkeys(_MOVING.split(), _moved),
    **dict.fromkeys((f"{kind}{n}d" for kind in _MOVING_MAPS.split() for n in (1, 2, 3)), _moved),
}


REASONS = {
    "linalg_vector_norm": refusals.NORMALISED,
    "scaled_dot_product_attention": refusals.ATTENTION,
    "bmm": refusals.PRODUCT,
    **dict.fromkeys(("exp", "pow", "square"), refusals.STEEP),
    **dict.fromkeys(("log", "sqrt", "rsqrt", "reciprocal"), refusals.STEEP_AT_ZERO),
    **dict.fromkeys(("round", "floor", "ceil", "sign", "argmax", "hardshrink", "gt", "lt"), refusals.JUMPS),
    **dict.fromkeys(LOOPS, refusals.RECURRENT),
    **dict.fromkeys(("_native_batch_norm_legit", "_native_batch_norm_legit_functional"), refusals.TRAINING),
    **dict.fromkeys(("native_batch_norm", "_batch_norm_with_update_functional"), refusals.TRAINING),
}
"""Why operators that people use have no constant."""
