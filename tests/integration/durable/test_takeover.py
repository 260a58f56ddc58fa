"""Sessions that go from replica to replica: none of their steps is lost, and none is applied twice."""

from __future__ import annotations

from dataclasses import replace

import grpc
import numpy as np
import pytest

from cellserve.errors import (
    ModelChangedError,
    RecordCorruptError,
    SessionExistsError,
    SessionMovedError,
    SessionNotFoundError,
    StateRolledBackError,
    StepOutOfOrderError,
    StoreUnavailableError,
)
from cellserve.v1 import model_pb2, session_pb2
from cellserve.v1 import recurrent_service_pb2 as messages
from cellserve_server.config import ServerConfig
from cellserve_server.keeping.flusher import Flusher
from cellserve_server.keys import SessionKey
from cellserve_server.stores.base import Rewrite, Write
from tests.integration.durable.replicas import (
    ASYNC,
    SYNC,
    FaultyStore,
    Replicas,
    output_of,
    step,
    step_error,
    uninterrupted,
)
from tests.servers import RPC_TIMEOUT_S, RunningApp, error_of_call

KEY = SessionKey("default", "s")
TOLERANCE = 1e-5


def metric(server: RunningApp, name: str, **labels: str) -> float:
    return server.app.metrics.registry.get_sample_value(name, labels) or 0.0


def flusher_of(server: RunningApp) -> Flusher:
    departures = server.app.keeping.departures
    assert departures is not None
    assert departures.flusher is not None
    return departures.flusher


def crash(server: RunningApp) -> None:
    """Ends a replica without a drain: what it has not written is lost. Its port is closed."""
    server.loop.run(server.app.stop())


@pytest.mark.parametrize("config", [SYNC, ASYNC], ids=["sync", "async"])
def test_any_replica_goes_on_with_a_session_of_a_live_one(replicas: Replicas, config: ServerConfig) -> None:
    first, second = replicas.start(config), replicas.start(config)
    replicas.create(first)
    outputs = [output_of(step(server, number)) for number, server in enumerate([first, first, second, second])]
    np.testing.assert_allclose(outputs, uninterrupted(replicas, first, 4), atol=TOLERANCE)
    assert metric(second, "cellserve_sessions_claimed_total", how="released") == 1
    assert metric(first, "cellserve_sessions_ended_total", reason="moved") == 1


def test_who_asks_where_a_session_was_is_sent_where_it_is_and_gets_it_back_later(replicas: Replicas) -> None:
    first, second = replicas.start(), replicas.start()
    replicas.create(first)
    step(first, 0)
    step(second, 1)
    error = step_error(first, 2)
    assert isinstance(error, SessionMovedError)
    assert error.metadata == {"session": "s", "owner": second.address}
    replicas.clock.advance(1)
    assert step(first, 2).step_count == 3


@pytest.mark.parametrize("config", [SYNC, ASYNC], ids=["sync", "async"])
def test_a_repeat_at_another_replica_is_answered_again(replicas: Replicas, config: ServerConfig) -> None:
    first, second = replicas.start(config), replicas.start(config)
    replicas.create(first)
    step(first, 0)
    answer = step(first, 1)
    again = step(second, 1)
    assert again.replayed
    assert again.step_count == 2
    np.testing.assert_allclose(output_of(again), output_of(answer), atol=TOLERANCE)
    assert isinstance(step_error(second, 1, run_id=5), StepOutOfOrderError)


def test_after_a_crash_the_others_go_on_from_the_last_answer(replicas: Replicas) -> None:
    first, second = replicas.start(replace(SYNC, takeover_timeout_ms=50)), replicas.start()
    replicas.create(first)
    outputs = [output_of(step(first, number)) for number in range(3)]
    crash(first)
    again = step(second, 2)
    assert again.replayed
    outputs.append(output_of(step(second, 3)))
    np.testing.assert_allclose(outputs, uninterrupted(replicas, second, 4), atol=TOLERANCE)
    assert metric(second, "cellserve_sessions_claimed_total", how="fenced") == 1


def test_an_async_crash_loses_what_was_not_written_and_says_so(replicas: Replicas) -> None:
    first, second = replicas.start(ASYNC), replicas.start(ASYNC)
    replicas.create(first)
    for number in range(2):
        step(first, number)
    first.loop.run(flusher_of(first).flush())
    for number in range(2, 5):
        step(first, number)
    crash(first)
    error = step_error(second, 5)
    assert isinstance(error, StateRolledBackError)
    assert error.metadata == {"session": "s", "expected_step": "5", "step_count": "2"}
    outputs = [output_of(step(second, number)) for number in range(2, 4)]
    np.testing.assert_allclose(outputs, uninterrupted(replicas, second, 4)[2:], atol=TOLERANCE)
    assert isinstance(step_error(second, 9), StepOutOfOrderError)


def test_a_replica_that_lost_a_session_without_knowing_is_refused(replicas: Replicas) -> None:
    first, second = replicas.start(), replicas.start(replace(SYNC, takeover_timeout_ms=50))
    replicas.create(first)
    step(first, 0)
    # As if the second one could not reach the first.
    second.loop.call(lambda: second.app.keeping._peers._silent_until.update({first.address: float("inf")}))
    step(second, 1)
    error = step_error(first, 1, run_id=77)
    assert isinstance(error, SessionMovedError)
    assert error.metadata["owner"] == second.address
    assert metric(first, "cellserve_fenced_writes_total") == 1
    assert step(second, 2).step_count == 3


@pytest.mark.parametrize("config", [SYNC, ASYNC], ids=["sync", "async"])
def test_a_drain_writes_and_lets_go(replicas: Replicas, config: ServerConfig) -> None:
    first, second = replicas.start(config), replicas.start(config)
    replicas.create(first)
    for number in range(3):
        step(first, number)
    first.loop.run(first.app.drain())
    assert len(first.app.operations.sessions) == 0
    assert step(second, 3).step_count == 4
    assert metric(second, "cellserve_sessions_claimed_total", how="free") == 1


def test_a_store_that_fails_refuses_steps_and_nothing_is_lost(replicas: Replicas) -> None:
    store = FaultyStore(replicas.open_store())
    server = replicas.start(store=store)
    replicas.create(server)
    step(server, 0)
    store.failing.add("write")
    error = step_error(server, 1)
    assert isinstance(error, StoreUnavailableError)
    assert error.retry_after_s
    store.failing.add("look")
    assert isinstance(step_error(server, 1), StoreUnavailableError)
    store.failing.clear()
    assert not step(server, 1).replayed
    assert step(server, 2).step_count == 3
    assert metric(server, "cellserve_store_failures_total", operation="write") == 1


def test_a_write_whose_answer_is_lost_is_recognised_when_it_is_repeated(replicas: Replicas) -> None:
    store = FaultyStore(replicas.open_store())
    server = replicas.start(store=store)
    replicas.create(server)
    step(server, 0)
    store.deaf.add("write")
    assert isinstance(step_error(server, 1), StoreUnavailableError)
    store.deaf.clear()
    again = step(server, 1)
    assert again.replayed
    np.testing.assert_allclose(output_of(again), uninterrupted(replicas, server, 2)[1], atol=TOLERANCE)


def test_an_async_replica_that_cannot_write_stops_answering_and_recovers(replicas: Replicas) -> None:
    store = FaultyStore(replicas.open_store())
    server = replicas.start(replace(ASYNC, flush_interval_ms=10), store)
    replicas.create(server)
    store.failing.add("write")
    step(server, 0)
    failures = store.calls.get("write", 0)
    server.wait_until(lambda: store.calls.get("write", 0) > failures)
    assert step(server, 1).step_count == 2
    replicas.clock.advance(0.1)
    server.wait_until(lambda: server.app.engine.store_refusal is not None)
    assert isinstance(step_error(server, 2), StoreUnavailableError)
    store.failing.clear()
    server.wait_until(lambda: server.app.engine.store_refusal is None)
    assert step(server, 2).step_count == 3
    server.loop.run(flusher_of(server).flush())
    crash(server)
    second = replicas.start(ASYNC)
    assert step(second, 2).replayed


def test_a_damaged_record_is_told_and_the_others_live(replicas: Replicas) -> None:
    first = replicas.start()
    for name in ("s", "t"):
        replicas.create(first, name)
        step(first, 0, name)
    crash(first)

    async def damage() -> None:
        store = replicas.open_store()
        await store.open()
        (found,) = await store.look([KEY])
        assert found is not None
        (stored,) = await store.claim([(KEY, found.epoch)], "")
        assert stored is not None
        broken = tuple(state[:-1] + bytes([state[-1] ^ 1]) if state else b"" for state in stored.states)
        change = Rewrite(stored.ref, stored.epoch, stored.meta, (broken[0], broken[1]), stored.expire_time)
        assert await store.rewrite([change]) == [True]
        await store.close()

    second = replicas.start()
    second.loop.run(damage())
    for _ in range(2):
        error = step_error(second, 1)
        assert isinstance(error, RecordCorruptError)
        assert error.code is grpc.StatusCode.DATA_LOSS
    assert step(second, 1, "t").step_count == 2
    replicas.create(second)
    assert step(second, 0).step_count == 1


def test_a_model_with_other_weights_is_refused(replicas: Replicas) -> None:
    first = replicas.start()
    replicas.create(first)
    crash(first)
    second = replicas.start()
    step(second, 0)
    model = second.app.models.resolve("default", replicas.model)

    async def forge() -> None:
        model.digest = "0" * 64

    crash(second)
    third = replicas.start()
    replicas.create(third, "other")  # It knows the model now.
    model = third.app.models.resolve("default", replicas.model)
    third.loop.run(forge())
    error = step_error(third, 1)
    assert isinstance(error, ModelChangedError)
    assert error.metadata["model"] == model.resource_name


def test_a_session_ends_everywhere_and_its_end_is_remembered(replicas: Replicas) -> None:
    first, second = replicas.start(), replicas.start()
    replicas.create(first)
    request = messages.DeleteSessionRequest(name="sessions/s", request_id="once")
    first.stubs.recurrent.DeleteSession(request, timeout=RPC_TIMEOUT_S)
    error = step_error(second, 0)
    assert isinstance(error, SessionNotFoundError)
    assert error.metadata["cause"] == "deleted"
    second.stubs.recurrent.DeleteSession(request, timeout=RPC_TIMEOUT_S)
    request.request_id = "twice"
    other = error_of_call(lambda: second.stubs.recurrent.DeleteSession(request, timeout=RPC_TIMEOUT_S))
    assert isinstance(other, SessionNotFoundError)
    replicas.create(second)
    step(second, 0)


def test_a_session_that_expired_unused_is_gone_for_all(replicas: Replicas) -> None:
    first, second = replicas.start(), replicas.start()
    replicas.create(first)
    step(first, 0)
    crash(first)
    replicas.clock.advance(3601)
    error = step_error(second, 1)
    assert isinstance(error, SessionNotFoundError)
    assert error.metadata["cause"] == "expired"


def test_what_begins_a_life_is_done_once_whichever_replica_is_asked(replicas: Replicas) -> None:
    first, second = replicas.start(), replicas.start()
    made = replicas.create(first, request_id="made")
    assert replicas.create(second, request_id="made").uid == made.uid
    assert isinstance(error_of_call(lambda: replicas.create(second, request_id="other")), SessionExistsError)
    step(second, 0)
    reset = messages.ResetSessionRequest(name="sessions/s", uid=made.uid, request_id="reset")
    begun = second.stubs.recurrent.ResetSession(reset, timeout=RPC_TIMEOUT_S).session
    assert begun.step_count == 0
    replicas.clock.advance(1)
    again = first.stubs.recurrent.ResetSession(reset, timeout=RPC_TIMEOUT_S).session
    assert again.uid == begun.uid
    fork = messages.ForkSessionRequest(name="sessions/s", session_id="copy", request_id="fork")
    copy = first.stubs.recurrent.ForkSession(fork, timeout=RPC_TIMEOUT_S).session
    replicas.clock.advance(1)
    assert second.stubs.recurrent.ForkSession(fork, timeout=RPC_TIMEOUT_S).session.uid == copy.uid


def test_all_sessions_are_listed_wherever_they_are(replicas: Replicas) -> None:
    first, second = replicas.start(), replicas.start()
    for number in range(3):
        replicas.create(first, f"a{number}")
        replicas.create(second, f"b{number}")
    step(second, 0, "b1")
    for server in (first, second):
        request = messages.ListSessionsRequest(page_size=4)
        page = server.stubs.recurrent.ListSessions(request, timeout=RPC_TIMEOUT_S)
        assert page.total_size == 6
        request.page_token = page.next_page_token
        rest = server.stubs.recurrent.ListSessions(request, timeout=RPC_TIMEOUT_S)
        sessions: list[session_pb2.Session] = [*page.sessions, *rest.sessions]
        assert [session.name for session in sessions] == [
            f"sessions/{id_}" for id_ in ("a0", "a1", "a2", "b0", "b1", "b2")
        ]
        assert [session.step_count for session in sessions] == [0, 0, 0, 0, 1, 0]
        assert {session.model for session in sessions} == {f"{replicas.model}"}
        request = messages.ListSessionsRequest(model="models/other")
        assert server.stubs.recurrent.ListSessions(request, timeout=RPC_TIMEOUT_S).total_size == 0
        request = messages.ListSessionsRequest(id_contains="1")
        page = server.stubs.recurrent.ListSessions(request, timeout=RPC_TIMEOUT_S)
        assert ([session.name for session in page.sessions], page.total_size) == (["sessions/a1", "sessions/b1"], 2)
    # By activity it is those in a replica's own memory.
    request = messages.ListSessionsRequest(order_by="step_count desc")
    page = second.stubs.recurrent.ListSessions(request, timeout=RPC_TIMEOUT_S)
    assert (page.sessions[0].name, page.total_size) == ("sessions/b1", 3)
    assert {session.name for session in page.sessions} == {"sessions/b0", "sessions/b1", "sessions/b2"}
    assert isinstance(first.app.models.defined()[0].to_proto(model_pb2.ModelLimits()), model_pb2.Model)


def test_a_late_write_of_an_earlier_claim_changes_nothing(replicas: Replicas) -> None:
    first = replicas.start()
    replicas.create(first)
    step(first, 0)
    session = first.loop.call(lambda: first.app.operations.sessions.get(KEY))
    assert session.kept is not None
    late = Write(session.kept.held.ref, session.kept.held.epoch, session.place, b"late", 2e9)
    second = replicas.start()
    step(second, 1)
    assert second.loop.run(second.app.keeping._store.write([late])) == [False]
    assert step(second, 2).step_count == 3
