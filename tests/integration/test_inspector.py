"""The inspector over HTTP: what a watch tells is what clients see, it is bounded, and it changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cellserve.tensors import Array, tensor_from_array
from cellserve.v1 import recurrent_service_pb2 as messages
from cellserve.v1 import sequence_pb2
from cellserve_client import rnn
from cellserve_server.config import ServerConfig
from cellserve_server.inspector.watches import WATCH_IDLE_S
from cellserve_server.keys import SessionKey
from cellserve_server.stores.memory import MemoryStore
from tests.clocks import ManualClock
from tests.gates import GatedNetwork
from tests.inspecting import DEPTH, UNITS, Bench, bench_of, inputs_of, leaves_of, open_session
from tests.integration.edges import get_session
from tests.servers import RPC_TIMEOUT_S, TEST_CONFIG, LoopThread, RunningApp, running_app

WINDOW = 8
CONFIG = replace(
    TEST_CONFIG, http_port=0, inspector=True, inspector_max_watches=3, inspector_window_steps=WINDOW, max_chunk_steps=2
)
Start = Callable[[ServerConfig], RunningApp]
STATE_ALONE, OUTPUTS_ALONE, BOTH, AGAIN = 1, 2, 3, 7  # as of "parts"
# Rows of another batch have other last bits.
TOLERANCE = 1e-6


@pytest.fixture
def bench(start_server: Start) -> Iterator[Bench]:
    with bench_of(start_server(CONFIG)) as bench:
        yield bench


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


def test_a_part_with_many_units_is_told_in_bands(bench: Bench) -> None:
    with bench.client.session(bench.client.cell(rnn.BasicRNNCell(2048), seed=0, input_size=DEPTH)) as session:
        session.step(inputs_of(0))
        seen = bench.inspector.watch(session.id)
        assert seen.header["leaves"] == [{"name": "state", "units": 2048, "band_units": 4}]
        bands = leaves_of(session)[0].reshape(512, 4)
        assert np.array_equal(seen.leaves()[0][0], bands[np.arange(512), np.abs(bands).argmax(axis=1)])


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


def test_an_id_that_begins_with_fewer_rows_has_no_such_row(bench: Bench) -> None:
    session = open_session(bench.client, "a", batch_size=3)
    session.step(inputs_of(0, 3, DEPTH))
    bench.inspector.watch("a", row=2)
    session.close()
    open_session(bench.client, "a", batch_size=2).step(inputs_of(0, 2, DEPTH))
    refused = bench.inspector.ask("watch", id="a", row=2)
    assert (refused.status, "below the session's 2; got 2" in refused.error) == (400, True)


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


def test_a_page_from_before_a_restart_gets_all_that_the_new_server_saw(
    loop_thread: LoopThread, clock: ManualClock
) -> None:
    store = MemoryStore(clock, is_volatile=False)
    with running_app(loop_thread, CONFIG, clock, store) as server, bench_of(server) as bench:
        session = open_session(bench.client, "a")
        seen = bench.inspector.watch("a")
        for number in range(3):
            session.step(inputs_of(number))
        seen = bench.inspector.more(seen, "a")
    clock.advance(1)
    with running_app(loop_thread, CONFIG, clock, store) as server, bench_of(server) as bench:
        bench.client.open_session("a").step(inputs_of(3))
        after = bench.inspector.more(seen, "a")
        assert after.header["watch"] != seen.header["watch"]
        assert (after.counts, after.header["lost"]) == ([4], 0)


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
        assert back.arrays["lives"][0] == seen.arrays["lives"][0], "it is the same life"
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
