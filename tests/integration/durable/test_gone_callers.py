"""Callers who go in the midst of something: what was begun is finished, or as if it had never been."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import pytest

from cellserve.errors import SessionNotFoundError
from cellserve_server.keeping.flusher import Flusher
from cellserve_server.keys import SessionKey
from cellserve_server.sessions.seats import DIRTY, FLAGS
from cellserve_server.sessions.session import Session
from tests.integration.durable.replicas import ASYNC, Replicas, step, step_error
from tests.integration.durable.slow_stores import SlowStore
from tests.servers import RPC_TIMEOUT_S, RunningApp

KEY = SessionKey("default", "s")


def start_slow(replicas: Replicas, operation: str) -> tuple[RunningApp, SlowStore]:
    """A replica of durability async with a store of which one operation waits."""
    first = replicas.start(ASYNC)
    store = first.loop.call(lambda: SlowStore(replicas.open_store(), operation))
    return replicas.start(ASYNC, store), store


def session_of(server: RunningApp) -> Session:
    return server.loop.call(lambda: server.app.operations.sessions.get(KEY))


def flusher_of(server: RunningApp) -> Flusher:
    departures = server.app.keeping.departures
    assert departures is not None
    assert departures.flusher is not None
    return departures.flusher


def give_up(server: RunningApp, store: SlowStore, call: Coroutine[Any, Any, object]) -> None:
    """Cancels an operation at the store, as the server does when its caller goes; then the store goes on."""
    server.loop.call(store.goes_on.clear)
    under_way = server.loop.begin(call)
    server.loop.run(store.reached.wait())
    under_way.cancel()
    server.loop.call(store.goes_on.set)


def test_a_reset_whose_caller_goes_is_finished(replicas: Replicas) -> None:
    server, store = start_slow(replicas, "rewrite")
    uid = replicas.create(server).uid
    step(server, 0)
    give_up(server, store, server.app.operations.reset(KEY))
    server.wait_until(lambda: server.app.operations.sessions.get(KEY).uid != uid)
    assert isinstance(step_error(server, 1, uid=uid), SessionNotFoundError)
    assert step(server, 0).step_count == 1
    assert step(replicas.start(ASYNC), 1).step_count == 2


def test_a_deletion_whose_caller_goes_is_finished(replicas: Replicas) -> None:
    server, store = start_slow(replicas, "bury")
    replicas.create(server)
    give_up(server, store, server.app.operations.delete(KEY))
    server.wait_until(lambda: server.app.operations.sessions.resident(KEY) is None)
    assert isinstance(step_error(server, 0), SessionNotFoundError)
    replicas.create(server)


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_on_its_way_to_the_store_stays_in_memory(replicas: Replicas, fails: bool) -> None:
    server, store = start_slow(replicas, "write")
    replicas.create(server)
    step(server, 0)
    server.loop.call(store.goes_on.clear)
    flush = server.loop.begin(flusher_of(server).flush())
    server.loop.run(store.reached.wait())
    assert server.loop.call(lambda: server.app.engine.lanes.idlest(0)) == []
    store.failing.update({"write"} if fails else set())
    server.loop.call(store.goes_on.set)
    assert (flush.exception(RPC_TIMEOUT_S) is not None) == fails
    assert len(server.loop.call(lambda: server.app.engine.lanes.idlest(0))) == (0 if fails else 1)


def test_a_flush_that_nobody_waits_for_knows_what_became_of_it(replicas: Replicas) -> None:
    server, store = start_slow(replicas, "write")
    replicas.create(server)
    step(server, 0)
    session = session_of(server)
    store.failing.add("write")
    give_up(server, store, flusher_of(server).flush_one(session))
    server.wait_until(lambda: bool(session.seats.words[session.base + FLAGS] & DIRTY))
    store.failing.clear()
    assert step(replicas.start(ASYNC), 1).step_count == 2
