"""The inspector over HTTP: what a watch tells is what clients see, it is bounded, and it changes nothing."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest

from cellserve.states import NestedState
from cellserve.tensors import Array, tensor_from_array
from cellserve.v1 import recurrent_service_pb2 as messages
from cellserve.v1 import sequence_pb2
from cellserve_client import connect, rnn
from cellserve_client.blocking_sessions import Session
from cellserve_client.client import Server
from cellserve_server.config import ServerConfig
from cellserve_server.inspector.inspector import Inspector
from cellserve_server.inspector.watches import WATCH_IDLE_S
from cellserve_server.keys import SessionKey
from cellserve_server.stores.memory import MemoryStore
from tests.clocks import ManualClock
from tests.gates import GatedNetwork
from tests.inspecting import Inspecting
from tests.integration.edges import get_session
from tests.servers import RPC_TIMEOUT_S, TEST_CONFIG, LoopThread, RunningApp, running_app

UNITS, DEPTH, WINDOW = 3, 2, 8
CONFIG = replace(
    TEST_CONFIG, http_port=0, inspector=True, inspector_max_watches=3, inspector_window_steps=WINDOW, max_chunk_steps=2
)
Start = Callable[[ServerConfig], RunningApp]
STATE_ALONE, OUTPUTS_ALONE, BOTH, AGAIN = 1, 2, 3, 7  # as of "parts"
# Rows of another batch have other last bits.
TOLERANCE = 1e-6


class Bench(NamedTuple):
    """A server with an inspector, a client that shares messages and one that does not."""

    server: RunningApp
    inspector: Inspecting
    client: Server
    plain: Server

    @property
    def inside(self) -> Inspector:
        assert self.server.app.inspector is not None
        return self.server.app.inspector

    def watches(self) -> int:
        return self.server.loop.call(lambda: len(self.inside.watches))

    def observers(self) -> int:
        return self.server.loop.call(lambda: len(self.server.app.engine.observers))


@contextmanager
def bench_of(server: RunningApp) -> Iterator[Bench]:
    assert server.app.http_port is not None
    with connect(server.address) as client, connect(server.address, coalesce=False) as plain:
        yield Bench(server, Inspecting(server.app.http_port), client, plain)


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


def open_session(client: Server, id_: str, batch_size: int | None = None, layers: int = 1) -> Session:
    cells = (
        rnn.MultiRNNCell([rnn.BasicLSTMCell(UNITS) for _ in range(layers)]) if layers > 1 else rnn.BasicLSTMCell(UNITS)
    )
    return client.session(client.cell(cells, seed=1, input_size=DEPTH), session_id=id_, batch_size=batch_size)


def inputs_of(number: int, *shape: int) -> Array:
    inputs: Array = np.random.default_rng(number).standard_normal(shape or (DEPTH,)).astype(np.float32)
    return inputs


def leaves_of(session: Session) -> list[Array]:
    """The state, ``[rows, units]`` each."""
    return leaves_in(session.state())


def leaves_in(state: NestedState) -> list[Array]:
    return [state] if isinstance(state, np.ndarray) else [leaf for part in state for leaf in leaves_in(part)]


def same(seen: list[Array], expected: list[Array]) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(seen, expected, strict=True))


# --- what a watch tells -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coalesce", [True, False])
def test_a_watch_tells_what_the_client_gets(bench: Bench, coalesce: bool) -> None:
    session = open_session(bench.client if coalesce else bench.plain, "a", layers=2)
    session.step(inputs_of(0))
    seen = bench.inspector.watch("a")
    assert (seen.counts, seen.arrays["parts"].tolist()) == ([1], [STATE_ALONE])
    assert same(seen.leaves(), leaves_of(session))
    assert [leaf["name"] for leaf in seen.header["leaves"]] == ["state[0].c", "state[0].h", "state[1].c", "state[1].h"]
    for number in range(1, 5):
        output = session.step(inputs_of(number))
        seen = bench.inspector.more(seen, "a")
        assert (seen.counts, seen.arrays["parts"].tolist()) == ([number + 1], [BOTH])
        assert np.array_equal(seen.arrays["output0"][0], output)
        assert same(seen.leaves(), leaves_of(session))
    assert bench.inspector.more(seen, "a").counts == []
    session.close()


def test_a_watch_among_steps_of_many_sessions(bench: Bench) -> None:
    cell = bench.client.cell(rnn.BasicLSTMCell(UNITS), seed=1, input_size=DEPTH)
    with bench.client.session_group(cell, ids=["a", "b", "c", "d"], batch_size=2) as group:
        seen = {(id_, row): bench.inspector.watch(id_, row=row) for id_, row in (("b", 0), ("b", 1), ("d", 1))}
        given = []
        for number in range(3):
            given.append(group.step(inputs_of(number, 4, 2, DEPTH)))
            group.step(inputs_of(number, 2, 2, DEPTH), members=[0, 2])  # Those who are watched take no part.
        for (id_, row), before in seen.items():
            after = bench.inspector.more(before, id_, row=row)
            assert after.counts == [1, 2, 3]
            member = "abcd".index(id_)
            assert np.array_equal(after.arrays["output0"], np.stack([outputs[member, row] for outputs in given]))
            state = leaves_of(bench.client.open_session(id_))
            assert same([leaf[-1] for leaf in after.leaves()], [leaf[row] for leaf in state])


def test_a_longer_run_is_told_step_by_step(bench: Bench) -> None:
    session = open_session(bench.client, "a")
    twin = open_session(bench.client, "twin")
    frames = inputs_of(0, 7, DEPTH)
    seen = bench.inspector.watch("a")
    outputs = session.run(frames)
    seen = bench.inspector.more(seen, "a")
    assert seen.counts == [1, 2, 3, 4, 5, 6, 7]
    assert set(seen.arrays["parts"].tolist()) <= {BOTH, AGAIN}
    assert seen.arrays["parts"][-1] == BOTH, "the last one is the session's own"
    assert AGAIN in seen.arrays["parts"]
    assert np.array_equal(seen.arrays["output0"], outputs)
    assert same([leaf[-1:] for leaf in seen.leaves()], leaves_of(session))
    for number, frame in enumerate(frames):
        twin.step(frame)
        for leaf, expected in zip(seen.leaves(), leaves_of(twin), strict=True):
            np.testing.assert_allclose(leaf[number], expected[0], atol=TOLERANCE)


def test_a_row_that_is_shorter_stands_still(bench: Bench) -> None:
    session = open_session(bench.client, "a", batch_size=2)
    seen = bench.inspector.watch("a", row=1)
    session.run(inputs_of(0, 2, 6, DEPTH), [6, 3])
    seen = bench.inspector.more(seen, "a", row=1)
    assert seen.counts == [1, 2, 3, 4, 5, 6]
    assert not seen.arrays["output0"][3:].any()
    assert seen.arrays["output0"][:3].any(axis=1).all()
    for leaf, expected in zip(seen.leaves(), leaves_of(session), strict=True):
        assert np.array_equal(leaf[2:], np.tile(expected[1], (4, 1)))


def test_a_run_without_outputs_is_told_with_them(bench: Bench) -> None:
    session = open_session(bench.client, "a")
    seen = bench.inspector.watch("a")
    session.run(inputs_of(0, 5, DEPTH), outputs="none")
    seen = bench.inspector.more(seen, "a")
    assert seen.counts == [1, 2, 3, 4, 5]
    assert seen.arrays["output0"].any(axis=1).all()


def test_more_steps_than_the_window_has(bench: Bench) -> None:
    session = open_session(bench.client, "a")
    seen = bench.inspector.watch("a")
    assert seen.header["window_steps"] == WINDOW
    size = bench.server.loop.call(lambda: bench.inside.watches.nbytes)
    for number in range(20):
        session.step(inputs_of(number))
    after = bench.inspector.more(seen, "a")
    assert (after.counts, after.header["lost"]) == (list(range(13, 21)), 12)
    assert bench.server.loop.call(lambda: bench.inside.watches.nbytes) == size
    session.run(inputs_of(0, 30, DEPTH), outputs="last")
    after = bench.inspector.more(after, "a")
    assert after.counts == list(range(43, 51))
    assert same([leaf[-1:] for leaf in after.leaves()], leaves_of(session))


def test_a_state_that_is_large_has_a_shorter_window(start_server: Start) -> None:
    with (
        bench_of(start_server(replace(CONFIG, inspector_watch_bytes=1024))) as bench,
        bench.client.session(
            bench.client.cell(rnn.BasicLSTMCell(40), seed=0, input_size=DEPTH), session_id="a"
        ) as session,
    ):
        session.step(inputs_of(0))
        assert bench.inspector.watch("a").header["window_steps"] == 1024 // (25 + 4 * (3 * 40 + DEPTH))


def test_a_run_that_is_taken_back_is_not_told(start_server: Start) -> None:
    with bench_of(start_server(replace(CONFIG, inline_tick_us=0, max_chunk_steps=1, at_once_us=0))) as bench:
        session = open_session(bench.client, "a")
        session.step(inputs_of(0))
        seen = bench.inspector.watch("a")
        request = messages.RunSequenceRequest(
            session="sessions/a", inputs=sequence_pb2.Sequence(values=[tensor_from_array(inputs_of(0, 1, 4, DEPTH))])
        )
        with GatedRuns.over(bench.server, f"models/{session.model.name}") as gate:
            call: Any = bench.server.stubs.recurrent.RunSequence.future(request, timeout=RPC_TIMEOUT_S)
            for _ in range(2):
                gate.wait_entered()
                gate.let()
            gate.wait_entered()
            call.cancel()
            active: Any = bench.server.app.operations.sessions.get(SessionKey("default", "a")).active
            bench.server.wait_until(lambda: active.refusal is not None)
            gate.let()
        session.step(inputs_of(1))
        seen = bench.inspector.more(seen, "a")
        assert (seen.counts, seen.arrays["parts"].tolist()) == ([2], [BOTH])
        assert same(seen.leaves(), leaves_of(session))


class GatedRuns(GatedNetwork):
    """A gate that runs of several steps pass through too, once for each chunk."""

    def run(self, *arguments: Any) -> tuple[list[Array], list[Array]]:
        self.pass_through()
        return self._network.run(*arguments)


# --- lives and absences -----------------------------------------------------------------------------------------------


def test_a_new_life_is_told(bench: Bench) -> None:
    session = open_session(bench.client, "a")
    session.step(inputs_of(0))
    session.step(inputs_of(1))
    seen = bench.inspector.watch("a")
    session.reset()
    reset = bench.inspector.more(seen, "a")
    assert (reset.counts, reset.arrays["parts"].tolist()) == ([0], [STATE_ALONE])
    assert not any(leaf.any() for leaf in reset.leaves())
    assert reset.arrays["lives"][0] != seen.arrays["lives"][0]
    assert reset.header["session"]["uid"] == session.uid
    output = session.step(inputs_of(2))
    after = bench.inspector.more(reset, "a")
    assert (after.counts, after.arrays["lives"][0]) == ([1], reset.arrays["lives"][0])
    assert np.array_equal(after.arrays["output0"][0], output)


def test_a_state_that_is_set_is_told(bench: Bench) -> None:
    session = open_session(bench.client, "a")
    seen = bench.inspector.watch("a")
    session.set_state((np.full((1, UNITS), 0.5, np.float32), np.full((1, UNITS), -0.5, np.float32)))
    seen = bench.inspector.more(seen, "a")
    assert [leaf.tolist() for leaf in seen.leaves()] == [[[0.5] * UNITS], [[-0.5] * UNITS]]


def test_a_session_that_ends_is_told_and_what_was_seen_stays(bench: Bench) -> None:
    session = open_session(bench.client, "a")
    session.step(inputs_of(0))
    before = bench.inspector.watch("a")
    session.close()
    gone = bench.inspector.watch("a", watch=before.header["watch"], after=0)
    assert gone.header["session"] is None
    assert "it was deleted" in gone.header["gone"]
    assert gone.counts == [1]
    again = open_session(bench.client, "a")  # Another life in the same seat, or in another one.
    again.step(inputs_of(1))
    after = bench.inspector.more(gone, "a")
    assert (after.header["gone"], after.header["watch"], after.counts) == ("", before.header["watch"], [1])
    assert after.arrays["lives"][0] != before.arrays["lives"][0]


def test_a_seat_that_another_session_has_taken_tells_nothing(bench: Bench) -> None:
    session = open_session(bench.client, "a")
    session.step(inputs_of(0))
    seen = bench.inspector.watch("a")
    session.close()
    other = open_session(bench.client, "b")
    other.step(inputs_of(1))
    gone = bench.inspector.more(seen, "a")
    assert (gone.counts, gone.header["session"]) == ([], None)


def test_an_id_that_begins_on_another_model_is_another_watch(bench: Bench) -> None:
    first = open_session(bench.client, "a")
    first.step(inputs_of(0))
    before = bench.inspector.watch("a")
    first.close()
    open_session(bench.client, "a", layers=2).step(inputs_of(0))
    after = bench.inspector.more(before, "a")
    assert after.header["watch"] != before.header["watch"]
    assert (len(after.leaves()), after.counts, after.header["lost"]) == (4, [1], 0)
    assert bench.watches() == 1


def test_a_session_in_the_store_is_not_brought_in(loop_thread: LoopThread, clock: ManualClock) -> None:
    store = MemoryStore(clock, is_volatile=False)
    with running_app(loop_thread, CONFIG, clock, store) as server, bench_of(server) as bench:
        open_session(bench.client, "a").step(inputs_of(0))
        assert bench.inspector.watch("a").counts == [1]
    with running_app(loop_thread, CONFIG, clock, store) as server, bench_of(server) as bench:
        # As after a kill: it has nothing in memory.
        assert bench.inspector.ask("watch", id="a").status == 404
        assert bench.inspector.json("sessions")["sessions"] == []
        session = bench.client.open_session("a")
        output = session.step(inputs_of(1))
        seen = bench.inspector.watch("a")
        assert seen.counts == [2]
        output = session.step(inputs_of(2))
        seen = bench.inspector.more(seen, "a")
        assert seen.counts == [3]
        assert np.array_equal(seen.arrays["output0"][0], output)


def test_a_session_that_left_memory_says_so(loop_thread: LoopThread, clock: ManualClock) -> None:
    store = MemoryStore(clock, is_volatile=False)
    with running_app(loop_thread, replace(CONFIG, max_sessions=1), clock, store) as server, bench_of(server) as bench:
        session = open_session(bench.client, "a")
        session.step(inputs_of(0))
        seen = bench.inspector.watch("a")
        clock.advance(1)
        open_session(bench.client, "b").step(inputs_of(0))
        away = bench.inspector.more(seen, "a")
        assert "left memory for the store" in away.header["gone"]
        session.step(inputs_of(1))
        back = bench.inspector.more(away, "a")
        assert (back.header["gone"], back.counts) == ("", [2])
        assert same([leaf[-1:] for leaf in back.leaves()], leaves_of(session))


# --- what it costs and what it leaves alone ---------------------------------------------------------------------------


def test_a_watch_ends_when_nobody_asks(bench: Bench, clock: ManualClock) -> None:
    open_session(bench.client, "a").step(inputs_of(0))
    open_session(bench.client, "b").step(inputs_of(0))
    assert bench.observers() == 0, "nobody watches, nobody is told"
    first = bench.inspector.watch("a")
    bench.inspector.watch("b")
    assert (bench.watches(), bench.observers()) == (2, 1)
    clock.advance(WATCH_IDLE_S / 2)
    bench.inspector.watch("b")
    clock.advance(WATCH_IDLE_S / 2)
    bench.server.loop.call(bench.inside.watches.sweep)
    assert bench.watches() == 1
    clock.advance(WATCH_IDLE_S)
    bench.server.loop.call(bench.inside.watches.sweep)
    assert (bench.watches(), bench.observers()) == (0, 0)
    again = bench.inspector.more(first, "a")
    assert again.header["watch"] != first.header["watch"]
    assert (again.counts, bench.observers()) == ([1], 1)


def test_watches_are_few(bench: Bench, clock: ManualClock) -> None:
    session = open_session(bench.client, "a", batch_size=4)
    session.step(inputs_of(0, 4, DEPTH))
    for row in range(3):
        bench.inspector.watch("a", row=row)
        bench.inspector.watch("a", row=row)  # The same one.
    refused = bench.inspector.ask("watch", id="a", row=3)
    assert refused.status == 429
    assert "expected" not in refused.error or "3" in refused.error
    assert "3 rows of sessions are watched" in refused.error
    clock.advance(WATCH_IDLE_S)
    bench.server.loop.call(bench.inside.watches.sweep)
    bench.inspector.watch("a", row=3)


def test_looking_changes_nothing(bench: Bench, clock: ManualClock) -> None:
    open_session(bench.client, "a").step(inputs_of(0))
    before = get_session(bench.server, "a")
    clock.advance(60)
    for _ in range(3):
        bench.inspector.watch("a")
        bench.inspector.json("sessions")
    after = get_session(bench.server, "a")
    assert after == before, "neither its expiry nor anything else"
    clock.advance(before.ttl.ToSeconds())
    assert "it expired" in bench.inspector.watch("a").header["gone"]


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
