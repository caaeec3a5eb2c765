"""Two models side by side: what is matched, what is said, what is drawn."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from importlib import resources

import jsonschema
import numpy as np
import pytest
from referencing import Registry, Resource
from rich.console import Console

from convspectra import ConvGeometry
from convspectra.analysis import compare
from convspectra.models import Model
from convspectra.report import compare_html, compare_text, json_file
from convspectra.report.files import write_all
from reports import ODD_NAME, layer, mixed_model
from test_cli import convspectra, refused, write_onnx


def changed_model():
    """The mixed model with kernels halved, one renamed, one of another shape, one missing."""
    model = mixed_model()
    layers = []
    for one in model.layers:
        if one.name == "stem":
            one = replace(one, kernel=one.kernel / 2)
        elif one.name == "pointwise":
            one = layer("pointwise", (8, 8, 1, 1), input_shape=(8, 6))
        elif one.name == "head":
            one = replace(one, name="other head")
        elif one.name == "down":
            continue
        layers.append(one)
    return replace(model, name="after.onnx", layers=tuple(layers))


@pytest.fixture(scope="module")
def comparison():
    return compare(mixed_model(), changed_model())


def test_layers_are_matched_by_name(comparison):
    found = {one.name: one for one in comparison.layers}
    names = [one.name for one in mixed_model().layers]
    assert list(found) == [*names, "other head"]
    matches = {name: one.match for name, one in found.items() if one.match != "both"}
    assert matches == {
        "down": "only before",
        "pointwise": "other shape",
        "head": "only before",
        "other head": "only after",
    }
    stem = found["stem"]
    assert stem.relative_change == pytest.approx(0.5)
    assert stem.after.torus.norm == pytest.approx(stem.before.torus.norm / 2)
    assert stem.after.torus.condition_number == pytest.approx(stem.before.torus.condition_number)
    assert found["depthwise"].relative_change == 0
    assert found["broken"].relative_change is None
    assert found["down"].after is None


def test_geometry_is_lent_where_only_one_model_states_it():
    kernel = np.random.default_rng(0).standard_normal((4, 1, 3, 3))
    stated = layer("a", kernel.shape, kernel=kernel, input_shape=(8, 8), groups=4, padding=1)
    bare = replace(stated, kernel=kernel / 3, geometry=None, reason="unknown")
    assumed = replace(
        stated, kernel=kernel / 3, geometry=ConvGeometry((8, 8), padding="same"), assumed=("stride", "groups")
    )
    for other in (bare, assumed):
        found = compare(Model("a", "onnx", (stated,)), Model("b", "pytorch", (other,))).layers[0]
        assert found.after.torus.norm == pytest.approx(found.before.torus.norm / 3)
        assert found.after.assumed == ()
        found = compare(Model("b", "pytorch", (other,)), Model("a", "onnx", (stated,))).layers[0]
        assert found.before.torus.norm == pytest.approx(found.after.torus.norm / 3)


@pytest.mark.parametrize("width", [60, 200])
def test_the_table_says_what_was_and_what_is(comparison, width):
    file = io.StringIO()
    compare_text.render(comparison, Console(file=file, width=width))
    text = file.getvalue()
    lines = text.splitlines()
    stem = next(one for one in comparison.layers if one.name == "stem")
    (row,) = (line for line in lines if line.startswith("stem"))
    assert f"{stem.before.torus.norm:.4g} -> {stem.after.torus.norm:.4g}" in row
    assert "50 %" in row
    assert "same" in next(line for line in lines if line.startswith("depthwise"))
    assert "only before" in next(line for line in lines if line.startswith("down"))
    assert "mixed.onnx -> after.onnx: 11 layers in both" in text
    assert "1 of another shape; 2 only before; 1 only after" in text
    assert "broken: failed before: " in text
    assert "with their own padding" not in text.splitlines()[-1], "that of the broken layer is unknown"


def schema(name):
    return json.loads(
        (resources.files("convspectra.report") / "schema" / f"{name}-1.schema.json").read_text()
    )


def test_json_has_both_sides(comparison):
    file = io.BytesIO()
    json_file.write(comparison, file)
    found = json.loads(file.getvalue())
    registry = Registry().with_resource("urn:convspectra:report:1", Resource.from_contents(schema("report")))
    validator = jsonschema.Draft202012Validator(schema("comparison"), registry=registry)
    validator.check_schema(validator.schema)
    validator.validate(found)
    assert not validator.is_valid(found | {"layers": [found["layers"][0] | {"after": {}}]})
    assert found["schema"] == "convspectra.comparison/1"
    assert [found[side]["model"] for side in ("before", "after")] == ["mixed.onnx", "after.onnx"]
    by_name = {one["name"]: one for one in found["layers"]}
    assert by_name["down"]["after"] is None
    assert by_name["stem"]["relative_change"] == pytest.approx(0.5)
    assert by_name["stem"]["after"]["torus"]["norm"] > 0


def test_the_page_s_data(comparison):
    data = compare_html.page_data(comparison)
    json.dumps(data, allow_nan=False)
    assert all(len(one["cells"]) == len(data["columns"]) for one in data["layers"])
    names = [one["name"] for one in data["layers"]]
    stem = [curve for curve in data["curves"] if names[curve["layer"]] == "stem"]
    assert [curve["when"] for curve in stem] == ["before", "after"]
    assert stem[0]["norm"] == pytest.approx(2 * stem[1]["norm"], rel=1e-4)
    added = [curve["when"] for curve in data["curves"] if names[curve["layer"]] == "other head"]
    assert added == ["after"]
    page = compare_html.render(comparison)
    assert ODD_NAME not in page
    assert "{{" not in page.split("<script>")[0]


@pytest.mark.parametrize("count", [1, 3, pytest.param(50, marks=pytest.mark.slow)])
def test_pictures(count, tmp_path):
    pytest.importorskip("matplotlib", reason="could not import 'matplotlib'")
    layers = tuple(layer(f"l{i}", (3, 3, 3, 3), input_shape=(6, 6), padding=1) for i in range(count))
    halved = tuple(replace(one, kernel=one.kernel / 2) for one in layers)
    found = compare(Model("a", "onnx", layers), Model("b", "onnx", halved))
    written = list(write_all(found, {}, {"png": tmp_path}))
    pages = ["spectra.png", "spectra-2.png"][: 1 + (count > 48)]
    assert [path.name for path in written] == [*pages, "norms.png"]
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in written)


def test_models_without_common_layers_and_without_any():
    one = layer("a", (3, 3, 3, 3), input_shape=(6, 6), padding=1)
    found = compare(Model("a", "onnx", (one,)), Model("b", "onnx", (replace(one, name="b"),)))
    assert [pair.match for pair in found.layers] == ["only before", "only after"]
    empty = compare(Model("a", "onnx", ()), Model("b", "onnx", ()))
    for comparison in (found, empty):
        compare_html.render(comparison)
        json_file.write(comparison, io.BytesIO())
        compare_text.render(comparison, Console(file=io.StringIO()))


def test_the_command(tmp_path):
    rng = np.random.default_rng(0)
    kernels = [rng.standard_normal((4, 3, 3, 3)).astype(np.float32) for _ in range(2)]
    kernels[1] = rng.standard_normal((4, 4, 3, 3)).astype(np.float32) / 16
    before = write_onnx(tmp_path / "a.onnx", kernels, pads=[1, 1, 1, 1])
    after = write_onnx(tmp_path / "b.onnx", [kernels[0] / 2, kernels[1]], pads=[1, 1, 1, 1])
    progress = ["--json", "r.json", "--html", "r.html"]
    result = convspectra("compare", before, after, *progress, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "a.onnx -> b.onnx: 2 layers in both, 1 changed" in result.stdout
    halved, kept = json.loads((tmp_path / "r.json").read_text())["layers"]
    norms = [max(one[when]["torus"]["norm"] for one in (halved, kept)) for when in ("before", "after")]
    assert f"largest norm {norms[0]:.4g} -> {norms[1]:.4g} wrapped; at most" in result.stdout
    assert "with their own padding" in result.stdout
    assert result.stderr.splitlines() == ["wrote r.json", "wrote r.html"]
    changes = [one["relative_change"] for one in json.loads((tmp_path / "r.json").read_text())["layers"]]
    assert changes == [pytest.approx(0.5), 0]
    refused(convspectra("compare", before, "none.onnx", "--json", "n.json", cwd=tmp_path), "none.onnx")
    assert not (tmp_path / "n.json").exists()
