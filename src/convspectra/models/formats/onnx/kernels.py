"""The weights of layers in an ONNX graph: where they lie, what they are as floats, what to call them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...names import layer_name
from . import store as tensors
from .evaluation import NotConstantError, dequantised
from .scope import Scope, Values

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Weights:
    """Which inputs of an operator are its weights, and the scale and zero point of stored integers."""

    kind: str
    weight: int = 1
    scale: int | None = None
    zero: int | None = None
    scaled_behind: bool = False
    quantised: bool = False


OPERATORS: dict[str, Weights] = {
    "Conv": Weights("conv"),
    "ConvTranspose": Weights("conv_transpose"),
    "Gemm": Weights("linear"),
    "MatMul": Weights("linear"),
    "QLinearConv": Weights("conv", 3, 4, 5, quantised=True),
    "QLinearMatMul": Weights("linear", 3, 4, 5, quantised=True),
    "ConvInteger": Weights("conv", 1, None, 3, scaled_behind=True, quantised=True),
    "MatMulInteger": Weights("linear", 1, None, 3, scaled_behind=True, quantised=True),
    "com.microsoft::FusedConv": Weights("conv"),
    "com.microsoft::QGemm": Weights("linear", 3, 4, 5, quantised=True),
    "com.microsoft::DynamicQuantizeMatMul": Weights("linear", 1, 2, 3, quantised=True),
    "com.microsoft::MatMulIntegerToFloat": Weights("linear", 1, 3, 5, quantised=True),
}
"""Operators that are layers. Those of one vendor come from its own quantiser and optimiser."""

_MAY_BE_LAYERS = re.compile(r"Conv|MatMul|Gemm|Einsum|LSTM|GRU|^RNN$|Attention")
_FORMS = re.compile(
    r"(_quantized|_quant|_[Tt]ransposed|_DequantizeLinear(_Output)?(_\d+)?)+$|"
    r"(?<=weight)(_v|_g|_orig|_bar)$|(?<=weight_)(v|g)$"
)
_PARAMETRIZED = re.compile(r"\.?parametrizations\.weight\.original\d?$")


def may_be_layer(node: Any) -> bool:
    """Whether an operator that is not read multiplies by weights, by its name."""
    return _MAY_BE_LAYERS.search(node.op_type) is not None


def label(node: Any) -> str:
    """What a node is called in messages."""
    return str(node.name or next(iter(node.output), "") or node.op_type)


def plain_name(weight: str, node: Any) -> str:
    """The layer's name from that of its weights, without what quantisers and parametrizations add."""
    weight = _PARAMETRIZED.sub(".weight", weight)
    return layer_name(_FORMS.sub("", weight), fallback=_FORMS.sub("", node.name) or node.op_type)


def stored_in(name: str, scope: Scope) -> tuple[str, Any]:
    """The largest initializer that a constant is made of, by name, and its tensor; the name alone if none."""
    waiting, seen = [(name, scope)], {name}
    found: tuple[int, str, Any] = (-1, name, None)
    while waiting:
        one, here = waiting.pop()
        home = here.home(one) or here
        tensor = home.constants.get(one)
        if tensor is not None:
            size = int(np.prod(tensor.dims, dtype=object))
            found = max(found, (size, one, tensor), key=lambda entry: entry[0])
            continue
        for needed in getattr(home.producers.get(one), "input", ()):
            if needed and needed not in seen:
                seen.add(needed)
                waiting.append((needed, home))
    return found[1:]


def kernel(node: Any, weights: Weights, scope: Scope, values: Values) -> Array:
    """The weights as floats, in the node's own layout.

    Raises:
        NotConstantError: they are not in the file.
    """
    if len(node.input) <= weights.weight or not node.input[weights.weight]:
        raise NotConstantError("missing")
    stored = values.require(node.input[weights.weight], scope)
    if not weights.quantised:
        return stored
    found = {}
    for word, place in (("scale", weights.scale), ("zero", weights.zero)):
        given = place is not None and len(node.input) > place and node.input[place]
        found[word] = values.require(given, scope) if given else None
    scale = _scale_behind(node, scope, values) if weights.scaled_behind else found["scale"]
    axis = 0 if weights.kind == "conv" or tensors.attributes(node).get("transB", 0) else stored.ndim - 1
    for one in (scale, found["zero"]):
        if one is not None and one.size not in (1, stored.shape[axis]):
            raise NotConstantError(
                f"stored with {one.size} scales or zero points for {stored.shape[axis]} channels"
            )
    return dequantised(stored, np.ones((), np.float32) if scale is None else scale, found["zero"], axis)


def _scale_behind(node: Any, scope: Scope, values: Values) -> Array:
    """The scale of integer weights: the constant factor of the products behind, without the input's scale."""
    name: str = node.output[0]
    factor: Array = np.ones((), np.float32)
    for _ in range(4):
        readers = scope.consumers.get(name, [])
        if len(readers) != 1 or name in scope.outputs or readers[0].op_type not in ("Cast", "Mul"):
            break
        for other in readers[0].input:
            if other != name:
                factor = factor * _constant_factor(other, scope, values)
        if (factor != 1).any():
            break
        name = readers[0].output[0]
    source = scope.find("producers", node.input[0])
    if source is not None and source.op_type == "QuantizeLinear":
        given = values.get(source.input[1], scope)
        factor = factor / given if given is not None and given.size == 1 and given.all() else factor
    return np.asarray(factor, np.float32).reshape(-1)


def _constant_factor(name: str, scope: Scope, values: Values, depth: int = 0) -> Array:
    value = values.get(name, scope)
    if value is not None:
        return value
    product = scope.find("producers", name)
    factor: Array = np.ones((), np.float32)
    if product is not None and product.op_type == "Mul" and depth < 4:
        for one in product.input:
            factor = factor * _constant_factor(one, scope, values, depth + 1)
    return np.asarray(factor)
