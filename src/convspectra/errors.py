"""What a caller can get wrong: every message says what was expected, what came, and the next step."""


class InputError(ValueError):
    """Something handed in cannot be used as it is; the message names it and says what to do."""


class GeometryError(InputError):
    """A geometry that contradicts itself, its kernel, or the function it was given to."""


class KernelError(InputError):
    """A kernel whose entries cannot be analysed: NaN, infinity, or not real floating point."""


class RangeError(KernelError):
    """A kernel whose numbers leave the range of its precision, though its entries do not."""


class CostError(InputError):
    """An operator that takes more memory than there is; the message has the estimate."""


class ModelError(InputError):
    """A model file that cannot be read, or that is not what it claims to be."""
