"""The spectral complexity of a network, and the margins that it is weighed against.

The formula sums over what is learned: convolutions and linear layers, each one matrix, with its own padding.
All else counts as nonlinearity, by its Lipschitz constant.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeGuard

import numpy as np

from ..errors import InputError
from ..models.operations import (
    Affine,
    Array,
    AxisMatrices,
    Concat,
    Convolution,
    Move,
    Node,
    Operation,
    Pointwise,
    Shape,
    Softmax,
    Sum,
)
from .constants import norm_interval
from .records import Complexity, LayerNorms, Margins
from .row_norms import matrix_norms, row_norms
from .slopes import NOT_ZERO_AT_ZERO

SOURCE = "Bartlett, Foster and Telgarsky (2017)"

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
"""Levels at which the margins are summarised."""

# Of logarithms of numbers up to 1e308, and of a sum of them.
_ALLOWANCE = 1 + 1e-11


def is_layer(operation: Operation) -> TypeGuard[Convolution | AxisMatrices]:
    """Whether an operation is a linear map that is learned."""
    return isinstance(operation, Convolution) or (isinstance(operation, AxisMatrices) and operation.weights)


def layer_norms(
    node: Node, operation: Convolution | AxisMatrices, shape: Shape, made: Shape
) -> tuple[LayerNorms, str]:
    """The norms of one layer, and where that of the operator comes from.

    Arguments:
        shape, made: of its input and its output, the batch included: the layer acts on each example of it.

    Raises:
        InputError: as `constants.constant`.
    """
    lower, upper, how = norm_interval(operation)
    inputs, outputs = math.prod(shape), math.prod(made)
    if isinstance(operation, Convolution):
        kernel = np.asarray(operation.kernel, dtype=np.float64)
        kernel = np.transpose(kernel, operation.geometry.kernel_axes)
        two_one, frobenius = row_norms(kernel, operation.geometry.correlation(operation.kernel.shape))
        two_one, frobenius = two_one * shape[0], frobenius * math.sqrt(shape[0])
    else:
        others = math.prod(size for axis, size in enumerate(shape) if axis not in operation.matrices)
        two_one, frobenius = matrix_norms(list(operation.matrices.values()), others)
    return LayerNorms(node.name, node.operator, inputs, outputs, lower, upper, two_one, frobenius), how


def complexity(
    nodes: Sequence[Node],
    layers: Sequence[LayerNorms],
    constants: Sequence[float],
    upper: float,
    outputs: int,
) -> Complexity:
    """An UPPER bound of a network's spectral complexity, or of its analogue for networks with branches.

        R_A = (prod_i rho_i ||A_i||) ( sum_i (||A_i^T - M_i^T||_{2,1} / ||A_i||)^(2/3) )^(3/2),    M_i = 0

    `||A^T||_{2,1}` is the sum of the lengths of the rows of A, of a convolution's whole matrix one for each
    point that comes out, and rho_i the product of the constants of what lies between two layers.

    Of a chain the norms are replaced by their upper bounds. That bounds the formula, as it is
    `prod_i rho_i (sum_i (||A_i^T||_{2,1} prod_{j != i} ||A_j||)^(2/3))^(3/2)`, which grows with each norm.
    With branches the product is replaced by the network's Lipschitz bound, which need not grow as fast as
    one layer's norm: there the quotients are taken by the norms' lower bounds.

    Arguments:
        nodes: of the network, after `folding`, with their constants; `layers` of those that `is_layer` takes.
        upper: the network's Lipschitz bound.
        outputs: how many tensors come out.

    All is about the network as the graph states it, a batch of several inputs included.

    Not guaranteed: that anything follows from it for networks with `departures`. Where nothing does not, the
    theorem bounds the error on new examples by `||X||_F R_A / (margin n)`, up to logarithms, for reference
    matrices M_i fixed before the data were seen, of which zero is one.

    Reference: Bartlett, Foster and Telgarsky (2017), Equation 1.2 and Theorem 1.1.
    """
    chain = outputs == 1 and not any(isinstance(node.operation, (Sum, Concat)) for node in nodes)
    product = _logarithm(constants) if chain else _log(upper)
    terms = []
    for layer in layers:
        # The rank is at most the smaller side, so that this too is below the norm.
        least = layer.frobenius / math.sqrt(min(layer.inputs, layer.outputs)) / _ALLOWANCE
        norm = layer.upper if chain else max(layer.lower, least)
        # A zero layer adds nothing, whatever the quotient.
        if layer.two_one > 0:
            terms.append(2 / 3 * (_log(layer.two_one) - _log(norm)))
    correction = _root_of_sum(terms)
    total = -math.inf if -math.inf in (product, correction) else product + correction
    why = tuple(_departures(nodes, chain))
    return Complexity(
        value=_exp(total),
        log10=total / math.log(10) if math.isfinite(total) else None,
        product=_exp(product),
        correction=_exp(correction),
        status="analogue" if why else "theorem",
        departures=why,
        layers=tuple(layers),
    )


def _departures(nodes: Sequence[Node], chain: bool) -> Iterator[str]:
    """In which ways the network is none of those of the theorem, in words."""
    operations = [node.operation for node in nodes]
    if not chain:
        yield "branches (sums, concatenations, several outputs)"
    if not any(map(is_layer, operations)):
        yield "no layer that is learned"
    shifts = [one.shift for one in operations if isinstance(one, (Convolution, AxisMatrices))]
    if any(shift is not None and np.any(shift) for shift in shifts):
        yield "biases"
    loose = [one for one in operations if isinstance(one, Affine)]
    loose += [node.parts[1] for node in nodes if node.parts and not is_layer(node.operation)]
    if any(np.any(one.shift) or np.any(np.abs(one.scale) != 1) for one in loose):
        yield "scales and shifts outside of the layers"
    if any(map(_moves_zero, operations)):
        yield "nonlinearities that are not 0 at 0"


def _moves_zero(operation: Operation) -> bool:
    match operation:
        case Softmax():
            return True
        case Move():
            return operation.fill != 0 and bool((operation.index < 0).any())
        case Pointwise():
            moves = NOT_ZERO_AT_ZERO.get(operation.function)
            return moves is not None and moves(operation.parameters)
    return False


def checked_labels(
    labels: Array, inputs: Array | None, outputs: Mapping[str, Shape]
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Labels as whole numbers that fit the inputs and the one output.

    Raises:
        InputError: there are no inputs, not one label for each, no classes to choose from, a label beyond
            them, or something else than whole numbers.
    """
    if inputs is None:
        raise InputError("labels are those of inputs: give inputs too, one for each label")
    count = inputs.shape[0] if inputs.ndim else 0
    if labels.dtype.kind not in "iu" or labels.shape != (count,) or not count:
        raise InputError(
            f"labels must be integers of shape ({count},), one for each of the inputs; got {labels.dtype} of "
            f"shape {labels.shape}"
        )
    listed = ", ".join(f"{name!r} of shape {shape}" for name, shape in outputs.items())
    if len(outputs) != 1:
        raise InputError(f"labels are for one output; name one of {listed} with outputs=")
    (shape,) = outputs.values()
    if len(shape) != 2 or shape[0] != 1 or shape[1] < 2:
        raise InputError(
            f"labels are for an output of shape (1, classes); got {listed}: name another with outputs="
        )
    if labels.min() < 0 or labels.max() >= shape[1]:
        raise InputError(
            f"labels must lie between 0 and {shape[1] - 1}, as the output has {shape[1]} classes; they go "
            f"from {labels.min()} to {labels.max()}"
        )
    return labels.astype(np.int64)


def runners_up(values: Array, labels: Array) -> Array:
    """For each row the column that is largest but for the label's."""
    others = np.array(values, dtype=np.float64)
    others[np.arange(len(labels)), labels] = -np.inf
    return np.asarray(others.argmax(axis=1))


def margins(output: str, values: Array, labels: Array, inputs: Array, found: Complexity) -> Margins:
    """The margins of a classifier on labelled inputs, and relative to `R_A ||X||_F / n`.

    Arguments:
        values: the output at each input, shape (n, classes).
        labels: shape (n,), from `checked_labels`.
        inputs: shape (n, ...).

    Reference: Bartlett, Foster and Telgarsky (2017), Section 2, for the normalisation.
    """
    rows = np.arange(len(labels))
    finite = np.isfinite(values).all(axis=1)
    with np.errstate(invalid="ignore"):
        every = values[rows, labels] - values[rows, runners_up(values, labels)]
    ahead = every[finite]
    wide = inputs.astype(np.float64)
    scale = float(np.abs(wide).max()) or 1.0
    length = float(np.linalg.norm(wide / scale))
    normalised = None
    if found.log10 is not None and length and ahead.size:
        unit = _log(len(labels)) - found.log10 * math.log(10) - _log(length) - _log(scale)
        normalised = _quantiles(ahead * _exp(unit, up=False))
    return Margins(
        output=output,
        examples=len(labels),
        correct=int((ahead > 0).sum()),
        left_out=int((~finite).sum()),
        data_norm=scale * length,
        quantiles=_quantiles(ahead),
        normalised=normalised,
    )


def _quantiles(values: Array) -> dict[float, float]:
    if not values.size:
        return {}
    return dict(zip(QUANTILES, map(float, np.quantile(values, QUANTILES)), strict=True))


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _logarithm(factors: Sequence[float]) -> float:
    """Of a product in which 0 times what overflowed is 0."""
    return -math.inf if 0.0 in factors else math.fsum(map(_log, factors))


def _root_of_sum(terms: Sequence[float]) -> float:
    """`log (sum_i exp(terms_i))^(3/2)`."""
    if not all(map(math.isfinite, terms)):
        return math.inf
    largest = max(terms, default=-math.inf)
    shifted = math.fsum(math.exp(one - largest) for one in terms)
    return 1.5 * (largest + _log(shifted))


def _exp(logarithm: float, up: bool = True) -> float:
    """The exponential, rounded outwards; inf beyond the floating range."""
    try:
        found = math.exp(logarithm)
    except OverflowError:
        return math.inf
    return found * _ALLOWANCE if up else found / _ALLOWANCE
