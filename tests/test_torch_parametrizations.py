"""Parametrizations and initial weights: their operators against the dense reference."""

from __future__ import annotations

import copy
import pickle
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.utils import parametrize  # noqa: E402

from convspectra import GeometryError, InputError, singular_values  # noqa: E402
from convspectra.operators.reference import dense_operator  # noqa: E402
from convspectra.torch import (  # noqa: E402
    SpectralClip,
    SpectralNorm,
    geometry_of,
    initialise_,
    orthogonal,
    spectral_norm,
)
from convspectra.torch.tensors import constrain_tensor  # noqa: E402
from strategies import layers as random_layers  # noqa: E402

LAYERS = {
    "square": (nn.Conv2d(4, 4, 3, padding=1), (5, 6)),
    "wide": (nn.Conv2d(6, 3, 3, padding=1), (4, 5)),
    "tall": (nn.Conv2d(3, 8, (3, 2)), (4, 5)),
    "kernel larger than input": (nn.Conv2d(3, 4, 5, padding=2), (3, 4)),
    "1d, dilated": (nn.Conv1d(3, 4, 5, dilation=2, padding=4), (9,)),
    "3d": (nn.Conv3d(2, 3, 2, padding=1), (3, 2, 3)),
    "strided": (nn.Conv2d(4, 3, 3, stride=2, padding=1), (4, 6)),
    "grouped": (nn.Conv2d(4, 8, 3, groups=2, padding=1), (4, 5)),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4, padding=1), (4, 5)),
    "transposed": (nn.ConvTranspose2d(3, 4, 4, stride=2, padding=1), (3, 4)),
    "grouped transposed": (nn.ConvTranspose1d(4, 8, 3, stride=2, groups=2), (5,)),
    "strided, more rows": (nn.Conv2d(2, 5, 3, stride=2, padding=1), (4, 6)),
    "strided, rows of a whole patch": (nn.Conv2d(1, 9, 2, stride=2), (4, 6)),
    "strided, more rows, dilated": (nn.Conv1d(2, 5, 4, stride=2, dilation=3, padding=4), (8,)),
    "strided, more rows, grouped": (nn.Conv2d(4, 10, (2, 3), groups=2, stride=2, padding=(0, 1)), (4, 6)),
    "strided transposed, more inputs": (nn.ConvTranspose2d(6, 2, 3, stride=2, padding=1), (3, 4)),
    "linear": (nn.Linear(5, 4), (1,)),
}
layers = pytest.mark.parametrize("name", LAYERS)


def layer(name):
    torch.manual_seed(0)
    module, size = copy.deepcopy(LAYERS[name])
    module.reset_parameters()
    return module, size


def dense_values(module, size, *, wrapped=True):
    kernel = module.weight.detach().double().numpy()
    geometry = geometry_of(module, size)
    geometry = geometry.on_torus() if wrapped else geometry
    return np.linalg.svd(
        dense_operator(kernel[..., None] if kernel.ndim == 2 else kernel, geometry), compute_uv=False
    )


class TestSpectralNorm:
    @layers
    @pytest.mark.parametrize("guarantee", ["torus", "layer", "any_size"])
    def test_the_dense_norm_is_at_most_the_limit(self, name, guarantee):
        module, size = layer(name)
        assert spectral_norm(module, 0.5, input_shape=size, guarantee=guarantee) is module
        wrapped = guarantee != "layer"
        assert dense_values(module, size, wrapped=wrapped)[0] <= 0.5 * (1 + 1e-6)
        if guarantee == "torus":
            assert dense_values(module, size)[0] == pytest.approx(0.5, rel=1e-4)
        if guarantee == "any_size":
            assert dense_values(module, size, wrapped=False)[0] <= 0.5 * (1 + 1e-6)

    @pytest.mark.slow
    @settings(max_examples=1000)
    @given(st.sampled_from(["torus", "layer", "any_size"]), st.data())
    def test_a_thousand_random_layers_are_in_the_ball_by_the_dense_matrix(self, guarantee, data):
        copying = st.sampled_from(["zeros", "reflect", "replicate", "circular"])
        mode = "torus" if guarantee == "torus" else data.draw(copying)
        kernel, geometry = data.draw(random_layers(mode=mode))
        limit = 0.5 * np.linalg.norm(dense_operator(kernel, geometry), 2)
        assume(limit > 1e-12)
        inside = SpectralNorm(limit, geometry, guarantee)(torch.from_numpy(kernel))
        assert np.linalg.norm(dense_operator(inside.numpy(), geometry), 2) <= limit

    def test_the_one_that_torch_ships_bounds_another_matrix(self):
        torch.manual_seed(0)
        theirs, ours = (nn.Conv2d(64, 64, 3, padding=1, bias=False) for _ in range(2))
        nn.utils.parametrizations.spectral_norm(theirs, n_power_iterations=100)
        spectral_norm(ours, 1.0, input_shape=(32, 32))
        true = [
            float(singular_values(module.weight.detach(), geometry_of(module, (32, 32)).on_torus()).norm)
            for module in (theirs, ours)
        ]
        assert 1.4 < true[0] < 1.6
        assert 0.999 < true[1] <= 1

    def test_a_weight_inside_the_ball_is_left_as_it_is(self):
        module, size = layer("square")
        before = module.weight.detach().clone()
        spectral_norm(module, 100.0, input_shape=size)
        assert torch.equal(module.weight, before)

    def test_it_trains_and_stays_inside(self):
        module, size = layer("square")
        spectral_norm(module, 0.7, input_shape=size)
        optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
        before = module.parametrizations.weight.original.detach().clone()
        for _ in range(3):
            optimizer.zero_grad()
            (-module(torch.ones(1, 4, *size)).square().mean()).backward()
            optimizer.step()
            assert dense_values(module, size)[0] <= 0.7 * (1 + 1e-6)
        assert not torch.equal(module.parametrizations.weight.original, before)

    def test_its_gradient_is_that_of_the_formula(self):
        module, size = nn.Conv1d(2, 2, 3, dtype=torch.float64), (6,)
        bounded = SpectralNorm(0.3, geometry_of(module, size).on_torus())
        weight = module.weight.detach().requires_grad_()
        assert torch.autograd.gradcheck(bounded, (weight,), eps=1e-6, atol=1e-5)

    def test_a_norm_is_computed_once_for_each_weight(self, monkeypatch):
        module, size = layer("square")
        spectral_norm(module, 0.5, input_shape=size, guarantee="torus")
        original, calls = module.parametrizations.weight.original, []

        def counted(*args, **kwargs):
            calls.append(args)
            return constrain_tensor(*args, **kwargs)

        monkeypatch.setattr(sys.modules[SpectralNorm.__module__], "constrain_tensor", counted)
        x = torch.ones(1, 4, *size)
        optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
        for made in (0, 1):  # the first when it was registered
            for _ in range(3):
                (-module(x).square().mean()).backward()
            assert len(calls) == made
            optimizer.step()
        module.eval()
        with torch.no_grad():
            first = module(x)
            module(x)
        assert len(calls) == 2
        original.data.mul_(3)  # which moves no version counter
        with torch.no_grad():
            assert torch.allclose(module(x), first, atol=1e-5)
        assert len(calls) == 3
        assert dense_values(module, size)[0] <= 0.5 * (1 + 1e-6)

    def test_what_is_kept_gives_each_pass_its_own_gradient(self):
        module, size = layer("square")
        spectral_norm(module.double(), 0.5, input_shape=size, guarantee="torus")
        original, x = module.parametrizations.weight.original, torch.randn(2, 4, *size).double()
        alone = []
        for one in x:
            bounded = copy.deepcopy(module)
            bounded(one[None]).square().sum().backward()
            alone.append(bounded.parametrizations.weight.original.grad)
        losses = [module(one[None]).square().sum() for one in x]
        for loss in losses:
            loss.backward()
        assert torch.allclose(original.grad, alone[0] + alone[1], rtol=1e-12)

    def test_a_write_into_the_weight_does_not_stay(self):
        module, size = layer("square")
        spectral_norm(module, 0.5, input_shape=size, guarantee="torus")
        before = module.weight.detach().clone()
        with torch.no_grad():
            module.weight.mul_(10)
        assert torch.equal(module.weight, before)

    def test_another_limit_and_another_precision_are_taken_at_once(self):
        module, size = layer("square")
        spectral_norm(module, 0.5, input_shape=size, guarantee="torus")
        bounded = module.parametrizations.weight[0]
        bounded.limits = replace(bounded.limits, max_norm=0.25)
        assert 0.24 < dense_values(module, size)[0] <= 0.25
        assert module.half().weight.dtype == torch.float16
        assert dense_values(module, size)[0] <= 0.25

    def test_after_a_step_it_can_be_copied_and_pickled(self):
        module, size = layer("square")
        spectral_norm(module, 0.5, input_shape=size, guarantee="torus")
        module(torch.ones(1, 4, *size)).sum().backward()
        assert torch.equal(copy.deepcopy(module).weight, module.weight)
        bounded = module.parametrizations.weight[0]
        original = module.parametrizations.weight.original
        assert torch.equal(pickle.loads(pickle.dumps(bounded))(original), module.weight)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_inside_after_rounding(self, dtype):
        module, size = layer("square")
        spectral_norm(module.to(dtype), 0.5, input_shape=size, guarantee="torus")
        assert module.weight.dtype == dtype
        assert 0.97 * 0.5 < dense_values(module, size)[0] <= 0.5
        module.weight.sum().backward()
        assert torch.isfinite(module.parametrizations.weight.original.grad).all()

    def test_assignment_state_and_removal(self):
        module, size = layer("square")
        spectral_norm(module, 0.5, input_shape=size)
        small = 0.01 * torch.randn(4, 4, 3, 3)
        with torch.no_grad():
            module.weight = small
        assert torch.equal(module.weight, small)
        other, _ = layer("square")
        spectral_norm(other, 0.5, input_shape=size).load_state_dict(module.state_dict())
        assert torch.equal(other.weight, small)
        parametrize.remove_parametrizations(module, "weight")
        assert torch.equal(module.weight, small)
        assert isinstance(module.weight, nn.Parameter)

    def test_a_stride_that_does_not_divide_is_held_on_the_next_larger_torus(self):
        module, _ = layer("strided")
        spectral_norm(module, 0.5, input_shape=(5, 5), guarantee="torus")
        assert module.parametrizations.weight[0].uses[0].geometry.input_shape == (6, 6)
        assert dense_values(module, (6, 6))[0] <= 0.5 * (1 + 1e-6)

    def test_a_clip_leaves_it_alone(self):
        module, size = layer("square")
        model = nn.Sequential(spectral_norm(module, 0.5, input_shape=size), nn.Conv2d(4, 4, 3))
        clip = SpectralClip(model, 0.1, method="rescale", guarantee="any_size")
        clip.step()
        assert [record.status for record in clip.report()] == ["computed", "held"]
        assert clip.report()[0].norm > 0.4

    def test_bad_input(self):
        with pytest.raises(InputError, match=r"^max_norm"):
            spectral_norm(nn.Conv2d(1, 1, 1), 0.0, input_shape=(3, 3))
        with pytest.raises(InputError, match=r"^input_shape must have spatial sizes only.* give \(8, 8\)"):
            spectral_norm(nn.Conv2d(3, 1, 3), input_shape=(3, 8, 8))
        with pytest.raises(InputError, match="no convolution or linear layer"):
            spectral_norm(nn.ReLU(), 1.0)
        model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Linear(2, 2))
        with pytest.raises(InputError, match=r"^input_shape is of one layer; for a model give input"):
            spectral_norm(model, input_shape=8)
        for limits in ({"0": -1.0}, {}, {"2": 1.0}):
            with pytest.raises(InputError, match=r"max_norm|pattern|leave none"):
                spectral_norm(model, limits)
        with pytest.raises(InputError, match=r"^max_norm must be a number for one layer"):
            spectral_norm(nn.Linear(2, 2), {"*": 1.0})
        for name in ("kernel", "bias"):
            with pytest.raises(InputError, match=r"^name "):
                spectral_norm(nn.Linear(2, 2), 1.0, name=name)
        with pytest.raises(InputError, match=r"the weight of LazyConv2d.* has no shape yet"):
            spectral_norm(nn.LazyConv2d(2, 3), 1.0, input_shape=(5, 5))
        with pytest.raises(InputError, match=r"^guarantee"):
            spectral_norm(nn.Linear(2, 2), 1.0, guarantee="all")
        module = spectral_norm(nn.Linear(2, 2), 1.0)
        with pytest.raises(InputError, match="weight of ParametrizedLinear already has SpectralNorm: remove"):
            spectral_norm(module, 0.5)

    def test_another_size_is_said_once(self):
        module = spectral_norm(nn.Conv2d(2, 2, 3), 1.0, input_shape=(5, 6))
        module(torch.zeros(1, 2, 5, 6))
        with pytest.warns(
            UserWarning, match=r"runs at size \(7, 6\).* bounds it at input_shape=\[\(5, 6\)\]"
        ):
            module(torch.zeros(1, 2, 7, 6))
        copy.deepcopy(module)(torch.zeros(1, 2, 8, 8))
        parametrize.remove_parametrizations(module, "weight")
        other = spectral_norm(nn.Conv2d(2, 2, 3), 1.0, guarantee="any_size")
        for one in (module, other):
            one(torch.zeros(1, 2, 9, 9))


class Standardised(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


class TestSpectralNormOfAllUses:
    def test_several_sizes(self):
        module = nn.Conv2d(3, 4, 3, padding=1)
        spectral_norm(module, 0.5, input_shape=[(5, 6), (8, 8)])
        sizes = [use.geometry.input_shape for use in module.parametrizations.weight[0].uses]
        assert sizes == [(5, 6), (8, 8)]
        for size in sizes:
            assert dense_values(module, size, wrapped=False)[0] <= 0.5
        module(torch.randn(1, 3, 5, 6))
        module(torch.randn(1, 3, 8, 8)).sum().backward()
        assert torch.isfinite(module.parametrizations.weight.original.grad).all()

    def test_a_model_by_a_batch(self):
        model = nn.Sequential(
            nn.Conv2d(2, 3, 3, stride=2, padding=1),
            nn.BatchNorm2d(3),
            nn.ConvTranspose2d(3, 3, 3),
            nn.Conv2d(3, 3, 3, padding=2, padding_mode="reflect"),
            nn.Flatten(),
            nn.Linear(3 * 7 * 8, 4),
        )
        assert spectral_norm(model, 0.5, input=torch.randn(2, 2, 6, 7)) is model
        for index, size in ((0, (6, 7)), (2, (3, 4)), (3, (5, 6)), (5, (1,))):
            assert dense_values(model[index], size, wrapped=False)[0] <= 0.5
        assert model.training
        model(torch.randn(2, 2, 6, 7))

    def test_layers_that_share_a_weight(self):
        first, second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=2, padding_mode="reflect")
        second.weight = first.weight
        model = spectral_norm(nn.Sequential(first, second), 0.5, input=torch.randn(1, 3, 5, 5))
        assert first.parametrizations.weight.original is second.parametrizations.weight.original
        torch.testing.assert_close(first.weight, second.weight)
        assert dense_values(first, (5, 5), wrapped=False)[0] < 0.5
        assert dense_values(second, (5, 5), wrapped=False)[0] <= 0.5
        assert sorted(dict(model.named_parameters()))[:2] == ["0.bias", "0.parametrizations.weight.original"]

    def test_what_cannot_be_bounded_is_refused(self):
        with pytest.raises(InputError, match=r"layer '' computes something else"):
            spectral_norm(Standardised(2, 2, 3), 1.0, input_shape=(5, 5))
        with pytest.raises(InputError, match="layer '1' computes something else"):
            spectral_norm(
                nn.Sequential(nn.Conv2d(2, 2, 1), Standardised(2, 2, 3)), input=torch.randn(1, 2, 5, 5)
            )
        for nothing in ({"guarantee": "any_size"}, {"input": torch.zeros(1, 2, 5, 5)}):
            for module in (Standardised(2, 2, 3), nn.Sequential(Standardised(2, 2, 3))):
                with pytest.raises(InputError, match="no input showed what it computes"):
                    spectral_norm(module, **nothing)
        unused = nn.ModuleDict({"used": nn.Conv2d(2, 2, 1), "unused": nn.Conv2d(2, 2, 1)})
        unused.forward = lambda x: unused["used"](x)
        with pytest.raises(InputError, match="layer 'unused' did not run"):
            spectral_norm(unused, input=torch.randn(1, 2, 5, 5))
        assert not hasattr(unused["used"], "parametrizations")

    def test_a_setting_that_changes_is_warned_of_once(self):
        module = spectral_norm(nn.Conv2d(2, 2, 3, stride=2), 1.0, input_shape=(7, 7))
        module.stride = (1, 1)
        with pytest.warns(UserWarning, match="register it again"):
            module(torch.randn(1, 2, 7, 7))
        module(torch.randn(1, 2, 7, 7))


class TestLearning:
    def test_sizes_are_learnt_as_the_layer_runs(self):
        module, size = layer("square")
        anywhere = spectral_norm(copy.deepcopy(module), 0.5, guarantee="any_size").weight
        given = spectral_norm(copy.deepcopy(module), 0.5, input_shape=size).weight
        assert spectral_norm(module, 0.5) is module
        torch.testing.assert_close(module.weight, anywhere)
        twin = copy.deepcopy(module)
        module(torch.randn(1, 4, *size))
        torch.testing.assert_close(module.weight, given)
        assert dense_values(module, size, wrapped=False)[0] <= 0.5 * (1 + 1e-6)
        torch.testing.assert_close(twin.weight, anywhere)
        module(torch.randn(1, 4, 9, 9))
        for one in (size, (9, 9)):
            assert dense_values(module, one, wrapped=False)[0] <= 0.5 * (1 + 1e-6)

    def test_one_number_is_the_size_of_all_axes(self):
        module = spectral_norm(nn.Conv2d(2, 3, 3, padding=1), input_shape=6)
        assert module.parametrizations.weight[0].uses[0].geometry.input_shape == (6, 6)

    def test_a_shared_weight_is_bounded_where_each_layer_runs(self):
        first, second = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1, stride=2)
        second.weight = first.weight
        model = spectral_norm(nn.Sequential(first, second), 0.5)
        model(torch.randn(1, 2, 6, 6))
        for module in model:
            assert dense_values(module, (6, 6), wrapped=False)[0] <= 0.5 * (1 + 1e-6)

    def test_layers_of_a_model_by_name(self):
        make = lambda: nn.Sequential(nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3), nn.Flatten(), nn.Linear(8, 2))  # noqa: E731
        x = torch.randn(1, 2, 6, 6)
        model = spectral_norm(make(), 0.5, input=x, exclude="1")
        assert [hasattr(model[i], "parametrizations") for i in (0, 1, 3)] == [True, False, True]
        model = spectral_norm(make(), {"0": 0.5, "[01]": 0.25}, input=x)
        limits = [model[i].parametrizations.weight[0].limits.max_norm for i in (0, 1)]
        assert limits == [0.5, 0.25]
        assert not hasattr(model[3], "parametrizations")
        model = orthogonal(make(), include=["0", "3"])
        assert [hasattr(model[i], "parametrizations") for i in (0, 1, 3)] == [True, False, True]


class TestOrthogonal:
    @layers
    def test_all_singular_values_are_one(self, name):
        module, size = layer(name)
        orthogonal(module)
        for points in (size, tuple(2 * n for n in size)) if name != "linear" else (size,):
            values = dense_values(module, points)
            assert abs(values - 1).max() < 1e-5, points

    @layers
    def test_zero_padded_it_does_not_expand(self, name):
        module, size = layer(name)
        orthogonal(module)
        assert dense_values(module, size, wrapped=False)[0] < 1 + 1e-5

    @layers
    def test_gradients_are_finite_and_training_keeps_it_orthogonal(self, name):
        module, size = layer(name)
        orthogonal(module)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        target = torch.randn_like(module.weight)
        losses = []
        for _ in range(10):
            optimizer.zero_grad()
            loss = (module.weight - target).square().sum()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < losses[0] or name == "depthwise"  # which has nothing to learn
        assert abs(dense_values(module, size) - 1).max() < 1e-5

    def test_its_gradient_is_that_of_the_formula(self):
        module = orthogonal(nn.Conv1d(3, 4, 3, dtype=torch.float64))
        weight = module.parametrizations.weight.original.detach().requires_grad_()
        assert torch.autograd.gradcheck(module.parametrizations.weight[0], (weight,))

    @pytest.mark.parametrize("start", ["initialise_", "dirac", "zeros", "constant", "a zero tap"])
    @pytest.mark.parametrize("assigned", [False, True])
    def test_the_first_step_from_dependent_columns_is_finite_and_learns(self, start, assigned):
        torch.manual_seed(0)
        module = nn.Conv2d(6, 6, 3, padding=1)
        {
            "initialise_": lambda: initialise_(module),
            "dirac": lambda: nn.init.dirac_(module.weight),
            "zeros": lambda: nn.init.zeros_(module.weight),
            "constant": lambda: nn.init.constant_(module.weight, 0.3),
            "a zero tap": lambda: module.weight.data[:, :, 0, 0].zero_(),
        }[start]()
        weight = module.weight.detach().clone()
        orthogonal(module)
        if assigned:  # into the parameter itself, as a state dict does
            module.parametrizations.weight.original.data.copy_(weight)
        before = module.weight.detach().clone()
        if start in ("initialise_", "dirac"):
            torch.testing.assert_close(before, weight, atol=1e-5, rtol=0)
        optimizer = torch.optim.Adam(module.parameters(), 1e-2)
        target = torch.randn_like(before)
        losses = []
        for _ in range(30):
            optimizer.zero_grad()
            loss = (module.weight - target).square().sum()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
            assert all(torch.isfinite(part).all() for part in module.parameters())
        assert abs(dense_values(module, (5, 5)) - 1).max() < 1e-5
        if not assigned:
            assert losses[-1] < losses[0]
            gradient = module.parametrizations.weight.original.grad
            assert int((gradient.abs().amax(dim=(0, 1)) > 0).sum()) == 5  # every tap that is used

    def test_twice_is_refused(self):
        module = orthogonal(nn.Conv2d(2, 2, 3))
        with pytest.raises(InputError, match="weight of ParametrizedConv2d already has Orthogonal: rem"):
            orthogonal(module)

    def test_a_stride_that_cannot_be(self):
        with pytest.raises(GeometryError, match="8 rows of 3 columns cannot stay orthonormal"):
            orthogonal(nn.Conv2d(3, 8, 1, stride=2))
        with pytest.raises(GeometryError, match=r"common divisor.* take a dilation of 1"):
            orthogonal(nn.Conv2d(3, 8, 3, stride=2, dilation=2))

    def test_a_downsampling_layer_of_a_residual_network(self):
        module = orthogonal(nn.Conv2d(64, 128, 3, stride=2, padding=1))
        values = singular_values(module.weight.detach().numpy(), geometry_of(module, (8, 8)).on_torus())
        assert abs(values.values - 1).max() < 1e-5

    @pytest.mark.parametrize("start", ["zeros", "constant", "normal"])
    def test_strided_with_more_rows_it_starts_and_learns(self, start):
        torch.manual_seed(0)
        module = nn.Conv1d(2, 5, 4, stride=2, dtype=torch.float64)
        {"zeros": nn.init.zeros_, "normal": nn.init.normal_, "constant": partial(nn.init.constant_, val=0.3)}[
            start
        ](module.weight)
        orthogonal(module)
        weight = module.parametrizations.weight.original.detach().requires_grad_()
        if start == "normal":
            assert torch.autograd.gradcheck(module.parametrizations.weight[0], (weight,))
        optimizer, target = torch.optim.Adam(module.parameters(), 1e-2), torch.randn_like(module.weight)
        losses = []
        for _ in range(20):
            optimizer.zero_grad()
            loss = (module.weight - target).square().sum()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]
        assert abs(dense_values(module, (8,)) - 1).max() < 1e-12

    @pytest.mark.parametrize("mode", ["reflect", "replicate"])
    def test_padding_that_repeats_inputs_cannot_be(self, mode):
        for padding in ("same", 1, (0, 1)):
            with pytest.raises(GeometryError, match=f"padding_mode='{mode}' repeats inputs"):
                orthogonal(nn.Conv2d(3, 3, 3, padding=padding, padding_mode=mode))
        orthogonal(nn.Conv2d(3, 3, 3, padding="valid", padding_mode=mode))
        orthogonal(nn.Conv2d(3, 3, 1, padding="same", padding_mode=mode))


@pytest.mark.parametrize("guarantee", ["layer", "any_size"])
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_evaluation_has_the_weight_of_training(mode, guarantee):
    module = nn.Conv2d(3, 4, 3, padding=1, padding_mode=mode)
    size = {} if guarantee == "any_size" else {"input_shape": (8, 8)}
    spectral_norm(module, 0.5, guarantee=guarantee, **size)
    trained = module.weight.detach().clone()
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            module.parametrizations.weight[0]._kept = None
            torch.testing.assert_close(module.eval().weight.clone(), trained, rtol=0, atol=0)
    module.train()(torch.randn(1, 3, 8, 8)).sum().backward()
    assert module.parametrizations.weight.original.grad is not None


class TestInitialise:
    @layers
    @pytest.mark.parametrize("norm", [1.0, 0.3])
    def test_all_singular_values_are_the_norm(self, name, norm):
        module, size = layer(name)
        bias = module.bias.detach().clone()
        assert initialise_(module, norm) is module
        values = dense_values(module, size)
        assert abs(values - norm).max() < 1e-6
        assert torch.equal(module.bias, bias)
        assert dense_values(module, size, wrapped=False)[0] <= norm * (1 + 1e-6)

    @pytest.mark.parametrize("name", ["square", "tall", "wide", "1d, dilated", "grouped"])
    def test_padding_by_what_the_middle_tap_reaches_changes_nothing(self, name):
        module, size = layer(name)
        initialise_(module)
        taps = module.weight.detach().flatten(2).abs().sum(dim=(0, 1))
        assert int((taps > 0).sum()) == 1
        if name != "tall":
            assert abs(dense_values(module, size, wrapped=False) - 1).max() < 1e-6

    def test_a_strided_layer_reads_every_pixel_its_kernel_covers(self):
        module = initialise_(nn.Conv2d(3, 12, 3, stride=2, padding=1))
        assert abs(dense_values(module, (6, 6), wrapped=False) - 1).max() < 1e-6
        pointwise = initialise_(nn.Conv2d(3, 5, 1, stride=2))
        values = dense_values(pointwise, (4, 4), wrapped=False)
        assert abs(values[:12] - 1).max() < 1e-6
        assert abs(values[12:]).max() < 1e-6

    def test_a_whole_model_and_a_generator(self):
        def made(seed):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Linear(3, 2))
            return initialise_(model, generator=torch.Generator().manual_seed(seed))

        assert torch.equal(made(1)[0].weight, made(1)[0].weight)
        assert not torch.equal(made(1)[0].weight, made(2)[0].weight)
        assert abs(dense_values(made(1)[2], (1,)) - 1).max() < 1e-6

    @layers
    def test_scaled_to_a_norm(self, name):
        module, size = layer(name)
        before = module.weight.detach().clone()
        initialise_(module, 2.0, method="scaled", input_shape=size, guarantee="torus")
        assert dense_values(module, size)[0] == pytest.approx(2.0, rel=1e-5)
        ratio = module.weight.detach() / before
        assert torch.allclose(ratio, ratio.flatten()[0])

    def test_bad_input(self):
        with pytest.raises(InputError, match=r"^norm "):
            initialise_(nn.Linear(2, 2), -1)
        with pytest.raises(InputError, match=r"^method"):
            initialise_(nn.Linear(2, 2), method="delta")
        with pytest.raises(InputError, match="must be or hold a convolution or linear layer; got ReLU"):
            initialise_(nn.ReLU())
        with pytest.raises(InputError, match="takes one layer with its input_shape; got 2 layers"):
            initialise_(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), method="scaled")
        with pytest.raises(InputError, match=r"^input_shape"):
            initialise_(nn.Conv2d(2, 2, 3), method="scaled")
        with pytest.raises(InputError, match="is computed from other parameters"):
            initialise_(orthogonal(nn.Linear(2, 2)))
        zero = nn.Linear(2, 2)
        nn.init.zeros_(zero.weight)
        with pytest.raises(InputError, match="is zero and cannot be scaled"):
            initialise_(zero, method="scaled")
