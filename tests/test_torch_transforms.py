"""Parametrised layers and penalties under the transformations of PyTorch, against plain calls."""

from __future__ import annotations

import copy
import io
import pickle

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vjp, vmap  # noqa: E402

from convspectra import ConvGeometry, InputError, penalties  # noqa: E402
from convspectra.torch import orthogonal, spectral_norm  # noqa: E402

pytestmark = [  # of PyTorch about itself
    pytest.mark.filterwarnings(f"ignore:.*{words}")
    for words in ("torch.jit.* is deprecated", "No complete tensor found")
]

PADDED = ConvGeometry((5, 6), padding=1)
WRAPPED = PADDED.on_torus()
STRIDED = ConvGeometry((6, 4), padding=1, stride=2, padding_mode="circular")

PENALTIES = {
    "norm": lambda k: penalties.norm(k, PADDED),
    "norm, wrapped": lambda k: penalties.norm(k, WRAPPED),
    "norm of any size": lambda k: penalties.norm(k, PADDED, guarantee="any_size"),
    "squared norm": lambda k: penalties.squared_norm(k, STRIDED),
    "condition number": lambda k: penalties.condition_number(k, WRAPPED),
    "hinge": lambda k: penalties.hinge(k, WRAPPED, 0.5),
    "hinge, padded": lambda k: penalties.hinge(k, PADDED, 0.5),
    "nuclear norm": lambda k: penalties.nuclear_norm(k, STRIDED),
    "Schatten norm": lambda k: penalties.schatten_norm(k, WRAPPED, 3),
    "log-volume": lambda k: penalties.log_volume(k, WRAPPED),
    "orthogonality": lambda k: penalties.orthogonality(k, WRAPPED),
    "reshaped norm": lambda k: penalties.reshaped_norm(k, PADDED),
    "reshaped hinge": lambda k: penalties.reshaped_hinge(k, PADDED, 0.5),
}
LAYERS = {
    "conv": (lambda: nn.Conv2d(2, 3, 3, padding=1), (2, 5, 6)),
    "conv circular": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 5, 6)),
    "conv strided": (lambda: nn.Conv2d(4, 4, 3, padding=1, stride=2, groups=2), (4, 6, 4)),
    "conv transposed": (lambda: nn.ConvTranspose1d(2, 3, 4, stride=2, padding=1), (2, 5)),
    "linear": (lambda: nn.Linear(5, 3), (5,)),
}
WAYS = {
    "spectral_norm": lambda module, batch: spectral_norm(module, 0.4, input=batch),
    "orthogonal": lambda module, batch: orthogonal(module),
}


def kernel(seed=0):
    return torch.randn(3, 2, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) / 3


def plain_gradient(function, at):
    x = at.clone().requires_grad_()
    value = function(x)
    value.backward()
    return value.detach(), x.grad


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_under_func(name):
    function, k, direction = PENALTIES[name], kernel(), kernel(1)
    value, gradient = plain_gradient(function, k)
    h = 1e-6
    difference = (function(k + h * direction) - function(k - h * direction)) / (2 * h)
    assert float((gradient * direction).sum()) == pytest.approx(float(difference), rel=1e-6, abs=1e-8)
    close(grad(function)(k), gradient)
    found, pull = vjp(function, k)
    close(found, value)
    close(pull(torch.tensor(2.0, dtype=torch.float64))[0], 2 * gradient)
    found, push = jvp(function, (k,), (direction,))
    close(found, value)
    close(push, (gradient * direction).sum())
    close(jacrev(function)(k), gradient)
    close(jacfwd(function)(k), gradient)
    both = torch.stack([k, 2 * k], dim=2)
    close(vmap(function, in_dims=2)(both), torch.stack([value, function(2 * k)]))
    close(vmap(grad(function), in_dims=2)(both)[0], gradient)


@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_in_compiled_graphs_without_a_break(name):
    function, k = PENALTIES[name], kernel()
    value, gradient = plain_gradient(lambda x: 2 * function(x), k)
    torch.compiler.reset()
    compiled = torch.compile(lambda x: 2 * function(x), fullgraph=True, backend="aot_eager")
    found, gradient_found = plain_gradient(compiled, k)
    close(found, value)
    close(gradient_found, gradient)


@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_of_tensors_without_values(name):
    with FakeTensorMode() as mode:
        found = PENALTIES[name](mode.from_tensor(kernel()))
    assert (found.shape, found.dtype) == ((), torch.float64)


def layer(way, name, *, train=True):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    module, batch = make().double(), torch.randn(2, *shape, dtype=torch.float64)
    WAYS[way](module, batch)
    return (module if train else module.eval()), batch


def loss(module, weights, batch):
    return functional_call(module, weights, batch).square().sum()


cases = pytest.mark.parametrize(("way", "name"), [(way, name) for way in WAYS for name in LAYERS])


@cases
def test_layers_under_func(way, name):
    module, batch = layer(way, name)
    loss(module, {}, batch).backward()
    weights = {key: one.detach() for key, one in module.named_parameters()}
    expected = {key: one.grad for key, one in module.named_parameters()}
    of_weights = lambda given: loss(module, given, batch)  # noqa: E731
    for key, one in grad(of_weights)(weights).items():
        close(one, expected[key])
    directions = {key: torch.randn_like(one) for key, one in weights.items()}
    slope = sum((expected[key] * directions[key]).sum() for key in weights)
    close(jvp(of_weights, (weights,), (directions,))[1], slope)
    for found in (jacrev(of_weights)(weights), jacfwd(of_weights)(weights)):
        for key, one in found.items():
            close(one, expected[key])
    samples = vmap(grad(lambda given, x: loss(module, given, x[None])), (None, 0))(weights, batch)
    for key, one in samples.items():
        close(one.sum(0), expected[key])
    of_input = jacrev(lambda x: functional_call(module, {}, x[None])[0])(batch[0])
    close(jacfwd(lambda x: functional_call(module, {}, x[None])[0])(batch[0]), of_input)
    several = {key: torch.stack([one, 1.5 * one]) for key, one in weights.items()}
    close(vmap(of_weights)(several)[0], of_weights(weights).detach())


@cases
def test_layers_train_in_compiled_graphs_without_a_break(way, name):
    module, batch = layer(way, name)
    expected = module(batch)
    expected.square().sum().backward()
    gradients = [one.grad.clone() for one in module.parameters()]
    module.zero_grad()
    torch.compiler.reset()
    fresh = copy.deepcopy(module)  # which has not run yet
    for one in (module, fresh):
        found = torch.compile(one, fullgraph=True, backend="aot_eager")(batch)
        close(found, expected)
        found.square().sum().backward()
        for parameter, gradient in zip(one.parameters(), gradients, strict=True):
            close(parameter.grad, gradient)


@pytest.mark.parametrize("strict", [False, True])
@cases
def test_exported_layers_hold_a_plain_weight(way, name, strict):
    module, batch = layer(way, name, train=False)
    with torch.no_grad():
        for one in module.parameters():
            one.add_(0.3)
        expected = module(batch)
        for one in module.parameters():  # the weight of the export is the one that it has now
            one.add_(torch.randn_like(one))
    saved = io.BytesIO()
    torch.export.save(torch.export.export(module, (batch,), strict=strict), saved)
    saved.seek(0)
    found = torch.export.load(saved).module()(batch)
    assert torch.equal(found, module(batch))
    assert not torch.equal(found, expected)
    assert b"convspectra" not in saved.getvalue()


@cases
def test_traced_layers(way, name):
    module, batch = layer(way, name, train=False)
    close(torch.jit.trace(module, batch)(batch), module(batch))


def test_what_cannot_be_traced_says_so():
    module, batch = layer("spectral_norm", "conv")
    with pytest.raises(InputError, match="eval"):
        torch.jit.trace(module, batch)
    fresh = pickle.loads(pickle.dumps(module.parametrizations.weight[0]))
    assert fresh.limits == module.parametrizations.weight[0].limits
    alone = copy.deepcopy(module).eval()
    with pytest.raises(Exception, match="run once before it is exported"):
        torch.export.export(alone, (batch,))


SECOND = ("norm", "norm, wrapped", "squared norm", "hinge", "orthogonality", "reshaped norm")


@pytest.mark.parametrize("name", PENALTIES)
def test_second_derivatives_where_there_are_some(name):
    function, k, direction = PENALTIES[name], kernel(), kernel(1)
    if name not in (*SECOND, "norm of any size", "hinge, padded", "reshaped hinge"):
        with pytest.raises(RuntimeError, match="first derivatives only"):
            torch.func.hessian(function)(k)
        return
    h = 1e-5
    slope = (grad(function)(k + h * direction) - grad(function)(k - h * direction)) / (2 * h)
    near = {"rtol": 1e-5, "atol": 1e-6 * float(slope.abs().max())}
    torch.testing.assert_close(jvp(grad(function), (k,), (direction,))[1], slope, **near)
    torch.testing.assert_close(grad(lambda x: (grad(function)(x) * direction).sum())(k), slope, **near)
    x = k.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(x), x, create_graph=True)
    (twice,) = torch.autograd.grad((gradient * direction).sum(), x)
    torch.testing.assert_close(twice, slope, **near)
    if name in SECOND:
        assert torch.autograd.gradgradcheck(function, (x,), fast_mode=True)


def test_the_norm_has_no_second_derivative_where_it_is_attained_twice():
    eye = torch.eye(3, dtype=torch.float64).reshape(3, 3, 1, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(penalties.norm(eye, WRAPPED), eye, create_graph=True)
    with pytest.raises(RuntimeError, match="attained more than once"):
        gradient.sum().backward()


def test_second_derivatives_of_a_parametrised_weight_are_refused():
    module, batch = layer("spectral_norm", "conv")
    weights = {key: one.detach() for key, one in module.named_parameters()}
    original = "parametrizations.weight.original"
    with pytest.raises(RuntimeError, match="first derivatives only"):
        grad(lambda w: grad(lambda v: loss(module, v, batch))(w)[original].sum())(weights)
    # What a gradient penalty needs: the gradient of the input, differentiated by the weights.
    x = batch.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert bool(module.parametrizations.weight.original.grad.any())
