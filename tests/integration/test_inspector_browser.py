"""The inspector in a real browser: what it paints is what the sessions are, and its parts answer clicks and keys."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

from cellserve.cells import BasicLSTMCell
from cellserve.specs import ArraySpec, ModelDescription, model_to_proto
from cellserve_client.blocking_sessions import Session
from tests.browser import Browser, running_browser
from tests.inspecting import DEPTH, UNITS, Bench, bench_of, inputs_of, leaves_of, open_session
from tests.integration.edges import create_session
from tests.servers import TEST_CONFIG, LoopThread, define_spec, running_app

pytestmark = pytest.mark.slow

WIDTH_PX, HEIGHT_PX, PHONE_WIDTH_PX, PHONE_HEIGHT_PX = 1280, 900, 390, 800
# A window that takes a while to fill, but can be.
CONFIG = replace(TEST_CONFIG, http_port=0, inspector=True, inspector_window_steps=256)
ATTACK = "<img src=x onerror='hacked=1'></script><script>hacked=1</script>"
PACE_S = 0.01
# The colours, red, green and blue, of a canvas's pixels; a column counts from the last one.
PIXELS = """
const [canvas, column] = arguments;
const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
copy.drawImage(canvas, 0, 0);
const data = copy.getImageData(canvas.width - 1 - column, 0, 1, canvas.height).data;
return Array.from({ length: canvas.height }, (_, unit) => Array.from(data.slice(4 * unit, 4 * unit + 3)));
"""
# The colours that the page's own palette gives numbers, null for what is none.
COLOURS = """
const [theme, values, limit, done] = arguments;
import("./colours.js").then(({ Palette }) => {
  const palette = new Palette(theme);
  const packed = values.map((value) => palette.of(value ?? NaN, limit));
  done(packed.map((colour) => [colour & 255, (colour >> 8) & 255, (colour >> 16) & 255]));
});
"""
# The next answer breaks off in the middle; `asked` counts the questions from there on.
BREAK_OFF_ONCE = """
const fetch = window.fetch;
window.asked = 0;
window.fetch = (...question) => {
  const half = new ReadableStream({ start: (controller) => controller.error(new TypeError("network error")) });
  return window.asked++ ? fetch(...question) : Promise.resolve(new Response(half));
};
"""
TWO_FRAMES = "return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def bench(loop_thread: LoopThread) -> Iterator[Bench]:
    with running_app(loop_thread, CONFIG) as server, bench_of(server) as bench:
        yield bench


@pytest.fixture
def browser(window: Browser, bench: Bench) -> Iterator[Browser]:
    window.resize(WIDTH_PX, HEIGHT_PX)
    window.prefer("light")
    yield window
    assert window.problems() == []
    outside = [url for url in window.requests() if not url.startswith((bench.inspector.url, "about:"))]
    assert outside == [], "the pages ask their own server and nobody else"


@contextmanager
def steps_of(*sessions: Session) -> Iterator[None]:
    """Steps sessions in the background, at a pace."""
    over = threading.Event()

    def step() -> None:
        number = 0
        while not over.wait(PACE_S):
            for session in sessions:
                session.step(inputs_of(number))
            number += 1

    thread = threading.Thread(target=step)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def sessions_of(bench: Bench, *ids: str) -> Iterator[list[Session]]:
    """Sessions that have made a step. An id that was watched before has an earlier life on its page."""
    sessions = [open_session(bench.client, id_) for id_ in ids]
    for session in sessions:
        session.step(inputs_of(0))
    try:
        yield sessions
    finally:
        for session in sessions:
            session.close()


def open_page(browser: Browser, bench: Bench, view: str = "") -> None:
    browser.open(f"{bench.inspector.url}/#/{view}")
    browser.wait_until("document.getElementById('link').textContent === 'live'")


def find(browser: Browser, selector: str) -> WebElement:
    return browser.driver.find_element(By.CSS_SELECTOR, selector)


def heat_maps(browser: Browser) -> list[WebElement]:
    return browser.driver.find_elements(By.CSS_SELECTOR, ".heat canvas:not(.over)")


def shown_ids(browser: Browser) -> list[str]:
    ids: list[str] = browser.run("return [...document.querySelectorAll('tbody tr')].map((row) => row.dataset.id)")
    return ids


def wait_for_step(browser: Browser, count: int) -> None:
    """Waits until the newest step on the page is this one, drawn."""
    browser.wait_until(f"/ to {count}$/.test(document.getElementById('place')?.textContent)")


def colours_of(browser: Browser, canvas: WebElement, values: Any, theme: str = "light") -> list[list[int]]:
    limit = float(canvas.get_attribute("data-limit") or "nan")
    numbers = [float(value) if np.isfinite(value) else None for value in values]
    colours: list[list[int]] = browser.driver.execute_async_script(COLOURS, theme, numbers, limit)
    return colours


def assert_painted(browser: Browser, state: list[Any], column: int = 0, theme: str = "light") -> None:
    """The heat maps' columns, from the last one, have the colours of these numbers."""
    for canvas, leaf in zip(heat_maps(browser), state, strict=True):
        assert browser.run(PIXELS, canvas, column) == colours_of(browser, canvas, leaf, theme)


# --- the overview -----------------------------------------------------------------------------------------------------


def test_the_overview_moves_with_the_server(browser: Browser, bench: Bench) -> None:
    with sessions_of(bench, "card-1", "card-2") as sessions, steps_of(*sessions):
        open_page(browser, bench)
        rate = "Number(document.querySelector('#chart-rate strong').textContent.replace(',', ''))"
        browser.wait_until(f"{rate} > 10")
        browser.wait_until("/ms$/.test(document.querySelector('#chart-latency strong').textContent)")
        browser.wait_until("document.querySelector('#chart-batch strong').textContent !== '\u2013'")
        browser.wait_until("document.querySelector('#chart-sessions strong').textContent === '2'")
        browser.wait_until("document.querySelectorAll('tbody tr').length === 2")
        browser.wait_until("Number(document.querySelector('tbody td:nth-child(5)').textContent) > 5")
        assert sorted(shown_ids(browser)) == ["card-1", "card-2"]
        steps = find(browser, "tbody td:nth-child(4)").text
        browser.wait_until(f"document.querySelector('tbody td:nth-child(4)').textContent !== '{steps}'")
    browser.wait_until(f"{rate} === 0")


def test_the_table_is_filtered_ordered_and_cut(browser: Browser, bench: Bench) -> None:
    with sessions_of(bench, *(f"card-{number:02}" for number in range(11)), "other") as sessions:
        for session in sessions[4:6]:
            session.run(inputs_of(0, 9, DEPTH))
        open_page(browser, bench)
        browser.wait_until("document.querySelectorAll('tbody tr').length === 12")
        find(browser, "th:nth-child(4) button").click()
        browser.wait_until("document.querySelector('tbody td:nth-child(4)').textContent === '10'")
        assert set(shown_ids(browser)[:2]) == {"card-04", "card-05"}
        assert find(browser, "th:nth-child(4)").get_attribute("aria-sort") == "descending"
        find(browser, "th:nth-child(4) button").click()
        browser.wait_until("document.querySelector('tbody td:nth-child(4)').textContent === '1'")
        assert find(browser, "th:nth-child(4)").get_attribute("aria-sort") == "ascending"
        Select(find(browser, ".table select")).select_by_value("10")
        browser.wait_until("document.querySelectorAll('tbody tr').length === 10")
        find(browser, "input[type=search]").send_keys("othe")
        browser.wait_until("document.querySelectorAll('tbody tr').length === 1")
        assert shown_ids(browser) == ["other"]
        assert "1 of 12 in memory, filtered" in find(browser, ".table .card-head").text


# --- a session --------------------------------------------------------------------------------------------------------


def test_the_heat_maps_have_the_colours_of_the_numbers(browser: Browser, bench: Bench) -> None:
    with sessions_of(bench, "a") as (session,):
        open_page(browser, bench)
        browser.wait_until("document.querySelector('tbody a')")
        find(browser, "tbody a").click()
        wait_for_step(browser, 1)
        before = leaves_of(session)
        assert_painted(browser, [leaf[0] for leaf in before])
        output = session.step(inputs_of(1))
        wait_for_step(browser, 2)
        assert_painted(browser, [leaf[0] for leaf in leaves_of(session)])
        assert_painted(browser, [leaf[0] for leaf in before], column=1)
        values = browser.run("return [...document.querySelectorAll('.lines .u-value')].map((cell) => cell.textContent)")
        assert values == ["2", *(f"{value:.4f}" for value in output)]
        canvas = heat_maps(browser)[0]
        ends = colours_of(browser, canvas, [-1e9, 0, 1e9, np.nan])
        assert len({tuple(colour) for colour in ends}) == 4
        assert ends[0][2] > ends[0][0], "below 0 it is blue"
        assert ends[2][0] > ends[2][2], "above 0 it is orange"


def test_a_longer_run_is_painted_step_by_step(browser: Browser, bench: Bench) -> None:
    with sessions_of(bench, "a", "twin") as (session, twin):
        open_page(browser, bench, "session?id=a")
        wait_for_step(browser, 1)
        frames = inputs_of(5, 6, DEPTH)
        session.run(frames)
        wait_for_step(browser, 7)
        states = []
        for frame in frames:
            twin.step(frame)
            states.append([leaf[0] for leaf in leaves_of(twin)])
        # A tick of another size may have other last bits, and so the next colour.
        for column, state in enumerate(reversed(states)):
            for canvas, leaf in zip(heat_maps(browser), state, strict=True):
                painted = np.array(browser.run(PIXELS, canvas, column))
                assert np.abs(painted - colours_of(browser, canvas, leaf)).max() <= 3


def test_steps_are_scrolled_back(browser: Browser, bench: Bench) -> None:
    with sessions_of(bench, "scrolled") as (session,):
        open_page(browser, bench, "session?id=scrolled")
        Select(find(browser, ".title select")).select_by_value("32")
        states = []
        for number in range(100):
            session.step(inputs_of(number))
            states.append([leaf[0] for leaf in leaves_of(session)])
        wait_for_step(browser, 101)
        slider = find(browser, "input[type=range]")
        slider.send_keys(Keys.HOME)
        browser.wait_until("document.getElementById('place').textContent === 'steps 1 to 32'")
        assert_painted(browser, states[30])
        slider.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
        browser.wait_until("document.getElementById('place').textContent === 'steps 3 to 34'")
        session.step(inputs_of(100))
        browser.wait_until("document.querySelector('.facts dd').textContent === '102'")
        assert find(browser, "#place").text == "steps 3 to 34", "it stays where it was put"
        assert_painted(browser, states[32])
        follow = find(browser, ".scroll button")
        assert follow.get_attribute("aria-pressed") == "false"
        follow.click()
        wait_for_step(browser, 102)
        assert follow.get_attribute("aria-pressed") == "true"


def test_keys_and_clicks_on_a_heat_map(browser: Browser, bench: Bench) -> None:
    with sessions_of(bench, "a") as (session,):
        open_page(browser, bench, "session?id=a")
        session.step(inputs_of(1))
        wait_for_step(browser, 2)
        c = leaves_of(session)[0][0]
        canvas = heat_maps(browser)[0]
        canvas.send_keys(Keys.ARROW_RIGHT)
        readout = "document.querySelector('.heat').parentElement.querySelector('output').textContent"
        browser.wait_until(f"{readout} === 'step 2 · state.c[0] = {c[0]:.4f}'")
        canvas.send_keys(Keys.ARROW_DOWN)
        browser.wait_until(f"{readout} === 'step 2 · state.c[1] = {c[1]:.4f}'")
        canvas.send_keys(Keys.ENTER)
        browser.wait_until("document.querySelector('.picked .u-value')")
        assert "state.c[1]" in find(browser, ".picked").text
        canvas.send_keys(Keys.ENTER)
        browser.wait_until("!document.querySelector('.picked').children.length")
        ActionChains(browser.driver).move_to_element(heat_maps(browser)[1]).click().perform()
        browser.wait_until("/state.h.1./.test(document.querySelector('.picked').textContent)")


def test_a_row_is_chosen(browser: Browser, bench: Bench) -> None:
    session = open_session(bench.client, "rows", batch_size=3)
    session.step(inputs_of(0, 3, DEPTH))
    open_page(browser, bench, "session?id=rows")
    wait_for_step(browser, 1)
    state = leaves_of(session)
    assert_painted(browser, [leaf[0] for leaf in state])
    browser.run("for (const each of document.querySelectorAll('.heat')) each.dataset.before = 'yes'")
    box = find(browser, ".title input")
    box.clear()
    box.send_keys("2", Keys.TAB)
    browser.wait_until("document.querySelector('.heat:not([data-before]) canvas')?.dataset.next === '1'")
    assert_painted(browser, [leaf[2] for leaf in state])
    session.step(inputs_of(1, 3, DEPTH))
    wait_for_step(browser, 2)
    assert_painted(browser, [leaf[2] for leaf in leaves_of(session)])
    session.close()


def test_lives_and_ends_are_told(browser: Browser, bench: Bench) -> None:
    with sessions_of(bench, "a") as (session,):
        open_page(browser, bench, "session?id=a")
        wait_for_step(browser, 1)
        session.reset()
        browser.wait_until("document.querySelector('.facts').textContent.includes('" + session.uid + "')")
        wait_for_step(browser, 0)
        assert_painted(browser, [np.zeros(UNITS)] * 2)
    browser.wait_until("/it was deleted/.test(document.querySelector('.notice').textContent)")
    assert len(heat_maps(browser)) == 2, "what was seen stays"


def test_what_was_seen_stays_when_the_page_was_hidden_for_long(browser: Browser, bench: Bench) -> None:
    with sessions_of(bench, "hidden") as (session,):
        open_page(browser, bench, "session?id=hidden")
        session.step(inputs_of(1))
        wait_for_step(browser, 2)
        before = [leaf[0] for leaf in leaves_of(session)]
        heat_maps(browser)[0].send_keys(Keys.ARROW_RIGHT, Keys.ENTER)
        browser.wait_until("document.querySelector('.picked .u-value')")
        bench.server.loop.call(bench.inside.watches.stop)
        for number in range(3):
            session.step(inputs_of(number))
        wait_for_step(browser, 5)
        assert find(browser, "#place").text == "steps 1 to 5"
        assert "state.c[0]" in find(browser, ".picked").text
        session.step(inputs_of(9))
        wait_for_step(browser, 6)
        assert_painted(browser, [leaf[0] for leaf in leaves_of(session)])
        columns = int(heat_maps(browser)[0].get_attribute("data-next") or 0)
        assert_painted(browser, before, column=columns - 2)


def test_a_session_that_is_not_there(browser: Browser, bench: Bench) -> None:
    browser.open(f"{bench.inspector.url}/#/session?id=nobody")
    browser.wait_until("/never was/.test(document.querySelector('.notice')?.textContent)")
    refused = [problem for problem in browser.problems() if "404" not in problem]
    assert refused == [], "the browser itself writes down each 404"


# --- everywhere -------------------------------------------------------------------------------------------------------


def test_names_are_texts_and_nothing_else(browser: Browser, bench: Bench) -> None:
    labels = tuple(f"{ATTACK}{number}" for number in range(UNITS))
    float32 = np.dtype(np.float32)
    description = ModelDescription(
        (ArraySpec("inputs", float32, (DEPTH,)),),
        (BasicLSTMCell(UNITS),),
        (ArraySpec(ATTACK, float32, (UNITS,), labels),),
        float32,
    )
    model = define_spec(bench.server.stubs, model_to_proto(description)).name
    create_session(bench.server, "attack", model)
    open_page(browser, bench, "session?id=attack")
    browser.wait_until("document.querySelectorAll('.lines .u-label').length === 4")
    texts = browser.run("return [...document.querySelectorAll('.lines .u-label')].map((label) => label.textContent)")
    assert texts[1:] == list(labels)
    assert ATTACK in find(browser, ".lines h2").text
    assert browser.run("return typeof hacked") == "undefined"
    assert browser.run("return document.querySelectorAll('main img, main script').length") == 0
    for view in (ATTACK, f"session?id={ATTACK}"):
        browser.run("location.hash = arguments[0]", f"#/{view}")
        browser.wait_until("document.querySelector('.notice:not([hidden])')")
        assert browser.run("return typeof hacked") == "undefined"
    browser.problems()  # The 404 of that id.


def test_light_and_dark(browser: Browser, bench: Bench) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    with sessions_of(bench, "a") as (session,):
        open_page(browser, bench, "session?id=a")
        wait_for_step(browser, 1)
        state = [leaf[0] for leaf in leaves_of(session)]
        light = browser.run(f"return {ground}")
        assert_painted(browser, state, theme="light")
        find(browser, "#theme").click()
        browser.wait_until(f"{ground} !== '{light}'")
        browser.run(TWO_FRAMES)
        assert_painted(browser, state, theme="dark")
        open_page(browser, bench, "session?id=a")
        assert browser.run(f"return {ground}") != light, "it is remembered"
        browser.run("localStorage.clear()")
        browser.prefer("dark")
        open_page(browser, bench)
        assert browser.run(f"return {ground}") != light, "and follows the system when nobody has chosen"


@pytest.mark.parametrize("view", ["", "session?id=a-session-with-a-name-that-is-rather-long-for-a-phone"])
def test_a_phone_has_room_for_it(browser: Browser, bench: Bench, view: str) -> None:
    with sessions_of(bench, "a-session-with-a-name-that-is-rather-long-for-a-phone", "b"):
        browser.resize(PHONE_WIDTH_PX, PHONE_HEIGHT_PX, phone=True)
        open_page(browser, bench, view)
        browser.wait_until("document.querySelector(location.hash === '#/' ? 'tbody tr' : '.heat canvas')")
        assert browser.run("return [document.documentElement.scrollWidth, innerWidth]") == [PHONE_WIDTH_PX] * 2
        outside = browser.run(
            "return [...document.querySelectorAll('main *')].filter((each) => each.getBoundingClientRect().right > "
            "innerWidth + 1 && !each.closest('.table') && getComputedStyle(each).position !== 'absolute').map(String)"
        )
        assert outside == []


def test_everything_is_reached_by_keys(browser: Browser, bench: Bench) -> None:
    with sessions_of(bench, "a"):
        open_page(browser, bench)
        browser.wait_until("document.querySelector('tbody a')")
        reached: list[str] = []
        while "a" not in reached and len(reached) < 30:
            ActionChains(browser.driver).send_keys(Keys.TAB).perform()
            reached.append(
                browser.run("return document.activeElement.textContent.trim() || document.activeElement.type")
            )
        for name in ("To the content", "CellServe", "Steps/s", "search", "a"):
            assert name in reached
        ActionChains(browser.driver).send_keys(Keys.ENTER).perform()
        browser.wait_until("location.hash === '#/session?id=a'")


@pytest.mark.parametrize("view", ["", "session?id=a"])
def test_an_answer_that_breaks_off_is_asked_for_again(browser: Browser, bench: Bench, view: str) -> None:
    with sessions_of(bench, "a"):
        open_page(browser, bench, view)
        browser.run(BREAK_OFF_ONCE)
        browser.wait_until("window.asked > 2 && document.getElementById('link').textContent === 'live'")


def test_a_server_that_goes_is_told(browser: Browser, bench: Bench, loop_thread: LoopThread) -> None:
    with running_app(loop_thread, CONFIG) as server:
        port = server.app.http_port
        browser.open(f"http://127.0.0.1:{port}/inspector/")
        browser.wait_until("document.getElementById('link').textContent === 'live'")
    browser.wait_until("/no answer/.test(document.getElementById('link').textContent)")
    browser.open(f"{bench.inspector.url}/")  # Here nothing is wrong, and what was is not asked about.
