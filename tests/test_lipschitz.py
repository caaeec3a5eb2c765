"""The bound of a whole ONNX network against what its Jacobians show: every operator, hostile graphs."""

from __future__ import annotations

import io
import json
import math
from importlib import resources

import jsonschema
import numpy as np
import pytest
from rich.console import Console

from convspectra import ConvGeometry
from convspectra.cli.lipschitz import measure
from convspectra.errors import InputError
from convspectra.models.graphs import read_graph
from convspectra.models.operations import Convolution
from convspectra.network import lipschitz
from convspectra.network.folding import folded
from convspectra.network.slopes import SLOPES
from convspectra.operators.reference import dense_operator
from convspectra.report import json_file, lipschitz_text
from test_cli import convspectra, refused

onnx = pytest.importorskip("onnx")
helper = onnx.helper
SHAPE = (1, 4, 6, 5)
TOLERANCE = 1 + 1e-6


def rng(seed=0):
    return np.random.default_rng(seed)


def normal(*shape, seed=0):
    return rng(seed).standard_normal(shape) / math.sqrt(max(math.prod(shape[1:]), 1))


class Net:
    """An ONNX graph in the making; every method adds a node and gives the name of its output."""

    def __init__(self, shape=SHAPE, opset=20, dtype=np.float64, inputs=("x",)):
        self.dtype, self.opset = np.dtype(dtype), opset
        self.kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        self.inputs = [helper.make_tensor_value_info(name, self.kind, shape) for name in inputs]
        self.nodes, self.weights = [], []

    def constant(self, values):
        values = np.asarray(values)
        values = values.astype(self.dtype) if values.dtype == np.float64 else values
        self.weights.append(onnx.numpy_helper.from_array(values, f"w{len(self.weights)}"))
        return self.weights[-1].name

    def add(self, operator, *inputs, outputs=1, **attributes):
        names = [one if isinstance(one, str) else self.constant(one) for one in inputs]
        made = [f"{operator.lower()}{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(
            helper.make_node(operator, names, made, name=f"node{len(self.nodes)}", **attributes)
        )
        return made[0] if outputs == 1 else made

    def save(self, path, *outputs):
        values = [helper.make_tensor_value_info(name, self.kind, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "net", self.inputs, values, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9)
        path.write_bytes(model.SerializeToString())
        return path


def conv(net, x, rows=4, columns=4, seed=0, **attributes):
    return net.add(
        "Conv", x, normal(rows, columns, 3, 3, seed=seed), normal(rows, seed=seed + 1), **attributes
    )


def batch_norm(net, x, channels=4, seed=3):
    gamma, beta, mean = (rng(seed + i).standard_normal(channels) for i in range(3))
    return net.add("BatchNormalization", x, gamma, beta, mean, rng(seed + 3).uniform(0.5, 2, channels))


def residual(net, x):
    inner = batch_norm(net, conv(net, x, pads=[1] * 4))
    inner = batch_norm(net, conv(net, net.add("Relu", inner), seed=7, pads=[1] * 4), seed=9)
    return net.add("Relu", net.add("Add", inner, x))


def one(operator, *more, **attributes):
    return lambda net, x: net.add(operator, x, *more, **attributes)


def slices(net, x):
    """Every second column from the first on, and from the second on, of which the last is left out."""
    sides = np.array([0]), np.array([4]), np.array([3]), np.array([2])
    later = np.array([1]), np.array([4]), np.array([3]), np.array([2])
    return net.add("Slice", x, *sides), net.add("Slice", x, *later)


def extremes(net, x):
    halves = net.add("Split", x, axis=1, num_outputs=2, outputs=2)
    return net.add("Max", *halves), net.add("Min", *halves[::-1])


LINEAR = {
    "conv": lambda net, x: conv(net, x, pads=[1, 0, 2, 1], strides=[2, 1]),
    "conv groups": lambda net, x: net.add("Conv", x, normal(6, 2, 3, 3), group=2, dilations=[1, 2]),
    "conv same": lambda net, x: conv(net, x, auto_pad="SAME_LOWER", strides=[2, 2]),
    "conv transpose": lambda net, x: net.add(
        "ConvTranspose", x, normal(4, 3, 3, 3), strides=[2, 2], pads=[1, 0, 1, 1], output_padding=[1, 0]
    ),
    "conv batch norm": lambda net, x: batch_norm(net, conv(net, x)),
    "transpose batch norm": lambda net, x: batch_norm(
        net, net.add("ConvTranspose", x, normal(4, 3, 3, 3)), channels=3
    ),
    "batch norm": batch_norm,
    "gemm": lambda net, x: net.add(
        "Gemm", net.add("Flatten", x), normal(120, 7), normal(7), alpha=0.7, beta=2.0
    ),
    "gemm transposed": lambda net, x: net.add("Gemm", net.add("Flatten", x), normal(7, 120), transB=1),
    "gemm scaled": lambda net, x: net.add(
        "Mul", net.add("Gemm", net.add("Flatten", x), normal(120, 7)), normal(7, seed=2)
    ),
    "matmul": one("MatMul", normal(5, 3)),
    "matmul left": lambda net, x: net.add("MatMul", normal(3, 6), x),
    "add": one("Add", normal(4, 1, 1)),
    "add wider": lambda net, x: net.add("Add", net.add("ReduceMean", x, np.array([2])), normal(1, 4, 6, 5)),
    "sub": lambda net, x: net.add("Sub", normal(5), x),
    "mul": one("Mul", normal(4, 1, 1)),
    "div": one("Div", np.array([2.0, -4, 0.5, 3, 1])),
    "neg": one("Neg"),
    "x + x": lambda net, x: net.add("Add", x, x),
    "sum": lambda net, x: net.add("Sum", x, net.add("Neg", x), net.add("Mul", x, np.array(3.0))),
    "concat": lambda net, x: net.add("Concat", x, conv(net, x, pads=[1] * 4), axis=1),
    "concat constant": lambda net, x: net.add("Concat", x, normal(1, 2, 6, 5), axis=1),
    "average pool": one("AveragePool", kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1]),
    "average pool counted": one(
        "AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1
    ),
    "average pool ceil": one("AveragePool", kernel_shape=[2, 2], strides=[3, 2], ceil_mode=1),
    "global average pool": one("GlobalAveragePool"),
    "reduce mean": one("ReduceMean", np.array([1, -1]), keepdims=0),
    "reduce sum": one("ReduceSum", np.array([2])),
    "reduce all": one("ReduceMean", keepdims=0),
    "flatten": one("Flatten"),
    "reshape": one("Reshape", np.array([0, -1, 10])),
    "transpose": one("Transpose", perm=[0, 2, 3, 1]),
    "squeeze": lambda net, x: net.add("Unsqueeze", net.add("Squeeze", x, np.array([0])), np.array([1])),
    "slice": one("Slice", np.array([1]), np.array([6]), np.array([2]), np.array([2])),
    "gather": one("Gather", np.array([2, 0]), axis=1),
    "gather twice": one("Gather", np.array([2, 0, 2]), axis=1),
    "split": lambda net, x: net.add("Add", *net.add("Split", x, axis=1, num_outputs=2, outputs=2)),
    "pad": one("Pad", np.array([0, 0, 1, 2, 0, 1, 0, 1])),
    "pad reflect": one("Pad", np.array([0, 0, 1, 2, 0, 0, 2, 1]), mode="reflect"),
    "pad edge": one("Pad", np.array([0, 0, 1, 2, 0, 0, 0, 1]), mode="edge"),
    "pad conv": lambda net, x: conv(
        net, net.add("Pad", x, np.array([0, 0, 1, 1, 0, 0, 1, 1]), mode="reflect")
    ),
    "pad fill conv": lambda net, x: conv(net, net.add("Pad", x, np.array([0, 0, 1, 1, 0, 0, 1, 1]), 2.5)),
    "expand": one("Expand", np.array([3, 4, 6, 5])),
    "tile": one("Tile", np.array([1, 2, 1, 3])),
    "depth to space": one("DepthToSpace", blocksize=2),
    "identity": lambda net, x: net.add("Dropout", net.add("Identity", x)),
    "resize nearest": one("Resize", "", np.array([1.0, 1, 2, 1.6]).astype(np.float32), mode="nearest"),
    "resize linear": one("Resize", "", "", np.array([1, 4, 9, 3]), mode="linear"),
    "resize corners": one(
        "Resize",
        "",
        "",
        np.array([1, 4, 9, 3]),
        mode="linear",
        coordinate_transformation_mode="align_corners",
    ),
    "cast": one("Cast", to=onnx.TensorProto.DOUBLE),
    "pow 1": one("Pow", np.array(1.0)),
    "running sum": one("CumSum", np.array(2)),
    "running sum from the end": one("CumSum", np.array(-1), reverse=1, exclusive=1),
    "slices together": lambda net, x: net.add("Concat", *slices(net, x), axis=1),
    "pieces twice": lambda net, x: net.add("Concat", *slices(net, x), slices(net, x)[0], axis=1),
}

POINTWISE = {
    "Relu": {},
    "LeakyRelu": {"alpha": 0.3},
    "Elu": {"alpha": 1.7},
    "Celu": {"alpha": 0.6},
    "Selu": {},
    "Sigmoid": {},
    "HardSigmoid": {"alpha": 0.3},
    "HardSwish": {},
    "Tanh": {},
    "Softplus": {},
    "Softsign": {},
    "Gelu": {},
    "Mish": {},
    "Abs": {},
    "Sin": {},
    "Cos": {},
    "Atan": {},
    "Erf": {},
}
OTHERS = {
    **{name: one(name, **attributes) for name, attributes in POINTWISE.items()},
    "gelu tanh": one("Gelu", approximate="tanh"),
    "prelu": one("PRelu", np.array([[[0.3]], [[-1.5]], [[0.0]], [[2.0]]])),
    "clip": one("Clip", np.array(-0.5), np.array(1.0)),
    "silu": lambda net, x: net.add("Mul", x, net.add("Sigmoid", x)),
    "hard swish": lambda net, x: net.add("Mul", net.add("HardSigmoid", x, alpha=1 / 6), x),
    "mish": lambda net, x: net.add("Mul", x, net.add("Tanh", net.add("Softplus", x))),
    "softmax": one("Softmax", axis=1),
    "log softmax": one("LogSoftmax", axis=-1),
    "max pool": one("MaxPool", kernel_shape=[3, 2], strides=[2, 1], pads=[1, 1, 1, 0]),
    "max pool ceil": one("MaxPool", kernel_shape=[2, 2], strides=[3, 2], ceil_mode=1),
    "max pool dilated": one("MaxPool", kernel_shape=[2, 2], dilations=[2, 1]),
    "global max pool": one("GlobalMaxPool"),
    "softshrink": one("Shrink", lambd=0.3, bias=0.3),
    "max": lambda net, x: net.add("Max", x, net.add("Neg", x), normal(4, 1, 1)),
    "max min": lambda net, x: net.add("Concat", *extremes(net, x), axis=1),
    "max number": lambda net, x: net.add("Max", np.array(0.2), net.add("Min", x, np.array([[0.7]]))),
    "reduce max": one("ReduceMax", np.array([1, -1]), keepdims=0),
    "reduce min": one("ReduceMin"),
    "top k": lambda net, x: net.add("TopK", x, np.array([3]), axis=1, outputs=2)[0],
    "top k smallest": lambda net, x: net.add("TopK", x, np.array([2]), largest=0, outputs=2)[0],
    "layer norm": one("LayerNormalization", normal(6, 5), normal(6, 5, seed=1), axis=2, epsilon=0.3),
    "instance norm": one("InstanceNormalization", normal(4), normal(4, seed=1), epsilon=0.1),
    "group norm": one("GroupNormalization", normal(2), normal(2, seed=1), num_groups=2, epsilon=0.1),
    "residual": residual,
    "scale, relu, conv": lambda net, x: conv(net, net.add("Relu", batch_norm(net, x)), pads=[1] * 4),
    "scale, tanh, groups": lambda net, x: net.add(
        "Conv", net.add("Tanh", batch_norm(net, x)), normal(6, 2, 3, 3), group=2
    ),
    "deep": lambda net, x: net.add(
        "Gemm", net.add("Flatten", net.add("MaxPool", residual(net, x), kernel_shape=[2, 2])), normal(80, 3)
    ),
}
# What the reference implementation of ONNX cannot run, or gets wrong.
ONLY_READ = {
    "crop": one("Pad", np.array([0, 0, -1, 0, 0, -1, -2, 1])),
    "transpose groups": lambda net, x: batch_norm(
        net, net.add("ConvTranspose", x, normal(4, 3, 3, 3), group=2, strides=[2, 1]), channels=6
    ),
    "transpose padded": lambda net, x: net.add(
        "ConvTranspose", x, normal(4, 3, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER", dilations=[1, 2]
    ),
}


def written(case, path, **options):
    net = Net(**options)
    return net.save(path / "net.onnx", case(net, "x"))


def runner(path):
    """The network as a function, by the reference implementation of ONNX."""
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(onnx.load(path))
    return lambda x: evaluator.run(None, {"x": x})[0].reshape(-1)


def jacobian(path, x, step=1e-6):
    run, columns = runner(path), []
    for place in range(x.size):
        moved = np.zeros(x.size)
        moved[place] = step
        moved = moved.reshape(x.shape)
        columns.append((run(x + moved) - run(x - moved)) / (2 * step))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("name", LINEAR)
def test_the_bound_of_something_linear_is_at_its_norm(name, tmp_path):
    path = written(LINEAR[name], tmp_path)
    upper = lipschitz(read_graph(path)).joint.upper
    dense = np.linalg.norm(jacobian(path, np.zeros(SHAPE), step=1.0), 2)
    assert dense <= upper * TOLERANCE
    # Sums and what is put together add what may cancel; no more is lost than this.
    loose = {"x + x": 1.0, "sum": 5 / 3 + 1e-9, "split": math.sqrt(2)}
    slack = 1.2 if "pad" in name or "conv" in name or "concat" in name else loose.get(name, 1.0)
    assert upper <= dense * slack * TOLERANCE


@pytest.mark.parametrize("name", OTHERS)
def test_the_bound_is_above_jacobians_and_quotients(name, tmp_path):
    path = written(OTHERS[name], tmp_path)
    upper = lipschitz(read_graph(path)).joint.upper
    run, draws = runner(path), rng(1)
    # The error function of the reference implementation is good to 1e-7.
    step, tolerance = (1e-3, 1 + 1e-3) if name in ("Erf", "Gelu") else (1e-6, TOLERANCE)
    for scale in (0.3, 3.0):
        x = scale * draws.standard_normal(SHAPE)
        assert np.linalg.norm(jacobian(path, x, step), 2) <= upper * tolerance
    for distance in np.geomspace(1e-3, 10, 12):
        x, y = (draws.standard_normal(SHAPE) for _ in range(2))
        y = x + distance * (y - x)
        quotient = np.linalg.norm(run(x) - run(y)) / np.linalg.norm(x - y)
        assert quotient <= upper * (1 + 1e-12)


def branching(path, condition, *, open_size=False):
    """A network of which one branch scales by 2 what the other scales by 5."""
    net = Net(dtype=np.float32)
    if open_size:
        net.inputs[0].type.tensor_type.shape.dim[2].ClearField("dim_value")
    x = net.add("Neg", "x")
    kind = helper.make_tensor_value_info("out", net.kind, None)
    names = {
        name: net.constant(np.float32(value)) for name, value in (("then_branch", 2), ("else_branch", 5))
    }
    branches = {
        name: helper.make_graph([helper.make_node("Mul", [x, factor], ["out"])], name, [], [kind])
        for name, factor in names.items()
    }
    choice = net.constant(condition) if not open_size else condition(net)
    y = net.add("If", choice, **branches)
    factors = {
        name: helper.make_graph([helper.make_node("Identity", [factor], ["out"])], name, [], [kind])
        for name, factor in names.items()
    }
    return net.save(path, net.add("Mul", net.add("Relu", y), net.add("If", choice, **factors)))


def height_above_4(net):
    height = net.add("Gather", net.add("Shape", "x"), np.array(2))
    return net.add("Greater", height, np.array(4))


@pytest.mark.parametrize("condition", [True, False, height_above_4])
def test_an_if_of_a_known_condition_is_its_branch(condition, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    torch = pytest.importorskip("torch")
    from convspectra.network.jacobian import Derivative

    computed = callable(condition)
    path = branching(tmp_path / "m.onnx", condition if computed else np.array(condition), open_size=computed)
    graph = read_graph(path, sample_shape=SHAPE[1:] if computed else None)
    report = lipschitz(graph)
    assert (
        [one.name for one in report.outputs]
        == list(graph.outputs)
        == ["mul4_0" if not computed else "mul7_0"]
    )
    assert report.joint.upper == pytest.approx(4.0 if condition else 25.0)
    x = rng(2).standard_normal(SHAPE).astype(np.float32)
    (expected,) = runtime.InferenceSession(path).run(None, {"x": x})
    derivative = Derivative(graph, folded(graph, graph.outputs))
    (found,) = derivative.values((torch.from_numpy(x.astype(np.float64)),), graph.outputs)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_an_if_of_an_unknown_condition_is_refused(tmp_path):
    def positive(net):
        return net.add("Greater", net.add("ReduceMean", "x", keepdims=0), np.array(0.0))

    path = branching(tmp_path / "m.onnx", positive, open_size=True)
    with pytest.raises(InputError, match="depends on Greater"):
        lipschitz(read_graph(path, sample_shape=SHAPE[1:]))


@pytest.mark.parametrize("name", [*LINEAR, *OTHERS, *ONLY_READ])
def test_the_graph_is_read_right(name, tmp_path):
    """Its values again in PyTorch are those of onnxruntime, which is another program."""
    torch = pytest.importorskip("torch")
    runtime = pytest.importorskip("onnxruntime")
    from convspectra.network.jacobian import Derivative

    path = written((LINEAR | OTHERS | ONLY_READ)[name], tmp_path, dtype=np.float32)
    if name == "cast":
        path = written(one("Cast", to=onnx.TensorProto.FLOAT), tmp_path, dtype=np.float32)
    x = rng(2).standard_normal(SHAPE).astype(np.float32)
    try:
        (expected,) = runtime.InferenceSession(path).run(None, {"x": x})
    except Exception as error:  # noqa: BLE001
        assert "NOT_IMPLEMENTED" in str(error)  # noqa: PT017
        expected = runner(path)(x)
    graph = read_graph(path)
    derivative = Derivative(graph, folded(graph, graph.outputs))
    (found,) = derivative.values((torch.from_numpy(x.astype(np.float64)),), graph.outputs)
    assert tuple(found.shape) == graph.shapes[graph.outputs[0]]
    np.testing.assert_allclose(found.numpy().reshape(-1), expected.reshape(-1), atol=2e-5)


@pytest.mark.parametrize("function", SLOPES)
def test_slopes_are_proven_and_tight(function):
    torch = pytest.importorskip("torch")
    from convspectra.network.jacobian import POINTWISE as FUNCTIONS

    given = {"alpha": 0.7, "beta": 0.4, "gamma": 1.3, "low": -1.0, "high": 2.0, "slope": np.array(-1.6)}
    given["threshold"] = 0.5
    # An odd count, so that no point is a kink.
    x = torch.linspace(-30, 30, 4_000_001, dtype=torch.float64) + 1e-9
    x.requires_grad_()
    (steepness,) = torch.autograd.grad(FUNCTIONS[function](x, given).sum(), x)
    steepest = float(steepness.abs().max())
    upper = SLOPES[function](given)
    assert steepest <= upper * (1 + 1e-12)
    assert upper <= steepest + 1e-3


def test_batch_norm_goes_into_the_convolution_and_padding_too(tmp_path):
    net = Net()
    padded = net.add("Pad", "x", np.array([0, 0, 1, 1, 0, 0, 1, 1]), mode="wrap")
    path = net.save(tmp_path / "net.onnx", batch_norm(net, conv(net, padded)))
    graph = read_graph(path)
    (node,) = folded(graph, graph.outputs)
    assert isinstance(node.operation, Convolution)
    assert node.operation.geometry == ConvGeometry((6, 5), padding=1, padding_mode="circular")
    report = lipschitz(graph)
    dense = np.linalg.norm(dense_operator(node.operation.kernel, node.operation.geometry), 2)
    assert report.joint.upper == pytest.approx(dense, rel=1e-9)
    assert report.nodes[0].operator == "Pad + Conv + BatchNormalization"
    # Not where something else reads what the convolution makes.
    net = Net()
    kept = conv(net, "x")
    path = net.save(tmp_path / "net.onnx", net.add("Add", kept, batch_norm(net, kept)))
    assert [node.operator for node in lipschitz(read_graph(path)).nodes] == [
        "Conv",
        "BatchNormalization",
        "Add",
    ]


def test_a_scale_in_front_of_an_activation_counts_where_the_kernel_reads(tmp_path):
    net = Net()
    kernel = normal(4, 4, 1, 1)
    kernel[:, 0] *= 1e-3
    gamma = np.array([1e3, 1, 1, 1])
    scaled = net.add("BatchNormalization", "x", gamma, np.zeros(4), np.zeros(4), np.ones(4) - 1e-5)
    path = net.save(tmp_path / "net.onnx", net.add("Conv", net.add("Relu", scaled), kernel))
    upper = lipschitz(read_graph(path)).joint.upper
    assert upper == pytest.approx(np.linalg.norm(kernel[:, :, 0, 0] * gamma, 2))
    assert upper < 1e-2 * np.linalg.norm(kernel[:, :, 0, 0], 2) * 1e3


def test_an_extreme_that_would_be_huge_takes_no_memory(tmp_path):
    net = Net((1, 2**16))
    path = net.save(tmp_path / "net.onnx", net.add("Max", "x", np.zeros((2**16, 1))))
    with pytest.raises(InputError, match=r"Max.*compares more than \d+ entries"):
        lipschitz(read_graph(path))


@pytest.mark.parametrize("name", ["max min", "slices together", "top k", "reduce max", "reduce min"])
def test_pieces_of_a_tensor_stretch_nothing(name, tmp_path):
    report = lipschitz(read_graph(written((LINEAR | OTHERS)[name], tmp_path)))
    assert report.joint.upper == pytest.approx(1, rel=1e-12)


def test_root_mean_square_norm(tmp_path):
    path = written(one("RMSNormalization", normal(5), epsilon=0.2), tmp_path, opset=23)
    upper, x = lipschitz(read_graph(path)).joint.upper, rng(1).standard_normal(SHAPE)
    assert upper == pytest.approx(np.abs(normal(5)).max() / 0.2**0.5)
    for scale in (1e-3, 0.3, 2):
        assert np.linalg.norm(jacobian(path, scale * x), 2) <= upper * TOLERANCE


def test_outputs_paths_and_products(tmp_path):
    net = Net()
    first = net.add("Mul", "x", np.array(3.0))
    second = net.add("Mul", net.add("Tanh", "x"), np.array(4.0))
    both = net.add("Concat", first, second, axis=1)
    last = net.add("Add", both, both)
    path = net.save(tmp_path / "net.onnx", last, first)
    report = lipschitz(read_graph(path))
    assert [out.upper for out in report.outputs] == pytest.approx([10, 3])
    assert report.joint.upper == pytest.approx(math.sqrt(109))
    assert report.joint.shape == (360,)
    assert report.path_product == pytest.approx(4)
    assert math.prod(node.gain for node in report.nodes if node.on_worst_path) == pytest.approx(10)
    inner = lipschitz(read_graph(path), outputs=[both])
    assert (inner.joint.name, inner.joint.upper) == (both, pytest.approx(5))
    with pytest.raises(InputError, match=r"must be a tensor .* 'add"):
        lipschitz(read_graph(path), outputs=["nothing"])


def test_several_inputs_are_taken_together(tmp_path):
    net = Net(inputs=("x", "y"))
    path = net.save(tmp_path / "net.onnx", net.add("Sub", "x", "y"))
    assert lipschitz(read_graph(path)).joint.upper == pytest.approx(2)
    net = Net(inputs=("x", "y"))
    path = net.save(tmp_path / "net.onnx", net.add("Mul", "x", "y"))
    with pytest.raises(InputError, match="Mul 'node0': a product of two tensors"):
        lipschitz(read_graph(path))


def test_what_overflows_is_infinite_and_zero_stays_zero(tmp_path):
    net, x = Net(), "x"
    for _ in range(3):
        x = net.add("Mul", net.add("Mul", x, np.array(1e200)), np.array(1e200))
    path = net.save(tmp_path / "net.onnx", x, net.add("Mul", x, np.array(0.0)))
    report = lipschitz(read_graph(path))
    assert [one.upper for one in report.outputs] == [math.inf, 0]
    assert report.joint.upper == math.inf
    console = Console(file=io.StringIO(), width=120)
    lipschitz_text.render(report, console)
    assert "L <= inf, beyond the floating range" in console.file.getvalue()
    assert json_file.as_dict(report)["joint"]["upper"] is None


REFUSED = {
    "MeanVarianceNormalization": one("MeanVarianceNormalization"),
    "LayerNormalization": lambda net, x: net.add("LayerNormalization", x, normal(5), epsilon=0.0),
    "Shrink": one("Shrink", lambd=0.5),
    "Exp": one("Exp"),
    "Sqrt": one("Sqrt"),
    "Mul": lambda net, x: net.add("Mul", x, net.add("Tanh", x)),
    "Div": lambda net, x: net.add("Div", np.array(1.0), x),
    "MatMul": lambda net, x: net.add("MatMul", x, net.add("Transpose", x, perm=[0, 1, 3, 2])),
    "Conv": lambda net, x: net.add("Conv", x, net.add("Reshape", x, np.array([1, 4, 6, 5]))),
    "Round": one("Round"),
    "Pow": one("Pow", np.array(2.0)),
    "ReduceProd": one("ReduceProd"),
    "Cast": lambda net, x: net.add("Cast", net.add("Cast", x, to=7), to=11),
    "Gather": lambda net, x: net.add("Gather", normal(4, 2), net.add("Cast", x, to=7)),
    "Resize": one("Resize", "", "", np.array([1, 4, 9, 3]), mode="cubic"),
    "TopK": lambda net, x: net.add(
        "Cast", net.add("TopK", x, np.array([2]), outputs=2)[1], to=onnx.TensorProto.DOUBLE
    ),
}


@pytest.mark.parametrize("beta", [-1.0, 0.2, 2.0])
def test_a_gate_with_another_shift_is_no_hard_swish(beta, tmp_path):
    """Its slope is 2 - beta."""
    path = written(
        lambda net, x: net.add("Mul", x, net.add("HardSigmoid", x, alpha=1 / 6, beta=beta)), tmp_path
    )
    with pytest.raises(InputError, match="a product of two tensors"):
        lipschitz(read_graph(path))


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_constant_is_refused_by_name(name, tmp_path):
    net = Net()
    before = net.add("Relu", conv(net, "x", pads=[1] * 4))
    last = net.add("Relu", REFUSED[name](net, before))
    path = net.save(tmp_path / "net.onnx", last, before)
    with pytest.raises(InputError) as caught:
        lipschitz(read_graph(path), outputs=[before, last])
    message = str(caught.value)
    operator = "Cast" if name == "Gather" else name
    assert f"depends on {operator} 'node" in message
    assert message.endswith(f"; outputs={before!r} has a bound")
    report = lipschitz(read_graph(path))
    assert list(report.refused) == [last]
    assert report.refused[last].startswith(f"depends on {operator} 'node")
    assert [one.name for one in report.outputs] == [before]
    assert report.joint.upper == lipschitz(read_graph(path), outputs=[before]).joint.upper > 0


def test_outputs_without_a_bound_are_named_beside_those_that_have_one(tmp_path):
    net = Net()
    before = net.add("Relu", conv(net, "x", pads=[1] * 4))
    last = net.add("Exp", before)
    path = net.save(tmp_path / "net.onnx", before, last)
    result = convspectra("lipschitz", path, "--points", 0, "--json", "r.json", cwd=tmp_path)
    assert result.returncode == 3
    assert f"net.onnx: {last} has no bound: it depends on Exp 'node" in result.stdout
    found = json.loads((tmp_path / "r.json").read_text())
    assert [one["name"] for one in found["outputs"]] == [before]
    assert found["refused"][last].startswith("depends on Exp 'node")
    refused(convspectra("lipschitz", path, "--output", last, cwd=tmp_path), f"--output {before} has a bound")


def test_weights_that_are_no_numbers(tmp_path):
    kernel = normal(4, 4, 3, 3)
    kernel[0, 0, 0, 0] = np.nan
    path = written(lambda net, x: net.add("Conv", x, kernel), tmp_path)
    with pytest.raises(InputError, match=r"^Conv 'w0'.*NaN|^Conv 'node0'.*NaN"):
        lipschitz(read_graph(path))


def test_hostile_graphs(tmp_path):
    path = tmp_path / "net.onnx"

    def says(words, net, *outputs, **options):
        net.save(path, *outputs)
        with pytest.raises(InputError, match=words) as caught:
            lipschitz(read_graph(path, **options))
        assert "\n" not in str(caught.value)

    net = Net()
    net.nodes += [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    says("reads 'b', which no node before it makes: the graph has a cycle", net, "b")
    net = Net()
    net.nodes.append(helper.make_node("Relu", ["x"], ["a"]))
    says("no node makes the output 'b'", net, "b")
    net = Net()
    net.nodes += [helper.make_node("Relu", ["x"], ["a"])] * 2
    says("makes 'a' a second time", net, "a")
    net = Net(shape=("N", 4, "H", 5))
    net.add("Relu", "x")
    says(r"the size of input 'x' \[1, 4, 'H', 5\] is open: give sample_shape", net, "relu0_0")
    assert lipschitz(read_graph(path, sample_shape=(4, 6, 5))).inputs == {"x": (1, 4, 6, 5)}
    says("contradicts the graph", net, "relu0_0", sample_shape=(3, 6, 5))
    net = Net(dtype=np.int64)
    net.add("Relu", "x")
    says("must hold floating point", net, "relu0_0")
    net = Net()
    says("does not fit", net, net.add("Conv", "x", normal(4, 3, 3, 3)))
    net = Net()
    says("Concat 'node0': it contradicts .*: KeyError", net, net.add("Concat", "x", "x"))
    net = Net()
    says("Transpose 'node0': it .*contradicts", net, net.add("Transpose", "x", perm=[7, 8]))
    net = Net()
    says("MaxPool 'node0': it contradicts", net, net.add("MaxPool", "x", kernel_shape=[2]))
    net = Net()
    says("Conv 'w0': groups", net, net.add("Conv", "x", normal(4, 3, 3, 3), group=3))
    net = Net()
    says("BatchNorm.* infinite or NaN", net, net.add("BatchNormalization", "x", *[-np.ones(4)] * 4))
    net = Net()
    says("do not broadcast", net, net.add("Add", "x", normal(4)))
    net = Net()
    says("makes a tensor of more than", net, net.add("Tile", "x", np.array([1, 1, 10**6, 10**6])))
    net = Net()
    huge = net.add("ConstantOfShape", np.array([10**6, 10**6]))
    says("would take 8,000,000,000,000 bytes of memory", net, net.add("Add", "x", huge))
    net = Net()
    net.nodes.append(helper.make_node("Foo", ["x"], ["a"], domain="some.where"))
    says("depends on some.where::Foo 'a'", net, "a")
    net = Net()
    says("no output of net.onnx depends on its input", net, net.add("Abs", normal(3)))
    path.write_bytes(b"\x08")
    with pytest.raises(InputError, match="not an ONNX model"):
        read_graph(path)
    with pytest.raises(InputError, match="does not exist"):
        read_graph(tmp_path / "none.onnx")
    with pytest.raises(InputError, match="give a model file"):
        read_graph()


def test_old_versions_of_operators(tmp_path):
    net = Net(opset=9, dtype=np.float32)
    x = net.add("Upsample", "x", np.array([1, 1, 2, 2], np.float32), mode="nearest")
    x = net.add("Slice", x, axes=[2], starts=[0], ends=[6])
    x = net.add("Squeeze", net.add("Unsqueeze", x, axes=[0]), axes=[0])
    shape = net.add("Shape", x)
    first = net.add("Unsqueeze", net.add("Gather", shape, np.array(0)), axes=[0])
    x = net.add("Reshape", x, net.add("Concat", first, np.array([-1]), axis=0))
    x = net.add("Softmax", net.add("Clip", x, min=-1.0, max=1.0))
    report = lipschitz(read_graph(net.save(tmp_path / "net.onnx", x)))
    assert report.joint.shape == (1, 240)
    assert report.joint.upper == pytest.approx(1)  # each entry four times, softmax 1/2


@pytest.fixture
def small(tmp_path):
    net = Net()
    x = net.add("GlobalAveragePool", residual(net, "x"))
    x = net.add("Gemm", net.add("Flatten", x), normal(4, 3))
    return net.save(tmp_path / "small.onnx", x)


def test_lower_bounds_at_points(small, tmp_path):
    pytest.importorskip("torch")
    graph = read_graph(small)
    points = rng(5).standard_normal((3, *SHAPE[1:]))
    report = lipschitz(graph, inputs=points, iterations=200)
    dense = max(np.linalg.norm(jacobian(small, x[None]), 2) for x in points)
    assert report.points == 3
    assert report.joint.lower == pytest.approx(dense, rel=1e-6)
    assert report.joint.lower <= report.joint.upper
    drawn = lipschitz(graph, points=2, between=(0.0, 1.0))
    assert 0 < drawn.joint.lower <= drawn.joint.upper
    assert drawn == lipschitz(graph, points=2, between=(0.0, 1.0))
    for wrong in (points[:, :2], points[0], points * np.nan, points.astype(str)):
        with pytest.raises(InputError, match=r"^inputs"):
            lipschitz(graph, inputs=wrong)
    file = tmp_path / "points.npy"
    np.save(file, points)
    assert measure(graph, file=file).points == 3
    file.write_bytes(b"nothing")
    with pytest.raises(InputError, match="no array"):
        measure(graph, file=file)
    with pytest.raises(InputError, match="cannot be read"):
        measure(graph, file=tmp_path / "none.npy")


def test_without_torch_there_is_no_lower_bound(small, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    report = measure(read_graph(small), points=3)
    assert report.joint.lower is None
    assert "PyTorch" in report.notes[0]


def test_text_and_json(small):
    report = lipschitz(read_graph(small))
    file = io.BytesIO()
    json_file.write(report, file)
    found = json.loads(file.getvalue())
    text = resources.files("convspectra.report") / "schema" / "lipschitz-1.schema.json"
    validator = jsonschema.Draft202012Validator(json.loads(text.read_text()))
    validator.check_schema(validator.schema)
    validator.validate(found)
    assert not validator.is_valid(found | {"joint": {}})
    assert found["joint"]["upper"] == report.joint.upper
    assert [node["name"] for node in found["nodes"]] == [node.name for node in report.nodes]
    console = Console(file=io.StringIO(), width=150)
    lipschitz_text.render(report, console)
    lines = console.file.getvalue().splitlines()
    assert sum("Conv + BatchNormalization" in line for line in lines) == 2
    assert lines[-1].startswith("small.onnx: ")
    assert "of constant 1 not shown" in console.file.getvalue()


def test_the_command(small, tmp_path):
    result = convspectra("lipschitz", small, "--points", "0", "--json", "r.json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "L <= " in result.stdout
    assert json.loads((tmp_path / "r.json").read_text())["schema"] == "convspectra.lipschitz/1"
    refused(convspectra("lipschitz", "none.onnx", cwd=tmp_path), "none.onnx")
    refused(convspectra("lipschitz", small, "--range", "1,0", cwd=tmp_path), "--range")
