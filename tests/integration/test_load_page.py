"""The pages of load tests in a real browser, as a user has them: from a file, without a network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from cellserve_client.load.comparison import compare
from cellserve_client.load.document import LoadDocument, Target
from cellserve_client.load.html_report import write_comparison_html, write_html
from cellserve_client.load.latencies import Latencies
from tests.browser import Browser, running_browser
from tests.load_documents import STALL_SECOND, closed_document, open_document

pytestmark = pytest.mark.slow

WIDTH_PX, HEIGHT_PX, PHONE_WIDTH_PX, PHONE_HEIGHT_PX = 1200, 900, 390, 800
INK = "#0b63b5", "#6db3f8"
ATTACK = "</script><script>hacked = 1</script><img src=x onerror='hacked = 1'>\"'{{ 7 * 7 }}"
# How many of a canvas's points have a colour, give or take what smooths the edges.
COUNT_PIXELS = """
const [canvas, colour] = arguments;
const wanted = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
copy.drawImage(canvas, 0, 0);
const data = copy.getImageData(0, 0, canvas.width, canvas.height).data;
let count = 0;
for (let at = 0; at < data.length; at += 4) {
  if (data[at + 3] > 200 && wanted.every((part, index) => Math.abs(part - data[at + index]) < 12)) count += 1;
}
return count;
"""


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def browser(window: Browser) -> Browser:
    window.resize(WIDTH_PX, HEIGHT_PX)
    window.prefer("light")
    return window


def open_page(browser: Browser, document: LoadDocument, folder: Path) -> None:
    path = folder / "load.html"
    write_html(document, path)
    browser.open(path.as_uri())


def chart(browser: Browser, key: str) -> WebElement:
    return browser.driver.find_element(By.ID, key)


def pixels(browser: Browser, key: str, colour: str) -> int:
    count: int = browser.run(COUNT_PIXELS, chart(browser, key).find_element(By.TAG_NAME, "canvas"), colour)
    return count


def legend(browser: Browser, key: str) -> dict[str, str]:
    rows = chart(browser, key).find_elements(By.CSS_SELECTOR, ".u-legend .u-series")
    return {
        row.find_element(By.CLASS_NAME, "u-label").text: row.find_element(By.CLASS_NAME, "u-value").text for row in rows
    }


def test_it_draws_every_chart_and_asks_nobody_for_anything(browser: Browser, tmp_path: Path) -> None:
    open_page(browser, open_document(), tmp_path)
    assert browser.requests() == [(tmp_path / "load.html").as_uri()]
    keys = [element.get_attribute("id") for element in browser.driver.find_elements(By.TAG_NAME, "figure")]
    assert keys == ["throughput", "latency", "percentiles", "errors", "sessions", "rows", "queue", "tick", "search"]
    assert all(pixels(browser, str(key), INK[0]) > 100 for key in keys)
    text = browser.driver.find_element(By.TAG_NAME, "main").text
    for part in (
        "speaker-id",
        "may have been the limit",
        "Objective not held",
        "QUEUE_FULL",
        "poisson",
        "--processes 4",
        "not held (the client was the limit)",
    ):
        assert part in text
    assert browser.problems() == []


def test_the_mouse_tells_the_values_below_it(browser: Browser, tmp_path: Path) -> None:
    document = open_document()
    open_page(browser, document, tmp_path)
    assert set(legend(browser, "latency").values()) == {""}
    over = chart(browser, "latency").find_element(By.CLASS_NAME, "u-over")
    offset = round(over.size["width"] * (STALL_SECOND / 29 - 0.5))
    ActionChains(browser.driver).move_to_element_with_offset(over, offset, 0).perform()
    p50 = document.timeline[STALL_SECOND].p50_ms
    assert p50 is not None
    shown = legend(browser, "latency")
    assert (shown["Time"], shown["p99"], shown["Slowest"]) == (f"{STALL_SECOND} s", "900", "1,000")
    assert float(shown["p50"]) == pytest.approx(p50, abs=0.006)
    assert legend(browser, "errors")["Errors"] == "40.0"  # Charts over time show one moment.
    assert browser.problems() == []


def test_dragging_looks_closer_and_a_double_click_shows_all(browser: Browser, tmp_path: Path) -> None:
    open_page(browser, open_document(), tmp_path)
    over = chart(browser, "throughput").find_element(By.CLASS_NAME, "u-over")
    half = over.size["width"] // 2

    def first_second() -> str:
        ActionChains(browser.driver).move_to_element_with_offset(over, 2 - half, 0).perform()
        return legend(browser, "throughput")["Time"]

    assert first_second() == "0 s"
    drag = ActionChains(browser.driver).move_to_element(over).click_and_hold().move_by_offset(half // 2, 0).release()
    drag.perform()
    assert first_second() == "15 s"
    ActionChains(browser.driver).move_to_element(over).double_click().perform()
    assert first_second() == "0 s"
    assert browser.problems() == []


def test_behind_each_chart_is_a_table(browser: Browser, tmp_path: Path) -> None:
    document = closed_document()
    open_page(browser, document, tmp_path)
    place = chart(browser, "throughput")
    place.find_element(By.TAG_NAME, "summary").click()
    browser.wait_until("document.querySelector('#throughput table')")
    rows = [row.text.split() for row in place.find_elements(By.CSS_SELECTOR, "details tr")]
    assert rows[0] == ["Time", "Steps", "answered"]
    assert rows[1:] == [[str(item.second), "s", f"{item.steps:,}"] for item in document.timeline]


def test_it_follows_the_users_wish_for_light_or_dark(browser: Browser, tmp_path: Path) -> None:
    open_page(browser, closed_document(), tmp_path)
    assert pixels(browser, "throughput", INK[0]) > 100
    browser.prefer("dark")
    browser.wait_until("getComputedStyle(document.body).backgroundColor == 'rgb(20, 23, 27)'")
    browser.wait_until("document.querySelectorAll('#throughput canvas').length == 1")
    assert pixels(browser, "throughput", INK[1]) > 100
    assert pixels(browser, "throughput", INK[0]) == 0
    assert browser.problems() == []


def test_on_paper_it_is_light(browser: Browser, tmp_path: Path) -> None:
    browser.prefer("dark")
    open_page(browser, closed_document(), tmp_path)
    paper = "printed = getComputedStyle(document.body).backgroundColor"
    browser.run(f"addEventListener('beforeprint', () => {{ {paper} }})")
    assert browser.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]
    assert browser.run("return printed") == "rgb(255, 255, 255)"
    assert pixels(browser, "throughput", INK[1]) > 100  # The screen is dark again.
    assert browser.problems() == []


def test_it_fits_a_phone(browser: Browser, tmp_path: Path) -> None:
    browser.resize(PHONE_WIDTH_PX, PHONE_HEIGHT_PX, phone=True)
    runs = {"a-rather-long-name-" * 4: closed_document(1), "open": open_document()}
    write_comparison_html(compare(runs), tmp_path / "compared.html")
    for document in (closed_document(), open_document(), None):
        if document is None:
            browser.open((tmp_path / "compared.html").as_uri())
        else:
            open_page(browser, document, tmp_path)
        assert browser.run("return document.documentElement.scrollWidth") == PHONE_WIDTH_PX
        assert pixels(browser, "throughput", INK[0]) > 100
        assert browser.problems() == []


def test_several_tests_are_drawn_over_each_other(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "compared.html"
    write_comparison_html(compare({"before": closed_document(), "after": closed_document(1, median_ms=9.0)}), path)
    browser.open(path.as_uri())
    assert browser.requests() == [path.as_uri()]
    for colour in (INK[0], "#c4570a"):
        assert pixels(browser, "percentiles", colour) > 100
    assert "2.2" in browser.driver.find_element(By.CSS_SELECTOR, "table").text
    assert browser.problems() == []


def test_what_documents_say_is_shown_and_never_run(browser: Browser, tmp_path: Path) -> None:
    document = open_document()
    evil = replace(
        document,
        settings={ATTACK: ATTACK},
        server=Target(ATTACK, f"models/{ATTACK}/versions/1"),
        started=ATTACK,
        errors={ATTACK: 1},
        failure=ATTACK,
        client=replace(document.client, warning=ATTACK),
        by_kind={"step": document.by_kind["step"], ATTACK: document.by_kind["sequence"]},
    )
    open_page(browser, evil, tmp_path)
    assert browser.driver.find_element(By.TAG_NAME, "h1").text == f"Load test of {ATTACK}"
    assert ATTACK in legend(browser, "percentiles")
    compared = tmp_path / "compared.html"
    for check in (None, compared):
        if check is not None:
            write_comparison_html(compare({ATTACK: evil, "b": document}), check)
            browser.open(check.as_uri())
        assert browser.run("return typeof hacked") == "undefined"
        assert browser.driver.find_elements(By.TAG_NAME, "img") == []
        assert len(browser.driver.find_elements(By.TAG_NAME, "script")) == 3
        assert browser.problems() == []


def test_a_test_of_a_second_and_one_without_an_answer_are_pages_too(browser: Browser, tmp_path: Path) -> None:
    document = closed_document(seconds=1)
    moment = replace(document.timeline[0], p50_ms=5.0, p99_ms=5.0, max_ms=5.0)
    open_page(browser, replace(document, timeline=(moment,)), tmp_path)
    assert pixels(browser, "throughput", INK[0]) > 5  # A point.
    nothing = Latencies()
    silent = replace(document, timeline=(), percentiles=(), latency_ms=nothing.summary(), by_kind={}, failure="silence")
    open_page(browser, silent, tmp_path)
    assert browser.driver.find_elements(By.TAG_NAME, "figure") == []
    assert "Failed: silence" in browser.driver.find_element(By.TAG_NAME, "main").text
    assert browser.problems() == []


def test_its_policy_lets_nothing_else_run(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "load.html"
    write_html(closed_document(seconds=2), path)
    page = path.read_text(encoding="utf-8")
    path.write_text(page.replace("</main>", "<script>hacked = 1</script></main>"), encoding="utf-8")
    browser.open(path.as_uri())
    assert browser.run("return typeof hacked") == "undefined"
    assert any("Content Security Policy" in problem for problem in browser.problems())
