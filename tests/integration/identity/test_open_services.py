"""What strangers can take of a server: little, and nothing that others need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cellserve.errors import FieldInvalidError, QuotaExceededError
from tests.identities import TokenBook
from tests.integration.tls.using import Start
from tests.servers import RPC_TIMEOUT_S, TEST_CONFIG, RunningApp, error_of_call

SERVING = health_pb2.HealthCheckResponse.SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@pytest.fixture
def server(start_server: Start, book: TokenBook) -> RunningApp:
    """It asks who calls; nobody here says it."""
    book.issue("shop")
    return start_server(book.config(replace(TEST_CONFIG, max_streams=2)))


def health(server: RunningApp) -> Any:
    return health_pb2_grpc.HealthStub(server.stubs.channel)


def probe(server: RunningApp) -> int:
    return int(health(server).Check(health_pb2.HealthCheckRequest(), timeout=RPC_TIMEOUT_S).status)


@contextmanager
def watch(server: RunningApp, service: str = "") -> Iterator[Any]:
    """A stream of a service's health."""
    call = health(server).Watch(health_pb2.HealthCheckRequest(service=service), timeout=RPC_TIMEOUT_S)
    try:
        yield call
    finally:
        call.cancel()


@pytest.mark.parametrize("method", ["Check", "Watch"])
def test_names_of_services_are_short(server: RunningApp, method: str) -> None:
    request = health_pb2.HealthCheckRequest(service="x" * 1022)
    assert request.ByteSize() == 1025
    call = getattr(health(server), method)

    def ask() -> object:
        answer = call(request, timeout=RPC_TIMEOUT_S)
        return answer if method == "Check" else next(answer)

    error = error_of_call(ask)
    assert type(error) is FieldInvalidError
    assert error.message == f"request: expected at most 1024 bytes for /grpc.health.v1.Health/{method}; got 1025"


def test_a_name_that_is_just_short_enough_is_watched(server: RunningApp) -> None:
    with watch(server, "x" * 1021) as call:
        assert next(call).status == UNKNOWN


def test_streams_of_health_are_counted_and_probes_are_not(server: RunningApp) -> None:
    watches = server.app.interceptor.watches
    with watch(server) as first, watch(server, "some") as second:
        assert (next(first).status, next(second).status) == (SERVING, UNKNOWN)
        with watch(server) as third:
            error = error_of_call(lambda: next(third))
        assert type(error) is QuotaExceededError
        assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.metadata["limit"] == "2"
        assert probe(server) == SERVING
    server.wait_until(lambda: len(watches) == 0)
    with watch(server) as again:
        assert next(again).status == SERVING


def test_probes_are_answered_while_it_drains_and_all_watches_are_open(server: RunningApp) -> None:
    with watch(server) as first, watch(server) as second:
        assert [next(call).status for call in (first, second)] == [SERVING, SERVING]
        server.loop.run(server.app.drain(0.0))
        assert probe(server) == health_pb2.HealthCheckResponse.NOT_SERVING
        assert [next(call).status for call in (first, second)] == [health_pb2.HealthCheckResponse.NOT_SERVING] * 2
