"""A parametrization for `torch.nn.utils.parametrize`: weights whose operator has all singular values 1."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

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
        stride: of the layer. Where there are more rows than columns in a group (the weight's first two axes),
            H is a matrix of all taps of a patch of `min(k, s)` points an axis, with orthonormal rows or
            columns, and the A are composed on the side of the input, `k - min(k, s)` for an axis.
        dilation: of the layer.

    Raises:
        GeometryError: when used, where no kernel is orthogonal: more rows than columns times the points of
            a patch that is smaller than the stride; or a stride and a dilation with a common divisor, where
            several taps of a patch are of one phase.

    Notes:
        Not guaranteed: to reach every orthogonal convolution; in more than one dimension there are others.
        With one channel (depthwise) there are only shifts with a sign, and nothing is left to learn. A
        derivative where a tap of the unconstrained weight has dependent columns: it is taken as zero there.
        That a weight assigned to the layer is what comes out: it only sets the unconstrained one.

    References:
        Xiao, Bahri, Sohl-Dickstein, Schoenholz and Pennington (2018), Section 3; Li, Haque, Anil, Lucas,
        Grosse and Jacobsen (2019), Algorithm 1.
    """

    def __init__(
        self, groups: int = 1, stride: tuple[int, ...] = (1,), dilation: tuple[int, ...] = (1,)
    ) -> None:
        super().__init__()
        self.groups, self.stride, self.dilation = groups, tuple(stride), tuple(dilation)

    def made_of(self, weight: torch.Tensor) -> torch.Tensor:
        """The orthogonal kernel.

        Arguments:
            weight: unconstrained, of the shape of the layer's.

        Returns:
            One of its shape and type.
        """
        rows, columns = weight.shape[0] // self.groups, weight.shape[1]
        patch = _patch(self.stride, self.dilation, rows, columns, tuple(weight.shape[2:]))
        with torch.autocast(weight.device.type, enabled=False):
            wide = weight.float() if weight.dtype in (torch.float16, torch.bfloat16) else weight
            taps = wide.reshape(self.groups, rows, columns, *weight.shape[2:])
            # Tall, so that the columns are the fewer: the adjoint of an orthogonal convolution is one.
            tall = taps if rows >= columns else taps.transpose(1, 2)
            made = _orthogonal_taps(tall) if patch is None else _strided_taps(taps, patch)
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
        patch = _patch(self.stride, self.dilation, rows, columns, tuple(weight.shape[2:]))
        if patch is not None:
            kernel = wide.reshape(self.groups, rows, columns, *weight.shape[2:]).clone()
            inside: Any = (..., *(slice(n) for n in patch))
            q, dependent = _orthonormal_patch(kernel[inside])
            kernel[inside] = torch.where(_last(dependent, kernel.ndim), q, kernel[inside])
            return kernel.reshape(weight.shape).to(weight.dtype)
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


def _patch(
    stride: tuple[int, ...], dilation: tuple[int, ...], rows: int, columns: int, size: tuple[int, ...]
) -> tuple[int, ...] | None:
    """The points of a patch, where there are more rows than columns and a stride; None elsewhere.

    Raises:
        GeometryError: no kernel of this size is orthogonal, or no patch is.
    """
    if max(stride) == 1 or rows <= columns:
        return None
    strides, dilations = (one * len(size) if len(one) == 1 else one for one in (stride, dilation))
    patch = tuple(min(k, s) for k, s in zip(size, strides, strict=True))
    if patch != strides and rows > columns * math.prod(patch):
        raise GeometryError(
            f"stride {strides} and a kernel of {size} leave points that no tap reads, and {rows} rows of "
            f"{columns} columns cannot stay orthonormal: take a kernel at least as large as the stride"
        )
    if any(m > 1 and math.gcd(s, d) > 1 for m, s, d in zip(patch, strides, dilations, strict=True)):
        raise GeometryError(
            f"stride {strides} and dilation {dilations} have a common divisor, so that {rows} rows of "
            f"{columns} columns are not made orthonormal here: take a dilation of 1"
        )
    return patch


def _orthonormal_patch(taps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All taps as one matrix of orthonormal rows or columns, and whether they depended on each other."""
    matrix = taps.reshape(*taps.shape[:2], -1)
    wide = matrix.shape[1] <= matrix.shape[2]
    q, dependent = orthonormal_factor(matrix.mT if wide else matrix)
    return (q.mT if wide else q).reshape(taps.shape), dependent


def _last(found: torch.Tensor, axes: int) -> torch.Tensor:
    return found.reshape(*found.shape, *[1] * (axes - found.ndim))


def _strided_taps(taps: torch.Tensor, patch: tuple[int, ...]) -> torch.Tensor:
    """(groups, rows > columns, columns, *k): a patch, and factors of two taps in front of it."""
    size, columns = taps.shape[3:], taps.shape[2]
    corner: Any = (..., *(slice(n) for n in patch))
    inside = taps[corner]
    kernel, dependent = _orthonormal_patch(inside)
    if hides_values(dependent) or bool(dependent.any()):
        alone = torch.where(_last(dependent, inside.ndim), kernel.detach(), inside)
        kernel, _ = _orthonormal_patch(alone)
    # Taps beyond the patch, of which the first rows are square.
    every = itertools.product(*map(range, size))
    beyond = (at for at in every if any(i >= m for i, m in zip(at, patch, strict=True)))
    rank = max(1, columns // 2)
    for axis, (k, m) in enumerate(zip(size, patch, strict=True)):
        for step in range(k - m):
            place: Any = (..., *next(beyond))
            basis = _with_orthonormal_columns(taps[place][:, :columns, :rank])
            kernel = _composed(basis, kernel.transpose(1, 2), 3 + axis, later=step % 2 == 1).transpose(1, 2)
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
        made = Orthogonal()
        if isinstance(part, _ConvNd):
            made = Orthogonal(part.groups, part.stride, part.dilation)
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
    rows = weight.shape[0] // module.groups
    _patch(module.stride, module.dilation, rows, weight.shape[1], tuple(weight.shape[2:]))
