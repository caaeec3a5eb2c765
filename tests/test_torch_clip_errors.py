"""`SpectralClip` and what it refuses: one line that names the layer, and no weight changed."""

from __future__ import annotations

import copy
import math

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from convspectra import InputError, KernelError  # noqa: E402
from convspectra.torch import SpectralClip  # noqa: E402


def small():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1, stride=2),
        nn.Flatten(),
        nn.Tanh(),
        nn.Linear(4 * 9, 3),
    )


def test_what_is_no_module():
    optimizer = torch.optim.SGD(small().parameters(), lr=0.1)
    with pytest.raises(InputError, match=r"^model must be a torch\.nn\.Module; got SGD"):
        SpectralClip(optimizer, 1.0)


@pytest.mark.parametrize("norm", [0, -1.0, math.nan, math.inf])
def test_max_norm(norm):
    with pytest.raises(InputError, match=r"^max_norm"):
        SpectralClip(small(), norm)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"every": 0}, "every must be an integer of at least 1; got 0"),
        (
            {"method": "clipp"},
            "method must be one of project, clip, rescale, appendix_a, reshaped; got 'clipp'",
        ),
        ({"guarantee": "all"}, "guarantee must be one of torus, layer, any_size; got 'all'"),
        (
            {"include": ["0", "conv*"]},
            r"no layer matches the pattern 'conv\*'; of 3 layers the first are '0'",
        ),
        ({"exclude": "head"}, "no layer matches the pattern 'head'"),
        ({"exclude": "*"}, "leave none of 3 layers"),
    ],
)
def test_arguments(options, words):
    with pytest.raises(InputError, match=words):
        SpectralClip(small(), 1.0, **options)


def test_no_layer():
    with pytest.raises(InputError, match="no convolution or linear layer: ReLU holds 0 modules"):
        SpectralClip(nn.ReLU(), 1.0)


def test_a_step_before_the_first_forward_pass():
    clip = SpectralClip(small(), 1.0)
    with pytest.raises(
        InputError, match=r"none of 2 convolutions can be held yet: .* has not run yet.*run one forward"
    ):
        clip.step()
    assert clip.steps == 0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_names_the_layer_and_leaves_all_weights(value):
    model = small()
    clip = SpectralClip(model, 0.01, method="rescale")
    model(torch.randn(8, 2, 6, 6))
    with torch.no_grad():
        model[3].weight[0, 0, 0, 0] = value
    before = copy.deepcopy(model)
    with pytest.raises(KernelError, match="NaN or infinite weights: layer '3' has 1; no weight was changed"):
        clip.step()
    assert all(torch.equal(a.weight, b.weight) for a, b in ((model[i], before[i]) for i in (0, 6)))


def test_nothing_left_to_hold():
    model = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(InputError, match="none of 1 weights can be held: '' \\(frozen\\)"):
        SpectralClip(model, 1.0).step()


def test_a_state_of_something_else():
    clip = SpectralClip(small(), 1.0)
    with pytest.raises(InputError, match=r"must come from SpectralClip.state_dict\(\); it lacks"):
        clip.load_state_dict({"steps": 3})
    other = SpectralClip(nn.Sequential(nn.ReLU(), nn.Conv2d(1, 1, 1)), 1.0)
    with pytest.raises(InputError, match="state has layer '1', which this SpectralClip does not hold"):
        clip.load_state_dict(other.state_dict())


def _in_inference_mode():
    with torch.inference_mode():
        return nn.Conv2d(2, 3, 3)


def _with(weight):
    module = nn.Conv2d(weight.shape[1], weight.shape[0], tuple(weight.shape[2:]))
    module.weight = nn.Parameter(weight)
    return module


UNWRITABLE = {
    "expanded view": lambda: _with(torch.randn(1, 2, 3, 3).expand(4, 2, 3, 3)),
    "inference mode": _in_inference_mode,
    "real floats of 16 bits": lambda: _with(torch.randn(4, 2, 3, 3).to(torch.float8_e4m3fn)),
}


@pytest.mark.parametrize("words", UNWRITABLE)
def test_weights_that_cannot_be_written_are_named_before_any_is(words):
    model = nn.Sequential(nn.Conv2d(2, 2, 3), UNWRITABLE[words]())
    before = model[0].weight.detach().clone()
    clip = SpectralClip(model, 0.01, method="rescale", guarantee="any_size")
    with pytest.raises(InputError, match=f"layer '1': weight .*{words}"):
        clip.act()
    assert torch.equal(model[0].weight, before)


def test_weights_in_one_memory_under_two_shapes_are_refused():
    linear, pointwise = nn.Linear(3, 3), nn.Conv2d(3, 3, 1)
    pointwise.weight = nn.Parameter(linear.weight.data.view(3, 3, 1, 1))
    clip = SpectralClip(nn.Sequential(linear, pointwise), 0.1, method="rescale", guarantee="any_size")
    with pytest.raises(InputError, match="memory of that of layer"):
        clip.act()
