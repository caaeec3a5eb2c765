"""What each ONNX operator is among the operations of `operations`: one table."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

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
from ...step import Step
from . import evaluation, windows


def _gemm(step: Step) -> None:
    matrix, shift, source = rules.layer(step).kernel[..., 0], step.optional("C"), step.source
    if step.found.get("transA", 0):
        source = step.between(Move(step.shape[::-1], lambda: positions_in(step.shape).T))
    if shift is not None:
        shift = shift.astype(np.float64) * step.found.get("beta", 1.0)
    step.emit(AxisMatrices({1: matrix}, shift, weights=True), source)


def _batch_norm(step: Step) -> None:
    if step.found.get("training_mode", 0) or len(list(filter(None, step.outputs))) > 1:
        raise UnsupportedError(refusals.TRAINING)
    rules.batch_norm(step, list(step.found)[1:5], step.found.get("epsilon", 1e-5))


def _layer_norm(step: Step) -> None:
    shape, names = step.shape, list(step.found)
    axes = range(step.found.get("axis", -1) % len(shape), len(shape))
    scale, shift = step.optional(names[1]), step.optional("B") if "B" in names else None
    epsilon = step.found.get("epsilon", 1e-5)
    centred = step.word == "LayerNormalization"
    rules.normalised(step, shape, axes, epsilon, scale, shift, centred=centred)


def _channel_norm(step: Step) -> None:
    """Instance and group norm; before version 21 of ONNX the latter has one scale a group."""
    shape = step.shape
    groups = step.found.get("num_groups", shape[1])
    grouped = (shape[0], groups, math.prod(shape[1:]) // groups)
    sides = []
    for name in list(step.found)[1:3]:
        values = step.constant(name).reshape(-1)
        if len(values) == groups:
            values = np.repeat(values, shape[1] // groups)
        sides.append(rules.by_channel(values, len(shape)))
    epsilon = step.found.get("epsilon", 1e-5)
    rules.normalised(step, grouped, [2], epsilon, *sides)


def _top(step: Step) -> None:
    found, k = step.found, step.constant("K") if "K" in step.found else step.found["k"]
    if not found.get("sorted", 1):
        raise UnsupportedError("the largest in no order that is known")
    largest, first = bool(found.get("largest", 1)), slice(int(np.asarray(k).reshape(())))
    ordering.sort(step, found.get("axis", -1), descending=largest, chosen=first)


def _extreme(step: Step) -> None:
    names = step.found["data_0"]
    if len(names) == 1:
        rules.identity(step)
    else:
        ordering.elementwise(step, names, largest=step.word == "Max")


def _reduced_extreme(step: Step) -> None:
    axes = windows.reduced_axes(step)
    if axes == []:
        rules.identity(step)
        return
    keep = bool(step.found.get("keepdims", 1))
    ordering.extreme(step, axes, largest=step.word == "ReduceMax", keep=keep)


def _running_sum(step: Step) -> None:
    found = step.found
    ordering.running_sum(
        step,
        int(step.constant("axis").reshape(())),
        reverse=bool(found.get("reverse", 0)),
        exclusive=bool(found.get("exclusive", 0)),
    )


def _shrink(step: Step) -> None:
    threshold, bias = (
        float(step.found.get(name, default)) for name, default in (("lambd", 0.5), ("bias", 0.0))
    )
    if threshold != bias:
        raise UnsupportedError(refusals.JUMPS)
    step.emit(Pointwise("softshrink", {"threshold": threshold}))


def _arithmetic(word: str) -> rules.Rule:
    def rule(step: Step) -> None:
        names = [step.found["A"], step.found["B"]]
        step.builder.arithmetic(step.label, step.word, word, names, step.outputs[0])

    return rule


def _sum(step: Step) -> None:
    first, *rest = step.found["data_0"]
    if not rest:
        step.emit(Move(step.builder.sizes(first)), first)
    # In pairs; the last one makes the output.
    for place, name in enumerate(rest, 1):
        if not step.builder.depends(first) and not step.builder.depends(name):
            raise UnsupportedError("a sum that begins with two constants")
        last = place == len(rest)
        made = step.outputs[0] if last else step.builder.tensors.unique(f"{step.outputs[0]}/sum")
        step.builder.arithmetic(step.label, step.word, "add", [first, name], made)
        first = made


def _pow(step: Step) -> None:
    exponent = step.constant("Y")
    if exponent.size != 1 or float(exponent.reshape(())) != 1:
        raise UnsupportedError("a power other than 1 grows faster than any line")
    rules.identity(step)


def _prelu(step: Step) -> None:
    slope = step.constant("slope").astype(np.float64)
    rank = len(step.sizes)
    step.emit(Pointwise("prelu", {"slope": slope.reshape((1,) * (rank - slope.ndim) + slope.shape)}))


def _softmax(step: Step) -> None:
    logarithm, rank = step.word == "LogSoftmax", len(step.sizes)
    _, opset = step.given
    axis = step.found.get("axis", -1 if opset >= 13 else 1) % rank
    if opset >= 13 or axis == rank - 1:
        step.emit(Softmax(axis, logarithm))
        return
    # Before version 13: over all axes from this one on, taken as one.
    shape = step.shape
    joined = (*shape[:axis], math.prod(shape[axis:]))
    flat = step.between(Move(joined, lambda: positions_in(joined)))
    soft = step.between(Softmax(axis, logarithm), flat)
    step.emit(Move(shape, lambda: positions_in(shape)), soft)


def _moved(step: Step) -> None:
    """Operators that only move entries: by what the reference implementation makes of their positions."""
    (node, opset), sizes, source = step.given, step.sizes, step.source
    others = [step.optional(name) for name in list(step.found)[1 : len(node.input)]]

    @functools.cache
    def moved() -> list[Array]:
        return evaluation.run(node, [positions_in(sizes), *others], opset)

    for place, output in enumerate(step.outputs):
        if output not in step.builder.shapes:
            raise UnsupportedError(f"it contradicts its inputs, or its sizes do not follow from {source!r}")
        positions = functools.partial(lambda place: moved()[place], place)
        step.emit(Move(step.builder.shapes[output], positions), output=output)


def _dropout(step: Step) -> None:
    training = step.optional("training_mode")
    if training is not None and bool(training.reshape(())):
        raise UnsupportedError("in training mode it draws random numbers")
    if any(step.outputs[1:]):
        raise UnsupportedError("its mask is not read")
    rules.identity(step)


def _cast(step: Step) -> None:
    if step.found.get("to") not in (1, 10, 11, 16):
        raise UnsupportedError("a cast to whole numbers jumps")
    rules.identity(step)


_POINTWISE = "Relu Sigmoid HardSwish Tanh Softplus Softsign Mish Abs Sin Cos Atan Erf"
_MOVING = """
Reshape Flatten Squeeze Unsqueeze Transpose Slice Split Gather GatherElements GatherND Expand Tile
DepthToSpace SpaceToDepth
"""

TABLE: dict[str, rules.Rule] = {
    "Conv": rules.convolution("B"),
    "ConvTranspose": rules.convolution("B"),
    "Gemm": _gemm,
    "MatMul": rules.matmul("A", "B"),
    "BatchNormalization": _batch_norm,
    **{word.title(): _arithmetic(word) for word in ("add", "sub", "mul", "div")},
    "Sum": _sum,
    "Neg": rules.negative,
    "Pow": _pow,
    "Concat": lambda step: rules.concat(step, step.found["inputs"], step.found["axis"]),
    **{word: rules.pointwise(word.lower()) for word in _POINTWISE.split()},
    "LeakyRelu": rules.pointwise("leaky_relu", alpha=0.01),
    "PRelu": _prelu,
    "Elu": rules.pointwise("elu", alpha=1.0),
    "Celu": rules.pointwise("celu", alpha=1.0),
    "Selu": rules.pointwise("selu", alpha=1.67326319217681884765625, gamma=1.05070102214813232421875),
    "HardSigmoid": rules.pointwise("hardsigmoid", alpha=0.2, beta=0.5),
    "Gelu": rules.gelu,
    "Swish": rules.pointwise("swish", alpha=1.0),
    "Clip": rules.clip,
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "MaxPool": windows.pool,
    "AveragePool": windows.pool,
    "GlobalAveragePool": windows.global_average,
    "GlobalMaxPool": windows.global_max,
    "ReduceMean": windows.reduce,
    "ReduceSum": windows.reduce,
    **dict.fromkeys(("ReduceMax", "ReduceMin"), _reduced_extreme),
    **dict.fromkeys(("Max", "Min"), _extreme),
    "TopK": _top,
    "CumSum": _running_sum,
    "Shrink": _shrink,
    **dict.fromkeys(("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"), _layer_norm),
    **dict.fromkeys(("InstanceNormalization", "GroupNormalization"), _channel_norm),
    "Identity": rules.identity,
    "Dropout": _dropout,
    "Cast": _cast,
    "Pad": windows.pad,
    "Resize": windows.resize,
    "Upsample": windows.resize,
    **dict.fromkeys(_MOVING.split(), _moved),
}

REASONS = {
    **dict.fromkeys(
        ("MeanVarianceNormalization", "LpNormalization"),
        refusals.NORMALISED,
    ),
    **dict.fromkeys(("Attention", "MultiHeadAttention"), refusals.ATTENTION),
    "Exp": refusals.STEEP,
    **dict.fromkeys(("Log", "Sqrt", "Reciprocal"), refusals.STEEP_AT_ZERO),
    **dict.fromkeys(
        ("ArgMax", "ArgMin", "Round", "Floor", "Ceil", "Sign", "ThresholdedRelu", "QuantizeLinear"),
        refusals.JUMPS,
    ),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), refusals.RECURRENT),
}
"""Why operators that people use have no constant."""


def reason(node: Any) -> str:
    """Why an operator that is not in the table has no constant."""
    if node.domain not in ("", "ai.onnx"):
        return "an operator from outside of ONNX"
    return REASONS.get(node.op_type, "an operator without a proven constant here")
