"""From layers to a report."""

from __future__ import annotations

import math
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

import convspectra as cs
from convspectra.analysis import analyze, analyze_layer, of_layer
from convspectra.models import ConvLayer, Model, Unread
from convspectra.operators.reference import dense_operator

RNG = np.random.default_rng(0)


def layer(shape=(4, 3, 3, 3), name="layer", kind="conv2d", **options):
    geometry = cs.ConvGeometry(**({"input_shape": (6, 6), "padding": 1} | options))
    return ConvLayer(name, kind, RNG.standard_normal(shape), geometry.layout, geometry)


def model(*layers, **options):
    return Model("model", "by hand", tuple(layers), **options)


def dense_values(one):
    return np.linalg.svd(dense_operator(one.kernel, one.geometry), compute_uv=False)


def test_every_number_of_a_layer_is_the_dense_operators():
    one = layer()
    report = analyze_layer(one)
    assert (report.status, report.reason) == ("ok", "")
    sigma = dense_values(replace(one, geometry=one.geometry.on_torus()))
    torus = report.torus
    assert torus.count == sigma.size
    assert torus.rank == np.linalg.matrix_rank(np.diag(sigma))
    np.testing.assert_allclose(
        [torus.norm, torus.smallest, torus.condition_number, torus.nuclear_norm],
        [sigma[0], sigma[-1], sigma[0] / sigma[-1], sigma.sum()],
        rtol=1e-11,
    )
    np.testing.assert_allclose(list(torus.quantiles.values()), np.quantile(sigma, list(torus.quantiles)))
    padded = dense_values(one)[0]
    assert report.as_padded.lower <= padded <= report.as_padded.upper
    assert padded <= report.any_size.upper
    assert sigma[0] <= report.any_size.upper


def test_order_is_the_models_and_executor_and_precision_change_no_number():
    layers = [layer((2 + i, 3, 3, 3), name=f"layer{i}") for i in range(7)]
    one = analyze(model(*layers))
    with ThreadPoolExecutor(3) as executor:
        other = analyze(model(*layers), compute=cs.Compute(executor), dtype="kernel")
    assert [report.name for report in one.layers] == [f"layer{i}" for i in range(7)]
    assert [report.torus for report in one.layers] == [report.torus for report in other.layers]
    narrow = analyze(model(*layers), dtype="float32")
    for wide, single in zip(one.layers, narrow.layers, strict=True):
        assert single.spectrum.values.dtype == np.float32
        assert math.isclose(wide.torus.norm, single.torus.norm, rel_tol=1e-5)


def test_a_stride_that_does_not_divide_leaves_the_bounds():
    report = analyze_layer(layer(input_shape=(7, 6), stride=2))
    assert report.status == "partial"
    assert "6 or 8 instead of 7" in report.reason
    assert report.torus is None
    one = layer(input_shape=(7, 6), stride=2)
    found = analyze_layer(one)
    assert found.as_padded.lower <= dense_values(one)[0] <= found.as_padded.upper


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_other_boundaries_are_given_bounds_of_their_own(mode):
    one = layer(padding_mode=mode)
    report = analyze_layer(one)
    norm = dense_values(one)[0]
    assert report.status == "ok"
    assert report.as_padded.lower <= norm * (1 + 1e-13)
    assert report.as_padded.upper * (1 + 1e-13) >= norm
    # Reflection and replication can exceed the bound for any size: it is not given.
    assert (report.any_size is None) == (mode != "circular")
    assert report.torus is not None


def test_nothing_to_mirror_leaves_the_torus():
    report = analyze_layer(layer(input_shape=(1, 6), padding_mode="reflect"))
    assert report.status == "partial"
    assert "no bound for its own padding: reflect padding needs at least two points" in report.reason
    assert report.as_padded is None
    assert report.torus is not None


def test_a_bad_kernel_fails_alone():
    bad = layer(name="bad")
    bad.kernel[0, 0, 0, 0] = np.nan
    report = analyze(model(layer(name="a"), bad, layer(name="b")))
    assert [entry.status for entry in report.layers] == ["ok", "failed", "ok"]
    assert "1 NaN or infinite" in report.layers[1].reason
    assert report.layers[1].torus is None


@pytest.mark.parametrize("options", [{"stride": 3}, {"dilation": 2}, {"groups": 2}, {"transposed": True}])
def test_without_geometry_an_upper_bound_holds_for_whatever_it_is(options):
    shape = (4, 2, 3, 3)
    true = layer(shape, **options)
    unknown = ConvLayer("layer", "conv2d", true.kernel, "OIHW", None, reason="input size unknown")
    report = analyze_layer(unknown)
    assert report.status == "skipped"
    assert report.reason == "input size unknown"
    assert report.torus is None
    assert report.any_size.lower is None
    assert dense_values(true)[0] <= report.any_size.upper


@pytest.mark.parametrize(
    "wrong",
    [
        layer(name="stem", input_shape=(2, 2), padding="valid"),
        layer(name="stem", groups=7),
        replace(layer(name="stem"), batch_norm_scale=np.ones(5), geometry=cs.ConvGeometry((2, 2), groups=7)),
        layer((4, 0, 1), name="stem", kind="linear", input_shape=(1,), padding=0),
        ConvLayer("stem", "conv2d", np.zeros((4, 0, 3, 3)), "OIHW", None),
    ],
)
@pytest.mark.parametrize("fold", [False, True])
def test_a_layer_that_contradicts_itself_fails_with_the_reason_and_the_others_are_analysed(wrong, fold):
    report = analyze(model(wrong, layer(name="fine")), fold_batch_norm=fold)
    failed, fine = report.layers
    assert failed.name == "stem"
    assert failed.status == "failed"
    assert re.search("no output point|must divide|no empty axis", failed.reason)
    assert failed.torus is failed.as_padded is failed.any_size is None
    assert fine.status == "ok"
    assert not report.complete


@pytest.mark.parametrize(
    ("shape", "channels", "options"),
    [
        ((4, 3, 3, 3), 4, {}),
        ((4, 1, 3, 3), 4, {"groups": 4}),
        ((4, 2, 3, 3), 4, {"groups": 2}),
        ((3, 5, 3, 3), 5, {"transposed": True}),
        ((4, 3, 3, 3), 6, {"transposed": True, "groups": 2}),
        ((3, 3, 2, 6), 6, {"layout": "HWIO"}),
    ],
)
def test_folded_batch_norm_is_the_composition_of_the_two(shape, channels, options):
    scale = RNG.uniform(0.5, 2, channels) * RNG.choice([-1, 1], channels)
    one = replace(layer(shape, **options), batch_norm_scale=scale)
    folded = analyze(model(one), fold_batch_norm=True).layers[0]
    separate = analyze(model(one)).layers[0]
    assert (folded.batch_norm, separate.batch_norm) == ("folded", "separate")
    for geometry, found in ((one.geometry.on_torus(), folded.torus.norm),):
        operator = dense_operator(one.kernel, geometry)
        points = operator.shape[0] // channels
        expected = np.linalg.norm(np.repeat(scale, points)[:, None] * operator, 2)
        assert math.isclose(found, expected, rel_tol=1e-12)
    assert not math.isclose(separate.torus.norm, folded.torus.norm, rel_tol=1e-3)


def test_progress_ends_at_one_and_names_each_layer_once():
    seen = []
    analyze(
        model(*[layer(name=f"layer{i}") for i in range(5)]),
        progress=lambda share, name: seen.append((share, name)),
    )
    assert sorted(name for _, name in seen) == [f"layer{i}" for i in range(5)]
    shares = [share for share, _ in seen]
    assert shares == sorted(shares)
    assert math.isclose(shares[-1], 1)


def test_an_interruption_stops_the_work():
    def interrupt(share, name):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyze(model(*[layer(name=f"layer{i}") for i in range(50)]), progress=interrupt)


def test_a_model_without_layers_gives_an_empty_report():
    report = analyze(model(other={"Relu": 3}))
    assert report.layers == ()
    assert report.other == {"Relu": 3}


def test_an_interrupted_analysis_goes_on_where_it_was(tmp_path, monkeypatch):
    layers = [layer(name=f"layer{i}") for i in range(5)] + [layer(name="odd", input_shape=(7, 6), stride=2)]
    whole = analyze(model(*layers))
    seen = []

    def stop_after_two(share, name):
        seen.append(name)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=f"[2-9] of {len(layers)} layers kept in") as stopped:
        analyze(model(*layers), progress=stop_after_two, resume=tmp_path)
    kept = len(list(tmp_path.glob("*.npz")))
    assert str(stopped.value).startswith(f"{kept} of")
    assert 2 <= kept <= len(layers)
    assert len(list(tmp_path.iterdir())) == kept
    measured = []
    genuine = of_layer._measure
    monkeypatch.setattr(of_layer, "_measure", lambda *a: measured.append(1) or genuine(*a))
    resumed = analyze(model(*layers), resume=tmp_path)
    assert len(measured) == len(layers) - kept
    for one, other in zip(whole.layers, resumed.layers, strict=True):
        assert replace(one, spectrum=None) == replace(other, spectrum=None)
        if one.spectrum is not None:
            np.testing.assert_array_equal(one.spectrum.sorted(), other.spectrum.sorted())


def test_equal_layers_keep_one_file(tmp_path):
    for turn in range(10):
        found = analyze(model(*[layer()] * 6), resume=tmp_path / f"{turn}").layers
        assert all(one.torus == found[0].torus for one in found)
        assert len(list((tmp_path / f"{turn}").iterdir())) == 1


def test_what_a_limit_left_out_is_not_kept(tmp_path):
    one = layer((16, 16, 3, 3), input_shape=(32, 32), padding_mode="reflect")
    with cs.max_memory(2**20):
        (cut,) = analyze(model(one), resume=tmp_path).layers
    assert (cut.status, cut.as_padded) == ("partial", None)
    (whole,) = analyze(model(one), resume=tmp_path).layers
    assert whole.status == "ok"
    assert whole.as_padded == analyze(model(one)).layers[0].as_padded
    with cs.max_memory(2**20):  # what is kept takes none
        assert analyze(model(one), resume=tmp_path).layers[0].as_padded == whole.as_padded


def test_a_damaged_or_foreign_checkpoint_is_computed_again(tmp_path):
    one = layer()
    first = analyze(model(one), resume=tmp_path)
    (kept,) = tmp_path.glob("*.npz")
    kept.write_bytes(kept.read_bytes()[:100])
    assert analyze(model(one), resume=tmp_path).layers[0].torus == first.layers[0].torus
    analyze(model(one), resume=tmp_path, dtype="float32")
    assert len(list(tmp_path.glob("*.npz"))) == 2
    (tmp_path / "file").touch()
    with pytest.raises(cs.InputError, match="file cannot be written: File exists"):
        analyze(model(one), resume=tmp_path / "file")


def test_a_report_is_complete_only_if_there_are_layers_and_all_were_analysed():
    good, strided = layer(), layer(input_shape=(5, 5), stride=2)
    unknown = replace(good, geometry=None, reason="no size")
    broken = replace(good, kernel=np.full((4, 3, 3, 3), np.nan))
    assert analyze(model(good, good)).complete
    assert not analyze(model()).complete
    for status, other in (("partial", strided), ("skipped", unknown), ("failed", broken)):
        report = analyze(model(good, other))
        assert report.layers[1].status == status
        assert not report.complete
    unread = Unread("f1", (3, 3, 8, 8), "its layout is not stated")
    assert not analyze(model(good, unread=(unread,))).complete
