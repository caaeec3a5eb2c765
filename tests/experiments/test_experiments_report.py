"""What is read from folders of experiments, and the page, figures and summary that are made of it."""

from __future__ import annotations

import json
import math
import re
import shutil
import statistics
import struct
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from experiment_folders import ODD, bench, clipped, figure2, plan, result_of, run, write

from convspectra import ConvGeometry
from convspectra.errors import InputError
from convspectra.models.records import ConvLayer, Model
from convspectra_experiments.report import as_dict, write_report
from convspectra_experiments.report.paper import PAPER
from convspectra_experiments.report.tables import BATCHES, Table, measured, settings
from convspectra_experiments.report.tables import results as result_tables
from convspectra_experiments.studies import boundary, network_spectra, results
from convspectra_experiments.studies.catalogue import EXTENTS, TRAINED
from convspectra_experiments.training.settings import Control, Settings

NAMES = ("stem", "blocks.0.conv1", "blocks.0.conv2")


def by_name(findings):
    return {experiment.name: experiment for experiment in findings.experiments}


def sweep(out, name="figure3a"):
    """Limits none and 0.5 with two rates; one diverged, one that has not started."""
    runs = []
    for limit, rate, error in ((None, 0.01, 0.2), (None, 0.1, 0.9), (0.5, 0.01, 0.15), (0.5, 0.1, None)):
        control = Control() if limit is None else Control("clip", limit)
        its = Settings(
            data="digits", depth=8, width=4, epochs=1, control=control, rate=rate, batch_norm=False
        )
        status = "diverged" if error == 0.9 else "done"
        ended = None if error is None else result_of(error, status, epochs=1)
        runs.append(run(out, its, [] if error is None else [error], ended))
    plan(out, name, runs)
    return runs


def section44(out):
    runs = []
    for method, every, limit in (("clip", 100, 0.5), ("clip", 1, 0.5), ("reshaped", 1, 0.2)):
        its = Settings(data="digits", depth=8, width=4, epochs=2, control=Control(method, limit, every))
        runs.append(run(out, its, [0.4, 0.2], result_of(0.2, epochs=2), seconds=1.5))
    runs.append(run(out, clipped(None, 7), [0.4, 0.3], result_of(0.3)))
    plan(out, "section44", runs)


def beyond(out, group=None):
    runs = []
    for index, control in enumerate((Control(), Control("project", 1.0), Control("parseval", weight=1e-3))):
        for seed in (0, 1):
            its = Settings(
                data="digits", depth=8, width=4, epochs=2, control=control, seed=seed, observe=True
            )
            attack = ((0.0, 0.1, 0.1), (0.01, 0.2 + 0.1 * seed, 0.5), (0.5, 0.9, None if seed else 1.0))
            ended = result_of(0.1 + 0.01 * index, attack=attack, epochs=2, lipschitz=10.0**index)
            layers = NAMES if seed == 0 else ()
            runs.append(run(out, its, [0.4, 0.1], ended, group=group, layers=layers))
    plan(out, "beyond", runs)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """Everything but figure 3b, figure 4 (which figure 2 tells) and figures 6 and 7 (which figure 5 does)."""
    out = tmp_path_factory.mktemp("with 'space'") / "out & <more>"
    out.mkdir()
    bench(out)
    figure2(out)
    sweep(out)
    section44(out)
    beyond(out)
    network_spectra.write(network_spectra.spectra_of(), out / "spectra.json")
    plan(out, "figure5", spectra="spectra.json")
    boundary.write(boundary.boundary_of(extent=EXTENTS["smoke"]), out / "distances.json")
    plan(out, "boundary", distances="distances.json")
    return out, list(write_report(out))


class TestAggregation:
    def test_mean_and_deviation_are_those_of_a_sample(self):
        sample = results.Sample.of([0.1, None, 0.14])
        assert sample == results.Sample(pytest.approx(0.12), pytest.approx(0.02 * math.sqrt(2)), 2)
        assert results.Sample.of([0.5]) == results.Sample(0.5, None, 1)
        assert results.Sample.of([None]) is None

    def test_groups_over_seeds(self, tmp_path):
        figure2(tmp_path)
        plain, half, one = by_name(results.read(tmp_path))["figure2"].groups
        assert [group.name for group in (plain, half, one)] == ["no clipping", "clip 0.5", "clip 1"]
        assert plain.test_error.mean == pytest.approx(0.12)
        assert plain.test_error.deviation == pytest.approx(statistics.stdev([0.10, 0.14]))
        assert plain.largest_norm.mean == pytest.approx(2.0)
        assert (plain.finished, plain.diverged, len(plain.runs)) == (2, 0, 2)
        assert one.test_error is one.epoch_seconds is one.control is None
        assert one.curve == ()

    def test_a_diverged_run_counts_with_its_last_error_and_as_diverged(self, tmp_path):
        figure2(tmp_path)
        half = by_name(results.read(tmp_path))["figure2"].groups[1]
        assert [one.status for one in half.runs] == ["diverged", "under way"]
        assert (half.finished, half.diverged) == (1, 1)
        assert half.test_error == results.Sample(0.9, None, 1)
        assert [point.train_loss for point in half.curve] == [results.Sample(0.8, None, 1), None]

    def test_times_are_of_an_epoch_with_the_control_and_apart(self, tmp_path):
        figure2(tmp_path)
        half = by_name(results.read(tmp_path))["figure2"].groups[1]
        assert half.epoch_seconds.mean == pytest.approx((1 + 2) / 2)
        assert half.control_seconds.mean == pytest.approx(0.25)
        assert half.step_seconds.mean == pytest.approx((2 / 20 + 2 / 10) / 2)
        assert measured(half.step_seconds, BATCHES) == "1,500 ± 7.1e+02"

    def test_a_curve_says_how_many_seeds_have_reached_each_epoch(self, tmp_path):
        figure2(tmp_path)
        plain, half, _ = by_name(results.read(tmp_path))["figure2"].groups
        assert [(point.epoch, point.runs) for point in plain.curve] == [(1, 2), (2, 2), (3, 2)]
        assert [(point.epoch, point.runs) for point in half.curve] == [(1, 2), (2, 1)]
        assert [point.test_error.mean for point in half.curve] == pytest.approx([0.65, 0.9])
        assert plain.curve[1].test_error.deviation == pytest.approx(statistics.stdev([0.2, 0.3]))
        assert half.curve[0].total_seconds.mean == pytest.approx(1.5)

    def test_missing_runs_are_named(self, tmp_path):
        planned = figure2(tmp_path)
        experiment = by_name(results.read(tmp_path))["figure2"]
        assert [one.folder for one in experiment.unfinished] == [one["folder"] for one in planned[3:]]
        assert not experiment.complete

    def test_a_sweep_by_limit(self, tmp_path):
        sweep(tmp_path)
        free, half = by_name(results.read(tmp_path))["figure3a"].limits
        assert (free.limit, free.planned, free.diverged, free.best) == (None, 2, 1, 0.2)
        assert free.quartiles == pytest.approx((0.375, 0.55, 0.725))
        assert (half.limit, half.planned, len(half.trials), half.best) == (0.5, 2, 1, 0.15)
        assert [(t.rate, t.batch, t.epochs_per_decay, t.error, t.diverged) for t in free.trials] == [
            (0.01, 128, 2, 0.2, False),
            (0.1, 128, 2, 0.9, True),
        ]

    def test_attacks_are_averaged_by_distance(self, tmp_path):
        beyond(tmp_path)
        group = by_name(results.read(tmp_path))["beyond"].groups[0]
        assert [point.radius for point in group.attack] == [0.0, 0.01, 0.5]
        assert group.attack[1].error.mean == pytest.approx(0.25)
        assert group.attack[2].certified == results.Sample(1.0, None, 1)
        assert group.observed is group.runs[0]
        assert [layer.name for layer in group.observed.epochs[0].layers] == list(NAMES)

    def test_figures_2_and_4_share_their_runs(self, tmp_path):
        figure2(tmp_path)
        found = results.read(tmp_path)
        assert [(one.name, one.source) for one in found.experiments] == [
            ("figure2", "figure2"),
            ("figure4", "figure2"),
        ]
        assert len(found.runs) == 5
        assert set(found.not_run) == set(PAPER) - {"figure2", "figure4"}

    def test_all_experiments_are_told_of(self):
        assert tuple(PAPER) == results.EXPERIMENTS


class TestDamage:
    def test_an_empty_folder_says_what_to_run(self, tmp_path):
        with pytest.raises(InputError, match=r"holds no experiment; run `convspectra experiment figure2"):
            list(write_report(tmp_path))
        assert list(tmp_path.iterdir()) == []

    def test_a_torn_last_line_is_no_epoch(self, tmp_path):
        planned = figure2(tmp_path)
        half = by_name(results.read(tmp_path))["figure2"].groups[1]
        assert (tmp_path / planned[3]["folder"] / "metrics.jsonl").read_text().endswith('{"epoch": 2, "st')
        assert len(half.runs[1].epochs) == 1

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("metrics.jsonl", '{"epoch": 1, "st\n{"epoch": 2}\n'),
            ("metrics.jsonl", '{"epoch": 1}\n'),
            ("metrics.jsonl", "[]\n"),
            ("metrics.jsonl", b"\xff\xfe\n"),
            ("result.json", '{"status": "done"'),
            ("result.json", '{"status": "done"}'),
            ("result.json", "[1]"),
            ("result.json", json.dumps(result_of(math.nan))),
            ("result.json", json.dumps(result_of(0.5, "splendid"))),
            ("settings.json", "{}"),
            ("settings.json", '{"settings": {"depth": 8, "colour": 3}}'),
            ("settings.json", '{"settings": 3}'),
        ],
    )
    def test_a_corrupt_file_of_a_run_is_named(self, tmp_path, name, text):
        path = tmp_path / figure2(tmp_path)[0]["folder"] / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(InputError, match=re.escape(str(path))) as caught:
            results.read(tmp_path)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "text",
        [
            "[]",
            '{"runs": 3}',
            '{"runs": [{}]}',
            '{"spectra": "../spectra.json"}',
            '{"bench": "/etc/passwd"}',
            "{",
        ],
    )
    def test_a_corrupt_plan_is_named(self, tmp_path, text):
        (tmp_path / "figure2.json").write_text(text)
        with pytest.raises(InputError, match=re.escape(str(tmp_path / "figure2.json"))):
            results.read(tmp_path)

    @pytest.mark.parametrize("name", ["bench.json", "spectra.json", "distances.json"])
    def test_other_corrupt_files_are_named(self, tmp_path, name):
        plan(tmp_path, "figure1", bench="bench.json")
        plan(tmp_path, "figure5", spectra="spectra.json")
        plan(tmp_path, "boundary", distances="distances.json")
        assert not any(one.complete for one in results.read(tmp_path).experiments)
        write(tmp_path / name, {"curves": 3, "machine": {}, "model": "m"})
        with pytest.raises(InputError, match=re.escape(str(tmp_path / name))):
            results.read(tmp_path)

    def test_a_corrupt_archive_is_named(self, tmp_path):
        name = figure2(tmp_path / "out")[0]["folder"]
        path = Path(shutil.make_archive(str(tmp_path / "kept"), "zip", tmp_path / "out"))
        whole = path.read_bytes()
        for content in (b"", whole[:-40], whole[:300] + bytes(60) + whole[360:]):
            path.write_bytes(content)
            with pytest.raises(InputError, match=re.escape(str(path))):
                results.read(path)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("figure2.json", (tmp_path / "out" / "figure2.json").read_bytes())
            archive.writestr(f"{name}/result.json", "[1]")
        with pytest.raises(InputError, match=re.escape(f"{path}/{name}/result.json")):
            results.read(path)

    def test_a_result_without_settings_is_refused(self, tmp_path):
        place = tmp_path / figure2(tmp_path)[0]["folder"]
        (place / "settings.json").unlink()
        with pytest.raises(InputError, match=r"settings\.json is missing beside a result"):
            results.read(tmp_path)


class Page(HTMLParser):
    """Every element with its attributes, and the text between them."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.text = [], ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


class TestReport:
    @pytest.mark.slow
    def test_what_is_written(self, full):
        out, written = full
        figures = [
            *("figure1", "figure2", "figure3a", "figure4", "section44", "figure5", "figure6", "figure7"),
            *("boundary", "boundary-norms", "beyond", "beyond-layers", "beyond-attack"),
        ]
        assert written == [
            *(out / "figures" / f"{name}.png" for name in figures),
            out / "summary.json",
            out / "report.html",
        ]
        for path in written[: len(figures)]:
            data = path.read_bytes()
            assert data.startswith(b"\x89PNG\r\n\x1a\n")
            assert data.endswith(b"IEND\xaeB`\x82")
            assert min(struct.unpack(">II", data[16:24])) > 400

    @pytest.mark.slow
    def test_the_page_refers_to_nothing_outside(self, full):
        page = Page(full[0] / "report.html")
        assert not page.all("script")
        assert not page.all("link")
        for _, attributes in page.elements:
            for name, value in attributes.items():
                if name in ("src", "srcset"):
                    assert value.startswith("data:image/png;base64,")
                elif name == "href":
                    assert value.startswith("#")
                    assert any(other.get("id") == value[1:] for _, other in page.elements)
        assert not re.search(r"https?:|url\(|@import", re.sub(r"base64,[\w+/=]+", "", page.source))

    @pytest.mark.slow
    def test_every_picture_has_words(self, full):
        page = Page(full[0] / "report.html")
        pictures = page.all("img")
        assert len(pictures) == 13
        assert all(len(one["alt"]) > 40 for one in pictures)
        assert len(page.all("source")) == 12  # figure 1 has no dark version

    @pytest.mark.slow
    def test_each_experiment_is_told_of_beside_the_paper(self, full):
        page = Page(full[0] / "report.html")
        assert [one["id"] for one in page.all("section") if "id" in one] == list(PAPER)
        for told in PAPER.values():
            assert told.title in page.text
            assert all(sentence in page.text for sentence in told.found)

    @pytest.mark.slow
    def test_what_was_not_run_is_said_with_its_command(self, full):
        text = Page(full[0] / "report.html").text
        assert f"Figure 3b was not run: convspectra experiment figure3b --preset small --out '{full[0]}'" in (
            text.replace("'\"'\"'", "'")
        )
        assert "3 of 5 runs finished, 1 diverged, 1 under way, 1 not started" in text
        assert "Under way: clip 0.5, seed 1, epoch 1 of 3." in text
        assert "Not started: clip 1, seed 0." in text

    def test_data_and_seeds_of_other_runs_are_part_of_the_command(self, tmp_path):
        runs = figure2(tmp_path)
        line = "convspectra experiment figure2 --data '/my data' --seeds 2 --minutes 5"
        write(tmp_path / "figure2.json", {"preset": "paper", "command": line, "runs": runs})
        from convspectra_experiments.report.page import command

        found = results.read(tmp_path)
        assert command(found, "beyond").endswith("--data '/my data' --seeds 2")
        assert "--data" not in command(found, "figure1")
        assert "--data" not in command(found, "boundary")

    def test_names_are_text(self, tmp_path):
        beyond(tmp_path, group=ODD)
        list(write_report(tmp_path))
        page = Page(tmp_path / "report.html")
        assert not page.all("b")
        assert not page.all("i")
        assert ODD in page.text
        assert "<i>Processor</i> & sons" in page.text
        assert any(ODD in one["alt"] for one in page.all("img"))

    @pytest.mark.slow
    def test_the_summary(self, full):
        summary = json.loads((full[0] / "summary.json").read_text(encoding="utf-8"))
        assert summary == json.loads(json.dumps(as_dict(results.read(full[0]))))
        found = {one["name"]: one for one in summary["experiments"]}
        assert summary["not_run"] == ["figure3b", "variations"]
        assert found["figure2"]["runs"] == {"planned": 5, "finished": 3, "diverged": 1, "under_way": 1}
        assert found["figure2"]["groups"][0]["test_error"]["mean"] == pytest.approx(0.12)
        assert [one["status"] for one in found["figure2"]["unfinished"]] == ["under way", "not started"]
        assert found["figure3a"]["limits"][0]["best"] == 0.2
        assert found["figure5"]["spectra"]["layers"][0]["at_least_one"] == 64

    @pytest.mark.slow
    def test_the_distances_from_the_torus(self, full):
        experiment = by_name(results.read(full[0]))["boundary"]
        its = experiment.boundary
        distance, ratio, smallest, layers = result_tables(experiment)
        for table, value, factor, digits in (
            (distance, "distance", 100, 2),
            (ratio, "norm_ratio", 1, 3),
            (smallest, "smallest_change", 100, 2),
        ):
            assert table.heads == ("padding", "n = 4", "n = 6", "n = 8")
            assert [row[0] for row in table.rows] == ["zeros", "reflect", "replicate", "none"]
            found = [factor * getattr(layer.point("reflect", 6), value) for layer in its.layers]
            median, low, high = (
                f"{one:z.{digits}f}" for one in (statistics.median(found), min(found), max(found))
            )
            assert table.rows[1][2] == f"{median} ({low} to {high})"
        assert [row[0] for row in layers.rows] == [layer.name for layer in its.layers]
        last = its.layers[0].point("zeros", 12)
        assert layers.rows[0][4:6] == ("12", f"{12 * last.distance:.3g}")
        text = Page(full[0] / "report.html").text
        assert f"zeros {its.rate('zeros'):.2f}, reflect" in text
        assert all(f"{count}: {reason}" in text for reason, count in its.left_out.items())
        kept = {one["name"]: one for one in json.loads((full[0] / "summary.json").read_text())["experiments"]}
        over = kept["boundary"]["boundary"]["over_layers"]["reflect"]["norm_ratio"]["8"]
        assert over["high"] == max(layer.point("reflect", 8).norm_ratio for layer in its.layers) > 1

    def test_layers_that_no_padding_changes_are_drawn_too(self, tmp_path):
        kernel = np.zeros((2, 2, 3, 3))
        kernel[..., 1, 1] = np.eye(2)  # its other taps are zero, whatever they read
        layer = ConvLayer("identity", "conv2d", kernel, "OIHW", ConvGeometry((8, 8), padding=1))
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(boundary, "trained_model", lambda *_, **__: Model("made up", "onnx", (layer,)))
            found = boundary.boundary_of(extent=EXTENTS["smoke"])
        assert found.rate("zeros") is None
        assert found.spread("zeros", 8, "norm_ratio").high == pytest.approx(1)
        boundary.write(found, tmp_path / "distances.json")
        plan(tmp_path, "boundary", distances="distances.json")
        assert len(list(write_report(tmp_path))) == 4
        assert "zeros -, reflect -, replicate -" in Page(tmp_path / "report.html").text

    def test_the_distances_were_not_run(self, tmp_path):
        figure2(tmp_path)
        list(write_report(tmp_path))
        page = Page(tmp_path / "report.html")
        line = f"convspectra experiment boundary --preset small --out {tmp_path}"
        assert f"Layers beside the torus was not run: {line}" in page.text
        assert not (tmp_path / "figures" / "boundary.png").exists()

    @pytest.mark.slow
    def test_the_papers_errors_stand_beside_those_of_the_same_control(self, full):
        table = result_tables(by_name(results.read(full[0]))["figure2"])[0]
        column = table.heads.index("in the paper")
        assert {row[0]: row[column] for row in table.rows} == {
            "no clipping": "6.2 %",
            "clip 0.5": "5.3 %",
            "clip 1": "5.5 %",
        }
        assert table.rows[0][1] == "12.00 ± 2.83 %"
        assert table.rows[1][table.heads.index("runs")] == "1 of 2"

    @pytest.mark.slow
    def test_settings_stand_side_by_side(self, full):
        table = settings(by_name(results.read(full[0]))["figure2"])
        assert isinstance(table, Table)
        rows = {name: (paper, here) for name, paper, here in table.rows}
        assert rows["epochs"] == ("250", "3")
        assert rows["parameters"] == ("2.4 million", "12,345")
        assert rows["batch"] == ("not stated", "128")
        assert rows["data"] == ("CIFAR-10", "digits of scikit-learn, 8x8")
        assert rows["network"][1] == "8-layer residual network, width 4, with batch norm"

    @pytest.mark.slow
    def test_bounds_of_the_error_and_the_images_that_they_are_about(self, full):
        experiment = by_name(results.read(full[0]))["beyond"]
        table = result_tables(experiment)[1]
        assert table.heads == ("", "0", "0.01", "0.5")
        assert table.rows[0] == ("no clipping", "10.0 to 10.0 %", "25.0 to 50.0 %", "90.0 to 100.0 %")
        assert ("attacked test images", "200") in settings(experiment).rows

    def test_plans_alone_make_a_page_without_figures(self, tmp_path):
        for name in results.EXPERIMENTS:
            plan(
                tmp_path,
                name,
                runs=[run(tmp_path, clipped(0.5))] if name in TRAINED else None,
            )
        assert list(write_report(tmp_path)) == [tmp_path / "summary.json", tmp_path / "report.html"]
        text = Page(tmp_path / "report.html").text
        assert "0 of 1 runs finished, 1 not started" in text
        assert "begun, no result yet" in text

    def test_a_folder_that_cannot_be_written(self, tmp_path):
        figure2(tmp_path)
        (tmp_path / "figures").write_text("in the way")
        with pytest.raises(InputError, match="figures cannot be written"):
            list(write_report(tmp_path))

    def test_one_epoch_of_one_run_is_enough(self, tmp_path):
        plan(tmp_path, "figure2", [run(tmp_path, clipped(0.5), [0.0], losses=[0.0])])
        beyond_runs = [run(tmp_path, clipped(1.0, 3), [0.9], result_of(0.9, "diverged"), layers=NAMES)]
        plan(tmp_path, "beyond", beyond_runs)
        plan(tmp_path, "section44", [run(tmp_path, clipped(2.0, 3), [0.9])])
        plan(tmp_path, "figure3b", [run(tmp_path, clipped(2.0, 4), [0.9], result_of(0.9))])
        names = [path.stem for path in write_report(tmp_path)]
        assert names[:5] == ["figure2", "figure3b", "figure4", "section44", "beyond"]


def test_the_report_of_an_archive_lies_beside_it(tmp_path):
    figure2(tmp_path / "out")
    path = Path(shutil.make_archive(str(tmp_path / "kept"), "zip", tmp_path / "out"))
    written = list(write_report(path))
    assert {one.relative_to(tmp_path / "kept").as_posix() for one in written} == {
        "figures/figure2.png",
        "figures/figure4.png",
        "summary.json",
        "report.html",
    }
    list(write_report(tmp_path / "out"))
    assert (tmp_path / "out" / "summary.json").read_bytes() == (
        tmp_path / "kept" / "summary.json"
    ).read_bytes()
