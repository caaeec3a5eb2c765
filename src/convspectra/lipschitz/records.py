"""What is known of the Lipschitz constant of a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

ASSUMES = (
    "l2 -> l2, over all inputs, of the network in real arithmetic with the weights as stored, in evaluation "
    "mode, at the sizes given here"
)
JOINT = "all outputs"
"""What the outputs one behind the other are called."""

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
        gain: `upper` in parts of the largest of its inputs. Along `worst_path` these multiply to the bound.
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
class LipschitzReport:
    """A proven interval for the Lipschitz constant of each output, and of all together.

    Attributes:
        inputs: shapes by name, the batch included; differences of several inputs are taken together.
        joint: of the outputs one behind the other; the only one where there is one.
        nodes: in the order of the graph, only what the outputs depend on.
        worst_path: names of nodes from an input to the output whose bound is largest, each time through
            the input whose bound is largest.
        path_product: product of the constants along it, each node for itself. The bound is larger where sums
            and concatenations bring branches together, smaller where scales were taken into what reads them.
        points: at how many inputs the derivative was taken.
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
    points: int = 0
    notes: tuple[str, ...] = ()
