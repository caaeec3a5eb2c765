"""The network of the demo is what its description says."""

from __future__ import annotations

import numpy as np
import pytest

from convspectra.demo import DESCRIPTION, model_path
from convspectra.models import read_model


def test_it_is_small_and_has_the_kinds_of_layers_it_names():
    assert model_path().stat().st_size < 200_000
    layers = read_model(model_path()).layers
    geometries = [layer.geometry for layer in layers]
    assert len(layers) == 10
    assert any(g.groups == 32 for g in geometries)
    assert any(max(g.stride) == 2 for g in geometries)
    assert any(max(g.dilation) == 2 for g in geometries)
    assert any(layer.kernel.shape[2:] == (1, 1) for layer in layers)
    assert sum(layer.batch_norm_scale is not None for layer in layers) == 9
    parameters = sum(layer.kernel.size for layer in layers)
    assert 36_000 < parameters < 40_000


def test_it_was_really_trained():
    onnxruntime = pytest.importorskip("onnxruntime")
    datasets = pytest.importorskip("sklearn.datasets")
    selection = pytest.importorskip("sklearn.model_selection")
    digits = datasets.load_digits()
    images = (digits.images[:, None] / 16).astype(np.float32)
    _, images, _, labels = selection.train_test_split(
        images, digits.target, test_size=0.25, random_state=0, stratify=digits.target
    )
    (outputs,) = onnxruntime.InferenceSession(model_path()).run(None, {"image": images})
    accuracy = np.mean(outputs.argmax(1) == labels)
    assert f"{accuracy:.1%}".replace("%", " %") in DESCRIPTION.replace("\n", " ")
    assert accuracy > 0.99
