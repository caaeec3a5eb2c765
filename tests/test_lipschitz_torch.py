"""The bound of PyTorch networks, through `torch.export`, against dense Jacobians; published networks."""

from __future__ import annotations

import json
import math
import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="could not import 'torch'")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from convspectra.errors import InputError, ModelError  # noqa: E402
from convspectra.models.graphs import read_graph  # noqa: E402
from convspectra.network import lipschitz  # noqa: E402
from convspectra.network.folding import folded  # noqa: E402
from convspectra.network.jacobian import Derivative  # noqa: E402
from test_cli import convspectra, refused  # noqa: E402

DATA = os.environ.get("CONVSPECTRA_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="CONVSPECTRA_DATA is not set")
SHAPE = (4, 6, 5)


class Function(nn.Module):
    """A function as a network, with the modules that it uses."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.function(self, x)


def function(call, **modules):
    return lambda: Function(call, **modules)


def trained(norm):
    """A batch norm that has seen something."""
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return norm


def affine(norm):
    """A norm with weights that are not 1 and 0."""
    for weight in norm.parameters():
        nn.init.normal_(weight)
    return norm


def max_min(x):
    first, second = x.chunk(2, 1)
    return torch.maximum(first, second), torch.minimum(first, second)


def residual(net, x):
    inner = net.second(net.first(x).relu_())
    return F.relu(x + inner, inplace=True)


NETS = {
    "conv": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
    "conv same": lambda: nn.Conv2d(4, 3, (4, 3), padding="same", dilation=(1, 2)),
    **{
        f"conv {mode}": lambda mode=mode: nn.Conv2d(4, 3, 3, padding=1, padding_mode=mode)
        for mode in ("circular", "reflect", "replicate")
    },
    "conv transpose": lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
    "conv 1d": function(lambda net, x: net.conv(x.flatten(2)), conv=nn.Conv1d(4, 3, 5)),
    "conv 3d": function(lambda net, x: net.conv(x[:, None]), conv=nn.Conv3d(1, 2, 3, padding=1)),
    "conv batch norm": lambda: nn.Sequential(nn.Conv2d(4, 3, 3), trained(nn.BatchNorm2d(3))),
    "transpose batch norm": lambda: nn.Sequential(
        nn.ConvTranspose2d(4, 6, 3, groups=2), trained(nn.BatchNorm2d(6))
    ),
    "linear batch norm": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(120, 7), trained(nn.BatchNorm1d(7)), nn.Linear(7, 2)
    ),
    "linear last": lambda: nn.Linear(5, 3),
    "residual": function(
        residual,
        first=nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), trained(nn.BatchNorm2d(4))),
        second=nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), trained(nn.BatchNorm2d(4))),
    ),
    "written into": function(lambda net, x: (x * 2).relu_() + x.clone().mul_(3)),
    "pre-activation": lambda: nn.Sequential(
        trained(nn.BatchNorm2d(4)), nn.ReLU(), nn.Conv2d(4, 6, 3, groups=2), nn.Flatten(), nn.Linear(72, 3)
    ),
    "pre-activation transpose": lambda: nn.Sequential(
        trained(nn.BatchNorm2d(4)), nn.Tanh(), nn.ConvTranspose2d(4, 6, 3, groups=2)
    ),
    "scales": lambda: nn.Sequential(
        *(nn.Conv2d(4, 4, 3, padding=1), trained(nn.BatchNorm2d(4)), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
        *(nn.Conv2d(4, 4, 3, padding=1), trained(nn.BatchNorm2d(4)), nn.Sigmoid(), nn.Flatten()),
        *(nn.Linear(36, 5), trained(nn.BatchNorm1d(5)), nn.ELU(), nn.Linear(5, 3)),
    ),
    "scales and means": lambda: nn.Sequential(
        *(trained(nn.BatchNorm2d(4)), nn.GELU(), nn.AvgPool2d(2), nn.Conv2d(4, 4, 1, groups=4)),
        *(trained(nn.BatchNorm2d(4)), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
    ),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 3, 3)),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 3, 3)),
    **{
        type(module).__name__: lambda module=module: module
        for module in (
            *(nn.Softmax(1), nn.LogSoftmax(-1), nn.Dropout(0.5), nn.Identity(), nn.PReLU(4, 1.3)),
            *(nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.AvgPool2d(3, 2, 1, ceil_mode=True)),
            *(nn.AdaptiveAvgPool2d((4, 3)), nn.AdaptiveMaxPool2d((3, 1)), nn.PixelShuffle(2)),
            *(
                nn.Upsample(scale_factor=2, mode="bilinear"),
                nn.ChannelShuffle(2),
                nn.ZeroPad2d((1, 0, 2, -1)),
            ),
            *(nn.ReflectionPad2d((1, 2, 0, 3)), nn.ReplicationPad2d(1), nn.CircularPad2d((1, 0, 2, 1))),
        )
    },
    "max pool dilated": lambda: nn.MaxPool2d(2, dilation=2, stride=1),
    "average, padding not counted": lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "upsample corners": lambda: nn.Upsample((9, 3), mode="bilinear", align_corners=True),
    "upsample nearest": lambda: nn.Upsample(scale_factor=(2, 1.6)),
    "upsample 1d": function(lambda net, x: F.interpolate(x.flatten(2), size=7, mode="linear")),
    "arithmetic": function(lambda net, x: (2 - x) / 4 + 3 * x - torch.add(x, x, alpha=0.5)),
    "arithmetic with factors": function(
        lambda net, x: torch.rsub(x, 1, alpha=4) + torch.rsub(x, x.abs(), alpha=0.5) - x.sub(x.sin(), alpha=3)
    ),
    "broadcast": function(lambda net, x: x.mean((2, 3), keepdim=True) - x + torch.ones(5) * 2),
    "moves": function(
        lambda net, x: torch.cat([x[:, 1:, ::2].flip(-1), x.roll(1, 2)[:, [2, 0, 1], :3]], 1).permute(
            0, 2, 1, 3
        )
    ),
    "constant between": function(lambda net, x: torch.cat([x, torch.ones(1, 2, 6, 5), 2 * x], 1)),
    "split": function(lambda net, x: torch.cat([one * 2 for one in x.chunk(2, 1)], 1)),
    "stack": function(lambda net, x: torch.stack(x.unbind(1), -1).sum(1)),
    "view": function(lambda net, x: x.transpose(1, 2).reshape(1, -1).unsqueeze(-1).expand(1, 120, 2)),
    "matmul": function(
        lambda net, x: net.left.weight @ (x @ net.right.weight), left=nn.Linear(6, 2), right=nn.Linear(3, 5)
    ),
    "mean": function(lambda net, x: x.mean()),
    "extremes": function(lambda net, x: torch.cat(max_min(x), 1)),
    "extremes of others": function(
        lambda net, x: torch.maximum(x, x.sin()) + torch.minimum(x, torch.ones(6, 1))
    ),
    "extreme of numbers": function(lambda net, x: torch.fmax(x, torch.tensor(0.1)) - x.max()),
    "extremes along": function(
        lambda net, x: x.amax((1, 3)) - x.amin((3, 1)) + x.max(1)[0].min(2, True).values[..., 0]
    ),
    "group sort": function(
        lambda net, x: x.view(1, 2, 2, 6, 5).sort(2, descending=True).values.flatten(1, 2)
    ),
    "top": function(lambda net, x: x.topk(3, 2)[0] - x.topk(3, 2, largest=False)[0]),
    "median": function(lambda net, x: x.median(1)[0] - x.kthvalue(2, 1, keepdim=True)[0][:, 0]),
    "maxout": function(lambda net, x: x.unflatten(1, (2, 2)).amax(2)),
    "running sum": function(lambda net, x: x.cumsum(-1)),
    "patches": function(lambda net, x: F.unfold(x, (2, 3), padding=(1, 0), stride=(2, 1))),
    "windows": function(lambda net, x: x.unfold(2, 3, 2)),
    "focus": function(lambda net, x: torch.cat([x[..., i::2, j:4:2] for i in (0, 1) for j in (0, 1)], 1)),
    "layer norm": lambda: affine(nn.LayerNorm((6, 5), eps=0.2)),
    "rms norm": lambda: affine(nn.RMSNorm(5, eps=0.1)),
    "group norm": lambda: affine(nn.GroupNorm(2, 4, eps=0.3)),
    "instance norm": lambda: affine(nn.InstanceNorm2d(4, eps=0.3, affine=True)),
    "instance norm that counted": lambda: trained(
        nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
    ),
    "threshold": function(lambda net, x: x.clamp(min=0.1) + x.abs() - x.sin() + x.erf()),
}
ACTIVATIONS = (
    *(nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.3), nn.ELU(1.5), nn.CELU(0.7), nn.SELU(), nn.GELU()),
    *(nn.SiLU(), nn.Mish(), nn.Hardswish(), nn.Hardsigmoid(), nn.Hardtanh(-1, 2), nn.Sigmoid()),
    *(nn.Tanh(), nn.Softplus(2.0), nn.LogSigmoid(), nn.Threshold(0.5, 0.5), nn.Tanhshrink(), nn.GELU("tanh")),
    nn.Softshrink(0.3),
)


def points(count, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn((1, *SHAPE), generator=generator, dtype=torch.float64) for _ in range(count)]


def dense_norm(call, x):
    matrix = torch.func.jacrev(call)(x).detach()
    return float(torch.linalg.matrix_norm(matrix.reshape(-1, x.numel()), 2))


@cache
def network(name):
    """A module and its graph: tracing is what takes longest."""
    torch.manual_seed(0)
    module = NETS[name]().double().eval()
    return module, read_graph(module=module, sample_shape=SHAPE)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of PyTorch, about taking windows apart
@pytest.mark.parametrize("name", NETS)
def test_the_network_is_read_right_and_its_bound_is_above_jacobians(name):
    module, graph = network(name)
    upper = lipschitz(graph).joint.upper
    derivative = Derivative(graph, folded(graph, graph.outputs))
    for scale in (0.3, 3.0):
        (x,) = points(1, scale)
        with torch.no_grad():
            expected = module(x)
        (found,) = derivative.values((x,), graph.outputs)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-9, atol=1e-9)
        assert dense_norm(module, x) <= upper * (1 + 1e-9)
    for distance in np.geomspace(1e-3, 10, 8):
        x, y = points(2, seed=int(1e3 * distance))
        y = x + distance * (y - x)
        with torch.no_grad():
            quotient = float(torch.linalg.norm(module(x) - module(y)) / torch.linalg.norm(x - y))
        assert quotient <= upper * (1 + 1e-9)


@pytest.mark.parametrize("name", NETS)
def test_no_gain_is_above_the_norm(name):
    report = lipschitz(network(name)[1], points=4, iterations=1)
    if report.gains is None:
        assert report.complexity.layers == ()
        return
    for layer in report.gains.layers:
        assert max(layer.white_forward, layer.white_backward) <= layer.upper * (1 + 1e-10)
        for side in (layer.forward, layer.backward):
            assert side.count + side.left_out == 4
            if side.count:
                assert 0 <= side.least <= side.median <= side.largest <= layer.upper * (1 + 1e-10)


@pytest.mark.parametrize(
    "name", ["conv circular", "linear batch norm", "AvgPool2d", "mean", "view", "Upsample"]
)
def test_the_bound_of_something_linear_is_its_norm(name):
    torch.manual_seed(0)
    if name == "linear batch norm":
        module = nn.Sequential(nn.Flatten(), nn.Linear(120, 7), trained(nn.BatchNorm1d(7))).double().eval()
    else:
        module = NETS[name]().double().eval()
    upper = lipschitz(read_graph(module=module, sample_shape=SHAPE)).joint.upper
    assert upper == pytest.approx(dense_norm(module, points(1)[0]), rel=1e-9)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *(("extremes", 1), ("group sort", 1), ("maxout", 1), ("focus", 1), ("top", 2), ("median", 2)),
        *(("patches", 6**0.5), ("windows", 2**0.5)),
    ],
)
def test_the_bound_of_what_only_chooses_and_sorts(name, expected):
    assert lipschitz(network(name)[1]).joint.upper <= expected * (1 + 1e-9)


def test_the_bound_of_a_norm_of_its_own_input_says_where_it_comes_from():
    module, graph = network("group norm")
    report = lipschitz(graph)
    assert report.joint.upper == pytest.approx(float(module.weight.detach().abs().max()) / 0.3**0.5)
    assert any("1 / sqrt(epsilon)" in one.how for one in report.nodes)


REFUSED = {
    "layer_norm": nn.LayerNorm(5, eps=0),
    "exp": Function(lambda net, x: x.exp()),
    "mul": Function(lambda net, x: x * x.tanh()),
    "matmul": Function(lambda net, x: x @ x.transpose(2, 3)),
    "scaled_dot_product_attention": Function(lambda net, x: F.scaled_dot_product_attention(x, x, x)),
    "div": nn.Softsign(),
    "batch": nn.BatchNorm2d(4, track_running_stats=False),
    "prod": Function(lambda net, x: x.prod()),
    "upsample_bicubic2d": nn.Upsample(scale_factor=2, mode="bicubic"),
    "round": Function(lambda net, x: x.round()),
    "lstm": Function(lambda net, x: net.lstm(x.flatten(2))[0], lstm=nn.LSTM(30, 3)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_constant_is_refused_by_name(name):
    module = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), REFUSED[name], nn.ReLU())
    with pytest.raises(InputError, match=rf"depends on .*{name}.*; outputs=.(conv2d|view). has a bound$"):
        lipschitz(read_graph(module=module, sample_shape=SHAPE))
    assert lipschitz(read_graph(module=module, sample_shape=SHAPE), outputs=["conv2d"]).joint.upper > 0


@pytest.mark.parametrize("beta", [0.5, 3])
def test_a_gate_of_another_softplus_is_no_mish(beta):
    module = Function(lambda net, x: x * F.softplus(x, beta=beta).tanh())
    with pytest.raises(InputError, match="a product of two tensors"):
        lipschitz(read_graph(module=module, sample_shape=SHAPE))


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(90, 2)).eval()


@pytest.mark.slow
def test_one_network_in_both_formats_and_by_name(tmp_path, monkeypatch):
    module = small()
    program = torch.export.export(module, (torch.zeros(1, *SHAPE),))
    torch.export.save(program, tmp_path / "small.pt2")
    saved = lipschitz(read_graph(tmp_path / "small.pt2"))
    assert saved.joint.upper == lipschitz(read_graph(module=module, sample_shape=SHAPE)).joint.upper
    assert [node.name for node in saved.nodes if node.constant != 1] == ["0", "3"]
    torch.save(module.state_dict(), tmp_path / "small.pt")
    with pytest.raises(ModelError, match=r"holds weights \(pytorch\) and no graph"):
        read_graph(tmp_path / "small.pt")
    (tmp_path / "factory.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    return nn.Sequential(nn.Conv2d(4, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(90, 2))\n"
    )
    arguments = ["--model", "factory:net", "--input-shape", "4,6,5", "--points", "1", "--json", "r.json"]
    result = convspectra("lipschitz", "small.pt", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["joint"]["upper"] == saved.joint.upper
    assert 0 < found["joint"]["lower"] <= found["joint"]["upper"]
    refused(convspectra("lipschitz", "--model", "factory:net", cwd=tmp_path), "--input-shape")
    refused(
        convspectra("lipschitz", *arguments[:2], "--input-shape", "3,6,5", cwd=tmp_path),
        "torch.export cannot",
    )


def test_training_modes_are_put_back():
    module = nn.Sequential(nn.Dropout(), nn.Conv2d(4, 3, 3))
    module[1].eval()
    read_graph(module=module, sample_shape=SHAPE)
    assert [part.training for part in module.modules()] == [True, True, False]


def test_dynamic_sizes_are_refused(tmp_path):
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(small(), (torch.zeros(2, *SHAPE),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "small.pt2")
    with pytest.raises(InputError, match="is dynamic: export it with fixed ones"):
        read_graph(tmp_path / "small.pt2")


def test_several_outputs_have_lower_bounds_each():
    module = Function(lambda net, x: (x.mean((2, 3)), x / 10))
    report = lipschitz(read_graph(module=module, sample_shape=SHAPE), points=1, iterations=100)
    assert [one.lower for one in report.outputs] == pytest.approx([1 / math.sqrt(30), 0.1], rel=1e-5)
    assert report.joint.lower == pytest.approx(math.sqrt(0.01 + 1 / 30), rel=1e-5)
    assert report.joint.lower <= report.joint.upper


def test_each_step_at_each_point_is_told():
    told = []
    module = Function(lambda net, x: (x.mean((2, 3)), x / 10))
    graph = read_graph(module=module, sample_shape=SHAPE)
    lipschitz(graph, points=2, iterations=5, progress=lambda part, name: told.append((part, name)))
    steps = [part for part, name in told if name.startswith("derivative at point")]
    # Two points, for two outputs and both together.
    np.testing.assert_allclose(steps, 0.5 + np.arange(2 * 3 * 5) / (2 * 2 * 3 * 5))


@needs_data
def test_a_published_residual_network():
    """20 random points here; `scripts/check_lipschitz.py` takes 1,000."""
    from convspectra_experiments.networks.published import load_published

    module = load_published(Path(DATA) / "models" / "resnet20-12fca82f.th")
    graph = read_graph(module=module, sample_shape=(3, 32, 32))
    report = lipschitz(graph, points=20, iterations=5)
    assert 1 < report.joint.lower <= report.joint.upper < math.inf
    assert sum("conv2d" in node.operator for node in report.nodes) == 19
    derivative = Derivative(graph, folded(graph, graph.outputs))
    x = torch.randn((1, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = module(x)
    (found,) = derivative.values((x.double(),), graph.outputs)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-4)


@needs_data
def test_a_published_face_detector():
    runtime = pytest.importorskip("onnxruntime", reason="could not import 'onnxruntime'")
    path = Path(DATA) / "models" / "version-RFB-320.onnx"
    graph = read_graph(path)
    report = lipschitz(graph, points=1, iterations=3, between=(-1.0, 1.0))
    assert [one.name for one in report.outputs] == ["scores"]
    assert report.refused["boxes"].startswith("depends on Exp '472'")
    assert 0 < report.joint.lower <= report.joint.upper < math.inf
    x = np.random.default_rng(0).uniform(-1, 1, graph.inputs["input"]).astype(np.float32)
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    (expected,) = runtime.InferenceSession(path, options).run(["scores"], {"input": x})
    derivative = Derivative(graph, folded(graph, ["scores"]))
    (found,) = derivative.values((torch.from_numpy(x.astype(np.float64)),), ["scores"])
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)
