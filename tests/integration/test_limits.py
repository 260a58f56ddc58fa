"""What is refused because a limit is reached, and what one caller cannot do to another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import grpc
import numpy as np
import pytest

from cellserve.cells import BasicLSTMCell
from cellserve.errors import from_rpc_error
from cellserve.tensors import tensor_from_array
from cellserve_server.app import server_options
from cellserve_server.config import INT32_MAX, ServerConfig
from tests.clocks import ManualClock
from tests.gates import GatedNetwork
from tests.integration.edges import (
    DEPTH,
    UNITS,
    Edge,
    create_session,
    expect_error,
    floats,
    get_session,
    step_request,
)
from tests.integration.greedy import own_connection
from tests.servers import (
    RPC_TIMEOUT_S,
    TEST_CONFIG,
    RunningApp,
    define_model,
    error_of_call,
)


def test_nan_passes_and_stays_in_its_session(edge: Edge) -> None:
    stubs = edge.server.stubs.recurrent
    for id_ in ("ill", "well"):
        create_session(edge.server, id_, edge.lstm)
    nan = tensor_from_array(np.full(DEPTH, np.nan, np.float32))
    ill = stubs.Step.future(step_request("sessions/ill", inputs=[nan]))
    well = stubs.Step.future(step_request("sessions/well", inputs=[floats(DEPTH)]))
    assert np.isnan(np.frombuffer(ill.result().outputs[0].data, np.float32)).all()
    assert np.isfinite(np.frombuffer(well.result().outputs[0].data, np.float32)).all()


def test_a_full_queue_and_a_passed_deadline(
    start_server: Callable[[ServerConfig], RunningApp], clock: ManualClock
) -> None:
    server = start_server(replace(TEST_CONFIG, max_queued_runs=2, inline_tick_us=0))
    name = define_model(server.stubs, BasicLSTMCell(UNITS), DEPTH).name
    for id_ in ("a", "b", "c"):
        create_session(server, id_, name)
    step = server.stubs.recurrent.Step
    with GatedNetwork.over(server, name) as gate:
        first = step.future(step_request("sessions/a", inputs=[floats(DEPTH)]), timeout=RPC_TIMEOUT_S)
        gate.wait_entered()
        second = step.future(step_request("sessions/b", inputs=[floats(DEPTH)]), timeout=RPC_TIMEOUT_S)
        server.wait_until(lambda: server.app.engine.queue.runs == 2)
        error = expect_error(
            lambda: step(step_request("sessions/c", inputs=[floats(DEPTH)])),
            "RESOURCE_EXHAUSTED",
            "QUEUE_FULL",
            ["2 of 2"],
        )
        assert error.retry_after_s == pytest.approx(0.05)
        clock.advance(RPC_TIMEOUT_S + 1)
        gate.open()
        assert first.result().step_count == 1  # It had begun its only step.
        assert from_rpc_error(second.exception()).code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert get_session(server, "b").step_count == 0


def test_an_oversized_message(edge: Edge) -> None:
    step = edge.server.stubs.recurrent.Step
    request = step_request(inputs=[floats(200, 100)])
    words = f"request: expected at most 65536 bytes (max_message_bytes); got {request.ByteSize()}"
    error = expect_error(lambda: step(request, timeout=RPC_TIMEOUT_S), "INVALID_ARGUMENT", "FIELD_INVALID", [words])
    assert error.metadata["max_message_bytes"] == "65536"
    # What is far larger is not even received: grpc refuses it by its length.
    request = step_request(inputs=[floats(1000, 100)])
    error = error_of_call(lambda: step(request, timeout=RPC_TIMEOUT_S))
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_long_name_in_a_message_is_cut_and_not_an_error_of_the_transport(edge: Edge) -> None:
    error = error_of_call(lambda: get_session(edge.server, "\N{EURO SIGN}" * 5000))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT


def test_too_many_sessions(start_server: Callable[[ServerConfig], RunningApp]) -> None:
    server = start_server(replace(TEST_CONFIG, max_sessions=1))
    name = define_model(server.stubs, BasicLSTMCell(UNITS), DEPTH).name
    create_session(server, "one", name)
    error = expect_error(
        lambda: create_session(server, "two", name), "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", ["max_sessions", "1"]
    )
    assert (error.metadata["quota"], error.metadata["limit"]) == ("max_sessions", "1")
    assert error.retry_after_s is not None


def test_too_many_rpcs_at_once(start_server: Callable[[ServerConfig], RunningApp]) -> None:
    server = start_server(replace(TEST_CONFIG, inline_tick_us=0))
    name = define_model(server.stubs, BasicLSTMCell(UNITS), DEPTH).name
    create_session(server, "a", name)
    # HTTP/2 would hold a second RPC of the same connection back; another connection shows the server's own limit.
    server.loop.call(lambda: setattr(server.app.interceptor.admission, "max_rpcs", 1))
    with GatedNetwork.over(server, name) as gate:
        busy = server.stubs.recurrent.Step.future(step_request("sessions/a", inputs=[floats(DEPTH)]))
        gate.wait_entered()
        error = expect_error(
            lambda: get_session(server, "a"), "RESOURCE_EXHAUSTED", "QUEUE_FULL", ["max_concurrent_rpcs", "1"]
        )
        assert error.retry_after_s is not None
        gate.open()
        assert busy.result().step_count == 1


def test_more_rpcs_than_a_connection_may_have_wait_at_the_client(
    start_server: Callable[[ServerConfig], RunningApp],
) -> None:
    server = start_server(replace(TEST_CONFIG, inline_tick_us=0, max_connection_rpcs=2))
    name = define_model(server.stubs, BasicLSTMCell(UNITS), DEPTH).name
    for id_ in "abcd":
        create_session(server, id_, name)
    with own_connection(server.address) as stubs, GatedNetwork.over(server, name) as gate:
        calls = [
            stubs.recurrent.Step.future(step_request(f"sessions/{id_}", inputs=[floats(DEPTH)]), timeout=RPC_TIMEOUT_S)
            for id_ in "abc"
        ]
        gate.wait_entered()
        server.wait_until(lambda: server.app.engine.queue.runs == 2)
        other = server.stubs.recurrent.Step.future(step_request("sessions/d", inputs=[floats(DEPTH)]))
        server.wait_until(lambda: server.app.engine.queue.runs == 3)
        assert server.app.interceptor.admission.active == 3, "two of the first, and the other's"
        gate.open()
        for call in (*calls, other):
            assert call.result().step_count == 1, "nothing was refused"


def test_what_grpc_is_told_of_connections() -> None:
    options = dict(server_options(ServerConfig(max_connection_idle_s=90.0, keepalive_s=1.5)))
    assert options["grpc.keepalive_time_ms"] == 1500
    assert options["grpc.keepalive_timeout_ms"] == 20_000
    assert options["grpc.max_connection_idle_ms"] == 90_000
    assert options["grpc.max_connection_age_ms"] == INT32_MAX, "never"
    assert options["grpc.max_connection_age_grace_ms"] == 60_000
    assert options["grpc.http2.min_ping_interval_without_data_ms"] == 10_000
    assert options["grpc.max_concurrent_streams"] == 4096
