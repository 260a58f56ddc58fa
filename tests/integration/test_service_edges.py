"""What bad steps and sequences get, through a real server and the generated stubs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cellserve.cells import BasicRNNCell
from cellserve.states import state_to_proto
from cellserve.tensors import tensor_from_array
from cellserve.v1 import recurrent_service_pb2 as messages
from cellserve.v1 import (
    sequence_pb2,
    session_pb2,
    tensor_pb2,
)
from tests.integration.edges import (
    DEPTH,
    DTYPE,
    FIELD,
    ROWS,
    SHAPE,
    UNITS,
    Edge,
    create_session,
    expect_error,
    floats,
    get_session,
    lstm_state,
    step_request,
)
from tests.servers import (
    RPC_TIMEOUT_S,
    define_model,
    error_of_call,
)


def _run(lengths: list[int] | None = None, **fields: Any) -> messages.RunSequenceRequest:
    inputs = sequence_pb2.Sequence(values=[floats(ROWS, 4, DEPTH)], lengths=lengths)
    return messages.RunSequenceRequest(**{"session": "sessions/pair", "inputs": inputs, **fields})


def _tensor(data_type: tensor_pb2.DataType, shape: list[int], data: bytes) -> tensor_pb2.Tensor:
    return tensor_pb2.Tensor(data_type=data_type, shape=shape, data=data)


FLOAT = tensor_pb2.DATA_TYPE_FLOAT32
STEP_CASES = {
    "wrong depth": (step_request(inputs=[floats(ROWS, 7)]), SHAPE, ["inputs[0]", "[2, 2]", "[2, 7]"]),
    "wrong batch": (step_request(inputs=[floats(5, DEPTH)]), SHAPE, ["inputs[0]", "[2, 2]", "[5, 2]"]),
    "wrong rank": (step_request(inputs=[floats(DEPTH)]), SHAPE, ["inputs[0]", "[2, 2]", "[2]"]),
    "a batch dimension too many": (
        step_request("sessions/single", inputs=[floats(1, DEPTH)]),
        SHAPE,
        ["inputs[0]", "[2]", "[1, 2]"],
    ),
    "wrong dtype": (
        step_request(inputs=[tensor_from_array(np.ones((ROWS, DEPTH), np.float64))]),
        DTYPE,
        ["inputs[0]", "float32", "float64"],
    ),
    "no dtype": (
        step_request(inputs=[_tensor(tensor_pb2.DATA_TYPE_UNSPECIFIED, [ROWS, DEPTH], bytes(16))]),
        DTYPE,
        ["inputs[0]", "0"],
    ),
    "unknown dtype": (
        step_request(inputs=[_tensor(99, [ROWS, DEPTH], bytes(16))]),  # type: ignore[arg-type]
        DTYPE,
        ["inputs[0]", "99"],
    ),
    "truncated bytes": (
        step_request(inputs=[_tensor(FLOAT, [ROWS, DEPTH], bytes(15))]),
        SHAPE,
        ["inputs[0]", "16", "15"],
    ),
    "surplus bytes": (
        step_request(inputs=[_tensor(FLOAT, [ROWS, DEPTH], bytes(17))]),
        SHAPE,
        ["inputs[0]", "16", "17"],
    ),
    "negative dimension": (step_request(inputs=[_tensor(FLOAT, [-1, DEPTH], b"")]), SHAPE, ["inputs[0]", "[-1, 2]"]),
    "huge dimensions": (step_request(inputs=[_tensor(FLOAT, [1 << 62, 1 << 62], b"")]), SHAPE, ["inputs[0]"]),
    "no inputs": (step_request(inputs=[]), FIELD, ["inputs", "1", "0"]),
    "too many inputs": (step_request(inputs=[floats(ROWS, DEPTH)] * 2), FIELD, ["inputs", "1", "2"]),
    "name without prefix": (step_request("pair"), FIELD, ["name", "sessions/", "'pair'"]),
    "illegal id": (step_request("sessions/a b"), FIELD, ["name", "a b"]),
    "empty id": (step_request("sessions/"), FIELD, ["name"]),
    "long id": (step_request("sessions/" + "x" * 129), FIELD, ["name", "128"]),
    "very long name": (step_request("\N{SNOWMAN}" * 20_000), FIELD, ["name", "20000 characters"]),
    "negative expected_step": (step_request(expected_step=-1), FIELD, ["expected_step", "-1"]),
    "id out of the vocabulary": (
        step_request("sessions/letters", inputs=[tensor_from_array(np.array([5], np.int32))]),
        FIELD,
        ["inputs[0]", "0 to 4", "5"],
    ),
    "negative id": (
        step_request("sessions/letters", inputs=[tensor_from_array(np.array([-1], np.int32))]),
        FIELD,
        ["inputs[0]", "0 to 4", "-1"],
    ),
}


@pytest.mark.parametrize("case", STEP_CASES)
def test_bad_steps(edge: Edge, case: str) -> None:
    request, reason, words = STEP_CASES[case]
    expect_error(
        lambda: edge.server.stubs.recurrent.Step(request, timeout=RPC_TIMEOUT_S), "INVALID_ARGUMENT", reason, words
    )


RUN_CASES = {
    "negative length": (_run(lengths=[4, -1]), FIELD, ["inputs.lengths[1]", "0 or more", "-1"]),
    "too few lengths": (_run(lengths=[4]), SHAPE, ["inputs.lengths", "2", "1"]),
    "too many lengths": (_run(lengths=[4, 4, 4]), SHAPE, ["inputs.lengths", "2", "3"]),
    "wrong batch": (
        _run(inputs=sequence_pb2.Sequence(values=[floats(3, 4, DEPTH)])),
        SHAPE,
        ["inputs.values[0]", "[2, time, 2]", "[3, 4, 2]"],
    ),
    "no time dimension": (
        _run(inputs=sequence_pb2.Sequence(values=[floats(ROWS, DEPTH)])),
        SHAPE,
        ["inputs.values[0]", "[2, time, 2]", "[2, 2]"],
    ),
    "too long": (
        _run(inputs=sequence_pb2.Sequence(values=[floats(ROWS, 17, DEPTH)])),
        FIELD,
        ["max_sequence_steps", "16", "17"],
    ),
    "no values": (_run(inputs=sequence_pb2.Sequence()), FIELD, ["inputs.values", "1", "0"]),
    "a session and a model": (_run(model="models/x"), FIELD, ["session", "model", "both"]),
    "neither": (_run(session=""), FIELD, ["session", "model", "neither"]),
    "a state for a session": (
        _run(initial_state=state_to_proto(1, [np.zeros((1, 1), np.float32)])),
        FIELD,
        ["initial_state"],
    ),
    "an unknown selection": (_run(outputs=9), FIELD, ["outputs", "9"]),
}


@pytest.mark.parametrize("case", RUN_CASES)
def test_bad_sequences(edge: Edge, case: str) -> None:
    request, reason, words = RUN_CASES[case]
    expect_error(
        lambda: edge.server.stubs.recurrent.RunSequence(request, timeout=RPC_TIMEOUT_S),
        "INVALID_ARGUMENT",
        reason,
        words,
    )


def test_nothing_bad_moved_the_session(edge: Edge) -> None:
    stubs = edge.server.stubs.recurrent
    for step, _, _ in STEP_CASES.values():
        error_of_call(lambda step=step: stubs.Step(step))  # type: ignore[misc]
    for run, _, _ in RUN_CASES.values():
        error_of_call(lambda run=run: stubs.RunSequence(run))  # type: ignore[misc]
    for name in ("pair", "single", "letters"):
        assert get_session(edge.server, name).step_count == 0


def test_bad_sequences_without_a_session(edge: Edge) -> None:
    run = edge.server.stubs.recurrent.RunSequence
    inputs = sequence_pb2.Sequence(values=[floats(ROWS, 4, DEPTH)])

    def request(**fields: Any) -> messages.RunSequenceRequest:
        return messages.RunSequenceRequest(**{"model": edge.lstm, "inputs": inputs, **fields})

    cases = [
        (request(expected_step=0), FIELD, ["expected_step", "without a session"]),
        (request(uid="x"), FIELD, ["uid", "without a session"]),
        (request(initial_state=lstm_state(3)), SHAPE, ["initial_state.c", "[2, 3]", "[3, 3]"]),
        (request(initial_state=lstm_state(ROWS, np.float64)), DTYPE, ["initial_state.c", "float32", "float64"]),
        (request(initial_state=state_to_proto(UNITS, [np.zeros((2, 3), np.float32)])), SHAPE, ["initial_state"]),
        (request(initial_state={}), FIELD, ["initial_state"]),
        (request(inputs=sequence_pb2.Sequence(values=[floats(9, 1, DEPTH)])), FIELD, ["max_rows", "8", "9"]),
        (request(model="lstm"), FIELD, ["model", "models/", "'lstm'"]),
    ]
    for bad, reason, words in cases:
        expect_error(lambda bad=bad: run(bad, timeout=RPC_TIMEOUT_S), "INVALID_ARGUMENT", reason, words)  # type: ignore[misc]


def test_calls(edge: Edge) -> None:
    call = edge.server.stubs.recurrent.Call
    too_many = messages.CallRequest(model=edge.lstm, inputs=[floats(9, DEPTH)])
    expect_error(lambda: call(too_many), "INVALID_ARGUMENT", FIELD, ["max_rows", "8", "9"])
    mixed = messages.CallRequest(model=edge.lstm, inputs=[floats(2, DEPTH)], state=lstm_state(1))
    expect_error(lambda: call(mixed), "INVALID_ARGUMENT", SHAPE, ["state.c", "[2, 3]", "[1, 3]"])
    nobody = messages.CallRequest(model=edge.lstm, inputs=[floats(0, DEPTH)])
    answer = call(nobody, timeout=RPC_TIMEOUT_S)
    assert list(answer.outputs[0].shape) == [0, UNITS]
    assert list(answer.state.lstm.c.shape) == [0, UNITS]


def test_empty_sequences(edge: Edge) -> None:
    run = edge.server.stubs.recurrent.RunSequence
    for rows, time in ((0, 3), (2, 0), (0, 0)):
        inputs = sequence_pb2.Sequence(values=[floats(rows, time, DEPTH)])
        for model in (edge.lstm, edge.both_ways):
            answer = run(messages.RunSequenceRequest(model=model, inputs=inputs), timeout=RPC_TIMEOUT_S)
            assert list(answer.outputs.values[0].shape)[:2] == [rows, time]
    # No length reaches a step: nothing moves, but what the caller expects is still checked.
    nothing = messages.RunSequenceRequest(
        session="sessions/pair",
        inputs=sequence_pb2.Sequence(values=[floats(ROWS, 4, DEPTH)], lengths=[0, 0]),
        expected_step=0,
    )
    answer = run(nothing, timeout=RPC_TIMEOUT_S)
    assert (answer.steps_applied, answer.step_count) == (0, 0)
    nothing.expected_step = 3
    expect_error(lambda: run(nothing), "ABORTED", "STEP_OUT_OF_ORDER", ["3", "0"])


def test_an_answer_that_would_be_too_large_is_refused_before_it_is_computed(edge: Edge) -> None:
    wide = define_model(edge.server.stubs, BasicRNNCell(2000), 1).name
    inputs = sequence_pb2.Sequence(values=[floats(1, 16, 1)])
    request = messages.RunSequenceRequest(model=wide, inputs=inputs)
    run = edge.server.stubs.recurrent.RunSequence
    expect_error(lambda: run(request), "INVALID_ARGUMENT", FIELD, ["max_message_bytes", "65536", "LAST or NONE"])
    request.outputs = sequence_pb2.OUTPUT_SELECTION_LAST
    assert list(run(request, timeout=RPC_TIMEOUT_S).outputs.values[0].shape) == [1, 1, 2000]
    create_session(edge.server, "wide", wide, 8)
    get = messages.GetSessionRequest(name="sessions/wide", view=session_pb2.SESSION_VIEW_FULL)
    edge_get = edge.server.stubs.recurrent.GetSession
    assert edge_get(get, timeout=RPC_TIMEOUT_S).session.state.tensor.shape == [8, 2000]
    step = step_request("sessions/wide", inputs=[floats(8, 1)])
    assert edge.server.stubs.recurrent.Step(step, timeout=RPC_TIMEOUT_S).step_count == 1


def test_a_model_that_needs_whole_sequences(edge: Edge) -> None:
    stubs = edge.server.stubs
    words = [edge.both_ways, "RunSequence"]
    call = messages.CallRequest(model=edge.both_ways, inputs=[floats(1, DEPTH)])
    expect_error(lambda: stubs.recurrent.Call(call), "UNIMPLEMENTED", "MODEL_NOT_STEPPABLE", words)
    create = messages.CreateSessionRequest(session=session_pb2.Session(model=edge.both_ways))
    expect_error(lambda: stubs.recurrent.CreateSession(create), "UNIMPLEMENTED", "MODEL_NOT_STEPPABLE", words)


def test_unknown_models(edge: Edge) -> None:
    stubs = edge.server.stubs
    for name in ("models/nobody", edge.lstm.replace("versions/1", "versions/2")):
        call = messages.CallRequest(model=name, inputs=[floats(1, DEPTH)])
        expect_error(lambda call=call: stubs.recurrent.Call(call), "NOT_FOUND", "MODEL_NOT_FOUND", [name])  # type: ignore[misc]
    empty = messages.CallRequest(inputs=[floats(1, DEPTH)])
    expect_error(lambda: stubs.recurrent.Call(empty), "INVALID_ARGUMENT", FIELD, ["model", "models/"])
