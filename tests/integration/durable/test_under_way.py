"""What comes while a write to the store is under way, or when its outcome stays unknown: nothing answered is lost."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from threading import Thread

import pytest

from cellserve.errors import SessionNotFoundError, StepOutOfOrderError, StoreUnavailableError, error_of
from cellserve.v1 import recurrent_service_pb2 as messages
from cellserve.v1 import session_pb2, stream_pb2
from cellserve_server.config import ServerConfig
from cellserve_server.keeping.flusher import Flusher
from cellserve_server.keys import SessionKey
from tests.integration.durable.replicas import ASYNC, SYNC, FaultyStore, Replicas, step, step_error
from tests.integration.durable.slow_stores import SlowStore
from tests.integration.stream_client import StreamClient
from tests.servers import RPC_TIMEOUT_S, RunningApp, error_of_call

BOTH = pytest.mark.parametrize("config", [SYNC, ASYNC], ids=["sync", "async"])
RESET = messages.ResetSessionRequest(name="sessions/s")
DELETE = messages.DeleteSessionRequest(name="sessions/s")


def slow_store(replicas: Replicas, operation: str, *, answers_late: bool = False) -> SlowStore:
    return replicas.loop.call(
        lambda: SlowStore(replicas.open_store(), operation, answers_late=answers_late, waits=True)
    )


def flusher_of(server: RunningApp) -> Flusher:
    departures = server.app.keeping.departures
    assert departures is not None
    assert departures.flusher is not None
    return departures.flusher


def read(server: RunningApp, name: str = "s") -> session_pb2.Session:
    request = messages.GetSessionRequest(name=f"sessions/{name}")
    answer: messages.GetSessionResponse = server.stubs.recurrent.GetSession(request, timeout=RPC_TIMEOUT_S)
    return answer.session


@BOTH
def test_what_waits_for_a_session_that_ends_leaves_the_next_one_at_its_seat_alone(
    replicas: Replicas, config: ServerConfig
) -> None:
    store = slow_store(replicas, "rewrite")
    server = replicas.start(config, store)
    replicas.create(server)
    resetting = server.stubs.recurrent.ResetSession.future(RESET, timeout=RPC_TIMEOUT_S)
    server.loop.run(store.reached.wait())
    deletions = [server.stubs.recurrent.DeleteSession.future(DELETE, timeout=RPC_TIMEOUT_S) for _ in range(2)]
    server.wait_until(lambda: server.app.engine._waiting_turns == 2)
    server.loop.call(store.goes_on.set)
    resetting.result()
    wrong = [deletion for deletion in deletions if deletion.exception() is not None]
    assert isinstance(error_of_call(wrong[0].result), SessionNotFoundError)
    replicas.create(server, "t")
    assert step(server, 0, "t").step_count == 1
    assert not any(session.busy for session in server.loop.call(lambda: list(server.app.operations.sessions)))


def test_a_session_stays_in_memory_until_its_write_is_done(replicas: Replicas) -> None:
    store = slow_store(replicas, "write")
    server = replicas.start(replace(ASYNC, max_sessions=1), store)
    replicas.create(server)
    step(server, 0)
    flushing = server.loop.begin(flusher_of(server).flush())
    server.loop.run(store.reached.wait())
    replicas.create(server, "t")
    assert step(server, 1).step_count == 2
    server.loop.call(store.goes_on.set)
    flushing.result(RPC_TIMEOUT_S)


def test_who_waits_for_a_write_and_goes_away_loses_nothing(replicas: Replicas) -> None:
    store = slow_store(replicas, "write")
    first, second = replicas.start(ASYNC, store), replicas.start(ASYNC)
    replicas.create(first)
    step(first, 0)
    session = first.loop.call(lambda: first.app.operations.sessions.get(SessionKey("default", "s")))
    flushing = first.loop.begin(flusher_of(first).flush_one(session))
    first.loop.run(store.reached.wait())
    flushing.cancel()
    first.loop.call(store.goes_on.set)
    first.wait_until(lambda: not flusher_of(first).lock.locked())
    assert step(second, 1).step_count == 2


@pytest.mark.parametrize("operation", ["rewrite", "bury"])
def test_a_change_that_fails_takes_no_step_with_it(replicas: Replicas, operation: str) -> None:
    store = FaultyStore(replicas.open_store())
    server = replicas.start(ASYNC, store)
    replicas.create(server)
    step(server, 0)
    store.failing.add(operation)
    calls = {
        "rewrite": lambda: server.stubs.recurrent.ResetSession(RESET, timeout=RPC_TIMEOUT_S),
        "bury": lambda: server.stubs.recurrent.DeleteSession(DELETE, timeout=RPC_TIMEOUT_S),
    }
    assert isinstance(error_of_call(calls[operation]), StoreUnavailableError)
    store.failing.clear()
    assert step(server, 1).step_count == 2


@BOTH
def test_a_reset_whose_caller_goes_away_has_happened_or_not(replicas: Replicas, config: ServerConfig) -> None:
    store = slow_store(replicas, "rewrite", answers_late=True)
    first, second = replicas.start(config, store), replicas.start(config)
    uid = replicas.create(first).uid
    step(first, 0)
    resetting = first.stubs.recurrent.ResetSession.future(RESET, timeout=RPC_TIMEOUT_S)
    first.loop.run(store.reached.wait())
    resetting.cancel()
    first.loop.call(store.goes_on.set)
    first.wait_until(lambda: first.app.interceptor.admission.active == 0)
    begun = read(first)
    assert begun.uid != uid
    assert begun.step_count == 0
    assert step(first, 0, uid=begun.uid).step_count == 1
    assert step(second, 1, uid=begun.uid).step_count == 2


def test_a_claim_whose_answer_is_lost_is_no_loss_of_the_session(replicas: Replicas) -> None:
    store = FaultyStore(replicas.open_store())
    first, second = replicas.start(ASYNC, store), replicas.start(ASYNC)
    for name in ("s", "t", "u"):
        replicas.create(first, name)
        step(first, 0, name)
    for fault in (store.failing.add, store.deaf.add):
        fault("write" if fault == store.failing.add else "claim")
        with pytest.raises(StoreUnavailableError):
            first.loop.run(flusher_of(first).flush())
        store.failing.clear()
    store.deaf.clear()
    # Asked for its step count, asked to let one go, and by itself it knows that they are its own.
    assert isinstance(step_error(first, 7), StepOutOfOrderError)
    assert step(second, 1, "t").step_count == 2
    first.loop.run(flusher_of(first).flush())
    assert step(second, 1, "u").step_count == 2
    assert step(first, 1).step_count == 2


def test_nothing_is_taken_from_a_replica_that_is_there_and_cannot_write(replicas: Replicas) -> None:
    store = FaultyStore(replicas.open_store())
    first, second = replicas.start(ASYNC, store), replicas.start(ASYNC)
    replicas.create(first)
    step(first, 0)
    store.failing.add("write")
    assert isinstance(step_error(second, 1), StoreUnavailableError)
    store.failing.clear()
    assert step(second, 1).step_count == 2


def test_what_is_sent_away_while_others_are_opened_is_no_bug(replicas: Replicas) -> None:
    replicas.create(replicas.start(), "b")
    store = slow_store(replicas, "claim")
    server = replicas.start(store=store)
    sessions = server.app.operations.sessions
    with StreamClient(server.stubs) as stream:
        opening = Thread(target=lambda: opened.append(stream.open(["a", "b"], model=replicas.model)))
        opened: list[stream_pb2.Opened] = []
        opening.start()
        server.loop.run(store.reached.wait())
        (session,) = server.loop.call(lambda: list(sessions))
        server.loop.call(partial(sessions.depart, session, "evicted"))
        server.loop.call(store.goes_on.set)
        opening.join(RPC_TIMEOUT_S)
        (error,) = opened[0].errors
        assert error.position == 0
        assert isinstance(error_of(error.status), StoreUnavailableError)
        assert stream.open(["a"], handles=[7]).step_counts == [0]


def test_a_session_that_cannot_be_deleted_does_not_end_the_stream(replicas: Replicas) -> None:
    store = FaultyStore(replicas.open_store())
    server = replicas.start(store=store)
    with StreamClient(server.stubs) as stream:
        stream.open(["a", "b"], model=replicas.model)
        store.failing.add("bury")
        assert isinstance(error_of(stream.close([0, 1], delete_sessions=True).status), StoreUnavailableError)
        store.failing.clear()
        assert stream.open(["a", "b"]).step_counts == [0, 0]
        assert not stream.close([0, 1], delete_sessions=True).HasField("status")


def test_two_replicas_that_ask_each_other_at_once_both_get_answers(replicas: Replicas) -> None:
    servers = [replicas.start(store=FaultyStore(replicas.open_store())) for _ in range(2)]
    keys = [SessionKey("default", name) for name in ("a", "b")]
    for server, key in zip(servers, keys, strict=True):
        replicas.create(server, key.id)
        sessions = server.app.operations.sessions
        # Out of its memory, but in its name: the other one asks it.
        server.loop.call(partial(sessions.depart, server.loop.call(partial(sessions.get, key)), "evicted"))

    async def find() -> None:
        await asyncio.gather(*(server.app.keeping.keeper.find([(key, "") for key in keys]) for server in servers))

    replicas.loop.run(find())
    for server in servers:
        assert not server.app.keeping._peers._silent_until
    replicas.clock.advance(1)
    for key in keys:
        assert step(servers[0], 0, key.id).step_count == 1


@BOTH
def test_an_id_is_free_once_its_session_has_expired(replicas: Replicas, config: ServerConfig) -> None:
    first, second = replicas.start(config), replicas.start(config)
    for server, request_id in ((first, ""), (first, "again"), (second, ""), (second, "once more")):
        replicas.create(server, request_id=request_id)
        step(server, 0)
        replicas.clock.advance(3601)


def test_a_model_that_is_loaded_from_the_store_stays_there(replicas: Replicas) -> None:
    for _ in range(4):
        server = replicas.start(replace(SYNC, max_ttl_s=4000.0))
        assert server.loop.run(server.app.keeping.finder.resolve("default", replicas.model))
        replicas.clock.advance(7000)
