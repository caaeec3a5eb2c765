"""Gains of layers against dense matrices and their norms, margins of classifiers, the figure."""

from __future__ import annotations

import io
import json
import math
import os
from importlib import resources
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from rich.console import Console

torch = pytest.importorskip("torch", reason="could not import 'torch'")

from torch import nn  # noqa: E402

from convspectra import ConvGeometry  # noqa: E402
from convspectra.cli.lipschitz import measure  # noqa: E402
from convspectra.errors import InputError  # noqa: E402
from convspectra.models.graphs import read_graph  # noqa: E402
from convspectra.network import lipschitz  # noqa: E402
from convspectra.network.folding import folded  # noqa: E402
from convspectra.network.gains import gains  # noqa: E402
from convspectra.network.jacobian import POINTWISE, Derivative  # noqa: E402
from convspectra.network.slopes import NOT_ZERO_AT_ZERO  # noqa: E402
from convspectra.operators.reference import dense_operator  # noqa: E402
from convspectra.report import json_file, lipschitz_text  # noqa: E402
from test_cli import convspectra, refused  # noqa: E402
from test_lipschitz_torch import SHAPE, Function  # noqa: E402

DATA = os.environ.get("CONVSPECTRA_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="CONVSPECTRA_DATA is not set")
# What rounding may add to a gain that is as large as the norm.
ROUNDING = 1 + 1e-10
BIAS = torch.tensor([0.3, -0.2, 0.1])


def points(count, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).standard_normal((count, *shape))


def classifier():
    """One convolution and one linear layer, whose matrices `matrices` has."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(2, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(9, 4))
    return net.double().eval()


def matrices(net):
    kernel = net[0].weight.detach().numpy()
    return dense_operator(kernel, ConvGeometry(5, padding=1, stride=2)), net[3].weight.detach().numpy()


def spread_of(values):
    return pytest.approx((len(values), 0, min(values), float(np.median(values)), max(values)))


def as_tuple(spread):
    return spread.count, spread.left_out, spread.least, spread.median, spread.largest


def length(vector):
    return float(np.linalg.norm(vector))


def test_gains_and_margins_of_a_classifier_by_hand():
    net, inputs, labels = classifier(), points(6, (2, 5)), np.array([0, 3, 2, 2, 1, 0])
    graph = read_graph(module=net, sample_shape=(2, 5))
    report = lipschitz(graph, inputs=inputs, labels=labels, points=2, iterations=2)
    first, last = matrices(net)
    forward, backward, margins = [[], []], [[], []], []
    for x, label in zip(inputs.reshape(6, -1), labels, strict=True):
        before = first @ x + np.repeat(net[0].bias.detach().numpy(), 3)
        h = np.maximum(before, 0)
        y = last @ h + net[3].bias.detach().numpy()
        other = max((j for j in range(4) if j != label), key=lambda j, y=y: y[j])
        margins.append(y[label] - y[other])
        g = last[label] - last[other]
        # The gradient at the last layer's output is e_y - e_j, of length sqrt(2).
        backward[1].append(length(g) / math.sqrt(2))
        g = g * (before > 0)
        backward[0].append(length(first.T @ g) / length(g))
        forward[0].append(length(first @ x) / length(x))
        forward[1].append(length(last @ h) / length(h))
    found = report.gains
    assert (found.points, found.given, found.direction, report.points) == (6, True, "margin", 8)
    for layer, matrix, ahead, back in zip(found.layers, (first, last), forward, backward, strict=True):
        assert as_tuple(layer.forward) == spread_of(ahead)
        assert as_tuple(layer.backward) == spread_of(back)
        assert layer.white_forward == pytest.approx(length(matrix) / math.sqrt(matrix.shape[1]))
        assert layer.white_backward == pytest.approx(length(matrix) / math.sqrt(matrix.shape[0]))
    assert report.margins.correct == sum(one > 0 for one in margins)
    for level, value in report.margins.quantiles.items():
        assert value == pytest.approx(np.quantile(margins, level))
    unit = report.complexity.value * length(inputs) / 6
    assert report.margins.normalised[0.5] == pytest.approx(np.median(margins) / unit)


def test_a_gain_reaches_the_norm_where_the_signal_is_its_singular_vector():
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 2)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.diag(torch.tensor([4.0, 2.0, 1.0])))
    graph = read_graph(module=net, sample_shape=(3, 3))
    (layer, _) = lipschitz(graph, inputs=np.tile([2.5, 0, 0], (1, 3, 1)), iterations=1).gains.layers
    assert layer.forward.median == pytest.approx(4)
    assert layer.upper == pytest.approx(4)


def test_the_gradient_is_that_of_all_branches_and_the_adjoint_that_of_the_layer():
    torch.manual_seed(0)
    net = Function(
        lambda net, x: net.last((net.first(x).relu() + x).flatten(1)),
        first=nn.Conv1d(2, 2, 3, padding=1),
        last=nn.Linear(10, 3),
    ).double()
    graph, inputs, labels = read_graph(module=net, sample_shape=(2, 5)), points(1, (2, 5)), np.array([1])
    (layer, _) = lipschitz(graph, inputs=inputs, labels=labels, iterations=1).gains.layers
    kernel = net.first.weight.detach().numpy()
    matrix = dense_operator(kernel, ConvGeometry(5, padding=1))
    x = torch.from_numpy(inputs)
    made = net.first(x).detach().requires_grad_()
    values = net.last((made.relu() + x).flatten(1))[0]
    other = max((0, 2), key=lambda j: float(values[j].detach()))
    (g,) = torch.autograd.grad(values[1] - values[other], made)
    g = g.numpy().reshape(-1)
    assert layer.backward.median == pytest.approx(length(matrix.T @ g) / length(g))


def test_batch_norm_belongs_to_the_layer_and_the_bias_does_not():
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(3)
    nn.init.normal_(norm.weight)
    norm.running_mean.fill_(7.0)
    net = nn.Sequential(nn.Conv1d(2, 3, 3), norm).double().eval()
    inputs = points(1, (2, 5))
    (layer,) = lipschitz(
        read_graph(module=net, sample_shape=(2, 5)), inputs=inputs, iterations=1
    ).gains.layers
    difference = (net(torch.from_numpy(inputs)) - net(torch.zeros(1, 2, 5).double())).detach().numpy()
    assert layer.forward.median == pytest.approx(length(difference) / length(inputs))


def test_what_is_zero_has_no_gain_and_is_counted(tmp_path):
    net = classifier()
    with torch.no_grad():
        net[0].bias.fill_(-1e3)
    report = lipschitz(read_graph(module=net, sample_shape=(2, 5)), points=3, iterations=1)
    dead, last = report.gains.layers
    assert as_tuple(dead.backward) == (0, 3, None, None, None)
    assert as_tuple(last.forward) == (0, 3, None, None, None)
    assert dead.forward.count == last.backward.count == 3
    inputs = np.concatenate([points(2, (2, 5)), np.zeros((1, 2, 5))])
    (first, _) = lipschitz(read_graph(module=net, sample_shape=(2, 5)), inputs=inputs).gains.layers
    assert (first.forward.count, first.forward.left_out) == (2, 1)
    pytest.importorskip("matplotlib", reason="could not import 'matplotlib'")
    from convspectra.report.lipschitz_pictures import write_pictures

    (path,) = write_pictures(report, tmp_path, "png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_directions_are_drawn_anew_for_each_point_and_by_the_seed():
    graph = read_graph(module=classifier(), sample_shape=(2, 5))
    derivative = Derivative(graph, folded(graph, graph.outputs))
    layers = lipschitz(graph).complexity.layers
    same = [(torch.ones(1, 2, 5, dtype=torch.float64),)] * 2

    def drawn(seed):
        return gains(graph, derivative, layers, same, graph.outputs, seed=seed).layers[1].backward

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)
    assert drawn(0).least < drawn(0).largest


def test_tiny_and_huge_signals_have_gains():
    net = nn.Linear(3, 2).double()
    graph = read_graph(module=net, sample_shape=(4, 3))
    x = points(1, (4, 3))
    found = [
        lipschitz(graph, inputs=scale * x, iterations=1).gains.layers[0].forward
        for scale in (1, 1e-250, 1e250)
    ]
    assert all(one.count == 1 and one.median == pytest.approx(found[0].median) for one in found)


def test_which_functions_are_zero_at_zero():
    given = {"alpha": 0.7, "beta": 0.4, "gamma": 1.3, "low": -1.0, "high": 2.0, "slope": np.array(-1.6)}
    given["threshold"] = 0.5
    zero = torch.zeros(1, dtype=torch.float64)
    for parameters in (given, {**given, "low": 0.5, "beta": -1.0}, {**given, "high": -0.5, "low": -2.0}):
        for name, function in POINTWISE.items():
            if name == "softplus" and parameters["beta"] < 0:
                continue  # refused when it is read
            claimed = name in NOT_ZERO_AT_ZERO and NOT_ZERO_AT_ZERO[name](parameters)
            assert (float(function(zero, parameters)) != 0) == claimed, name


def test_text_and_json():
    net = classifier()
    graph = read_graph(module=net, sample_shape=(2, 5))
    report = lipschitz(graph, inputs=points(4, (2, 5)), labels=np.array([0, 1, 2, 3]), iterations=1)
    file = io.BytesIO()
    json_file.write(report, file)
    found = json.loads(file.getvalue())
    text = resources.files("convspectra.report") / "schema" / "lipschitz-1.schema.json"
    validator = jsonschema.Draft202012Validator(json.loads(text.read_text()))
    validator.validate(found)
    assert [layer["name"] for layer in found["gains"]["layers"]] == ["0", "3"]
    assert found["margins"]["quantiles"]["0.5"] == report.margins.quantiles[0.5]
    broken = json.loads(file.getvalue())
    broken["gains"]["layers"][0]["forward"]["count"] = "four"
    assert not validator.is_valid(broken)
    console = Console(file=io.StringIO(), width=150)
    lipschitz_text.render(report, console)
    shown = console.file.getvalue()
    assert "at 4 inputs: " in shown
    assert "Relative to R_A ||X||_F / n, at least as far from 0: least " in shown
    assert "Gains of 2 layers at 4 given points" in shown


@pytest.fixture
def folder(tmp_path):
    program = torch.export.export(classifier(), (torch.zeros(1, 2, 5, dtype=torch.float64),))
    torch.export.save(program, tmp_path / "net.pt2")
    np.save(tmp_path / "x.npy", points(3, (2, 5)))
    np.save(tmp_path / "y.npy", np.array([0, 1, 3]))
    return tmp_path


@pytest.mark.slow
def test_the_command_draws_gains_and_counts_margins(folder):
    pytest.importorskip("matplotlib", reason="could not import 'matplotlib'")
    options = ["--inputs", "x.npy", "--labels", "y.npy", "--points", "0", "--json", "r.json"]
    result = convspectra("lipschitz", "net.pt2", *options, "--png", "p", "--svg", "s", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert (folder / "p" / "gains.png").read_bytes().startswith(b"\x89PNG")
    drawn = (folder / "s" / "gains.svg").read_text()
    assert all(words in drawn for words in ("norm, both bounds", "forward: median, range", "white noise"))
    found = json.loads((folder / "r.json").read_text())
    assert (found["margins"]["examples"], found["gains"]["direction"]) == (3, "margin")
    assert "Spectral complexity R_A <= " in result.stdout
    refused(
        convspectra("lipschitz", "net.pt2", "--points", "0", "--png", "q", cwd=folder), "--png", "--inputs"
    )
    assert not (folder / "q").exists()
    program = torch.export.export(nn.ReLU(), (torch.zeros(1, 2, 5),))
    torch.export.save(program, folder / "relu.pt2")
    result = convspectra("lipschitz", "relu.pt2", "--json", "q.json", "--png", "q", cwd=folder)
    assert result.returncode == 2
    assert "relu.pt2 has no gains to draw" in result.stderr
    assert "Spectral complexity" not in result.stdout
    assert not (folder / "q").exists()
    assert not (folder / "q.json").exists()


@pytest.mark.slow
def test_mistakes_with_labels(folder):
    def says(words, labels, model="net.pt2"):
        np.save(folder / "wrong.npy", labels)
        with pytest.raises(InputError, match=words):
            measure(read_graph(folder / model), file=folder / "x.npy", labels=folder / "wrong.npy")

    says(r"shape \(3,\).*got float64", labels=np.zeros(3))
    says("between 0 and 3", labels=np.array([0, 1, 4]))
    program = torch.export.export(classifier()[:1], (torch.zeros(1, 2, 5, dtype=torch.float64),))
    torch.export.save(program, folder / "maps.pt2")
    says(r"\(1, classes\); got .* of shape \(1, 3, 3\).* outputs=", np.array([0, 1, 2]), model="maps.pt2")
    np.save(folder / "wrong.npy", np.array([0, 1]))
    options = ("--inputs", "x.npy", "--labels", "wrong.npy", "--json", "r.json", "--png", "p")
    refused(convspectra("lipschitz", "net.pt2", *options, cwd=folder), "shape (3,)", "int64 of shape (2,)")
    assert not {"r.json", "p"} & {path.name for path in folder.iterdir()}


def test_nothing_to_draw_is_an_error(tmp_path):
    pytest.importorskip("matplotlib", reason="could not import 'matplotlib'")
    from convspectra.report.lipschitz_pictures import write_pictures

    report = lipschitz(read_graph(module=nn.ReLU(), sample_shape=SHAPE), points=1)
    with pytest.raises(InputError, match="has no gains to draw"):
        write_pictures(report, tmp_path, "png")


@needs_data
def test_the_gains_of_a_published_residual_network():
    from convspectra_experiments.networks.published import load_published

    module = load_published(Path(DATA) / "models" / "resnet20-12fca82f.th")
    graph = read_graph(module=module, sample_shape=(3, 32, 32))
    report = lipschitz(graph, points=2, iterations=1)
    assert len(report.gains.layers) == 20
    assert report.complexity.status == "analogue"
    for layer in report.gains.layers:
        assert layer.forward.largest <= layer.upper
        assert layer.backward.largest <= layer.upper
    # The first layer's gains once more, from the module as it stands.
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((1, 3, 32, 32), generator=generator, dtype=torch.float64)
    first = Derivative(graph, folded(graph, graph.outputs)).steps[0][1]
    difference = first(x) - first(torch.zeros_like(x))
    ahead = float(torch.linalg.vector_norm(difference) / torch.linalg.vector_norm(x))
    assert report.gains.layers[0].forward.least <= ahead * ROUNDING
    assert ahead <= report.gains.layers[0].forward.largest * ROUNDING
