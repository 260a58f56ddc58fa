"""Who has sessions let go: replicas of the same store, and nobody else, whether callers say who they are or not."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import pytest

from cellserve.errors import FieldInvalidError, UnauthenticatedError
from cellserve.v1 import peer_service_pb2, peer_service_pb2_grpc
from cellserve_client import connect, rnn
from cellserve_server.keeping.peers import MAX_REQUEST_BYTES, MAX_SESSIONS
from cellserve_server.keys import SessionKey
from cellserve_server.security.identity import MAX_TENANT_CHARS
from tests.identities import TokenBook, metadata_of
from tests.integration.identity.test_tokens import failures
from tests.integration.tls.using import Start
from tests.servers import RPC_TIMEOUT_S, TEST_CONFIG, RunningApp, error_of_call

KEY = SessionKey("default", "s")


@pytest.fixture
def server(start_server: Start, tmp_path: Path) -> RunningApp:
    """It asks nobody who he is."""
    server = start_server(replace(TEST_CONFIG, store=f"sqlite:{tmp_path / 'store.db'}"))
    with connect(server.address) as remote:
        cell = remote.cell(rnn.BasicLSTMCell(3), seed=1, input_size=2)
        remote.session(cell, session_id=KEY.id).step(np.zeros(2, np.float32))
    return server


def release(server: RunningApp, holder: str, epoch: int = 1, token: str = "") -> int:
    """Asks for the session; how many were let go."""
    held = peer_service_pb2.HeldSession(tenant=KEY.tenant, id=KEY.id, epoch=epoch)
    request = peer_service_pb2.ReleaseSessionsRequest(sessions=[held], taker="evil.example:50051", holder=holder)
    metadata = metadata_of(token) if token else ()
    stub = peer_service_pb2_grpc.PeerServiceStub(server.stubs.channel)
    answer: peer_service_pb2.ReleaseSessionsResponse = stub.ReleaseSessions(
        request, metadata=metadata, timeout=RPC_TIMEOUT_S
    )
    return answer.released_count


def is_here(server: RunningApp) -> bool:
    return server.loop.call(lambda: server.app.residents.sessions.resident(KEY)) is not None


def test_who_reaches_the_port_is_no_replica_yet(server: RunningApp) -> None:
    for holder in ("", server.address, f"{server.address}#", f"{server.address}#id-1", "\x00" * 1000):
        error = error_of_call(partial(release, server, holder))
        assert type(error) is UnauthenticatedError
        assert error.message == "holder: expected this replica as the store's records name it; got another"
    assert is_here(server)
    assert failures(server) == {"peer": 5}


def test_no_more_is_read_than_the_largest_request_of_a_replica(server: RunningApp) -> None:
    held = peer_service_pb2.HeldSession(tenant="t" * MAX_TENANT_CHARS, id="i" * 128, epoch=(1 << 64) - 1)
    asks = ("a" * 260, f"{'a' * 260}#{'1' * 32}")
    request = peer_service_pb2.ReleaseSessionsRequest(sessions=[held] * MAX_SESSIONS, taker=asks[0], holder=asks[1])
    ask = peer_service_pb2_grpc.PeerServiceStub(server.stubs.channel).ReleaseSessions
    assert type(error_of_call(lambda: ask(request, timeout=RPC_TIMEOUT_S))) is UnauthenticatedError
    request.sessions.extend([held] * MAX_SESSIONS)
    error = error_of_call(lambda: ask(request, timeout=RPC_TIMEOUT_S))
    assert type(error) is FieldInvalidError
    assert f"expected at most {MAX_REQUEST_BYTES} bytes" in error.message


def test_who_can_read_the_store_is_one(server: RunningApp) -> None:
    found = server.loop.run(server.app.keeping._store.look([KEY]))[0]
    assert found is not None
    assert release(server, found.owner, found.epoch) == 1
    assert not is_here(server)


def test_every_process_has_a_secret_of_its_own(start_server: Start, tmp_path: Path) -> None:
    config = replace(TEST_CONFIG, store=f"sqlite:{tmp_path / 'store.db'}")
    secrets = {start_server(config).app.keeping._peers.owner.partition("#")[2] for _ in range(2)}
    assert len(secrets) == 2
    assert all(len(secret) == 32 for secret in secrets)


def test_no_right_of_clients_makes_a_replica(start_server: Start, book: TokenBook, tmp_path: Path) -> None:
    token = book.issue("default", "admin", "metrics")
    server = start_server(book.config(replace(TEST_CONFIG, store=f"sqlite:{tmp_path / 'store.db'}")))
    with pytest.raises(grpc.RpcError) as caught:
        release(server, "", token=token)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
