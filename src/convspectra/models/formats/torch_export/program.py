"""The network that an exported program holds, as a `Graph` of few kinds of operations."""

from __future__ import annotations

import operator
import warnings
from pathlib import Path
from typing import Any

from ....errors import InputError
from ...graph_builder import LARGEST, Builder, UnsupportedError, translating
from ...operations import Graph
from ..pytorch.reader import as_array, require_torch
from ..safetensors.reader import digest
from . import aten as operations
from .aten_step import Step
from .parts import with_checked_parts
from .reader import arguments_of, load_program


def read_graph(path: Path) -> Graph:
    """The nodes of a program saved by `torch.export.save`, at the sizes it was exported with.

    Raises:
        ModelError: no exported program, a damaged one, or one with pickled objects.
        InputError: PyTorch is not installed; a size is dynamic, an input is no floating-point tensor.

    Operators without a proven constant become `Refused` nodes; they are an error for who needs them.
    """
    return _graph(with_checked_parts(load_program(path)), path.name, path)


def trace_graph(module: Any, input_shape: tuple[int, ...], *, name: str, path: Path | None = None) -> Graph:
    """The nodes of a module in evaluation mode, exported for one input of this shape without the batch.

    Raises:
        InputError: `torch.export` cannot trace it, and as `read_graph`.
    """
    torch = require_torch()
    training = {part: part.training for part in module.modules()}
    floating = [one for one in module.parameters() if one.is_floating_point()]
    dtype = floating[0].dtype if floating else torch.float32
    device = floating[0].device if floating else torch.device("cpu")
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of the exporter about itself
            example = torch.zeros((1, *input_shape), dtype=dtype, device=device)
            program = torch.export.export(module.eval(), (example,))
    except Exception as error:  # noqa: BLE001  # whatever a user's code raises, or the exporter about it
        line = (str(error).strip().splitlines() or [""])[0]
        shown = ",".join(map(str, input_shape))
        raise InputError(
            f"torch.export cannot trace {name} at --input-shape {shown}: {type(error).__name__}: {line}"
        ) from None
    finally:
        for part, mode in training.items():
            part.training = mode
    return _graph(program, name, path)


def _graph(program: Any, name: str, path: Path | None) -> Graph:
    torch = require_torch()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Nothing is decomposed, but what writes into its input becomes what returns a new tensor.
            program = program.run_decompositions({})
    except Exception as error:  # noqa: BLE001  # the tracer raises whatever its parts raise
        line = (str(error).strip().splitlines() or [""])[0]
        raise InputError(f"{name} cannot be traced again: {type(error).__name__}: {line}") from None
    builder = Builder()
    reader = _Reader(builder, program, name)
    with torch.no_grad():
        for node in program.graph.nodes:
            reader.node(node)
    outputs = tuple(one for one in program.graph_signature.user_outputs if one in builder.dependent)
    return Graph(
        name=name,
        format="torch.export",
        inputs=reader.inputs,
        outputs=outputs,
        nodes=tuple(builder.nodes),
        shapes=builder.shapes,
        path=None if path is None else str(path),
        sha256=None if path is None else digest(path),
    )


class _Reader:
    """One pass over the nodes of a program."""

    def __init__(self, builder: Builder, program: Any, label: str) -> None:
        signature = program.graph_signature
        self.builder, self.label = builder, label
        self.stored = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        self.state = {**program.state_dict, **program.constants}
        self.tensors: dict[str, Any] = {}
        self.parts: dict[str, list[str]] = {}
        self.inputs: dict[str, tuple[int, ...]] = {}

    def node(self, node: Any) -> None:
        """Take one node: an input, a weight, a constant, or an operator."""
        if node.op == "placeholder":
            self.placeholder(node)
        elif node.op == "call_function":
            word = getattr(node.target, "_opname", getattr(node.target, "__name__", str(node.target)))
            try:
                self.call(node, word)
            except UnsupportedError as error:
                reads = [one.name for one in node.all_input_nodes] or list(self.inputs)[:1]
                self.builder.refuse(self.named(node), word, str(error), reads, node.name)

    def placeholder(self, node: Any) -> None:
        if node.name in self.stored:
            found = self.state.get(self.stored[node.name])
            if found is None:
                raise InputError(f"{self.label}: the program lacks its weight {self.stored[node.name]!r}")
            self.keep(node.name, found.detach().cpu())
            return
        value = node.meta.get("val")
        if not hasattr(value, "dtype") or not value.dtype.is_floating_point:
            raise InputError(
                f"{self.label}: input {node.name!r} must be a floating-point tensor for a Lipschitz constant"
            )
        shape = tuple(value.shape)
        if not all(type(n) is int for n in shape):
            raise InputError(
                f"{self.label}: the size {shape} of input {node.name!r} is dynamic: export it with fixed ones"
            )
        self.builder.add_input(node.name, shape)
        self.inputs[node.name] = shape

    def keep(self, name: str, tensor: Any) -> None:
        self.tensors[name] = tensor
        self.builder.constants[name] = as_array(tensor)

    def named(self, node: Any) -> str:
        """By its first weight where it has one: `layer1.0.conv1`."""
        for one in node.all_input_nodes:
            if one.name in self.stored:
                return str(self.stored[one.name]).rpartition(".")[0] or str(node.name)
        return str(node.name)

    def call(self, node: Any, word: str) -> None:
        reads = [one.name for one in node.all_input_nodes]
        if node.target is operator.getitem:
            self.part(node)
            return
        if getattr(node.target, "namespace", "") != "aten":
            raise UnsupportedError("an operator from outside of PyTorch's own")
        if not any(name in self.builder.dependent for name in reads):
            self.fold(node, word)
            return
        for name in reads:
            if name in self.builder.dependent and not self.builder.known(name):
                raise UnsupportedError(f"it reads {name!r}, of which nothing is known")
        shown = "batch_norm" if "batch_norm" in word else word
        step = Step(
            self.builder, node.target, node.name, self.named(node), shown, arguments_of(node), self.tensors
        )
        rule = operations.TABLE.get(word)
        if rule is None:
            raise UnsupportedError(operations.REASONS.get(word, "an operator without a proven constant here"))
        with translating(step.word, step.label):
            self.parts[node.name] = rule(step) or [node.name]

    def part(self, node: Any) -> None:
        """One of several outputs."""
        source, place = node.args[0].name, node.args[1]
        if source in self.tensors:
            self.keep(node.name, self.tensors[source][place])
            return
        parts = self.parts.get(source)
        if parts is None or place >= len(parts):
            raise UnsupportedError("an output without a proven constant")
        self.builder.move(node.name, "getitem", lambda index: index, parts[place], node.name)

    def fold(self, node: Any, word: str) -> None:
        """Work out what does not depend on the input."""
        if "rand" in word or word in ("bernoulli", "multinomial", "normal", "dropout"):
            raise UnsupportedError("it draws random numbers")
        value = node.meta.get("val")
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if hasattr(one, "numel") and one.numel() > LARGEST:
                raise InputError(
                    f"{self.label}: {word} {node.name!r} makes a constant of more than {LARGEST} entries"
                )
        try:
            made = node.target(*self.valued(node.args), **self.valued(dict(node.kwargs)))
        except (RuntimeError, TypeError, ValueError, KeyError) as error:
            line = (str(error).strip().splitlines() or [""])[0]
            raise UnsupportedError(f"it cannot be computed from constants: {line}") from None
        if isinstance(made, (list, tuple)):
            self.tensors[node.name] = made
        elif hasattr(made, "numel"):
            self.keep(node.name, made)

    def valued(self, argument: Any) -> Any:
        """Arguments with the tensors that nodes stand for."""
        if isinstance(argument, (list, tuple)):
            return type(argument)(self.valued(one) for one in argument)
        if isinstance(argument, dict):
            return {name: self.valued(one) for name, one in argument.items()}
        return self.tensors[argument.name] if hasattr(argument, "all_input_nodes") else argument
