"""The inspector's pages over HTTP: lists, what is refused, and what a browser is told to allow."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from cellserve_server.config import ServerConfig
from tests.clocks import ManualClock
from tests.inspecting import Bench, bench_of, inputs_of, open_session
from tests.servers import RPC_TIMEOUT_S, TEST_CONFIG, LoopThread, RunningApp, running_app

CONFIG = replace(TEST_CONFIG, http_port=0, inspector=True)
Start = Callable[[ServerConfig], RunningApp]


@pytest.fixture
def bench(start_server: Start) -> Iterator[Bench]:
    with bench_of(start_server(CONFIG)) as bench:
        yield bench


@pytest.fixture(scope="module")
def shared(loop_thread: LoopThread) -> Iterator[Bench]:
    """One for all who only ask what is refused; it has a session, ``a``."""
    with running_app(loop_thread, CONFIG, ManualClock()) as server, bench_of(server) as bench:
        open_session(bench.client, "a").step(inputs_of(0))
        yield bench


def test_it_is_off_unless_asked_for(start_server: Start) -> None:
    assert not ServerConfig().inspector
    server = start_server(replace(TEST_CONFIG, http_port=0))
    assert server.app.inspector is None
    with urllib.request.urlopen(f"http://127.0.0.1:{server.app.http_port}/inspector/", timeout=RPC_TIMEOUT_S) as page:
        assert page.headers["Content-Type"].startswith("text/plain"), "metrics, as below any path"


def test_it_needs_a_page_to_be_on() -> None:
    with pytest.raises(ValueError, match="inspector: expected http_port to be on"):
        ServerConfig(inspector=True, http_port=-1)


# --- the sessions and the server --------------------------------------------------------------------------------------


def test_the_list_of_sessions(bench: Bench, clock: ManualClock) -> None:
    sessions = {id_: open_session(bench.client, id_) for id_ in ("quick-1", "quick-2", "slow")}
    bench.inspector.json("sessions")
    clock.advance(2)
    for id_, steps in (("quick-1", 8), ("quick-2", 4), ("slow", 1)):
        for number in range(steps):
            sessions[id_].step(inputs_of(number))
    listed = bench.inspector.json("sessions")
    assert listed["total"] == 3
    found = [(entry["id"], entry["steps_per_second"], entry["step_count"]) for entry in listed["sessions"]]
    assert found == [("quick-1", 4.0, 8), ("quick-2", 2.0, 4), ("slow", 0.5, 1)]
    assert [entry["id"] for entry in bench.inspector.json("sessions", limit=1)["sessions"]] == ["quick-1"]
    filtered = bench.inspector.json("sessions", contains="quick", order_by="step_count")["sessions"]
    assert [entry["id"] for entry in filtered] == ["quick-2", "quick-1"]
    assert bench.inspector.json("sessions", tenant="somebody") == {"total": 0, "sessions": []}
    assert bench.inspector.ask("watch", id="slow", tenant="somebody").status == 404


def test_a_server_that_has_no_time_says_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    async def hold() -> None:
        over.wait(RPC_TIMEOUT_S)  # As a tick that is too long.

    held = bench.server.loop.begin(hold())
    with monkeypatch.context() as patch:
        patch.setattr("cellserve_server.inspector.inspector.LOOP_TIMEOUT_S", 0.01)
        refused = bench.inspector.ask("watch", id="a")
    over.set()
    held.result(RPC_TIMEOUT_S)
    assert refused.status == 503
    assert "no time to answer" in refused.error
    assert bench.inspector.json("sessions")["total"] == 0


def test_the_overview(bench: Bench) -> None:
    answer = bench.inspector.json("overview")
    assert (answer["address"], answer["store"]) == (bench.server.address, "memory")
    assert answer["samples"]["time_s"] == [], "the test's clock stands still"


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("watch", "id: expected a value; got none"),
        ("watch?id=a&row=x", "row: expected an integer from 0"),
        ("watch?id=a&row=7", "row: expected one below the session's 1; got 7"),
        ("watch?id=a&after=-1", "after: expected an integer from 0"),
        ("watch?id=a&ordre=1", "'ordre': expected a parameter"),
        ("watch?id=a&id=b", "id: expected it once"),
        ("sessions?limit=0", "limit: expected an integer from 1 to 200; got '0'"),
        ("sessions?limit=1000000", "limit: expected an integer from 1 to 200"),
        ("sessions?order_by=secrets", "order_by: expected one of steps_per_second"),
        ("overview?after=nan", "after: expected a number from 0; got 'nan'"),
    ],
)
def test_bad_questions(shared: Bench, question: str, words: str) -> None:
    page = shared.inspector.get(f"/api/{question}")
    assert page.status == 400
    assert words in page.error


@pytest.mark.parametrize("path", ["/api/", "/api/delete", "/nothing", "/../app.py", "/static/main.js", "/%2e%2e/x"])
def test_pages_that_are_not_there(shared: Bench, path: str) -> None:
    assert shared.inspector.get(path).status == 404


def test_a_session_that_is_not_there(shared: Bench) -> None:
    page = shared.inspector.ask("watch", id="<img src=x onerror=alert(1)>")
    assert page.status == 404
    assert page.headers["Content-Type"].startswith("application/json")
    assert "never was" in page.error


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS"])
def test_nothing_but_get(shared: Bench, method: str) -> None:
    page = shared.inspector.get("/api/overview", method)
    assert (page.status, page.headers["Allow"]) == (405, "GET")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1"])
def test_names_that_only_seem_to_be_this_machine(shared: Bench, host: str) -> None:
    assert shared.inspector.get("/api/overview", host=host).status == 403
    assert shared.inspector.get("/", host=host).status == 403


@pytest.mark.parametrize("host", ["localhost", "localhost:9464", "127.0.0.1:1", "[::1]:9464", "[::1]"])
def test_names_of_this_machine(shared: Bench, host: str) -> None:
    assert shared.inspector.get("/api/overview", host=host).status == 200


def test_headers(shared: Bench) -> None:
    kinds = {
        "/": "text/html; charset=utf-8",
        "/main.js": "text/javascript; charset=utf-8",
        "/style.css": "text/css; charset=utf-8",
        "/icon.svg": "image/svg+xml",
        "/api/overview": "application/json; charset=utf-8",
        "/api/watch?id=a": "application/octet-stream",
        "/nothing": "application/json; charset=utf-8",
    }
    for path, kind in kinds.items():
        headers = shared.inspector.get(path).headers
        assert headers["Content-Type"] == kind
        assert headers["Content-Security-Policy"].startswith("default-src 'self';")
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == ("no-store" if "api" in path or path == "/nothing" else "no-cache")


def test_the_pages_have_no_script_or_style_of_their_own(shared: Bench) -> None:
    page = shared.inspector.get("/").body.decode()
    assert "<script>" not in page
    assert "style=" not in page
    assert "http:" not in page
    assert "https:" not in page


def test_the_metrics_are_where_they_were(shared: Bench) -> None:
    url = f"http://127.0.0.1:{shared.server.app.http_port}"
    with urllib.request.urlopen(f"{url}/metrics", timeout=RPC_TIMEOUT_S) as page:
        assert b"cellserve_sessions " in page.read()
    with urllib.request.urlopen(url, timeout=RPC_TIMEOUT_S) as page:
        assert page.url == f"{url}/inspector/"
