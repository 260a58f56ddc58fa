"""What comes while a write to the store is under way, or when its outcome stays unknown: nothing answered is lost."""

from __future__ import annotations

import pytest

from cellserve.errors import SessionNotFoundError
from cellserve.v1 import recurrent_service_pb2 as messages
from cellserve.v1 import session_pb2
from cellserve_server.config import ServerConfig
from cellserve_server.flusher import Flusher
from tests.integration.durable.replicas import ASYNC, SYNC, Replicas, SlowStore, step
from tests.servers import RPC_TIMEOUT_S, RunningApp, error_of_call

BOTH = pytest.mark.parametrize("config", [SYNC, ASYNC], ids=["sync", "async"])
RESET = messages.ResetSessionRequest(name="sessions/s")
DELETE = messages.DeleteSessionRequest(name="sessions/s")


def slow_store(replicas: Replicas, operation: str, *, is_done: bool = False) -> SlowStore:
    return replicas.loop.call(lambda: SlowStore(replicas.open_store(), operation, is_done=is_done))


def flusher_of(server: RunningApp) -> Flusher:
    stored = server.app.keeping.stored
    assert stored is not None
    assert stored.flusher is not None
    return stored.flusher


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
    server.loop.call(store.let_through.set)
    resetting.result()
    wrong = [deletion for deletion in deletions if deletion.exception() is not None]
    assert isinstance(error_of_call(wrong[0].result), SessionNotFoundError)
    replicas.create(server, "t")
    assert step(server, 0, "t").step_count == 1
    assert not any(session.busy for session in server.loop.call(lambda: list(server.app.operations.sessions)))
