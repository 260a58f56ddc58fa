"""Whose RPCs are spans: those of callers who have shown who they are, and of nobody else."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from cellserve.errors import SessionNotFoundError, UnauthenticatedError, UnimplementedError
from cellserve.v1 import peer_service_pb2, peer_service_pb2_grpc
from cellserve.v1 import recurrent_service_pb2 as messages
from tests.identities import TokenBook, metadata_of
from tests.integration.tracing.spans import SAMPLED, SERVICE, TRACE_ID, context_of, names, one, traced_server
from tests.servers import RPC_TIMEOUT_S, LoopThread, error_of_call

IN_TRACE = (("traceparent", SAMPLED),)


def test_strangers_make_no_spans(loop_thread: LoopThread, tmp_path: Path) -> None:
    book = TokenBook.at(tmp_path / "tokens")
    token = book.issue("shop")
    with traced_server(loop_thread, book.config()) as traced:
        channel = traced.running.stubs.channel
        get = traced.running.stubs.recurrent.GetSession
        release = peer_service_pb2_grpc.PeerServiceStub(channel).ReleaseSessions
        calls: list[tuple[Any, Any, tuple[tuple[str, str], ...], type[Exception]]] = [
            (get, messages.GetSessionRequest(name="sessions/s"), (), UnauthenticatedError),
            (get, messages.GetSessionRequest(name="sessions/s"), metadata_of("unknown"), UnauthenticatedError),
            (release, peer_service_pb2.ReleaseSessionsRequest(), (), UnimplementedError),
            (get, messages.GetSessionRequest(name="sessions/s"), metadata_of(token), SessionNotFoundError),
        ]
        for method, request, shown, error in calls:
            call = partial(method, request, timeout=RPC_TIMEOUT_S, metadata=(*shown, *IN_TRACE))
            assert type(error_of_call(call)) is error
        spans = traced.after(f"{SERVICE}/GetSession")
    assert names(spans) == [f"{SERVICE}/GetSession"]
    assert context_of(one(spans, f"{SERVICE}/GetSession")).trace_id == int(TRACE_ID, 16)
