"""What an analysis takes is known before it is begun, and what is beyond the limits is refused with it."""

from __future__ import annotations

import json
import re
import time
import tracemalloc

import numpy as np
import pytest
from typer.testing import CliRunner

import convspectra as cs
from convspectra._solvers.pool import available_cores
from convspectra.analysis import analyze, compare
from convspectra.cli.app import app
from convspectra.cli.lipschitz import measure
from convspectra.cost import of_applications
from convspectra.errors import CostError
from convspectra.krylov import largest
from convspectra.models import ConvLayer, Model
from convspectra.models.graphs import read_graph
from convspectra.models.operations import Convolution
from convspectra.network import lipschitz
from convspectra.network.constants import norm_interval
from convspectra.report.text import watching
from convspectra.symbol import cost_of
from convspectra.work import beyond, work_of


def layer(shape, kernel, name="layer", **options):
    """Of a kernel, or of zeros of its shape."""
    kernel = np.zeros(kernel) if isinstance(kernel, tuple) else kernel
    geometry = cs.ConvGeometry(shape, **({"padding": "same"} | options))
    return ConvLayer(name, "conv", kernel, geometry.layout, geometry)


def random(*shape):
    return np.random.default_rng(0).standard_normal(shape)


def model(*layers):
    return Model("model", "by hand", tuple(layers))


def unet(size, width):
    for level in range(5):
        n, c = (size >> level,) * 2, width << level
        yield layer(n, (c, c // 2 if level else 3, 3, 3))
        yield layer(n, (c, c, 3, 3))
        if level < 4:
            yield layer((n[0] // 2,) * 2, (2 * c, c, 2, 2), stride=2, transposed=True, padding=0)
            yield layer(n, (c, 2 * c, 3, 3))


def resnet50(size):
    yield layer((size, size), (64, 3, 7, 7), stride=2, padding=3)
    inputs, n = 64, size // 4
    for stage, blocks in enumerate((3, 4, 6, 3)):
        middle = 64 << stage
        for _ in range(blocks):
            yield layer((n, n), (middle, inputs, 1, 1))
            yield layer((n, n), (middle, middle, 3, 3))
            yield layer((n, n), (4 * middle, middle, 1, 1))
            inputs = 4 * middle
        n //= 2


def sound(samples, channels):
    yield layer(samples, (channels, 1, 80), stride=4, padding=0)
    for i in range(30):
        dilation = 2 ** (i % 10)
        yield layer(samples, (2 * channels, channels, 2), dilation=dilation, padding=dilation)


NETWORKS = {
    "U-Net at 512": lambda: unet(512, 64),
    "ResNet-50 at 224": lambda: resnet50(224),
    "16,000 samples": lambda: sound(16_000, 64),
    "160,000 samples": lambda: sound(160_000, 32),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_as_people_have_them_are_within_the_limits(name):
    layers = list(NETWORKS[name]())
    work = [work_of(one) for one in layers]
    assert min(one.seconds for one in work) > 0
    assert beyond(layers, work, None) == {}
    for one in layers:  # nothing is refused for its memory
        of_applications(one.geometry.correlation(one.kernel.shape), 1)
        cost_of(one.geometry.on_torus().correlation(one.kernel.shape))


def test_a_small_file_that_asks_for_hours_is_refused_with_the_estimate_and_the_rest_is_done():
    absurd = layer((20_000, 20_000), random(2, 3, 3, 3), "absurd")
    hours = layer((3000, 3000), random(3, 3, 61, 61), "hours")
    fine = layer((6, 6), random(2, 3, 3, 3), "fine")
    began = time.process_time()
    found = analyze(model(absurd, hours, fine), spectrum="exact")
    assert time.process_time() - began < 20
    assert [one.status for one in found.layers] == ["partial", "skipped", "ok"]
    assert "GiB" in found.layers[0].reason
    assert "3000 x 3000 take about" in found.layers[1].reason
    assert " s of one core" in found.layers[1].reason
    assert not found.complete


def test_many_layers_of_one_tensor_do_not_have_its_weights_many_times():
    kernel = random(2, 3, 3, 3)
    layers = [layer((700, 700), kernel, str(i)) for i in range(200)]
    work = [work_of(one) for one in layers]
    refused = beyond(layers, work, None)
    assert 0 < len(refused) < 200
    assert sum(one.seconds for i, one in enumerate(work) if i not in refused) < 11
    assert beyond(layers, work, 1e9).keys() < refused.keys()


def test_the_limit_can_be_raised_and_what_is_kept_costs_nothing(tmp_path):
    one = layer((64, 64), random(2, 3, 3, 3))
    refused = analyze(model(one), max_seconds=0.001, resume=tmp_path).layers[0]
    assert refused.status == "skipped"
    assert "max_seconds is 0" in refused.reason
    assert refused.torus is None
    assert refused.any_size is not None
    done = analyze(model(one), max_seconds=100, resume=tmp_path)
    assert done.complete
    again = analyze(model(one), max_seconds=0.001, resume=tmp_path)
    assert (again.complete, again.layers[0].torus) == (True, done.layers[0].torus)


def test_a_kernel_without_geometry_whose_bound_takes_too_long_is_refused():
    bare = ConvLayer("bare", "conv2d", random(1, 1, 500, 500), "OIHW", None, reason="input size unknown")
    found = analyze(model(bare)).layers[0]
    assert found.status == "skipped"
    assert found.any_size is None
    assert found.reason.startswith("input size unknown; inputs of any size take about")


@pytest.mark.parametrize("value", [0, -1, float("nan"), "3", True])
def test_a_limit_that_is_no_number_is_refused(value):
    with pytest.raises(cs.InputError, match="max_memory"), cs.max_memory(value):
        pass
    with pytest.raises(cs.InputError, match="max_seconds"):
        analyze(model(layer((4, 4), random(1, 1, 3, 3))), max_seconds=value)


MEASURED = [
    ((300, 300), (2, 3, 3, 3), {}),
    ((2**17,), (2, 3, 9), {}),
    ((128, 128), (16, 16, 3, 3), {}),
    ((3, 2**15 + 3), (2, 3, 3, 3), {"padding_mode": "reflect", "padding": 1}),
    ((200, 200), (32, 1, 3, 3), {"groups": 32}),
    ((224, 224), (64, 3, 7, 7), {"stride": 2, "padding": 3}),
    ((32, 32, 32), (4, 4, 3, 3, 3), {"padding_mode": "circular"}),
]


@pytest.mark.parametrize(("shape", "kernel", "options"), MEASURED)
def test_estimates_are_what_is_taken(shape, kernel, options):
    one = layer(shape, random(*kernel), **options)
    analyze(model(layer((8,) * len(shape), one.kernel, **options)))  # what is done once in a process
    began = time.process_time()
    assert analyze(model(one), max_seconds=1e9).complete
    seconds = time.process_time() - began
    tracemalloc.start()
    try:
        analyze(model(one), max_seconds=1e9)
        memory = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    cost = work_of(one)
    # A factor for the machine, and 0.2 s that are spent on any wide interval.
    assert cost.seconds / 10 - 0.3 < seconds < 10 * cost.seconds + 0.3
    assert memory < 1.5 * cost.memory + 2**26


def test_vectors_of_a_krylov_space_are_refused_before_they_are_taken():
    geometry = cs.ConvGeometry((256, 256), padding=1)
    tracemalloc.start()
    try:
        with pytest.raises(CostError, match="GiB"):
            largest(random(1, 1, 3, 3), geometry, k=4000)
        assert tracemalloc.get_traced_memory()[1] < 2**28
    finally:
        tracemalloc.stop()


def test_the_memory_of_an_operator_can_be_limited_and_the_limit_raised():
    geometry = cs.ConvGeometry((300, 300), padding=1, padding_mode="reflect")
    kernel, found = random(1, 1, 3, 3), cs.operator_norm(random(1, 1, 3, 3), geometry)
    with cs.max_memory(2**20):
        with pytest.raises(CostError, match=r"max_memory is 0\.0 GiB: raise it"):
            cs.operator_norm(kernel, geometry)
        reflected = layer((300, 300), kernel, padding=1, padding_mode="reflect")
        refused = analyze(model(reflected)).layers[0]
        assert (refused.status, refused.as_padded) == ("partial", None)
        with cs.max_memory(2**33):
            assert cs.operator_norm(kernel, geometry) == found
    # Also in the threads of an analysis, and what was estimated under another limit is not kept.
    assert analyze(model(reflected)).layers[0].status == "ok"
    most = cs.ConvGeometry((20_000, 20_000), padding=1)
    with pytest.raises(CostError, match="GiB"):
        cost_of(most.on_torus().correlation(kernel.shape))
    with cs.max_memory(float("inf")):
        assert cost_of(most.on_torus().correlation(kernel.shape)).memory > 2**33


def test_what_takes_long_is_told_before_it_is_begun_and_a_line_a_layer_where_there_is_no_terminal(capsys):
    hour = 3600 * available_cores()
    with watching() as told:
        told["estimated"](30.0)
        told["progress"](0.5, "conv1")
        assert capsys.readouterr().err == ""
        told["estimated"](hour)
        told["progress"](0.25, "conv2")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("convspectra: estimated 60 minutes on ")
    assert lines[1:] == ["convspectra: 25% conv2"]


def test_the_estimate_is_of_what_is_within_the_limits():
    found, layers = [], [layer((64, 64), random(2, 3, 3, 3)), layer((20_000, 20_000), random(2, 3, 3, 3))]
    analyze(model(*layers[:1]), estimated=found.append)
    compare(model(*layers[:1]), model(*layers[:1]), estimated=found.append)
    assert found == pytest.approx([work_of(layers[0]).seconds, 2 * work_of(layers[0]).seconds])


@pytest.mark.parametrize(
    ("size", "options", "words"),
    [
        (20_000, [], ["layer 'w'", "20001 x 20001", "GiB", "--max-memory"]),
        (3000, [], ["layer 'w'", "3000 x 3000", "GiB of memory", "--max-memory"]),
        (
            3000,
            ["--max-memory", "64", "--max-seconds", "100"],
            ["'w'", "3000 x 3000", "s of one core", "--max-seconds"],
        ),
        (64, ["--max-seconds", "0.01"], ["64 x 64", "--max-seconds is 0"]),
    ],
)
def test_clip_refuses_what_takes_hours_with_the_estimate_before_it_is_begun(size, options, words, tmp_path):
    path = one_convolution(tmp_path / "m.onnx", size)
    began = time.process_time()
    command = ["clip", str(path), "--max-norm", "0.1", "--output", str(tmp_path / "o.onnx"), *options]
    done = CliRunner().invoke(app, command)
    assert time.process_time() - began < 20
    assert done.exit_code == 2, done.output
    (line,) = done.output.splitlines()
    assert all(word in line for word in words), line
    assert list(tmp_path.iterdir()) == [path]
    if size == 64:
        assert CliRunner().invoke(app, command[:6]).exit_code == 0


def one_convolution(path, size):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(random(2, 3, 3, 3).astype(np.float32), "w")
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)
    sides = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 3, size, size]), ("y", None))
    ]
    graph = helper.make_graph([node], "g", sides[:1], sides[1:], [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def test_the_command_skips_with_the_reason_and_status_3_and_takes_a_limit(tmp_path):
    path = one_convolution(tmp_path / "m.onnx", 64)
    out = tmp_path / "r.json"
    command = ["analyze", str(path), "--json", str(out)]
    assert CliRunner().invoke(app, [*command, "--max-seconds", "0.001"]).exit_code == 3
    assert "64 x 64" in json.loads(out.read_text())["layers"][0]["reason"]
    assert CliRunner().invoke(app, command).exit_code == 0


@pytest.fixture
def network(tmp_path):
    """A small one, at a size."""
    torch = pytest.importorskip("torch")

    def at(size):
        torch.manual_seed(0)
        layers = torch.nn.Conv2d(1, 2, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(2, 1, 3, padding=1)
        example = torch.zeros(1, 1, 1, 1).expand(1, 1, size, size)
        path = tmp_path / "m.pt2"
        torch.export.save(torch.export.export(torch.nn.Sequential(*layers).eval(), (example,)), path)
        return path

    return at


def test_derivatives_of_a_small_network_on_a_large_map_fit_into_the_limit(network):
    graph = read_graph(network(100))
    whole = measure(graph, points=2)
    assert (whole.points, whole.notes) == (2, ())
    fewer = measure(graph, points=2, max_seconds=0.3)
    assert fewer.points == 2
    assert re.search(r"^\d+ of 30 iterations .*max_seconds is 0", fewer.notes[0])
    assert 0 < fewer.joint.lower <= whole.joint.lower * (1 + 1e-9)
    none = measure(graph, points=2, max_seconds=1e-6)
    assert (none.points, none.joint.lower, none.joint.upper) == (0, None, whole.joint.upper)
    assert none.notes[0].startswith("no lower bound")
    given = graph_points(graph)
    assert lipschitz(graph, inputs=given, max_seconds=1e-6, iterations=1).points == len(given)


def graph_points(graph):
    (shape,) = graph.inputs.values()
    return np.ones((1, *shape[1:]))


def test_a_map_too_large_to_apply_a_layer_to_has_the_bound_for_any_size():
    kernel = random(2, 3, 3, 3)
    small, large = (cs.ConvGeometry((n, n), padding=1) for n in (16, 20_000))
    lower, upper, how = norm_interval(Convolution(kernel, large))
    assert (lower, how) == (0.0, "duffin1938")
    assert norm_interval(Convolution(kernel, small))[0] <= upper <= cs.bounds.pfister2018(kernel, large).upper
    np.testing.assert_allclose(upper, cs.bounds.duffin1938(kernel, large).upper)


def test_the_command_says_what_derivatives_would_take(network):
    path = str(network(64))
    done = CliRunner().invoke(app, ["lipschitz", path, "--points", "1", "--max-seconds", "0.0001"])
    assert done.exit_code == 3
    assert "no lower bound" in " ".join(done.output.split())
    assert CliRunner().invoke(app, ["lipschitz", path, "--points", "1"]).exit_code == 0
