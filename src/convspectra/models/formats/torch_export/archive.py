"""Archives of `torch.export.save`, taken apart and written anew before PyTorch sees them.

PyTorch's loader unpickles what an archive asks it to, imports what its JSON names, evaluates sizes that are
expressions, and makes Python source of the names of nodes. So nothing of a file is handed on as it is: the
entries are an exact list, of their JSON only known fields are kept, every word in them is checked, and a
fresh archive is made of what is left. What only describes (stack traces, sample inputs, extra files) is left
out.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ....errors import ModelError

_ENTRIES = re.compile(
    r"models/model\.json|data/weights/(model_weights_config\.json|weight_\d+)"
    r"|data/constants/(model_constants_config\.json|tensor_\d+)|data/sample_inputs/model\.pt|archive_format"
    r"|archive_version|(\.data/)?version|byteorder|\.data/serialization_id|\.format_version"
    r"|\.storage_alignment|extra/[\w./-]+"
)
_PAYLOADS = {"weights": "weight_", "constants": "tensor_"}
_SYMBOL = r"[a-z]{1,4}\d{1,5}"
# All that a size can be made of, printed or as `sympy.srepr` writes it. It is evaluated: nothing can be
# called but these functions, and powers are only of one symbol.
_SYMBOLS = rf"({_SYMBOL}|Symbol\('{_SYMBOL}'(, [a-z_]+=(True|False))*\))"
_FUNCTIONS = (
    *(
        "FloorDiv",
        "CeilDiv",
        "CleanDiv",
        "Mod",
        "PythonMod",
        "ModularIndexing",
        "Max",
        "Min",
        "Eq",
        "Ne",
        "Ge",
        "Gt",
    ),
    *(
        "Le",
        "Lt",
        "floor",
        "ceiling",
        "Identity",
        "ToFloat",
        "TruncToInt",
        "IntTrueDiv",
        "Add",
        "Mul",
        "Equality",
    ),
    *("Unequality", "GreaterThan", "LessThan", "StrictGreaterThan", "StrictLessThan", "And", "Or", "Not"),
)
_EXPRESSION = re.compile(
    rf"([-+/(),<>=&|~ ]|\*(?!\*)|{_SYMBOLS}\*\*\d(?!\d)|Pow\({_SYMBOLS}, Integer\(-?\d\)\)|{_SYMBOLS}(?!\w)"
    rf"|\d{{1,19}}(?!\w)|Integer\(-?\d{{1,19}}\)|({'|'.join(_FUNCTIONS)})(?=\())+"
)
_OTHER_TARGETS = {
    *(f"_operator.{name}" for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "getitem")),
    *(f"_operator.{name}" for name in ("eq", "ne", "le", "lt", "ge", "gt", "and_", "or_", "truediv")),
    *(f"torch.{name}" for name in ("sym_int", "sym_float", "sym_max", "sym_min", "sym_not", "sym_ite")),
    *(f"math.{name}" for name in ("ceil", "floor", "trunc")),
    *(
        f"torch.ops.higher_order.{name}"
        for name in ("wrap_with_set_grad_enabled", "wrap_with_autocast", "cond")
    ),
    *(f"torch.ops.aten.sym_constrain_range{name}.default" for name in ("", "_for_size")),
    "torch.ops.aten._assert_scalar.default",
}
# Constant entries that the tensors of a program may have beside those that lie in the file (expanded ones).
_LARGEST_EXPANDED = 2**26


def checked(path: Path) -> io.BytesIO:
    """An archive that PyTorch can load, with the graph and the tensors of the one in `path` and nothing else.

    Raises:
        ModelError: it is no archive of `torch.export.save`, or holds what is not read: compiled code, pickled
            objects, several programs, a name or an operator that a graph of PyTorch's own operators lacks.
    """
    try:
        with zipfile.ZipFile(path) as source:
            return _rewritten(source, path)
    except (zipfile.BadZipFile, NotImplementedError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is not an exported program, or it is damaged: {error!r}") from error
    except _RefusedError as error:
        raise ModelError(f"{path} {error}") from error


class _RefusedError(Exception):
    """What is wrong with an archive, as the rest of a sentence about it."""


def _rewritten(source: zipfile.ZipFile, path: Path) -> io.BytesIO:
    entries = _entries(source, path.stat().st_size)
    for needed in ("archive_format", "models/model.json"):
        if needed not in entries:
            raise _RefusedError("is not a program saved by torch.export.save of PyTorch 2.8 or newer")
    made, total = io.BytesIO(), path.stat().st_size
    with zipfile.ZipFile(made, "w") as target:

        def write(name: str, data: bytes | str) -> None:
            target.writestr(zipfile.ZipInfo(f"checked/{name}"), data)

        write("archive_format", "pt2")
        write("archive_version", "0")
        write(".data/version", "6\n")
        write("byteorder", "little")
        write("data/sample_inputs/model.pt", b"")
        write("models/model.json", json.dumps(_program(_json(source, entries["models/model.json"]))))
        for folder, prefix in _PAYLOADS.items():
            name = f"data/{folder}/model_{folder}_config.json"
            config = _json(source, entries[name]) if name in entries else {"config": {}}
            payloads, total = _payloads(config, folder, prefix, entries, total)
            write(name, json.dumps({"config": payloads}))
            for stored in sorted({payload["path_name"] for payload in payloads.values()}):
                write(f"data/{folder}/{stored}", source.read(entries[f"data/{folder}/{stored}"]))
    made.seek(0)
    return made


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


def _payloads(
    config: Any, folder: str, prefix: str, entries: Mapping[str, zipfile.ZipInfo], room: int
) -> tuple[dict[str, Any], int]:
    """The tensors of a folder, all of them raw bytes that are there, and the room left for expanded ones."""
    found = {}
    for name, payload in config["config"].items():
        stored = str(payload["path_name"])
        if payload["use_pickle"] is not False or not re.fullmatch(prefix + r"\d+", stored):
            raise _RefusedError(f"holds a pickled object ({str(name)[:80]}) and was not opened")
        if f"data/{folder}/{stored}" not in entries:
            raise _RefusedError(f"is damaged: the values of {str(name)[:80]!r} are missing")
        meta = _clean(payload["tensor_meta"], "tensor_meta")
        sizes, strides = ([_size(one) for one in meta[field]] for field in ("sizes", "strides"))
        offset, held = _size(meta["storage_offset"]), entries[f"data/{folder}/{stored}"].file_size
        last = offset + sum((n - 1) * stride for n, stride in zip(sizes, strides, strict=False))
        count: int = math.prod(sizes)
        if len(sizes) != len(strides) or (count and last >= held):
            raise _RefusedError(f"is damaged: {str(name)[:80]!r} ends beyond its values")
        room -= count
        if room < -_LARGEST_EXPANDED:
            raise _RefusedError(f"declares more entries than it holds (in {str(name)[:80]!r})")
        is_parameter = payload["is_param"] is True
        found[_stored_name(name)] = {
            "path_name": stored,
            "is_param": is_parameter,
            "use_pickle": False,
            "tensor_meta": meta,
        }
    return found, room


def _size(value: Any) -> int:
    size = value["as_int"]
    if type(size) is not int or not 0 <= size < 2**62:
        raise _RefusedError(f"is damaged: a tensor has size {size!r}")
    return size


def _program(data: Any) -> dict[str, Any]:
    """The program's JSON of known fields and checked words alone; it takes plain tensors in a row."""
    module = data["graph_module"]
    signature = _clean(module["signature"], "signature")
    graph = _clean(module["graph"], "graph")
    inputs = [spec for spec in signature["input_specs"] if spec.keys() & {"user_input", "constant_input"}]
    outputs = sum("user_output" in spec for spec in signature["output_specs"])
    arguments = _spec("tuple", [_spec("tuple", [_LEAF] * len(inputs)), _spec("dict", [], context="[]")])
    root = {
        "inputs": [],
        "outputs": [],
        "in_spec": json.dumps([1, arguments]),
        "out_spec": json.dumps([1, _spec("tuple", [_LEAF] * outputs)]),
        "forward_arg_names": [_input_name(spec, at) for at, spec in enumerate(inputs)],
    }
    return {
        "graph_module": {
            "graph": graph,
            "signature": signature,
            "module_call_graph": [{"fqn": "", "signature": root}],
            "metadata": {},
            "treespec_namedtuple_fields": {},
        },
        "opset_version": {"aten": _whole(data["opset_version"]["aten"])},
        "range_constraints": {
            _matching(_SYMBOL)(symbol): {end: _whole(one[end]) for end in ("min_val", "max_val")}
            for symbol, one in data.get("range_constraints", {}).items()
        },
        "schema_version": {part: _whole(data["schema_version"][part]) for part in ("major", "minor")},
        "verifiers": ["TRAINING"],
        "torch_version": "",
        "guards_code": [],
    }


_LEAF: dict[str, Any] = {"type": None, "context": None, "children_spec": []}


def _input_name(spec: Any, at: int) -> str:
    argument = spec.get("user_input", {}).get("arg", {}).get("as_tensor", spec.get("constant_input", {}))
    return str(argument.get("name") or f"input_{at}")


def _spec(kind: str, children: list[Any], context: str = "null") -> dict[str, Any]:
    return {"type": f"builtins.{kind}", "context": context, "children_spec": children}


def _whole(value: Any) -> int | None:
    if value is None or type(value) is int:
        return value
    raise _RefusedError(f"is damaged: {str(value)[:80]!r} is no whole number")


def _matching(pattern: str) -> Callable[[Any], str]:
    """A check that a word is of this form."""
    form = re.compile(pattern)

    def check(word: Any) -> str:
        if not isinstance(word, str) or not form.fullmatch(word):
            raise _RefusedError(
                f"holds a name of no exported program ({str(word)[:80]!r}) and was not opened"
            )
        return word

    return check


_name = _matching(r"[A-Za-z_][A-Za-z0-9_]{0,400}|")
_stored_name = _matching(r"[\w./:@+-]{1,400}")


def _expression(text: Any) -> str:
    short = isinstance(text, str) and len(text) <= 1000 and text.count("(") <= 50 and text.count("**") <= 5
    if not short or not _EXPRESSION.fullmatch(text):
        raise _RefusedError(f"holds a size that is not read ({str(text)[:80]!r}) and was not opened")
    return str(text)


def _operator(target: Any) -> str:
    """An operator of PyTorch's own that computes tensors from tensors and opens no file."""
    if target in _OTHER_TARGETS:
        return str(target)
    import torch

    found = re.fullmatch(r"torch\.ops\.aten\.(\w+)\.(\w+)", str(target))
    if found:
        overload = "" if found[2] == "default" else found[2]
        for schema in torch._C._jit_get_schemas_for_operator(f"aten::{found[1]}"):
            types = [str(one.type) for one in (*schema.arguments, *schema.returns)]
            opens = any(one.name == "filename" for one in schema.arguments)
            if schema.overload_name == overload and not opens and any("Tensor" in word for word in types):
                return str(target)
    raise _RefusedError(f"calls what is no operator of PyTorch ({str(target)[:80]!r}) and was not opened")


def _text(value: Any) -> str:
    """A value that stays a value, such as the mode of a padding."""
    return str(value)[:1000]


# Fields that hold words, with their checks; `_MAPS` have names for keys; all else holds numbers or fields.
_WORDS: dict[str, Callable[[Any], str]] = {
    **dict.fromkeys(("name", "as_name"), _name),
    **dict.fromkeys(("target", "as_operator"), _operator),
    **dict.fromkeys(("as_string", "as_strings"), _text),
    **dict.fromkeys(("as_float", "as_floats", "real", "imag"), _matching("-?Infinity|NaN")),
    **dict.fromkeys(
        ("parameter_name", "buffer_name", "tensor_constant_name", "user_input_name"), _stored_name
    ),
    "expr_str": _expression,
}
_MAPS = ("tensor_values", "sym_int_values", "sym_bool_values", "sym_float_values", "as_string_to_argument")
_FIELDS = {
    *_WORDS,
    *_MAPS,
    *("inputs", "outputs", "nodes", "is_single_tensor_return", "is_hop_single_tensor_return", "arg", "kind"),
    *("dtype", "sizes", "requires_grad", "device", "strides", "storage_offset", "layout", "hint", "as_expr"),
    *(
        "input_specs",
        "output_specs",
        "user_input",
        "parameter",
        "buffer",
        "tensor_constant",
        "constant_input",
    ),
    *("user_output", "loss_output", "buffer_mutation", "parameter_mutation", "user_input_mutation"),
    *("persistent", "value", "graph", "as_graph", "as_none", "as_tensor", "as_tensors", "as_int", "as_ints"),
    *("as_float", "as_floats", "as_bool", "as_bools", "as_scalar_type", "as_memory_format", "as_layout"),
    *("as_device", "as_sym_int", "as_sym_ints", "as_sym_bool", "as_sym_bools", "as_sym_float"),
    *("as_sym_floats", "as_optional_tensor", "as_optional_tensors", "as_nested_tensors", "as_int_lists"),
    *("as_float_lists", "as_complex", "real", "imag"),
}
_REFUSED = ("as_custom_obj", "custom_obj", "token", "gradient_to_parameter", "gradient_to_user_input")
_CPU = {"type": "cpu", "index": None}


def _clean(value: Any, field: str) -> Any:
    """A copy of what a field holds, without fields that are not known."""
    if field in ("device", "as_device"):
        return None if value is None else _CPU
    if isinstance(value, dict):
        if field in _MAPS:
            return {_name(key): _clean(one, "") for key, one in value.items()}
        refused = [key for key in _REFUSED if key in value]
        if refused:
            raise _RefusedError(f"holds what is not read ({refused[0]}) and was not opened")
        made = {key: _clean(one, key) for key, one in value.items() if key in _FIELDS}
        return {**made, "metadata": {}} if "target" in made else made
    if isinstance(value, list):
        return [_clean(one, field) for one in value]
    if isinstance(value, str):
        check = _WORDS.get(field, _name)
        return check(value)
    return value
