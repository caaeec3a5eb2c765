"""What each ONNX operator is among the operations of `operations`: one table."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ... import refusals
from ...graph_builder import UnsupportedError
from ...operations import Affine, Array, AxisMatrices, Concat, Convolution, Move, Pointwise, Softmax
from . import evaluation as onnx_constants
from . import windows
from .conv_geometry import pad_pairs, stated_geometry
from .step import Step


def _convolution(step: Step) -> None:
    kernel = step.constant(1, "kernel")
    shift = step.optional(2, "bias")
    axes = kernel.ndim - 2
    if axes not in (1, 2, 3):
        raise UnsupportedError(f"a kernel of {axes} spatial axes; 1 to 3 are taken")
    pads = pad_pairs(step.found.get("pads"), axes)
    size = list(step.shape[2:])
    geometry = stated_geometry(step.node.op_type == "ConvTranspose", step.found, size, kernel.shape[2:], pads)
    step.emit(Convolution(kernel, geometry, shift))


def _gemm(step: Step) -> None:
    matrix, shift = step.constant(1, "matrix").astype(np.float64), step.optional(2, "bias")
    if not step.found.get("transB", 0):
        matrix = matrix.T
    source = step.source
    if step.found.get("transA", 0):
        source = step.between(Move(step.builder.index_of(source).T))
    if shift is not None:
        shift = shift.astype(np.float64) * step.found.get("beta", 1.0)
    step.emit(AxisMatrices({1: matrix * step.found.get("alpha", 1.0)}, shift, weights=True), source)


def _matmul(step: Step) -> None:
    left, right = step.node.input
    if step.builder.known(left) and step.builder.known(right):
        raise UnsupportedError(refusals.PRODUCT)
    given, constant = (left, right) if step.builder.known(left) else (right, left)
    matrix = step.builder.constants[constant].astype(np.float64)
    rank = len(step.builder.shapes[given])
    if matrix.ndim != 2 or rank < 2:
        raise UnsupportedError(f"a product with a constant of shape {matrix.shape}; a matrix is taken")
    axis, matrix = (rank - 1, matrix.T) if given == left else (rank - 2, matrix)
    step.emit(AxisMatrices({axis: matrix}, weights=True), given)


def _batch_norm(step: Step) -> None:
    if step.found.get("training_mode", 0) or len([name for name in step.node.output if name]) > 1:
        raise UnsupportedError(refusals.TRAINING)
    gamma, beta, mean, variance = (
        step.constant(place, what).astype(np.float64)
        for place, what in enumerate(("scale", "bias", "mean", "variance"), 1)
    )
    with np.errstate(all="ignore"):  # what comes out is checked before it is used
        scale = gamma / np.sqrt(variance + step.found.get("epsilon", 1e-5))
        shift = beta - mean * scale
    along = (1, -1, *[1] * (len(step.shape) - 2))
    step.emit(Affine(scale.reshape(along), shift.reshape(along)))


def _arithmetic(word: str) -> Callable[[Step], None]:
    def rule(step: Step) -> None:
        step.builder.arithmetic(
            step.label, step.node.op_type, word, list(step.node.input), step.node.output[0]
        )

    return rule


def _negative(step: Step) -> None:
    ones = np.ones((1,) * len(step.shape))
    step.emit(Affine(-ones, 0 * ones))


def _sum(step: Step) -> None:
    names, output = list(step.node.input), step.node.output[0]
    if len(names) == 1:
        step.emit(Move(step.builder.index_of(names[0])))
        return
    # In pairs; the last one makes the output.
    for place, name in enumerate(names[1:], 1):
        if not step.builder.known(names[0]) and not step.builder.known(name):
            raise UnsupportedError("a sum that begins with two constants")
        made = output if place == len(names) - 1 else step.builder.names.unique(f"{output}/sum")
        step.builder.arithmetic(step.label, "Sum", "add", [names[0], name], made)
        names[0] = made


def _pow(step: Step) -> None:
    exponent = step.constant(1, "exponent")
    if exponent.size != 1 or float(exponent.reshape(())) != 1:
        raise UnsupportedError("a power other than 1 grows faster than any line")
    step.emit(Move(step.builder.index_of(step.source)))


def _concat(step: Step) -> None:
    names = list(step.node.input)
    rank = len(next(step.builder.shapes[name] for name in names if step.builder.known(name)))
    axis = step.found["axis"] % rank
    for place, name in enumerate(names):
        if not step.builder.known(name):
            names[place] = _filled(step, step.builder.constants[name])
    step.builder.add(step.label, "Concat", Concat(axis), names, step.node.output[0])


def _filled(step: Step, value: Array) -> str:
    """A constant as a node of constant 0 of the first input that depends on the graph's."""
    given = next(name for name in step.node.input if step.builder.known(name))
    nothing = step.builder.names.unique(f"{step.node.output[0]}/constant")
    step.builder.add(step.label, "Concat", Move(np.full(value.shape, -1)), [given], nothing)
    made = step.builder.names.unique(f"{step.node.output[0]}/constant")
    return step.builder.affine(step.label, "Concat", np.zeros(()), value.astype(np.float64), nothing, made)


def _pointwise(function: str, **defaults: float) -> Callable[[Step], None]:
    def rule(step: Step) -> None:
        step.emit(
            Pointwise(function, {name: step.found.get(name, value) for name, value in defaults.items()})
        )

    return rule


def _prelu(step: Step) -> None:
    slope = step.constant(1, "slope").astype(np.float64)
    rank = len(step.shape)
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
        step.emit(Softmax(step.found.get("axis", -1) % len(step.shape), logarithm))
        return
    # Before version 13: over all axes from this one on, taken as one.
    shape, axis = step.shape, step.found.get("axis", 1) % len(step.shape)
    if axis == len(shape) - 1:
        step.emit(Softmax(axis, logarithm))
        return
    index = step.builder.index_of(step.source)
    flat = step.between(Move(index.reshape(*shape[:axis], -1)))
    soft = step.between(Softmax(axis, logarithm), flat)
    step.emit(Move(index), soft)


def _moved(step: Step) -> None:
    """Operators that only move entries: by what the reference implementation makes of their positions."""
    positions = step.builder.index_of(step.source)
    inputs: list[Array | None] = [positions]
    inputs += [step.optional(place, "second input") for place in range(1, len(step.node.input))]
    amounts = inputs[1] if step.node.op_type in ("Expand", "Tile") else None
    if amounts is not None:
        tiled = positions.size if step.node.op_type == "Tile" else 1
        step.check_size(tiled * math.prod(float(max(n, 1)) for n in amounts.reshape(-1)))
    for name, moved in zip(step.node.output, onnx_constants.run(step.node, inputs, step.opset), strict=False):
        if name:
            step.emit(Move(moved.astype(np.int64)), output=name)


def _identity(step: Step) -> None:
    step.emit(Move(step.builder.index_of(step.source)))


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
