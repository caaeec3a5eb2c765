"""ONNX files: what the reader says of a layer is what onnxruntime computes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from convspectra import InputError, ModelError
from convspectra.analysis import analyze
from convspectra.cli.options import shapes_of
from convspectra.models import read_model
from convspectra.models.graphs import read_graph
from convspectra.operators.reference import dense_operator

RNG = np.random.default_rng(0)
FLOAT = TensorProto.FLOAT


def tensor(name, shape):
    return numpy_helper.from_array(RNG.standard_normal(shape).astype(np.float32), name)


def save(path, nodes, weights, shape, out="y", **options):
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info(out, FLOAT, None)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], **options)
    model.ir_version = 9
    onnx.save(model, path)
    return path


def node(operator, inputs, output="y", **attributes):
    return helper.make_node(operator, inputs, [output], name=f"{operator}_{output}", **attributes)


CASES = {
    "plain": ((4, 3, 3, 3), [1, 3, 7, 6], "Conv", {}),
    "strided": ((4, 3, 3, 3), [1, 3, 7, 6], "Conv", {"strides": [2, 1], "pads": [1, 0, 2, 1]}),
    "dilated": ((4, 3, 3, 2), [1, 3, 7, 6], "Conv", {"dilations": [2, 3], "pads": [2, 2, 2, 2]}),
    "grouped": ((4, 2, 3, 3), [1, 4, 5, 5], "Conv", {"group": 2, "pads": [1, 1, 1, 1]}),
    "same upper": ((2, 3, 4, 3), [1, 3, 7, 6], "Conv", {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "same lower": ((2, 3, 4, 3), [1, 3, 7, 6], "Conv", {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    "valid": ((2, 3, 3, 3), [1, 3, 7, 6], "Conv", {"auto_pad": "VALID"}),
    "one axis": ((4, 3, 5), [1, 3, 9], "Conv", {"strides": [3], "pads": [2, 2]}),
    "three axes": ((2, 3, 2, 3, 2), [1, 3, 4, 5, 3], "Conv", {"strides": [1, 2, 1]}),
    "transposed": (
        (3, 2, 3, 3),
        [1, 3, 4, 3],
        "ConvTranspose",
        {"strides": [2, 3], "pads": [1, 0, 1, 1], "output_padding": [1, 2]},
    ),
    "transposed, grouped": ((4, 2, 3), [1, 4, 5], "ConvTranspose", {"group": 2, "strides": [2]}),
    "transposed, same upper": (
        (3, 2, 4),
        [1, 3, 5],
        "ConvTranspose",
        {"auto_pad": "SAME_UPPER", "strides": [3]},
    ),
    "transposed, output shape": (
        (3, 2, 4),
        [1, 3, 5],
        "ConvTranspose",
        {"output_shape": [13], "strides": [3]},
    ),
}


def runs_as(path, layer, shape):
    """Assert that the dense operator of a layer is what onnxruntime makes of a random input."""
    runtime = pytest.importorskip("onnxruntime")
    x = RNG.standard_normal(shape).astype(np.float32)
    (y,) = runtime.InferenceSession(path).run(None, {"x": x})
    ours = dense_operator(layer.kernel, layer.geometry) @ x.ravel()
    assert ours.size == y.size
    np.testing.assert_allclose(ours, y.ravel(), atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_geometry_is_what_the_runtime_computes(case, tmp_path):
    shape, size, operator, attributes = CASES[case]
    path = save(tmp_path / "m.onnx", [node(operator, ["x", "w"], **attributes)], [tensor("w", shape)], size)
    (layer,) = read_model(path).layers
    assert layer.assumed == ()
    assert layer.kind == f"conv{'_transpose' if operator == 'ConvTranspose' else ''}{len(size) - 2}d"
    runs_as(path, layer, size)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
@pytest.mark.parametrize("own", [[0, 0, 0, 0], [1, 1, 0, 1]])
def test_a_pad_before_a_convolution_is_part_of_it(mode, own, tmp_path):
    amounts = numpy_helper.from_array(np.array([0, 0, 1, 2, 0, 0, 2, 1], dtype=np.int64), "amounts")
    nodes = [node("Pad", ["x", "amounts"], "p", mode=mode), node("Conv", ["p", "w"], pads=own)]
    path = save(tmp_path / "m.onnx", nodes, [amounts, tensor("w", (2, 3, 3, 3))], [1, 3, 6, 5])
    model = read_model(path)
    if mode != "constant" and any(own):
        assert "Pad node" in model.notes[0]
        return
    runs_as(path, model.layers[0], [1, 3, 6, 5])


@pytest.mark.parametrize(("mode", "amount"), [("edge", 2), ("edge", 5), ("wrap", 2), ("reflect", 1)])
def test_a_pad_as_wide_as_the_input_is_part_of_a_convolution(mode, amount, tmp_path):
    amounts = numpy_helper.from_array(np.array([0, 0, amount] * 2, dtype=np.int64), "amounts")
    nodes = [node("Pad", ["x", "amounts"], "p", mode=mode), node("Conv", ["p", "w"])]
    path = save(tmp_path / "m.onnx", nodes, [amounts, tensor("w", (2, 3, 2))], [1, 3, 2])
    (layer,) = read_model(path).layers
    assert layer.geometry.padding == ((amount, amount),)
    runs_as(path, layer, [1, 3, 2])


@pytest.mark.parametrize("attributes", [{}, {"transB": 1}, {"alpha": 0.5, "transB": 1}])
def test_linear_layers(attributes, tmp_path):
    shape = (5, 7) if "transB" in attributes else (7, 5)
    path = save(tmp_path / "m.onnx", [node("Gemm", ["x", "w"], **attributes)], [tensor("w", shape)], [1, 7])
    (layer,) = read_model(path).layers
    assert (layer.kind, layer.kernel.shape) == ("linear", (5, 7, 1))
    runs_as(path, layer, [1, 7])
    path = save(tmp_path / "n.onnx", [node("MatMul", ["x", "w"])], [tensor("w", (7, 5))], [1, 7])
    (layer,) = read_model(path).layers
    runs_as(path, layer, [1, 7])


def test_batch_norm_scale_is_found_only_where_nothing_else_reads_the_convolution(tmp_path):
    weights = [
        tensor("w", (4, 3, 3, 3)),
        *(numpy_helper.from_array(RNG.uniform(0.5, 2, 4).astype(np.float32), name) for name in "gbmv"),
    ]
    chain = [node("Conv", ["x", "w"], "c"), node("Identity", ["c"], "i")]
    norm = node("BatchNormalization", ["i", "g", "b", "m", "v"], epsilon=0.25)
    gamma, variance = (numpy_helper.to_array(weights[i]) for i in (1, 4))
    path = save(tmp_path / "m.onnx", [*chain, norm], weights, [1, 3, 6, 6])
    (layer,) = read_model(path).layers
    np.testing.assert_allclose(layer.batch_norm_scale, gamma / np.sqrt(variance + 0.25), rtol=1e-6)
    both = [*chain, node("BatchNormalization", ["i", "g", "b", "m", "v"], "n"), node("Add", ["c", "n"])]
    path = save(tmp_path / "n.onnx", both, weights, [1, 3, 6, 6])
    assert read_model(path).layers[0].batch_norm_scale is None


def test_weights_of_constants_and_of_what_is_made_of_them(tmp_path):
    kernel = tensor("k", (3, 3, 2, 4))
    nodes = [
        helper.make_node("Constant", [], ["k"], value=kernel),
        node("Transpose", ["k"], "w", perm=[3, 2, 0, 1]),
        node("Conv", ["x", "w"]),
    ]
    path = save(tmp_path / "m.onnx", nodes, [], [1, 2, 5, 5])
    (layer,) = read_model(path).layers
    np.testing.assert_array_equal(layer.kernel, np.transpose(numpy_helper.to_array(kernel), (3, 2, 0, 1)))


def test_weights_that_are_computed_are_counted_and_named(tmp_path):
    nodes = [node("Relu", ["x"], "w"), node("Conv", ["x", "w"])]
    path = save(tmp_path / "m.onnx", nodes, [], [3, 3, 3, 3])
    model = read_model(path)
    assert model.layers == ()
    assert model.other == {"Relu": 1, "Conv": 1}
    (unread,) = model.unread
    assert (unread.name, unread.reason) == ("Conv Conv_y", "its weights are computed at run time")


def test_layers_inside_branches_are_found_under_names_of_their_own(tmp_path):
    value = helper.make_tensor_value_info
    branches = {}
    for name in ("then_branch", "else_branch"):
        branches[name] = helper.make_graph(
            [node("Conv", ["x", f"{name}.weight"], name)],
            name,
            [],
            [value(name, FLOAT, None)],
            [tensor(f"{name}.weight", (2, 3, 3, 3))],
        )
    condition = numpy_helper.from_array(np.array(True), "condition")
    path = save(tmp_path / "m.onnx", [node("If", ["condition"], **branches)], [condition], [1, 3, 6, 6])
    model = read_model(path)
    assert [layer.name for layer in model.layers] == ["else_branch", "then_branch"] or [
        layer.name for layer in model.layers
    ] == ["then_branch", "else_branch"]
    assert {layer.geometry.input_shape for layer in model.layers} == {(6, 6)}
    assert model.other == {"If": 1}


def test_shared_weights_have_one_row_a_use_and_a_note(tmp_path):
    nodes = [
        node("Conv", ["x", "w.weight"], "a", pads=[1] * 4),
        node("Conv", ["a", "w.weight"], pads=[1] * 4),
    ]
    path = save(tmp_path / "m.onnx", nodes, [tensor("w.weight", (3, 3, 3, 3))], [1, 3, 6, 6])
    model = read_model(path)
    assert [layer.name for layer in model.layers] == ["w", "w#2"]
    assert "same weights" in model.notes[0]


def test_open_sizes_need_a_sample_shape(tmp_path):
    path = save(
        tmp_path / "m.onnx",
        [node("Conv", ["x", "w"])],
        [tensor("w", (4, 3, 3, 3))],
        ["batch", 3, "height", "width"],
    )
    (layer,) = read_model(path).layers
    assert layer.geometry is None
    assert "sample_shape" in layer.reason
    (layer,) = read_model(path, sample_shape=(3, 9, 8)).layers
    assert layer.geometry.input_shape == (9, 8)
    with pytest.raises(InputError, match="fits 0 inputs"):
        read_model(path, sample_shape=(3, 9))
    fixed = save(tmp_path / "f.onnx", [node("Conv", ["x", "w"])], [tensor("w", (4, 3, 3, 3))], [1, 3, 6, 6])
    with pytest.raises(InputError, match="contradicts the graph"):
        read_model(fixed, sample_shape=(3, 9, 9))


def test_sizes_behind_computed_padding_are_worked_out(tmp_path):
    zeros = numpy_helper.from_array(np.zeros(2, dtype=np.int64), "zeros")
    two = numpy_helper.from_array(np.array([2, 2], dtype=np.int64), "two")
    nodes = [
        node("Add", ["two", "two"], "four"),
        node("Concat", ["zeros", "two", "zeros", "four"], "amounts", axis=0),
        node("Pad", ["x", "amounts"], "p"),
        node("Relu", ["p"], "r"),
        node("Conv", ["r", "w"]),
    ]
    path = save(tmp_path / "m.onnx", nodes, [zeros, two, tensor("w", (4, 3, 3, 3))], [1, 3, 6, 6])
    (layer,) = read_model(path).layers
    assert layer.geometry.input_shape == (12, 12)
    assert read_model(path).other == {"Add": 1, "Concat": 1, "Pad": 1, "Relu": 1}


def external(tmp_path, location):
    path = save(tmp_path / "m.onnx", [node("Conv", ["x", "w"])], [tensor("w", (4, 3, 3, 3))], [1, 3, 6, 6])
    model = onnx.load(path)
    weight = model.graph.initializer[0]
    data = weight.raw_data
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, text in (("location", location), ("offset", "0"), ("length", str(len(data)))):
        weight.external_data.add(key=key, value=text)
    path.write_bytes(model.SerializeToString())
    return path, data


def test_external_data_inside_the_folder_is_read(tmp_path):
    path, data = external(tmp_path, "weights.bin")
    with pytest.raises(ModelError, match=r"'weights\.bin' of tensor 'w' is missing"):
        read_model(path)
    (tmp_path / "weights.bin").write_bytes(data)
    assert read_model(path).layers[0].kernel.tobytes() == data


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", "link/weights.bin", ""])
def test_external_data_outside_the_folder_is_refused(location, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    path, data = external(folder, location)
    (tmp_path / "weights.bin").write_bytes(data)
    with pytest.raises(ModelError, match="'w' points outside of the model's folder"):
        read_model(path)


def test_damaged_files_are_refused(tmp_path):
    path = save(tmp_path / "m.onnx", [node("Conv", ["x", "w"])], [tensor("w", (4, 3, 3, 3))], [1, 3, 6, 6])
    whole = path.read_bytes()
    for cut in range(1, len(whole), 37):
        path.write_bytes(whole[:cut])
        with pytest.raises(ModelError, match=r"m\.onnx"):
            read_model(path)
    model = onnx.load_from_string(whole)
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:100]
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="holds 100 of 432 bytes"):
        read_model(path)


def test_an_input_too_small_for_a_valid_convolution_fails_there(tmp_path):
    path = save(
        tmp_path / "m.onnx",
        [node("Conv", ["x", "w"])],
        [tensor("w", (4, 3, 5, 5))],
        [1, 3, "height", "width"],
    )
    (layer,) = analyze(read_model(path, sample_shape=(3, 3, 3))).layers
    assert layer.status == "failed"
    assert "no output point" in layer.reason


def test_half_precision_weights_are_read(tmp_path):
    kernel = RNG.standard_normal((4, 3, 3, 3)).astype(np.float16)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node("Conv", ["x", "w"])],
        "half",
        [value("x", TensorProto.FLOAT16, [1, 3, 6, 6])],
        [value("y", TensorProto.FLOAT16, None)],
        [numpy_helper.from_array(kernel, "w")],
    )
    onnx.save(helper.make_model(graph), tmp_path / "half.onnx")
    report = analyze(read_model(tmp_path / "half.onnx"), dtype="kernel")
    assert report.layers[0].spectrum.values.dtype == np.float32


def two_inputs(tmp_path, first, second):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node("Conv", ["a", "w"], "y"), node("Conv", ["b", "v"], "z")],
        "two",
        [value("a", FLOAT, first), value("b", FLOAT, second)],
        [value("y", FLOAT, None), value("z", FLOAT, None)],
        [tensor("w", (4, 3, 3, 3)), tensor("v", (2, 3, 3, 3))],
    )
    path = tmp_path / "two.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def sizes(path, sample_shape=None):
    model = read_model(path, sample_shape=sample_shape)
    return [None if layer.geometry is None else layer.geometry.input_shape for layer in model.layers]


@pytest.mark.parametrize("size", [-1, 0, "h", None])
@pytest.mark.parametrize("stated", [-1, 0, "h", None])
def test_what_a_graph_leaves_open_is_unknown_behind_it_too(size, stated, tmp_path):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node("Conv", ["x", "w"], "c", strides=[2, 2]), node("Relu", ["c"], "r"), node("Conv", ["r", "v"])],
        "open",
        [value("x", FLOAT, [-1, 3, size, size])],
        [value("y", FLOAT, [-1, 2, stated, stated])],
        [tensor("w", (4, 3, 3, 3)), tensor("v", (2, 4, 3, 3))],
        value_info=[value("c", FLOAT, [-1, 4, stated, stated]), value("r", FLOAT, [-1, 4, stated, stated])],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    assert sizes(path) == [None, None]
    assert sizes(path, (3, 17, 13)) == [(17, 13), (8, 6)]
    with pytest.raises(InputError, match=r"is open: give sample_shape"):
        read_graph(path)
    assert read_graph(path, sample_shape=(3, 17, 13)).shapes["y"] == (1, 2, 6, 4)


def test_sizes_stated_behind_an_input_of_another_size_are_dropped(tmp_path):
    nodes = [node("Conv", ["x", "w"], "c"), node("Conv", ["c", "v"])]
    weights = [tensor("w", (4, 3, 3, 3)), tensor("v", (2, 4, 3, 3))]
    path = save(tmp_path / "m.onnx", nodes, weights, ["n", 3, "h", "w"])
    model = onnx.load(path)
    model.graph.value_info.append(helper.make_tensor_value_info("c", FLOAT, ["n", 4, 30, 30]))
    onnx.save(model, path)
    assert sizes(path, (3, 9, 8)) == [(9, 8), (7, 6)]


def test_shapes_go_to_the_inputs_that_they_are_meant_for(tmp_path):
    path = two_inputs(tmp_path, ["n", 3, "h", "w"], ["n", 3, "h2", "w2"])
    with pytest.raises(
        InputError, match=r"fits 2 inputs .* NAME=SHAPE.* a \[n, 3, h, w\], b \[n, 3, h2, w2\]"
    ):
        read_model(path, sample_shape=(3, 8, 8))
    assert sizes(path, {"b": (3, 7, 9)}) == [None, (7, 9)]
    assert sizes(path, {"b": (3, 7, 9), "a": (3, 8, 5)}) == [(8, 5), (7, 9)]
    assert read_graph(path, sample_shape={"b": (3, 7, 9), "a": (3, 8, 5)}).shapes["z"] == (1, 2, 5, 7)
    with pytest.raises(InputError, match="no input 'c'; its inputs are: a"):
        read_model(path, sample_shape={"c": (3, 7, 9)})
    with pytest.raises(InputError, match="leave out the batch, its first axis: sample_shape a=3,8,8"):
        read_model(path, sample_shape={"a": (1, 3, 8, 8)})
    other = two_inputs(tmp_path, ["n", 3, "h", "w"], ["n", "t", 3, "h2", "w2"])
    with pytest.raises(InputError, match="fits 2 inputs"):  # the batch of a, or the t of b
        read_model(other, sample_shape=(1, 3, 8, 8))
    assert sizes(other, (3, 8, 8))[0] == (8, 8)


def test_inputs_without_channels_have_sizes_too(tmp_path):
    axes = numpy_helper.from_array(np.array([1], dtype=np.int64), "axes")
    nodes = [node("Unsqueeze", ["x", "axes"], "u"), node("Conv", ["u", "w"], strides=[4])]
    path = save(tmp_path / "m.onnx", nodes, [axes, tensor("w", (4, 1, 8))], ["batch", "sequence"])
    assert sizes(path) == [None]
    assert sizes(path, (40,)) == [(40,)]
    runs_as(path, read_model(path, sample_shape=(40,)).layers[0], [1, 40])
    with pytest.raises(InputError, match=r"leave out the batch, its first axis: sample_shape 40$"):
        read_model(path, sample_shape=(1, 40))


@pytest.mark.parametrize("shape", ["3,8", 5, (), (3, 0), (3, 8.0), (3, True), {"x": "3"}, {"x": ()}])
def test_sample_shapes_that_are_none_are_refused(shape, tmp_path):
    path = save(
        tmp_path / "m.onnx", [node("Conv", ["x", "w"])], [tensor("w", (4, 3, 3, 3))], [1, 3, "h", "w"]
    )
    for read in (read_model, read_graph):
        with pytest.raises(InputError, match=r"^sample_shape"):
            read(path, sample_shape=shape)


def test_what_the_command_line_says_of_shapes():
    assert shapes_of(None) is None
    assert shapes_of(["3,8,8"]) == (3, 8, 8)
    assert shapes_of(["a=3,8,8", "b:0=5"]) == {"a": (3, 8, 8), "b:0": (5,)}
    for texts in (["3,8", "a=5"], ["a=3", "a=4"], ["=3"], ["a="], ["a=3,0"], ["3", "4"]):
        with pytest.raises(InputError, match="--input-shape"):
            shapes_of(texts)


def test_an_open_graph_beside_weights_takes_their_sample_shape(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    weight = tensor("w", (4, 3, 3, 3))
    save(tmp_path / "m.onnx", [node("Conv", ["x", "w"], strides=[2, 2])], [weight], ["n", 3, "h", "w"])
    safetensors.save_file({"stem.weight": numpy_helper.to_array(weight)}, tmp_path / "m.safetensors")
    (layer,) = read_model(tmp_path / "m.safetensors", sample_shape=(3, 9, 7)).layers
    assert (layer.geometry.input_shape, layer.geometry.stride, layer.assumed) == ((9, 7), (2, 2), ())
    model = read_model(tmp_path / "m.safetensors", sample_shape=(5, 9, 7))
    assert "contradicts the graph" in model.notes[-1]
