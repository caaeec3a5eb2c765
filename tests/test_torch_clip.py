"""`SpectralClip`: what it does to the weights of a model that trains."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from convspectra import ConvGeometry, InputError  # noqa: E402
from convspectra.operators.reference import dense_operator  # noqa: E402
from convspectra.torch import SpectralClip, geometry_of  # noqa: E402

LIMIT = 0.5


pytestmark = pytest.mark.usefixtures("one_thread")


def dense_norm(module, input_shape, *, wrapped=False, scale=None):
    """The norm of a layer by the dense reference."""
    kernel = module.weight.detach().double()
    if scale is not None:
        kernel = kernel * scale.reshape(-1, *(1,) * (kernel.ndim - 1))
    kernel = kernel.numpy()[..., None] if kernel.ndim == 2 else kernel.numpy()
    geometry = geometry_of(module, input_shape)
    return np.linalg.norm(dense_operator(kernel, geometry.on_torus() if wrapped else geometry), 2)


def small(seed=0, channels=4):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, channels, 3, padding=1),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1, stride=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(channels * 9, 3),
    )


def batch(seed, size=6):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(8, 2, size, size, generator=generator)
    return x, torch.randint(0, 3, (8,), generator=generator)


class Training:
    """A model, its optimizer and its clip."""

    def __init__(self, **options):
        self.model = small()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.clip = SpectralClip(self.model, LIMIT, **options)
        self.optimizer.register_step_post_hook(self.clip)

    def run(self, steps):
        for step in steps:
            x, y = batch(step)
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(x), y).backward()
            self.optimizer.step()
        return self

    def saved(self):
        file = io.BytesIO()
        torch.save([part.state_dict() for part in (self.model, self.optimizer, self.clip)], file)
        return file.getvalue()

    def load(self, saved):
        for part, state in zip(
            (self.model, self.optimizer, self.clip), torch.load(io.BytesIO(saved)), strict=True
        ):
            part.load_state_dict(state)
        return self


def same(first, second):
    return all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    "options",
    [
        {"method": "clip", "every": 3},
        {"method": "project", "every": 20},
        {"method": "rescale", "fold_batch_norm": True, "every": 7},
    ],
    ids=lambda options: options["method"],
)
def test_200_steps_stopped_and_resumed_are_200_steps(options):
    whole = Training(**options).run(range(200))
    stopped = Training(**options).run(range(109)).saved()
    resumed = Training(**options).load(stopped).run(range(109, 200))
    assert resumed.clip.steps == 200
    assert same(whole.model, resumed.model)


LAYERS = {
    "conv1d": (nn.Conv1d(3, 4, 5, padding=2, dilation=2), (9,)),
    "conv2d": (nn.Conv2d(3, 4, 3, padding=1), (5, 6)),
    "strided": (nn.Conv2d(3, 4, 3, padding=1, stride=2), (4, 6)),
    "grouped": (nn.Conv2d(4, 6, 3, padding=1, groups=2), (5, 4)),
    "depthwise": (nn.Conv2d(4, 4, 3, padding=1, groups=4), (5, 4)),
    "conv3d": (nn.Conv3d(2, 3, 2), (3, 4, 3)),
    "reflected": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (5, 6)),
    "replicated": (nn.Conv2d(3, 4, 5, padding=2, stride=2, padding_mode="replicate"), (4, 6)),
    "transposed": (nn.ConvTranspose2d(4, 3, 4, padding=1, stride=2), (3, 4)),
    "grouped transposed": (nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2), (5,)),
}


@pytest.mark.parametrize("method", ["project", "clip", "rescale"])
@pytest.mark.parametrize("guarantee", ["torus", "layer", "any_size"])
@pytest.mark.parametrize("name", LAYERS)
def test_the_dense_norm_is_at_most_the_limit(name, guarantee, method):
    module, size = copy.deepcopy(LAYERS[name])
    if guarantee == "torus" and name in ("reflected", "replicated"):
        with pytest.raises(InputError, match=r"layer '': guarantee='torus' says nothing about padding_mode="):
            SpectralClip(module, LIMIT, method=method, guarantee=guarantee)
        return
    clip = SpectralClip(module, LIMIT, method=method, guarantee=guarantee)
    module(torch.zeros(1, module.in_channels, *size))
    assert clip.step()
    (record,) = clip.report()
    assert record.norm <= LIMIT < record.norm_before
    # Rescale multiplies the norm before; where padding copies the input both are bounds within 1 %.
    certified = guarantee == "layer" and name in ("reflected", "replicated")
    assert record.norm == pytest.approx(record.norm_after, rel=1e-2 if certified else 1e-6)
    if guarantee == "torus" or (guarantee == "any_size" and module.padding_mode == "zeros"):
        assert dense_norm(module, size, wrapped=True) <= LIMIT * (1 + 1e-6)
    if guarantee != "torus":
        assert dense_norm(module, size) <= LIMIT * (1 + 1e-6)


@pytest.mark.parametrize("method", ["project", "rescale"])
def test_a_wrapped_layer_whose_stride_does_not_divide_its_input(method):
    """It is no part of a torus: its last output and its first read the same input."""
    module, size = nn.Conv1d(3, 4, 3, padding=1, stride=2, padding_mode="circular"), (7,)
    clip = SpectralClip(module, LIMIT, method=method, guarantee="layer")
    module(torch.zeros(1, 3, *size))
    clip.step()
    assert dense_norm(module, size) <= LIMIT < clip.report()[0].norm_before


def test_the_papers_clip_says_what_norm_is_left():
    norms = {}
    module = nn.Conv2d(4, 4, 3, padding=1)
    clip = SpectralClip(
        module,
        LIMIT,
        method="appendix_a",
        guarantee="torus",
        log=lambda found, step: norms.update({step: found}),
    )
    module(torch.zeros(1, 4, 8, 8))
    clip.step()
    assert norms[1]["spectral_norm_before/"] > norms[1]["spectral_norm/"] > LIMIT
    assert norms[1]["spectral_norm/"] == pytest.approx(dense_norm(module, (8, 8), wrapped=True), rel=1e-5)
    for _ in range(30):
        clip.step()
    assert LIMIT < norms[31]["spectral_norm/"] < 1.05 * LIMIT


@pytest.mark.parametrize("method", ["appendix_a", "reshaped"])
def test_norms_that_nobody_asked_for_do_not_change_the_weights(method):
    logged, plain = Training(method=method, log=lambda *_: None), Training(method=method)
    assert same(logged.run(range(3)).model, plain.run(range(3)).model)
    assert plain.clip.report()[0].norm_after is None


def test_the_reshaped_kernel_is_clipped_as_a_matrix():
    module = nn.Conv2d(3, 4, 3)
    clip = SpectralClip(module, LIMIT, method="reshaped")
    module(torch.zeros(1, 3, 6, 6))
    clip.step()
    assert torch.linalg.matrix_norm(module.weight.reshape(4, -1), 2) <= LIMIT * (1 + 1e-5)
    assert dense_norm(module, (6, 6)) > LIMIT


def test_a_stride_that_does_not_divide_is_held_on_the_next_larger_torus():
    module = nn.Conv2d(2, 3, 3, stride=2, padding=1)
    clip = SpectralClip(module, LIMIT, method="rescale", guarantee="torus")
    module(torch.zeros(1, 2, 15, 7))
    clip.step()
    (record,) = clip.report()
    assert (record.input_shapes, record.tori) == (((15, 7),), ((16, 8),))
    assert dense_norm(module, (16, 8), wrapped=True) == pytest.approx(LIMIT, rel=1e-4)


def test_several_sizes_are_held_at_each_and_said_once():
    module = nn.Conv2d(3, 3, 3, padding=1)
    clip = SpectralClip(module, LIMIT, method="project")
    module(torch.zeros(1, 3, 5, 5))
    clip.step()
    module(torch.zeros(1, 3, 8, 3))
    with pytest.warns(UserWarning, match=r"layer '' ran at several sizes, \[\(5, 5\), \(8, 3\)\]"):
        clip.step()
    with torch.no_grad():
        module.weight.normal_()
    clip.step()
    assert max(dense_norm(module, size) for size in [(5, 5), (8, 3)]) <= LIMIT * (1 + 1e-6)
    assert clip.report()[0].input_shapes == ((5, 5), (8, 3))
    for size in (4, 6, 7):
        module(torch.zeros(1, 3, size, size))
    with pytest.warns(UserWarning, match="at more than 4 sizes: it is held at the first of them only"):
        clip.step()
    assert clip.report()[0].input_shapes == ((5, 5), (8, 3), (4, 4), (6, 6))


def test_any_size_needs_no_forward_pass():
    module = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ConvTranspose2d(3, 3, 5, stride=2, padding=2))
    clip = SpectralClip(module, LIMIT, method="rescale", guarantee="any_size")
    clip.step()
    for size in [(3, 3), (4, 9), (11, 5)]:
        assert dense_norm(module[0], size, wrapped=True) <= LIMIT * (1 + 1e-6)
        assert dense_norm(module[0], size) <= LIMIT * (1 + 1e-6)
        assert dense_norm(module[1], size) <= LIMIT * (1 + 1e-6)


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 2, 3, padding=1)
        self.second = nn.Conv2d(2, 2, 3, padding=2, dilation=2)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x))


@pytest.mark.parametrize("method", ["project", "clip", "rescale"])
def test_a_shared_weight_is_held_for_all_its_layers(method):
    model = Shared()
    clip = SpectralClip(model, LIMIT, method=method, guarantee="torus")
    model(torch.zeros(1, 2, 6, 5))
    clip.step()
    (record,) = clip.report()
    assert (record.name, record.shared_with) == ("first", ("second",))
    assert model.first.weight is model.second.weight
    norms = [dense_norm(layer, (6, 5), wrapped=True) for layer in (model.first, model.second)]
    assert max(norms) <= LIMIT * (1 + 1e-6)
    assert max(norms) > 0.99 * LIMIT or method != "rescale"


def test_frozen_and_computed_weights_are_left_alone_and_reported():
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3))
    model[0].weight.requires_grad_(False)
    nn.utils.parametrizations.weight_norm(model[1])
    unused = model[3]
    clip = SpectralClip(model, 0.1, method="rescale", guarantee="torus")
    model[:3](torch.zeros(1, 2, 9, 9))
    before = [layer.weight.detach().clone() for layer in model]
    clip.step()
    assert [record.status for record in clip.report()] == ["frozen", "computed", "held", "never run"]
    assert [torch.equal(a, b.weight) for a, b in zip(before, model, strict=True)] == [True, True, False, True]
    frozen, computed, _, never = clip.report()
    assert frozen.norm == pytest.approx(dense_norm(model[0], (9, 9), wrapped=True), rel=1e-5)
    assert computed.norm == pytest.approx(dense_norm(model[1], (7, 7), wrapped=True), rel=1e-5)
    assert never.norm is None
    assert unused.weight.requires_grad


def scale_of(norm):
    return (norm.weight.abs() / torch.sqrt(norm.running_var + norm.eps)).detach().double()


@pytest.mark.parametrize("method", ["clip", "project", "rescale"])
def test_a_batch_norm_is_bounded_together_with_its_layer(method):
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ConvTranspose2d(4, 4, 3, groups=2),
        nn.BatchNorm2d(4),
    )
    clip = SpectralClip(model, LIMIT, method=method, fold_batch_norm=True)
    for _ in range(3):
        model(torch.randn(8, 2, 6, 6))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([2.0, -1.0, 0.0, 1e-6]))
    before = model[0].weight.detach().clone()
    clip.step()
    assert clip.report()[0].batch_norms == ("1",)
    assert torch.equal(model[0].weight[2], before[2])  # of scale zero
    # Dividing by a small scale does not blow up what rounding left: no row grows.
    assert (model[0].weight.flatten(1).norm(dim=1) <= 1.01 * before.flatten(1).norm(dim=1)).all()
    x = torch.randn(64, 4, 6, 6)
    model.eval()
    norms = [dense_norm(model[0], (6, 6), scale=scale_of(model[1])), clip.report()[1].norm]
    assert max(norms) <= LIMIT * (1 + 1e-6)
    with torch.no_grad():  # the norm of a transposed layer is never exceeded by what it does
        moved = model[3](model[2](x)) - model[3](model[2](torch.zeros_like(x)))
    gains = moved.flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)
    assert gains.max() <= 1.5 * norms[1]


def test_batch_norm_pairs_are_learnt_without_keeping_tensors():
    model = small()
    clip = SpectralClip(model, LIMIT, fold_batch_norm=True)
    model(batch(0)[0])
    assert clip._watch.pairing.returned == {}
    assert clip._watch.pairing.norms == {"0": ["1"]}
    clip.step()
    assert not model._forward_hooks
    assert not model[0]._forward_hooks
    assert model[0]._forward_pre_hooks  # sizes may still change


def test_a_batch_norm_without_statistics_is_refused():
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2, track_running_stats=False))
    clip = SpectralClip(model, LIMIT, fold_batch_norm=True)
    model(torch.randn(2, 2, 6, 6))
    with pytest.raises(InputError, match=r"layer '0': .*running variance of '1'"):
        clip.step()


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [(nn.Linear(4, 4), 4, (2, 4, 4)), (nn.Linear(4, 4), 3, (2, 3, 4)), (nn.Conv1d(2, 4, 3), 4, (2, 6))],
)
def test_a_batch_norm_of_another_axis_is_refused(layer, norm, shape):
    model = nn.Sequential(layer, nn.BatchNorm1d(norm))
    clip = SpectralClip(model, LIMIT, fold_batch_norm=True)
    model.eval()(torch.randn(shape))
    with pytest.raises(InputError, match=r"layer '0': .*'1', scales another axis"):
        clip.step()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("method", ["project", "clip", "rescale"])
def test_every_precision_keeps_the_promise_after_rounding(dtype, method):
    for seed in range(4):
        torch.manual_seed(seed)
        module = nn.Conv2d(4, 5, 3, padding=1, dtype=dtype)
        clip = SpectralClip(module, LIMIT, method=method, guarantee="torus")
        module(torch.zeros(1, 4, 6, 6, dtype=dtype))
        clip.step()
        assert module.weight.dtype == dtype
        assert clip.report()[0].norm <= LIMIT
        assert 0.97 * LIMIT < dense_norm(module, (6, 6), wrapped=True) <= LIMIT * (1 + 1e-6)


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
def test_autocast_moves_the_float32_weights():
    training = Training(method="rescale")
    # Without oneDNN, which dies of AMX instructions that a virtual machine announces and does not have.
    with torch.backends.mkldnn.flags(enabled=False), torch.autocast("cpu", torch.bfloat16):
        training.run(range(3))
    assert training.model[0].weight.dtype == torch.float32
    assert dense_norm(training.model[0], (6, 6)) <= LIMIT * (1 + 1e-6)


def test_gradient_accumulation_and_skipped_steps_count_optimizer_steps():
    training = Training(every=2)
    for step in range(4):
        for micro in range(3):
            x, y = batch(3 * step + micro)
            (nn.functional.cross_entropy(training.model(x), y) / 3).backward()
        training.optimizer.step()
    assert training.clip.steps == 4


def test_weights_are_moved_in_place():
    training = Training(method="rescale")
    pointers = [p.data_ptr() for p in training.model.parameters()]
    alias = training.model[0].weight.detach()
    training.run(range(1))
    assert [p.data_ptr() for p in training.model.parameters()] == pointers
    assert torch.equal(alias, training.model[0].weight)


def test_copies_go_their_own_way():
    training = Training(method="project")
    training.run(range(2))
    model, clip = copy.deepcopy((training.model, training.clip))
    file = io.BytesIO()
    torch.save((training.model, training.clip), file)
    file.seek(0)
    loaded_model, loaded_clip = torch.load(file, weights_only=False)
    for made, its in ((model, clip), (loaded_model, loaded_clip)):
        assert its.layers[0].module is made[0]
        kept = training.model[0].weight.detach().clone()
        with torch.no_grad():
            made[0].weight.mul_(100)
        made[:4](torch.zeros(1, 2, 12, 12))
        with pytest.warns(UserWarning, match="several sizes"):
            its.step()
        assert dense_norm(made[0], (12, 12)) <= LIMIT * (1 + 1e-6)
        assert torch.equal(training.model[0].weight, kept)
    assert training.clip.report()[0].input_shapes == ((6, 6),)


def test_an_average_of_weights_in_the_ball_is_in_the_ball():
    training = Training(method="rescale")
    average = torch.optim.swa_utils.AveragedModel(training.model)
    for step in range(5):
        training.run([step])
        average.update_parameters(training.model)
    assert dense_norm(average.module[0], (6, 6)) <= LIMIT * 1.2  # the first copy was not in the ball
    own = SpectralClip(average, LIMIT / 2, method="rescale")
    average(batch(0)[0])
    own.step()
    assert [record.name for record in own.report()] == ["0", "3", "6"]
    assert dense_norm(average.module[0], (6, 6)) <= LIMIT / 2 * (1 + 1e-6)


def test_layers_are_chosen_by_name():
    model = small()
    names = lambda **options: [layer.name for layer in SpectralClip(model, 1.0, **options).layers]  # noqa: E731
    assert names() == ["0", "3", "6"]
    assert names(include=["[0-3]"]) == ["0", "3"]
    assert names(exclude="6") == ["0", "3"]


def test_a_lazy_module_is_held_once_it_has_a_weight():
    model = nn.Sequential(nn.LazyConv2d(3, 3))
    clip = SpectralClip(model, LIMIT, method="rescale")
    assert clip.report()[0].status == "never run"
    model(torch.zeros(1, 2, 6, 6))
    clip.step()
    assert dense_norm(model[0], (6, 6)) <= LIMIT * (1 + 1e-6)


def test_geometry_of_a_linear_layer_is_one_point():
    assert geometry_of(nn.Linear(3, 2), (7,)) == ConvGeometry((1,))
