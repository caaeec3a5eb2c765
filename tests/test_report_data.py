"""Reports as data: the schema, golden files, and the way back from every format."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
from importlib import resources
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from convspectra import InputError
from convspectra.analysis import analyze
from convspectra.report import json_file, table_files
from convspectra.report.files import atomic, check_targets
from reports import ODD_NAME, mixed_model, mixed_report

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def report():
    return mixed_report()


def written(writer, report):
    file = io.BytesIO()
    writer(report, file)
    return file.getvalue()


def schema():
    text = (resources.files("convspectra.report") / "schema" / "report-1.schema.json").read_text()
    return jsonschema.Draft202012Validator(json.loads(text))


def rounded(value):
    """Numbers to six digits, so that another LAPACK gives the same text."""
    if isinstance(value, float):
        return 0.0 if abs(value) < 1e-12 else float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


def test_json_follows_the_schema_and_the_schema_refuses_what_does_not(report):
    document = json.loads(written(json_file.write, report))
    validator = schema()
    validator.check_schema(validator.schema)
    validator.validate(document)
    broken = [
        document | {"schema": "convspectra.report/2"},
        document | {"surplus": 1},
        {key: value for key, value in document.items() if key != "layers"},
        document | {"layers": [document["layers"][0] | {"status": "fine"}]},
        document | {"layers": [document["layers"][0] | {"stride": [0, 1]}]},
        document | {"sha256": "short"},
    ]
    for wrong in broken:
        assert not validator.is_valid(wrong)


def test_every_field_of_the_schema_says_what_it_is():
    for definition in [schema().schema, *schema().schema["$defs"].values()]:
        assert definition["additionalProperties"] is False
        for name, node in definition["properties"].items():
            assert node.get("description"), name
        assert set(definition["required"]) == set(definition["properties"])


def test_json_is_the_golden_one(report, update_golden):
    document = rounded(json.loads(written(json_file.write, report)))
    document["version"] = "any"
    for layer in document["layers"]:
        if layer["torus"] and layer["torus"]["rank"] < layer["torus"]["count"]:
            # Singular up to rounding: the smallest and the condition number are noise.
            layer["torus"]["smallest"] = layer["torus"]["condition_number"] = "noise"
    path = GOLDEN / "mixed.json"
    if update_golden:
        path.write_text(json.dumps(document, indent=1) + "\n")
    golden = json.loads(path.read_text())
    assert [layer["name"] for layer in golden["layers"]] == [layer["name"] for layer in document["layers"]]
    for ours, theirs in zip(document["layers"], golden["layers"], strict=True):
        assert close(ours["torus"], theirs["torus"])
        for name in ours.keys() - {"torus", "bounds"}:
            assert ours[name] == theirs[name]
        for name, bound in ours["bounds"].items():
            assert close(bound, theirs["bounds"][name])
    for name in document.keys() - {"layers"}:
        assert document[name] == golden[name]


def close(one, other):
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key]) for key in one)
    if isinstance(one, float) and isinstance(other, int | float):
        return bool(np.isclose(one, other, rtol=1e-4, atol=1e-9))
    return one == other


def test_csv_holds_every_layer_and_every_number(report):
    rows = list(csv.DictReader(io.StringIO(written(table_files.write_csv, report).decode())))
    assert [row["name"] for row in rows] == [layer.name for layer in report.layers]
    for row, layer in zip(rows, report.layers, strict=True):
        if layer.torus is None:
            assert row["norm"] == ""
            continue
        assert float(row["norm"]) == layer.torus.norm
        assert int(row["count"]) == layer.torus.count
        expected = "" if layer.any_size is None else repr(layer.any_size.upper)
        assert row["any_size_upper"] == expected
    assert rows[0]["kernel_shape"] == "8x3x3x3"
    assert rows[0]["padding"] == "1,1 1,1"
    assert rows[8]["assumed"] == "stride padding"


def test_parquet_keeps_types(report):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(io.BytesIO(written(table_files.write_parquet, report)))
    rows = table.to_pylist()
    assert rows[0]["kernel_shape"] == [8, 3, 3, 3]
    assert rows[0]["padding"] == [[1, 1], [1, 1]]
    assert rows[10]["norm"] is None
    assert [row["norm"] for row in rows[:2]] == [layer.torus.norm for layer in report.layers[:2]]
    assert table.schema.metadata[b"schema"] == b"convspectra.report/1"


def test_npz_holds_all_singular_values_under_any_name(report):
    with np.load(io.BytesIO(written(table_files.write_npz, report))) as file:
        assert list(file["names"]) == [layer.name for layer in report.layers]
        assert ODD_NAME in file["names"]
        for i, layer in enumerate(report.layers):
            assert (f"values_{i}" in file) == (layer.spectrum is not None)
            if layer.spectrum is not None:
                np.testing.assert_array_equal(file[f"values_{i}"], layer.spectrum.sorted())
                assert len(file[f"values_{i}"]) == layer.torus.count


def test_an_empty_model_has_a_report():
    model = mixed_model()
    empty = analyze(type(model)("empty", "onnx", ()))
    schema().validate(json.loads(written(json_file.write, empty)))
    assert len(written(table_files.write_csv, empty).splitlines()) == 1


def test_a_failed_write_leaves_what_was_there(tmp_path):
    target = tmp_path / "report.json"
    target.write_text("before")

    def fail():
        with atomic(target) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]
    with atomic(target) as file:
        file.write(b"after")
    assert target.read_text() == "after"
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~mask


def test_targets_are_checked_before_the_work(tmp_path):
    check_targets({"json": tmp_path / "new.json", "html": None}, {"png": None})
    for wrong, words in (
        ({"json": tmp_path}, "is a folder"),
        ({"json": tmp_path / "no" / "r.json"}, "does not exist"),
        ({"json": tmp_path / "r.HTM"}, "has the name of a .html file"),
        ({"npz": tmp_path / "r.json"}, "has the name of a .json file"),
    ):
        with pytest.raises(InputError, match=words):
            check_targets(wrong, {})
