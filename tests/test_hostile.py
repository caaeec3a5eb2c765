"""What is absurd or damaged ends in one line, before memory is taken."""

from __future__ import annotations

import struct

import numpy as np
import pytest

import convspectra as cs
from convspectra import InputError
from convspectra.analysis import analyze
from convspectra.errors import CostError, GeometryError, ModelError
from convspectra.krylov import largest
from convspectra.models import ConvLayer, Model, graphs
from convspectra.models.geometry_file import load
from convspectra.models.operations import Refused
from convspectra.models.reading import reading
from convspectra.operators.reference import dense_operator

KERNEL = np.random.default_rng(0).standard_normal((2, 3, 3, 3))
HUGE = cs.ConvGeometry((20_000, 20_000), padding=1)
ABSURD = [
    cs.ConvGeometry((2**31, 2**31)),
    cs.ConvGeometry((8, 8), dilation=2**40, padding=2**41),
    cs.ConvGeometry((2**20, 2**20), stride=2**20, padding_mode="circular"),
]


@pytest.mark.parametrize(
    "error",
    [
        RecursionError(),
        MemoryError(),
        struct.error("x"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"),
        KeyError("x"),
        GeometryError("x"),
        type("PanicException", (BaseException,), {})("x"),
    ],
)
def test_any_error_of_a_reader_names_file_and_format_and_keeps_its_cause(error, tmp_path):
    path = tmp_path / "name"
    with pytest.raises(ModelError, match=r"name.*onnx") as found, reading(path, "onnx"):
        raise error
    assert found.value.__cause__ is error


@pytest.mark.parametrize("error", [InputError("what to do"), KeyboardInterrupt()])
def test_what_is_no_fault_of_the_file_passes(error, tmp_path):
    with pytest.raises(type(error)) as found, reading(tmp_path / "name", "onnx"):
        raise error
    assert found.value is error


@pytest.mark.parametrize("geometry", ABSURD)
def test_an_absurd_geometry_is_refused_with_an_estimate(geometry):
    on_torus = geometry.on_torus()
    for function, wanted in (
        (cs.singular_values, on_torus),
        (cs.operator_norm, geometry),
        (lambda kernel, given: largest(kernel, given, 1), geometry),
        (dense_operator, geometry),
    ):
        with pytest.raises(CostError, match=r"GiB|beyond what can be computed"):
            function(KERNEL, wanted)


def test_what_a_huge_map_has_in_closed_form_is_given():
    for function, wanted in ((cs.singular_values, HUGE.on_torus()), (dense_operator, HUGE)):
        with pytest.raises(CostError, match="GiB"):
            function(KERNEL, wanted)
    bound = cs.operator_norm(KERNEL, HUGE)
    small = cs.operator_norm(KERNEL, cs.ConvGeometry((64, 64), padding=1))
    assert float(small.lower) <= float(bound.lower) <= float(bound.upper) <= 1.01 * float(bound.lower)


def test_padding_beyond_memory_is_refused():
    with pytest.raises(CostError, match=r"GiB|beyond what can be computed"):
        cs.operator_norm(KERNEL, cs.ConvGeometry((8, 8), padding=10**9))


@pytest.mark.parametrize("geometry", ABSURD)
def test_an_absurd_layer_is_named_and_the_others_are_analysed(geometry):
    plain = cs.ConvGeometry((4, 4), padding=1)
    layers = [
        ConvLayer(name, "conv2d", KERNEL, "OIHW", given) for name, given in (("a", geometry), ("b", plain))
    ]
    absurd, fine = analyze(Model("m", "onnx", tuple(layers))).layers
    assert absurd.status in ("failed", "partial")
    assert "no torus spectrum" in absurd.reason
    assert fine.status == "ok"


@pytest.mark.parametrize("text", ["input_shape = " + "[" * 5000, "stride = " + "9" * 5000, "x = \xff"])
def test_geometry_files_of_any_kind_end_in_one_line(text, tmp_path):
    path = tmp_path / "g.toml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=r"g\.toml"):
        load(path)


def test_a_file_of_too_many_layers_is_refused(tmp_path, monkeypatch):
    from safetensors.numpy import save_file

    from convspectra.models import read

    save_file({f"l{i}.weight": np.ones((1, 1), np.float32) for i in range(12)}, tmp_path / "m.safetensors")
    assert len(read.read_model(tmp_path / "m.safetensors").layers) == 12
    monkeypatch.setattr(read, "MAX_LAYERS", 11)
    with pytest.raises(ModelError, match="holds 12 layers; at most 11"):
        read.read_model(tmp_path / "m.safetensors")


@pytest.fixture
def moving_graph(tmp_path):
    """Reads a graph that transposes a map of 8 x 8 twice, after a node that moves nothing."""
    onnx = pytest.importorskip("onnx")
    from onnx import helper

    nodes = [helper.make_node("Identity", ["x"], ["v0"])]
    nodes += [helper.make_node("Transpose", [f"v{i}"], [f"v{i + 1}"], perm=[0, 1, 3, 2]) for i in range(2)]
    kind = helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [1, 1, 8, 8])
    values = [helper.make_value_info(name, kind) for name in ("x", "v2")]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:])), tmp_path / "m.onnx")
    return lambda: graphs.read_graph(tmp_path / "m.onnx").nodes


def test_what_a_graph_moves_is_bounded_in_all(moving_graph, monkeypatch):
    """A file of 1 KB can declare maps of a GB, and each node that moves one keeps as much."""
    monkeypatch.setattr(graphs, "MOVED_ENTRIES", 128)
    assert not any(isinstance(node.operation, Refused) for node in moving_graph())
    monkeypatch.setattr(graphs, "MOVED_ENTRIES", 127)  # one reads 64 and makes 64
    first, *others = moving_graph()
    assert not isinstance(first.operation, Refused)
    assert all("127 entries" in node.operation.reason for node in others)


def test_what_moves_nothing_takes_no_memory(moving_graph):
    first, second, _ = moving_graph()
    assert "index" not in vars(first.operation)
    assert "index" in vars(second.operation)
