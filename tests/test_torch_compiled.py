"""`SpectralClip` and models that `torch.compile` made: what is learnt, and that graphs stay whole."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from convspectra import InputError  # noqa: E402
from convspectra.torch import SpectralClip, spectral_norm  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),  # Dynamo's own
]
LIMIT = 0.1


@pytest.fixture
def model():
    torch.compiler.reset()
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Conv2d(3, 3, 3, stride=2)
    )


def compiled(model, **options):
    return torch.compile(model, backend="eager", fullgraph=True, **options)


def test_sizes_of_a_compiled_model_are_learnt_at_its_first_forward_pass(model):
    fast = compiled(model)
    clip = SpectralClip(fast, LIMIT, method="rescale", fold_batch_norm=True)
    statistics = model[1].running_mean.clone()
    x = torch.randn(2, 2, 8, 8)
    state = torch.random.get_rng_state()
    with torch.no_grad():
        fast.eval()(x)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(model[1].running_mean, statistics)
    before = fast(x)
    clip.step()
    assert [(r.name, r.input_shapes, r.batch_norms) for r in clip.report()] == [
        ("0", ((8, 8),), ("1",)),
        ("3", ((8, 8),), ()),
    ]
    assert not torch.equal(fast(x), before)  # the graph reads the new weights
    torch.testing.assert_close(fast(x), model(x))


def test_training_mode_and_statistics_are_those_of_one_pass(model):
    fast = compiled(model)
    SpectralClip(fast, LIMIT)
    x = torch.randn(4, 2, 8, 8)
    with torch.no_grad():
        mean = model[0](x).mean(dim=(0, 2, 3))
    fast.train()(x)
    assert all(part.training for part in model.modules())
    torch.testing.assert_close(model[1].running_mean, 0.1 * mean)


@pytest.mark.parametrize("dynamic", [None, True])
def test_hooks_break_no_graph_and_sizes_can_be_observed(model, dynamic):
    clip = SpectralClip(model, LIMIT, method="rescale")
    fast = compiled(model, dynamic=dynamic)  # refuses to break
    with pytest.raises(InputError, match=r"observe\(batch\) where the model was compiled after"):
        clip.step()
    for size in (8, 8, 12, 16):
        fast(torch.randn(2, 2, size, size))
    clip.observe(torch.randn(2, 2, 8, 8))
    with (
        pytest.warns(UserWarning, match="ran at several sizes"),
        pytest.warns(UserWarning, match=r"'0' ran in a compiled graph at a size .* \(16, 16\)"),
    ):
        clip.step()
    assert clip.report()[0].input_shapes == ((8, 8), (16, 16))
    fast(torch.randn(2, 2, 12, 12))
    clip.step()  # said once
    assert clip.report()[0].input_shapes == ((8, 8), (16, 16), (12, 12))
    assert [record.norm <= LIMIT for record in clip.report()] == [True, True]


def test_other_sizes_of_a_compiled_model_are_learnt_too(model):
    fast = compiled(model)
    clip = SpectralClip(fast, LIMIT, method="rescale")
    for size in (8, 12):
        fast(torch.randn(2, 2, size, size))
    with pytest.warns(UserWarning, match="several sizes"):
        clip.step()
    assert clip.report()[0].input_shapes == ((8, 8), (12, 12))


def test_a_compiled_part_of_a_model(model):
    whole = nn.Sequential(nn.Conv2d(2, 2, 1), torch.compile(model, backend="eager"))
    clip = SpectralClip(whole, LIMIT, method="rescale")
    whole(torch.randn(2, 2, 8, 8))
    clip.step()
    assert [record.name for record in clip.report()] == ["0", "1.0", "1.3"]
    assert all(record.input_shapes for record in clip.report())


def test_a_parametrised_layer_compiles_without_a_break(model):
    spectral_norm(model[0], LIMIT, input_shape=(8, 8))
    fast = torch.compile(model.eval(), backend="eager", fullgraph=True)
    x = torch.randn(2, 2, 8, 8)
    torch.testing.assert_close(fast(x), model(x))


def test_an_exported_model_carries_no_hook(model):
    clip = SpectralClip(model.eval(), LIMIT)
    x = torch.randn(1, 2, 8, 8)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x))
    clip.remove()
    assert not any(part._forward_pre_hooks for part in model.modules())
