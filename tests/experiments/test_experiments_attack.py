"""Attacks and certificates: what one finds, the other must not have excluded."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from convspectra.errors import InputError
from convspectra.models.formats.torch_export.reader import trace_graph
from convspectra.network import lipschitz
from convspectra_experiments.networks.resnet import ResNet, cifar_resnet
from convspectra_experiments.training.attack import Normalised, attacked_error, pgd
from convspectra_experiments.training.certificate import certified_error

DEVIATION = (0.25, 0.2, 0.3)
MEAN = (0.5, 0.45, 0.4)
SHAPE = (3, 8, 8)


pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def uniform(*shape, seed=0, dtype=torch.float64):
    return torch.rand(shape, generator=seeded(seed), dtype=dtype)


@torch.no_grad()
def as_trained(model, seed):
    """Random weights and statistics everywhere, of either sign, and channels switched off."""
    model = model.double().eval()
    for at, part in enumerate(model.modules()):
        draw = 1000 * seed + at
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.copy_(normal(part.num_features, seed=draw))
            part.running_var.copy_(0.05 + 2 * uniform(part.num_features, seed=draw))
            part.weight.copy_(normal(part.num_features, seed=draw + 500))
            part.weight[0] = 0
            part.bias.copy_(normal(part.num_features, seed=draw + 700))
        elif isinstance(part, (nn.Conv2d, nn.Linear)):
            part.weight.copy_(normal(*part.weight.shape, seed=draw) * part.weight[0].numel() ** -0.5)
            if part.bias is not None:
                part.bias.copy_(normal(len(part.bias), seed=draw + 500))
    return model


def network(kind, seed):
    if kind == "large stem":
        return as_trained(ResNet((1, 1), (4, 6), 5, "large"), seed), (3, 16, 16)
    model = as_trained(cifar_resnet(8, 4, batch_norm=kind != "no batch norm"), seed)
    return model, (3, 8, 6) if kind == "not square" else SHAPE


@torch.no_grad()
def undecided(bare, shape):
    """The network behind its normalisation, images, and its answers, which are not all the same."""
    model = Normalised(bare, MEAN, DEVIATION).double()
    images = uniform(60, *shape)
    logits = model(images)
    bare.head.bias -= logits.mean(dim=0)
    labels = model(images).argmax(dim=1)
    assert len(labels.unique()) > 2
    return model, images, labels


def lipschitz_bound(bare, shape, deviation=1.0):
    """As runs take it: of the network behind its normalisation."""
    deviation = np.broadcast_to(deviation, shape[:1]).tolist()
    model = Normalised(bare, [0.0] * shape[0], deviation).double().eval()
    return lipschitz(trace_graph(model, shape, name="network")).joint.upper


KINDS = ("batch norm", "no batch norm", "not square", "large stem")


def jacobian(model, image):
    rows = torch.autograd.functional.jacobian(lambda x: model(x[None])[0], image)
    return rows.reshape(len(rows), -1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_no_jacobian_and_no_pair_of_images_exceeds_the_bound(kind, seed):
    bare, shape = network(kind, seed)
    model = Normalised(bare, MEAN, DEVIATION).double()
    bound = lipschitz_bound(bare, shape, DEVIATION)
    assert math.isfinite(bound)
    largest = 0.0
    for draw in range(6):
        x = uniform(*shape, seed=draw) * 4**draw
        _, values, right = torch.linalg.svd(jacobian(model, x), full_matrices=False)
        largest = max(largest, float(values[0]))
        # Along the steepest direction and along none in particular, near and far.
        steepest = right[0].reshape(1, *shape)
        directions = nn.functional.normalize(torch.cat([steepest, normal(8, *shape, seed=100)]).flatten(1))
        scales = torch.tensor([1e-3, 0.1, 1.0, 30.0, 1e3, -1.0], dtype=torch.float64)
        changes = (scales[:, None, None] * directions).reshape(-1, *shape)
        with torch.no_grad():
            moved = (model(x + changes) - model(x[None])).norm(dim=1)
        largest = max(largest, float((moved / changes.flatten(1).norm(dim=1)).max()))
    assert 0 < largest <= bound


@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_is_no_worse_than_the_product_of_dense_norms(kind):
    bare, shape = network(kind, 5)
    layers, sizes = {}, {}
    hooks = [
        part.register_forward_hook(
            lambda p, i, o, n=name: sizes.__setitem__(n, (i[0].shape[1:], o.shape[1:]))
        )
        for name, part in bare.named_modules()
        if name
    ]
    bare(torch.zeros(1, *shape, dtype=torch.float64))
    for hook in hooks:
        hook.remove()

    def dense(name, scale):
        """Of the layer after the diagonal, one input at a time."""
        part = bare.get_submodule(name)
        count = math.prod(sizes[name][0])
        basis = torch.eye(count, dtype=torch.float64).reshape(count, *sizes[name][0])
        basis = basis * scale.reshape(-1, *[1] * (basis.ndim - 2))
        with torch.no_grad():
            zero = part(torch.zeros(1, *sizes[name][0], dtype=torch.float64))
            layers[name] = (part(basis) - zero).reshape(count, -1)
        return float(torch.linalg.matrix_norm(layers[name], 2))

    def scale(name):
        part = bare.get_submodule(name)
        if isinstance(part, nn.Identity):
            return torch.ones(sizes[name][0][0], dtype=torch.float64)
        return (part.weight / (part.running_var + part.eps).sqrt()).detach()

    product = dense("stem", 1 / torch.tensor(DEVIATION, dtype=torch.float64))
    for place in range(len(bare.blocks)):
        first = dense(f"blocks.{place}.conv1", scale(f"blocks.{place}.norm1"))
        product *= 1 + first * dense(f"blocks.{place}.conv2", scale(f"blocks.{place}.norm2"))
    product *= dense("head", scale("norm")) / math.sqrt(math.prod(sizes["norm"][0][1:]))
    product *= 2 if kind == "large stem" else 1
    bound = lipschitz_bound(bare, shape, DEVIATION)
    # Norms on the torus are a little larger, the more so the smaller the image.
    assert 0 < bound <= 2.5 * product


@torch.no_grad()
def centred(conv, matrix):
    """Make a convolution act on each pixel by itself."""
    conv.weight.zero_()
    conv.weight[:, :, conv.kernel_size[0] // 2, conv.kernel_size[1] // 2] = torch.as_tensor(matrix)
    if conv.bias is not None:
        conv.bias.zero_()


def test_the_bound_is_attained_where_every_rectifier_is_open():
    model = ResNet((2,), (3,), 4, batch_norm=False).double().eval()
    centred(model.stem, 2 * torch.eye(3))
    for block in model.blocks:
        centred(block.conv1, 0.5 * torch.eye(3))
        centred(block.conv2, 3 * torch.eye(3))
    nn.init.normal_(model.head.weight, generator=seeded())
    wrapped = Normalised(model, (0, 0, 0), (0.25, 0.25, 0.25)).double()
    steepest = torch.linalg.matrix_norm(jacobian(wrapped, 0.1 + uniform(3, 6, 5)), 2)
    bound = lipschitz_bound(model, (3, 6, 5), 0.25)
    assert steepest <= bound <= steepest * (1 + 1e-5)


def test_batch_norms_and_deviations_are_folded_channel_by_channel():
    model = ResNet((1,), (3,), 4).double().eval()
    wide = torch.tensor([1e-3, 1.0, 1e3], dtype=torch.float64)
    for norm in (model.blocks[0].norm1, model.blocks[0].norm2, model.norm):
        norm.eps = 0.0
        norm.running_var.copy_(1 / wide**2)
        norm.bias.data.fill_(1.0)
    centred(model.stem, torch.diag(wide))
    centred(model.blocks[0].conv1, torch.diag(1 / wide))
    centred(model.blocks[0].conv2, torch.diag(1 / wide))
    model.head.weight.data.copy_(torch.cat([torch.diag(1 / wide), torch.zeros(1, 3)]))
    # stem / deviation 1, block 1 + 1 * 1, head 1 over sqrt(16).
    bound = lipschitz_bound(model, (3, 4, 4), wide.tolist())
    assert 0.5 <= bound <= 0.5 * (1 + 1e-5)
    steepest = torch.linalg.matrix_norm(
        jacobian(Normalised(model, (0,) * 3, wide.tolist()), uniform(3, 4, 4)), 2
    )
    assert 0.49 <= steepest <= bound


def test_blocks_whose_second_convolution_is_zero_have_norm_one():
    """As networks without batch norm begin; points that shortcuts keep, and the channels they fill."""
    model = cifar_resnet(14, 3, classes=4, batch_norm=False).double().eval()
    ones = torch.ones(3, 1, dtype=torch.float64)
    centred(model.stem, ones @ torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64))
    assert lipschitz_bound(model, SHAPE) == 0  # the head is zero as well
    model.head.weight.data[:, :3] = normal(4, 1) @ ones.T
    steepest = torch.linalg.matrix_norm(jacobian(model, 0.1 + uniform(*SHAPE)), 2)
    assert steepest <= lipschitz_bound(model, SHAPE) <= steepest * (1 + 1e-5)


def test_max_pooling_doubles_and_can():
    model = ResNet((1,), (1,), 1, "large", 1, batch_norm=False).double().eval()
    centred(model.stem, torch.eye(1))
    centred(model.blocks[0].conv2, torch.zeros(1, 1))
    model.head.weight.data.fill_(1.0)
    dark = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    light = dark.clone()
    light[0, 0, 2, 2] = 1  # in all four windows
    with torch.no_grad():
        ratio = float((model(light) - model(dark)).norm())
    assert ratio == 1
    assert ratio <= lipschitz_bound(model, (1, 8, 8)) <= 1 + 1e-5


def test_reflection_has_a_bound_of_its_own():
    model, _ = network("batch norm", 0)
    zeros = lipschitz_bound(model, SHAPE)
    model.blocks[0].conv1.padding_mode = "reflect"
    model.blocks[0].conv1._reversed_padding_repeated_twice = [1, 1, 1, 1]
    assert zeros < lipschitz_bound(model, SHAPE) < math.inf


class Planes(nn.Module):
    """Two classes on either side of a plane through the middle of the box."""

    def __init__(self, size, scale=1.0, dtype=torch.float64):
        super().__init__()
        direction = normal(size, seed=7).to(dtype)
        self.weight = nn.Parameter(scale * direction / direction.norm())

    def forward(self, x):
        score = (x.flatten(1) - 0.5) @ self.weight
        return torch.stack([score, -score], dim=1)


@pytest.mark.parametrize("restarts", [1, 2])
def test_against_a_plane_the_attack_succeeds_exactly_where_it_can(restarts):
    model = Planes(48)
    images = 0.5 + 0.03 * normal(200, 3, 4, 4)
    with torch.no_grad():
        labels = model(images).argmax(1)
        distances = model(images).abs()[:, 0]
    labels[:20] = 1 - labels[:20]
    for radius in (0.0, 0.01, 0.03, 0.06):
        clear = (distances / (radius or 1) - 1).abs() > 0.03
        clear[:20] = True
        x, y = images[clear], labels[clear]
        expected = float(((distances[clear] <= radius) | (model(x).argmax(1) != y)).double().mean())
        found = attacked_error(model, x, y, radius, restarts=restarts, generator=seeded(), batch=64)
        assert found == pytest.approx(expected, abs=1e-12)
        # The difference of the two logits has slope 2, at most sqrt(2) times the constant sqrt(2).
        certified = certified_error(model, x, y, radius, math.sqrt(2), batch=64)
        assert certified == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("radius", [0.0, 1e-3, 0.25, 10.0])
@pytest.mark.parametrize("low_high", [(0.0, 1.0), (None, None), (0.0, None)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_image_stays_in_the_ball_and_in_the_box(radius, low_high, dtype):
    model = Normalised(network("batch norm", 3)[0], MEAN, DEVIATION).to(dtype)
    images = uniform(12, *SHAPE, dtype=dtype)
    images[:4] = images[:4].round()
    labels = torch.arange(12) % 10
    low, high = low_high
    found = pgd(model, images, labels, radius, steps=5, restarts=2, low=low, high=high, generator=seeded(1))
    assert found.dtype == dtype
    assert not found.requires_grad
    assert low is None or found.min() >= low
    assert high is None or found.max() <= high
    change = (found.double() - images.double()).flatten(1).norm(dim=1)
    size = max(float(found.abs().max()), 1.0)
    assert change.max() <= radius * (1 + 1e-6) + 192**0.5 * torch.finfo(dtype).eps * size
    again = pgd(model, images, labels, radius, steps=5, restarts=2, low=low, high=high, generator=seeded(1))
    assert torch.equal(found, again)
    if radius >= 0.25:
        with torch.no_grad():
            before, after = (nn.functional.cross_entropy(model(x), labels) for x in (images, found))
        assert after > before


def test_the_images_returned_are_those_that_were_counted():
    model, images, labels = undecided(*network("no batch norm", 3))
    share = attacked_error(model, images, labels, 0.3, generator=seeded())
    found = pgd(model, images, labels, 0.3, generator=seeded())
    with torch.no_grad():
        wrong = model(found).argmax(1) != labels
    assert share == pytest.approx(float(wrong.double().mean()), abs=1e-12)
    assert 0 < share < 1


@pytest.mark.parametrize("kind", KINDS)
def test_no_attack_flips_a_certified_image(kind):
    bare, shape = network(kind, 4)
    model, images, labels = undecided(bare, shape)
    constant = lipschitz_bound(bare, shape, DEVIATION)
    with torch.no_grad():
        logits = model(images)
    labels[::8] = (labels[::8] + 1) % 5
    top = logits.topk(2).values
    leads = (top[:, 0] - top[:, 1]) / (math.sqrt(2) * constant)
    clean = attacked_error(model, images, labels, 0.0, generator=seeded())
    assert clean == pytest.approx(8 / 60)
    assert certified_error(model, images, labels, 0.0, constant) == clean
    assert certified_error(model, images, labels, 0.0, math.inf) == clean
    assert certified_error(model, images, labels, 1e-9, math.inf) == 1
    last = 0.0
    for share in (0.1, 0.5, 0.9):
        radius = float(leads.quantile(share))
        certified = certified_error(model, images, labels, radius, constant, batch=7)
        assert last <= certified
        assert clean <= certified < 1
        attacked = attacked_error(model, images, labels, radius, steps=8, generator=seeded(), batch=16)
        assert clean <= attacked <= certified
        safe = (leads > radius) & (logits.argmax(1) == labels)
        assert float(safe.double().mean()) == pytest.approx(1 - certified)
        found = pgd(model, images[safe], labels[safe], radius, steps=8, generator=seeded())
        with torch.no_grad():
            assert torch.equal(model(found).argmax(1), labels[safe])
        last = certified
    # Beyond what is certified the attack does find something.
    assert attacked_error(model, images, labels, 1.0, generator=seeded()) > clean


def test_a_sure_network_is_attacked_although_its_gradients_squared_are_zero():
    model = Planes(48, scale=100.0, dtype=torch.float32)
    images = 0.5 + 0.35 * (model.weight / 100).detach().reshape(1, 3, 4, 4).repeat(5, 1, 1, 1)
    labels = torch.zeros(5, dtype=torch.int64)
    x = images.clone().requires_grad_()
    nn.functional.cross_entropy(model(x), labels).backward()
    assert x.grad.abs().max() > 0
    assert (x.grad**2).max() == 0
    assert attacked_error(model, images, labels, 0.36, generator=seeded()) == 1
    assert attacked_error(model, images, labels, 0.34, generator=seeded()) == 0
    # Steps have the length that was asked for, also there.
    assert attacked_error(model, images, labels, 0.36, steps=1, step_size=1e-3, generator=seeded()) == 0


class Torn(nn.Module):
    """Right below 0.6, and unsure there; wrong above, of less loss since the third class is ruled out."""

    def forward(self, x):
        unsure = torch.cat([0.02 - 0.01 * x, 0.01 * x, 0 * x], dim=1)
        wrong = torch.cat([0 * x, 0.2 + 0 * x, 0 * x - 5], dim=1)
        return torch.where(x > 0.6, wrong, unsure)


def test_a_misclassified_image_goes_before_one_of_more_loss():
    images, labels = torch.full((9, 1), 0.5), torch.zeros(9, dtype=torch.int64)
    loss = nn.functional.cross_entropy(Torn()(torch.tensor([[0.5], [0.7]])), labels[:2], reduction="none")
    assert loss[0] > loss[1]
    found = pgd(Torn(), images, labels, 0.2, restarts=8, generator=seeded())
    assert found.min() > 0.6
    assert pgd(Torn(), images, labels, 0.05, restarts=8, generator=seeded()).max() < 0.6
    assert attacked_error(Torn(), images, labels, 0.2, restarts=8, generator=seeded()) == 1


def test_a_network_of_nan_keeps_images_in_the_ball():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    model[1].weight.data.fill_(math.nan)
    images = uniform(6, 3, 2, 2, dtype=torch.float32)
    labels = torch.zeros(6, dtype=torch.int64)
    found = pgd(model, images, labels, 0.1, generator=seeded())
    assert (found - images).flatten(1).norm(dim=1).max() <= 0.1 + 1e-6
    assert certified_error(model, images, labels, 0.1, 1.0) == 1


def test_an_attack_leaves_the_network_and_the_random_state_alone():
    model = Normalised(cifar_resnet(8, 4), MEAN, DEVIATION).train()
    model.model.blocks[0].eval()
    model.model.head.weight.requires_grad_(False)
    grad = torch.ones_like(model.model.stem.weight)
    model.model.stem.weight.grad = grad.clone()
    modes = [part.training for part in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    images, labels = uniform(6, *SHAPE, dtype=torch.float32), torch.arange(6)
    kept, random = images.clone(), torch.get_rng_state()
    with torch.inference_mode():
        born_here = images.clone()
        pgd(model, born_here, labels, 0.1, steps=2, generator=seeded())
        attacked_error(model, born_here, labels, 0.1, steps=2, generator=seeded())
    with torch.no_grad():
        pgd(model, images, labels, 0.1, steps=2, generator=seeded())
    certified_error(model, images, labels, 0.1, 1.0)
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(model.model.stem.weight.grad, grad)
    assert [p.grad is None for p in model.parameters()].count(False) == 1
    assert [p.requires_grad for p in model.parameters()].count(False) == 1
    assert torch.equal(images, kept)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.is_grad_enabled()


BAD = {
    "bytes": ({"images": torch.zeros(2, 3, 4, 4, dtype=torch.uint8)}, "divide images of bytes by 255"),
    "no batch": ({"images": torch.zeros(2)}, "shape"),
    "outside": ({"images": torch.full((2, 3, 4, 4), 1.5)}, "must lie between 0 and 1; they reach from 1.5"),
    "nan": ({"images": torch.full((2, 3, 4, 4), math.nan)}, "must lie between 0 and 1"),
    "few labels": (
        {"labels": torch.zeros(1, dtype=torch.int64)},
        r"labels must be whole numbers of shape \(2,\)",
    ),
    "soft labels": ({"labels": torch.zeros(2)}, "labels must be whole numbers"),
    "radius": ({"radius": -0.1}, "radius must be a number of at least 0; got -0.1"),
    "nan radius": ({"radius": math.nan}, "radius must be"),
    "steps": ({"steps": 0}, "steps and restarts must be at least 1; got 0"),
    "restarts": ({"restarts": 0}, "restarts"),
    "step size": ({"step_size": 0.0}, "step_size must be positive, or None; got 0.0"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("attack", [pgd, attacked_error])
def test_what_cannot_be_attacked_is_refused(case, attack):
    good = {"images": torch.zeros(2, 3, 4, 4), "labels": torch.zeros(2, dtype=torch.int64), "radius": 0.1}
    change, message = BAD[case]
    with pytest.raises(InputError, match=message):
        attack(Planes(48, dtype=torch.float32), **(good | change), generator=seeded())


def test_what_cannot_be_certified_is_refused():
    model, images, labels = Planes(48), torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64)
    for radius, constant in ((-1.0, 1.0), (1.0, -1.0), (math.nan, 1.0), (1.0, math.nan), (math.inf, 1.0)):
        with pytest.raises(InputError, match="radius and lipschitz must be at least 0"):
            certified_error(model, images, labels, radius, constant)
    for function in (
        lambda x, y, **k: certified_error(model, x, y, 0.1, 1.0, **k),
        lambda x, y, **k: attacked_error(model, x, y, 0.1, generator=seeded(), **k),
    ):
        with pytest.raises(InputError, match="at least one image"):
            function(images[:0], labels[:0])
        with pytest.raises(InputError, match="batch"):
            function(images, labels, batch=0)
    with pytest.raises(InputError, match="divide images of bytes by 255"):
        certified_error(model, images.byte(), labels, 0.1, 1.0)


def test_labels_may_be_bytes():
    model, images = Planes(48), 0.5 + 0.03 * normal(20, 3, 4, 4)
    with torch.no_grad():
        labels = model(images).argmax(1).to(torch.uint8)
    assert attacked_error(model, images, labels, 0.0, generator=seeded()) == 0
    assert attacked_error(model, images, labels, 0.2, generator=seeded()) == 1
    assert certified_error(model, images, labels, 0.0, 2.0) == 0
    assert np.isclose(certified_error(model, images, labels, 0.2, 2.0), 1)
