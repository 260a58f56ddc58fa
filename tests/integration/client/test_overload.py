"""Clients of a server that has too much to do: how often they try again, and how they recover."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from cellserve.errors import QueueFullError
from cellserve.v1 import stream_pb2
from cellserve_client import RetryPolicy, Session, rnn
from cellserve_server.config import ServerConfig
from tests.clients import Kind, client
from tests.clocks import ManualClock
from tests.gates import GatedNetwork
from tests.integration.client.helpers import DEPTH, UNITS
from tests.integration.greedy import STEP, gauge, own_connection
from tests.servers import RPC_TIMEOUT_S, TEST_CONFIG, LoopThread, RunningApp

Start = Callable[[ServerConfig], RunningApp]
BUDGET, REFUND, CALLS = 5, 0.25, 40
POLICY = RetryPolicy(first_delay_s=0.001, max_delay_s=0.001, budget_refusals=BUDGET, budget_refund=REFUND)
FRAME = np.ones(DEPTH, np.float32)


@contextmanager
def refusing_everything(server: RunningApp) -> Iterator[None]:
    """Takes the only RPC that a server does at once, so that it refuses all others; at the end it is well again."""
    over = threading.Event()

    def say_nothing() -> Iterator[stream_pb2.StreamStepsRequest]:
        over.wait(RPC_TIMEOUT_S)
        yield from ()

    with own_connection(server.address) as stubs:
        call = stubs.recurrent.StreamSteps(say_nothing())
        server.wait_until(lambda: server.app.interceptor.admission.active == 1)
        yield
        over.set()
        assert list(call) == []
        server.wait_until(lambda: server.app.interceptor.admission.active == 0)


def attempts(server: RunningApp) -> int:
    """How many Steps have come in, whatever became of them."""
    return int(gauge(server, "grpc_server_started_total", STEP))


def refused_steps(server: RunningApp, session: Session) -> int:
    """Makes many calls that a server refuses; returns the attempts that it saw."""
    before = attempts(server)
    for _ in range(CALLS):
        with pytest.raises(QueueFullError, match="max_concurrent_rpcs"):
            session.step(FRAME)
    return attempts(server) - before


def test_retries_of_what_a_server_refuses_are_bounded_by_a_budget_that_successes_fill(
    start_server: Start, client_kind: Kind, loop_thread: LoopThread
) -> None:
    server = start_server(replace(TEST_CONFIG, max_concurrent_rpcs=1, queue_full_retry_ms=1))
    with client(client_kind, loop_thread, server.address, retry=POLICY, coalesce=False) as remote:
        session = remote.cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH).session()
        session.step(FRAME)
        with refusing_everything(server):
            assert refused_steps(server, session) == CALLS + BUDGET
            # Nothing of it is left, and nothing comes back by asking.
            assert refused_steps(server, session) == CALLS
        for _ in range(8):
            session.step(FRAME)
        with refusing_everything(server):
            assert refused_steps(server, session) == CALLS + 8 * REFUND
        for _ in range(100):
            session.step(FRAME)
        with refusing_everything(server):
            assert refused_steps(server, session) == CALLS + BUDGET
        assert session.step_count == 1 + 8 + 100


def test_a_step_that_waited_too_long_on_the_stream_is_refused_and_its_session_goes_on(
    start_server: Start, client_kind: Kind, loop_thread: LoopThread, clock: ManualClock
) -> None:
    server = start_server(replace(TEST_CONFIG, inline_tick_us=0, at_once_us=0))
    with client(client_kind, loop_thread, server.address, retry=RetryPolicy(max_attempts=1)) as remote:
        cell = remote.cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
        busy, waiting = cell.session(), cell.session()
        for session in (busy, waiting):
            session.step(FRAME)
        with GatedNetwork.over(server, busy.model.resource_name) as gate, ThreadPoolExecutor(2) as threads:
            under_way = threads.submit(busy.step, FRAME)
            gate.wait_entered()
            refused = threads.submit(waiting.step, FRAME, timeout_s=10.0)
            server.wait_until(lambda: gauge(server, "cellserve_queue_runs") == 2)
            clock.advance(8.0)
            gate.open()
            with pytest.raises(QueueFullError, match="the server is overloaded") as found:
                refused.result(RPC_TIMEOUT_S)
            assert found.value.retry_after_s == 8.0
            under_way.result(RPC_TIMEOUT_S)
        waiting.step(FRAME)
        assert (busy.step_count, waiting.step_count) == (2, 2)
        # It was told that nothing was applied, so it had nothing to ask.
        assert not gauge(server, "grpc_server_started_total", {**STEP, "grpc_method": "GetSession"})


def test_a_step_that_is_refused_once_is_done_by_a_retry(
    start_server: Start, client_kind: Kind, loop_thread: LoopThread
) -> None:
    server = start_server(replace(TEST_CONFIG, max_concurrent_rpcs=1, queue_full_retry_ms=1))
    patient = replace(POLICY, max_attempts=10_000, budget_refusals=1e6)
    with client(client_kind, loop_thread, server.address, retry=patient, coalesce=False) as remote:
        session = remote.cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH).session()
        with refusing_everything(server):
            before = attempts(server)
            stepping = threading.Thread(target=session.step, args=(FRAME,))
            stepping.start()
            server.wait_until(lambda: attempts(server) > before + 2)
        stepping.join(RPC_TIMEOUT_S)
        assert session.step_count == 1
