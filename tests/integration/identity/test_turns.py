"""Calls that wait for their tenant's turn: who does not, and what becomes of them when their token goes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cellserve.errors import UnauthenticatedError, UnimplementedError
from cellserve.tensors import tensor_from_array
from cellserve.v1 import peer_service_pb2, peer_service_pb2_grpc
from cellserve.v1 import recurrent_service_pb2 as messages
from cellserve_client import connect, rnn
from cellserve_server.edge import call_turns
from cellserve_server.edge.call_turns import MOST_AT_ONCE
from tests.gates import GatedNetwork
from tests.identities import TokenBook, metadata_of
from tests.integration.tls.using import Start
from tests.servers import RPC_TIMEOUT_S, TEST_CONFIG, RunningApp, error_of_call

DEPTH = 2


def look(server: RunningApp) -> None:
    """What the server does once a second."""
    server.loop.run(server.app.look_at_identities())


def test_while_calls_wait_probes_and_replicas_do_not_and_a_token_that_goes_meanwhile_is_refused(
    start_server: Start, book: TokenBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_turns, "LONG_S", 3600.0)
    token = book.issue("clinic")
    server = start_server(book.config(replace(TEST_CONFIG, inline_tick_us=0)))
    interceptor = server.app.interceptor
    with connect(server.address, token=token) as remote:
        cell = remote.cell(rnn.BasicLSTMCell(3), seed=1, input_size=DEPTH)
        names = [f"s{number}" for number in range(MOST_AT_ONCE + 1)]
        for name in names:
            remote.session(cell, session_id=name).detach()
        assert cell.info is not None
        model = f"models/{cell.info.name}"
    server.loop.call(lambda: monkeypatch.setattr(interceptor.turns, "_has_shared_work", lambda: True))
    inputs = [tensor_from_array(np.zeros(DEPTH, np.float32))]
    with GatedNetwork.over(server, model, tenant="clinic") as gate:
        calls = [
            server.stubs.recurrent.Step.future(
                messages.StepRequest(name=f"sessions/{name}", inputs=inputs),
                metadata=metadata_of(token),
                timeout=RPC_TIMEOUT_S,
            )
            for name in names
        ]
        gate.wait_entered()
        server.wait_until(lambda: interceptor.turns.waiting == 1)

        health: Any = health_pb2_grpc.HealthStub(server.stubs.channel)
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=RPC_TIMEOUT_S)
        peers: Any = peer_service_pb2_grpc.PeerServiceStub(server.stubs.channel)
        request = peer_service_pb2.ReleaseSessionsRequest()
        assert type(error_of_call(lambda: peers.ReleaseSessions(request, timeout=RPC_TIMEOUT_S))) is UnimplementedError
        assert interceptor.turns.waiting == 1

        book.take_back(0)
        look(server)
        gate.open()
        done = [call.exception() is None for call in calls]
    assert sorted(done) == [False, *[True] * MOST_AT_ONCE], "grpc says which of them came last"
    error = error_of_call(calls[done.index(False)].result)
    assert type(error) is UnauthenticatedError
    assert error.message == "authorization: the credentials are no longer good"


def test_replicas_that_have_not_proved_to_be_any_are_in_no_tenants_part(start_server: Start, book: TokenBook) -> None:
    server = start_server(book.config())
    admission = server.app.interceptor.admission
    seen: list[str] = []
    enter = admission.enter

    def noted(tenant: str) -> None:
        seen.append(tenant)
        enter(tenant)

    server.loop.call(lambda: setattr(admission, "enter", noted))
    peers: Any = peer_service_pb2_grpc.PeerServiceStub(server.stubs.channel)
    error_of_call(lambda: peers.ReleaseSessions(peer_service_pb2.ReleaseSessionsRequest(), timeout=RPC_TIMEOUT_S))
    assert seen == [""]
    server.wait_until(lambda: admission.active == 0)
    assert server.loop.call(lambda: admission.active_of("")) == 0
