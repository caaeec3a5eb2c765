"""The experiments' page in a real browser, narrow and wide, light, dark and printed."""

from __future__ import annotations

import base64

import pytest
from experiment_folders import bench, figure2, plan

from convspectra_experiments.report import write_report
from convspectra_experiments.studies import boundary
from convspectra_experiments.studies.catalogue import EXTENTS

pytest.importorskip("selenium.webdriver", reason="could not import 'selenium'")
from selenium.webdriver.support.ui import WebDriverWait

from test_html_browser import browser, complaints, media, opened, requests  # noqa: F401

SHOWN = "return [...document.images].map(i => [i.complete, i.naturalWidth, i.currentSrc.length])"


pytestmark = pytest.mark.slow  # a browser of its own


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    out = tmp_path_factory.mktemp("experiments")
    figure2(out)
    bench(out)
    boundary.write(boundary.boundary_of(extent=EXTENTS["smoke"]), out / "distances.json")
    plan(out, "boundary", distances="distances.json")
    return list(write_report(out))[-1:]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_it_shows_all_figures_without_complaint_and_without_network(browser, page, width, scheme):  # noqa: F811
    opened(browser, page, width=width, scheme=scheme)
    assert complaints(browser) == []
    assert [url for url in requests(browser) if not url.startswith(("file:", "data:"))] == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    shown = browser.execute_script(SHOWN)
    assert len(shown) == 5
    assert all(complete and natural > 400 for complete, natural, _ in shown)


def test_figures_are_dark_on_a_dark_screen_and_light_on_paper(browser, page):  # noqa: F811
    def sources():
        return browser.execute_script("return [...document.images].map(i => i.currentSrc)")

    def become(expected):
        # A picture changes its source some time after the medium.
        WebDriverWait(browser, 120).until(lambda _: expected(sources()))

    opened(browser, page)
    light = sources()
    media(browser, prefers_color_scheme="dark")
    become(lambda now: [a == b for a, b in zip(light, now, strict=True)] == [True, *[False] * 4])
    paper = {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", paper)
    become(lambda now: now == light)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    assert 2 <= base64.b64decode(printed["data"]).count(b"/Type /Page\n") <= 10
