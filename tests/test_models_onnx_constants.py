"""ONNX weights that are computed, or stored as integers: the reader has them as the runtime has."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from convspectra import InputError, ModelError
from convspectra.analysis import compare
from convspectra.models import read_model
from convspectra.models.budget import BudgetError
from convspectra.models.graphs import read_graph
from convspectra.network import lipschitz
from convspectra.operators.reference import dense_operator

RNG = np.random.default_rng(0)
FLOAT = TensorProto.FLOAT


def constant(name, value, dtype=np.float32):
    return numpy_helper.from_array(np.asarray(value, dtype=dtype), name)


def normal(name, *shape):
    return constant(name, RNG.standard_normal(shape))


def save(path, nodes, weights, shape=(1, 3, 6, 5), opset=18, functions=(), outputs=("y",)):
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        weights,
    )
    domains = [("", opset), ("com.microsoft", 1), ("own", 1)]
    imports = [helper.make_opsetid(*one) for one in domains]
    model = helper.make_model(graph, opset_imports=imports, functions=functions, ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def node(operator, inputs, output="y", **attributes):
    outputs = output if isinstance(output, list) else [output]
    return helper.make_node(operator, inputs, outputs, name=f"{operator}_{outputs[0]}", **attributes)


def run(path, x, outputs=None):
    runtime = pytest.importorskip("onnxruntime")
    return runtime.InferenceSession(path).run(outputs, {"x": x})


# Integers, their scale for each output channel or one, and a zero point.
STORED = {
    "int8": (np.int8, 0.02, 0),
    "uint8": (np.uint8, 0.02, 131),
    "int8, per channel": (np.int8, [0.01, 0.05, 0.002, 0.03], [0, 0, 0, 0]),
}


def stored(case, *shape):
    kind, scale, zero = STORED[case]
    limits = np.iinfo(kind)
    weight = RNG.integers(limits.min, limits.max + 1, shape).astype(kind)
    return weight, np.asarray(scale, np.float32), np.asarray(zero, kind)


@pytest.mark.parametrize("case", STORED)
def test_qlinear_convolutions_are_their_dequantised_kernels(case, tmp_path):
    weight, scale, zero = stored(case, 4, 3, 3, 3)
    constants = [
        constant("xs", 0.05),
        constant("xz", 120, np.uint8),
        numpy_helper.from_array(weight, "stem.weight_quantized"),
        numpy_helper.from_array(scale, "ws"),
        numpy_helper.from_array(zero, "wz"),
        constant("ys", 0.01 if case == "int8, per channel" else 0.1),
        constant("yz", 128, np.uint8),
    ]
    inputs = ["q", "xs", "xz", "stem.weight_quantized", "ws", "wz", "ys", "yz"]
    nodes = [
        node("QuantizeLinear", ["x", "xs", "xz"], "q"),
        node("QLinearConv", inputs, "c", pads=[1, 0, 1, 1], strides=[2, 1]),
        node("DequantizeLinear", ["c", "ys", "yz"]),
    ]
    path = save(tmp_path / "m.onnx", nodes, constants)
    model = read_model(path)
    (layer,) = model.layers
    assert (layer.name, layer.kind, model.unread) == ("stem", "conv2d", ())
    assert model.notes == ("dequantised: the kernels of 'stem' are stored as integers with a scale",)
    x = 0.05 * RNG.integers(-3, 4, (1, 3, 6, 5)).astype(np.float32)
    (y,) = run(path, x)
    ours = (dense_operator(layer.kernel, layer.geometry) @ x.ravel()).reshape(y.shape)
    step = numpy_helper.to_array(constants[5])
    inside = (y > -127.5 * step) & (y < 126.5 * step)  # not saturated
    assert inside.mean() > 0.4
    assert np.abs(ours - y)[inside].max() <= step / 2 * (1 + 1e-4)


@pytest.mark.parametrize("case", ["int8", "uint8"])
@pytest.mark.parametrize("scaled", [True, False])
def test_integer_convolutions_take_the_constant_scale_behind_them(case, scaled, tmp_path):
    weight, scale, zero = stored(case, 4, 3, 3, 3)
    constants = [
        numpy_helper.from_array(weight, "stem.weight_quantized"),
        numpy_helper.from_array(zero, "wz"),
        numpy_helper.from_array(scale, "ws"),
    ]
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node("ConvInteger", ["q", "stem.weight_quantized", "z", "wz"], "c"),
        node("Cast", ["c"], "f", to=FLOAT),
        *([node("Mul", ["s", "ws"], "both")] if scaled else []),
        node("Mul", ["f", "both" if scaled else "s"]),
    ]
    path = save(tmp_path / "m.onnx", nodes, constants)
    (layer,) = read_model(path).layers
    assert layer.name == "stem"
    x = RNG.integers(0, 256, (1, 3, 6, 5)).astype(np.float32)
    x.flat[:2] = 0, 255  # so that what it is quantised to is itself
    (y,) = run(path, x)
    ours = dense_operator(layer.kernel, layer.geometry) @ x.ravel()
    np.testing.assert_allclose(ours, y.ravel(), rtol=1e-5, atol=1e-5 * np.abs(y).max())


@pytest.mark.parametrize("case", ["int8", "uint8"])
@pytest.mark.parametrize("operator", ["QLinearMatMul", "MatMulInteger", "QGemm"])
def test_quantised_linear_layers(operator, case, tmp_path):
    weight, scale, zero = stored(case, 6, 4)
    words = {"as": 0.05, "ys": 0.5, "ws": scale}
    constants = [constant(name, value) for name, value in words.items()]
    constants += [
        constant("az", 0, np.int8 if case == "int8" else np.uint8),
        numpy_helper.from_array(zero, "wz"),
    ]
    constants += [numpy_helper.from_array(weight, "fc.weight_quantized"), constant("yz", 128, np.uint8)]
    quantised = {
        "QLinearMatMul": (["q", "as", "az", "fc.weight_quantized", "ws", "wz", "ys", "az"], {}),
        "MatMulInteger": (["q", "fc.weight_quantized", "az", "wz"], {}),
        "QGemm": (
            ["q", "as", "az", "fc.weight_quantized", "ws", "wz", "", "ys", "az"],
            {"domain": "com.microsoft"},
        ),
    }[operator]
    behind = [node("DequantizeLinear", ["c", "ys", "az"])]
    if operator == "MatMulInteger":
        behind = [node("Cast", ["c"], "f", to=FLOAT), node("Mul", ["as", "ws"], "s"), node("Mul", ["f", "s"])]
    nodes = [
        node("QuantizeLinear", ["x", "as", "az"], "q"),
        node(operator, quantised[0], "c", **quantised[1]),
        *behind,
    ]
    path = save(tmp_path / "m.onnx", nodes, constants, (1, 6))
    (layer,) = read_model(path).layers
    assert (layer.name, layer.kind, layer.kernel.shape) == ("fc", "linear", (4, 6, 1))
    x = 0.05 * RNG.integers(0, 9, (1, 6)).astype(np.float32)
    (y,) = run(path, x)
    ours = (layer.kernel[..., 0] @ x.ravel()).reshape(y.shape)
    if operator != "MatMulInteger":
        steps = 127 if case == "int8" else 255
        ours = np.clip(ours, -0.5 * (128 if case == "int8" else 0), 0.5 * steps)
    assert np.abs(ours - y).max() <= (1e-5 if operator == "MatMulInteger" else 0.25 * (1 + 1e-4))


@pytest.mark.parametrize("kind", ["INT4", "UINT4", "FLOAT8E4M3FN"])
@pytest.mark.parametrize("block", [0, 2])
def test_weights_of_few_bits_are_their_dequantised_kernels(kind, block, tmp_path):
    numbers = RNG.integers(0, 8, (4, 3, 3, 3))  # which all of these types have
    scale = RNG.uniform(0.01, 0.1, (2, 3, 3, 3) if block else 4).astype(np.float32)
    weight = helper.make_tensor(
        "stem.weight", TensorProto.DataType.Value(kind), (4, 3, 3, 3), numbers.ravel()
    )
    attributes = {"axis": 0, "block_size": block} if block else {"axis": 0}
    nodes = [node("DequantizeLinear", ["stem.weight", "s"], "w", **attributes), node("Conv", ["x", "w"])]
    path = save(tmp_path / "m.onnx", nodes, [weight, constant("s", scale)], opset=21)
    model = read_model(path)
    factors = np.repeat(scale, block, axis=0) if block else scale[:, None, None, None]
    assert (model.layers[0].name, model.unread) == ("stem", ())
    np.testing.assert_array_equal(model.layers[0].kernel, numbers.astype(np.float32) * factors)


def test_scales_that_repeat_beyond_memory_are_refused(tmp_path):
    nodes = [node("DequantizeLinear", ["q", "s"], "w", axis=0, block_size=2**31), node("Conv", ["x", "w"])]
    stored = numpy_helper.from_array(np.ones((2, 3, 3, 3), np.int8), "q")
    (unread,) = read_model(
        save(tmp_path / "m.onnx", nodes, [stored, normal("s", 1, 3, 3, 3)], opset=21)
    ).unread
    assert "would take" in unread.reason


class Points:
    """Inputs for a quantiser."""

    def __init__(self):
        self.left = 4

    def get_next(self):
        self.left -= 1
        return {"x": RNG.standard_normal((1, 3, 6, 5)).astype(np.float32)} if self.left >= 0 else None


@pytest.mark.parametrize("way", ["QDQ", "QOperator", "dynamic"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_a_float_file_and_its_quantised_one_have_the_same_layers(way, per_channel, tmp_path):
    pytest.importorskip("onnxruntime")
    from onnxruntime import quantization

    weights = [normal("stem.weight", 4, 3, 3, 3), normal("block.0.weight", 5, 4, 3, 3)]
    weights += [normal("fc.weight", 6, 150), normal("head.weight", 6, 2)]
    nodes = [
        node("Conv", ["x", "stem.weight"], "a", pads=[1] * 4),
        node("Relu", ["a"], "b"),
        node("Conv", ["b", "block.0.weight"], "c", pads=[1] * 4),
        node("Flatten", ["c"], "d"),
        node("Gemm", ["d", "fc.weight"], "e", transB=1),
        node("MatMul", ["e", "head.weight"]),
    ]
    path, made = save(tmp_path / "float.onnx", nodes, weights, opset=13), tmp_path / "quantised.onnx"
    if way == "dynamic":
        quantization.quantize_dynamic(path, made, per_channel=per_channel)
    else:
        quant_format = quantization.QuantFormat[way]
        quantization.quantize_static(path, made, Points(), quant_format, per_channel=per_channel)
    found = compare(read_model(path), read_model(made))
    assert [pair.name for pair in found.layers] == ["stem", "block.0", "fc", "head"]
    assert all(pair.match == "both" for pair in found.layers)
    for before, after in zip(read_model(path).layers, read_model(made).layers, strict=True):
        assert before.geometry == after.geometry
        assert 0 < np.abs(before.kernel - after.kernel).max() < 0.02 * np.abs(before.kernel).max()


def test_what_multiplies_and_is_not_read_is_named(tmp_path):
    weights = [normal("w", 3, 5), normal("batched", 2, 5, 5)]
    nodes = [
        node("MatMulNBits", ["x", "w"], "a", domain="com.microsoft", K=3, N=5),
        node("MatMul", ["b", "batched"], "y"),
        node("Einsum", ["x", "w"], "b", equation="ij,jk->ik"),
        node("RNN", ["x", "w", "w"], "r"),
        node("MatMul", ["x", "x"], "d"),
    ]
    model = read_model(save(tmp_path / "m.onnx", nodes, weights, (1, 3)))
    assert model.layers == ()
    assert [one.name.split()[0] for one in model.unread] == ["MatMulNBits", "MatMul", "Einsum", "RNN"]
    assert "of shape (2, 5, 5)" in model.unread[1].reason


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_weight_norm_in_the_graph_is_worked_out_by_both_readers(opset, tmp_path):
    axes = {"axes": [1, 2, 3]} if opset < 18 else {}
    extra = [] if axes else ["axes"]
    nodes = [
        node("ReduceL2", ["stem.weight_v", *extra], "n", keepdims=1, **axes),
        node("Div", ["stem.weight_v", "n"], "u"),
        node("Mul", ["u", "stem.weight_g"], "/stem/Mul_output_0"),
        node("Conv", ["x", "/stem/Mul_output_0"], strides=[2, 1]),
    ]
    weights = [normal("stem.weight_v", 4, 3, 3, 3), normal("stem.weight_g", 4, 1, 1, 1)]
    weights += [constant("axes", [1, 2, 3], np.int64)]
    path = save(tmp_path / "m.onnx", nodes, weights, opset=opset)
    model = read_model(path)
    (layer,) = model.layers
    assert (layer.name, model.unread, model.notes) == ("stem", (), ())
    x = RNG.standard_normal((1, 3, 6, 5)).astype(np.float32)
    (y,) = run(path, x)
    np.testing.assert_allclose(dense_operator(layer.kernel, layer.geometry) @ x.ravel(), y.ravel(), atol=1e-5)
    (other,) = [one.operation for one in read_graph(path).nodes]
    np.testing.assert_array_equal(other.kernel, layer.kernel)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("style", ["weight_norm", "parametrizations"])
def test_weight_norm_as_exported_by_pytorch(style, tmp_path):
    torch = pytest.importorskip("torch")
    norm = torch.nn.utils if style == "weight_norm" else torch.nn.utils.parametrizations
    torch.manual_seed(0)
    net = torch.nn.Sequential(norm.weight_norm(torch.nn.Conv2d(3, 4, 3)), torch.nn.ReLU())
    path = tmp_path / "m.onnx"
    with torch.no_grad():
        torch.onnx.export(
            net, (torch.zeros(1, 3, 6, 5),), path, dynamo=False, do_constant_folding=False, opset_version=17
        )
    (layer,) = read_model(path).layers
    assert layer.name == "0"
    np.testing.assert_allclose(layer.kernel, net[0].weight.detach().numpy(), rtol=1e-5)


CONV = node("Conv", ["x", "w"])
KERNEL = normal("k", 2, 3, 3, 3)
FILLED = {"value": constant("v", [1.0])}
BAD_WEIGHTS = {
    "a cycle": ([node("Identity", ["b"], "w"), node("Identity", ["w"], "b")], [], "part of a cycle"),
    "itself": ([node("Identity", ["w"], "w")], [], "part of a cycle"),
    "nothing": ([], [], "made of 'w', which nothing makes"),
    "2^58 entries": (
        [node("ConstantOfShape", ["s"], "w", **FILLED)],
        [constant("s", [2**20, 2**20, 2**9, 2**9], np.int64)],
        "would take",
    ),
    "an expansion": (
        [node("Expand", ["k", "s"], "w")],
        [constant("s", [2**40, *[1] * 4], np.int64)],
        "would take",
    ),
    "tiles": ([node("Tile", ["k", "s"], "w")], [constant("s", [2**20, 2**20, 1, 1], np.int64)], "would take"),
    "an outer product": (
        [node("ConstantOfShape", ["s"], "b", **FILLED), node("MatMul", ["b", "b"], "w")],
        [constant("s", [2700, 2700], np.int64)],
        "product of large matrices",
    ),
    "a shape that does not fit": (
        [node("Reshape", ["k", "s"], "w")],
        [constant("s", [5, 5], np.int64)],
        "contradicts",
    ),
    "random numbers": (
        [node("RandomNormal", [], "w", shape=[2, 3, 3, 3])],
        [],
        "computed at run time by RandomNormal",
    ),
}


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_weights_that_cannot_be_had_are_named_and_the_others_read(case, tmp_path):
    nodes, constants, reason = BAD_WEIGHTS[case]
    good = node("Conv", ["x", "k"], "z")
    path = save(tmp_path / "m.onnx", [*nodes, CONV, good], [KERNEL, *constants], outputs=("z",))
    model = read_model(path)
    assert [layer.name for layer in model.layers] == ["k"]
    (unread,) = model.unread
    assert unread.name == "Conv Conv_y"
    assert reason in unread.reason


def test_what_is_used_often_is_worked_out_once(tmp_path):
    nodes = [node("Mul", [f"k{i}", f"k{i}"], f"k{i + 1}") for i in range(60)]
    nodes += [node("Identity", [f"k{i}"], f"k{i + 1}") for i in range(60, 2000)]
    ones = constant("k0", np.ones((2, 3, 3, 3)))
    path = save(tmp_path / "m.onnx", [*nodes, node("Conv", ["x", "k2000"])], [ones])
    (layer,) = read_model(path).layers
    assert (layer.kernel == 1).all()


@pytest.mark.parametrize("made", [10**9, 10**16])
def test_sizes_of_huge_computed_values_are_not_propagated(made, tmp_path):
    nodes = [
        node("ConstantOfShape", ["s"], "a", value=constant("v", [1], np.int64)),
        node("Concat", ["a", "a"], "b", axis=0),
        node("Pad", ["x", "b"], "p"),
        node("Conv", ["p", "k"]),
    ]
    path = save(tmp_path / "m.onnx", nodes, [KERNEL, constant("s", [made], np.int64)])
    (layer,) = read_model(path).layers
    assert layer.geometry is None


def nested(levels):
    value = helper.make_tensor_value_info("y", FLOAT, None)
    graph = helper.make_graph([node("Conv", ["x", "k"])], "inner", [], [value])
    for _ in range(levels):
        branch = node("If", ["c"], "y", then_branch=graph, else_branch=graph)
        graph = helper.make_graph([branch], "inner", [], [value])
    return list(graph.node)


def test_graphs_inside_graphs_have_an_end(tmp_path):
    weights = [KERNEL, constant("c", True, bool)]
    assert len(read_model(save(tmp_path / "m.onnx", nested(3), weights)).layers) == 8
    for read in (read_model, read_graph):
        with pytest.raises(BudgetError, match=r"m\.onnx: a graph is nested more than 8 levels deep"):
            read(save(tmp_path / "m.onnx", nested(9), weights))


@pytest.mark.parametrize("circle", [True, False])
def test_local_functions_that_grow_without_end_are_refused(circle, tmp_path):
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    inner = [("Relu", "")] if not circle else [("F39", "own")]
    functions = []
    for i in range(40):
        operator, domain = inner[0] if i == 0 else (f"F{i - 1}", "own")
        nodes = [helper.make_node(operator, [a], [b], domain=domain) for a, b in (("a", "b"), ("b", "c"))]
        functions.append(helper.make_function("own", f"F{i}", ["a"], ["c"], nodes, opsets))
    path = save(tmp_path / "m.onnx", [node("F39", ["x"], domain="own")], [], functions=functions)
    for read in (read_model, read_graph):
        with pytest.raises(ModelError, match="in a circle" if circle else "beyond 200000 evaluations"):
            read(path)


def damaged(change):
    tensor = normal("w", 2, 3, 3, 3)
    change(tensor)
    return tensor


BAD_TENSORS = {
    "no data": lambda t: t.ClearField("raw_data"),
    "2^124 entries": lambda t: t.dims.__setitem__(slice(None), [2**62, 2**62]),
    "negative": lambda t: t.dims.__setitem__(slice(None), [-2, -3, 3, 3]),
    "no type": lambda t: setattr(t, "data_type", 0),
    "unknown type": lambda t: setattr(t, "data_type", 99),
    "text": lambda t: setattr(t, "data_type", TensorProto.STRING),
    "complex": lambda t: setattr(t, "data_type", TensorProto.COMPLEX64),
    "part of the data": lambda t: setattr(t, "raw_data", t.raw_data[:-3]),
    "more data": lambda t: setattr(t, "raw_data", t.raw_data + b"abc"),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_tensors_that_contradict_themselves_are_one_error(case, tmp_path):
    path = save(tmp_path / "m.onnx", [CONV], [damaged(BAD_TENSORS[case])])
    for read in (read_model, read_graph):
        with pytest.raises(ModelError, match=r"m\.onnx: tensor 'w' cannot be read"):
            read(path)


@pytest.mark.parametrize(
    ("location", "offset", "length"),
    [
        ("in.bin", str(2**62), "216"),
        ("in.bin", "0", str(2**40)),
        ("in.bin", "-4", "216"),
        ("in.bin", "x", "216"),
        ("in.bin", "1", "216"),
        ("in\0.bin", "0", "216"),
        ("a" * 300, "0", "216"),
        ("a/" * 3000, "0", "216"),
        (".", "0", "216"),
    ],
)
def test_external_data_that_is_not_there_is_one_error(location, offset, length, tmp_path):
    (tmp_path / "in.bin").write_bytes(bytes(216))
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[2, 3, 3, 3], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": offset, "length": length}.items():
        tensor.external_data.add(key=key, value=value)
    path = save(tmp_path / "m.onnx", [CONV], [tensor])
    for read in (read_model, read_graph):
        with pytest.raises(ModelError, match=r"tensor 'w'"):
            read(path)


def test_a_file_of_external_data_is_not_read_more_often_than_its_size_allows(tmp_path):
    (tmp_path / "in.bin").write_bytes(bytes(2**20))
    tensors, nodes = [], []
    for i in range(400):
        tensor = TensorProto(name=f"w{i}", data_type=FLOAT, dims=[2**18, 1, 1, 1], data_location=1)
        tensor.external_data.add(key="location", value="in.bin")
        tensors.append(tensor)
        nodes.append(node("Conv", ["x", f"w{i}"], f"y{i}"))
    with pytest.raises(BudgetError, match="would take 1,048,576 bytes of memory"):
        read_model(save(tmp_path / "m.onnx", nodes, tensors, outputs=("y0",)))


@pytest.mark.parametrize(
    "bad",
    [
        node("Conv", ["x"]),
        node("Conv", ["x", "k"], pads=1.0),
        node("Conv", ["x", "k"], pads=[1, 1]),
        node("Conv", ["x", "k"], strides=["a"]),
        node("Conv", ["x", "k"], group=[1, 2]),
        node("Conv", ["x", "k"], auto_pad=b"\xff\xfe"),
        node("Conv", ["x", "k"], strides=[0, 0], auto_pad="SAME_UPPER"),
        helper.make_node("Gemm", [], ["y"]),
        helper.make_node("Conv", ["x", "k"], []),
    ],
)
def test_attributes_of_any_kind_are_no_foreign_exceptions(bad, tmp_path):
    path = save(tmp_path / "m.onnx", [node("Conv", ["x", "k"], "z"), bad], [KERNEL], outputs=("z",))
    try:
        model = read_model(path)
    except InputError:
        return
    assert model.layers[0].name == "k"
    assert model.unread or any(layer.reason for layer in model.layers) or len(model.layers) == 2


def test_weights_made_by_a_convolution_or_a_resize_are_worked_out(tmp_path):
    nodes = [
        node("Conv", ["k", "merge.weight"], "merged", pads=[1] * 4),
        node("Resize", ["merged", "", "", "sizes"], "kernel", mode="nearest"),
        node("Conv", ["x", "kernel"], strides=[2, 1], auto_pad="SAME_UPPER"),
    ]
    weights = [normal("merge.weight", 3, 3, 1, 1), constant("sizes", [2, 3, 5, 5], np.int64)]
    path = save(tmp_path / "m.onnx", nodes, [KERNEL, *weights])
    model = read_model(path)
    (layer,) = model.layers
    assert (layer.kernel.shape, model.unread) == ((2, 3, 5, 5), ())
    x = RNG.standard_normal((1, 3, 6, 5)).astype(np.float32)
    (y,) = run(path, x)
    np.testing.assert_allclose(dense_operator(layer.kernel, layer.geometry) @ x.ravel(), y.ravel(), atol=1e-4)
    (found,) = [one.operation for one in read_graph(path).nodes]
    np.testing.assert_array_equal(found.kernel, layer.kernel)


@pytest.mark.parametrize("attributes", [{"strides": [2**20] * 2}, {"dilations": [2**20] * 2}])
def test_constant_convolutions_of_huge_padding_are_not_worked_out(attributes, tmp_path):
    attributes = {"pads": [2**20 + 1] * 4, **attributes}
    nodes = [node("Conv", ["k", "k1"], "w", **attributes), CONV]
    (unread,) = read_model(save(tmp_path / "m.onnx", nodes, [KERNEL, normal("k1", 3, 3, 3, 3)])).unread
    assert "would take" in unread.reason or "large" in unread.reason


def body(name, nodes, inputs, outputs, weights=()):
    value = helper.make_tensor_value_info
    return helper.make_graph(
        nodes, name, [value(*one, None) for one in inputs], [value(*one, None) for one in outputs], weights
    )


def test_sizes_in_loop_bodies_and_branches_follow(tmp_path):
    """Amounts that are computed there too; a state has a size where each round keeps it."""
    padded = [
        node("Mul", ["one", "two"], "amount"),
        node("Concat", ["zeros", "amount", "zeros", "amount"], "pads", axis=0),
    ]
    kept = body(
        "kept",
        [
            *padded,
            node("Pad", ["state", "pads"], "wide"),
            node("Conv", ["wide", "same.weight"], "next"),
            node("Conv", ["grown", "other.weight"], "open"),
            node("Concat", ["grown", "grown"], "longer", axis=2),
            node("Identity", ["go"], "on"),
        ],
        [("i", TensorProto.INT64), ("go", TensorProto.BOOL), ("state", FLOAT), ("grown", FLOAT)],
        [("on", TensorProto.BOOL), ("next", FLOAT), ("longer", FLOAT), ("open", FLOAT)],
    )
    branch = body("branch", [node("Conv", ["last", "then.weight"], "y")], [], [("y", FLOAT)])
    nodes = [
        helper.make_node("Loop", ["count", "", "x", "x"], ["last", "long", "all"], body=kept),
        node("If", ["choice"], "y", then_branch=branch, else_branch=branch),
    ]
    weights = [
        constant("one", [1, 1], np.int64),
        constant("two", [1, 1], np.int64),
        constant("zeros", [0, 0], np.int64),
        constant("count", 4, np.int64),
        constant("choice", True, bool),
        *(normal(f"{name}.weight", 3, 3, 3, 3) for name in ("same", "other", "then")),
    ]
    path = save(tmp_path / "m.onnx", nodes, weights)
    model = read_model(path)
    found = {layer.name: layer.geometry for layer in model.layers}
    assert list(found) == ["same", "other", "then", "then#2"]
    assert (found["same"].input_shape, found["same"].padding) == ((6, 5), ((1, 1), (1, 1)))
    assert found["other"] is None  # it is twice as high in each round
    assert found["then"].input_shape == found["then#2"].input_shape == (6, 5)
    for output in ("y", "next"):
        with pytest.raises(InputError, match=r"depends on Loop '(go|state)': which of its graphs runs"):
            lipschitz(read_graph(path), outputs=[output])


@pytest.mark.parametrize("domain", ["own", "third"])
def test_an_operator_of_a_domain_that_is_not_imported_is_named(domain, tmp_path):
    nodes = [
        helper.make_node("Odd", ["x"], ["a"], name="odd", domain=domain),
        node("Conv", ["a", "k"]),
        node("Relu", ["x"], "z"),
    ]
    path = save(tmp_path / "m.onnx", nodes, [KERNEL], outputs=("y", "z"))
    (layer,) = read_model(path).layers
    assert (layer.geometry, layer.reason) == (None, "input size unknown in the graph: give sample_shape")
    report = lipschitz(read_graph(path))
    assert report.refused == {"y": f"depends on {domain}::Odd 'odd': an operator from outside of ONNX"}


@pytest.mark.parametrize("operator", ["GlobalAveragePool", "Resize"])
def test_matrices_of_huge_axes_are_not_made(operator, tmp_path):
    amounts = {"GlobalAveragePool": ("p", [0, 0, 2**31, 0, 0, 0, 0, 0]), "Resize": ("s", [1, 3, 2**30, 5])}
    name, values = amounts[operator]
    nodes = {
        "GlobalAveragePool": [node("Pad", ["x", "p"], "a"), node("GlobalAveragePool", ["a"])],
        "Resize": [node("Resize", ["x", "", "", "s"], mode="linear")],
    }[operator]
    path = save(tmp_path / "m.onnx", nodes, [constant(name, values, np.int64)])
    tracemalloc.start()
    try:
        read_model(path)
        assert tracemalloc.get_traced_memory()[1] < 2**28
    finally:
        tracemalloc.stop()
    with pytest.raises(InputError, match=r"more than|for one axis"):
        lipschitz(read_graph(path))
