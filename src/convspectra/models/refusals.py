"""Why some operators have no Lipschitz constant, in the words of the message that names them."""

from __future__ import annotations

PRODUCT = "a product of two tensors that both depend on the input has no constant that holds for all inputs"
DIVISION = "a division by what depends on the input has no constant that holds for all inputs"
ATTENTION = "attention multiplies tensors that depend on the input: no constant holds for all inputs"
RECURRENT = "a recurrent layer multiplies its gates with its state: no constant holds for all inputs"
NORMALISED = (
    "it divides by a deviation of its own input, without an epsilon: no constant holds for all inputs"
)
STEEP = "its slope grows beyond every bound"
STEEP_AT_ZERO = "its slope grows beyond every bound at 0"
JUMPS = "it jumps"
TRAINING = "in training mode, or without running statistics, it divides by a deviation of its own input"
