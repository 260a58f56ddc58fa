"""How many parts a message has, before it is decoded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellserve.v1 import recurrent_service_pb2 as messages
from cellserve.v1 import state_pb2, stream_pb2, tensor_pb2
from cellserve_server.edge.message_parts import PartCounter, message_class_of

TENSOR = tensor_pb2.Tensor(data_type=tensor_pb2.DATA_TYPE_FLOAT32, shape=[2, 3], data=bytes(24))


def parts_of(message: messages.StepRequest | stream_pb2.StreamStepsRequest | state_pb2.State) -> int:
    """The least number that is not exceeded."""
    counter, data = PartCounter(message.DESCRIPTOR), message.SerializeToString()
    return next(most for most in range(10_000) if not counter.has_more_than(data, most))


def test_the_parts_of_a_step() -> None:
    assert parts_of(messages.StepRequest()) == 0
    assert parts_of(messages.StepRequest(name="sessions/s", run_id=7)) == 2
    # Each input, and its type, shape and data.
    assert parts_of(messages.StepRequest(name="sessions/s", expected_step=1 << 60, inputs=[TENSOR, TENSOR])) == 10


def test_messages_within_each_other() -> None:
    state = state_pb2.State(tensor=TENSOR)
    for _ in range(20):
        state = state_pb2.State(tuple=state_pb2.TupleState(items=[state]))
    assert parts_of(state) == 40 + 4


def test_empty_messages_count() -> None:
    state = state_pb2.State(tuple=state_pb2.TupleState(items=[state_pb2.State()] * 1000))
    assert parts_of(state) == 1 + 1000


def test_numbers_in_a_row_count_by_what_they_may_become() -> None:
    steps = stream_pb2.Steps(handles=range(1000), run_ids=[1] * 100, inputs=[bytes(100_000)])
    # Handles of up to two bytes each, eight bytes a run id; bytes are one part, however many.
    assert parts_of(stream_pb2.StreamStepsRequest(steps=steps)) == 1 + 3 + 1872 // 10 + 800 // 10


@pytest.mark.parametrize("data", [b"\x1a", b"\x1a\xff", b"\xff" * 20, b"\x08", b"\x0b\x0c", b"\x1a\x7f\x00", b"\x09"])
def test_what_is_no_message_is_left_to_the_decoder(data: bytes) -> None:
    assert not PartCounter(messages.StepRequest.DESCRIPTOR).has_more_than(data, 100)


@given(data=st.binary(max_size=200), most=st.integers(0, 50))
def test_any_bytes_can_be_looked_at(data: bytes, most: int) -> None:
    counter = PartCounter(messages.RunSequenceRequest.DESCRIPTOR)
    assert counter.has_more_than(data, most) in (True, False)


def test_the_class_of_a_decoder() -> None:
    assert message_class_of(messages.StepRequest.FromString) is messages.StepRequest
