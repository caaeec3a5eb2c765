"""Live modules and exported programs: the geometry found is the one that runs."""

from __future__ import annotations

import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from convspectra import GeometryError, InputError, ModelError  # noqa: E402
from convspectra.models import read_model  # noqa: E402
from convspectra.operators.reference import dense_operator  # noqa: E402
from convspectra.torch import geometry_of, trace  # noqa: E402

CASES = {
    "conv1d": (nn.Conv1d(2, 4, 5, stride=2, padding=3, groups=2), (2, 11)),
    "conv2d": (nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), (3, 7, 6)),
    "conv3d": (nn.Conv3d(2, 3, 2, padding=1), (2, 3, 4, 3)),
    "same": (nn.Conv2d(3, 4, 4, padding="same", dilation=(1, 2)), (3, 9, 8)),
    "valid": (nn.Conv2d(3, 4, 3, padding="valid"), (3, 5, 6)),
    "circular": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), (3, 5, 6)),
    "reflect": (nn.Conv2d(3, 4, 3, padding=2, padding_mode="reflect"), (3, 5, 6)),
    "replicate": (nn.Conv1d(3, 4, 4, padding=2, padding_mode="replicate"), (3, 5)),
    "transposed 1d": (nn.ConvTranspose1d(4, 6, 4, stride=3, padding=1, output_padding=2, groups=2), (4, 5)),
    "transposed 2d": (nn.ConvTranspose2d(3, 2, 3, stride=2, dilation=2), (3, 3, 4)),
    "transposed 3d": (nn.ConvTranspose3d(2, 3, 2, stride=2), (2, 2, 3, 2)),
    "linear": (nn.Linear(6, 4), (6,)),
}


def runs_as(layer, module, shape):
    """Assert that the dense operator of a layer is what the module does to a random input."""
    x = torch.tensor(np.random.default_rng(0).standard_normal((1, *shape)), dtype=torch.float32)
    with torch.no_grad():
        y = module(x) - module(torch.zeros_like(x))
    ours = dense_operator(layer.kernel, layer.geometry) @ x.numpy().ravel()
    np.testing.assert_allclose(ours, y.numpy().ravel(), atol=1e-5)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_traced_geometry_is_what_runs(case):
    module, shape = CASES[case]
    (layer,) = trace(nn.Sequential(module), shape).layers
    assert layer.name == "0"
    runs_as(layer, module, shape)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:Using padding")
def test_exported_geometry_is_what_runs(case, tmp_path):
    module, shape = CASES[case]
    program = torch.export.export(nn.Sequential(module).eval(), (torch.zeros(1, *shape),))
    torch.export.save(program, tmp_path / "m.pt2")
    model = read_model(tmp_path / "m.pt2")
    (layer,) = model.layers
    assert (model.format, layer.name) == ("torch.export", "0")
    runs_as(layer, module, shape)


class Residual(nn.Module):
    """Uses a convolution twice, one never, and one as a function."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.shared = nn.Conv2d(4, 4, 3, padding=1)
        self.unused = nn.Conv2d(4, 4, 1)
        self.pool = nn.MaxPool2d(2)
        self.free = nn.Parameter(torch.ones(2, 4, 1, 1))
        self.head = nn.Linear(2, 5)

    def forward(self, x):
        x = self.shared(self.norm(self.stem(x)))
        x = nn.functional.conv2d(self.shared(self.pool(x)), self.free)
        return self.head(x.mean(dim=(2, 3)))


def test_rows_follow_what_ran():
    module = Residual().train()
    nn.init.uniform_(module.norm.weight, 0.5, 2)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    model = trace(module, (3, 8, 8))
    assert [layer.name for layer in model.layers] == ["stem", "shared@8x8", "shared@4x4", "head", "unused"]
    assert model.layers[-1].geometry is None
    assert "never ran" in model.layers[-1].reason
    scale = (module.norm.weight / torch.sqrt(module.norm.running_var + module.norm.eps)).detach()
    np.testing.assert_allclose(model.layers[0].batch_norm_scale, scale.numpy(), rtol=1e-6)
    assert model.layers[1].batch_norm_scale is None
    assert model.notes == ("1 convolutions ran as functions, not as modules; they are not in this report",)
    assert model.other == {"BatchNorm2d": 1, "MaxPool2d": 1}
    assert module.training
    assert all(not part._forward_hooks for part in module.modules())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_forward_that_fails_says_what_it_said():
    module = Residual()
    with pytest.raises(InputError, match=r"Residual failed on an input of shape \(1, 5, 8, 8\)"):
        trace(module, (5, 8, 8))
    assert module.training
    assert all(not part._forward_hooks for part in module.modules())


def test_geometry_of_other_modules_is_refused():
    with pytest.raises(GeometryError, match="got ReLU"):
        geometry_of(nn.ReLU(), (4, 4))


def test_parametrized_weights_are_those_that_run():
    module = nn.Conv2d(3, 4, 3)
    nn.utils.parametrizations.orthogonal(module)
    (layer,) = trace(module, (3, 5, 5)).layers
    np.testing.assert_allclose(layer.kernel, module.weight.detach().numpy())


def test_weights_of_a_file_are_loaded_into_the_module(tmp_path):
    module = Residual()
    torch.save({"state_dict": {f"module.{k}": v for k, v in module.state_dict().items()}}, tmp_path / "w.pth")
    other = Residual()
    model = read_model(tmp_path / "w.pth", module=other, sample_shape=(3, 8, 8))
    np.testing.assert_array_equal(model.layers[0].kernel, module.stem.weight.detach().numpy())
    assert model.name == "w.pth"
    torch.save({"stem.weight": torch.ones(4, 3, 3, 3)}, tmp_path / "few.pth")
    with pytest.raises(ModelError, match=r"does not fit the module: .*norm\.weight"):
        read_model(tmp_path / "few.pth", module=Residual(), sample_shape=(3, 8, 8))


def test_factories_by_name(tmp_path, monkeypatch):
    (tmp_path / "factories_for_a_test.py").write_text(
        "from torch import nn\n"
        "def good(): return nn.Conv2d(3, 4, 3)\n"
        "def needy(x): return x\n"
        "def none(): return 3\n"
        "def broken(): raise RuntimeError('no luck\\ntoday')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    model = read_model(module="factories_for_a_test:good", sample_shape=(3, 6, 6))
    assert len(model.layers) == 1
    for name, words in (
        ("factories_for_a_test", "package.module:factory"),
        ("factories_for_a_test:missing", "AttributeError"),
        ("factories_for_a_test:needy", "TypeError"),
        ("factories_for_a_test:none", "must return a torch.nn.Module; got int"),
        ("factories_for_a_test:broken", "RuntimeError: no luck"),
        ("nowhere_at_all:f", "ModuleNotFoundError"),
        ("a/folder/file.py:f", "by the name of a module and not of a file: a.folder.file:f"),
    ):
        with pytest.raises(InputError, match=words) as error:
            read_model(module=name, sample_shape=(3, 6, 6))
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="give its sample_shape"):
        read_model(module="factories_for_a_test:good")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_exported_batch_norm_and_damaged_archives(tmp_path):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    nn.init.uniform_(module[1].weight, 0.5, 2)
    torch.export.save(torch.export.export(module, (torch.zeros(1, 3, 6, 6),)), tmp_path / "m.pt2")
    model = read_model(tmp_path / "m.pt2")
    scale = (module[1].weight / torch.sqrt(module[1].running_var + module[1].eps)).detach()
    np.testing.assert_allclose(model.layers[0].batch_norm_scale, scale.numpy(), rtol=1e-6)
    assert model.other == {"batch_norm": 1, "relu": 1}
    whole = (tmp_path / "m.pt2").read_bytes()
    (tmp_path / "m.pt2").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"m\.pt2"):
        read_model(tmp_path / "m.pt2")
