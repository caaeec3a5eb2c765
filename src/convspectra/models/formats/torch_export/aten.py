"""What each operator of PyTorch is among the operations of `operations`: one table."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ....geometry import ConvGeometry
from ... import refusals
from ...graph_builder import UnsupportedError
from ...operations import Affine, AxisMatrices, Concat, Convolution, Move, Operation, Pointwise, Softmax
from . import aten_windows as windows
from .aten_step import Parts, Step
from .reader import PAD_MODES, spread


def _convolution(step: Step) -> None:
    found, kernel = step.found, step.constant("weight")
    axes = kernel.ndim - 2
    if len(step.shape) != axes + 2:
        raise UnsupportedError(f"an input of shape {step.shape} without a batch")
    transposed = bool(found.get("transposed", "transpose" in step.word))
    padding: Any = found["padding"]
    padding = padding if isinstance(padding, str) else spread(padding, axes)
    geometry = ConvGeometry(
        step.shape[2:],
        stride=spread(found["stride"], axes),
        dilation=spread(found["dilation"], axes),
        groups=found["groups"],
        transposed=transposed,
        padding=padding,
        output_padding=spread(found.get("output_padding", 0), axes) if transposed else 0,
    )
    step.emit(Convolution(kernel, geometry, step.optional("bias")))


def _linear(step: Step) -> None:
    matrix = step.constant("weight")
    step.emit(AxisMatrices({len(step.shape) - 1: matrix}, step.optional("bias"), weights=True))


def _addmm(step: Step) -> None:
    if step.found["beta"] != 1 or step.found["alpha"] != 1:
        raise UnsupportedError("factors other than 1")
    given = step.found["mat1"].name
    if not step.builder.known(given):
        raise UnsupportedError("a constant times what depends on the input of the network")
    step.emit(AxisMatrices({1: step.constant("mat2").T}, step.optional("self"), weights=True), given)


def _matmul(step: Step) -> None:
    left, right = step.found["self"].name, step.found["mat2" if "mat2" in step.found else "other"].name
    if step.builder.known(left) and step.builder.known(right):
        raise UnsupportedError(refusals.PRODUCT)
    given, constant = (left, right) if step.builder.known(left) else (right, left)
    matrix, rank = step.builder.constants[constant], len(step.builder.shapes[given])
    if matrix.ndim != 2 or rank < 2:
        raise UnsupportedError(f"a product with a constant of shape {matrix.shape}; a matrix is taken")
    axis, matrix = (rank - 1, matrix.T) if given == left else (rank - 2, matrix)
    step.emit(AxisMatrices({axis: matrix}, weights=True), given)


def _batch_norm(step: Step) -> Parts:
    if step.found.get("training", False):
        raise UnsupportedError(refusals.TRAINING)
    mean, variance = (step.constant(f"running_{what}").astype(np.float64) for what in ("mean", "var"))
    gamma, beta = step.optional("weight"), step.optional("bias")
    with np.errstate(all="ignore"):  # what comes out is checked before it is used
        scale = (1.0 if gamma is None else gamma.astype(np.float64)) / np.sqrt(variance + step.found["eps"])
        shift = (0.0 if beta is None else beta.astype(np.float64)) - mean * scale
    along = (1, -1, *[1] * (len(step.shape) - 2))
    return [step.emit(Affine(scale.reshape(along), shift.reshape(along)))]


def _arithmetic(word: str) -> Callable[[Step], None]:
    def rule(step: Step) -> None:
        if step.found.get("rounding_mode") is not None:
            raise UnsupportedError("a division that rounds jumps")
        names = [_operand(step, place) for place in ("self", "other")]
        if word == "rsub":
            names.reverse()
        factor = float(step.found.get("alpha", 1))
        if factor != 1:
            names[0 if word == "rsub" else 1] = _scaled(step, names[0 if word == "rsub" else 1], factor)
        step.builder.arithmetic(step.label, step.word, "sub" if word == "rsub" else word, names, step.output)

    return rule


def _operand(step: Step, place: str) -> str:
    """The name of a tensor, or that of a number kept as a constant."""
    given = step.found[place]
    if hasattr(given, "all_input_nodes"):
        return str(given.name)
    name = f"{step.output}/{place}"
    step.builder.constants[name] = np.asarray(given, dtype=np.float64)
    return name


def _scaled(step: Step, name: str, factor: float) -> str:
    made = step.builder.names.unique(f"{step.output}/scaled")
    if step.builder.known(name):
        return step.builder.affine(step.label, step.word, np.asarray(factor), np.zeros(()), name, made)
    step.builder.constants[made] = step.builder.constants[name].astype(np.float64) * factor
    return made


def _concat(step: Step) -> None:
    names = [one.name for one in step.found["tensors"]]
    rank = len(next(step.builder.shapes[name] for name in names if step.builder.known(name)))
    if not all(map(step.builder.known, names)):
        raise UnsupportedError("constants put together with what depends on the input of the network")
    if step.word == "stack":
        axis = step.found["dim"] % (rank + 1)
        names = [
            step.between(Move(np.expand_dims(step.builder.index_of(name), axis)), name) for name in names
        ]
    else:
        axis = step.found["dim"] % rank
    step.builder.add(step.label, step.word, Concat(axis), names, step.output)


def _pointwise(function: str, **parameters: str) -> Callable[[Step], None]:
    """A function whose parameters are arguments of the operator, or numbers as text."""

    def rule(step: Step) -> None:
        step.emit(Pointwise(function, {name: float(step.found[key]) for name, key in parameters.items()}))

    return rule


def _elu(step: Step) -> None:
    if step.found["scale"] != 1 or step.found["input_scale"] != 1:
        raise UnsupportedError("scales other than 1")
    step.emit(Pointwise("elu", {"alpha": float(step.found["alpha"])}))


def _selu(step: Step) -> None:
    step.emit(Pointwise("selu", {"alpha": 1.6732632423543772, "gamma": 1.0507009873554805}))


def _prelu(step: Step) -> None:
    slope = step.constant("weight").astype(np.float64).reshape(-1)
    rank = len(step.shape)
    step.emit(Pointwise("prelu", {"slope": slope.reshape((1, -1, *[1] * (rank - 2))[:rank])}))


def _gelu(step: Step) -> None:
    step.emit(Pointwise("gelu_tanh" if step.found["approximate"] == "tanh" else "gelu"))


def _softplus(step: Step) -> None:
    if step.found["beta"] * 1.0 <= 0 or step.found["threshold"] < 20:
        raise UnsupportedError("with a threshold below 20 it jumps by more than rounding")
    step.emit(Pointwise("softplus", {"beta": float(step.found["beta"])}))


def _clip(step: Step) -> None:
    names = ("min_val", "max_val") if "min_val" in step.found else ("min", "max")
    low, high = (step.optional(name) if name in step.found else None for name in names)
    if any(one is not None and one.size != 1 for one in (low, high)):
        raise UnsupportedError("ends that are no single numbers")
    limits = {
        "low": -math.inf if low is None else float(low.reshape(())),
        "high": math.inf if high is None else float(high.reshape(())),
    }
    step.emit(Pointwise("clip", limits))


def _threshold(step: Step) -> None:
    if step.found["threshold"] != step.found["value"]:
        raise UnsupportedError("it jumps")
    step.emit(Pointwise("clip", {"low": float(step.found["value"]), "high": math.inf}))


def _softmax(step: Step) -> None:
    step.emit(Softmax(step.found["dim"] % len(step.shape), "log" in step.word))


def _moved(step: Step) -> Parts:
    """Operators that only move entries: by what PyTorch makes of their positions."""
    import torch

    source = step.source
    # In float64, which holds every position exactly and which every operator takes.
    positions = torch.from_numpy(step.builder.index_of(source).astype(np.float64))
    found = dict(step.found)
    keep: dict[str, Any] = {}
    mode = found.get("mode", "constant" if step.word == "constant_pad_nd" else "")
    if mode == "constant":
        keep["fill"], found["value"] = float(found.get("value") or 0.0), -1.0
    if mode in PAD_MODES and min(found["pad"]) >= 0 and not keep.get("fill"):
        # PyTorch lists the last axis first.
        pairs = [tuple(found["pad"][i : i + 2]) for i in range(0, len(found["pad"]), 2)][::-1]
        keep["padding"] = (PAD_MODES[mode], ((0, 0),) * (len(step.shape) - len(pairs)) + tuple(pairs))
    arguments = [
        positions if getattr(one, "name", None) == source else _valued(step, one) for one in found.values()
    ]
    names = [argument.name for argument in step.target._schema.arguments]
    keyword = {argument.name for argument in step.target._schema.arguments if argument.kwarg_only}
    made = step.target(
        *(value for name, value in zip(names, arguments, strict=True) if name not in keyword),
        **{name: value for name, value in zip(names, arguments, strict=True) if name in keyword},
    )
    if not isinstance(made, (list, tuple)):
        step.emit(Move(made.numpy().astype(np.int64), **keep))
        return None
    return [
        step.emit(Move(one.numpy().astype(np.int64)), output=f"{step.output}/{place}")
        for place, one in enumerate(made)
    ]


def _valued(step: Step, argument: Any) -> Any:
    """An argument with the tensors that nodes stand for, none of which may depend on the input."""
    if isinstance(argument, (list, tuple)):
        return type(argument)(_valued(step, one) for one in argument)
    if not hasattr(argument, "all_input_nodes"):
        return argument
    if argument.name not in step.tensors:
        raise UnsupportedError("where its entries go depends on the input of the network")
    return step.tensors[argument.name]


def _identity(step: Step) -> None:
    if step.found.get("train", False):
        raise UnsupportedError("in training mode it draws random numbers")
    dtype = step.found.get("dtype")
    if dtype is not None and not dtype.is_floating_point:
        raise UnsupportedError("a cast to whole numbers jumps")
    step.emit(Move(step.builder.index_of(step.source)))


def _negative(step: Step) -> None:
    ones = np.ones((1,) * len(step.shape))
    step.emit(Affine(-ones, 0 * ones))


TABLE: dict[str, Callable[[Step], Parts]] = {
    **dict.fromkeys(
        ("conv1d", "conv2d", "conv3d", "convolution", *(f"conv_transpose{n}d" for n in (1, 2, 3))),
        _convolution,
    ),
    "linear": _linear,
    "addmm": _addmm,
    **dict.fromkeys(("matmul", "mm"), _matmul),
    **dict.fromkeys(("batch_norm", "_native_batch_norm_legit_no_training"), _batch_norm),
    **{word: _arithmetic(word) for word in ("add", "sub", "mul", "div", "rsub")},
    "neg": _negative,
    **dict.fromkeys(("cat", "stack"), _concat),
    **{word: _pointwise(word) for word in ("relu", "sigmoid", "tanh", "silu", "mish", "hardswish")},
    **{word: _pointwise(word) for word in ("abs", "sin", "cos", "atan", "erf")},
    "log_sigmoid": _pointwise("logsigmoid"),
    "leaky_relu": _pointwise("leaky_relu", alpha="negative_slope"),
    "elu": _elu,
    "celu": _pointwise("celu", alpha="alpha"),
    "selu": _selu,
    "prelu": _prelu,
    "gelu": _gelu,
    "softplus": _softplus,
    "hardsigmoid": lambda step: _emitted(step, Pointwise("hardsigmoid", {"alpha": 1 / 6, "beta": 0.5})),
    "relu6": lambda step: _emitted(step, Pointwise("clip", {"low": 0.0, "high": 6.0})),
    **dict.fromkeys(("hardtanh", "clamp", "clamp_min", "clamp_max"), _clip),
    "threshold": _threshold,
    **dict.fromkeys(("softmax", "_softmax", "log_softmax", "_log_softmax"), _softmax),
    **dict.fromkeys(
        (f"max_pool{n}d{indices}" for n in (1, 2, 3) for indices in ("", "_with_indices")), windows.max_pool
    ),
    **dict.fromkeys((f"avg_pool{n}d" for n in (1, 2, 3)), windows.average_pool),
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
    **dict.fromkeys(
        (
            *("view", "_unsafe_view", "reshape", "permute", "transpose", "t", "numpy_T", "flatten"),
            *("unflatten", "squeeze", "unsqueeze", "slice", "select", "narrow", "split", "chunk", "unbind"),
            *("split_with_sizes", "expand", "repeat", "pad", "constant_pad_nd", "flip", "roll", "index"),
            *("index_select", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "movedim"),
            *(f"upsample_nearest{n}d" for n in (1, 2, 3)),
            *(f"_upsample_nearest_exact{n}d" for n in (1, 2, 3)),
            *(f"{mode}_pad{n}d" for mode in ("reflection", "replication") for n in (1, 2, 3)),
        ),
        _moved,
    ),
}


def _emitted(step: Step, operation: Operation) -> None:
    step.emit(operation)


REASONS = {
    **dict.fromkeys(
        (
            *(f"{native}{kind}_norm" for native in ("", "native_") for kind in ("layer", "group")),
            *("instance_norm", "rms_norm", "_fused_rms_norm", "linalg_vector_norm"),
        ),
        refusals.NORMALISED,
    ),
    "scaled_dot_product_attention": refusals.ATTENTION,
    "bmm": refusals.PRODUCT,
    **dict.fromkeys(("exp", "pow", "square"), refusals.STEEP),
    **dict.fromkeys(("log", "sqrt", "rsqrt", "reciprocal"), refusals.STEEP_AT_ZERO),
    **dict.fromkeys(("round", "floor", "ceil", "sign", "argmax", "hardshrink", "gt", "lt"), refusals.JUMPS),
    **dict.fromkeys(("lstm", "gru"), refusals.RECURRENT),
    **dict.fromkeys(("_native_batch_norm_legit", "_native_batch_norm_legit_functional"), refusals.TRAINING),
    **dict.fromkeys(("native_batch_norm", "_batch_norm_with_update_functional"), refusals.TRAINING),
}
"""Why operators that people use have no constant."""
