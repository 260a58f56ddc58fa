"""StreamSteps: groups, bulk Open, errors by name, and Close."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import grpc
import numpy as np
import pytest

from cellserve.cells import BasicLSTMCell, BasicRNNCell
from cellserve.errors import CellServeError, error_of
from cellserve.tensors import tensor_from_array
from cellserve.v1 import recurrent_service_pb2 as messages
from cellserve.v1 import stream_pb2
from cellserve_server.config import ServerConfig
from tests.gates import GatedNetwork
from tests.integration.edges import (
    DEPTH,
    UNITS,
    bidirectional_spec,
    create_session,
    floats,
    get_session,
    step_request,
)
from tests.integration.stream_client import IN_THREAD, StreamClient, Streaming, step_inputs
from tests.servers import RPC_TIMEOUT_S, RunningApp, define_model, define_spec, error_of_call


def _errors(answer: stream_pb2.Opened) -> dict[int, CellServeError]:
    return {entry.position: error_of(entry.status) for entry in answer.errors}


def test_open_says_what_the_group_takes_and_gives(streaming: Streaming) -> None:
    server, model, stream = streaming
    create_session(server, "there", model)
    server.stubs.recurrent.Step(step_request("sessions/there", inputs=[floats(DEPTH)]))
    opened = stream.open(["there", "new"], handles=[7, 8], model=model)
    assert opened.model == model
    assert [(spec.name, list(spec.shape)) for spec in opened.inputs] == [("inputs", [DEPTH])]
    assert [(spec.name, list(spec.shape)) for spec in opened.outputs] == [("output", [UNITS])]
    assert list(opened.step_counts) == [1, 0]
    assert list(opened.uids) == [get_session(server, name).uid for name in ("there", "new")]


def test_streamed_steps_are_the_steps_of_the_sessions(streaming: Streaming) -> None:
    server, model, stream = streaming
    stream.open(["a", "b"], handles=[5, 3], model=model, batch_size=2)
    inputs = step_inputs(3, rows=2)
    seq = stream.steps([5, 3, 5], inputs)  # The first session twice: in this order.
    answers = stream.answers(3)
    assert answers.counts == {(seq, 0): 1, (seq, 1): 1, (seq, 2): 2}
    create_session(server, "alone", model, 2)
    for position in (0, 2):
        request = step_request("sessions/alone", inputs=[tensor_from_array(inputs[position])])
        answer = server.stubs.recurrent.Step(request, timeout=RPC_TIMEOUT_S)
        streamed = np.frombuffer(answers.outputs[seq, position], np.float32)
        np.testing.assert_allclose(streamed, np.frombuffer(answer.outputs[0].data, np.float32), atol=1e-6)


def test_several_groups(streaming: Streaming) -> None:
    server, model, stream = streaming
    other = define_model(server.stubs, BasicRNNCell(5), DEPTH).name
    stream.open(["a"], group=1, model=model)
    opened = stream.open(["b"], group=2, model=other, batch_size=4)
    assert opened.model == other
    stream.steps([0], step_inputs(1), group=1)
    assert len(stream.stepped().outputs[0]) == 4 * UNITS
    stream.steps([0], step_inputs(1, rows=4), group=2)
    assert len(stream.stepped().outputs[0]) == 4 * 4 * 5


def test_a_group_grows(streaming: Streaming) -> None:
    _, model, stream = streaming
    stream.open(["a"], model=model)
    stream.open(["b"], handles=[1])  # The model goes without saying.
    stream.open(["c"], handles=[2], model=model)
    stream.steps([0, 1, 2], step_inputs(3))
    assert list(stream.stepped().step_counts) == [1, 1, 1]


def test_bulk_open(streaming: Streaming) -> None:
    server, model, stream = streaming
    names = [f"s{number}" for number in range(20_000)]
    opened = stream.open(names, model=model)
    assert len(opened.uids) == len(set(opened.uids)) == len(names)
    assert not opened.errors
    listed = server.stubs.recurrent.ListSessions(messages.ListSessionsRequest(page_size=1), timeout=RPC_TIMEOUT_S)
    assert listed.total_size == len(names)
    stream.steps(range(0, 20_000, 100), step_inputs(200))
    assert len(stream.stepped().step_counts) == 200


def test_open_reports_names_one_by_one(streaming: Streaming) -> None:
    server, model, stream = streaming
    other = define_model(server.stubs, BasicRNNCell(5), DEPTH).name
    create_session(server, "pair", model, 2)
    create_session(server, "other", other)
    stream.open(["first"], handles=[9], model=model)
    names = ["good", "a b", "pair", "other", "fine"]
    opened = stream.open(names, handles=[0, 1, 2, 3, 9])
    errors = _errors(opened)
    assert {position: error.reason for position, error in errors.items()} == {
        1: "FIELD_INVALID",
        2: "FIELD_INVALID",
        3: "FIELD_INVALID",
        4: "FIELD_INVALID",
    }
    for position, word in ((1, "a b"), (2, "batch_size"), (3, other), (4, "9 is in use")):
        assert word in errors[position].message
    assert [bool(uid) for uid in opened.uids] == [True, False, False, False, False]
    missing = stream.open(["nobody"], handles=[20], create_if_missing=False)
    assert _errors(missing)[0].reason == "SESSION_NOT_FOUND"


@pytest.mark.parametrize(
    ("fields", "reason", "word"),
    [
        ({"names": ["a", "a"]}, "FIELD_INVALID", "names"),
        ({"names": ["a", "b"], "handles": [1, 1]}, "FIELD_INVALID", "handles"),
        ({"names": ["a", "b"], "handles": [1]}, "FIELD_INVALID", "handles"),
        ({"names": ["a"], "model": "models/nobody", "group": 2}, "MODEL_NOT_FOUND", "models/nobody"),
        ({"names": ["a"], "model": "", "group": 2}, "FIELD_INVALID", "model"),
        ({"names": ["a"], "model": "models/other"}, "FIELD_INVALID", "models/other"),
        ({"names": ["a"], "model": "x" * 300}, "FIELD_INVALID", f"got '{'x' * 80}'... (300 characters)"),
        ({"names": ["a"], "batch_size": 3}, "FIELD_INVALID", "batch_size"),
        ({"names": ["a"], "batch_size": -1}, "FIELD_INVALID", "batch_size"),
        ({"names": ["a"], "ttl": {"seconds": -1}}, "FIELD_INVALID", "ttl"),
        ({"names": [str(n) for n in range(140_000)]}, "FIELD_INVALID", "names"),
    ],
)
def test_an_open_that_is_refused_opens_nothing(
    streaming: Streaming, fields: dict[str, object], reason: str, word: str
) -> None:
    server, model, stream = streaming
    stream.open([], model=model)
    opened = stream.open(**fields)  # type: ignore[arg-type]
    error = error_of(opened.status)
    assert (error.reason, word in error.message) == (reason, True), error.message
    assert server.stubs.recurrent.ListSessions(messages.ListSessionsRequest()).total_size == 0


def test_a_model_that_needs_whole_sequences_cannot_be_opened(streaming: Streaming) -> None:
    both_ways = define_spec(streaming.server.stubs, bidirectional_spec()).name
    opened = streaming.stream.open(["a"], model=both_ways)
    assert error_of(opened.status).code is grpc.StatusCode.UNIMPLEMENTED


def test_limits_of_a_stream(start_server: Callable[[ServerConfig], RunningApp]) -> None:
    server = start_server(replace(IN_THREAD, max_stream_groups=1, max_stream_handles=2))
    model = define_model(server.stubs, BasicLSTMCell(UNITS), DEPTH).name
    with StreamClient(server.stubs) as stream:
        stream.open(["a"], model=model)
        groups = error_of(stream.open(["b"], group=2, model=model).status)
        assert (groups.reason, groups.metadata["quota"]) == ("QUOTA_EXCEEDED", "max_stream_groups")
        handles = error_of(stream.open(["b", "c"], handles=[1, 2]).status)
        assert (handles.reason, handles.metadata["quota"]) == ("QUOTA_EXCEEDED", "max_stream_handles")
        stream.close([0])
        assert not stream.open(["b", "c"], handles=[1, 2]).HasField("status")


def test_many_errors_of_an_open_are_cut_to_their_reasons(start_server: Callable[[ServerConfig], RunningApp]) -> None:
    server = start_server(replace(IN_THREAD, max_message_bytes=64 * 1024))
    model = define_model(server.stubs, BasicLSTMCell(UNITS), DEPTH).name
    with StreamClient(server.stubs) as stream:
        names = [f"n{number}" for number in range(500)]
        opened = stream.open(names, model=model, create_if_missing=False)
        assert opened.ByteSize() <= 64 * 1024
        errors = _errors(opened)
        assert len(errors) == len(names)
        assert {error.reason for error in errors.values()} == {"SESSION_NOT_FOUND"}


def test_close_gives_handles_back(streaming: Streaming) -> None:
    server, model, stream = streaming
    stream.open(["a", "b", "c"], model=model)
    refused = stream.close([0, 9])
    assert error_of(refused.status).reason == "FIELD_INVALID"
    assert not stream.close([0, 0]).HasField("status")
    seq = stream.steps([0, 1], step_inputs(2))
    answers = stream.answers(2)
    assert answers.counts == {(seq, 1): 1}
    assert answers.errors[seq, 0].reason == "FIELD_INVALID"
    assert not stream.close().HasField("status")
    stream.steps([1], step_inputs(1))
    assert error_of(stream.stepped().status).reason == "FIELD_INVALID"
    assert error_of(stream.close().status).reason == "FIELD_INVALID"
    assert get_session(server, "a").step_count == 0


def test_close_may_delete_after_the_steps_under_way(streaming: Streaming) -> None:
    server, model, stream = streaming
    stream.open(["a", "b", "gone"], model=model)
    server.stubs.recurrent.DeleteSession(messages.DeleteSessionRequest(name="sessions/gone"))
    with GatedNetwork.over(server, model) as gate:
        stream.steps([0], step_inputs(1))
        gate.wait_entered()
        request = stream_pb2.Close(seq=99, group=1, handles=[0, 2], delete_sessions=True)
        stream.send(stream_pb2.StreamStepsRequest(close=request))
        gate.open()
        assert list(stream.stepped().step_counts) == [1]
        closed = stream.receive().closed
    assert (closed.seq, closed.HasField("status")) == (99, False)
    error = error_of_call(lambda: get_session(server, "a"))
    assert "deleted" in error.message
    assert get_session(server, "b").step_count == 0
