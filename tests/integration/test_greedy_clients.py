"""Clients that take more than their share: memory stays bounded, the others are served, and nothing is lost."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import count, islice
from typing import Any

import numpy as np
import pytest

from cellserve.cells import BasicLSTMCell
from cellserve.errors import FieldInvalidError
from cellserve_client import RetryPolicy, connect
from cellserve_server.config import ServerConfig
from tests.gates import GatedNetwork
from tests.integration.edges import DEPTH, UNITS, create_session, step_request
from tests.integration.greedy import (
    FRAME,
    STEP,
    STREAM_STEPS,
    WIDE_ROWS,
    WIDE_STEPS,
    Flood,
    SeenFromOutside,
    Wide,
    endless_steps,
    gauge,
    is_at_rest,
    own_connection,
    step_count,
)
from tests.integration.stream_client import IN_THREAD, StreamClient, step_inputs
from tests.servers import RPC_TIMEOUT_S, TEST_CONFIG, RunningApp, define_model, server_process

Start = Callable[[ServerConfig], RunningApp]
# Hardly waits, and does not give up: it competes with those who never wait.
PATIENT = RetryPolicy(max_attempts=10_000, first_delay_s=0.001, max_delay_s=0.01, budget_refusals=1e6)


def _has_begun(server: RunningApp, steps: int) -> bool:
    return gauge(server, "grpc_server_started_total", STEP) == steps


def _greedy_sessions(server: RunningApp, model: str, number: int) -> list[str]:
    session_ids = [f"greedy-{i}" for i in range(number)]
    for session_id in session_ids:
        create_session(server, session_id, model)
    return session_ids


class Neighbour:
    """Steps a session of its own, on a connection of its own, and wants each step answered."""

    def __init__(self, server: RunningApp, exit_: ExitStack) -> None:
        self._stubs = exit_.enter_context(own_connection(server.address))
        create_session(server, "neighbour", define_model(server.stubs, BasicLSTMCell(UNITS), DEPTH).name)
        self._counts = count(1)

    def step(self) -> None:
        request = step_request("sessions/neighbour", inputs=[FRAME])
        answer = self._stubs.recurrent.Step(request, timeout=RPC_TIMEOUT_S)
        assert answer.step_count == next(self._counts)


def test_who_reads_slowly_holds_nobody_up_and_loses_nothing(start_server: Start) -> None:
    window, messages = 4, 20
    server = start_server(replace(TEST_CONFIG, stream_window_messages=window))
    wide = Wide.on(server.stubs)
    with ExitStack() as exit_:
        neighbour = Neighbour(server, exit_)
        stubs = exit_.enter_context(own_connection(server.address))
        requests = islice(endless_steps(wide.name, "slow"), 1 + messages)
        call = stubs.recurrent.StreamSteps(requests, timeout=RPC_TIMEOUT_S)
        assert next(call).HasField("opened")
        counts: list[int] = []
        while len(counts) < messages * WIDE_STEPS:
            neighbour.step()
            assert all(stream.unanswered <= window for stream in server.app.streams)
            assert gauge(server, "cellserve_queue_bytes") <= window * WIDE_STEPS * wide.run_bytes
            counts.extend(next(call).stepped.step_counts)
        assert counts == list(range(1, messages * WIDE_STEPS + 1))
        assert next(call, None) is None
    server.wait_until(lambda: is_at_rest(server))


def test_who_never_reads_is_held_back_and_holds_nobody_back(start_server: Start) -> None:
    window, streams = 4, 3
    server = start_server(replace(TEST_CONFIG, stream_window_messages=window))
    wide = Wide.on(server.stubs)
    with ExitStack() as exit_:
        neighbour = Neighbour(server, exit_)
        calls = []
        for number in range(streams):
            stubs = exit_.enter_context(own_connection(server.address))
            calls.append(stubs.recurrent.StreamSteps(endless_steps(wide.name, f"deaf-{number}")))
        # All are held back: what was read is computed, and waits to be read.
        server.wait_until(lambda: [stream.unanswered for stream in server.app.streams] == [window] * streams)
        server.wait_until(lambda: gauge(server, "cellserve_queue_runs") == 0)
        assert all(step_count(server, f"deaf-{number}") for number in range(streams))
        received = gauge(server, "grpc_server_msg_received_total", STREAM_STEPS)
        for _ in range(50):
            neighbour.step()
        assert gauge(server, "grpc_server_msg_received_total", STREAM_STEPS) == received
        assert gauge(server, "cellserve_queue_bytes") == 0
        for call in calls:
            call.cancel()
        server.wait_until(lambda: is_at_rest(server))
        neighbour.step()


def test_a_stream_that_sends_ten_times_what_is_served_is_served_in_turn(start_server: Start) -> None:
    rows, window, rounds = 4, 64, 10
    positions = 10 * rows
    server = start_server(replace(IN_THREAD, max_tick_rows=rows, stream_window_steps=window))
    model = define_model(server.stubs, BasicLSTMCell(UNITS), DEPTH).name
    create_session(server, "neighbour", model)
    with (
        own_connection(server.address) as stubs,
        StreamClient(server.stubs) as stream,
        GatedNetwork.over(server, model) as gate,
    ):
        handles = range(positions)
        stream.open([f"greedy-{handle}" for handle in handles], model=model)
        for number in range(rounds):
            stream.steps(handles, step_inputs(positions))
            if number == 0:
                gate.wait_entered()
            answer = stubs.recurrent.Step.future(
                step_request("sessions/neighbour", inputs=[FRAME]), timeout=RPC_TIMEOUT_S
            )
            server.wait_until(partial(_has_begun, server, number + 1))
            served = 0
            while step_count(server, "neighbour") == number:
                assert gauge(server, "cellserve_queue_runs") <= window + positions + 1
                gate.let()
                gate.wait_entered()
                served += 1
            assert served <= 2, "the tick that was under way, and the next"
            assert answer.result().step_count == number + 1
        gate.open()
        answers = stream.answers(rounds * positions)
        assert not answers.errors
        for position in handles:
            counts = [applied for (_, at), applied in sorted(answers.counts.items()) if at == position]
            assert counts == list(range(1, rounds + 1))
    server.wait_until(lambda: is_at_rest(server))


@pytest.mark.parametrize("coalesce", [True, False], ids=["stream", "requests"])
def test_ten_times_as_many_calls_as_are_taken_keep_nobody_out(start_server: Start, coalesce: bool) -> None:
    most = 16
    server = start_server(replace(TEST_CONFIG, max_concurrent_rpcs=most, queue_full_retry_ms=1))
    model = define_model(server.stubs, BasicLSTMCell(UNITS), DEPTH).name
    greedy = _greedy_sessions(server, model, 10 * most)
    with (
        own_connection(server.address) as stubs,
        connect(server.address, retry=PATIENT, coalesce=coalesce) as remote,
        remote.session(model) as session,
        Flood(stubs, greedy, np.ones(DEPTH, np.float32)) as flood,
    ):
        for _ in range(20):
            session.step(np.ones(DEPTH, np.float32))
            assert gauge(server, "cellserve_queue_runs") <= most
        assert session.step_count == 20
    assert not flood.errors
    assert flood.answered == {session_id: step_count(server, session_id) for session_id in greedy}
    server.wait_until(lambda: is_at_rest(server))


def test_calls_that_keep_the_queue_full_do_not_keep_streams_out(start_server: Start) -> None:
    most = 8
    server = start_server(replace(IN_THREAD, max_queued_runs=most, max_tick_rows=1))
    model = define_model(server.stubs, BasicLSTMCell(UNITS), DEPTH).name
    greedy = _greedy_sessions(server, model, 4 * most)
    with (
        own_connection(server.address) as stubs,
        StreamClient(server.stubs) as stream,
        GatedNetwork.over(server, model) as gate,
    ):

        def send(session_id: str) -> None:
            """Sends a call, and waits until it is taken or refused."""
            before = gauge(server, "grpc_server_started_total", STEP)
            request = step_request(f"sessions/{session_id}", inputs=[FRAME])
            calls.append(stubs.recurrent.Step.future(request, timeout=RPC_TIMEOUT_S))
            server.wait_until(lambda: gauge(server, "grpc_server_started_total", STEP) > before)

        calls: list[Any] = []
        stream.open(["neighbour"], model=model)
        for session_id in greedy[:most]:
            send(session_id)
        gate.wait_entered()
        stream.steps([0], step_inputs(1))
        server.wait_until(lambda: gauge(server, "grpc_server_msg_received_total", STREAM_STEPS) == 2)
        for session_id in greedy[most:]:
            if step_count(server, "neighbour"):
                break
            gate.let()
            gate.wait_entered()
            send(session_id)
        assert step_count(server, "neighbour") == 1, "its step waited as long as there were calls"
        gate.open()
        assert stream.answers(1).counts


def test_handles_of_any_size_take_no_time(start_server: Start) -> None:
    """Looked up by subtracting the size of a table again and again, these would take minutes."""
    server = start_server(IN_THREAD)
    model = define_model(server.stubs, BasicLSTMCell(UNITS), DEPTH).name
    with StreamClient(server.stubs) as stream:
        stream.open(["a"], model=model)
        handles = range(2**32 - 4000, 2**32)
        stream.steps(handles, step_inputs(len(handles)))
        answers = stream.answers(len(handles))
    assert {type(error) for error in answers.errors.values()} == {FieldInvalidError}
    assert len(answers.errors) == len(handles)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_memory_of_a_process_stays_bounded() -> None:
    window, streams, most_growth = 4, 3, 200 << 20
    flags = ["--http-port", "0", "--stream-window-messages", str(window)]
    with server_process(flags) as process, own_connection(process.address) as stubs, ExitStack() as exit_:
        seen, wide = SeenFromOutside(process), Wide.on(stubs)
        remote = exit_.enter_context(connect(process.address, retry=PATIENT))
        session = exit_.enter_context(remote.session(wide.name))
        flooded = [exit_.enter_context(remote.session(wide.name, batch_size=WIDE_ROWS)).id for _ in range(32)]
        session.step(np.ones(DEPTH, np.float32))
        before = seen.resident_bytes()
        connections = [exit_.enter_context(own_connection(process.address)) for _ in range(streams + 1)]
        calls = [
            connection.recurrent.StreamSteps(endless_steps(wide.name, f"deaf-{number}"))
            for number, connection in enumerate(connections[1:])
        ]
        with Flood(connections[0], flooded, np.ones((WIDE_ROWS, DEPTH), np.float32)) as flood:
            seen.wait_until(lambda metrics: metrics["cellserve_streams"] == streams + 1)
            for _ in range(60):
                session.step(np.ones(DEPTH, np.float32))
                assert seen.resident_bytes() - before < most_growth
        assert not flood.errors
        assert min(flood.answered.values()) > 0
        for call in calls:
            call.cancel()
        seen.wait_until(lambda metrics: (metrics["cellserve_streams"], metrics["cellserve_queue_bytes"]) == (1, 0))
        session.step(np.ones(DEPTH, np.float32))
