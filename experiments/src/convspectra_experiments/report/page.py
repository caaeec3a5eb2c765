"""The experiments as one page beside the paper's numbers: self-contained, without scripts."""

from __future__ import annotations

import base64
import html
import shlex
import struct
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from itertools import pairwise

from convspectra.report.numbers import number

from ..studies.boundary import Boundary
from ..studies.catalogue import SWEEPS, TRAINED
from ..studies.distances import SHOWN
from ..studies.results import Experiment, Findings, Group
from ..training.run_records import Run, Status
from . import tables
from .paper import PAPER
from .pictures import DOTS, FIGURE1_DOTS, Picture, pictures, small
from .tables import Table

_SHOWN_RUNS = 12
"""So many missing runs are named in a sentence; more are folded away."""

_CAPTIONS = {
    "figure1": "Seconds for all singular values over the number of channels; both axes logarithmic.",
    "figure2": "Mean over the seeds that have reached the epoch, with a band of one standard deviation; "
    "dotted where not every planned seed has. Vertical axes logarithmic beyond a factor of two.",
    "figure2-recomputed": "The same network tested with batch norm statistics recomputed on training images: "
    "peaks that are in the figure above and not here come from statistics that lag behind a clip.",
    "figure3a": "One point a run, a cross where it diverged; the line is the median, the number the best. "
    "Vertical axis logarithmic beyond a factor of two.",
    "figure4": "Test error after each epoch over the training time until then, in seconds of the processor "
    "where the axis says so, that of the control included and of testing not; dotted where not every planned "
    "seed has reached the epoch. Vertical axis logarithmic beyond a factor of two.",
    "section44": "Mean over the seeds, with one standard deviation. Grey: without clipping.",
    "figure5": "Each curve is one layer with its boundary wrapped around, its singular values in descending "
    "order.",
    "figure6": "The same, divided by the largest of the layer.",
    "figure7": "The same against rank divided by the number of singular values.",
    "boundary": "Distance of the singular values from those of the torus of the same n, divided by the norm "
    "of the torus: the mean absolute difference of the sorted values; without padding, where their numbers "
    "differ, of the quantiles. Thin: layers, from input to output; broad: their median, where every one was "
    "computed; dotted: what falls as 1/n. Axes logarithmic.",
    "boundary-norms": "The largest singular value divided by that of the torus of the same n. Above 1, the "
    "dashed line, the torus is no upper bound. n logarithmic.",
    "beyond": "One point a seed, a cross where it diverged; the line is the mean. "
    "Logarithmic beyond a factor of two.",
    "beyond-layers": "Each curve is one layer of the first seed that was observed, with its boundary wrapped "
    "around. Axes logarithmic; values of zero are not drawn.",
    "beyond-attack": "The largest error within a distance lies between the two: what an attack reaches, and "
    "what is certified. Means over the seeds, on the attacked images alone: see the settings.",
}
_CAPTIONS["figure3b"] = _CAPTIONS["figure3a"]
_CAPTIONS["variations"] = _CAPTIONS["beyond"]


def render(findings: Findings, light: Mapping[str, bytes], dark: Mapping[str, bytes]) -> str:
    """The page as text.

    Arguments:
        light, dark: PNG files by the name of their figure; those that have no dark version are shown as a
            light card.
    """
    sheets = (
        resources.files("convspectra.report") / "page" / "page.css",
        resources.files(__package__) / "page.css",
    )
    css = "".join(sheet.read_text(encoding="utf-8") for sheet in sheets)
    begun = {experiment.name: experiment for experiment in findings.experiments}
    title = "The Singular Values of Convolutional Layers: experiments of the paper, run here"
    sections = "".join("".join(_section(findings, begun.get(name), name, light, dark)) for name in PAPER)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; \
img-src data:; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p class="summary">{html.escape(_summary(findings))}</p>
</header>
<main>
{"".join(_overview(findings, begun))}
{sections}
{_MEANING}
</main>
</body>
</html>
"""


_MEANING = """<section>
<h2>What the numbers are</h2>
<ul>
<li>Test errors: of finished runs, at the end of their last epoch; mean ± standard deviation over the runs
(of a sample; not given for one run).</li>
<li>A diverged run counts with the error that it ended with, and is counted as diverged.</li>
<li>Seconds an epoch: of training, with the control and without testing; averaged over all epochs so far of
every run that has one.</li>
<li>Norms and singular values: exact for the layer with its boundary wrapped around, as in the paper; where
layers with their own padding are set beside it, exact for these too.</li>
<li>The paper: Sedghi, Gupta and Long, ICLR 2019.</li>
</ul>
</section>"""


def _summary(findings: Findings) -> str:
    runs = findings.runs
    finished = sum(run.result is not None for run in runs)
    diverged = sum(run.status == "diverged" for run in runs)
    words = [f"{len(findings.experiments)} of {len(PAPER)} experiments were run or begun"]
    if runs:
        words.append(f"{finished} of {len(runs)} training runs are finished, {diverged} of them diverged")
    return (
        "; ".join(words)
        + ". Each section sets what was run here beside what the paper ran; where the settings differ, the "
        "numbers cannot be compared directly."
    )


def _overview(findings: Findings, begun: Mapping[str, Experiment]) -> Iterator[str]:
    rows = []
    for name, told in PAPER.items():
        experiment = begun.get(name)
        link = f'<a href="#{name}">{html.escape(told.title)}</a>'
        state = "not run" if experiment is None else _state(experiment)
        preset = "" if experiment is None else experiment.preset
        rows.append(f"<tr><th>{link}</th><td>{html.escape(preset)}</td><td>{html.escape(state)}</td></tr>")
    yield '<section><h2>What was run</h2><div class="scroll"><table><thead><tr><th>experiment</th>'
    yield "<th>preset</th><th>state</th></tr></thead><tbody>" + "".join(rows) + "</tbody></table></div>"
    missing = [_not_run(findings, name) for name in findings.not_run]
    missing += [
        f"{html.escape(_short(one.name))} is not complete: {html.escape(_state(one))}. To go on: "
        f"<code>{html.escape(one.command)}</code>"
        for one in findings.experiments
        if not one.complete and one.name == one.source
    ]
    if missing:
        yield "<h3>What was not run</h3><ul>" + "".join(f"<li>{one}</li>" for one in missing) + "</ul>"
    yield "</section>"


def _short(name: str) -> str:
    return PAPER[name].title.partition(":")[0]


def _not_run(findings: Findings, name: str) -> str:
    return f"{html.escape(_short(name))} was not run: <code>{html.escape(command(findings, name))}</code>"


def command(findings: Findings, name: str) -> str:
    """What runs an experiment that was not run, at the size and on the data of the others."""
    trained = [one for one in findings.experiments if one.groups]
    presets = [one.preset for one in (*trained, *findings.experiments) if one.preset] or ["small"]
    words = ["convspectra", "experiment", name, "--preset", presets[0], "--out", str(findings.out)]
    if trained and name in TRAINED:
        words += _options(trained[0].command, "--data", "--seeds")
    return shlex.join(words)


def _options(line: str, *names: str) -> list[str]:
    """Those options of a command, with their values."""
    try:
        words = shlex.split(line)
    except ValueError:
        return []
    return [word for pair in pairwise(words) if pair[0] in names for word in pair]


def _state(experiment: Experiment) -> str:
    if not experiment.groups:
        return "finished" if experiment.complete else "begun, no result yet"
    runs = experiment.runs
    words = [f"{len(runs) - len(experiment.unfinished)} of {len(runs)} runs finished"]
    for status in ("diverged", "under way", "not started"):
        count = sum(run.status == status for run in runs)
        words += [f"{count} {status}"] if count else []
    return ", ".join(words)


def _section(
    findings: Findings,
    experiment: Experiment | None,
    name: str,
    light: Mapping[str, bytes],
    dark: Mapping[str, bytes],
) -> Iterator[str]:
    told = PAPER[name]
    yield f'<section id="{name}"><h2>{html.escape(told.title)}</h2><div class="told"><div>'
    yield "<h3>In the paper</h3>" + "".join(f"<p>{html.escape(one)}</p>" for one in told.found)
    yield "</div><div><h3>Here</h3>"
    if experiment is None:
        yield f"<p>{_not_run(findings, name)}</p></div></div></section>"
        return
    yield "".join(_here(experiment)) + "</div></div>"
    for picture in pictures(experiment):
        if picture.name in light:
            yield "".join(_figure(experiment, picture, light[picture.name], dark.get(picture.name)))
    found = tables.results(experiment)
    if found:
        yield "<h3>Results</h3>" + "".join(map(_table, found))
    yield "<h3>Settings</h3>" + _table(tables.settings(experiment)) + "</section>"


def _here(experiment: Experiment) -> Iterator[str]:
    if experiment.source != experiment.name:
        source = _short(experiment.source)
        yield f'<p>Drawn from what <a href="#{experiment.source}">{html.escape(source)}</a> has run.</p>'
    preset = f"Preset {experiment.preset}: " if experiment.preset else ""
    yield f"<p>{html.escape(preset)}<code>{html.escape(experiment.command)}</code></p>"
    yield f"<p>{html.escape(_state(experiment)).capitalize()}.</p>"
    if experiment.spectra is not None:
        found = experiment.spectra
        yield (
            f"<p>{found.many_at_least_one} of {len(found.layers)} layers have at least 10,000 singular "
            "values that are at least 1.</p>"
        )
        yield "".join(f"<p>{html.escape(note)}</p>" for note in found.notes)
    if experiment.boundary is not None:
        yield "".join(f"<p>{html.escape(sentence)}</p>" for sentence in _about(experiment.boundary))
    unfinished = experiment.unfinished
    if not unfinished:
        return
    listed = "".join(_listed(experiment, status) for status in ("under way", "not started"))
    if len(unfinished) <= _SHOWN_RUNS:
        yield f'<div class="missing">{listed}</div>'
    else:
        yield f'<details class="missing"><summary>{len(unfinished)} runs are not finished</summary>{listed}'
        yield "</details>"


def _about(boundary: Boundary) -> Iterator[str]:
    """What was compared, how, and what of it is exact."""
    first, last = min(boundary.sizes), max(boundary.sizes)
    yield (
        "All singular values of the dense matrix of each layer with its own padding, beside all of the "
        "torus of the same size: exact up to rounding, nothing is estimated. The dense matrix with its "
        f"boundary wrapped around, whose distance is rounding alone, is at most {boundary.control:.1g} away "
        f"(n = {first})."
    )
    rates = {padding: boundary.rate(padding) for padding in SHOWN}
    yield f"Rate, the power of 1/n by which the median distance falls from n = {first} to {last}: " + (
        ", ".join(f"{padding} {'-' if one is None else f'{one:.2f}'}" for padding, one in rates.items()) + "."
    )
    highest = {padding: boundary.spread(padding, last, "norm_ratio").high for padding in SHOWN}
    yield f"Largest norm by that of the torus, n = {last}: " + (
        ", ".join(f"{padding} {number(ratio)}" for padding, ratio in highest.items()) + "."
    )
    yield (
        "Proven: where padding keeps the number of points, a share of O(1/n) of the rows differ, and so the "
        "distance is O(1/n) (Mirsky 1960). Nothing of the kind holds for the largest value or the smallest."
    )
    yield from boundary.notes


def _listed(experiment: Experiment, status: Status) -> str:
    runs = [_named(experiment, run) for run in experiment.unfinished if run.status == status]
    return f"<p>{status.capitalize()}: {html.escape('; '.join(runs))}.</p>" if runs else ""


def _named(experiment: Experiment, run: Run) -> str:
    # The runs of a sweep differ in more than the seed: their folders name them.
    name = run.folder if experiment.name in SWEEPS else f"{run.group}, seed {run.seed}"
    if run.status != "under way":
        return name
    planned = "" if run.settings is None else f" of {run.settings.epochs}"
    return f"{name}, epoch {run.epochs[-1].epoch}{planned}"


def _figure(experiment: Experiment, picture: Picture, light: bytes, dark: bytes | None) -> Iterator[str]:
    width, height = struct.unpack(">II", light[16:24])
    inches = width / (FIGURE1_DOTS if picture.draw is None else DOTS)
    # At 128 pixels an inch the letters are as large as the page's, at 80 the smallest that one can read.
    style = f"width:100%;max-width:{128 * inches:.0f}px;min-width:{80 * inches:.0f}px"
    yield '<figure><div class="picture" tabindex="0"><picture>'
    if dark is not None:
        yield '<source media="screen and (prefers-color-scheme: dark)" '
        yield f'srcset="{_data(dark)}">'
    card = "" if dark is not None else ' class="card"'
    yield f'<img{card} src="{_data(light)}" width="{width}" height="{height}" style="{style}" '
    yield f'alt="{html.escape(_alternative(experiment, picture.name))}"></picture></div>'
    yield f"<figcaption>{html.escape(_CAPTIONS[picture.name])}</figcaption></figure>"


def _data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(small(png)).decode()}"


def _alternative(experiment: Experiment, name: str) -> str:
    """What a figure shows, for who does not see it; the tables have the numbers."""
    groups = [group for group in experiment.groups if group.curve]
    last = ", ".join(f"{group.name} {_last(group)}" for group in groups)
    if experiment.timings is not None:
        methods = dict.fromkeys(method for one in experiment.timings.curves.values() for method in one)
        return f"Seconds over channels, one panel each for {', '.join(experiment.timings.curves)}, for " + (
            f"{', '.join(methods)}."
        )
    if experiment.spectra is not None:
        layers = experiment.spectra.layers
        largest = max(layers, key=lambda layer: layer.norm)
        return (
            f"{PAPER[name].title}: curves of {len(layers)} layers; the largest singular value is "
            f"{number(largest.norm)}, in {largest.name}."
        )
    if experiment.boundary is not None:
        return f"{_CAPTIONS[name]} One panel each for {', '.join(SHOWN)}; the tables have the numbers."
    if experiment.limits:
        best = ", ".join(
            f"{'none' if one.limit is None else f'{one.limit:g}'} {tables.share(one.best)}"
            for one in experiment.limits
        )
        return f"Test errors of all combinations in one column for each limit. Best by limit: {best}."
    names = ", ".join(group.name for group in groups)
    return {
        "figure2": f"Training loss and test error over epochs. Mean test error at the last epoch: {last}.",
        "figure2-recomputed": "Training loss and test error with recomputed statistics over epochs.",
        "variations": f"Test error of each variation. Mean test error at the last epoch: {last}.",
        "figure4": f"Test error over training time. Mean test error at the last epoch: {last}.",
        "section44": f"Test error and seconds an epoch over the limit. Mean test error, last epoch: {last}.",
        "beyond": f"Test error of each way. Mean test error at the last epoch: {last}.",
        "beyond-layers": "Largest and smallest singular value and norm of the gradient of each layer over "
        f"epochs, one row each for {names}.",
        "beyond-attack": f"Test error under attack and certified error over the l2 distance, for {names}.",
    }[name]


def _last(group: Group) -> str:
    sample = group.curve[-1].test_error
    return tables.share(None if sample is None else sample.mean)


def _table(table: Table) -> str:
    kind = ' class="numeric"' if not table.wrapped else ""
    caption = f"<caption>{html.escape(table.caption)}</caption>" if table.caption else ""
    first, *others = table.heads
    heads = f"<th>{html.escape(first)}</th>" + "".join(f"<th{kind}>{html.escape(one)}</th>" for one in others)
    rows = "".join(f"<tr>{_row(row, kind)}</tr>" for row in table.rows)
    shape = ' class="settings"' if table.wrapped else ""
    return (
        f'<div class="scroll" tabindex="0"><table{shape}>{caption}<thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _row(row: Sequence[str], kind: str) -> str:
    first, *others = row
    cells = "".join(f"<td{kind}>{html.escape(one)}</td>" for one in others)
    return f'<th scope="row">{html.escape(first)}</th>{cells}'
