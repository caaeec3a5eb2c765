"""Published CIFAR networks: files that are none, and the error of those that are."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from convspectra.errors import InputError
from convspectra_experiments.data import datasets
from convspectra_experiments.networks.published import (
    DEVIATION,
    MEAN,
    load_published,
    published_resnet,
)
from convspectra_experiments.training.attack import Normalised

DATA = os.environ.get("CONVSPECTRA_DATA")
ERRORS = {"resnet20-12fca82f.th": 827, "resnet32-d509ac18.th": 737}


def save(path, weights, **more):
    torch.save({"state_dict": weights, "best_prec1": 90.0, **more}, path)
    return path


def weights_of(depth, prefix="module."):
    torch.manual_seed(depth)
    return {prefix + name: value for name, value in published_resnet(depth).state_dict().items()}


@pytest.mark.parametrize("depth", [8, 20])
@pytest.mark.parametrize("prefix", ["module.", ""])
@pytest.mark.parametrize("counts", [True, False])
def test_what_was_saved_comes_back(tmp_path, depth, prefix, counts):
    weights = weights_of(depth, prefix)
    if not counts:
        weights = {name: value for name, value in weights.items() if "num_batches" not in name}
    model = load_published(save(tmp_path / "net.th", weights))
    assert not any(part.training for part in model.modules())
    found = model.state_dict()
    assert all(torch.equal(found[name.removeprefix(prefix)], value) for name, value in weights.items())
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_channels_that_a_shortcut_adds_lie_on_either_side():
    model = published_resnet(8).eval()
    for part in model.modules():
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.zeros_(part.weight)
    torch.nn.init.ones_(model.conv1.weight)
    seen = []
    model.layer3.register_forward_hook(lambda part, inputs, output: seen.append(output))
    model(torch.ones(1, 3, 32, 32))
    active = seen[0][0].amax(dim=(1, 2)) > 0
    assert seen[0].shape == (1, 64, 8, 8)
    assert active.nonzero().squeeze().tolist() == list(range(24, 40))


@pytest.mark.parametrize("depth", [2, 7, 21])
def test_depths_that_are_none_are_refused(depth):
    with pytest.raises(InputError, match=r"^depth"):
        published_resnet(depth)


def test_files_that_are_none_are_refused(tmp_path):
    path = tmp_path / "net.th"
    with pytest.raises(InputError, match=r"net.th cannot be read: No such file"):
        load_published(path)
    with pytest.raises(InputError, match="cannot be read"):
        load_published(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="is not a PyTorch checkpoint"):
        load_published(path)
    whole = save(path, weights_of(8)).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="is not a PyTorch checkpoint"):
        load_published(path)
    torch.save([1, 2], path)
    with pytest.raises(InputError, match="must hold a dictionary with a 'state_dict'; it holds list"):
        load_published(path)
    torch.save({"net": weights_of(8)}, path)
    with pytest.raises(InputError, match="it holds net"):
        load_published(path)
    save(path, {"fc.weight": torch.zeros(2, 2)})
    with pytest.raises(InputError, match=r"no 'layer1.0.conv1.weight' among its 1 tensors"):
        load_published(path)
    save(path, {})
    with pytest.raises(InputError, match="among its 0 tensors"):
        load_published(path)


class Code:
    def __reduce__(self):
        return (os.system, ("touch was_run",))


def test_code_in_a_file_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path / "net.th", weights_of(8), extra=Code())
    with pytest.raises(InputError, match="was not run"):
        load_published(path)
    path.write_bytes(pickle.dumps({"state_dict": Code()}))
    with pytest.raises(InputError):
        load_published(path)
    assert not (tmp_path / "was_run").exists()


def test_other_names_and_shapes_are_named(tmp_path):
    path = tmp_path / "net.th"
    weights = weights_of(20)
    bias = weights.pop("module.linear.bias")
    with pytest.raises(InputError, match=r"'linear.bias' is missing"):
        load_published(save(path, weights))
    weights["module.linear.bias"] = bias[:5]
    with pytest.raises(InputError, match=r"'linear.bias' must have shape \(10,\); got \(5,\)"):
        load_published(save(path, weights))
    weights |= {"module.linear.bias": bias, "module.layer1.0.downsample.weight": bias}
    with pytest.raises(InputError, match=r"it has 'layer1.0.downsample.weight' besides"):
        load_published(save(path, weights))


@pytest.fixture(scope="module")
def test_images(tmp_path_factory):
    out = tmp_path_factory.mktemp("cifar")
    subprocess.run([sys.executable, Path(DATA) / "cifar-10" / "unpack.py", out], check=True, timeout=600)
    return datasets.to_device(datasets.load(out / "cifar-10-batches-bin").test, "cpu")


@pytest.mark.skipif(DATA is None, reason="CONVSPECTRA_DATA is not set")
@pytest.mark.parametrize("name", ERRORS)
def test_a_published_network_has_the_published_error(name, test_images):
    model = Normalised(load_published(Path(DATA) / "models" / name), MEAN, DEVIATION)
    model = model.to(memory_format=torch.channels_last)
    images, labels = test_images
    wrong = 0
    with torch.inference_mode():
        for x, y in zip(images.split(500), labels.split(500), strict=True):
            x = (x / 255).contiguous(memory_format=torch.channels_last)
            wrong += int((model(x).argmax(1) != y).sum())
    assert len(images) == 10_000
    assert wrong == ERRORS[name]
