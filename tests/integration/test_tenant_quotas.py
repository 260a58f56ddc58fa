"""What a tenant may take is refused beyond it, by the quota's name, and nobody else notices."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cellserve.cells import BasicLSTMCell
from cellserve.errors import CellServeError, error_of
from cellserve.tensors import tensor_from_array
from cellserve.v1 import model_service_pb2, sequence_pb2, session_pb2
from cellserve.v1 import recurrent_service_pb2 as messages
from cellserve_server.config import ServerConfig
from tests.clocks import ManualClock
from tests.gates import GatedNetwork
from tests.identities import TokenBook
from tests.integration.edges import DEPTH, UNITS, floats, step_request
from tests.integration.stream_client import IN_THREAD, StreamClient, step_inputs
from tests.servers import RPC_TIMEOUT_S, RunningApp, Stubs, define_model, error_of_call
from tests.tenants import stubs_of

Start = Callable[[ServerConfig], RunningApp]
FRAME = floats(DEPTH)


class Scene:
    """A server with two tenants: ``greedy``, which has the quotas of the file, and ``polite``."""

    def __init__(self, start: Start, folder: Path, exit_: ExitStack) -> None:
        self._start, self._exit = start, exit_
        self._file = folder / "quotas.toml"
        self._book = TokenBook.at(folder / "tokens")
        self._tokens = {tenant: self._book.issue(tenant) for tenant in ("greedy", "polite")}

    def write(self, **quotas: float) -> None:
        """Writes the file of quotas."""
        lines = [f"{name} = {value}" for name, value in quotas.items()]
        self._file.write_text("\n".join(("[tenants.greedy]", *lines)), encoding="utf-8")

    def serve(self, **quotas: float) -> Scene:
        """Starts the server."""
        self.write(**quotas)
        config = self._book.config(IN_THREAD)
        self.server = self._start(ServerConfig(**{**vars(config), "quotas_file": str(self._file)}))
        self.greedy, self.polite = (self.connect(tenant) for tenant in ("greedy", "polite"))
        self.model = define_model(self.polite, BasicLSTMCell(UNITS), DEPTH).name
        assert define_model(self.greedy, BasicLSTMCell(UNITS), DEPTH).name == self.model
        return self

    def connect(self, tenant: str) -> Stubs:
        """Another connection of a tenant."""
        return self._exit.enter_context(stubs_of(self.server.address, self._tokens[tenant]))

    def create(self, stubs: Stubs, id_: str, batch_size: int = 0) -> None:
        """Makes a session."""
        session = session_pb2.Session(model=self.model, batch_size=batch_size)
        stubs.recurrent.CreateSession(messages.CreateSessionRequest(session_id=id_, session=session))

    def refused(self, call: Callable[[], object], quota: str, limit: float, reason: str = "QUOTA_EXCEEDED") -> Any:
        """The call is refused for this quota; the error."""
        return expect(error_of_call(call), quota, limit, reason)


def expect(error: CellServeError, quota: str, limit: float, reason: str = "QUOTA_EXCEEDED") -> CellServeError:
    """The error is that of this quota."""
    assert (error.code.name, error.reason) == ("RESOURCE_EXHAUSTED", reason), error.message
    assert (error.metadata["quota"], error.metadata["limit"]) == (quota, str(limit))
    assert quota in error.message or reason == "QUEUE_FULL"
    return error


@pytest.fixture
def scene(start_server: Start, tmp_path: Path) -> Iterator[Scene]:
    with ExitStack() as exit_:
        yield Scene(start_server, tmp_path, exit_)


def step(stubs: Stubs, name: str) -> messages.StepResponse:
    answer: messages.StepResponse = stubs.recurrent.Step(
        step_request(f"sessions/{name}", inputs=[FRAME]), timeout=RPC_TIMEOUT_S
    )
    return answer


@contextmanager
def reflecting(stubs: Stubs) -> Iterator[Any]:
    """A stream of reflection that has one answer and stays open."""
    over = threading.Event()

    def requests() -> Iterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        over.wait(RPC_TIMEOUT_S)

    stub: Any = reflection_pb2_grpc.ServerReflectionStub(stubs.channel)
    call = stub.ServerReflectionInfo(requests(), timeout=RPC_TIMEOUT_S)
    try:
        yield call
    finally:
        over.set()
        call.cancel()


@pytest.mark.parametrize(
    ("quota", "limit", "batch_size", "fitting"),
    [("max_sessions", 2, 0, 2), ("max_state_rows", 7, 3, 2), ("max_state_bytes", 1024, 10, 2)],
)
def test_sessions(scene: Scene, quota: str, limit: int, batch_size: int, fitting: int) -> None:
    scene.serve(**{quota: limit})
    for number in range(fitting):
        scene.create(scene.greedy, f"s{number}", batch_size)
    error = scene.refused(lambda: scene.create(scene.greedy, "more", batch_size), quota, limit)
    assert error.retry_after_s is not None
    assert "of this tenant" in error.message
    for number in range(fitting + 1):
        scene.create(scene.polite, f"s{number}", batch_size)
    scene.greedy.recurrent.DeleteSession(messages.DeleteSessionRequest(name="sessions/s0"))
    scene.create(scene.greedy, "more", batch_size)


def test_a_part_of_what_the_server_takes_is_the_default(scene: Scene) -> None:
    scene.serve()
    limits = scene.server.app.limits
    for name in ("max_sessions", "max_state_bytes", "max_queued_runs", "max_concurrent_rpcs", "max_streams"):
        for tenant in ("polite", "default"):
            assert getattr(limits.of(tenant), name) == getattr(ServerConfig(), name) // 2


def test_sizes_of_single_things(scene: Scene) -> None:
    """No retry helps against these, and a client can know them: they are bad requests."""
    scene.serve(max_rows=2, max_sequence_steps=4, max_message_bytes=2048)
    error = error_of_call(lambda: scene.create(scene.greedy, "wide", 3))
    assert (error.code.name, error.reason) == ("INVALID_ARGUMENT", "FIELD_INVALID")
    values = [tensor_from_array(np.zeros((1, 5, DEPTH), np.float32))]
    long = messages.RunSequenceRequest(model=scene.model, inputs=sequence_pb2.Sequence(values=values))
    error = error_of_call(lambda: scene.greedy.recurrent.RunSequence(long))
    assert error.metadata["max_sequence_steps"] == "4"
    large = messages.StepRequest(name="sessions/" + "s" * 3000)
    error = error_of_call(lambda: scene.greedy.recurrent.Step(large))
    assert (error.metadata["quota"], error.metadata["limit"]) == ("max_message_bytes", "2048")
    known = scene.greedy.models.GetModel(model_service_pb2.GetModelRequest(name=scene.model)).model.limits
    assert (known.max_rows, known.max_sequence_steps, known.max_message_bytes) == (2, 4, 2048)
    scene.create(scene.polite, "wide", 3)
    assert scene.polite.recurrent.RunSequence(long).steps_applied == 5


def test_streams_and_their_handles(scene: Scene) -> None:
    scene.serve(max_streams=1, max_stream_handles=2)
    with StreamClient(scene.greedy) as first, StreamClient(scene.polite) as other:
        opened = first.open(["a", "b", "c"], model=scene.model)
        expect(error_of(opened.status), "max_stream_handles", 2)
        assert not first.open(["a", "b"], model=scene.model).errors
        with StreamClient(scene.greedy) as second:
            assert expect(second.error(), "max_streams", 1).retry_after_s is not None
        assert len(other.open(["a", "b", "c"], model=scene.model).uids) == 3
    scene.server.wait_until(lambda: len(scene.server.app.streams) == 0)
    with StreamClient(scene.greedy) as again:
        assert not again.open(["a"], model=scene.model).errors


def test_rpcs_at_once(scene: Scene) -> None:
    scene.serve(max_concurrent_rpcs=1)
    scene.create(scene.polite, "s")
    scene.create(scene.greedy, "s")
    with StreamClient(scene.greedy) as stream:
        stream.open(["s"], model=scene.model)
        error = scene.refused(lambda: step(scene.greedy, "s"), "max_concurrent_rpcs", 1, "QUEUE_FULL")
        assert error.retry_after_s is not None
        assert step(scene.polite, "s").step_count == 1
    scene.server.wait_until(lambda: scene.server.app.interceptor.admission.active_of("greedy") == 0)
    assert step(scene.greedy, "s").step_count == 1


def test_streams_of_reflection_are_a_tenants_rpcs_and_streams(scene: Scene) -> None:
    scene.serve(max_concurrent_rpcs=2, max_streams=1)
    admission = scene.server.app.interceptor.admission
    with reflecting(scene.greedy) as first:
        next(first)
        assert scene.server.loop.call(lambda: admission.active_of("greedy")) == 1
        with reflecting(scene.greedy) as second:
            expect(error_of_call(lambda: next(second)), "max_streams", 1)
        with StreamClient(scene.greedy) as stream:
            expect(stream.error(), "max_streams", 1)
        with reflecting(scene.polite) as other:
            next(other)
    scene.server.wait_until(lambda: admission.active == 0)
    with StreamClient(scene.greedy) as stream, StreamClient(scene.polite) as other_stream:
        for client in (stream, other_stream):
            assert not client.open([], model=scene.model).errors


def test_a_stream_of_reflection_takes_the_room_of_an_rpc_and_holds_no_drain_up(scene: Scene) -> None:
    scene.serve(max_concurrent_rpcs=1)
    scene.create(scene.greedy, "s")
    with reflecting(scene.greedy) as stream:
        next(stream)
        scene.refused(lambda: step(scene.greedy, "s"), "max_concurrent_rpcs", 1, "QUEUE_FULL")
        admission = scene.server.app.interceptor.admission
        scene.server.loop.run(admission.wait_idle())
        assert scene.server.loop.call(lambda: admission.active) == 1


def test_a_part_of_the_queue(scene: Scene) -> None:
    scene.serve(max_queued_runs=1)
    for stubs in (scene.polite, scene.greedy):
        for id_ in ("a", "b"):
            scene.create(stubs, id_)
    with GatedNetwork.over(scene.server, scene.model, "greedy") as gate:
        first = scene.greedy.recurrent.Step.future(step_request("sessions/a", inputs=[FRAME]), timeout=RPC_TIMEOUT_S)
        gate.wait_entered()
        error = scene.refused(lambda: step(scene.greedy, "b"), "max_queued_runs", 1, "QUEUE_FULL")
        assert error.retry_after_s is not None
        other = scene.polite.recurrent.Step.future(step_request("sessions/a", inputs=[FRAME]), timeout=RPC_TIMEOUT_S)
        scene.server.wait_until(lambda: scene.server.app.engine.queue.runs == 2)
        gate.open()
        assert first.result().step_count == other.result().step_count == 1
    assert step(scene.greedy, "b").step_count == 1


def test_calls_that_come_too_fast_are_refused_until_their_time(scene: Scene, clock: ManualClock) -> None:
    scene.serve(max_steps_per_s=10)
    scene.create(scene.polite, "s")
    scene.create(scene.greedy, "s")
    values = [tensor_from_array(np.zeros((1, 30, DEPTH), np.float32))]
    sequence = messages.RunSequenceRequest(model=scene.model, inputs=sequence_pb2.Sequence(values=values))
    # A second's worth at once, and two seconds' worth of debt.
    assert scene.greedy.recurrent.RunSequence(sequence).steps_applied == 30
    error = scene.refused(lambda: step(scene.greedy, "s"), "max_steps_per_s", 10)
    assert error.retry_after_s == pytest.approx(2.0)
    for _ in range(50):
        step(scene.polite, "s")
    clock.advance(1.9)
    scene.refused(lambda: step(scene.greedy, "s"), "max_steps_per_s", 10)
    clock.advance(0.1)
    assert step(scene.greedy, "s").step_count == 1


def test_streams_that_come_too_fast_wait(scene: Scene) -> None:
    scene.serve(max_steps_per_s=100)
    with StreamClient(scene.greedy) as stream:
        stream.open(["s"], model=scene.model)
        began = time.monotonic()
        for _ in range(2):
            stream.steps([0] * 110, step_inputs(110))
        counts = sorted(stream.answers(220).counts.values())
        assert counts == list(range(1, 221)), "nothing was refused, and nothing left out"
        assert time.monotonic() - began >= 0.1, "the second message paid for what the first one was beyond"


def test_the_file_is_read_again(scene: Scene) -> None:
    scene.serve(max_sessions=1)
    scene.create(scene.greedy, "a")
    scene.refused(lambda: scene.create(scene.greedy, "b"), "max_sessions", 1)
    scene.write(max_sessions=20)
    scene.server.loop.call(scene.server.app.limits.refresh)
    scene.create(scene.greedy, "b")
    scene.write(max_sessions="many")  # type: ignore[arg-type]
    scene.server.loop.call(scene.server.app.limits.refresh)
    scene.create(scene.greedy, "c")
