"""StreamSteps: its window, clients that do not read, how streams end, and the drain notice."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace

import grpc
import numpy as np
import pytest

from cellserve.cells import BasicLSTMCell, BasicRNNCell, OutputProjectionWrapper
from cellserve.errors import DrainingError, FieldInvalidError
from cellserve.v1 import model_service_pb2, stream_pb2
from cellserve_server.config import ServerConfig
from tests.gates import GatedNetwork
from tests.integration.edges import DEPTH, UNITS, get_session
from tests.integration.stream_client import IN_THREAD, StreamClient
from tests.servers import RPC_TIMEOUT_S, TEST_CONFIG, RunningApp, define_model

ONE_STEP = np.zeros((1, DEPTH), np.float32)

Start = Callable[[ServerConfig], RunningApp]


def _model(server: RunningApp) -> str:
    return define_model(server.stubs, BasicLSTMCell(UNITS), DEPTH).name


def _round_trips(server: RunningApp, count: int = 20) -> None:
    """Gives the server every occasion to do what it should not do."""
    for _ in range(count):
        server.stubs.models.ListModels(model_service_pb2.ListModelsRequest(), timeout=RPC_TIMEOUT_S)


@pytest.mark.parametrize("setting", ["stream_window_messages", "stream_window_bytes"])
def test_beyond_its_window_the_server_stops_reading(start_server: Start, setting: str) -> None:
    step_bytes = 4 * (DEPTH + UNITS)
    config = {
        "stream_window_messages": replace(IN_THREAD, stream_window_messages=3),
        "stream_window_bytes": replace(IN_THREAD, stream_window_bytes=150 * step_bytes),
    }[setting]
    positions = 1 if setting == "stream_window_messages" else 50
    server = start_server(config)
    model = _model(server)
    with StreamClient(server.stubs) as stream, GatedNetwork.over(server, model) as gate:
        stream.open(["a"], model=model)
        for _ in range(10):
            stream.steps([0] * positions, np.zeros((positions, DEPTH), np.float32))
        gate.wait_entered()
        server.wait_until(lambda: server.app.engine.queue.runs == 3 * positions)
        _round_trips(server)
        assert server.loop.call(lambda: server.app.engine.queue.runs) == 3 * positions
        gate.open()
        answers = stream.answers(10 * positions)
        assert sorted(answers.counts.values()) == list(range(1, 10 * positions + 1))


def test_a_client_that_never_reads_is_held_back(start_server: Start) -> None:
    window = 4
    server = start_server(replace(IN_THREAD, stream_window_messages=window))
    wide = define_model(server.stubs, OutputProjectionWrapper(BasicRNNCell(1), 50_000), DEPTH).name
    sent = itertools.count()

    def requests() -> Iterator[stream_pb2.StreamStepsRequest]:
        opened = stream_pb2.Open(
            seq=1, group=1, model=wide, names=["sessions/a"], handles=[0], create_if_missing=True, batch_size=2
        )
        yield stream_pb2.StreamStepsRequest(open=opened)
        # Messages of a size that fills HTTP/2's window soon, were the server not to read them.
        handles = [0] * 8
        for _ in range(10_000):
            next(sent)
            steps = stream_pb2.Steps(seq=2, group=1, handles=handles, inputs=[bytes(8 * 2 * 4 * DEPTH)])
            yield stream_pb2.StreamStepsRequest(steps=steps)

    call = server.stubs.recurrent.StreamSteps(requests(), timeout=RPC_TIMEOUT_S)
    app = server.app
    server.wait_until(lambda: [stream.unanswered for stream in app.streams] == [window])
    server.wait_until(lambda: app.engine.queue.runs == 0)  # All is computed and waits for the client.
    before = _steps_applied(server)
    _round_trips(server, 100)
    assert _steps_applied(server) == before <= 8 * (window + 8)
    assert server.loop.call(lambda: [stream.unanswered for stream in app.streams]) == [window]
    call.cancel()
    server.wait_until(lambda: len(app.streams) == 0)


def _steps_applied(server: RunningApp) -> int:
    return get_session(server, "a").step_count


def test_when_a_stream_ends_what_has_not_begun_is_dropped(start_server: Start) -> None:
    server = start_server(IN_THREAD)
    model = _model(server)
    with StreamClient(server.stubs) as stream, GatedNetwork.over(server, model) as gate:
        stream.open(["a", "b"], handles=[0, 1], model=model)
        stream.steps([0], ONE_STEP)
        gate.wait_entered()
        stream.steps([0], ONE_STEP)
        stream.steps([1], ONE_STEP)
        server.wait_until(lambda: server.app.engine.queue.runs == 3)
        stream.call.cancel()
        server.wait_until(lambda: len(server.app.streams) == 0)
        gate.open()
        server.wait_until(lambda: server.app.engine.queue.runs == 0)
    assert get_session(server, "a").step_count <= 1
    assert get_session(server, "b").step_count == 0


def test_a_client_that_has_ended_its_side_still_gets_its_answers(start_server: Start) -> None:
    server = start_server(IN_THREAD)
    model = _model(server)
    with StreamClient(server.stubs) as stream, GatedNetwork.over(server, model) as gate:
        stream.open(["a"], model=model)
        stream.steps([0], ONE_STEP)
        stream.steps([0], ONE_STEP)
        stream.end()
        gate.wait_entered()
        gate.open()
        assert [list(part.stepped.step_counts) for part in stream.call] == [[1], [2]]
        assert stream.call.code() is grpc.StatusCode.OK


def test_a_message_of_no_kind_ends_the_stream(start_server: Start) -> None:
    server = start_server(IN_THREAD)
    with StreamClient(server.stubs) as stream:
        stream.send(stream_pb2.StreamStepsRequest())
        error = stream.error()
    assert isinstance(error, FieldInvalidError)
    assert "kind" in error.message


def _drain(server: RunningApp) -> Future[None]:
    async def drain() -> None:
        await server.app.drain()

    return server.loop.begin(drain())


def test_streams_are_told_of_a_drain_and_get_what_is_under_way(start_server: Start) -> None:
    server = start_server(IN_THREAD)
    model = _model(server)
    with StreamClient(server.stubs) as stream, GatedNetwork.over(server, model) as gate:
        stream.open(["a"], model=model)
        begun = stream.steps([0], ONE_STEP)
        gate.wait_entered()
        drained = _drain(server)
        notice = stream.receive().draining
        assert (notice.whole_stream, notice.grace.seconds) == (True, int(TEST_CONFIG.drain_timeout_s))
        late = stream.steps([0], ONE_STEP)
        refused = stream.answers(1)
        assert isinstance(refused.errors[late, 0], DrainingError)
        assert refused.errors[late, 0].retry_after_s is not None
        gate.open()
        assert stream.answers(1).counts == {(begun, 0): 1}
        assert isinstance(stream.error(), DrainingError)  # The end of the stream.
        drained.result(RPC_TIMEOUT_S)


def test_a_drain_waits_no_longer_than_it_may(start_server: Start) -> None:
    server = start_server(replace(IN_THREAD, drain_timeout_s=0.0))
    model = _model(server)
    with StreamClient(server.stubs) as stream, GatedNetwork.over(server, model) as gate:
        stream.open(["a", "b"], model=model)
        begun = stream.steps([0], ONE_STEP)
        gate.wait_entered()
        waiting = stream.steps([0, 1], np.zeros((2, DEPTH), np.float32))
        server.wait_until(lambda: server.app.engine.queue.runs == 3)
        drained = _drain(server)
        assert stream.receive().HasField("draining")
        gate.open()  # The tick that has begun is not torn.
        answers = stream.answers(3)
        drained.result(RPC_TIMEOUT_S)
    assert set(answers.counts) <= {(begun, 0)}
    assert {type(answers.errors[waiting, position]) for position in (0, 1)} == {DrainingError}
