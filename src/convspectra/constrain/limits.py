"""What is asked of weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..checks import check_limit, check_word
from ..guarantee import Guarantee, guarantee_of

Method = Literal["project", "clip", "rescale", "appendix_a", "reshaped"]
KEEPS_THE_LIMIT: tuple[Method, ...] = ("project", "clip", "rescale")
"""Methods after which every norm is at most `max_norm`, in exact comparison."""

IN_WORDS: dict[Method, str] = {
    "project": "the nearest kernel with the same taps",
    "clip": "singular values clipped once, cut back to the taps and divided by what the norm still exceeds",
    "rescale": "divided by what the norm exceeds the limit by",
    "appendix_a": "singular values clipped once and cut back to the taps, which raises the norm again",
    "reshaped": "the kernel's matrix clipped, which bounds no operator",
}
"""What becomes of a kernel outside of the ball."""


@dataclass(frozen=True)
class Limits:
    """What is asked of every weight.

    Arguments:
        max_norm: the radius of the ball.
        method: as in `IN_WORDS`. After `"project"`, `"clip"` and `"rescale"` the norm is at most `max_norm`.
            The others are for comparison: after `"appendix_a"`, the paper's clip alone, it exceeds the limit
            by 15 to 40 % on random kernels.
        guarantee: which operator's norm: `"layer"`, as it runs; `"torus"`, with its boundary wrapped;
            `"any_size"`, with its own padding, at every input size (also written `"any-size"`).
        fold_batch_norm: the layer together with the batch norm behind it, as that acts in evaluation.
        tolerance: of `"project"`, as there.

    Raises:
        InputError: a number that is not positive and finite, an unknown method or guarantee.
    """

    max_norm: float
    method: Method = "project"
    guarantee: Guarantee = "layer"
    fold_batch_norm: bool = False
    tolerance: float = 1e-2

    def __post_init__(self) -> None:
        check_word("method", self.method, get_args(Method))
        # Frozen: what was given is replaced by what it means.
        object.__setattr__(self, "guarantee", guarantee_of(self.guarantee))
        for name in ("max_norm", "tolerance"):
            object.__setattr__(self, name, check_limit(name, getattr(self, name)))
