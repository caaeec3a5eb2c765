"""Functions of a kernel under the transformations of PyTorch: `torch.func`, `torch.compile`, `torch.export`.

A transformation hides the values of its tensors, and a spectrum is computed from values. So what reads them
is one step to the transformation, with its derivative in both directions and a rule for batches: the kernels
of a batch one after the other. While a graph is compiled, and where tensors have no values, it is an operator
of PyTorch's registry, whose output is known by its shape.

Second derivatives there are where the function has them: what has none is refused.
"""

from __future__ import annotations

import itertools
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from ._compat import FIRST_ONLY, Array

P = ParamSpec("P")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Opaque:
    """A function of one tensor.

    Attributes:
        value: of a tensor that has values.
        pullback: of such a tensor and a cotangent: the derivative, transposed, applied to that.
        second: of a scalar, of such a tensor and a direction: the second derivative applied to that.
        keeps_shape: the output is the input times a number that depends on it; else it is a scalar.
    """

    value: Callable[[Any], Any]
    pullback: Callable[[Any, Any], Any]
    second: Callable[[Any, Any], Any] | None = None
    keeps_shape: bool = False

    def pushforward(self, kernel: Any, tangent: Any) -> Any:
        """The derivative applied to a direction, by one pullback."""
        if not self.keeps_shape:
            return (self.pullback(kernel, kernel.new_ones(())) * tangent).sum()
        # Of s(W) W it is s t + <grad s, t> W, and its transposed gives s W + <W, W> grad s of W itself.
        square = (kernel * kernel).sum()
        square = square + (square == 0)
        factor = (self.value(kernel) * kernel).sum() / square
        slope = (self.pullback(kernel, kernel) - factor * kernel) / square
        return factor * tangent + (slope * tangent).sum() * kernel


def hides_values(array: Array) -> bool:
    """Whether it is a tensor of PyTorch whose values cannot be looked at, or not step by step."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(array, torch.Tensor):
        return False
    return bool(torch.compiler.is_compiling() or _is_transformed() or _is_fake(array))


def _is_transformed() -> bool:
    """Whether this runs inside of a transformation of `torch.func`."""
    return bool(sys.modules["torch"]._C._are_functorch_transforms_active())


def _is_fake(array: Any) -> bool:
    from torch._subclasses.fake_tensor import FakeTensor
    from torch._subclasses.functional_tensor import FunctionalTensor

    return isinstance(array, (FakeTensor, FunctionalTensor))


def applied(opaque: Opaque, kernel: Any) -> Any:
    """The value at a tensor whose values are hidden."""
    if not sys.modules["torch"].compiler.is_compiling() and _is_transformed():
        return _step().apply(kernel, opaque)
    handle = handle_of(opaque)
    return operator()(kernel, handle)


def transformable(
    function: Callable[Concatenate[Array, P], Result],
) -> Callable[Concatenate[Array, P], Result]:
    """A scalar function of a kernel, also where a transformation hides the values of that."""

    @wraps(function)
    def everywhere(kernel: Array, *args: P.args, **options: P.kwargs) -> Result:
        if not hides_values(kernel):
            return function(kernel, *args, **options)
        if sys.modules["torch"].compiler.is_compiling():
            handle = _staged(function, *args, **options)
            return cast(Result, sys.modules["torch"].ops.convspectra.value(kernel, handle))
        return cast(Result, applied(_scalar(partial(_called, function, args, options)), kernel))

    return cast(Callable[Concatenate[Array, P], Result], everywhere)


def _staged(function: Callable[..., Any], *args: Any, **options: Any) -> int:
    return handle_of(_scalar(partial(_called, function, args, options)))


# What `torch.compiler.assume_constant_result` does, without PyTorch: a compiler runs it and takes the number.
_staged._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _called(function: Callable[..., Any], args: Any, options: Any, kernel: Any) -> Any:
    return function(kernel, *args, **options)


def _scalar(function: Callable[[Any], Any]) -> Opaque:
    import torch

    def value(kernel: Any) -> Any:
        with torch.no_grad():
            found = torch.as_tensor(function(kernel))
            return found.detach().clone()

    def pullback(kernel: Any, cotangent: Any) -> Any:
        with recording():
            given = kernel.detach().requires_grad_()
            found = function(given)
            if not found.requires_grad:  # constant there
                return torch.zeros_like(kernel)
            (gradient,) = torch.autograd.grad(found, given)
        return cotangent * gradient

    def second(kernel: Any, direction: Any) -> Any:
        with recording():
            given = kernel.detach().requires_grad_()
            found = function(given)
            if not found.requires_grad:
                return torch.zeros_like(kernel)
            (gradient,) = torch.autograd.grad(found, given, create_graph=True)
            if not gradient.requires_grad:
                return torch.zeros_like(kernel)
            (product,) = torch.autograd.grad((gradient * direction).sum(), given, allow_unused=True)
        return torch.zeros_like(kernel) if product is None else product

    return Opaque(value, pullback, second)


@contextmanager
def recording() -> Iterator[None]:
    """Gradients are recorded here, also within an operator, where PyTorch leaves them to whoever calls it."""
    import torch

    core = torch._C
    excluded = core._dispatch_tls_local_exclude_set().remove(core.DispatchKey.AutogradFunctionality)
    included = core._dispatch_tls_local_include_set()
    with core._ForceDispatchKeyGuard(included, excluded), torch.inference_mode(False), torch.enable_grad():
        yield


@cache
def _step() -> Any:
    """The value as one step of `torch.func`, which calls its derivatives as others."""
    import torch

    def in_turn(step: Any) -> Any:
        """A rule for batches: by their members."""

        def rule(info: Any, dims: Any, *given: Any) -> tuple[Any, Any]:
            members = (
                [one if dim is None else one.select(dim, place) for one, dim in zip(given, dims, strict=True)]
                for place in range(info.batch_size)
            )
            return torch.stack([step().apply(*one) for one in members]), 0

        return staticmethod(rule)

    def refused(*_: Any) -> Any:
        raise RuntimeError(FIRST_ONLY)

    class Value(torch.autograd.Function):
        @staticmethod
        def forward(kernel: Any, opaque: Opaque) -> Any:
            return opaque.value(kernel)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            kernel, ctx.opaque = inputs
            ctx.save_for_backward(kernel)
            ctx.save_for_forward(kernel)

        @staticmethod
        def backward(ctx: Any, *cotangents: Any) -> Any:
            return pullback.apply(*ctx.saved_tensors, *cotangents, ctx.opaque), None

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            return pushforward.apply(*ctx.saved_tensors, tangents[0], ctx.opaque)

        vmap = in_turn(lambda: Value)

    class Pullback(torch.autograd.Function):
        @staticmethod
        def forward(kernel: Any, cotangent: Any, opaque: Opaque) -> Any:
            return opaque.pullback(kernel, cotangent)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            kernel, cotangent, ctx.opaque = inputs
            ctx.save_for_backward(kernel, cotangent)
            ctx.save_for_forward(kernel, cotangent)

        @staticmethod
        def backward(ctx: Any, *directions: Any) -> Any:
            (kernel, cotangent), (direction,) = ctx.saved_tensors, directions
            gradient = pullback.apply(kernel, torch.ones_like(cotangent), ctx.opaque)
            twice = cotangent * second.apply(kernel, direction, ctx.opaque)
            return twice, (gradient * direction).sum(), None

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            (kernel, cotangent), (direction, other, _) = ctx.saved_tensors, tangents
            moved = cotangent * second.apply(kernel, direction, ctx.opaque)
            return moved if other is None else moved + pullback.apply(kernel, other, ctx.opaque)

        vmap = in_turn(lambda: Pullback)

    def last(name: str, method: Callable[[Opaque, Any, Any], Any]) -> Any:
        """A step that is not differentiated again."""
        options = {
            "forward": staticmethod(lambda kernel, direction, opaque: method(opaque, kernel, direction)),
            "setup_context": staticmethod(lambda ctx, inputs, output: None),
            **dict.fromkeys(("backward", "jvp"), staticmethod(refused)),
            "vmap": in_turn(lambda: made),
        }
        made: Any = type(name, (torch.autograd.Function,), options)
        return made

    def second_of(opaque: Opaque, kernel: Any, direction: Any) -> Any:
        return refused() if opaque.second is None else opaque.second(kernel, direction)

    pullback: Any = Pullback
    pushforward, second = last("Pushforward", Opaque.pushforward), last("Second", second_of)
    return Value


# What a compiled graph calls, by number: a graph holds tensors and numbers alone.
_OPAQUE: dict[int, Any] = {}
_NUMBERS = itertools.count(1)


def handle_of(opaque: Opaque, owner: Any = None) -> int:
    """A number under which the operators find it; for as long as its owner lives, if it has one."""
    operator()
    number = next(_NUMBERS)
    _OPAQUE[number] = opaque
    if owner is not None:
        weakref.finalize(owner, _OPAQUE.pop, number, None)
    return number


@cache
def operator() -> Any:
    """`convspectra::value(Tensor kernel, int function)`, registered when it is first needed."""
    import torch

    def output_of(kernel: Any, function: int) -> Any:
        return torch.empty_like(kernel) if _OPAQUE[function].keeps_shape else kernel.new_empty(())

    tensor = torch.Tensor

    def value(kernel: Any, function: int) -> Any:
        return _OPAQUE[function].value(kernel)

    def pullback(kernel: Any, cotangent: Any, function: int) -> Any:
        return _OPAQUE[function].pullback(kernel, cotangent)

    for one in (value, pullback):  # read by PyTorch, as values and not as the text of this file
        one.__annotations__ = {name: int if name == "function" else tensor for name in one.__annotations__}
    of = torch.library.custom_op("convspectra::value", value, mutates_args=())
    back = torch.library.custom_op("convspectra::pullback", pullback, mutates_args=())
    of.register_fake(output_of)
    back.register_fake(lambda kernel, cotangent, function: torch.empty_like(kernel))

    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        kernel, ctx.function = inputs
        ctx.save_for_backward(kernel)

    def backward(ctx: Any, cotangent: Any) -> Any:
        return back(*ctx.saved_tensors, cotangent, ctx.function), None

    of.register_autograd(backward, setup_context=setup_context)
    return of
