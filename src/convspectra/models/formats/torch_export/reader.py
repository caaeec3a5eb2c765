"""Exported programs of PyTorch as a graph of few kinds of operations, whether saved or traced just now."""

from __future__ import annotations

import logging
import operator
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ....errors import InputError, ModelError
from ...graph_builder import LARGEST, Builder, UnsupportedError, translating
from ...names import layer_name
from ...operations import Array, Graph, Move, StoredLayer
from ...records import Unread
from ..pytorch.reader import as_array, require_torch
from ..safetensors.reader import digest
from . import archive, aten
from .aten_layers import layer_of
from .aten_step import Step, Tensor
from .parts import check_parts


def read_graph(path: Path, *, input_shape: Any = None) -> Graph:
    """The nodes of a program saved by `torch.export.save`, at the sizes it was exported with.

    PyTorch is given an archive written anew, of the graph and the tensors alone (`archive`): what its loader
    would unpickle, import or make Python source of is refused or left out. Nothing is traced again.

    Arguments:
        path: the `.pt2` file.
        input_shape: not used: the program fixes its sizes; one exported as dynamic is unknown.

    Returns:
        `Graph` of format `torch.export`. A node that is not read is `Refused`, with the reason.

    Raises:
        ModelError: no exported program, a damaged one, or one with pickled objects.
        InputError: PyTorch is not installed.
    """
    return _graph(load_program(path), path.name, path)


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
            # Nothing is decomposed, but what writes into its input becomes what returns a new tensor.
            program = torch.export.export(module.eval(), (example,)).run_decompositions({})
    except Exception as error:  # noqa: BLE001  # whatever a user's code raises, or the exporter about it
        line = (str(error).strip().splitlines() or [""])[0]
        shown = ",".join(map(str, input_shape))
        raise InputError(
            f"torch.export cannot trace {name} at input_shape {shown}: {type(error).__name__}: {line}"
        ) from None
    finally:
        for part, mode in training.items():
            part.training = mode
    return _graph(program, name, path)


def load_program(path: Path) -> Any:
    """The `ExportedProgram` in a file: its graph and its tensors, all else left out, so that no code runs.

    Raises: as `read`.
    """
    torch = require_torch()
    checked = archive.checked(path)
    log = logging.getLogger("torch.export")
    causes: list[Any] = []

    def keep_cause(record: logging.LogRecord) -> bool:
        causes.extend(record.exc_info[1:2] if record.exc_info else ())
        return False  # nothing is printed: what is raised below says it

    try:
        log.addFilter(keep_cause)
        program = torch.export.load(checked)
    except Exception as error:  # noqa: BLE001  # the loader raises whatever its parts raise
        cause = causes[-1] if causes else error
        line = (str(cause).strip().splitlines() or [type(cause).__name__])[-1]
        raise ModelError(f"{path} is not an exported program that this PyTorch reads: {line}") from cause
    finally:
        log.removeFilter(keep_cause)
    return program


def _graph(program: Any, name: str, path: Path | None) -> Graph:
    torch = require_torch()
    reader = _Reader(program, name)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of operators about themselves
        outputs = reader.run(program.graph_module, None)
    return Graph(
        name=name,
        format="torch.export",
        inputs=reader.inputs,
        outputs=tuple(dict.fromkeys(one for one in outputs if one in reader.builder.dependent)),
        nodes=tuple(reader.builder.nodes),
        shapes=reader.builder.shapes,
        operators=reader.operators,
        unfit=reader.unfit,
        path=None if path is None else str(path),
        sha256=None if path is None else digest(path),
    )


class _Reader:
    """One pass over the nodes of a program and of the graphs that it calls.

    Attributes:
        keys: of each node, the name of its tensor in the graph that is made; after something wrote into a
            tensor, that of what was written.
        storage: of each node, all nodes whose tensors share its memory.
        tensors: those that do not depend on the input, by key.
    """

    def __init__(self, program: Any, label: str) -> None:
        signature = program.graph_signature
        self.label = label
        self.stored = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        self.user_outputs = set(signature.user_outputs)
        self.state = {**program.state_dict, **program.constants}
        self.tensors: dict[str, Any] = {}
        self.origins: dict[str, str] = {}  # of keys: the parameter that it is
        self.builder = Builder(_Constants(self.tensors, self.origins))
        self.keys: dict[Any, str] = {}
        self.storage: dict[Any, list[Any]] = {}
        self.parts: dict[Any, list[str]] = {}
        self.graphs: dict[Any, Any] = {}
        self.inputs: dict[str, Any] = {}
        self.unfit: dict[str, str] = {}
        self.operators: Counter[str] = Counter()

    def run(self, module: Any, arguments: list[Any] | None) -> list[str]:
        """Take all nodes of a graph, given what it is called with if another calls it; its outputs."""
        for node in module.graph.nodes:
            if node.op == "placeholder":
                self.placeholder(node, arguments)
            elif node.op == "get_attr":
                self.graphs[node] = getattr(module, node.target)
            elif node.op == "call_function":
                self.call(node)
            elif node.op == "output":
                made = node.args[0] if isinstance(node.args[0], (list, tuple)) else node.args
                if arguments is None:
                    made = [one for one in made if getattr(one, "name", "") in self.user_outputs]
                return [self.keys.get(one, "") for one in made]
        return []

    def placeholder(self, node: Any, arguments: list[Any] | None) -> None:
        if arguments is not None:
            source = arguments.pop(0) if arguments else None
            self.keys[node] = self.keys.get(source, "")
            self.share(node, source)
            return
        key = self.name(node)
        self.share(node, None)
        if node.name in self.stored:
            found = self.state.get(self.stored[node.name])
            if found is None:
                raise InputError(f"{self.label}: the program lacks its weight {self.stored[node.name]!r}")
            self.tensors[key], self.origins[key] = found.detach().cpu(), str(self.stored[node.name])
            return
        shape = _shape(node)
        self.inputs[key] = shape or ()
        self.builder.add_input(key, shape)
        value = node.meta.get("val")
        if not hasattr(value, "dtype") or not value.dtype.is_floating_point:
            self.unfit[key] = f"input {key!r} must be a floating-point tensor for a Lipschitz constant"
        elif shape is None or None in shape:
            self.unfit[key] = (
                f"the size {tuple(value.shape)} of input {key!r} is dynamic: export it with fixed ones"
            )

    def name(self, node: Any) -> str:
        key = self.keys[node] = self.builder.tensors.unique(str(node.name))
        return key

    def share(self, node: Any, source: Any) -> None:
        """Note that a node's tensor has the memory of another's; of its own if that is None."""
        self.storage[node] = self.storage.get(source, [])
        self.storage[node].append(node)

    def label_of(self, node: Any) -> str:
        """By its first weight where it has one: `layer1.0.conv1`."""
        for one in node.all_input_nodes:
            origin = self.origins.get(self.keys.get(one, ""))
            if origin is not None:
                return layer_name(origin, origin.rpartition(".")[0] or str(node.name))
        return str(node.name)

    def call(self, node: Any) -> None:
        word = str(getattr(node.target, "_opname", getattr(node.target, "__name__", node.target)))
        mutable = getattr(getattr(node.target, "_schema", None), "is_mutable", False)
        word = word.removesuffix("_") if mutable else word
        reads = [self.keys.get(one, "") for one in node.all_input_nodes]
        key = self.name(node)
        if (shape := _shape(node)) is not None:
            self.builder.shapes[key] = shape
        if node.target is not operator.getitem:
            self.operators[word] += 1
        layer: StoredLayer | Unread | None = None
        written: list[Any] = []
        try:
            with translating():
                if node.target is operator.getitem:
                    self.part(node, key)
                    return
                bodies = [self.graphs[one] for one in node.args if one in self.graphs]
                if bodies:
                    self.enter(node, bodies, word)
                    return
                if getattr(node.target, "namespace", "") != "aten":
                    raise UnsupportedError("an operator from outside of PyTorch's own")
                found = self.arguments(node)
                layer = layer_of(word, found, self.builder, self.label_of(node))
                written = self.write(node, found)
                if not any(one in self.builder.dependent for one in reads):
                    self.fold(node, key, word, found)
                    return
                rule = aten.TABLE.get(word)
                if rule is None:
                    raise UnsupportedError(
                        aten.REASONS.get(word, "an operator without a proven constant here")
                    )
                shown = "batch_norm" if "batch_norm" in word else word
                step = Step(self.builder, node, key, self.label_of(node), shown, found, self.tensors, layer)
                self.parts[node] = rule(step) or [key]
        except UnsupportedError as error:
            self.keys.update(dict.fromkeys(written, key))
            if key not in self.builder.producers:
                read = [*reads, *list(self.inputs)[:1]] if not set(reads) & self.builder.dependent else reads
                self.builder.refuse(self.label_of(node), word, str(error), read, key, layer)

    def arguments(self, node: Any) -> dict[str, Any]:
        """A node's arguments by the names of its operator's schema, defaults filled in, tensors by key."""
        from torch.fx.node import map_arg

        found = {argument.name: argument.default_value for argument in node.target._schema.arguments}
        found.update(zip(found, node.args, strict=False))
        found.update(node.kwargs)
        return {name: map_arg(value, lambda one: Tensor(self.keys[one])) for name, value in found.items()}

    def write(self, node: Any, found: Mapping[str, Any]) -> list[Any]:
        """Note which tensors a node's output is a view of, and which it writes into.

        Returns:
            All nodes that share memory with what is written: unknown from here on if the node is refused.

        Raises:
            UnsupportedError: weights are written, or others that share the memory are read later.
        """
        schema = node.target._schema.arguments
        given = dict(zip((one.name for one in schema), node.args, strict=False)) | dict(node.kwargs)
        self.share(node, None)
        shared: list[Any] = []
        for argument in schema if found.get("train") is not False else ():
            value = given.get(argument.name)
            if argument.alias_info is None:
                continue
            for source in value if isinstance(value, (list, tuple)) else [value]:
                if source not in self.storage:
                    continue
                if argument.alias_info.is_write:
                    shared += [one for one in self.storage[source] if one is not node]
                    self.overwrite(node, source)
                self.share(node, source)
        return shared

    def overwrite(self, node: Any, source: Any) -> None:
        old, new = self.keys[source], self.keys[node]
        others = [one for one in self.storage[source] if self.keys[one] != old]
        depends = any(self.keys[one] in self.builder.dependent for one in node.all_input_nodes)
        if old in self.tensors and not depends and old not in self.origins:
            return  # a constant is written where it lies, and its views with it
        for one in self.storage[source]:
            if self.keys[one] == old:
                self.keys[one] = new
        if old in self.origins or any(_is_read_after(one, node) for one in others):
            for one in others:
                self.keys[one] = new
            raise UnsupportedError("it writes into a tensor of which other views are read later")

    def enter(self, node: Any, bodies: list[Any], word: str) -> None:
        """A graph that is called as it stands; the branches of a choice, which is refused behind them."""
        first = next(place for place, one in enumerate(node.args) if one in self.graphs)
        rest = [one for one in node.args[first:] if one not in self.graphs]
        if len(bodies) == 1 and word.startswith("wrap_with"):
            self.parts[node] = self.run(bodies[0], rest)
            return
        for body in bodies:
            operands = [*rest[0]] if len(rest) == 1 and isinstance(rest[0], (list, tuple)) else rest
            self.run(body, list(operands))
        raise UnsupportedError("which of its graphs runs, and how often, may depend on the input")

    def part(self, node: Any, key: str) -> None:
        """One of several outputs."""
        source, place = node.args
        self.share(node, source)
        made = self.tensors.get(self.keys[source])
        if isinstance(made, (list, tuple)):
            self.tensors[key] = made[place]
            return
        parts = self.parts.get(source)
        if parts is None or place >= len(parts) or not parts[place]:
            raise UnsupportedError("an output without a proven constant")
        if parts[place] in self.tensors:
            self.tensors[key] = self.tensors[parts[place]]
            return
        move = Move(self.builder.sizes(parts[place]))
        self.builder.add(key, "getitem", move, [parts[place]], key)

    def fold(self, node: Any, key: str, word: str, found: Mapping[str, Any]) -> None:
        """Work out what does not depend on the input; its sizes first, before memory is taken."""
        from torch._subclasses.fake_tensor import FakeTensorMode

        if "rand" in word or word in ("bernoulli", "multinomial", "normal", "dropout"):
            raise UnsupportedError("it draws random numbers")
        if word in aten.LOOPS:
            raise UnsupportedError("it runs step by step")
        values = {name: aten.valued(value, self.tensors) for name, value in found.items()}
        if (shape := getattr(values.get("self"), "shape", None)) is not None:
            check_parts(node, tuple(shape), values)
        schema = node.target._schema.arguments
        places = [values[one.name] for one in schema if not one.kwarg_only]
        words = {one.name: values[one.name] for one in schema if one.kwarg_only}
        try:
            with FakeTensorMode(allow_non_fake_inputs=True):
                made = node.target(*places, **words)
            for one in made if isinstance(made, (list, tuple)) else [made]:
                if hasattr(one, "numel") and one.numel() > LARGEST:
                    raise UnsupportedError(f"it makes a constant of more than {LARGEST} entries")
            self.tensors[key] = node.target(*places, **words)
        except (RuntimeError, TypeError, ValueError, KeyError) as error:
            line = (str(error).strip().splitlines() or [""])[0]
            raise UnsupportedError(f"it cannot be computed from constants: {line}") from None


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


def _shape(node: Any) -> tuple[int | None, ...] | None:
    """The sizes that a program states of a node, None for those that are dynamic."""
    shape = getattr(node.meta.get("val"), "shape", None)
    return None if shape is None else tuple(size if type(size) is int else None for size in shape)


def _is_read_after(one: Any, node: Any) -> bool:
    """Whether something behind a node reads another's tensor; nodes of other graphs count as behind."""
    return any(user.graph is not node.graph or node < user for user in one.users)
