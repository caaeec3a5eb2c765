"""The penalty of a whole model: each layer with its own geometry, weighed alike at every size and depth."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from convspectra import InputError, penalties  # noqa: E402
from convspectra.operators.reference import dense_operator  # noqa: E402
from convspectra.torch import Penalty, geometry_of, spectral_norm  # noqa: E402


def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Conv2d(3, 3, 3, padding=1),
        nn.Flatten(),
        nn.Linear(27, 2),
    ).double()


X = torch.zeros(1, 2, 6, 6, dtype=torch.float64)


def dense_values(module, size):
    kernel = module.weight.detach().numpy()
    kernel = kernel[..., None] if kernel.ndim == 2 else kernel
    return np.linalg.svd(dense_operator(kernel, geometry_of(module, size).on_torus()), compute_uv=False)


def test_it_is_the_mean_over_layers_of_what_each_is_on_average():
    net = model()
    sizes = {0: (6, 6), 2: (3, 3), 4: (1,)}
    values = [dense_values(net[i], size) for i, size in sizes.items()]
    expected = {
        "norm": np.mean([one[0] for one in values]),
        "hinge": np.mean([np.mean(np.maximum(one - 0.3, 0) ** 2) for one in values]),
        "nuclear_norm": np.mean([np.mean(one) for one in values]),
        "schatten_norm": np.mean([np.mean(one**3) ** (1 / 3) for one in values]),
    }
    options = {"hinge": {"max_norm": 0.3}, "schatten_norm": {"p": 3}}
    for name, number in expected.items():
        penalty = Penalty(net, name, X, guarantee="torus", **options.get(name, {}))
        assert penalty().item() == pytest.approx(number, rel=1e-9), name


@pytest.mark.parametrize("name", ["hinge", "nuclear_norm", "orthogonality", "log_volume"])
def test_its_weight_means_the_same_at_every_size_and_depth(name):
    torch.manual_seed(0)
    one = nn.Conv2d(3, 3, 1, bias=False).double()
    options = {"max_norm": 0.2} if name == "hinge" else {}
    found = [
        Penalty(net, name, torch.zeros(1, 3, n, n, dtype=torch.float64), **options)().item()
        for n in (1, 4, 9)
        for net in (nn.Sequential(one), nn.Sequential(one, one, one))
    ]
    np.testing.assert_allclose(found, found[0], rtol=1e-9)


def test_gradients_reach_all_layers_also_in_a_compiled_step():
    net = model()
    penalty = Penalty(net, "hinge", X, max_norm=0.2, exclude="4")
    penalty().backward()
    expected = [net[i].weight.grad.clone() for i in (0, 2)]
    assert all(bool(one.any()) for one in expected)
    assert net[4].weight.grad is None
    term = penalties.hinge(net[0].weight, geometry_of(net[0], (6, 6)), 0.2)
    (alone,) = torch.autograd.grad(term, net[0].weight)
    ratio = (expected[0] / alone).detach()
    torch.testing.assert_close(ratio, torch.full_like(ratio, float(ratio.mean())))
    net.zero_grad()
    torch.compiler.reset()
    torch.compile(lambda: 2 * penalty(), fullgraph=True, backend="aot_eager")().backward()
    for i, one in zip((0, 2), expected, strict=True):
        torch.testing.assert_close(net[i].weight.grad, 2 * one)


def test_weights_that_are_computed_and_half_precision():
    net = spectral_norm(model(), 0.5, input=X)
    penalty = Penalty(net, "norm", X)
    assert penalty().item() <= 0.5 * (1 + 1e-9)
    penalty().backward()
    half = model().half()
    assert Penalty(half, "norm", X.half())().dtype == torch.float32


def test_bad_input():
    net = model()
    with pytest.raises(InputError, match=r"^function must be one of .*hinge.*'reshaped_norm'"):
        Penalty(net, "reshaped_norm", X)
    with pytest.raises(InputError, match=r"^options must be those of penalties.hinge.*max_norm"):
        Penalty(net, "hinge", X)
    with pytest.raises(InputError, match="no layer matches the pattern 'head'"):
        Penalty(net, "norm", X, include="head")
    net.forward = lambda x: net[0](x)
    with pytest.raises(InputError, match="layer '2' did not run"):
        Penalty(net, "norm", X)
