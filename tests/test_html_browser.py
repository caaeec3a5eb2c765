"""The page in a real browser: what it shows, what a reader can do with it, and what it must not do."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
from dataclasses import replace

import pytest

from convspectra.analysis import compare
from convspectra.report import compare_html, html
from reports import ODD_NAME, deep_report, mixed_model, mixed_report
from test_compare import changed_model

webdriver = pytest.importorskip("selenium.webdriver", reason="could not import 'selenium'")

FOUND = shutil.which("chromium") and shutil.which("chromedriver")
if not FOUND:
    if os.environ.get("CONVSPECTRA_REQUIRE_BROWSER"):
        raise RuntimeError("the page's tests need chromium and chromedriver on the PATH")
    pytest.skip("chromium is not installed", allow_module_level=True)

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
)


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_page_load_timeout(300)
    driver.set_script_timeout(300)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    found = {"mixed": mixed_report(), "deep": deep_report()}
    for name, report in found.items():
        with (folder / f"{name}.html").open("wb") as file:
            html.write(report, file)
    return {name: (folder / f"{name}.html", report) for name, report in found.items()}


def media(browser, **features):
    values = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": values})


def opened(browser, page, width=1280, height=1000, scheme="light"):
    """The page at a width, after its script has run; what went before is out of the logs."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media(browser, prefers_color_scheme=scheme)
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(page[0].as_uri())
    return browser


def complaints(browser):
    return [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def requests(browser):
    events = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]


def rows(browser):
    return browser.execute_script(
        "return [...document.querySelectorAll('#table tr[data-layer]')].map(r => Number(r.dataset.layer))"
    )


def strokes(browser, chart):
    """The opacity of each curve in a chart; one path holds several where they share a pen."""
    return browser.execute_script(
        """return [...document.querySelectorAll(`#${arguments[0]} svg path`)]
           .filter(p => p.getAttribute('fill') === 'none' && p.getAttribute('stroke')?.startsWith('#')
                        && (p.getAttribute('d') || '').split(/[LC]/).length > 10
                        || p.getAttribute('fill') === 'none' && p.getAttribute('stroke-opacity'))
           .flatMap(p => p.getAttribute('d').split('M').slice(1)
             .map(() => Number(p.getAttribute('stroke-opacity') ?? 1)))""",
        chart,
    )


def element(browser, selector):
    return browser.find_element("css selector", selector)


def hover(browser, chart, x, y):
    box = browser.execute_script(
        "const e = document.getElementById(arguments[0]); e.scrollIntoView({block: 'center'});"
        "const r = e.getBoundingClientRect(); return [r.left, r.top]",
        chart,
    )
    point = {"type": "mouseMoved", "x": box[0] + x, "y": box[1] + y}
    browser.execute_cdp_cmd("Input.dispatchMouseEvent", point)
    return box[0] + x, box[1] + y


def click(browser, x, y):
    for kind in ("mousePressed", "mouseReleased"):
        event = {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1}
        browser.execute_cdp_cmd("Input.dispatchMouseEvent", event)


def tip(browser):
    return browser.execute_script("return document.querySelector('.tip b')?.textContent ?? null")


def find_curve(browser, chart):
    """Move down through the chart's middle until a curve answers; its layer's name and the place."""
    for y in range(20, 260, 6):
        at = hover(browser, chart, 150, y)
        if name := tip(browser):
            return name, at
    raise AssertionError(f"no curve in {chart} answers to the mouse")


@pytest.mark.parametrize("name", ["mixed", "deep"])
def test_it_loads_without_complaint_and_without_network(browser, pages, name):
    opened(browser, pages[name])
    assert complaints(browser) == []
    assert [url for url in requests(browser) if not url.startswith(("file:", "data:"))] == []
    assert rows(browser) == list(range(len(pages[name][1].layers)))
    for chart in ("figure5", "figure6", "figure7", "norms", "map"):
        marks = browser.execute_script(f"return document.querySelectorAll('#{chart} svg path').length")
        assert marks > 5, chart


@pytest.mark.parametrize("count", [600, pytest.param(5000, marks=pytest.mark.slow)])
def test_thousands_of_layers_are_drawn(browser, pages, tmp_path, count):
    """As many values as no argument list of a script holds."""
    few = pages["deep"][1]
    layers = tuple(replace(few.layers[i % 60], name=f"layer {i}") for i in range(count))
    path = tmp_path / "many.html"
    with path.open("wb") as file:
        html.write(replace(few, layers=layers), file)
    assert path.stat().st_size <= 10_000 * count + 2e6
    opened(browser, (path, None))
    assert complaints(browser) == []
    assert rows(browser) == list(range(count))
    for chart in ("figure5", "figure6", "figure7"):
        assert len(strokes(browser, chart)) == count, chart
        browser.find_element("css selector", "tbody tr[data-layer='599']").click()
        assert sum(opacity > 0.5 for opacity in strokes(browser, chart)) == 1
        browser.find_element("css selector", "#restore").click()
    assert browser.execute_script("return document.querySelectorAll('#norms svg path').length") >= 3 * count
    for chart in ("norms", "map"):
        assert browser.execute_script(f"return document.querySelectorAll('#{chart} svg path').length") > 60


def test_names_below_the_norms_do_not_overlap(browser, pages):
    for width in (400, 1280):
        opened(browser, pages["deep"], width=width)
        lefts = browser.execute_script(
            """return [...document.querySelectorAll('#norms svg text')]
               .filter(t => t.textContent.includes('conv'))
               .map(t => t.getBoundingClientRect().right).sort((a, b) => a - b)"""
        )
        assert len(lefts) > 5
        assert min(after - before for before, after in itertools.pairwise(lefts)) > 10


def test_sixty_layers_fit_in_two_megabytes(pages):
    assert len(pages["deep"][1].layers) == 60
    assert pages["deep"][0].stat().st_size <= 2e6


def test_names_are_text_whatever_is_in_them(browser, pages):
    opened(browser, pages["mixed"])
    assert "Singular values" in browser.title
    assert browser.execute_script("return document.querySelectorAll('img').length") == 0
    shown = browser.execute_script("return document.querySelector('#table tbody').textContent")
    assert ODD_NAME in shown
    assert "one & only <b>note</b>" in element(browser, ".notes").text


def test_a_script_that_was_slipped_in_does_not_run(browser, pages, tmp_path):
    text = pages["mixed"][0].read_text(encoding="utf-8")
    forged = tmp_path / "forged.html"
    forged.write_text(text.replace("</main>", "</main><script>document.title='forged'</script>"))
    opened(browser, (forged, None))
    assert browser.title != "forged"
    assert any("Content Security Policy" in entry["message"] for entry in complaints(browser))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", ["mixed", "deep"])
def test_nothing_sticks_out_at_any_width(browser, pages, name, width, scheme):
    opened(browser, pages[name], width=width, scheme=scheme)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    overlong = browser.execute_script(
        """return [...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, svg')
           && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
    )
    assert overlong == []
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in background.strip("rgba()").split(",")[:3])
    assert (brightness > 600) == (scheme == "light")


def test_headings_sort_the_table(browser, pages):
    opened(browser, pages["mixed"])
    report = pages["mixed"][1]
    norms = [None if layer.torus is None else layer.torus.norm for layer in report.layers]
    known = [i for i, norm in enumerate(norms) if norm is not None]
    unknown = [i for i, norm in enumerate(norms) if norm is None]
    heading = next(
        button
        for button in browser.find_elements("css selector", "#table th button")
        if button.text.strip().lower() == "norm"
    )
    heading.click()
    assert rows(browser) == sorted(known, key=lambda i: -norms[i]) + unknown
    heading.click()
    assert rows(browser) == sorted(known, key=lambda i: norms[i]) + unknown
    assert browser.execute_script("return document.querySelectorAll('th[aria-sort]').length") == 1


def test_hovering_names_the_layer(browser, pages):
    opened(browser, pages["deep"])
    names = {layer.name for layer in pages["deep"][1].layers}
    for chart in ("figure5", "figure6", "figure7"):
        name, _ = find_curve(browser, chart)
        assert name in names
    hover(browser, "norms", 300, 150)
    assert tip(browser) in names


def test_a_click_isolates_a_layer_and_escape_brings_all_back(browser, pages):
    opened(browser, pages["deep"])
    name, at = find_curve(browser, "figure5")
    click(browser, *at)
    assert element(browser, "#isolated").text == name
    for chart in ("figure5", "figure6", "figure7"):
        faded = [opacity for opacity in strokes(browser, chart) if opacity < 0.2]
        assert len(faded) == 59, chart
    chosen = "return document.querySelector('#chosen').selectedOptions[0].textContent"
    assert browser.execute_script(chosen) == name
    assert browser.execute_script("return document.querySelectorAll('tr.chosen').length") == 1
    element(browser, "body").send_keys("\ue00c")
    assert element(browser, "#isolated").text == ""
    assert [opacity for opacity in strokes(browser, "figure5") if opacity < 0.2] == []


def test_rows_are_reached_by_keyboard(browser, pages):
    opened(browser, pages["deep"])
    row = element(browser, "#table tr[data-layer='7']")
    row.send_keys("\ue007")
    assert element(browser, "#isolated").text == pages["deep"][1].layers[7].name


def test_axes_switch_between_linear_and_logarithmic(browser, pages):
    opened(browser, pages["deep"])

    def drawn(chart):
        return browser.execute_script(f"return document.querySelector('#{chart} svg').outerHTML")

    for chart, axes in {"figure5": "xy", "figure6": "xy", "figure7": "xy", "norms": "y"}.items():
        for axis in axes:
            linear = drawn(chart)
            switch = f".switches[data-for='{chart}'] button[data-axis='{axis}']"
            browser.execute_script(f"""document.querySelector("{switch}[data-scale='log']").click()""")
            assert drawn(chart) != linear
            pressed = element(browser, f"{switch}[data-scale='log']").get_attribute("aria-pressed")
            assert pressed == "true"
            browser.execute_script(f"""document.querySelector("{switch}[data-scale='linear']").click()""")
            assert len(drawn(chart)) == len(linear)
    assert complaints(browser) == []


def test_the_map_is_that_of_the_chosen_layer(browser, pages):
    opened(browser, pages["mixed"])
    options = [option.text for option in browser.find_elements("css selector", "#chosen option")]
    report = pages["mixed"][1]
    expected = [
        layer.name
        for layer in report.layers
        if layer.spectrum is not None and max(layer.spectrum.grid.period) > 1
    ]
    assert options == expected
    before = browser.execute_script("return document.querySelector('#map svg').outerHTML")
    for option in browser.find_elements("css selector", "#chosen option")[1:]:
        option.click()
        after = browser.execute_script("return document.querySelector('#map svg').outerHTML")
        assert after != before
        before = after
    assert complaints(browser) == []


def test_hovering_over_the_map_shows_the_value_there(browser, pages):
    opened(browser, pages["mixed"])
    for place, option in enumerate(browser.find_elements("css selector", "#chosen option")):
        option.click()
        hover(browser, "map", 200 + place % 2, 150)
        assert tip(browser) == option.text
        shown = browser.execute_script("return document.querySelector('.tip').innerText.split('\\n')[1]")
        layer = next(one for one in pages["mixed"][1].layers if one.name == option.text)
        assert 0 < float(shown) <= float(layer.torus.norm) * 1.001


def test_it_prints_light_and_whole(browser, pages):
    opened(browser, pages["deep"], scheme="dark")
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    document = base64.b64decode(printed["data"])
    assert document.startswith(b"%PDF")
    assert 2 <= document.count(b"/Type /Page\n") <= 8
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    heights = browser.execute_script(
        "return [...document.querySelectorAll('.chart svg')].map(s => s.getBoundingClientRect().height)"
    )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    media(browser, prefers_color_scheme="dark")
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    assert len(heights) == 5
    assert min(heights) > 150
    assert browser.execute_script("return document.documentElement.dataset.theme") == "dark"
    assert complaints(browser) == []


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    path = tmp_path_factory.mktemp("compared") / "compared.html"
    found = compare(mixed_model(), changed_model())
    with path.open("wb") as file:
        compare_html.write(found, file)
    return path, found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_two_models_on_one_page(browser, compared, width, scheme):
    opened(browser, compared, width=width, scheme=scheme)
    assert complaints(browser) == []
    assert [url for url in requests(browser) if not url.startswith(("file:", "data:"))] == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert rows(browser) == list(range(len(compared[1].layers)))
    sides = ("before", "after")
    curves = sum(len([one for one in (c.before, c.after) if one and one.torus]) for c in compared[1].layers)
    assert len(strokes(browser, "figure5")) >= curves - 2  # flat ones count as axes
    dashes = browser.execute_script(
        "return document.querySelectorAll('#figure5 svg path[stroke-dasharray]').length"
    )
    assert dashes == sum(
        one.before is not None and one.before.torus is not None for one in compared[1].layers
    )
    options = [option.text for option in browser.find_elements("css selector", "#chosen option")]
    assert options[:2] == [f"stem, {side}" for side in sides]
    hover(browser, "norms", 90, 150)
    text = element(browser, ".tip").text
    assert "before" in text
    assert "after" in text


def test_a_layer_of_two_models_is_singled_out_on_both_sides(browser, compared):
    opened(browser, compared)
    element(browser, "#table tr[data-layer='0']").send_keys("\ue007")
    assert element(browser, "#isolated").text == "stem"
    strong = [opacity for opacity in strokes(browser, "figure5") if opacity > 0.5]
    assert len(strong) == 2
    assert browser.execute_script("return document.querySelector('#chosen').selectedOptions[0].text") in (
        "stem, before",
        "stem, after",
    )
    for option in browser.find_elements("css selector", "#chosen option"):
        option.click()
    assert complaints(browser) == []
