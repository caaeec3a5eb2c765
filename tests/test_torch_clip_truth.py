"""`SpectralClip` calls held what it compared, and names the rest."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from convspectra import InputError  # noqa: E402
from convspectra.torch import SpectralClip, orthogonal, spectral_norm  # noqa: E402
from convspectra.torch.comparing import computes_what_it_says  # noqa: E402


class Standardised(nn.Conv2d):
    def forward(self, x):
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, unbiased=False)
        return self._conv_forward(x, (self.weight - mean) / (variance + 1e-5).sqrt(), self.bias)


class PadsAfter(nn.Conv2d):
    """TensorFlow's padding of strided layers: the odd point goes after."""

    def forward(self, x):
        return self._conv_forward(functional.pad(x, (0, 1, 0, 1)), self.weight, self.bias)


class Rounded(nn.Conv2d):
    def forward(self, x):
        step = self.weight.abs().max() / 7
        return self._conv_forward(x, (self.weight / step).round() * step, self.bias)


class Renamed(nn.Conv2d):
    """A class of its own that computes what a convolution does."""

    def forward(self, x):
        return super().forward(x)


OTHERS = {
    "standardised": Standardised(4, 4, 3, bias=False),
    "padded after": PadsAfter(4, 4, 3, stride=2, padding=0),
    "rounded": Rounded(4, 4, 3, padding=1),
}


@pytest.mark.parametrize("guarantee", ["layer", "torus", "any_size"])
@pytest.mark.parametrize("name", OTHERS)
def test_a_forward_of_its_own_is_never_held(name, guarantee):
    torch.manual_seed(0)
    model = nn.Sequential(copy.deepcopy(OTHERS[name]), nn.Conv2d(4, 2, 3, padding=1))
    clip = SpectralClip(model, 0.01, method="rescale", guarantee=guarantee)
    assert clip.report()[0].status == "never run"
    weight = model[0].weight.detach().clone()
    model(torch.randn(2, 4, 6, 6))
    with pytest.warns(UserWarning, match="layer '0' computes something else than its weight and geometry"):
        clip.act()
    clip.act()  # said once
    assert [record.status for record in clip.report()] == ["computes something else", "held"]
    assert torch.equal(model[0].weight, weight)


def test_a_class_of_its_own_that_computes_the_same_is_held():
    model = nn.Sequential(Renamed(4, 4, 3, padding=1))
    clip = SpectralClip(model, 0.1, method="rescale", guarantee="any_size")
    with pytest.raises(InputError, match="has not run yet, and has a forward or hooks of its own"):
        clip.act()
    for scale in (0.0, 1e-12):  # of the second, rounding hides all behind the bias
        model(scale * torch.randn(1, 4, 6, 6))
        assert clip.report()[0].status == "not compared"
        with pytest.raises(InputError, match="'0' has a forward or hooks of its own, and no input showed"):
            clip.act()
    model(torch.randn(1, 4, 6, 6))
    clip.act()
    assert clip.report()[0].status == "held"


def test_a_difference_at_a_later_size_is_seen():
    class AtEvenSizes(nn.Conv2d):
        def forward(self, x):
            return super().forward(x) if x.shape[-1] % 2 else super().forward(x) * 2

    model = nn.Sequential(AtEvenSizes(2, 2, 3))
    clip = SpectralClip(model, 0.1, method="rescale", guarantee="any_size")
    model(torch.randn(1, 2, 7, 7))
    clip.act()
    assert clip.report()[0].status == "held"
    model(torch.randn(1, 2, 8, 8))
    assert clip.report()[0].status == "computes something else"


STOCK = {
    "conv1d": (nn.Conv1d(6, 4, 5, padding=2, dilation=2, groups=2), (9,)),
    "same": (nn.Conv2d(3, 4, 3, padding="same", padding_mode="reflect"), (6, 5)),
    "replicated": (nn.Conv2d(3, 4, 5, padding=2, stride=2, padding_mode="replicate"), (7, 6)),
    "wrapped": (nn.Conv3d(2, 3, 2, padding=1, padding_mode="circular"), (3, 4, 3)),
    "many channels": (nn.Conv2d(256, 64, 3, padding=1, bias=False), (8, 8)),
    "transposed": (nn.ConvTranspose2d(4, 6, 4, stride=3, padding=1, output_padding=2, groups=2), (4, 3)),
    "linear": (nn.Linear(300, 7), ()),
}


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", STOCK)
def test_what_the_layers_of_pytorch_compute_is_known(name, dtype):
    module, size = copy.deepcopy(STOCK[name])
    module = module.to(dtype)
    channels = module.in_features if name == "linear" else module.in_channels
    shape = (3, 5, channels) if name == "linear" else (3, channels, *size)
    for seed in range(3):
        torch.manual_seed(seed)
        module.reset_parameters()
        x = torch.randn(shape, dtype=dtype)
        with torch.backends.mkldnn.flags(enabled=False), torch.no_grad():
            y = module(x)
        assert computes_what_it_says(module, x, y, True) is True
        assert computes_what_it_says(module, x, 1.2 * y, True) is False
        assert computes_what_it_says(module, x, (y,), True) is False
        assert computes_what_it_says(module, x, y[..., :-1], True) is False
        assert computes_what_it_says(module, 0 * x, 0 * y, True) is None
        with torch.no_grad():
            tiny = module(x * torch.finfo(dtype).tiny)
        assert computes_what_it_says(module, x * torch.finfo(dtype).tiny, tiny, True) is not False
        assert computes_what_it_says(module, x, y * float("nan"), True) is None


def test_another_output_size_is_another_operator_only_as_it_pads():
    for guarantee, status in (("layer", "computes something else"), ("any_size", "held")):
        module = nn.ConvTranspose2d(2, 3, 3, stride=2)
        clip = SpectralClip(module, 0.1, method="rescale", guarantee=guarantee)
        module(torch.randn(1, 2, 4, 4), output_size=(10, 10))
        assert clip.report()[0].status == status


def test_modules_that_come_and_go():
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3))
    clip = SpectralClip(model, 0.1, method="rescale", guarantee="any_size")
    old = model[0].weight.detach().clone()
    gone, model[0] = model[0], nn.Conv2d(2, 2, 3)
    model.append(nn.Conv2d(2, 2, 1))
    with pytest.warns(UserWarning, match="layer '0' is replaced by another module, and is not held"):
        clip.step()
    assert torch.equal(gone.weight, old)
    found = [(record.name, record.status) for record in clip.report()]
    assert found == [("0", "replaced"), ("2", "held"), ("0", "added later"), ("3", "added later")]


class Raw(nn.Module):
    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(3, 2, 3, 3))
        self.bias = nn.Parameter(torch.zeros(3))
        self.attention = nn.MultiheadAttention(4, 2)
        self.norm = nn.BatchNorm2d(3)
        self.orthogonal = orthogonal(nn.Conv2d(3, 3, 3))
        self.after = nn.Conv2d(3, 3, 3)

    def forward(self, x):
        return self.after(self.orthogonal(self.norm(functional.conv2d(x, self.kernel, self.bias))))


def test_parameters_of_no_layer_are_named():
    model = Raw()
    clip = SpectralClip(model, 0.1, method="rescale", exclude="attention.out_proj")
    model(torch.randn(2, 2, 9, 9))
    clip.step()
    assert {record.name: record.status for record in clip.report()} == {
        "orthogonal": "computed",
        "after": "held",
        "kernel": "no layer",
        "attention.in_proj_weight": "no layer",
    }
    assert clip.report()[-1].norm is None
    chosen = SpectralClip(model, 0.1, guarantee="any_size", include="after").report()
    assert [record.name for record in chosen] == ["after"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_quantised_layers_are_named():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 4))
    try:
        quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    except RuntimeError as error:
        pytest.skip(str(error))
    clip = SpectralClip(quantised, 0.1, method="rescale", guarantee="any_size")
    assert [(record.name, record.status) for record in clip.report()] == [("0", "held"), ("2", "quantised")]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_default_dtype_changes_no_report(dtype):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(64, 3))
    clip = SpectralClip(model, 1.0, guarantee="layer", method="rescale")
    model(torch.randn(2, 3, 4, 4))
    clip.act()
    expected = clip.report()
    torch.set_default_dtype(dtype)
    try:
        assert clip.report() == expected
        clip.act()
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_hooks_of_known_layers_go_after_the_first_action():
    model = nn.Sequential(nn.Conv2d(2, 2, 3), Renamed(2, 2, 3))
    clip = SpectralClip(model, 0.1, method="rescale")
    model(torch.randn(1, 2, 9, 9))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clip.step()
    assert [len(part._forward_hooks) for part in model] == [0, 1]
    clip.remove()
    assert [len(part._forward_hooks) for part in model] == [0, 0]
    assert np.isfinite([record.norm for record in clip.report()]).all()


def test_another_result_in_evaluation_is_seen():
    class Doubled(nn.Conv2d):
        def forward(self, x):
            return super().forward(x) if self.training else super().forward(x) * 2

    model = nn.Sequential(Doubled(2, 2, 3))
    clip = SpectralClip(model, 0.1, method="rescale", guarantee="any_size")
    model(torch.randn(1, 2, 7, 7))
    assert clip.report()[0].status == "held"
    model.eval()(torch.randn(1, 2, 7, 7))
    assert clip.report()[0].status == "computes something else"


def _give_it_a_forward(module):
    module.forward = lambda x: 5 * functional.conv2d(x, module.weight, module.bias)


def _give_it_a_hook(module):
    module.register_forward_hook(lambda module, given, output: 5 * output)


def _give_it_a_pre_hook(module):
    module.register_forward_pre_hook(lambda module, given: (5 * given[0],))


def _give_it_a_pre_hook_in_place(module):
    module.register_forward_pre_hook(lambda module, given: given[0].mul_(5).numel() and None)


CHANGES = [_give_it_a_forward, _give_it_a_hook, _give_it_a_pre_hook, _give_it_a_pre_hook_in_place]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("change", CHANGES)
def test_foreign_code_around_a_layer_is_seen(change, when):
    model = nn.Sequential(nn.Conv2d(2, 2, 3))
    if when == "before":
        change(model[0])
    clip = SpectralClip(model, 0.1, method="rescale", guarantee="any_size")
    if when == "after":
        change(model[0])
        assert clip.report()[0].status == "never run"
    model(torch.randn(1, 2, 7, 7))
    assert clip.report()[0].status == "computes something else"


def test_a_call_of_its_own_is_never_held():
    class Called(nn.Conv2d):
        def __call__(self, x):
            return 5 * super().__call__(x)

    model = nn.Sequential(Called(2, 2, 3))
    clip = SpectralClip(model, 0.1, method="rescale", guarantee="any_size")
    model(torch.randn(1, 2, 7, 7))
    assert clip.report()[0].status != "held"


def test_padding_that_was_set_after_it_was_made():
    module = nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")
    module.padding = (0, 0)  # its forward pass pads as it did
    clip = SpectralClip(nn.Sequential(module), 0.1, method="rescale")
    module(torch.randn(1, 2, 7, 7))
    assert clip.report()[0].status == "computes something else"


@pytest.mark.parametrize("before", [0, 1, 3])
def test_a_forward_that_changes_from_some_call_on_is_seen(before):
    class Later(nn.Conv2d):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x) * (1 if self.calls <= before + 1 else 2)

    model = nn.Sequential(Later(2, 2, 3))
    clip = SpectralClip(model, 0.1, method="rescale", guarantee="any_size")
    model(torch.randn(1, 2, 7, 7))
    clip.act()
    assert clip.report()[0].status == "held"
    for _ in range(before + 1):
        model(torch.randn(1, 2, 7, 7))
    assert clip.report()[0].status == "computes something else"


@pytest.mark.parametrize("change", CHANGES)
def test_a_layer_that_is_changed_after_it_was_compared_is_compared_again(change):
    model = nn.Sequential(nn.Conv2d(2, 2, 3))
    clip = SpectralClip(model, 0.1, method="rescale", guarantee="any_size")
    model(torch.randn(1, 2, 7, 7))
    clip.act()
    assert clip.report()[0].status == "held"
    change(model[0])
    clip.report()
    model(torch.randn(1, 2, 7, 7))
    assert clip.report()[0].status == "computes something else"


def test_two_parameters_of_the_same_numbers_are_moved_once_for_all_their_uses():
    wrapped, plain = nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), nn.Conv2d(3, 3, 3)
    plain.weight = nn.Parameter(wrapped.weight.data)
    clip = SpectralClip(nn.Sequential(wrapped, plain), 0.1, method="rescale", guarantee="layer")
    clip._watch.model(torch.randn(1, 3, 6, 6))
    clip.act()
    assert [(record.name, record.shared_with) for record in clip.report()] == [("0", ("1",))]
    wrapped.double().requires_grad_(False)
    matrix = wrapped(torch.eye(108).reshape(108, 3, 6, 6).double()) - wrapped.bias[:, None, None]
    assert 0.05 < float(torch.linalg.matrix_norm(matrix.reshape(108, -1), 2)) <= 0.1


def test_hooks_let_transforms_through():
    model = nn.Sequential(Renamed(2, 2, 3), nn.Conv2d(2, 2, 1))
    SpectralClip(model, 0.1, method="rescale")
    several = torch.func.stack_module_state([copy.deepcopy(model) for _ in range(2)])

    def run(parameters, buffers):
        return torch.func.functional_call(model, (parameters, buffers), (torch.ones(1, 2, 5, 5),))

    assert torch.func.vmap(run)(*several).shape == (2, 1, 2, 3, 3)
    torch.fx.symbolic_trace(model)


@pytest.mark.parametrize("guarantee", ["layer", "any_size"])
@pytest.mark.parametrize("place", ["forward", "forward_pre"])
def test_hooks_of_all_modules_are_seen(place, guarantee):
    def triple(module, given, *output):
        values = output[0] if output else given[0]
        return 3 * values if isinstance(module, nn.Conv2d) else None

    model = nn.Sequential(nn.Conv2d(2, 3, 3, bias=False))
    register = getattr(nn.modules.module, f"register_module_{place}_hook")
    handle = register(triple)
    try:
        clip = SpectralClip(model, 1.0, guarantee=guarantee)
        model(torch.randn(1, 2, 6, 6))
        with pytest.raises(InputError, match=r"computes something else|hook before all modules"):
            clip.act()
        with pytest.raises(InputError, match=r"computes something else|hook before all modules"):
            spectral_norm(model, input=torch.randn(1, 2, 6, 6), guarantee=guarantee)
    finally:
        handle.remove()
    model(torch.randn(1, 2, 6, 6))
    later = SpectralClip(model, 1.0, guarantee=guarantee)
    model(torch.randn(1, 2, 6, 6))
    later.act()
    assert later.report()[0].status == "held"


def test_a_property_in_front_of_the_weight_is_computed():
    class Scaled(nn.Conv2d):
        weight = property(lambda self: 3 * self._parameters["weight"])

    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv2d(3, 3, 3))
    model[0].__class__ = Scaled
    clip = SpectralClip(model, 0.1)
    model(torch.randn(1, 2, 6, 6))
    clip.act()
    assert [record.status for record in clip.report()] == ["computed", "held"]
