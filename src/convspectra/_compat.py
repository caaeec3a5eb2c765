"""The only door to array-api-compat: namespaces, dtypes and devices of whatever array came in."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import array_api_compat
import numpy as np

from .errors import KernelError, RangeError

# NumPy, PyTorch, JAX and strict arrays pass through the same lines; there is no static type for that.
Array = Any


@cache
def _numpy() -> Any:
    return array_api_compat.array_namespace(np.empty(0))


# A small layer asks these some fifty times: plain NumPy arrays are told by their type alone.


def namespace(array: Array) -> Any:
    """The array API namespace of `array`; TypeError for what is no array at all."""
    return _numpy() if type(array) is np.ndarray else array_api_compat.array_namespace(array)


def is_numpy(array: Array) -> bool:
    return type(array) is np.ndarray or array_api_compat.is_numpy_array(array)


def is_torch(array: Array) -> bool:
    return type(array) is not np.ndarray and bool(array_api_compat.is_torch_array(array))


def is_jax(array: Array) -> bool:
    return type(array) is not np.ndarray and bool(array_api_compat.is_jax_array(array))


def is_untracked_on_cpu(array: Array) -> bool:
    """Whether `to_numpy` gives the values at no cost, and nobody waits for a gradient."""
    if is_torch(array):
        return array.device.type == "cpu" and not is_tracked(array)
    if is_jax(array):
        return is_concrete(array) and all(device.platform == "cpu" for device in array.devices())
    return is_numpy(array)


def is_on_gpu(array: Array) -> bool:
    """Whether it is a PyTorch tensor on a GPU."""
    return is_torch(array) and array.device.type == "cuda"


def is_tracked(array: Array) -> bool:
    """Whether what is computed from `array` is wanted with its derivative."""
    if is_torch(array):
        return bool(array.requires_grad) and sys.modules["torch"].is_grad_enabled()
    return not is_concrete(array)


def untracked(array: Array) -> Array:
    """The same values, of which no derivative is wanted."""
    if is_torch(array):
        return array.detach()
    return array if is_concrete(array) else sys.modules["jax"].lax.stop_gradient(array)


def with_vjp(
    forward: Callable[[Array], tuple[Array, Any]],
    backward: Callable[[Any, Array], Array],
    array: Array,
    host_shape: tuple[int, ...] | None = None,
    second: Callable[[Any, Array], Array] | None = None,
) -> Array:
    """The first of what `forward(array)` returns, whose derivative is `backward(second, cotangent)`.

    The library does not look inside: what it would differentiate there has no finite derivative where
    singular values coincide.

    Arguments:
        host_shape: where JAX traces for the CPU, both are called with NumPy arrays when the program runs, and
            the output has this shape; None where they hold what is traced, and so are traced as well.
        second: of a scalar, from the same second and a direction, the second derivative applied to that;
            without it PyTorch refuses to differentiate twice.
    """
    if not is_tracked(array):
        return forward(array)[0]
    if is_torch(array):
        return _torch_function().apply(array, forward, backward, second)
    jax = sys.modules["jax"]
    if host_shape is not None and is_for_host():
        return _called_back(forward, backward, array, host_shape)
    function = jax.custom_vjp(lambda x: forward(x)[0])
    function.defvjp(forward, lambda saved, cotangent: (backward(saved, cotangent),))
    return function(array)


def is_for_host() -> bool:
    """Whether what JAX traces runs where NumPy does, so that it can call back."""
    return bool(sys.modules["jax"].default_backend() == "cpu")


def _called_back(
    forward: Callable[[Array], tuple[Array, Any]],
    backward: Callable[[Any, Array], Array],
    array: Array,
    shape: tuple[int, ...],
) -> Array:
    jax = sys.modules["jax"]
    dtype = np.dtype(array.dtype)

    # Nothing here may ask JAX to compute: its threads wait for this one.
    def value_of(x: Any) -> Any:
        return np.asarray(forward(np.array(x))[0], dtype).reshape(shape)

    def gradient_of(x: Any, cotangent: Any) -> Any:
        found = backward(forward(np.array(x))[1], np.array(cotangent))
        return np.asarray(found, dtype).reshape(np.shape(x))

    def called(function: Callable[..., Any], like: Any, *given: Any) -> Any:
        made = jax.ShapeDtypeStruct(like, dtype)
        return jax.pure_callback(function, made, *given, vmap_method="sequential")

    function = jax.custom_vjp(lambda x: called(value_of, shape, x))
    function.defvjp(
        lambda x: (called(value_of, shape, x), x),
        lambda x, cotangent: (called(gradient_of, x.shape, x, cotangent),),
    )
    return function(array)


FIRST_ONLY = (
    "convspectra gives first derivatives only, and second ones of norms and hinges alone; leave out "
    "create_graph=True, or keep this term apart from what is differentiated twice"
)


@cache
def _torch_function() -> Any:
    import torch

    def not_again() -> None:
        if torch.is_grad_enabled():
            raise RuntimeError(FIRST_ONLY)

    class WithVjp(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, array: Any, forward: Any, backward: Any, second: Any) -> Any:
            result, ctx.found = forward(array.detach())
            ctx.save_for_backward(array)  # so that PyTorch notices if it is changed in place
            ctx.backward_of, ctx.second = backward, second
            return result

        @staticmethod
        def backward(ctx: Any, cotangent: Any) -> Any:
            (array,) = ctx.saved_tensors
            if ctx.second is None:
                not_again()
                gradient = ctx.backward_of(ctx.found, cotangent)
            else:
                gradient = derivative.apply(array, cotangent, ctx.found, ctx.backward_of, ctx.second)
            return gradient, None, None, None

    class Gradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, array: Any, cotangent: Any, found: Any, backward: Any, second: Any) -> Any:
            ctx.save_for_backward(cotangent)
            ctx.found, ctx.backward_of, ctx.second = found, backward, second
            return backward(found, cotangent.detach())

        @staticmethod
        def backward(ctx: Any, direction: Any) -> Any:
            not_again()
            (cotangent,) = ctx.saved_tensors
            along = (ctx.backward_of(ctx.found, torch.ones_like(cotangent)) * direction).sum()
            return cotangent * ctx.second(ctx.found, direction), along, None, None, None

    derivative: Any = Gradient
    return WithVjp


def is_concrete(array: Array) -> bool:
    """Whether the values can be looked at: false inside `jax.jit`, `jax.grad` and the like."""
    jax = sys.modules.get("jax")
    return jax is None or not isinstance(array, jax.core.Tracer)


def _is_captured(array: Array) -> bool:
    """Whether it is a JAX array with values in a function that JAX traces, and with it what is computed."""
    if not is_jax(array) or not is_concrete(array):
        return False
    jax = sys.modules["jax"]
    return isinstance(jax.lax.add(1, 1), jax.core.Tracer)


def like(values: Any, array: Array, dtype: Any = None) -> Array:
    """NumPy `values` as an array of the namespace and device of `array`."""
    xp = namespace(array)
    if is_torch(array) and isinstance(values, np.ndarray) and not values.flags.writeable:
        values = values.copy()  # PyTorch would share it, and warns
    made = xp.asarray(values, dtype=dtype) if dtype is not None else xp.asarray(values)
    return array_api_compat.to_device(made, array_api_compat.device(array))


def to_numpy(array: Array) -> np.ndarray[Any, Any]:
    """A NumPy copy or view of `array`, from any device, without its gradient."""
    if is_torch(array):
        array = array.detach().cpu()
        if array.dtype == sys.modules["torch"].bfloat16:  # NumPy has no such numbers
            array = array.float()
    return np.asarray(array)


def to_torch(array: Array) -> Array:
    """A PyTorch tensor of the same values, on the CPU."""
    import torch

    return torch.as_tensor(np.array(to_numpy(array)))


def real_kernel(kernel: Array) -> Array:
    """`kernel` as a float32 or float64 array, checked to be finite: the door for every kernel.

    Half and bfloat16 become float32, integers the namespace's default, other byte orders the machine's.
    Values cannot be checked while JAX traces.

    Raises:
        KernelError: anything else; the message says what to give instead.
    """
    xp = _namespace_of_kernel(kernel)
    if _is_captured(kernel):  # the values are there, and so is what is computed from them
        kernel = to_numpy(kernel)
        xp = namespace(kernel)
    if is_numpy(kernel) and not kernel.dtype.isnative:
        kernel = kernel.astype(kernel.dtype.newbyteorder("="))
    # The names of NumPy's types take long to make.
    plain = type(kernel) is np.ndarray and kernel.dtype.char in "fd"
    name = "float64" if plain else str(kernel.dtype).rsplit(".", 1)[-1]
    if name in ("float16", "bfloat16"):
        kernel = xp.astype(kernel, xp.float32)
    elif name in _INTEGERS:
        kernel = xp.astype(kernel, xp.asarray(1.0).dtype)
    elif name not in ("float32", "float64"):
        raise KernelError(
            f"kernel must hold real numbers, as floats; got dtype {kernel.dtype}: {_advice(name)}"
        )
    if is_concrete(kernel) and not bool(xp.all(xp.isfinite(kernel))):
        bad = ~np.isfinite(to_numpy(kernel))
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise KernelError(
            f"kernel has {int(bad.sum())} NaN or infinite entries of {bad.size}, the first at index {first}; "
            "repair or leave out this layer"
        )
    return kernel


_INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))


def _advice(dtype: str) -> str:
    """What to do with numbers of another type."""
    if "complex" in dtype:
        return "take the real and the imaginary part as channels of one real kernel"
    if dtype.startswith(("q", "object", "str", "<U", "|S", "bool", "datetime", "void", "[")):
        return "convert it to an array of floats first"
    return "convert it, as kernel.astype('float64') does in NumPy and kernel.float() in PyTorch"


def _namespace_of_kernel(kernel: Array) -> Any:
    """That of an array whose entries lie in memory, one beside the other.

    Raises:
        KernelError: it is no such array.
    """
    try:
        xp = namespace(kernel)
    except TypeError:
        raise KernelError(
            f"kernel must be a NumPy, PyTorch, JAX or other array; got {type(kernel).__name__}: give "
            "numpy.asarray(kernel), if it holds numbers"
        ) from None
    what = _what_is_missing(kernel)
    if what:
        raise KernelError(f"kernel must be an array with all its entries in memory; got {what}")
    return xp


def _what_is_missing(kernel: Array) -> str:
    """Why the entries of an array are not simply there, and what to give instead; empty if they are."""
    if type(kernel) is np.ndarray:
        return ""
    if isinstance(kernel, np.ma.MaskedArray):
        return "a masked array: give kernel.filled(0), or what was meant"
    if array_api_compat.is_dask_array(kernel):
        return "a dask array, not computed yet: give kernel.compute()"
    if not is_torch(kernel):
        return ""
    if kernel.is_nested:
        return "a nested tensor: give one kernel at a time"
    if kernel.is_quantized:
        return "a quantized tensor: give kernel.dequantize()"
    if kernel.is_meta:
        return "a meta tensor: load its values first"
    if str(kernel.layout) != "torch.strided":
        return "a sparse tensor: give kernel.to_dense()"
    return ""


_COMMON = 2.0**30
"""Kernels whose largest entry lies between this and its reciprocal are computed with as they are."""


def in_range(kernel: Array) -> tuple[Array, Any]:
    """`kernel` divided by a power of two, and that: so that sums and products of entries stay in range.

    Exact. The power is 1 for kernels of common sizes; while JAX traces it is an array, and no power of two.
    """
    xp = namespace(kernel)
    if 0 in kernel.shape:
        return kernel, 1.0  # for the geometry to refuse
    if not is_concrete(kernel):
        largest = sys.modules["jax"].lax.stop_gradient(xp.max(xp.abs(kernel)))
        largest = xp.where(largest > 0, largest, 1 + largest)
        return kernel / largest, largest
    largest = float(xp.max(xp.abs(untracked(kernel))))
    if not math.isfinite(largest):
        raise RangeError(f"a kernel was computed on the way that is beyond the range of {kernel.dtype}")
    if largest == 0 or 1 / _COMMON <= largest <= _COMMON:
        return kernel, 1.0
    power = math.ldexp(1.0, math.frexp(largest)[1] - 1)
    return kernel / like(np.asarray(power), kernel, kernel.dtype), power


def in_range_again(values: Array, power: Any, what: str = "the operator's norm") -> Array:
    """`values` times the power that `in_range` gave.

    Raises:
        RangeError: they are beyond the range of their precision.
    """
    if isinstance(power, float) and power == 1:
        return values
    xp = namespace(values)
    with np.errstate(over="ignore", under="ignore"):
        found = values * power
    if is_concrete(found) and not bool(xp.all(xp.isfinite(untracked(found)))):
        raise RangeError(
            f"{what} is beyond the range of {values.dtype}, the kernel's largest entry is about {power:.3g}: "
            "divide the kernel, or give it in a wider precision"
        )
    return found


def eps_of(array: Array) -> float:
    """The distance from 1 to the next number of a real array's precision."""
    return float(namespace(array).finfo(array.dtype).eps)


def complex_dtype(array: Array) -> Any:
    """The complex dtype of the same precision as a real array."""
    xp = namespace(array)
    return xp.complex64 if array.dtype == xp.float32 else xp.complex128
