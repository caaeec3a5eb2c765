"""A parametrization for `torch.nn.utils.parametrize`: weights whose operator has all singular values 1."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from ..errors import GeometryError
from ..transforms import hides_values
from .jobs import named
from .parametrization import Parametrization
from .weight_uses import Layer, check_parametrizable, find_layers


class Orthogonal(Parametrization):
    """A kernel whose operator has all singular values equal to 1, on every torus: a product of small ones.

        W = H * A_1 * ... * A_m,   A(z) = P + (I - P) z^d along one axis,   P = Q Q^T

    with `*` the composition of convolutions, H a matrix with orthonormal rows or columns (whichever are
    fewer) and each A a convolution of two taps that is orthogonal because P is a projector; `k - 1` of them
    for an axis of k taps. H and the Q are the QR factors of the taps of the unconstrained weight, of which
    `1 + sum(k - 1)` are used and the others get no gradient.

    Exact up to rounding, for every dilation, number of groups, transposition and input size whose
    boundary is wrapped; zero-padded, the norm is at most 1 and values at the border are below. Padding by
    reflection or replication repeats inputs, and the norm is above 1: `orthogonal` refuses it.

    Arguments:
        groups: of the layer.
        stride: of the layer; beyond 1 it takes rows out of the operator, which stay orthonormal only where
            there are no more rows than columns.

    Raises:
        GeometryError: when used, for a stride beyond 1 and more rows than columns in a group (the weight's
            first two axes).

    Notes:
        Not guaranteed: to reach every orthogonal convolution; in more than one dimension there are others.
        With one channel (depthwise) there are only shifts with a sign, and nothing is left to learn. A
        derivative where a tap of the unconstrained weight has dependent columns: it is taken as zero there.
        That a weight assigned to the layer is what comes out: it only sets the unconstrained one.

    References:
        Xiao, Bahri, Sohl-Dickstein, Schoenholz and Pennington (2018), Section 3; Li, Haque, Anil, Lucas,
        Grosse and Jacobsen (2019), Algorithm 1.
    """

    def __init__(self, groups: int = 1, stride: tuple[int, ...] = (1,)) -> None:
        super().__init__()
        self.groups, self.stride = groups, tuple(stride)

    def made_of(self, weight: torch.Tensor) -> torch.Tensor:
        """The orthogonal kernel.

        Arguments:
            weight: unconstrained, of the shape of the layer's.

        Returns:
            One of its shape and type.
        """
        rows, columns = weight.shape[0] // self.groups, weight.shape[1]
        _check_stride(self.stride, rows, columns)
        with torch.autocast(weight.device.type, enabled=False):
            wide = weight.float() if weight.dtype in (torch.float16, torch.bfloat16) else weight
            taps = wide.reshape(self.groups, rows, columns, *weight.shape[2:])
            # Tall, so that the columns are the fewer: the adjoint of an orthogonal convolution is one.
            tall = taps if rows >= columns else taps.transpose(1, 2)
            made = _orthogonal_taps(tall)
            made = made if rows >= columns else made.transpose(1, 2)
            return torch.reshape(made, weight.shape).to(weight.dtype)

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """What is kept for an assigned weight.

        Arguments:
            weight: as it was assigned.

        Returns:
            It, but for taps of dependent columns, such as zero: what is made of these. The kernel is the
            same, and it has a derivative there.
        """
        rows, columns = weight.shape[0] // self.groups, weight.shape[1]
        wide = weight.float() if weight.dtype in (torch.float16, torch.bfloat16) else weight
        taps = wide.reshape(self.groups, rows, columns, -1).movedim(-1, 0)
        tall = taps if rows >= columns else taps.mT
        q, dependent = orthonormal_factor(tall)
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
    q, dependent = orthonormal_factor(matrix)
    if hides_values(dependent) or bool(dependent.any()):
        # Without a derivative there, which would be NaN.
        alone = torch.where(dependent[..., None, None], q.detach(), matrix)
        q, _ = orthonormal_factor(alone)
    return q


def orthonormal_factor(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
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


def orthogonal(
    module: nn.Module,
    *,
    name: str = "weight",
    include: str | Sequence[str] = "*",
    exclude: str | Sequence[str] = (),
) -> nn.Module:
    """Register `Orthogonal` on a convolution or linear layer, or on all such layers of a model.

    The weight becomes orthogonal at once, and another one than it was.

    Arguments:
        module: a convolution or linear layer; or a model.
        name: of the parameter.
        include: of a model, names of layers, or patterns as of `fnmatch`; one or several.
        exclude: of those, names or patterns of layers that are left alone.

    Returns:
        The module.

    Raises:
        GeometryError: padding that repeats inputs, or a stride that cannot be (see `Orthogonal`); no layer
            of the model is changed then.
        InputError: no such layer, or a pattern that matches none.
    """
    alone = isinstance(module, (_ConvNd, nn.Linear)) or not isinstance(module, nn.Module)
    layers = [Layer("", module)] if alone else find_layers(module, include, exclude)
    for layer in layers:
        with named(layer.name):
            _check(layer.module, name)
    for layer in layers:
        part = layer.module
        made = Orthogonal(part.groups, part.stride) if isinstance(part, _ConvNd) else Orthogonal()
        parametrize.register_parametrization(part, name, made)
    return module


def _check(module: nn.Module, name: str) -> None:
    check_parametrizable(module, name, Orthogonal)
    if not isinstance(module, _ConvNd):
        return
    if module.padding_mode in ("reflect", "replicate"):
        sides = {"same": [k - 1 for k in module.kernel_size], "valid": [0]}
        padding = sides[module.padding] if isinstance(module.padding, str) else module.padding
        if any(padding):
            raise GeometryError(
                f"padding_mode={module.padding_mode!r} repeats inputs, so that no kernel makes module "
                "orthogonal: take padding_mode='zeros' or 'circular'"
            )
    weight = getattr(module, name)
    _check_stride(module.stride, weight.shape[0] // module.groups, weight.shape[1])


def _check_stride(stride: tuple[int, ...], rows: int, columns: int) -> None:
    if max(stride) > 1 and rows > columns:
        raise GeometryError(
            f"stride {stride} takes {rows} rows of {columns} columns apart, which cannot stay "
            "orthonormal; Orthogonal needs a stride of 1, or no more rows than columns in each group"
        )
