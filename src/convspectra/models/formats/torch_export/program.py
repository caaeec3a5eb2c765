"""Programs of `torch.export.save` as they lie in a file, read without PyTorch's loader.

The loader unpickles what an archive asks it to, imports what its JSON names, evaluates sizes that are
expressions, and makes Python source of the names of nodes. Here the JSON is data: the entries of an archive
are an exact list, tensors are raw bytes, every word is checked, and what only describes (stack traces, sample
inputs, extra files) is not looked at.
"""

from __future__ import annotations

import functools
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ....errors import ModelError
from ...operations import OpenShape
from ...step import Tensor

_MAJOR = 8
"""The version of the JSON, since PyTorch 2.8."""

_ENTRIES = re.compile(
    r"models/model\.json|data/weights/(model_weights_config\.json|weight_\d+)"
    r"|data/constants/(model_constants_config\.json|tensor_\d+)|data/sample_inputs/model\.pt|archive_format"
    r"|archive_version|(\.data/)?version|byteorder|\.data/serialization_id|\.format_version"
    r"|\.storage_alignment|extra/[\w./-]+"
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,400}")
# An open size, printed or as `sympy.srepr` writes it; one power at most. Nothing evaluates it.
_EXPRESSION = re.compile(
    r"(?!.*\*\*.*\*\*)([-+*/(),<>=&|~' ]|\b[a-z]{1,4}\d{1,5}\b|\b\d{1,19}\b|\b[A-Z]\w*|\b(floor|ceiling)\b"
    r"|\b[a-z_]+=(True|False))+"
)
# What is named in a graph and never called: arithmetic of sizes, graphs, what others have added to PyTorch.
_NOT_CALLED = re.compile(
    r"(_operator|math)\.\w+|torch\.sym_\w+|torch\.ops\.(?!aten\.)\w+\.[\w.]+"
    r"|torch\.ops\.aten\.(sym_constrain_range(_for_size)?|_assert_scalar)\.default"
)
# Constant entries that the tensors of a program may have beside those that lie in the file (expanded ones).
_LARGEST_EXPANDED = 2**26

_COMMON = "uint8 int8 int16 int32 int64 float16 float32 float64 complex32 complex64 complex128 bool bfloat16"
_LATER = "uint16 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu uint32 uint64"
_DTYPES = {**dict(enumerate(_COMMON.split(), 1)), **dict(enumerate(_LATER.split(), 28))}
_MEMORY_FORMATS = dict(
    enumerate(["contiguous_format", "channels_last", "channels_last_3d", "preserve_format"], 1)
)


@dataclass(frozen=True, eq=False)
class Call:
    """One node.

    Attributes:
        word: its operator by name.
        operator: of PyTorch's own; None for others, which are not called.
        arguments: by name; tensors by theirs, graphs as `Body`. In order where they have no names.
        outputs: names of what it makes, those of lists one by one; "" for what is no tensor.
    """

    name: str
    word: str
    operator: Any
    arguments: list[tuple[str, Any]]
    outputs: list[str]

    @property
    def reads(self) -> list[Tensor]:
        """The tensors among its arguments."""
        return list(tensors_in([value for _, value in self.arguments]))


@dataclass(frozen=True, eq=False)
class Body:
    """One graph; an output that is no tensor is ""."""

    inputs: list[str]
    calls: list[Call]
    outputs: list[str]
    shapes: dict[str, OpenShape]
    dtypes: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Program:
    """A graph, and the tensors of those inputs that it keeps.

    Attributes:
        stored: of such an input, the name of its tensor in the module.
        tensors: by that name.
    """

    body: Body
    stored: dict[str, str]
    tensors: dict[str, Any]


class _RefusedError(Exception):
    """What is wrong with an archive, as the rest of a sentence about it."""


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors that an argument names, in its order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from tensors_in(one)


def load(path: Path) -> Program:
    """The program in a file, which may come from anybody.

    Raises:
        ModelError: it is no archive of `torch.export.save`, or holds what is not read: compiled code, pickled
            objects, several programs, a name or an operator that a graph of PyTorch's own operators lacks.
    """
    try:
        with path.open("rb") as file:
            return read(file)
    except (zipfile.BadZipFile, NotImplementedError, LookupError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is not an exported program, or it is damaged: {error!r}") from error
    except _RefusedError as error:
        raise ModelError(f"{path} {error}") from error


def read(file: BinaryIO) -> Program:
    """The program in an archive."""
    size = file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file) as source:
        entries = _entries(source, size)
        for needed in ("archive_format", "models/model.json"):
            if needed not in entries:
                raise _RefusedError("is not a program saved by torch.export.save of PyTorch 2.8 or newer")
        tensors: dict[str, Any] = {}
        room = size
        for folder, prefix in (("weights", "weight_"), ("constants", "tensor_")):
            config = entries.get(f"data/{folder}/model_{folder}_config.json")
            found = {} if config is None else _json(source, config)["config"]
            for name, payload in found.items():
                tensors[name] = _tensor(source, name, payload, f"data/{folder}/", prefix, entries)
                room -= tensors[name].numel()
                if room < -_LARGEST_EXPANDED:
                    raise _RefusedError(f"declares more entries than it holds (in {name[:80]!r})")
        data = _json(source, entries["models/model.json"])
    if data["schema_version"]["major"] != _MAJOR:
        raise _RefusedError(
            f"is a program of version {data['schema_version']['major']!r}; version {_MAJOR} is read, that of "
            "torch.export.save since PyTorch 2.8"
        )
    module = data["graph_module"]
    signature = module["signature"]
    body = _body(module["graph"])
    stored = {}
    for spec in signature["input_specs"]:
        ((kind, one),) = spec.items()
        if kind in ("parameter", "buffer", "tensor_constant"):
            stored[_name(one["arg"]["name"])] = str(one[f"{kind}_name"])
        elif kind not in ("user_input", "constant_input"):
            raise _RefusedError(f"holds what is not read ({str(kind)[:80]}) and was not opened")
    outputs = [one["user_output"]["arg"] for one in signature["output_specs"] if "user_output" in one]
    body.outputs[:] = map(_output, outputs)
    return Program(body, stored, tensors)


def _entries(source: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The entries by their names below the archive's one folder; their list is exact."""
    entries: dict[str, zipfile.ZipInfo] = {}
    folders, folded, total = set(), set(), 0
    for entry in source.infolist():
        folder, _, name = entry.filename.partition("/")
        folders.add(folder)
        if name.startswith("data/aotinductor/"):
            raise _RefusedError("holds compiled code and was not opened")
        if name.startswith(("data/constants/custom_obj_", "data/constants/opaque_obj_")):
            raise _RefusedError(f"holds a pickled object ({name}) and was not opened")
        if not _ENTRIES.fullmatch(name):
            raise _RefusedError(f"holds an entry of no exported program ({name[:80]!r}) and was not opened")
        if name.casefold() in folded:
            raise _RefusedError(f"holds the entry {name!r} twice and was not opened")
        total += entry.file_size
        if entry.compress_type != zipfile.ZIP_STORED or total > size:
            raise _RefusedError(f"holds a compressed entry ({name!r}), which torch.export.save never writes")
        entries[name] = entry
        folded.add(name.casefold())
    if len(folders) != 1:
        raise _RefusedError("is not a program saved by torch.export.save of PyTorch 2.8 or newer")
    return entries


def _json(source: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Any:
    try:
        return json.loads(source.read(entry))
    except ValueError as error:
        raise _RefusedError(f"is damaged: its entry {entry.filename!r} is no JSON") from error


def _tensor(
    source: zipfile.ZipFile,
    name: str,
    payload: Mapping[str, Any],
    folder: str,
    prefix: str,
    entries: Mapping[str, zipfile.ZipInfo],
) -> Any:
    """A tensor, whose values are raw bytes that are there."""
    import torch

    stored = str(payload["path_name"])
    if payload["use_pickle"] is not False or not re.fullmatch(prefix + r"\d+", stored):
        raise _RefusedError(f"holds a pickled object ({name[:80]}) and was not opened")
    if folder + stored not in entries:
        raise _RefusedError(f"is damaged: the values of {name[:80]!r} are missing")
    meta = payload["tensor_meta"]
    sizes, strides = ([_size(one) for one in meta[field]] for field in ("sizes", "strides"))
    offset, dtype = _size(meta["storage_offset"]), _dtype(meta["dtype"])
    last = offset + sum((n - 1) * stride for n, stride in zip(sizes, strides, strict=False))
    held = entries[folder + stored].file_size // dtype.itemsize
    if len(sizes) != len(strides) or (0 not in sizes and last >= held):
        raise _RefusedError(f"is damaged: {name[:80]!r} ends beyond its values")
    if 0 in sizes:
        return torch.empty(sizes, dtype=dtype)
    values = bytearray(source.read(entries[folder + stored]))
    return torch.frombuffer(values, dtype=dtype, count=held).as_strided(sizes, strides, offset)


def _size(value: Any) -> int:
    size = value["as_int"]
    if type(size) is not int or not 0 <= size < 2**62:
        raise _RefusedError(f"is damaged: a tensor has size {size!r}")
    return size


def _body(graph: Mapping[str, Any]) -> Body:
    values = graph["tensor_values"]
    return Body(
        inputs=[_output(one) for one in graph["inputs"]],
        calls=[_call(node) for node in graph["nodes"]],
        outputs=[_output(one) for one in graph["outputs"]],
        shapes={_name(name): tuple(map(_open_size, one["sizes"])) for name, one in values.items()},
        dtypes={name: _dtype(one["dtype"]) for name, one in values.items()},
    )


def _call(node: Mapping[str, Any]) -> Call:
    words = str(node["target"]).removesuffix(".default").split(".")
    operator = _operator(str(node["target"]))
    if operator is None and not _NOT_CALLED.fullmatch(str(node["target"])):
        raise _RefusedError(
            f"calls what is no operator of PyTorch ({str(node['target'])[:80]!r}) and was not opened"
        )
    return Call(
        name=_name(node.get("name") or words[-1]),
        word=words[-1] if operator is None else operator._opname,
        operator=operator,
        arguments=[(str(one["name"]), _argument(one["arg"])) for one in node["inputs"]],
        outputs=[name for one in node["outputs"] for name in _names(_argument(one))],
    )


@functools.cache
def _operator(target: str) -> Any:
    """An operator of PyTorch's own that computes tensors from tensors and opens no file; None for others."""
    import torch

    found = re.fullmatch(r"torch\.ops\.aten\.(\w+)\.(\w+)", target)
    if found is None:
        return None
    name, overload = found.groups()
    for schema in torch._C._jit_get_schemas_for_operator(f"aten::{name}"):
        types = [str(one.type) for one in (*schema.arguments, *schema.returns)]
        opens = any(one.name == "filename" for one in schema.arguments)
        of_tensors = any("Tensor" in word for word in types) and not opens
        if of_tensors and (schema.overload_name or "default") == overload:
            return getattr(getattr(torch.ops.aten, name), overload)
    return None


def _argument(argument: Mapping[str, Any]) -> Any:
    """What is handed to an operator, or what it makes."""
    ((kind, value),) = argument.items()
    if kind == "as_graph":
        return _body(value["graph"])
    if kind not in _ARGUMENTS:
        raise _RefusedError(f"holds what is not read ({str(kind)[:80]}) and was not opened")
    return _ARGUMENTS[kind](value)


def _each(read: Callable[[Any], Any]) -> Callable[[Any], list[Any]]:
    return lambda values: [read(one) for one in values]


def _named(value: Mapping[str, Any]) -> Tensor:
    return Tensor(_name(value["name"]))


def _symbolic(value: Mapping[str, Any]) -> Any:
    """A number that is known, or the name of one that is not."""
    return Tensor(_name(value["as_name"])) if "as_name" in value else next(iter(value.values()))


def _one_of(names: Mapping[int, str], what: str) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        import torch

        if type(value) is not int or value not in names:
            raise _RefusedError(f"holds a {what} that is not read ({str(value)[:80]!r}) and was not opened")
        return getattr(torch, names[value])

    return read


_dtype = _one_of(_DTYPES, "type")


def _device(value: Any) -> Any:
    import torch

    return torch.device("cpu")


_ARGUMENTS: dict[str, Callable[[Any], Any]] = {
    "as_none": lambda value: None,
    "as_tensor": _named,
    "as_tensors": _each(_named),
    "as_nested_tensors": _each(_each(_named)),
    "as_optional_tensor": lambda value: _argument(value),
    "as_optional_tensors": _each(lambda value: _argument(value)),
    **{f"as_sym_{kind}": _symbolic for kind in ("int", "float", "bool")},
    **{f"as_sym_{kind}s": _each(_symbolic) for kind in ("int", "float", "bool")},
    "as_scalar_type": _dtype,
    "as_memory_format": _one_of(_MEMORY_FORMATS, "memory format"),
    "as_layout": _one_of({7: "strided"}, "layout"),
    "as_device": _device,
    "as_float": float,
    "as_floats": _each(float),
    "as_complex": lambda value: complex(float(value["real"]), float(value["imag"])),
    **dict.fromkeys(
        ("as_int", "as_ints", "as_int_lists", "as_float_lists", "as_bool", "as_bools", "as_string"),
        lambda value: value,
    ),
    "as_strings": lambda value: value,
}


def _names(value: Any) -> list[str]:
    """The name of a tensor or of a size, or those of a list; "" for what is neither."""
    if isinstance(value, list):
        return [name for one in value for name in _names(one)]
    return [value if isinstance(value, Tensor) else ""]


def _output(argument: Mapping[str, Any]) -> str:
    return (_names(_argument(argument)) or [""])[0]


def _open_size(value: Mapping[str, Any]) -> int | None:
    """A size, None where it is an expression."""
    if "as_expr" not in value:
        return _size(value)
    text = value["as_expr"]["expr_str"]
    if not isinstance(text, str) or len(text) > 1000 or not _EXPRESSION.fullmatch(text):
        raise _RefusedError(f"holds a size that is not read ({str(text)[:80]!r}) and was not opened")
    return None


def _name(word: Any) -> str:
    if not isinstance(word, str) or not _NAME.fullmatch(word):
        raise _RefusedError(f"holds a name of no exported program ({str(word)[:80]!r}) and was not opened")
    return word
