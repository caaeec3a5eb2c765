"""Exported programs of PyTorch as a graph of few kinds of operations, whether saved or traced just now."""

from __future__ import annotations

import io
import math
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ....errors import InputError
from ...graph_builder import LARGEST, Builder, UnsupportedError, translating
from ...names import layer_name
from ...operations import Array, Graph, StoredLayer
from ...reading import digest, first_line
from ...records import Unread
from ...step import Step, Tensor
from ..pytorch.reader import as_array, require_torch
from . import aten
from .aten_layers import layer_of
from .parts import check_parts
from .program import Body, Call, Program, load, read, tensors_in


def read_graph(path: Path, *, sample_shape: Any = None) -> Graph:
    """The nodes of a program saved by `torch.export.save`, at the sizes it was exported with.

    PyTorch's loader is not used (`program` says why), and nothing is traced again.

    Arguments:
        path: the `.pt2` file.
        sample_shape: not used: the program fixes its sizes; one exported as dynamic is unknown.

    Returns:
        `Graph` of format `torch.export`. A node that is not read is `Refused`, with the reason.

    Raises:
        ModelError: no exported program, a damaged one, or one with pickled objects.
        InputError: PyTorch is not installed.
    """
    require_torch()
    return _graph(load(path), path.name, path)


def trace_graph(module: Any, sample_shape: tuple[int, ...], *, name: str, path: Path | None = None) -> Graph:
    """The nodes of a module in evaluation mode, exported for one input of this shape without the batch.

    Raises:
        InputError: `torch.export` cannot trace it, and as `read_graph`.
    """
    torch = require_torch()
    from ...modules import evaluating, example_of

    saved = io.BytesIO()
    try:
        with warnings.catch_warnings(), evaluating(module):
            warnings.simplefilter("ignore")  # of the exporter about itself
            # Nothing is decomposed, but what writes into its input becomes what returns a new tensor.
            program = torch.export.export(module, (example_of(module, sample_shape),))
            torch.export.save(program.run_decompositions({}), saved)
    except Exception as error:  # noqa: BLE001  # whatever a user's code raises, or the exporter about it
        shown = ",".join(map(str, sample_shape))
        raise InputError(
            f"torch.export cannot trace {name} at sample_shape {shown}: {type(error).__name__}: "
            f"{first_line(error)}"
        ) from None
    return _graph(read(saved), name, path)


def _graph(program: Program, name: str, path: Path | None) -> Graph:
    torch = require_torch()
    reader = _Reader(program)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of operators about themselves
        outputs = reader.run(program.body, None)
    builder = reader.builder
    return Graph(
        name=name,
        format="torch.export",
        inputs=reader.inputs,
        outputs=tuple(dict.fromkeys(one.key for one in outputs if builder.depends(one.key))),
        nodes=tuple(builder.nodes),
        shapes=builder.shapes,
        operators=reader.operators,
        unfit=reader.unfit,
        path=None if path is None else str(path),
        sha256=None if path is None else digest(path),
    )


@dataclass(eq=False)
class _Value:
    """A tensor of a program.

    Attributes:
        key: its name in the graph that is built; after something wrote into it, that of what was written.
        body: the graph that it belongs to.
        last: the place of the last node there that reads it, -1 for none.
        sharing: all tensors that share its memory, itself among them.
    """

    key: str
    body: Body | None = None
    last: float = -1
    sharing: list[_Value] = field(default_factory=list)

    def share(self, other: _Value) -> None:
        """Note that it has the memory of another."""
        self.sharing = other.sharing
        self.sharing.append(self)

    def is_read_after(self, place: int, body: Body | None) -> bool:
        """Whether something behind a node reads it; nodes of other graphs count as behind."""
        return self.last >= 0 and (self.body is not body or self.last > place)


class _Reader:
    """One pass over the nodes of a program and of the graphs that it calls.

    Attributes:
        tensors: those that do not depend on the input, by key.
        origins: of keys, the parameter that it is.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.tensors: dict[str, Any] = {}
        self.origins: dict[str, str] = {}
        self.builder = Builder(_Constants(self.tensors, self.origins))
        self.inputs: dict[str, Any] = {}
        self.unfit: dict[str, str] = {}
        self.operators: Counter[str] = Counter()

    def run(self, body: Body, given: list[_Value] | None) -> list[_Value]:
        """Take all nodes of a graph, given what it is called with if another calls it; its outputs."""
        last: dict[str, float] = {}
        for place, call in enumerate(body.calls):
            last.update(dict.fromkeys(call.reads, place))
        last.update(dict.fromkeys(body.outputs, math.inf))
        known: dict[str, _Value] = {}
        for place, name in enumerate(body.inputs):
            value = known[name] = _Value("", body, last.get(name, -1))
            if given is None:
                value.share(value)
                self.input(name, value, body)
            elif place < len(given):
                value.key = given[place].key
                value.share(given[place])
        for place, call in enumerate(body.calls):
            made = []
            for name in call.outputs or [call.name]:
                value = _Value(self.builder.tensors.unique(name or call.name), body, last.get(name, -1))
                value.share(value)
                made.append(value)
                if name in body.shapes:
                    self.builder.shapes[value.key] = body.shapes[name]
            self.call(call, place, known, made)
            known.update(zip(call.outputs, made, strict=False))
        return [known[name] if name else _Value("") for name in body.outputs]

    def input(self, name: str, value: _Value, body: Body) -> None:
        """What the program is given, or one of its own tensors."""
        key = value.key = self.builder.tensors.unique(name)
        if name in self.program.stored:
            origin = self.program.stored[name]
            if origin not in self.program.tensors:
                raise InputError(f"the program lacks its weight {origin!r}")
            self.tensors[key], self.origins[key] = self.program.tensors[origin], origin
            return
        shape = body.shapes.get(name)
        self.inputs[key] = shape or ()
        self.builder.add_input(key, shape)
        if name not in body.dtypes or not body.dtypes[name].is_floating_point:
            self.unfit[key] = f"input {key!r} must be a floating-point tensor for a Lipschitz constant"
        elif shape is None or None in shape:
            shown = "[" + ", ".join("?" if size is None else str(size) for size in shape or ()) + "]"
            self.unfit[key] = f"the size {shown} of input {key!r} is dynamic: export it with fixed ones"

    def call(self, call: Call, place: int, known: Mapping[str, _Value], made: list[_Value]) -> None:
        """One node, which makes these tensors."""
        builder = self.builder
        mutable = call.operator is not None and call.operator._schema.is_mutable
        word = call.word.removesuffix("_") if mutable else call.word
        reads = [known[name] for name in call.reads]
        keys = [value.key for value in reads]
        outputs = [value.key for value in made]
        self.operators[word] += 1
        label = self.label(keys, call)
        layer: StoredLayer | Unread | None = None
        written: list[_Value] = []
        reason = "an output without a proven constant"
        try:
            with translating():
                if any(isinstance(value, Body) for _, value in call.arguments):
                    self.enter(call, known, made)
                    return
                if call.operator is None:
                    raise UnsupportedError("an operator from outside of PyTorch's own")
                found = {one.name: one.default_value for one in call.operator._schema.arguments}
                found |= {name: _keyed(value, known) for name, value in call.arguments}
                layer = layer_of(word, found, builder, label)
                written = self.write(call, place, known, made, found.get("train"))
                if not any(map(builder.depends, keys)):
                    self.fold(call, word, found, outputs)
                    return
                rule = aten.TABLE.get(word)
                if rule is None:
                    raise UnsupportedError(
                        aten.REASONS.get(word, "an operator without a proven constant here")
                    )
                shown = "batch_norm" if "batch_norm" in word else word
                rule(Step(builder, label, shown, found, outputs, layer, (call, self.tensors)))
        except UnsupportedError as error:
            reason = str(error)
            for value in written:
                value.key = outputs[0]
        read = keys if any(map(builder.depends, keys)) else [*keys, *list(self.inputs)[:1]]
        for key in outputs:
            if key not in builder.producers:
                builder.refuse(label, word, reason, read, key, layer)
                layer = None

    def label(self, keys: list[str], call: Call) -> str:
        """By its first weight where it has one: `layer1.0.conv1`."""
        origin = next((self.origins[key] for key in keys if key in self.origins), None)
        return call.name if origin is None else layer_name(origin, origin.rpartition(".")[0] or call.name)

    def write(
        self, call: Call, place: int, known: Mapping[str, _Value], made: list[_Value], train: Any
    ) -> list[_Value]:
        """Note which tensors a node's outputs are views of, and which it writes into.

        Returns:
            All that share memory with what is written: unknown from here on if the node is refused.

        Raises:
            UnsupportedError: weights are written, or others that share the memory are read later.
        """
        schema = call.operator._schema.arguments if train is not False else ()
        aliased = {one.name: one.alias_info for one in schema}
        shared: list[_Value] = []
        for name, value in call.arguments:
            for source in tensors_in(value) if aliased.get(name) is not None else ():
                if aliased[name].is_write:
                    shared += known[source].sharing
                    depends = any(self.builder.depends(known[one].key) for one in call.reads)
                    self.overwrite(known[source], made[0], place, depends)
                for one in made:
                    one.share(known[source])
        return shared

    def overwrite(self, source: _Value, new: _Value, place: int, depends: bool) -> None:
        old = source.key
        others = [one for one in source.sharing if one.key != old]
        if old in self.tensors and not depends and old not in self.origins:
            return  # a constant is written where it lies, and its views with it
        for one in source.sharing:
            one.key = new.key if one.key == old else one.key
        if old in self.origins or any(one.is_read_after(place, new.body) for one in others):
            for one in others:
                one.key = new.key
            raise UnsupportedError("it writes into a tensor of which other views are read later")

    def enter(self, call: Call, known: Mapping[str, _Value], made: list[_Value]) -> None:
        """A graph that is called as it stands; the branches of a choice, which is refused behind them."""
        values = [value for _, value in call.arguments]
        bodies = [value for value in values if isinstance(value, Body)]
        operands = [known[name] for name in tensors_in(values[values.index(bodies[0]) :])]
        if len(bodies) == 1 and call.word.startswith("wrap_with"):
            for value, inner in zip(made, self.run(bodies[0], operands), strict=False):
                value.key = inner.key
                value.share(inner)
            return
        for body in bodies:
            self.run(body, operands)
        raise UnsupportedError("which of its graphs runs, and how often, may depend on the input")

    def fold(self, call: Call, word: str, found: Mapping[str, Any], outputs: list[str]) -> None:
        """Work out what does not depend on the input; its sizes first, before memory is taken."""
        import torch
        from torch._subclasses.fake_tensor import FakeTensorMode

        if torch.Tag.nondeterministic_seeded in call.operator.tags:
            raise UnsupportedError("it draws random numbers")
        if word in aten.LOOPS:
            raise UnsupportedError("it runs step by step")
        values = {name: aten.valued(value, self.tensors) for name, value in found.items()}
        if (shape := getattr(values.get("self"), "shape", None)) is not None:
            check_parts(call, tuple(shape), values)
        try:
            with FakeTensorMode(allow_non_fake_inputs=True):
                made = aten.called(call.operator, values)
            if any(hasattr(one, "numel") and one.numel() > LARGEST for one in made):
                raise UnsupportedError(f"it makes a constant of more than {LARGEST} entries")
            self.tensors.update(zip(outputs, aten.called(call.operator, values), strict=False))
        except (RuntimeError, TypeError, ValueError, KeyError) as error:
            raise UnsupportedError(f"it cannot be computed from constants: {first_line(error)}") from None


class _Constants(dict[str, Array]):
    """Constants by key, as arrays; what is no parameter may still be written into, and is copied."""

    def __init__(self, tensors: Mapping[str, Any], kept: Mapping[str, str]) -> None:
        super().__init__()
        self.tensors, self.kept = tensors, kept

    def __missing__(self, key: str) -> Array:
        if key not in self.tensors:
            raise UnsupportedError("a constant that cannot be computed")
        array = as_array(self.tensors[key])
        return array if key in self.kept else np.array(array)


def _keyed(value: Any, known: Mapping[str, _Value]) -> Any:
    """An argument with the tensors in it by their keys."""
    if isinstance(value, list):
        return [_keyed(one, known) for one in value]
    return Tensor(known[value].key) if isinstance(value, Tensor) else value
