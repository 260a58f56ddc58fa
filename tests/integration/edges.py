"""A server with a few models and sessions for tests of bad input, and how to make requests and look at errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cellserve.cells import BasicRNNCell
from cellserve.specs import ArraySpec, Bidirectional, Embedding, ModelDescription, model_from_proto, model_to_proto
from cellserve.states import LSTMStateTuple, state_to_proto
from cellserve.tensors import tensor_from_array
from cellserve.v1 import (
    model_pb2,
    session_pb2,
    state_pb2,
    tensor_pb2,
)
from cellserve.v1 import recurrent_service_pb2 as messages
from tests.clocks import ManualClock
from tests.servers import (
    RPC_TIMEOUT_S,
    RunningApp,
    error_of_call,
)

UNITS, DEPTH, ROWS = 3, 2, 2
FLOAT32 = np.dtype(np.float32)
SHAPE, DTYPE, FIELD = "SHAPE_MISMATCH", "DTYPE_MISMATCH", "FIELD_INVALID"


class Edge(NamedTuple):
    """A server with a session of two rows, ``pair``, one of vectors, ``single``, and a few models."""

    server: RunningApp
    clock: ManualClock
    lstm: str
    both_ways: str
    letters: str


def bidirectional_spec() -> model_pb2.ModelSpec:
    """A model that needs whole sequences."""
    layers = (Bidirectional(BasicRNNCell(UNITS), BasicRNNCell(UNITS)),)
    inputs = (ArraySpec("inputs", FLOAT32, (DEPTH,)),)
    bare = model_to_proto(ModelDescription(inputs, layers, (), FLOAT32))
    return model_to_proto(model_from_proto(bare))


def letters_spec() -> model_pb2.ModelSpec:
    """A model whose inputs are ids from 0 to 4."""
    layers = (Embedding(vocabulary_size=5, depth=DEPTH), BasicRNNCell(UNITS))
    return model_to_proto(ModelDescription((ArraySpec("letter", np.dtype(np.int32), ()),), layers, (), FLOAT32))


def create_session(server: RunningApp, session_id: str, model: str, batch_size: int = 0) -> session_pb2.Session:
    """Makes a session."""
    session = session_pb2.Session(model=model, batch_size=batch_size)
    answer: messages.CreateSessionResponse = server.stubs.recurrent.CreateSession(
        messages.CreateSessionRequest(session_id=session_id, session=session), timeout=RPC_TIMEOUT_S
    )
    return answer.session


def floats(*shape: int) -> tensor_pb2.Tensor:
    """Ones, float32."""
    return tensor_from_array(np.ones(shape, np.float32))


def step_request(name: str = "sessions/pair", **fields: Any) -> messages.StepRequest:
    """A good step of ``pair``, but for the fields that are given."""
    return messages.StepRequest(name=name, **{"inputs": [floats(ROWS, DEPTH)], **fields})


def lstm_state(rows: int, dtype: Any = np.float32) -> state_pb2.State:
    """A state of the LSTM, zeros."""
    parts = [np.zeros((rows, UNITS), dtype)] * 2
    return state_to_proto(LSTMStateTuple(UNITS, UNITS), parts)


def get_session(server: RunningApp, session_id: str) -> session_pb2.Session:
    """Reads a session."""
    request = messages.GetSessionRequest(name=f"sessions/{session_id}")
    answer: messages.GetSessionResponse = server.stubs.recurrent.GetSession(request, timeout=RPC_TIMEOUT_S)
    return answer.session


def expect_error(call: Callable[[], object], code: str, reason: str, words: list[str]) -> Any:
    """The call fails with this code and reason, and its message has all these words."""
    error = error_of_call(call)
    assert (error.code.name, error.reason) == (code, reason), error.message
    for word in words:
        assert word in error.message, (word, error.message)
    return error
