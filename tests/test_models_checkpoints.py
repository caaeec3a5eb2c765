"""Nothing in a checkpoint vanishes: it is a layer, counted, or listed as not read with what is missing."""

from __future__ import annotations

import json
import warnings
from importlib import resources

import jsonschema
import numpy as np
import pytest
from referencing import Registry, Resource
from typer.testing import CliRunner

import convspectra as cs
from convspectra import InputError, ModelError
from convspectra.analysis import analyze, compare
from convspectra.cli.app import app
from convspectra.cli.options import in_options
from convspectra.constrain import Limits
from convspectra.constrain.file import clip_file
from convspectra.models import read_model
from convspectra.models.weights import NO_KERNEL_NAME
from convspectra.operators.reference import dense_operator
from test_models_weights import bundle, safetensors_file, state

RNG = np.random.default_rng(0)


def names(model):
    return [layer.name for layer in model.layers]


def left(model):
    return {one.name: one.reason for one in model.unread}


def clipped(path, limit, **options):
    return clip_file(read_model(path), path, path.with_stem("clipped"), Limits(limit), **options)


class TestCheckpoints:
    @pytest.fixture(autouse=True)
    def import_torch(self):
        self.torch = pytest.importorskip("torch")

    def save(self, path, content):
        self.torch.save(content, path)
        return path

    def network(self, seed, channels=4):
        torch = self.torch
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Conv2d(3, channels, 3), torch.nn.Conv2d(channels, 2, 3))

    def trained(self):
        torch = self.torch
        first, second = self.network(0), self.network(1, channels=5)
        optimizer = torch.optim.Adam(first.parameters())
        first(torch.zeros(1, 3, 8, 8)).sum().backward()
        optimizer.step()
        return first, second, optimizer

    def test_every_state_dict_is_read_under_its_keys(self, tmp_path):
        first, second, optimizer = self.trained()
        content = {
            "epoch": 3,
            "nets": {
                "generator": first.state_dict(),
                "discriminator": {f"module.{k}": v for k, v in second.state_dict().items()},
            },
            "opt": optimizer.state_dict(),
            "shadow": [self.torch.ones(4, 3, 3, 3), self.torch.ones(2)],
        }
        model = read_model(self.save(tmp_path / "m.pth", content))
        wanted = {
            "nets.generator.0": first[0],
            "nets.generator.1": first[1],
            "nets.discriminator.0": second[0],
            "nets.discriminator.1": second[1],
        }
        assert set(names(model)) == set(wanted)
        for layer in model.layers:
            np.testing.assert_array_equal(layer.kernel, wanted[layer.name].weight.detach().numpy())
        # Two moments of four parameters, and the steps.
        assert model.other["optimizer state"] == 12
        assert list(left(model)) == ["shadow.0"]

    def test_one_state_dict_keeps_its_names_wherever_it_lies(self, tmp_path):
        first, _, optimizer = self.trained()
        weights = first.state_dict()
        best = self.torch.tensor(0.9)
        for content in (
            weights,
            {"state_dict": weights, "best": best, "optimizer": optimizer.state_dict()},
            {"a": {"b": [weights]}, "counts": self.torch.ones(3)},
            {f"module._orig_mod.{name}": value for name, value in weights.items()},
        ):
            assert names(read_model(self.save(tmp_path / "m.pth", content))) == ["0", "1"]

    def test_names_that_would_be_one_stay_two(self, tmp_path):
        ones = self.torch.ones(2, 2, 3, 3)
        content = {"a.weight": ones, "module.a.weight": 2 * ones}
        assert set(names(read_model(self.save(tmp_path / "m.pth", content)))) == {"a", "module.a"}
        content = {
            "x": {"a.weight": ones},
            "x.a": {"weight": ones},
            1: {"b.weight": ones},
            "1": {"b.weight": ones},
        }
        assert len(set(names(read_model(self.save(tmp_path / "m.pth", content))))) == 4

    def test_containers_without_end_are_refused(self, tmp_path):
        endless = []
        endless.append(endless)
        with pytest.raises(ModelError, match=r"m\.pth.*nest deeper"):
            read_model(self.save(tmp_path / "m.pth", endless))
        bomb = [self.torch.ones(1)]
        for _ in range(40):
            bomb = [bomb, bomb]
        with pytest.raises(ModelError, match="200,000"):
            read_model(self.save(tmp_path / "m.pth", bomb))

    def test_clip_moves_every_state_dict_or_those_that_are_picked(self, tmp_path):
        first, second, optimizer = self.trained()
        content = {"g": first.state_dict(), "d": second.state_dict(), "o": optimizer.state_dict(), "epoch": 3}
        path = self.save(tmp_path / "m.pth", content)
        assert {layer.name for layer in clipped(path, 0.1).layers} == {"g.0", "g.1", "d.0", "d.1"}
        written = self.torch.load(tmp_path / "clipped.pth", weights_only=True)
        assert list(written) == list(content)
        for one in ("g", "d"):
            for name, value in written[one].items():
                assert self.torch.equal(value, content[one][name]) == name.endswith("bias")
        norms = [
            layer.any_size.upper
            for layer in analyze(read_model(tmp_path / "clipped.pth"), dtype="float64").layers
        ]
        assert max(norms) <= 0.1
        for index, slots in optimizer.state_dict()["state"].items():
            for name, value in slots.items():
                assert self.torch.equal(written["o"]["state"][index][name], value)
        (tmp_path / "clipped.pth").unlink()
        report = clipped(path, 0.1, layers=["d.*"])
        assert {layer.name for layer in report.layers} == {"d.0", "d.1"}
        assert report.complete

    def test_a_module_gets_the_state_dict_that_fits(self, tmp_path):
        first, second, _ = self.trained()
        content = {"model": second.state_dict(), "ema": first.state_dict(), "best": first.state_dict()}
        path = self.save(tmp_path / "m.pth", content)
        model = read_model(path, module=self.network(7), sample_shape=(3, 8, 8))
        np.testing.assert_array_equal(model.layers[0].kernel, first[0].weight.detach().numpy())
        assert "does not fit" in left(model)["model"]
        assert "fits as well: only 'ema' was loaded" in left(model)["best"]
        with pytest.raises(ModelError, match="none of its 3 state dicts"):
            read_model(path, module=self.network(7, channels=6), sample_shape=(3, 8, 8))

    # ---- parametrised weights

    @pytest.mark.parametrize("kind", ["orthogonal", "spectral_norm", "torch"])
    def test_a_weight_that_code_computes_is_listed(self, kind, tmp_path):
        from convspectra.torch import orthogonal, spectral_norm

        net = self.network(0)
        if kind == "torch":
            self.torch.nn.utils.parametrizations.orthogonal(net[0])
        elif kind == "orthogonal":
            orthogonal(net[0])
        else:
            spectral_norm(net[0], input_shape=(8, 8))
        path = self.save(tmp_path / "m.pth", net.state_dict())
        model = read_model(path)
        assert names(model) == ["1"]
        (unread,) = model.unread
        assert (unread.name, unread.shape) == ("0.parametrizations.weight.original", (4, 3, 3, 3))
        assert "orthogonal" in unread.reason
        assert "module=" in unread.reason
        report = clipped(path, 0.1)
        assert [layer.name for layer in report.layers] == ["1"]
        assert not report.complete

    def test_pruned_weights_are_those_that_the_module_has(self, tmp_path):
        from torch.nn.utils import prune

        net = self.network(0)
        prune.l1_unstructured(net[0], "weight", 0.5)
        path = self.save(tmp_path / "m.pth", net.state_dict())
        model = read_model(path)
        np.testing.assert_array_equal(model.layers[0].kernel, net[0].weight.detach().numpy())
        assert (model.layers[0].kernel == 0).mean() == 0.5
        assert "'0': pruning applied" in model.notes
        report = clipped(path, 0.01)
        assert [layer.status for layer in report.layers] == ["unwritable", "changed"]
        assert "computed from '0.weight_mask' and '0.weight_orig'" in report.layers[0].reason
        assert not report.complete

    def test_a_weight_beside_its_parts_is_analysed_once_or_both_are_named(self, tmp_path):
        orig, mask = self.torch.randn(4, 3, 3, 3), self.torch.rand(4, 3, 3, 3).round()
        content = {"a.weight_orig": orig, "a.weight_mask": mask, "a.weight": orig * mask}
        path = self.save(tmp_path / "m.pth", content)
        model = read_model(path)
        assert names(model) == ["a"]
        assert not model.unread
        # The module would compute it again from its parts.
        assert [layer.status for layer in clipped(path, 0.01).layers] == ["unwritable"]
        content["a.weight"] = orig
        model = read_model(self.save(tmp_path / "m.pth", content))
        assert names(model) == ["a"]
        assert "another weight than 'a.weight'" in left(model)["a.weight_orig"]
        content = {"a.weight_orig": orig, "a.weight_u": self.torch.ones(4), "b.weight_orig": orig}
        model = read_model(self.save(tmp_path / "m.pth", content))
        assert set(left(model)) == {"a.weight_orig", "b.weight_orig"}

    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    def test_spectral_norm_of_square_transposed_layers(self, dtype, tmp_path):
        torch = self.torch
        torch.manual_seed(0)
        net = torch.nn.Sequential(*(torch.nn.ConvTranspose2d(6, 6, 3) for _ in range(4)))
        for layer in net:
            torch.nn.utils.parametrizations.spectral_norm(layer)
        net.eval()
        wanted = [layer.weight.detach().numpy() for layer in net]
        path = self.save(tmp_path / "m.pth", net.to(getattr(torch, dtype)).state_dict())
        for layer, weight in zip(read_model(path).layers, wanted, strict=True):
            np.testing.assert_allclose(
                layer.kernel,
                weight,
                rtol=1e-5 if dtype == "float32" else 1e-2,
                atol=1e-3 if dtype != "float32" else 1e-6,
            )

    def test_weight_norm_in_half_precision_does_not_overflow(self, tmp_path):
        torch = self.torch
        direction = (300 * torch.randn(4, 3, 3, 3)).half()
        content = {"a.weight_v": direction, "a.weight_g": torch.ones(4, 1, 1, 1).half()}
        (layer,) = read_model(self.save(tmp_path / "m.pth", content)).layers
        rows = np.linalg.norm(layer.kernel.reshape(4, -1).astype(np.float64), axis=1)
        np.testing.assert_allclose(rows, 1, rtol=1e-3)

    def test_a_parametrised_parameter_of_another_name_is_a_candidate(self, tmp_path):
        orig, mask = self.torch.randn(4, 3, 3, 3), self.torch.rand(4, 3, 3, 3).round()
        path = self.save(tmp_path / "m.pth", {"filters_orig": orig, "filters_mask": mask})
        model = read_model(path)
        assert list(left(model)) == ["filters"]
        np.testing.assert_array_equal(model.candidates[0].kernel, (orig * mask).numpy())

    def test_what_has_no_values_of_its_own_is_listed(self, tmp_path):
        torch = self.torch
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that quantised tensors will go
            quantised = torch.quantize_per_tensor(torch.ones(2, 2), 0.5, 0, torch.qint8)
        content = {
            "a.weight": torch.ones(2, 2).to(torch.float8_e4m3fn),
            "b.weight": torch.ones(2, 2, dtype=torch.int8),
            "e.qweight": torch.ones(2, 2, dtype=torch.int32),
            "c.weight": torch.ones(2, 2, 3, dtype=torch.complex64),
            "d.weight": quantised,
            "f._packed_params._packed_params": (quantised, torch.nn.Parameter(torch.ones(2))),
        }
        model = read_model(self.save(tmp_path / "m.pth", content))
        assert names(model) == ["d", "f"]
        assert model.other["bias"] == 1
        assert any("d.weight, f.weight" in note for note in model.notes)
        np.testing.assert_array_equal(model.layers[1].kernel[..., 0], quantised.dequantize().numpy())
        assert {name: reason.split(":")[0] for name, reason in left(model).items()} == {
            "a.weight": "stored as float8_e4m3fn",
            "b.weight": "stored as int8",
            "e.qweight": "stored as int32",
            "c.weight": "stored as complex64",
        }


# ---- names and layouts

KERNEL = RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)
DENSE = np.linalg.norm(dense_operator(KERNEL, cs.ConvGeometry((6, 5), padding="same")), 2)


def with_metadata(path, tensors, metadata):
    pytest.importorskip("safetensors.numpy").save_file(tensors, path, metadata=metadata)
    return path


@pytest.mark.parametrize(
    ("axes", "name", "metadata", "assumed"),
    [
        ((0, 1, 2, 3), "a.weight", {"format": "pt"}, False),
        ((0, 1, 2, 3), "a.weight", None, True),
        ((0, 2, 3, 1), "a.weight", {"format": "mlx"}, False),
        ((2, 3, 1, 0), "a.kernel", None, True),
    ],
)
def test_the_layout_is_that_which_is_stated(axes, name, metadata, assumed, tmp_path):
    stored = np.ascontiguousarray(KERNEL.transpose(axes))
    path = with_metadata(tmp_path / "w.safetensors", {name: stored}, metadata)
    (found,) = analyze(read_model(path, sample_shape=(3, 6, 5))).layers
    assert found.as_padded.lower - 1e-5 <= DENSE <= found.as_padded.upper + 1e-5
    assert ("layout" in found.assumed) == assumed
    report = clip_file(read_model(path), path, tmp_path / "o.safetensors", Limits(0.5))
    assert report.layers[0].status == "changed"
    (layer,) = read_model(tmp_path / "o.safetensors", sample_shape=(3, 6, 5)).layers
    assert np.linalg.norm(dense_operator(layer.kernel, layer.geometry), 2) <= 0.5


def test_a_layout_that_looks_like_another_is_said_and_can_be_given(tmp_path):
    stored = np.ascontiguousarray(KERNEL[:, :2].transpose(0, 2, 3, 1))
    path = with_metadata(tmp_path / "w.safetensors", {"a.weight": stored}, None)
    model = read_model(path)
    assert any("OHWI" in note for note in model.notes)
    geometry = tmp_path / "g.toml"
    geometry.write_text('[layers.a]\nlayout = "OHWI"\n')
    (layer,) = read_model(path, geometry=geometry).layers
    assert (layer.layout, "layout" in layer.assumed) == ("OHWI", False)
    (layer,) = read_model(path, geometry=geometry, sample_shape=(2, 6, 5)).layers
    assert layer.geometry.layout == "OHWI"
    assert "layout" not in layer.assumed
    for wrong in ('"OHWD"', '"OHW"', "3"):
        geometry.write_text(f"[layers.a]\nlayout = {wrong}\n")
        with pytest.raises(InputError, match="layout"):
            read_model(path, geometry=geometry)
    depthwise = with_metadata(tmp_path / "d.safetensors", {"a.weight": stored[..., :1].copy()}, None)
    geometry.write_text('[layers.a]\nlayout = "OHWI"\n')
    (layer,) = read_model(depthwise, geometry=geometry, sample_shape=(4, 6, 5)).layers
    assert layer.geometry.groups == 4


ODD = {"encoder.conv1_w": KERNEL, "filters": KERNEL, "pos_embed": np.ones((1, 5, 8), np.float32)}


def test_tensors_of_a_kernel_s_shape_are_candidates_that_a_geometry_file_makes_layers(tmp_path):
    path = safetensors_file(tmp_path / "w.safetensors", ODD)
    model = read_model(path)
    assert names(model) == []
    assert set(left(model)) == {"encoder.conv1_w", "filters"}
    assert not analyze(model).complete
    with pytest.raises(InputError, match=r"'encoder\.conv1_w' was not read.*geometry="):
        clipped(path, 1.0)
    (tmp_path / "w.toml").write_text('sample_shape = [3, 6, 5]\n[layers."filters"]\npadding = 1\n')
    model = read_model(path)
    assert names(model) == ["filters"]
    assert set(left(model)) == {"encoder.conv1_w"}
    assert "kind" not in model.layers[0].assumed
    assert clipped(path, 1.0).layers[0].status == "changed"
    (tmp_path / "w.toml").unlink()
    (tmp_path / "all.toml").write_text('[layers."*"]\nstride = 1\n')
    assert set(names(read_model(path, geometry=tmp_path / "all.toml"))) == {"encoder.conv1_w", "filters"}
    # A pattern that fits layers means these.
    both = safetensors_file(tmp_path / "both.safetensors", ODD | {"a.weight": KERNEL})
    assert names(read_model(both, geometry=tmp_path / "all.toml")) == ["a"]


def test_projections_of_attention_are_no_convolutions(tmp_path):
    tensors = state(query__kernel=(8, 2, 4), attention_output__kernel=(2, 4, 8), conv__kernel=(3, 2, 4))
    model = read_model(safetensors_file(tmp_path / "w.safetensors", tensors))
    assert names(model) == ["conv"]
    assert set(left(model)) == {"query.kernel", "attention_output.kernel"}
    (tmp_path / "tf").mkdir()
    model = read_model(
        bundle(tmp_path / "tf", {name.replace(".", "/"): one for name, one in tensors.items()})
    )
    assert names(model) == ["conv"]
    assert set(left(model)) == {"query/kernel", "attention_output/kernel"}


def test_linear_layers_called_embeddings_have_a_bias(tmp_path):
    tensors = state(time_embedding__0__weight=(8, 4), token_embedding__weight=(8, 4), x__kernel=(4, 8))
    tensors["time_embedding.0.bias"] = np.ones(8, np.float32)
    model = read_model(safetensors_file(tmp_path / "w.safetensors", tensors))
    found = {layer.name: layer for layer in model.layers}
    assert set(found) == {"time_embedding.0", "x"}
    assert found["x"].layout == "IOW"
    assert model.other["embedding"] == 1


def test_eight_bit_floats_are_listed(tmp_path):
    header = {"a.weight": {"dtype": "F8_E4M3", "shape": [2, 2], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"abcd")
    assert left(read_model(path)) == {"a.weight": "stored as F8_E4M3: what scales it is not stated"}


# ---- TensorFlow


def test_variables_of_any_name_are_kernels_or_candidates(tmp_path):
    variables = {
        "f1": KERNEL.transpose(2, 3, 1, 0).copy(),
        "f1/Adam": KERNEL.transpose(2, 3, 1, 0).copy(),
        "conv1/f1": np.ones((3, 3, 1, 2), np.float32),
        "dense/kernel": np.ones((3, 2), np.float32),
        "dense/kernel/ExponentialMovingAverage": np.ones((3, 2), np.float32),
        "table": np.ones((3, 2, 2), np.float32),
        "position_embedding": np.ones((1, 3, 2), np.float32),
        "f1/bias": np.ones(4, np.float32),
    }
    model = read_model(bundle(tmp_path, variables), sample_shape=(3, 6, 5))
    assert set(names(model)) == {"f1", "conv1/f1", "dense", "dense/kernel/ExponentialMovingAverage"}
    assert set(left(model)) == {"table"}
    assert model.other == {"optimizer slot": 1, "other variable": 2}
    found = {layer.name: layer for layer in model.layers}
    assert found["f1"].layout == "HWIO"
    assert "kind" in found["f1"].assumed
    (tmp_path / "f.toml").write_text('[layers."f1"]\npadding = 2\n')
    given = read_model(tmp_path / "model", geometry=tmp_path / "f.toml", sample_shape=(3, 6, 5))
    assert not {"kind", "padding"} & set(next(layer for layer in given.layers if layer.name == "f1").assumed)
    assert "layout" not in found["f1"].assumed
    assert found["conv1/f1"].geometry.groups == 1  # a depthwise kernel has its channels in the third axis
    (report,) = (one for one in analyze(model).layers if one.name == "f1")
    assert report.as_padded.lower - 1e-5 <= DENSE <= report.as_padded.upper + 1e-5
    (tmp_path / "g.toml").write_text('[layers."table"]\ninput_shape = [9]\n')
    assert "table" in names(read_model(tmp_path / "model", geometry=tmp_path / "g.toml"))


def test_variables_that_are_listed_twice_are_read_once(tmp_path):
    first, second, dense = (state(a=shape)["a"] for shape in ((3, 3, 1, 4), (3, 3, 4, 4), (4, 2)))
    variables = {"variables/0": first, "variables/1": second, "variables/2": dense}
    variables |= {f"_all_{name}": array for name, array in variables.items()}
    variables["_all_variables/3"] = second + 1
    variables = {f"{name}/.ATTRIBUTES/VARIABLE_VALUE": array for name, array in variables.items()}
    model = read_model(bundle(tmp_path, variables))
    assert names(model) == ["variables/0", "variables/1", "_all_variables/3"]
    assert set(left(model)) == {"variables/2"}
    assert model.other == {"copy of another variable": 3}


# ---- two models


def test_a_comparison_without_pairs_is_not_complete(tmp_path):
    first, second = (
        read_model(
            with_metadata(tmp_path / f"{name}.safetensors", {f"{name}.weight": KERNEL}, {"format": "pt"}),
            sample_shape=(3, 6, 5),
        )
        for name in "ab"
    )
    found = compare(first, second)
    assert [(one.name, one.match) for one in found.layers] == [("a", "only before"), ("b", "only after")]
    assert not found.complete
    assert compare(first, first).complete


# ---- the commands


def test_what_was_not_read_is_in_every_output_and_the_status_is_3(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tensors = {"a.weight": KERNEL, "b.filters": KERNEL}
    with_metadata(tmp_path / "w.safetensors", tensors, {"format": "pt"})
    with_metadata(tmp_path / "whole.safetensors", {"a.weight": KERNEL}, {"format": "pt"})

    def run(*arguments):
        result = CliRunner().invoke(app, [*arguments, "--input-shape", "3,6,5", "--json", "r.json"])
        return result.exit_code, result.stdout, json.loads((tmp_path / "r.json").read_text())

    reason = in_options(NO_KERNEL_NAME)
    assert "--geometry FILE" in reason
    left_out = {"name": "b.filters", "shape": [4, 3, 3, 3], "reason": reason}
    status, text, report = run("analyze", "w.safetensors", "--html", "r.html")
    assert (status, report["unread"]) == (3, [left_out])
    assert f"b.filters (4x3x3x3): not read: {reason}" in text
    assert "b.filters" in (tmp_path / "r.html").read_text()
    assert run("analyze", "whole.safetensors")[0] == 0

    status, text, report = run("clip", "w.safetensors", "--max-norm", "1", "--output", "c.safetensors")
    assert (status, report["unread"]) == (3, [left_out])
    assert "1 not read" in text
    folder = resources.files("convspectra.report") / "schema"
    both = [json.loads((folder / f"{name}-1.schema.json").read_text()) for name in ("report", "clip")]
    registry = Registry().with_resource("urn:convspectra:report:1", Resource.from_contents(both[0]))
    jsonschema.Draft202012Validator(both[1], registry=registry).validate(report)
    assert run("clip", "whole.safetensors", "--max-norm", "1", "--output", "d.safetensors")[0] == 0
    # Where some layers are asked for, the others are no omission.
    picked = ["clip", "w.safetensors", "--max-norm", "1", "--layers", "a", "--overwrite"]
    status, text, report = run(*picked, "--output", "c.safetensors")
    assert (status, report["unread"], report["not_selected"]) == (0, [], ["b.filters"])

    status, text, report = run("compare", "w.safetensors", "c.safetensors", "--html", "both.html")
    assert (status, report["before"]["unread"], report["after"]["unread"]) == (3, [left_out], [left_out])
    assert "before: b.filters" in text
    assert "b.filters" in (tmp_path / "both.html").read_text()
    assert run("compare", "whole.safetensors", "d.safetensors")[0] == 0


def test_a_module_computes_what_its_file_does_not_say(tmp_path):
    torch = pytest.importorskip("torch")
    from convspectra.torch import orthogonal

    torch.manual_seed(0)
    net = torch.nn.Sequential(orthogonal(torch.nn.Conv2d(3, 4, 3)))
    path = tmp_path / "w.pth"
    torch.save(net.state_dict(), path)
    model = read_model(path, module=net, sample_shape=(3, 8, 8))
    assert not model.unread
    (found,) = analyze(model).layers
    assert found.torus.norm == pytest.approx(1, abs=1e-5)


def test_a_folder_of_several_checkpoints_is_no_choice_of_ours(tmp_path):
    bundle(tmp_path, {"f1": KERNEL})
    for path in list(tmp_path.iterdir()):
        (tmp_path / path.name.replace("model", "other")).write_bytes(path.read_bytes())
    with pytest.raises(ModelError, match=r"2 checkpoints \(model\.index, other\.index\)"):
        read_model(tmp_path)


def test_matrices_of_attention_and_recurrent_layers_are_named(tmp_path):
    """All that has a weight of its own being analysed is not all of it."""
    torch = pytest.importorskip("torch")
    model = torch.nn.ModuleDict(
        {"attention": torch.nn.MultiheadAttention(8, 2), "cell": torch.nn.LSTM(3, 4, proj_size=2)}
    )
    torch.save(model.state_dict(), tmp_path / "w.pt")
    result = CliRunner().invoke(app, ["analyze", str(tmp_path / "w.pt")])
    assert result.exit_code == 3
    assert set(left(read_model(tmp_path / "w.pt"))) == {
        "attention.in_proj_weight",
        "cell.weight_ih_l0",
        "cell.weight_hh_l0",
        "cell.weight_hr_l0",
    }


def test_names_of_masks_and_positions_hide_no_kernels(tmp_path):
    shapes = {
        "token_conv": (4, 4, 3, 3),
        "fold.weight": (2, 2, 2, 2, 2, 2),
        "pos_embed": (1, 8, 4, 4),
        "attn.mask": (1, 1, 9, 9),
        "cls_token": (1, 1, 8),
    }
    path = safetensors_file(
        tmp_path / "w.safetensors", {name: RNG.normal(size=s).astype("float32") for name, s in shapes.items()}
    )
    assert set(left(read_model(path))) == {"token_conv", "fold.weight"}


def test_an_empty_axis_fails_alone(tmp_path):
    tensors = {"a.weight": np.ones((4, 3, 0, 3), "float32"), "b.weight": np.ones((4, 3, 3, 3), "float32")}
    path = safetensors_file(tmp_path / "w.safetensors", tensors)
    for size in (None, (3, 6, 6)):
        report = analyze(read_model(path, sample_shape=size))
        assert [layer.status for layer in report.layers] == ["failed", "ok" if size else "skipped"]
        assert "no empty axis" in report.layers[0].reason


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_a_layout_that_is_not_read_is_named(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"a.weight": torch.eye(4).to_sparse_csr(), "b.weight": torch.eye(4)}, tmp_path / "w.pt")
    model = read_model(tmp_path / "w.pt")
    assert names(model) == ["b"]
    assert "sparse_csr" in left(model)["a.weight"]


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (4, 3, 3)])
def test_a_tensor_by_itself_is_a_candidate(shape, tmp_path):
    torch = pytest.importorskip("torch")
    path, kernel = tmp_path / "weight.pt", torch.randn(shape)
    torch.save(kernel, path)
    model = read_model(path)
    assert model.layers == ()
    assert [(one.name, one.shape) for one in model.unread] == [("tensor", shape)]
    np.testing.assert_array_equal(model.candidates[0].kernel, kernel.numpy())
