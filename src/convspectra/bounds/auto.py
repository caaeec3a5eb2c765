"""The norm of a layer as its geometry pads: exact where there is a symbol, an interval elsewhere."""

from __future__ import annotations

from concurrent.futures import Executor

from .._compat import Array
from .._solvers.choice import Solver
from .._solvers.pool import DEFAULT_MEMORY
from ..geometry import ConvGeometry
from ..results import Bound
from ..spectrum import prepare, top_block
from .circulant_embedding import circulant_embedding


def operator_norm(
    kernel: Array,
    geometry: ConvGeometry,
    *,
    executor: Executor | None = None,
    memory: int = DEFAULT_MEMORY,
    solver: Solver = "auto",
) -> Bound:
    """The largest factor by which a convolution can stretch its input (Euclidean norms).

    Exact (`bound.exact`, both sides equal) for block-circulant operators: wrapped boundaries, and
    boundaries that are never read. For zero and no padding the interval of
    `bounds.circulant_embedding`; never the circular value in disguise.

    Arguments: as `singular_values`.

    Raises:
        GeometryError: reflect or replicate padding, or a wrapped boundary whose stride does not
            divide the input; kernel and geometry do not fit.
        KernelError: the kernel is no real array, or has NaN or infinite entries.

    >>> import numpy as np
    >>> identity = np.eye(4).reshape(4, 4, 1, 1)
    >>> bound = operator_norm(identity, ConvGeometry(input_shape=(8, 8)))
    >>> bound.status, float(bound.upper)
    ('exact', 1.0)
    """
    ready, correlation = prepare(kernel, geometry)
    if correlation.padding_mode == "zeros" and not correlation.is_circulant:
        return circulant_embedding(kernel, geometry, executor=executor, memory=memory, solver=solver)
    norm = top_block(ready, correlation, executor=executor, memory=memory, solver=solver).norm
    return Bound(norm, norm, method="symbol", exact=True)
