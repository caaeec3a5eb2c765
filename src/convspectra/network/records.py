"""What is known of the Lipschitz constant of a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

ASSUMES = (
    "l2 -> l2, over all inputs, of the network in real arithmetic with the weights as stored, in evaluation "
    "mode, at the sizes given here"
)
JOINT = "these together"
"""What several outputs one behind the other are called."""

LOWER_ASSUMES = (
    "||J v|| for a unit v at a point, in float64, up to its rounding; J is the derivative at a point where "
    "the network has one, as almost every point is, and a given point may not be"
)


@dataclass(frozen=True)
class NodeBound:
    """One node of the network, on the way to an output that was asked for.

    Attributes:
        operator: what the file calls it; `+ batch norm` and the like where what follows was folded in.
        constant: an UPPER bound of its own Lipschitz constant; of a sum, with respect to each input.
        how: where that comes from.
        upper: an UPPER bound for its output with respect to the network's input.
        gain: `upper` relative to the largest of its inputs. Along `worst_path` these multiply to the bound.
        on_worst_path: whether it lies there.
    """

    name: str
    operator: str
    constant: float
    how: str
    upper: float
    gain: float
    on_worst_path: bool


@dataclass(frozen=True)
class OutputBound:
    """`lower <= L <= upper` for one output. `upper` is inf where it left the floating range.

    `lower` is None where none was asked for, or PyTorch is not there to differentiate.
    """

    name: str
    shape: tuple[int, ...]
    upper: float
    lower: float | None = None


@dataclass(frozen=True)
class LayerNorms:
    """One convolution or linear layer with its own padding: a matrix.

    The scale of what was folded into it is included. Padding that is an operation of its own in
    the graph is not in it.

    Attributes:
        inputs, outputs: how many columns and rows the matrix has.
        lower, upper: `lower <= ||A|| <= upper`, both proven.
        two_one: `||A^T||_{2,1}`, the sum of the lengths of A's rows, one for each point that comes out;
            exact, and by an allowance for rounding above.
        frobenius: `||A||_F`, likewise.
    """

    name: str
    operator: str
    inputs: int
    outputs: int
    lower: float
    upper: float
    two_one: float
    frobenius: float


@dataclass(frozen=True)
class Complexity:
    """The spectral complexity of Bartlett, Foster and Telgarsky (2017): `complexity.complexity`.

    Attributes:
        value: an UPPER bound of the formula's value; inf where it left the floating range.
        log10: of `value`, also where that is inf; None where `value` is 0, or nothing finite is known.
        product: the factor in front: of a chain the product of all constants, else the network's bound.
        correction: the other one, from the (2,1) norms.
        status: "theorem" where the network is what the theorem is about; "analogue" where the formula is all
            that is left of it.
        departures: why not; empty with "theorem".
        layers: those that the correction sums over, in the order of the graph.
    """

    value: float
    log10: float | None
    product: float
    correction: float
    status: Literal["theorem", "analogue"]
    departures: tuple[str, ...]
    layers: tuple[LayerNorms, ...]


@dataclass(frozen=True)
class Margins:
    """How far ahead of all others the labels are: `f(x)_y - max over j != y of f(x)_j`.

    Attributes:
        examples: inputs with a label; `left_out` of them have an output that is not finite, and count as
            not correct.
        correct: how many margins are above 0.
        data_norm: `||X||_F`, the root of the sum of the squared lengths of these inputs.
        quantiles: of the margins, by level.
        normalised: the same of `margin / (R_A ||X||_F / n)`. As R_A is an upper bound, their moduli are
            LOWER bounds. None where R_A or the data is zero, or R_A is not finite.
    """

    output: str
    examples: int
    correct: int
    left_out: int
    data_norm: float
    quantiles: Mapping[float, float]
    normalised: Mapping[float, float] | None


@dataclass(frozen=True)
class Spread:
    """What was measured at several points: the least, the median and the largest of `count` numbers.

    `left_out`: how many points had none, as there the signal was zero or not finite. With a count of 0 the
    numbers are None.
    """

    count: int
    left_out: int
    least: float | None
    median: float | None
    largest: float | None


@dataclass(frozen=True)
class LayerGains:
    """How much one layer stretches what passes through it: `gains.gains`.

    Attributes:
        lower, upper: the proven interval of its norm, which no gain exceeds but for rounding.
        white_forward, white_backward: the gain of a white signal, in the mean of squares:
            `||A||_F / sqrt(inputs)` and `||A||_F / sqrt(outputs)`; the former is the root mean square of the
            singular values where there are as many as inputs.
        forward: `||A h|| / ||h||` of what enters it.
        backward: `||A^T g|| / ||g||` of the gradient at what comes out of it.
    """

    name: str
    operator: str
    lower: float
    upper: float
    white_forward: float
    white_backward: float
    forward: Spread
    backward: Spread


@dataclass(frozen=True)
class Gains:
    """The gains of all layers, in the order of the graph.

    Attributes:
        points: at how many inputs.
        given: whether these are the inputs given, or drawn ones.
        direction: what the gradient is of.
    """

    points: int
    given: bool
    direction: Literal["margin", "random direction"]
    layers: tuple[LayerGains, ...]


@dataclass(frozen=True)
class LipschitzReport:
    """A proven interval for the Lipschitz constant of each output, and of all together.

    Attributes:
        inputs: shapes by name, the batch included; differences of several inputs are taken together.
        joint: of these outputs one behind the other; the only one where there is one.
        refused: outputs that have no bound, and why.
        nodes: in the order of the graph, only what the outputs depend on.
        worst_path: names of nodes from an input to the output whose bound is largest, each time through
            the input whose bound is largest.
        path_product: product of the constants along it, each node for itself. The bound is larger where sums
            and concatenations bring branches together, smaller where scales were taken into what reads them.
        complexity: what a generalisation bound makes of the layers.
        points: at how many inputs the derivative was taken.
        gains: None without such points, or without layers.
        margins: None without labels.
        notes: sentences for the user.
    """

    model: str
    path: str | None
    sha256: str | None
    format: str
    version: str
    inputs: Mapping[str, tuple[int, ...]]
    outputs: tuple[OutputBound, ...]
    joint: OutputBound
    nodes: tuple[NodeBound, ...]
    worst_path: tuple[str, ...]
    path_product: float
    complexity: Complexity
    refused: Mapping[str, str] = field(default_factory=dict)
    points: int = 0
    gains: Gains | None = None
    margins: Margins | None = None
    notes: tuple[str, ...] = ()
