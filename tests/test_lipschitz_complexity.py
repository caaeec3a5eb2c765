"""Spectral complexity and margins: (2,1) norms against the dense operator, formulas by hand."""

from __future__ import annotations

import io
import json
import math
from importlib import resources

import jsonschema
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rich.console import Console

from convspectra import ConvGeometry
from convspectra.cli.lipschitz import measure
from convspectra.errors import InputError
from convspectra.models.graphs import read_graph
from convspectra.models.operations import Node, Sum
from convspectra.network import lipschitz
from convspectra.network.complexity import checked_labels, complexity, margins
from convspectra.network.records import Complexity, LayerNorms
from convspectra.network.row_norms import matrix_norms, row_norms, squared_rows
from convspectra.operators.reference import dense_operator
from convspectra.report import json_file, lipschitz_text
from strategies import layers
from test_cli import convspectra, refused
from test_lipschitz import Net, normal

EXACT = 1 + 1e-12
MODES = ["zeros", "circular", "reflect", "replicate"]


def row_sum(matrix):
    return float(np.linalg.norm(matrix, axis=1).sum())


def found_norms(kernel, geometry):
    return row_norms(np.transpose(kernel, geometry.kernel_axes), geometry.correlation(kernel.shape))


def agrees(kernel, geometry):
    dense = dense_operator(kernel, geometry)
    two_one, frobenius = found_norms(kernel, geometry)
    # Taps that meet may cancel, so what rounding does is relative to their moduli.
    moduli = float(np.linalg.norm(dense_operator(np.abs(kernel), geometry)))
    for found, exact in ((two_one, row_sum(dense)), (frobenius, float(np.linalg.norm(dense)))):
        assert exact / EXACT - 1e-12 * moduli <= found <= exact * EXACT + 1e-12 * moduli
    squares, times = squared_rows(
        np.transpose(kernel, geometry.kernel_axes).astype(np.float64), geometry.correlation(kernel.shape)
    )
    assert squares.shape[0] * times.sum() == dense.shape[0]


TABLE = {
    "plain": ((4, 3, 3, 3), {"padding": 1}),
    "stride": ((4, 3, 3, 3), {"padding": ((1, 2), (0, 1)), "stride": (2, 3)}),
    "dilated groups": ((4, 2, 3, 2), {"padding": 2, "dilation": 2, "groups": 2}),
    "depthwise": ((3, 1, 3, 3), {"padding": 1, "groups": 3, "stride": 2}),
    "wide": ((2, 2, 7, 7), {"padding": 3}),
    "1x1": ((5, 3, 1, 1), {}),
    "1-D": ((3, 2, 5), {"padding": 2, "stride": 2}),
    "3-D": ((2, 2, 2, 3, 3), {"padding": (0, 1, 1)}),
}


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", TABLE)
def test_row_norms_are_those_of_the_dense_matrix(name, mode, transposed):
    shape, options = TABLE[name]
    kernel = normal(*shape)
    size = (4, 5, 3)[: kernel.ndim - 2]
    agrees(kernel, ConvGeometry(size, padding_mode=mode, transposed=transposed, **options))


@settings(max_examples=60)
@given(st.data(), st.sampled_from(MODES))
def test_row_norms_of_any_geometry(data, mode):
    kernel, geometry = data.draw(layers(mode))
    sides = geometry.correlation(kernel.shape).input_shape
    assume(mode != "reflect" or min(sides) > 1)  # a single point has nothing to mirror
    agrees(kernel, geometry)


def test_taps_that_meet_are_added_before_they_are_squared():
    kernel = np.array([[[1.0, -1.0]]])
    replicated = ConvGeometry(3, padding=((1, 0),), padding_mode="replicate")  # rows 0, (1, -1), (1, -1)
    assert found_norms(kernel, replicated) == pytest.approx((2 * math.sqrt(2), 2))
    padded = ConvGeometry(3, padding=((1, 0),))  # the first row has -1 alone
    assert found_norms(kernel, padded) == pytest.approx((1 + 2 * math.sqrt(2), math.sqrt(5)))
    wrapped = ConvGeometry(1, padding=((1, 0),), padding_mode="circular")
    assert found_norms(np.array([[[3.0, 4.0]]]), wrapped) == pytest.approx((7, 7))


@pytest.mark.parametrize("scale", [1e250, 1e-250])
def test_squares_leave_the_floating_range_where_norms_do_not(scale):
    kernel, geometry = normal(3, 2, 3), ConvGeometry(6, padding=1)
    expected = found_norms(kernel, geometry)
    assert np.array(found_norms(kernel * scale, geometry)) / scale == pytest.approx(expected)
    assert found_norms(kernel * 0, geometry) == (0, 0)


def test_matrix_norms_are_those_of_the_kronecker_product():
    first, second = normal(3, 4), normal(2, 5, seed=1)
    dense = np.kron(np.kron(first, np.eye(2)), second)
    assert matrix_norms([first, second], 2) == pytest.approx((row_sum(dense), np.linalg.norm(dense)))


def formula(matrices, rho=1.0):
    """By its definition."""
    norms = [np.linalg.norm(one, 2) for one in matrices]
    quotients = [(row_sum(one) / norm) ** (2 / 3) for one, norm in zip(matrices, norms, strict=True)]
    return rho * math.prod(norms) * sum(quotients) ** 1.5


def read(net, path, *outputs):
    return read_graph(net.save(path / "net.onnx", *outputs))


def linear_net(tmp_path, activation="Relu", **attributes):
    net, matrices = Net(shape=(1, 5)), [normal(4, 5), normal(6, 4, seed=1), normal(3, 6, seed=2)]
    x = net.add("Gemm", "x", matrices[0], transB=1)
    for matrix in matrices[1:]:
        x = net.add("Gemm", net.add(activation, x, **attributes), matrix, transB=1)
    return read(net, tmp_path, x), matrices


def test_a_chain_by_hand(tmp_path):
    net = Net(shape=(1, 2))
    # Norms 2 and 5, row sums 3 and 5: 10 ((3/2)^(2/3) + 1)^(3/2).
    x = net.add("Gemm", "x", np.diag([2.0, 1.0]))
    x = net.add("Gemm", net.add("Relu", x), np.array([[3.0], [4.0]]))
    found = lipschitz(read(net, tmp_path, x)).complexity
    assert found.value == pytest.approx(10 * (1.5 ** (2 / 3) + 1) ** 1.5)
    assert (found.status, found.departures) == ("theorem", ())
    assert found.product == pytest.approx(10)
    assert found.value == pytest.approx(found.product * found.correction)
    assert found.log10 == pytest.approx(math.log10(found.value))
    assert [layer.two_one for layer in found.layers] == pytest.approx([3, 5])
    assert [(layer.inputs, layer.outputs) for layer in found.layers] == [(2, 2), (2, 1)]


@pytest.mark.parametrize(
    ("activation", "attributes", "slope"),
    [("Relu", {}, 1), ("Tanh", {}, 1), ("LeakyRelu", {"alpha": 3.0}, 3), ("Elu", {"alpha": 2.0}, 2)],
)
def test_nonlinearities_count_by_their_constants(activation, attributes, slope, tmp_path):
    graph, matrices = linear_net(tmp_path, activation, **attributes)
    found = lipschitz(graph).complexity
    assert found.value == pytest.approx(formula(matrices, slope**2), rel=1e-9)
    assert found.value >= formula(matrices, slope**2) / EXACT
    assert found.status == "theorem"


def test_convolutions_count_as_they_pad_and_pooling_as_a_nonlinearity(tmp_path):
    net = Net(shape=(1, 3, 6, 6))
    kernels = [normal(4, 3, 3, 3), normal(4, 4, 3, 3, seed=1)]
    x = net.add("Conv", "x", kernels[0], pads=[1] * 4)
    x = net.add("MaxPool", net.add("Relu", x), kernel_shape=[2, 2], strides=[2, 2])
    x = net.add("Conv", x, kernels[1], pads=[1] * 4)
    x = net.add("Flatten", net.add("GlobalAveragePool", x))
    matrix = normal(2, 4, seed=3)
    report = lipschitz(read(net, tmp_path, net.add("Gemm", x, matrix, transB=1)))
    found = report.complexity
    dense = [
        dense_operator(kernel, ConvGeometry(size, padding=1))
        for kernel, size in zip(kernels, ((6, 6), (3, 3)), strict=True)
    ]
    exact = formula([*dense, matrix], rho=1 / 3)  # of the mean over 9 points
    assert exact <= found.value * EXACT
    assert found.value <= exact * 1.1
    assert (found.status, len(found.layers)) == ("theorem", 3)
    for layer, one in zip(found.layers, [*dense, matrix], strict=True):
        assert layer.lower / EXACT <= np.linalg.norm(one, 2) <= layer.upper * EXACT
        assert layer.two_one == pytest.approx(row_sum(one), rel=1e-12)
        assert layer.frobenius == pytest.approx(np.linalg.norm(one), rel=1e-12)


def test_a_batch_is_a_longer_input(tmp_path):
    net, kernel = Net(shape=(2, 3, 5)), normal(4, 3, 3)
    (layer,) = lipschitz(read(net, tmp_path, net.add("Conv", "x", kernel))).complexity.layers
    dense = np.kron(np.eye(2), dense_operator(kernel, ConvGeometry(5)))
    assert (layer.outputs, layer.inputs) == dense.shape
    assert (layer.two_one, layer.frobenius) == pytest.approx((row_sum(dense), np.linalg.norm(dense)))


def test_with_branches_it_is_an_analogue_of_the_networks_bound(tmp_path):
    net, kernel = Net(shape=(1, 3, 6)), normal(3, 3, 3)
    x = net.add("Add", "x", net.add("Conv", "x", kernel, pads=[1, 1]))
    report = lipschitz(read(net, tmp_path, x))
    found, dense = report.complexity, dense_operator(kernel, ConvGeometry(6, padding=1))
    norm = np.linalg.norm(dense, 2)
    assert found.product == pytest.approx(report.joint.upper)
    # The quotient falls as the norm grows: its lower bound is what keeps this above.
    assert found.value * EXACT >= (1 + norm) * row_sum(dense) / norm
    assert found.value <= (1 + norm) * row_sum(dense) / norm * 1.1
    assert found.status == "analogue"
    assert "branches" in found.departures[0]


def by_hand(norms, chain, product=100.0):
    """The complexity of layers of norms `(lower, upper)`, of which each has the (2,1) norm 2."""
    layers = [
        LayerNorms(f"{i}", "Gemm", 9, 9, lower, upper, 2.0, 1.5) for i, (lower, upper) in enumerate(norms)
    ]
    branches = Node("sum", "Add", Sum((1.0, 1.0)), ("x", "x"), "y")
    constants = [upper for _, upper in norms]
    return complexity([] if chain else [branches], layers, constants, product, outputs=1)


def test_quotients_are_taken_by_the_side_that_is_proven():
    assert by_hand([(1.0, 4.0)], chain=True).value == pytest.approx(4 * 2 / 4)
    assert by_hand([(1.0, 4.0)], chain=False).value == pytest.approx(100 * 2 / 1)
    # Below the norm in any case: the Frobenius norm over the root of the rank.
    assert by_hand([(0.0, 4.0)], chain=False).value == pytest.approx(100 * 2 / 0.5)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=5), st.floats(1, 1e3))
def test_of_a_chain_it_grows_with_each_norm(norms, factor):
    value = by_hand([(0.0, norm) for norm in norms], chain=True).value
    larger = [(0.0, norm * factor if i == 0 else norm) for i, norm in enumerate(norms)]
    assert by_hand(larger, chain=True).value >= value / EXACT
    assert value == pytest.approx(math.prod(norms) * sum((2 / norm) ** (2 / 3) for norm in norms) ** 1.5)


DEPARTURES = {
    "biases": lambda net, x: net.add("Gemm", x, normal(5, 4), normal(4)),
    "scales and shifts": lambda net, x: net.add("Mul", net.add("Relu", x), normal(5)),
    "not 0 at 0": lambda net, x: net.add("Sigmoid", net.add("Gemm", x, normal(5, 4))),
    "no layer": lambda net, x: net.add("Relu", x),
    "branches": lambda net, x: net.add("Concat", x, net.add("Gemm", x, normal(5, 4)), axis=1),
}


@pytest.mark.parametrize("words", DEPARTURES)
def test_what_the_theorem_is_not_about_is_said(words, tmp_path):
    net = Net(shape=(1, 5))
    found = lipschitz(read(net, tmp_path, DEPARTURES[words](net, "x"))).complexity
    assert found.status == "analogue"
    assert any(words in one for one in found.departures), found.departures


def test_zeros_that_shift_nothing_depart_from_nothing(tmp_path):
    net = Net(shape=(1, 5))
    x = net.add("Clip", net.add("Neg", net.add("Gemm", "x", normal(5, 4), np.zeros(4))), 0.0, 6.0)
    assert lipschitz(read(net, tmp_path, x)).complexity.departures == ()


def deep(tmp_path, factor, layers=3):
    net, x = Net(shape=(1, 2)), "x"
    for _ in range(layers):
        x = net.add("Relu", net.add("Gemm", x, factor * np.eye(2)))
    return lipschitz(read(net, tmp_path, x))


def test_what_overflows_has_its_logarithm_and_zero_is_zero(tmp_path):
    exact = math.log10(2 * 3**1.5)
    report = deep(tmp_path, 1e200)
    assert report.complexity.value == math.inf
    assert report.complexity.log10 == pytest.approx(600 + exact)
    assert deep(tmp_path, 1e-200).complexity.log10 == pytest.approx(exact - 600)
    nothing = deep(tmp_path, 0.0).complexity
    assert (nothing.value, nothing.log10) == (0, None)
    net = Net(shape=(1, 2))
    x = net.add("Add", "x", net.add("Gemm", "x", np.zeros((2, 2))))
    assert lipschitz(read(net, tmp_path, x)).complexity.value == 0
    assert json_file.as_dict(report)["complexity"]["value"] is None


def complexity_of(value):
    log10 = math.log10(value) if value else None
    return Complexity(value, log10, value, 1.0, "theorem", (), ())


def test_margins_by_hand():
    values = np.array([[3.0, 1.0, 2.0], [0.0, 5.0, 5.0], [1.0, 4.0, 0.0], [np.nan, 0.0, 1.0]])
    labels, inputs = np.array([0, 1, 0, 2]), np.full((4, 1, 2, 2), 1.5)
    found = margins("y", values, labels, inputs, complexity_of(8.0))
    # 3 - 2, a tie, 1 - 4; ||X||_F = 6, so the unit is 8 * 6 / 4.
    assert (found.examples, found.correct, found.left_out) == (4, 1, 1)
    assert found.data_norm == pytest.approx(6)
    assert [found.quantiles[level] for level in (0.0, 0.5, 1.0)] == [-3, 0, 1]
    assert [found.normalised[level] for level in (0.0, 0.5, 1.0)] == pytest.approx([-1 / 4, 0, 1 / 12])
    assert margins("y", values, labels, 0 * inputs, complexity_of(8.0)).normalised is None
    assert margins("y", values, labels, inputs, complexity_of(0.0)).normalised is None
    nothing = margins("y", values[3:], labels[3:], inputs[3:], complexity_of(8.0))
    assert (nothing.correct, nothing.left_out, nothing.quantiles, nothing.normalised) == (0, 1, {}, None)


WRONG = {
    "floats": (np.zeros(3), r"integers of shape \(3,\).*got float64 of shape \(3,\)"),
    "too few": (np.zeros(2, int), r"got int64 of shape \(2,\)"),
    "a column": (np.zeros((3, 1), int), r"of shape \(3, 1\)"),
    "a bool": (np.zeros(3, bool), "got bool"),
    "negative": (np.array([0, -1, 1]), "between 0 and 3.*from -1 to 1"),
    "too large": (np.array([0, 4, 1], np.uint8), "as the output has 4 classes"),
}


@pytest.mark.parametrize("name", WRONG)
def test_labels_that_do_not_fit(name):
    labels, words = WRONG[name]
    with pytest.raises(InputError, match=words):
        checked_labels(labels, np.zeros((3, 2)), {"y": (1, 4)})


def test_labels_need_inputs_and_one_output_of_classes():
    labels, inputs = np.array([0, 1, 3], np.uint8), np.zeros((3, 2))
    assert checked_labels(labels, inputs, {"y": (1, 4)}).tolist() == [0, 1, 3]
    with pytest.raises(InputError, match="give inputs too"):
        checked_labels(labels, None, {"y": (1, 4)})
    with pytest.raises(InputError, match=r"shape \(0,\)"):
        checked_labels(labels[:0], inputs[:0], {"y": (1, 4)})
    with pytest.raises(InputError, match=r"one output.*'z' of shape \(1, 3\) with outputs="):
        checked_labels(labels, inputs, {"y": (1, 4), "z": (1, 3)})
    for shape in ((1, 4, 2), (1, 1), (2, 4), (4,)):
        with pytest.raises(InputError, match=r"\(1, classes\); got 'y' of shape"):
            checked_labels(labels, inputs, {"y": shape})


def test_mistakes_on_the_command_line(tmp_path):
    net = Net(shape=(1, 5))
    net.save(tmp_path / "net.onnx", net.add("Gemm", "x", normal(5, 4)))
    np.save(tmp_path / "labels.npy", np.zeros(2, int))
    command = ("lipschitz", "net.onnx", "--labels", "labels.npy", "--json", "r.json")
    refused(convspectra(*command, cwd=tmp_path), "--labels", "--inputs")
    assert not (tmp_path / "r.json").exists()
    with pytest.raises(InputError, match=r"--labels .* cannot be read"):
        measure(
            read_graph(tmp_path / "net.onnx"), file=tmp_path / "labels.npy", labels=tmp_path / "no/labels.npy"
        )


def test_text_and_json(tmp_path):
    report = lipschitz(linear_net(tmp_path)[0])
    file = io.BytesIO()
    json_file.write(report, file)
    found = json.loads(file.getvalue())
    text = resources.files("convspectra.report") / "schema" / "lipschitz-1.schema.json"
    validator = jsonschema.Draft202012Validator(json.loads(text.read_text()))
    validator.validate(found)
    assert found["complexity"]["value"] == report.complexity.value
    assert "Bartlett" in found["complexity"]["source"]
    assert (found["gains"], found["margins"]) == (None, None)
    for name in ("complexity", "gains", "margins"):
        assert not validator.is_valid({key: one for key, one in found.items() if key != name})
    assert not validator.is_valid(found | {"complexity": found["complexity"] | {"status": "proven"}})
    console = Console(file=io.StringIO(), width=150)
    lipschitz_text.render(report, console)
    shown = console.file.getvalue()
    assert "Spectral complexity R_A <= " in shown
    assert "from the (2,1) norms of 3 layers, as in Bartlett, Foster and Telgarsky (2017)." in shown
