"""Parametrizations for `torch.nn.utils.parametrize`: weights whose operator is bounded, or orthogonal.

Unlike `SpectralClip` they are part of the model: the bound holds at every forward pass, and
gradients pass through it.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from ..constrain import Limits, Use
from ..errors import GeometryError, InputError
from ..geometry import ConvGeometry
from ..guarantee import Guarantee
from .layers import promised_geometry
from .tensors import check_dtype, constrain_tensor


class OperatorNorm(nn.Module):
    """`W min(1, c / ||W||)`, with the operator norm of the layer: exact, in training and evaluation alike.

    In place of `torch.nn.utils.parametrizations.spectral_norm`, which divides by an estimate of the reshaped
    matrix's norm: the operator norm of a layer comes out up to the root of its number of taps times as large.
    Here it is at most `c`, and a weight inside the ball is left as it is.

    The norm is computed whenever the weight is asked for; `torch.nn.utils.parametrize.cached()` keeps it for
    a block of code. Compiled graphs break there.

    Arguments:
        max_norm: the radius `c`, positive.
        geometry: of the layer; see `operator_norm`, which reads it off the module.
        guarantee: which operator's norm: `"torus"`, `"layer"` or `"any_size"`.

    Raises:
        InputError: max_norm is not positive and finite.
        GeometryError, KernelError, InputError: when used, as `convspectra.rescale`.

    Gradient: as `convspectra.rescale`; once differentiable.

    >>> layer = operator_norm(nn.Conv1d(1, 1, 2, bias=False), max_norm=0.5, input_shape=(16,))
    >>> with torch.no_grad():
    ...     layer.weight = torch.tensor([[[1.0, -1.0]]])  # its norm is 2
    >>> layer.weight.detach().numpy().round(3)
    array([[[ 0.25, -0.25]]], dtype=float32)
    """

    def __init__(self, max_norm: float, geometry: ConvGeometry, guarantee: Guarantee = "layer") -> None:
        super().__init__()
        self.limits = Limits(max_norm, "rescale", guarantee)
        self.use = Use(geometry)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            inside: torch.Tensor = constrain_tensor(weight, [self.use], self.limits, measure=False).weight
        return inside

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight itself: one inside the ball comes back as it was assigned."""
        return weight

    def extra_repr(self) -> str:
        return f"max_norm={self.limits.max_norm}, guarantee={self.limits.guarantee!r}"


class Orthogonal(nn.Module):
    """A kernel whose operator has all singular values equal to 1, on every torus: a product of small ones.

        W = H * A_1 * ... * A_m,   A(z) = P + (I - P) z^d along one axis,   P = Q Q^T

    with `*` the composition of convolutions, H a matrix with orthonormal rows or columns (whichever are
    fewer) and each A a convolution of two taps that is orthogonal because P is a projector; `k - 1` of them
    for an axis of k taps. H and the Q are the QR factors of the taps of the unconstrained weight, of which
    `1 + sum(k - 1)` are used and the others get no gradient.

    Exact up to rounding, for every dilation, number of groups, transposition and input size whose
    boundary is wrapped; zero-padded, the norm is at most 1 and values at the border are below.

    Arguments:
        groups: of the layer.
        stride: of the layer; beyond 1 it takes rows out of the operator, which stay orthonormal only where
            there are no more rows than columns.

    Raises:
        GeometryError: when used, for a stride beyond 1 and more rows than columns in a group (the weight's
            first two axes).

    Not guaranteed: to reach every orthogonal convolution; in more than one dimension there are others. With
    one channel (depthwise) there are only shifts with a sign, and nothing is left to learn. A derivative
    where a tap of the unconstrained weight has dependent columns: it is taken as zero there. That a weight
    assigned to the layer is what comes out: it only sets the unconstrained one.

    Reference: Xiao, Bahri, Sohl-Dickstein, Schoenholz and Pennington (2018), Section 3; Li, Haque, Anil,
    Lucas, Grosse and Jacobsen (2019), Algorithm 1.
    """

    def __init__(self, groups: int = 1, stride: tuple[int, ...] = (1,)) -> None:
        super().__init__()
        self.groups, self.stride = groups, tuple(stride)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        rows, columns = weight.shape[0] // self.groups, weight.shape[1]
        if max(self.stride) > 1 and rows > columns:
            raise GeometryError(
                f"stride {self.stride} takes {rows} rows of {columns} columns apart, which cannot stay "
                "orthonormal; Orthogonal needs a stride of 1, or no more rows than columns in each group"
            )
        with torch.autocast(weight.device.type, enabled=False):
            wide = weight.float() if weight.dtype in (torch.float16, torch.bfloat16) else weight
            taps = wide.reshape(self.groups, rows, columns, *weight.shape[2:])
            # Tall, so that the columns are the fewer: the adjoint of an orthogonal convolution is one.
            tall = taps if rows >= columns else taps.transpose(1, 2)
            made = _orthogonal_taps(tall)
            made = made if rows >= columns else made.transpose(1, 2)
            return torch.reshape(made, weight.shape).to(weight.dtype)

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight itself, but for taps of dependent columns, such as zero: what is made of these.

        The kernel is the same, and it has a derivative there.
        """
        rows, columns = weight.shape[0] // self.groups, weight.shape[1]
        wide = weight.float() if weight.dtype in (torch.float16, torch.bfloat16) else weight
        taps = wide.reshape(self.groups, rows, columns, -1).movedim(-1, 0)
        tall = taps if rows >= columns else taps.mT
        q, dependent = _orthonormal_factor(tall)
        tall = torch.where(dependent[..., None, None], q, tall)
        taps = tall if rows >= columns else tall.mT
        return taps.movedim(0, -1).reshape(weight.shape).to(weight.dtype)

    def extra_repr(self) -> str:
        return f"groups={self.groups}, stride={self.stride}"


def _orthogonal_taps(taps: torch.Tensor) -> torch.Tensor:
    """(groups, rows >= columns, columns, *k) made of its own taps, a matrix each."""
    axes, size = taps.ndim - 3, taps.shape[3:]
    raw = taps.reshape(*taps.shape[:3], -1).movedim(-1, 0)
    # The middle tap first, which is the one that counts in a delta-orthogonal weight.
    order = [len(raw) // 2, *(i for i in range(len(raw)) if i != len(raw) // 2)]
    kernel = _with_orthonormal_columns(raw[order[0]])
    kernel = kernel.reshape(*kernel.shape, *(1,) * axes)
    rank = max(1, min(taps.shape[2], taps.shape[1] // 2))
    used = 1
    for axis in range(axes):
        for step in range(size[axis] - 1):
            basis = _with_orthonormal_columns(raw[order[used]][..., :rank])
            kernel = _composed(basis, kernel, 3 + axis, later=step % 2 == 1)
            used += 1
    return kernel


def _with_orthonormal_columns(matrix: torch.Tensor) -> torch.Tensor:
    q, dependent = _orthonormal_factor(matrix)
    if torch.compiler.is_compiling() or bool(dependent.any()):
        # Without a derivative there, which would be NaN.
        alone = torch.where(dependent[..., None, None], q.detach(), matrix)
        q, _ = _orthonormal_factor(alone)
    return q


def _orthonormal_factor(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The Q of tall matrices, and which of them have columns that depend on each other."""
    q, r = torch.linalg.qr(matrix)
    diagonal = r.diagonal(dim1=-2, dim2=-1)
    # The factor whose R has a positive diagonal: continuous, and the matrix itself if it is orthonormal.
    signs = torch.where(diagonal < 0, -1.0, 1.0).to(q.dtype)
    rounding = matrix.shape[-2] * torch.finfo(matrix.dtype).eps
    size = diagonal.detach().abs()
    dependent = ~(size.amin(-1) > rounding * size.amax(-1))
    return torch.mul(q, signs[..., None, :]), dependent


def _composed(basis: torch.Tensor, kernel: torch.Tensor, axis: int, *, later: bool) -> torch.Tensor:
    """`(P + (I - P) z) * kernel`, one tap longer along the axis; P projects on the span of the basis.

    `later`: the other part is delayed, so that factors in turn keep the kernel in the middle of its taps.
    """
    flat = kernel.reshape(*kernel.shape[:2], -1)
    inside = (basis @ (basis.mT @ flat)).reshape(kernel.shape)
    first, second = (kernel - inside, inside) if later else (inside, kernel - inside)
    pad = torch.zeros_like(kernel.narrow(axis, 0, 1))
    return torch.cat([first, pad], axis) + torch.cat([pad, second], axis)


def operator_norm(
    module: nn.Module,
    max_norm: float = 1.0,
    *,
    input_shape: tuple[int, ...] | None = None,
    name: str = "weight",
    guarantee: Guarantee = "layer",
) -> nn.Module:
    """Register `OperatorNorm` on a convolution or linear layer, in the way of torch's `spectral_norm`.

    Arguments:
        input_shape: the spatial sizes at which the layer runs; not needed for linear layers nor with
            guarantee="any_size". With "torus" it is rounded up to a multiple of the stride.
        name: of the parameter.

    Returns:
        The module. Its norm is at most `max_norm` from now on, until `remove_parametrizations` of
        `torch.nn.utils.parametrize` makes the weight an ordinary one again.

    Raises:
        InputError: max_norm is not positive and finite.
        InputError: another kind of module, no input_shape, a layer without this guarantee.
    """
    guarantee = Limits(max_norm, guarantee=guarantee).guarantee
    _check_weight(module, name, OperatorNorm)
    geometry = promised_geometry(module, input_shape, guarantee)
    parametrize.register_parametrization(module, name, OperatorNorm(max_norm, geometry, guarantee))
    if isinstance(module, _ConvNd) and guarantee != "any_size" and input_shape is not None:
        module.register_forward_pre_hook(_OtherSizes(tuple(input_shape), name), with_kwargs=True)
    return module


class _OtherSizes:
    """A forward pre-hook: warns once where a layer runs at another size than the one it is bounded at."""

    def __init__(self, size: tuple[int, ...], name: str) -> None:
        self.size, self.name, self.warned = size, name, False

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
        if torch.compiler.is_compiling() or tracing or self.warned:
            return
        given = args[0] if args else kwargs["input"]
        size = tuple(given.shape[-len(self.size) :])
        if size != self.size and _has(module, self.name, OperatorNorm):
            self.warned = True
            warnings.warn(
                f"{type(module).__name__} runs at size {size}, and operator_norm bounds it at input_shape="
                f"{self.size}: give that size, or guarantee='any_size' (said once)",
                stacklevel=3,
            )


def _has(module: nn.Module, name: str, kind: type[nn.Module]) -> bool:
    """Whether a parameter has a parametrization of this kind."""
    if not parametrize.is_parametrized(module, name):
        return False
    return any(isinstance(one, kind) for one in module.parametrizations[name])  # type: ignore[index]


def orthogonal(module: nn.Module, *, name: str = "weight") -> nn.Module:
    """Register `Orthogonal` on a convolution or linear layer.

    The weight becomes orthogonal at once, and another one than it was.

    Raises:
        GeometryError: another kind of module, or a stride that cannot be (see `Orthogonal`).
    """
    _check_weight(module, name, Orthogonal)
    made = Orthogonal(module.groups, module.stride) if isinstance(module, _ConvNd) else Orthogonal()
    parametrize.register_parametrization(module, name, made)
    return module


def _check_weight(module: nn.Module, name: str, kind: type[nn.Module]) -> None:
    if not isinstance(module, (_ConvNd, nn.Linear)):
        raise GeometryError(f"module must be a convolution or linear layer; got {type(module).__name__}")
    found = getattr(module, name, None)
    if isinstance(found, UninitializedParameter):
        raise InputError(f"the {name} of {module} has no shape yet: run one forward pass first")
    if not isinstance(found, torch.Tensor) or found.ndim < 2:
        names = ", ".join(one for one, _ in module.named_parameters()) or "none"
        raise InputError(
            f"name must be that of a parameter of two or more axes; got {name!r}, and the module has {names}"
        )
    check_dtype(name, found)
    if _has(module, name, kind):
        raise InputError(
            f"{name} of {type(module).__name__} already has {kind.__name__}: remove it first, by "
            f"torch.nn.utils.parametrize.remove_parametrizations(module, {name!r})"
        )
