"""Whoever has much to do holds nobody else up for longer than the scheduler says, counted in ticks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from cellserve.cells import BasicLSTMCell
from cellserve.tensors import tensor_from_array
from cellserve.v1 import recurrent_service_pb2 as messages
from cellserve.v1 import sequence_pb2
from cellserve_server.config import ServerConfig
from tests.gates import GatedNetwork
from tests.integration.edges import DEPTH, UNITS, create_session, step_request
from tests.integration.greedy import FRAME, STEP, GatedRuns, gauge, is_at_rest, own_connection, step_count, ticks
from tests.integration.stream_client import IN_THREAD, StreamClient, step_inputs
from tests.servers import RPC_TIMEOUT_S, RunningApp, define_model

Start = Callable[[ServerConfig], RunningApp]
ROWS, SESSIONS, MESSAGES = 16, 500, 4
CONFIG = replace(IN_THREAD, max_tick_rows=ROWS)
# The tick that is under way when a step arrives had begun without it.
UNDER_WAY = 1


def _begin_backlog(server: RunningApp, exit_: ExitStack, model: str, client: str) -> None:
    """A client of its own has thousands of steps under way, which nobody waits for."""
    stream = exit_.enter_context(StreamClient(exit_.enter_context(own_connection(server.address))))
    stream.open([f"{client}-{number}" for number in range(SESSIONS)], model=model)
    before = server.loop.call(lambda: server.app.engine.queue.runs)
    for _ in range(MESSAGES):
        stream.steps(range(SESSIONS), step_inputs(SESSIONS))
    server.wait_until(partial(_has_queued, server, before + SESSIONS * MESSAGES - ROWS * UNDER_WAY))


def _has_queued(server: RunningApp, runs: int) -> bool:
    return gauge(server, "cellserve_queue_runs") >= runs


def _ticks_until_served(server: RunningApp, gate: GatedNetwork, model: str) -> int:
    """Steps a session from yet another connection; how many ticks there are until that is done."""
    create_session(server, "neighbour", model)
    with own_connection(server.address) as stubs:
        begun = gauge(server, "grpc_server_started_total", STEP)
        answer = stubs.recurrent.Step.future(step_request("sessions/neighbour", inputs=[FRAME]), timeout=RPC_TIMEOUT_S)
        server.wait_until(lambda: gauge(server, "grpc_server_started_total", STEP) > begun)
        before = ticks(server)
        while not step_count(server, "neighbour"):
            gate.let()
            gate.wait_entered()
        after = ticks(server)
        assert answer.result().step_count == 1
        return after - before


@pytest.mark.parametrize("clients", [1, 3])
def test_a_clients_backlog_holds_no_other_client_up(start_server: Start, clients: int) -> None:
    server = start_server(CONFIG)
    model = define_model(server.stubs, BasicLSTMCell(UNITS), DEPTH).name
    with ExitStack() as exit_, GatedNetwork.over(server, model) as gate:
        for number in range(clients):
            _begin_backlog(server, exit_, model, f"greedy-{number}")
        gate.wait_entered()
        assert _ticks_until_served(server, gate, model) <= UNDER_WAY + 1, "every tick has a part for each client"
        assert _has_queued(server, clients * SESSIONS * MESSAGES - 3 * ROWS), "the others' steps came first"
    server.wait_until(lambda: is_at_rest(server))


@pytest.mark.parametrize("models", [1, 3])
def test_a_models_backlog_holds_no_other_model_up(start_server: Start, models: int) -> None:
    server = start_server(CONFIG)
    busy = [define_model(server.stubs, BasicLSTMCell(UNITS), DEPTH, seed).name for seed in range(models)]
    idle = define_model(server.stubs, BasicLSTMCell(UNITS), DEPTH, models).name
    with ExitStack() as exit_, GatedNetwork.over(server, busy[0]) as gate:
        # The first one's ticks wait at the gate, and so every lane's turn does.
        for number, model in enumerate(busy):
            _begin_backlog(server, exit_, model, f"greedy-{number}")
        gate.wait_entered()
        assert _ticks_until_served(server, gate, idle) <= UNDER_WAY + models + 1, "every model has its turn"
    server.wait_until(lambda: is_at_rest(server))


def test_endless_sequences_hold_no_step_up(start_server: Start) -> None:
    server = start_server(CONFIG)
    model = define_model(server.stubs, BasicLSTMCell(UNITS), DEPTH).name
    sequence = sequence_pb2.Sequence(values=[tensor_from_array(np.zeros((1, 1000, DEPTH), np.float32))])
    request = messages.RunSequenceRequest(model=model, inputs=sequence)
    with own_connection(server.address) as stubs, GatedRuns.over(server, model) as gate:
        calls: list[Any] = [stubs.recurrent.RunSequence.future(request, timeout=RPC_TIMEOUT_S) for _ in range(100)]
        server.wait_until(partial(_has_queued, server, len(calls)))
        gate.wait_entered()
        # A client's turns go to its queues one after the other: its sequences, then its steps.
        clients, queues = 2, 2
        assert _ticks_until_served(server, gate, model) <= UNDER_WAY + clients * queues
        gate.open()
        for call in calls:
            assert call.result().steps_applied == 1000
    server.wait_until(lambda: is_at_rest(server))
