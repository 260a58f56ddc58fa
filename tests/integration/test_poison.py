"""Poison of one caller's over the wire, beside a thousand sessions of another's: theirs go on as they would have."""

from __future__ import annotations

import numpy as np
import pytest

from cellserve.tensors import Array, array_from_tensor, tensor_from_array
from cellserve.v1 import recurrent_service_pb2 as messages
from cellserve.v1 import sequence_pb2
from tests.integration.edges import DEPTH, UNITS
from tests.integration.stream_client import StreamClient, Streaming
from tests.servers import RPC_TIMEOUT_S

SESSIONS = 1000
STEPS = 5
# Ticks of other sizes give other last bits.
TOLERANCE = 1e-5


def expected(streaming: Streaming, inputs: Array) -> Array:
    """The outputs ``[sessions, steps, UNITS]`` of sequences ``[sessions, steps, DEPTH]``, each without a session."""
    sequence = sequence_pb2.Sequence(values=[tensor_from_array(inputs)])
    request = messages.RunSequenceRequest(model=streaming.model, inputs=sequence)
    answer = streaming.server.stubs.recurrent.RunSequence(request, timeout=RPC_TIMEOUT_S)
    return array_from_tensor(answer.outputs.values[0])


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e38, 1e-41], ids=["nan", "inf", "huge", "denormal"])
def test_a_thousand_sessions_beside_poison(streaming: Streaming, poison: float) -> None:
    server, model, stream = streaming
    inputs = np.random.default_rng(3).normal(size=(SESSIONS, STEPS, DEPTH)).astype(np.float32)
    want = expected(streaming, inputs)
    bad = np.full((1, 1, DEPTH), poison, np.float32)
    stream.open([f"s{number}" for number in range(SESSIONS)], model=model)
    with StreamClient(server.stubs) as other:
        other.open(["bad"], model=model)
        for step in range(STEPS):
            sent = other.steps([0], bad)
            seq = stream.steps(range(SESSIONS), inputs[:, step : step + 1])
            sent_again = other.steps([0], bad)
            came = stream.answers(SESSIONS)
            for number in range(SESSIONS):
                got = np.frombuffer(came.outputs[seq, number], np.float32)
                np.testing.assert_allclose(got, want[number, step], rtol=TOLERANCE, atol=TOLERANCE)
            poisoned = other.answers(2)
            outputs = [np.frombuffer(poisoned.outputs[each, 0], np.float32) for each in (sent, sent_again)]
            assert np.isnan(outputs).all() or not np.isnan(poison)
    assert want.shape == (SESSIONS, STEPS, UNITS)
