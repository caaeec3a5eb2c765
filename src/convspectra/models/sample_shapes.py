"""The shape of one sample: as somebody writes it, and which input of a graph it is meant for.

`input_shape` of a geometry has the sizes of a layer's input; `sample_shape` also the channels, of the
network's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral

from ..errors import InputError

Sizes = tuple[int, ...]
SampleShape = Sizes | Mapping[str, Sizes]
"""All axes of one input but the batch, such as (3, 224, 224); or that by the inputs' names."""
Axes = Sequence[int | str]
"""The axes of a graph's input, the batch included; one that the graph leaves open by its name, or "?"."""


def check(shape: SampleShape | None) -> SampleShape | None:
    """The same as tuples of integers; what Python callers hand in.

    Raises:
        InputError: anything else.
    """
    if shape is None or isinstance(shape, Mapping):
        return None if shape is None else {str(name): _checked(sizes) for name, sizes in shape.items()}
    return _checked(shape)


def _checked(sizes: Iterable[int]) -> Sizes:
    given = tuple(sizes) if isinstance(sizes, Iterable) and not isinstance(sizes, str) else ()
    if not given or not all(isinstance(n, Integral) and not isinstance(n, bool) and n >= 1 for n in given):
        raise InputError(
            "sample_shape must be integers, all at least 1, such as (3, 224, 224), or a dictionary of such "
            f"by the names of inputs; got {sizes!r}"
        )
    return tuple(int(n) for n in given)


def of_one_input(shape: SampleShape | None, what: str) -> Sizes | None:
    """The shape where inputs have no names.

    Raises:
        InputError: it was given by name.
    """
    if isinstance(shape, Mapping):
        raise InputError(f"sample_shape NAME=SHAPE is for ONNX graphs; for {what} leave the name out")
    return shape


def assign(shape: SampleShape | None, inputs: Mapping[str, Axes]) -> dict[str, Sizes]:
    """Which input has which shape, the first axis (the batch) left out.

    Arguments:
        inputs: the axes of each input.

    Raises:
        InputError: an unknown name; no input, or more than one, that a shape without a name can mean; a shape
            that contradicts what the graph fixes, or that has a batch axis.
    """
    if shape is None:
        return {}
    if isinstance(shape, Mapping):
        for name, sizes in shape.items():
            if name not in inputs:
                raise InputError(
                    f"sample_shape {name}={_text(sizes)}: the graph has no input {name!r}; its inputs are: "
                    f"{_listed(inputs)}"
                )
            _check_fit(name, sizes, inputs[name], f"{name}=")
        return dict(shape)
    fits = [name for name, axes in inputs.items() if _fits(shape, axes[1:])]
    with_batch = [name for name, axes in inputs.items() if len(shape) > 1 and _fits(shape, axes)]
    meant = [name for name in with_batch if shape[0] in (1, inputs[name][0])]
    if len(fits) == 1 and not meant:
        return {fits[0]: shape}
    if not fits:
        for names in (with_batch, [name for name, axes in inputs.items() if len(axes) == len(shape) + 1]):
            if len(names) == 1:
                _check_fit(names[0], shape, inputs[names[0]], "")
    count = len({*fits, *meant})
    advice = ": write NAME=SHAPE, without the batch" if count else ", the batch left out"
    raise InputError(
        f"sample_shape {_text(shape)} fits {count} inputs of the graph{advice}; "
        f"its inputs are: {_listed(inputs)}"
    )


def _check_fit(name: str, sizes: Sizes, axes: Axes, prefix: str) -> None:
    """Raise the InputError that says why these sizes are not those of an input."""
    if len(sizes) == len(axes) and len(sizes) > 1:
        raise InputError(
            f"sample_shape {prefix}{_text(sizes)} has all {len(axes)} axes of the input {name!r} "
            f"{_shown(axes)}: leave out the batch, its first axis: sample_shape {prefix}{_text(sizes[1:])}"
        )
    if len(sizes) != len(axes) - 1:
        raise InputError(
            f"sample_shape {prefix}{_text(sizes)} must have the {max(len(axes) - 1, 0)} axes behind the "
            f"batch of the input {name!r} {_shown(axes)}"
        )
    if not _fits(sizes, axes[1:]):
        raise InputError(
            f"sample_shape {prefix}{_text(sizes)} contradicts the graph, which fixes its input {name!r} to "
            f"{_shown(axes)}; leave the option out"
        )


def _fits(sizes: Sizes, axes: Axes) -> bool:
    return len(sizes) == len(axes) and all(
        isinstance(fixed, str) or fixed == n for n, fixed in zip(sizes, axes, strict=True)
    )


def _text(sizes: Sizes) -> str:
    return ",".join(map(str, sizes))


def _shown(axes: Axes) -> str:
    return "[" + ", ".join(map(str, axes)) + "]"


def _listed(inputs: Mapping[str, Axes]) -> str:
    return ", ".join(f"{name} {_shown(axes)}" for name, axes in inputs.items()) or "none"
