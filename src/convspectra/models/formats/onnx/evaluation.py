"""What the nodes of an ONNX graph make of constants alone: one evaluation for all readers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...budget import Budget
from ...reading import first_line
from . import store as tensors

Array = np.ndarray[Any, Any]

RUN_TIME = "computed at run time"

_MOST_PRODUCTS = 2**34
"""Multiplications of one product of constant matrices: some seconds."""

SMALL = 64
"""Arrays up to here may be amounts and sizes, which inference is given."""

# What exporters make weights and sizes with: no operator with loops, decoders, or random numbers.
_WORDS = """
Abs Acos Add And Asin Atan BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Clip
Concat ConstantOfShape Cos CumSum DepthToSpace DequantizeLinear Div Elu Equal Erf Exp Expand EyeLike Flatten
Floor Gather GatherElements GatherND Gemm Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN
LeakyRelu Less LessOrEqual Log LogSoftmax MatMul Max Mean Min Mod Mul Neg NonZero Not OneHot Or PRelu Pad Pow
QuantizeLinear Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
ReduceProd ReduceSum ReduceSumSquare Relu Reshape Round ScatterElements ScatterND Selu Shape Sigmoid Sign Sin
Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh Tile Transpose Trilu
Unsqueeze Where Xor BatchNormalization InstanceNormalization LayerNormalization Conv GlobalAveragePool
GlobalMaxPool Celu Gelu Mish Resize
"""
EVALUATED = frozenset(_WORDS.split())


class NotConstantError(Exception):
    """A value that cannot be had from the file alone; the message is the reason."""


def evaluate(node: Any, inputs: Sequence[Array | None], opset: int, budget: Budget) -> list[Array]:
    """All outputs of one node for these inputs, as its operator is defined in this version of ONNX.

    What comes out is measured, by the shape inference of ONNX, before it is made.

    Raises:
        NotConstantError: an operator that is not evaluated, or that contradicts its inputs.
        BudgetError: more work or memory than a file may cost.
    """
    label = f"{node.op_type} {node.name or next(iter(node.output), '')!r}"
    if node.domain not in ("", "ai.onnx") or node.op_type not in EVALUATED:
        raise NotConstantError(f"{RUN_TIME} by {label}")
    budget.evaluate(label)
    try:
        entries = _entries(node, inputs, opset)
        budget.take(8 * entries, label)
        if node.op_type == "Resize":  # a step of the reference implementation each
            budget.evaluate(label, entries)
        with np.errstate(all="ignore"):
            return run(node, inputs, opset)
    except NotConstantError:
        raise
    except Exception as error:
        if type(error).__module__.startswith("convspectra"):
            raise
        raise NotConstantError(
            f"made by {label}, which contradicts its operator or its inputs: {first_line(error)}"
        ) from None


def dequantised(values: Array, scale: Array, zero: Array | None, axis: int, block: int = 0) -> Array:
    """`(values - zero) scale` in the precision of the scale, as DequantizeLinear has it.

    Arguments:
        scale, zero: one number, one for each index along `axis`, or of the rank of `values` with one for each
            `block` of indices.
    """
    shape = [1] * values.ndim
    kind = scale.dtype if scale.dtype.kind == "f" else np.dtype(np.float32)

    def fitted(one: Array) -> Array:
        if one.size == 1:
            return one.reshape(())
        if one.ndim == 1:
            shape[axis] = -1
            return one.reshape(shape)
        if block:
            return np.take(np.repeat(one, block, axis=axis), range(values.shape[axis]), axis=axis)
        return one

    shift = 0 if zero is None else fitted(zero).astype(np.float64)
    return np.asarray((values.astype(np.float64) - shift).astype(kind) * fitted(scale).astype(kind))


def _entries(node: Any, inputs: Sequence[Array | None], opset: int) -> int:
    """Entries of all that a node makes, on the way too.

    Raises:
        NotConstantError: nobody can say, or it takes too many multiplications.
    """
    from onnx import helper

    given = [value for value in inputs if value is not None]
    if node.op_type == "NonZero":
        return given[0].ndim * given[0].size
    if node.op_type == "DequantizeLinear":
        # Inference knows the types of 4 and 8 bits, which are float32 here, and not how often scales repeat.
        repeated = max(1, tensors.attributes(node).get("block_size", 0))
        return given[0].size + sum(one.size for one in given[1:]) * int(repeated)
    named = {name: value for name, value in zip(node.input, inputs, strict=True) if value is not None}
    kinds = {
        name: helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in named.items()
    }
    small = {name: value for name, value in named.items() if value.size <= SMALL}
    entries = 0
    for kind in outputs_of(node, kinds, small, opset).values():
        dims = kind.tensor_type.shape.dim
        if not all(dim.HasField("dim_value") and dim.dim_value >= 0 for dim in dims):
            raise NotConstantError(f"made by {node.op_type} {node.output[0]!r}, of unknown size")
        entries += math.prod(int(dim.dim_value) for dim in dims)
    if node.op_type in ("MatMul", "Gemm"):
        transposed = node.op_type == "Gemm" and tensors.attributes(node).get("transA", 0)
        inner = given[0].shape[0 if transposed else -1]
        if entries * inner > _MOST_PRODUCTS:
            raise NotConstantError(f"made by {node.op_type} {node.output[0]!r}, a product of large matrices")
    if node.op_type == "Conv":
        kernel, found = given[1], tensors.attributes(node)
        if entries * math.prod(kernel.shape[1:]) > _MOST_PRODUCTS:
            raise NotConstantError(f"made by Conv {node.output[0]!r}, a product of large tensors")
        pads, axes = found.get("pads") or [0] * 2 * (kernel.ndim - 2), kernel.ndim - 2
        reach = [
            (k - 1) * d for k, d in zip(kernel.shape[2:], found.get("dilations") or [1] * axes, strict=True)
        ]
        sides = [
            n + a + b + 2 * r
            for n, a, b, r in zip(given[0].shape[2:], pads, pads[axes:], reach, strict=False)
        ]
        # The padded input, the kernel with its gaps, and the columns of a matrix product.
        entries += math.prod([*given[0].shape[:2], *sides]) + kernel.size * math.prod(r + 1 for r in reach)
        entries += entries * math.prod(kernel.shape[2:])
    return entries


def outputs_of(
    node: Any, kinds: Mapping[str, Any], known: Mapping[str, Array | None], opset: int
) -> dict[str, Any]:
    """The types of a node's outputs, for inputs of these types, where the operator's inference says them.

    Arguments:
        kinds: of the inputs, None for one that is not known.
        known: the values of inputs that may be sizes or amounts.
    """
    import onnx
    from onnx import helper, numpy_helper

    if node.domain not in ("", "ai.onnx"):
        return {}
    schema = onnx.defs.get_schema(node.op_type, opset, "")
    types = {name: onnx.TypeProto() if kind is None else kind for name, kind in kinds.items()}
    data = {name: numpy_helper.from_array(value, name) for name, value in known.items() if value is not None}
    imports = [helper.make_opsetid("", opset)]
    found: dict[str, Any] = onnx.shape_inference.infer_node_outputs(
        schema, node, types, data, opset_imports=imports, ir_version=onnx.IR_VERSION
    )
    return found


def run(node: Any, inputs: Sequence[Array | None], opset: int) -> list[Array]:
    """All outputs of one node, whatever they cost."""
    from onnx.reference import ReferenceEvaluator

    found = tensors.attributes(node)
    first = inputs[0] if inputs else None
    if node.op_type in ("Squeeze", "Unsqueeze") and "axes" in found and first is not None:
        # The evaluator knows only the form of version 13, where the axes are an input.
        change: Any = np.squeeze if node.op_type == "Squeeze" else np.expand_dims
        return [np.asarray(change(first, tuple(found["axes"])))]
    if node.op_type == "DequantizeLinear" and first is not None and inputs[1] is not None:
        zero = inputs[2] if len(inputs) > 2 else None
        return [dequantised(first, inputs[1], zero, found.get("axis", 1), found.get("block_size", 0))]
    feeds = {name: value for name, value in zip(node.input, inputs, strict=True) if name}
    evaluator: Any = ReferenceEvaluator(node, opsets={"": opset})
    return [np.asarray(value) for value in evaluator.run(None, feeds)]
