"""What each ONNX operator is among the operations of `operations`: one table."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ... import batch_norm, refusals
from ...graph_builder import UnsupportedError
from ...operations import (
    Affine,
    Array,
    AxisMatrices,
    Concat,
    Convolution,
    Move,
    Pointwise,
    Softmax,
    StoredLayer,
    positions_in,
)
from ...records import ConvLayer
from . import evaluation, windows
from .step import Step


def _convolution(step: Step) -> None:
    layer = _layer(step)
    if layer.geometry is None:
        raise UnsupportedError(layer.reason)
    step.emit(Convolution(layer.kernel, layer.geometry, step.optional(2, "bias")))


def _gemm(step: Step) -> None:
    matrix, shift = _layer(step).kernel[..., 0], step.optional(2, "bias")
    source = step.source
    if step.found.get("transA", 0):
        source = step.between(Move(step.shape[::-1], lambda: positions_in(step.shape).T))
    if shift is not None:
        shift = shift.astype(np.float64) * step.found.get("beta", 1.0)
    step.emit(AxisMatrices({1: matrix}, shift, weights=True), source)


def _matmul(step: Step) -> None:
    left, right = step.inputs
    if step.builder.depends(left) and step.builder.depends(right):
        raise UnsupportedError(refusals.PRODUCT)
    given, constant = (left, right) if step.builder.depends(left) else (right, left)
    rank = len(step.builder.sizes(given))
    if step.builder.constants[constant].ndim != 2 or rank < 2:
        shape = step.builder.constants[constant].shape
        raise UnsupportedError(f"a product with a constant of shape {shape}; a matrix is taken")
    axis = rank - 1 if given == left else rank - 2
    step.emit(AxisMatrices({axis: _layer(step).kernel[..., 0]}, weights=True), given)


def _layer(step: Step) -> ConvLayer:
    """The layer that the node is."""
    if not isinstance(step.layer, StoredLayer):
        raise UnsupportedError(step.layer.reason if step.layer else "its weights are no matrix")
    return step.layer.layer


def _batch_norm(step: Step) -> None:
    if step.found.get("training_mode", 0) or len([name for name in step.node.output if name]) > 1:
        raise UnsupportedError(refusals.TRAINING)
    gamma, beta, mean, variance = (
        step.constant(place, what) for place, what in enumerate(("scale", "bias", "mean", "variance"), 1)
    )
    epsilon = step.found.get("epsilon", 1e-5)
    step.emit(batch_norm.affine(gamma, beta, mean, variance, epsilon, len(step.sizes)))


def _arithmetic(word: str) -> Callable[[Step], None]:
    def rule(step: Step) -> None:
        step.builder.arithmetic(step.label, step.node.op_type, word, step.inputs, step.outputs[0])

    return rule


def _negative(step: Step) -> None:
    ones = np.ones((1,) * len(step.sizes))
    step.emit(Affine(-ones, 0 * ones))


def _sum(step: Step) -> None:
    names, output = list(step.inputs), step.outputs[0]
    if len(names) == 1:
        _identity(step)
        return
    # In pairs; the last one makes the output.
    for place, name in enumerate(names[1:], 1):
        if not step.builder.depends(names[0]) and not step.builder.depends(name):
            raise UnsupportedError("a sum that begins with two constants")
        made = output if place == len(names) - 1 else step.builder.tensors.unique(f"{output}/sum")
        step.builder.arithmetic(step.label, "Sum", "add", [names[0], name], made)
        names[0] = made


def _pow(step: Step) -> None:
    exponent = step.constant(1, "exponent")
    if exponent.size != 1 or float(exponent.reshape(())) != 1:
        raise UnsupportedError("a power other than 1 grows faster than any line")
    _identity(step)


def _concat(step: Step) -> None:
    names = list(step.inputs)
    rank = len(next(step.builder.sizes(name) for name in names if step.builder.depends(name)))
    axis = step.found["axis"] % rank
    for place, name in enumerate(names):
        if not step.builder.depends(name):
            names[place] = _filled(step, step.builder.constants[name])
    step.builder.add(step.label, "Concat", Concat(axis), names, step.outputs[0])


def _filled(step: Step, value: Array) -> str:
    """A constant as a node of constant 0 of the first input that depends on the graph's."""
    given = next(name for name in step.inputs if step.builder.depends(name))
    made, nothing = (step.builder.tensors.unique(f"{step.outputs[0]}/constant") for _ in range(2))
    empty = Move(value.shape, lambda: np.full(value.shape, -1))
    step.builder.add(step.label, "Concat", empty, [given], nothing)
    return step.builder.affine(step.label, "Concat", np.zeros(()), value.astype(np.float64), nothing, made)


def _pointwise(function: str, **defaults: float) -> Callable[[Step], None]:
    def rule(step: Step) -> None:
        step.emit(
            Pointwise(function, {name: step.found.get(name, value) for name, value in defaults.items()})
        )

    return rule


def _prelu(step: Step) -> None:
    slope = step.constant(1, "slope").astype(np.float64)
    rank = len(step.sizes)
    step.emit(Pointwise("prelu", {"slope": slope.reshape((1,) * (rank - slope.ndim) + slope.shape)}))


def _gelu(step: Step) -> None:
    step.emit(Pointwise("gelu_tanh" if step.found.get("approximate", "none") == "tanh" else "gelu"))


def _clip(step: Step) -> None:
    low, high = step.optional(1, "lower end"), step.optional(2, "upper end")
    step.emit(
        Pointwise(
            "clip",
            {
                "low": float(step.found.get("min", -math.inf) if low is None else low.reshape(())),
                "high": float(step.found.get("max", math.inf) if high is None else high.reshape(())),
            },
        )
    )


def _softmax(step: Step) -> None:
    logarithm = step.node.op_type == "LogSoftmax"
    if step.opset >= 13:
        step.emit(Softmax(step.found.get("axis", -1) % len(step.sizes), logarithm))
        return
    # Before version 13: over all axes from this one on, taken as one.
    shape, axis = step.shape, step.found.get("axis", 1) % len(step.shape)
    if axis == len(shape) - 1:
        step.emit(Softmax(axis, logarithm))
        return
    joined = (*shape[:axis], math.prod(shape[axis:]))
    flat = step.between(Move(joined, lambda: positions_in(joined)))
    soft = step.between(Softmax(axis, logarithm), flat)
    step.emit(Move(shape, lambda: positions_in(shape)), soft)


def _moved(step: Step) -> None:
    """Operators that only move entries: by what the reference implementation makes of their positions."""
    sizes, source = step.sizes, step.source
    others = [step.optional(place, "second input") for place in range(1, len(step.inputs))]

    @functools.cache
    def moved() -> list[Array]:
        return evaluation.run(step.node, [positions_in(sizes), *others], step.opset)

    for place, output in enumerate(step.outputs):
        if output not in step.builder.shapes:
            raise UnsupportedError(f"it contradicts its inputs, or its sizes do not follow from {source!r}")
        positions = functools.partial(lambda place: moved()[place], place)
        step.emit(Move(step.builder.shapes[output], positions), output=output)


def _identity(step: Step) -> None:
    step.emit(Move(step.sizes))


def _dropout(step: Step) -> None:
    training = step.optional(2, "mode")
    if training is not None and bool(training.reshape(())):
        raise UnsupportedError("in training mode it draws random numbers")
    if len(step.node.output) > 1 and step.node.output[1]:
        raise UnsupportedError("its mask is not read")
    _identity(step)


def _cast(step: Step) -> None:
    if step.found.get("to") not in (1, 10, 11, 16):
        raise UnsupportedError("a cast to whole numbers jumps")
    _identity(step)


TABLE: dict[str, Callable[[Step], None]] = {
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _batch_norm,
    **{word.title(): _arithmetic(word) for word in ("add", "sub", "mul", "div")},
    "Sum": _sum,
    "Neg": _negative,
    "Pow": _pow,
    "Concat": _concat,
    "Relu": _pointwise("relu"),
    "LeakyRelu": _pointwise("leaky_relu", alpha=0.01),
    "PRelu": _prelu,
    "Elu": _pointwise("elu", alpha=1.0),
    "Celu": _pointwise("celu", alpha=1.0),
    "Selu": _pointwise("selu", alpha=1.67326319217681884765625, gamma=1.05070102214813232421875),
    "Sigmoid": _pointwise("sigmoid"),
    "HardSigmoid": _pointwise("hardsigmoid", alpha=0.2, beta=0.5),
    "HardSwish": _pointwise("hardswish"),
    "Tanh": _pointwise("tanh"),
    "Softplus": _pointwise("softplus"),
    "Softsign": _pointwise("softsign"),
    "Gelu": _gelu,
    "Mish": _pointwise("mish"),
    "Swish": _pointwise("swish", alpha=1.0),
    "Clip": _clip,
    "Abs": _pointwise("abs"),
    "Sin": _pointwise("sin"),
    "Cos": _pointwise("cos"),
    "Atan": _pointwise("atan"),
    "Erf": _pointwise("erf"),
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "MaxPool": windows.pool,
    "AveragePool": windows.pool,
    "GlobalAveragePool": windows.global_average,
    "GlobalMaxPool": windows.global_max,
    "ReduceMean": windows.reduce,
    "ReduceSum": windows.reduce,
    "Identity": _identity,
    "Dropout": _dropout,
    "Cast": _cast,
    "Pad": windows.pad,
    "Resize": windows.resize,
    "Upsample": windows.resize,
    **dict.fromkeys(
        (
            *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "Gather"),
            *("GatherElements", "GatherND", "Expand", "Tile", "DepthToSpace", "SpaceToDepth"),
        ),
        _moved,
    ),
}

REASONS = {
    **dict.fromkeys(
        (
            *(f"{kind}Normalization" for kind in ("Layer", "Instance", "Group", "RMS", "MeanVariance", "Lp")),
            "SimplifiedLayerNormalization",
        ),
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
