"""StreamSteps: partial answers in any order, errors by position, repeats, timeouts, Cancel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from cellserve.cells import BasicLSTMCell, BasicRNNCell, OutputProjectionWrapper
from cellserve.errors import error_of
from cellserve.tensors import Array
from cellserve.v1 import recurrent_service_pb2 as messages
from cellserve.v1 import sequence_pb2, stream_pb2
from cellserve_server.config import ServerConfig
from tests.clocks import ManualClock
from tests.gates import GatedNetwork
from tests.integration.edges import (
    DEPTH,
    UNITS,
    floats,
    get_session,
    letters_spec,
)
from tests.integration.stream_client import IN_THREAD, StreamClient, Streaming, step_inputs
from tests.servers import RPC_TIMEOUT_S, RunningApp, define_model, define_spec


def _outputs(stepped: stream_pb2.Stepped, rows: int = 1, units: int = UNITS) -> Array:
    return np.frombuffer(stepped.outputs[0], np.float32).reshape(-1, rows, units)


def test_a_slow_session_holds_nobody_back(streaming: Streaming) -> None:
    server, model, stream = streaming
    stream.open(["slow", "quick"], model=model)
    run = messages.RunSequenceRequest(
        session="sessions/slow", inputs=sequence_pb2.Sequence(values=[floats(1, 2, DEPTH)])
    )
    with GatedNetwork.over(server, model) as gate:
        sequence = server.stubs.recurrent.RunSequence.future(run, timeout=RPC_TIMEOUT_S)
        gate.wait_entered()
        stream.steps([0, 1], step_inputs(2))
        server.wait_until(lambda: server.app.engine.queue.runs == 3)
        gate.let()  # The sequence's first step.
        gate.wait_entered()
        gate.let()  # The quick session's.
        first = stream.stepped()
        assert (list(first.positions), list(first.step_counts)) == ([1], [1])
        gate.wait_entered()
        gate.let()  # The sequence's second.
        gate.wait_entered()
        gate.let()
        second = stream.stepped()
        assert (list(second.positions), list(second.step_counts)) == ([0], [3])
        assert sequence.result().step_count == 2


def test_what_one_tick_finishes_goes_out_together(streaming: Streaming) -> None:
    _, model, stream = streaming
    stream.open([f"s{number}" for number in range(100)], model=model)
    stream.steps(range(100), step_inputs(100))
    stepped = stream.stepped()
    assert not stepped.positions  # All of them.
    assert list(stepped.step_counts) == [1] * 100
    assert _outputs(stepped).shape == (100, 1, UNITS)


def test_errors_by_position(streaming: Streaming) -> None:
    server, model, stream = streaming
    stream.open(["good", "gone", "reset", "ahead"], model=model)
    server.stubs.recurrent.DeleteSession(messages.DeleteSessionRequest(name="sessions/gone"))
    server.stubs.recurrent.ResetSession(messages.ResetSessionRequest(name="sessions/reset"))
    seq = stream.steps([0, 1, 2, 3, 77, 0], step_inputs(6), expected_steps=[0, -1, -1, 5, -1, -9])
    answers = stream.answers(6)
    assert answers.counts == {(seq, 0): 1}
    errors = {position: error for (_, position), error in answers.errors.items()}
    assert {position: error.reason for position, error in errors.items()} == {
        1: "SESSION_NOT_FOUND",
        2: "SESSION_NOT_FOUND",
        3: "STEP_OUT_OF_ORDER",
        4: "FIELD_INVALID",
        5: "FIELD_INVALID",
    }
    assert "deleted" in errors[1].message
    assert "reset" in errors[2].message
    assert errors[3].metadata == {"session": "ahead", "expected_step": "5", "step_count": "0"}


def test_ids_out_of_range_fail_alone(streaming: Streaming) -> None:
    server, _, stream = streaming
    letters = define_spec(server.stubs, letters_spec()).name
    stream.open(["a", "b"], model=letters)
    seq = stream.steps([0, 1], np.array([4, 5], np.int32))
    answers = stream.answers(2)
    assert answers.counts == {(seq, 0): 1}
    assert "0 to 4" in answers.errors[seq, 1].message


@pytest.mark.parametrize(
    ("fields", "reason", "word"),
    [
        ({"group": 9}, "FIELD_INVALID", "group"),
        ({"inputs": [bytes(15)]}, "SHAPE_MISMATCH", "inputs[0]"),
        ({"inputs": [bytes(17)]}, "SHAPE_MISMATCH", "17"),
        ({"inputs": []}, "FIELD_INVALID", "inputs"),
        ({"inputs": [bytes(16)] * 2}, "FIELD_INVALID", "inputs"),
        ({"expected_steps": [0]}, "FIELD_INVALID", "expected_steps"),
        ({"run_ids": [1, 2, 3]}, "FIELD_INVALID", "run_ids"),
        ({"timeouts_ms": [1]}, "FIELD_INVALID", "timeouts_ms"),
        ({"handles": [0] * 20_000, "inputs": [bytes(160_000)]}, "FIELD_INVALID", "handles"),
    ],
)
def test_steps_that_are_refused_as_a_whole_leave_the_stream_alive(
    streaming: Streaming, fields: dict[str, object], reason: str, word: str
) -> None:
    _, model, stream = streaming
    stream.open(["a", "b"], model=model)
    request = stream_pb2.Steps(**{"seq": 50, "group": 1, "handles": [0, 1], "inputs": [bytes(16)], **fields})  # type: ignore[arg-type]
    stream.send(stream_pb2.StreamStepsRequest(steps=request))
    stepped = stream.stepped()
    error = error_of(stepped.status)
    assert (stepped.seq, error.reason, word in error.message) == (50, reason, True), error.message
    assert not stepped.errors
    stream.steps([0, 1], step_inputs(2))
    assert list(stream.stepped().step_counts) == [1, 1]


def test_no_steps_at_all(streaming: Streaming) -> None:
    _, model, stream = streaming
    stream.open(["a"], model=model)
    seq = stream.steps([], step_inputs(0))
    assert stream.stepped() == stream_pb2.Stepped(seq=seq, group=1)


def test_repeats_are_marked(streaming: Streaming) -> None:
    _, model, stream = streaming
    stream.open(["a", "b"], model=model)
    first_seq = stream.steps([0, 1], step_inputs(2), expected_steps=[0, 0], run_ids=[11, 12])
    first = stream.answers(2)
    assert not first.replayed
    seq = stream.steps([1, 0], step_inputs(2)[::-1], expected_steps=[0, 0], run_ids=[12, 11])
    again = stream.answers(2)
    assert again.replayed == {(seq, 0), (seq, 1)}
    assert again.counts == {(seq, 0): 1, (seq, 1): 1}
    for position, before in ((0, 1), (1, 0)):
        np.testing.assert_allclose(
            np.frombuffer(again.outputs[seq, position], np.float32),
            np.frombuffer(first.outputs[first_seq, before], np.float32),
            atol=1e-6,
        )


def test_a_passed_timeout(streaming: Streaming, clock: ManualClock) -> None:
    server, model, stream = streaming
    stream.open(["a", "b"], model=model)
    with GatedNetwork.over(server, model) as gate:
        begun = stream.steps([0], step_inputs(1))
        gate.wait_entered()
        late = stream.steps([0, 1, 1], step_inputs(3), timeouts_ms=[100, 100, 0])
        server.wait_until(lambda: server.app.engine.queue.runs == 4)
        clock.advance(1)
        gate.open()
        answers = stream.answers(4)
    assert answers.counts == {(begun, 0): 1, (late, 2): 1}
    assert {place: error.code.name for place, error in answers.errors.items()} == {
        (late, 0): "DEADLINE_EXCEEDED",
        (late, 1): "DEADLINE_EXCEEDED",
    }
    assert get_session(server, "a").step_count == 1
    assert get_session(server, "b").step_count == 1


def test_a_full_queue_holds_a_stream_back_and_refuses_nothing(
    start_server: Callable[[ServerConfig], RunningApp],
) -> None:
    """Were a step refused, a later one of its session could be applied: a sequence with a hole in it."""
    server = start_server(replace(IN_THREAD, max_queued_runs=8))
    model = define_model(server.stubs, BasicLSTMCell(UNITS), DEPTH).name
    with StreamClient(server.stubs) as stream, GatedNetwork.over(server, model) as gate:
        stream.open(["a", "b"], model=model)
        seqs = [stream.steps([0, 1, 0], step_inputs(3)) for _ in range(10)]
        gate.wait_entered()
        assert server.loop.call(lambda: server.app.engine.queue.runs) <= 6  # A part is left to single calls.
        gate.open()
        answers = stream.answers(30)
    assert answers.errors == {}
    assert [answers.counts[seq, 2] for seq in seqs] == list(range(2, 22, 2))


def test_a_message_that_never_fits_is_refused_as_a_whole(start_server: Callable[[ServerConfig], RunningApp]) -> None:
    server = start_server(replace(IN_THREAD, max_queued_bytes=1024))
    model = define_model(server.stubs, BasicLSTMCell(UNITS), DEPTH).name
    with StreamClient(server.stubs) as stream:
        stream.open(["a"], model=model)
        stream.steps([0] * 100, step_inputs(100))
        status = stream.stepped().status
        assert "max_queued_bytes" in status.message
        stream.steps([0], step_inputs(1))
        assert stream.stepped().step_counts == [1]


def test_what_is_closed_for_good_is_gone_for_the_next_open(start_server: Callable[[ServerConfig], RunningApp]) -> None:
    server = start_server(IN_THREAD)
    model = define_model(server.stubs, BasicLSTMCell(UNITS), DEPTH).name
    names = [f"s{number}" for number in range(1500)]
    with StreamClient(server.stubs) as stream:
        stream.open(names, model=model)
        stream.steps(range(1500), step_inputs(1500))
        stream.answers(1500)
        closing = stream_pb2.Close(seq=900, group=1, delete_sessions=True)
        opening = stream_pb2.Open(
            seq=901, group=1, model=model, names=[f"sessions/{name}" for name in names], handles=range(1500)
        )
        opening.create_if_missing = True
        stream.send(stream_pb2.StreamStepsRequest(close=closing))
        stream.send(stream_pb2.StreamStepsRequest(open=opening))
        answers = [stream.receive(), stream.receive()]
        assert {answer.WhichOneof("kind") for answer in answers} == {"closed", "opened"}
        opened = next(answer.opened for answer in answers if answer.HasField("opened"))
        assert set(opened.step_counts) == {0}
        stream.steps(range(1500), step_inputs(1500))
        assert set(stream.answers(1500).counts.values()) == {1}


def test_large_answers_come_in_parts(start_server: Callable[[ServerConfig], RunningApp]) -> None:
    limit = 64 * 1024
    server = start_server(replace(IN_THREAD, max_message_bytes=limit))
    wide = define_model(server.stubs, OutputProjectionWrapper(BasicRNNCell(1), 1000), DEPTH).name
    with StreamClient(server.stubs) as stream:
        stream.open([f"s{number}" for number in range(64)], model=wide)
        stream.steps(range(64), step_inputs(64))
        parts = [stream.stepped()]
        while sum(len(part.positions) for part in parts) < 64:
            parts.append(stream.stepped())
    assert all(part.ByteSize() <= limit for part in parts)
    assert [position for part in parts for position in part.positions] == list(range(64))
    assert all(len(part.outputs[0]) == 4000 * len(part.positions) for part in parts)


def test_an_output_above_the_message_limit_is_refused_at_open(
    start_server: Callable[[ServerConfig], RunningApp],
) -> None:
    server = start_server(replace(IN_THREAD, max_message_bytes=64 * 1024))
    wide = define_model(server.stubs, OutputProjectionWrapper(BasicRNNCell(1), 10_000), DEPTH).name
    with StreamClient(server.stubs) as stream:
        error = error_of(stream.open(["a"], model=wide, batch_size=2).status)
    assert (error.reason, "batch_size" in error.message) == ("FIELD_INVALID", True)


def test_cancel_takes_back_what_has_not_begun(streaming: Streaming) -> None:
    server, model, stream = streaming
    stream.open(["a", "b", "c"], model=model)
    with GatedNetwork.over(server, model) as gate:
        begun = stream.steps([0], step_inputs(1))
        gate.wait_entered()
        waiting = stream.steps([0, 1, 2], step_inputs(3))
        stream.cancel(begun)
        stream.cancel(waiting, positions=[0, 2, 99])
        stream.cancel(12345)
        refused = stream.open(["d"], group=9, model="models/nobody")  # Answered: so the cancels were read.
        assert refused.HasField("status")
        gate.open()
        answers = stream.answers(4)
    assert {place: error.code.name for place, error in answers.errors.items() if place[0] == waiting} == {
        (waiting, 0): "CANCELLED",
        (waiting, 2): "CANCELLED",
    }
    assert answers.counts[waiting, 1] == 1
    assert get_session(server, "c").step_count == 0
    assert (
        get_session(server, "a").step_count == len(answers.counts) - 1
    )  # The one that had begun counts if it was done.
