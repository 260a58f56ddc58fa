"""What requests say, decoded and checked without a server: fields, inputs, states, columns, and the size of answers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from cellserve.cells import BasicLSTMCell, BasicRNNCell
from cellserve.errors import (
    CellServeError,
    DtypeMismatchError,
    FieldInvalidError,
    ModelNotSteppableError,
    ShapeMismatchError,
    shown,
)
from cellserve.specs import Embedding, ModelDescription
from cellserve.states import state_to_proto
from cellserve.tensors import Array, tensor_from_array
from cellserve.v1 import recurrent_service_pb2, sequence_pb2
from cellserve_server.config import ServerConfig
from cellserve_server.edge.columns import StepColumns
from cellserve_server.edge.decoding import sequence_inputs, state_leaves, step_inputs
from cellserve_server.edge.encoding import require_answer_fits, sequence_message, step_outputs
from cellserve_server.edge.fields import (
    batch_size_of,
    last_of_page_token,
    output_mode_of,
    page_size_of,
    page_token_of,
    require_steppable,
    seconds_of,
    session_id,
    session_id_of,
    step_number_of,
)
from cellserve_server.engine.runs import OutputMode, RunResult
from cellserve_server.models.repository import LoadedModel, draft_model
from tests.unit.model_samples import DEPTH, FLOAT32, bidirectional, model

UNITS = 4
CONFIG = ServerConfig(max_rows=8, max_sequence_steps=16)


def _loaded(description: ModelDescription) -> LoadedModel:
    return LoadedModel("sample", 1, None, draft_model(description, seed=0), 0.0)


@pytest.fixture(scope="module")
def lstm() -> LoadedModel:
    return _loaded(model([BasicLSTMCell(UNITS)]))


@pytest.fixture(scope="module")
def letters() -> LoadedModel:
    return _loaded(model([Embedding(5, DEPTH), BasicRNNCell(UNITS)]))


def _sequence(*shape: int, lengths: list[int] | None = None) -> sequence_pb2.Sequence:
    return sequence_pb2.Sequence(values=[tensor_from_array(np.ones(shape, np.float32))], lengths=lengths)


# --- fields ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["a", "A-Z_0.9~:", "x" * 128])
def test_session_ids(text: str) -> None:
    assert session_id(text) == text
    assert session_id_of(f"sessions/{text}") == text


@pytest.mark.parametrize("text", ["", "x" * 129, "a b", "a/b", "a\n", "ä", "a\x00"])
def test_session_ids_that_cannot_be(text: str) -> None:
    with pytest.raises(FieldInvalidError, match=r"^session_id: expected 1 to 128 letters"):
        session_id(text)
    with pytest.raises(FieldInvalidError, match=r"^name: "):
        session_id_of(f"sessions/{text}")


@pytest.mark.parametrize("name", ["a", "session/a", "/sessions/a", "SESSIONS/a", ""])
def test_session_names_that_cannot_be(name: str) -> None:
    with pytest.raises(FieldInvalidError, match=r"^name: expected sessions/\{session\}; got "):
        session_id_of(name)


def test_long_texts_are_cut_in_messages() -> None:
    assert shown("short") == "'short'"
    assert len(shown("x" * 10**6)) < 120
    assert "1000000 characters" in shown("x" * 10**6)


def test_ttls() -> None:
    assert seconds_of(Duration(seconds=1, nanos=500_000_000), 10.0, "ttl") == 1.5
    for bad in (Duration(), Duration(seconds=-1), Duration(seconds=11), Duration(nanos=-1)):
        with pytest.raises(FieldInvalidError, match=r"^ttl: expected above 0 and at most 10 seconds"):
            seconds_of(bad, 10.0, "ttl")


def test_numbers() -> None:
    assert batch_size_of(0, CONFIG, "batch_size") == 0
    assert step_number_of(5, "step_count") == 5
    assert (page_size_of(0), page_size_of(7), page_size_of(10**6)) == (100, 7, 1000)
    for batch_size in (-1, 9):
        with pytest.raises(FieldInvalidError, match=f"^batch_size: expected 0 to 8; got {batch_size}"):
            batch_size_of(batch_size, CONFIG, "batch_size")
    for step_count in (-1, 1 << 63):
        with pytest.raises(FieldInvalidError, match=f"^step_count: expected 0 to .*; got {step_count}"):
            step_number_of(step_count, "step_count")
    with pytest.raises(FieldInvalidError, match=r"^page_size: expected 0 or more; got -1"):
        page_size_of(-1)


@given(st.text(st.characters(codec="utf-8")))
def test_page_tokens(last: str) -> None:
    assert last_of_page_token(page_token_of(last)) == last


@given(st.text(st.characters(codec="utf-8")))
def test_page_tokens_of_others_are_refused_or_mean_something(token: str) -> None:
    try:
        last_of_page_token(token)
    except FieldInvalidError as error:
        assert error.message.startswith("page_token: ")  # noqa: PT017


def test_output_selections() -> None:
    assert output_mode_of(sequence_pb2.OUTPUT_SELECTION_UNSPECIFIED) is OutputMode.ALL
    assert output_mode_of(sequence_pb2.OUTPUT_SELECTION_NONE) is OutputMode.NONE
    with pytest.raises(FieldInvalidError, match="77"):
        output_mode_of(77)


def test_models_that_cannot_be_stepped(lstm: LoadedModel) -> None:
    require_steppable(lstm, "a step")
    with pytest.raises(ModelNotSteppableError, match="a step is not possible"):
        require_steppable(_loaded(bidirectional()), "a step")


# --- inputs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch_size", "shape"), [(0, (DEPTH,)), (1, (1, DEPTH)), (5, (5, DEPTH)), (None, (7, DEPTH))])
def test_step_inputs(lstm: LoadedModel, batch_size: int | None, shape: tuple[int, ...]) -> None:
    array = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    (decoded,), rows = step_inputs(lstm, [tensor_from_array(array)], batch_size, CONFIG)
    assert rows == (shape[0] if len(shape) == 2 else 1)
    np.testing.assert_array_equal(decoded, array.reshape(rows, 1, DEPTH))


@pytest.mark.parametrize(
    ("array", "batch_size", "error"),
    [
        (np.ones((2, DEPTH)), 2, DtypeMismatchError),
        (np.ones((2, DEPTH + 1), np.float32), 2, ShapeMismatchError),
        (np.ones((3, DEPTH), np.float32), 2, ShapeMismatchError),
        (np.ones((1, DEPTH), np.float32), 0, ShapeMismatchError),
        (np.ones(DEPTH, np.float32), None, ShapeMismatchError),
        (np.ones((9, DEPTH), np.float32), None, FieldInvalidError),
    ],
)
def test_step_inputs_that_do_not_fit(
    lstm: LoadedModel, array: Array, batch_size: int | None, error: type[CellServeError]
) -> None:
    with pytest.raises(error, match=r"^inputs\[0\]"):
        step_inputs(lstm, [tensor_from_array(array)], batch_size, CONFIG)


def test_ids_are_looked_at(letters: LoadedModel) -> None:
    (decoded,), rows = step_inputs(letters, [tensor_from_array(np.array([0, 4], np.int32))], 2, CONFIG)
    assert (decoded.shape, rows) == ((2, 1), 2)
    (decoded,), rows = step_inputs(letters, [tensor_from_array(np.array(3, np.int32))], 0, CONFIG)
    assert (decoded.shape, rows) == ((1, 1), 1)
    with pytest.raises(FieldInvalidError, match=r"^inputs\[0\].*0 to 4; got 5"):
        step_inputs(letters, [tensor_from_array(np.array([0, 5], np.int32))], 2, CONFIG)


def test_sequences(lstm: LoadedModel) -> None:
    decoded = sequence_inputs(lstm, _sequence(2, 5, DEPTH), 2, CONFIG)
    assert (decoded.rows, decoded.lengths, decoded.arrays[0].shape) == (2, None, (2, 5, DEPTH))
    clipped = sequence_inputs(lstm, _sequence(3, 5, DEPTH, lengths=[0, 99, 4]), None, CONFIG)
    assert clipped.lengths is not None
    assert clipped.lengths.tolist() == [0, 5, 4]
    assert sequence_inputs(lstm, _sequence(2, 5, DEPTH, lengths=[5, 2**62]), 2, CONFIG).lengths is None
    assert sequence_inputs(lstm, _sequence(0, 5, DEPTH), None, CONFIG).rows == 0
    assert sequence_inputs(lstm, _sequence(2, 0, DEPTH, lengths=[3, 4]), 2, CONFIG).lengths is None


@pytest.mark.parametrize(
    ("sequence", "error", "words"),
    [
        (_sequence(2, 5, DEPTH, lengths=[1, -2]), FieldInvalidError, r"inputs\.lengths\[1\].*0 or more; got -2"),
        (_sequence(2, 5, DEPTH, lengths=[1]), ShapeMismatchError, r"inputs\.lengths: expected 2 entries.*got 1"),
        (_sequence(3, 5, DEPTH), ShapeMismatchError, r"\[2, time, 3\]; got \[3, 5, 3\]"),
        (_sequence(2, DEPTH), ShapeMismatchError, r"\[2, time, 3\]; got \[2, 3\]"),
        (_sequence(2, 17, DEPTH), FieldInvalidError, r"at most 16 steps .*got 17"),
        (sequence_pb2.Sequence(), FieldInvalidError, r"inputs\.values: expected 1"),
    ],
)
def test_sequences_that_do_not_fit(
    lstm: LoadedModel, sequence: sequence_pb2.Sequence, error: type[CellServeError], words: str
) -> None:
    with pytest.raises(error, match=words):
        sequence_inputs(lstm, sequence, 2, CONFIG)


def test_states(lstm: LoadedModel) -> None:
    leaves = [np.full((2, UNITS), value, np.float32) for value in (1, 2)]
    decoded = state_leaves(lstm, state_to_proto(lstm.structure, leaves), 2, "state")
    np.testing.assert_array_equal(decoded, leaves)
    with pytest.raises(ShapeMismatchError, match=r"^state\.c: expected shape \[3, 4\]; got \[2, 4\]"):
        state_leaves(lstm, state_to_proto(lstm.structure, leaves), 3, "state")


# --- columns ---------------------------------------------------------------------------------------------------------


@given(st.integers(0, 5), st.integers(1, 3))
def test_columns_split_and_encode(positions: int, rows: int) -> None:
    loaded = _loaded(model([BasicRNNCell(DEPTH)]))
    columns = StepColumns(loaded, rows)
    flat = np.arange(positions * rows * DEPTH, dtype=np.float32)
    (split,) = columns.split([flat.tobytes()], positions)
    assert split.shape == (positions, rows, DEPTH)
    np.testing.assert_array_equal(split.reshape(-1), flat)
    assert columns.encode([split]) == [flat.tobytes()]
    assert columns.input_bytes * positions == columns.output_bytes * positions == flat.nbytes


def test_columns_of_another_length(lstm: LoadedModel) -> None:
    columns = StepColumns(lstm, 2)
    with pytest.raises(ShapeMismatchError, match=r"^inputs\[0\].*expected 72 bytes, float32\[6, 3\] for 3 positions"):
        columns.split([bytes(71)], 3)
    with pytest.raises(FieldInvalidError, match=r"^inputs: expected 1"):
        columns.split([], 3)


# --- answers ---------------------------------------------------------------------------------------------------------


@given(rows=st.integers(0, 8), steps=st.integers(0, 16), with_state=st.booleans())
def test_the_size_of_an_answer_is_never_underrated(rows: int, steps: int, with_state: bool) -> None:
    loaded = _loaded(model([BasicLSTMCell(UNITS)]))
    outputs = [np.ones((rows, steps, UNITS), np.float32)] if steps else []
    state = state_to_proto(loaded.structure, [np.ones((rows, UNITS), np.float32)] * 2) if with_state else None
    answer = recurrent_service_pb2.RunSequenceResponse(
        outputs=sequence_message(loaded, RunResult(outputs, None, 0, steps, False)),
        state=state,
        steps_applied=(1 << 63) - 1,
        step_count=(1 << 63) - 1,
        replayed=True,
    )
    tight = replace(CONFIG, max_message_bytes=max(answer.ByteSize() - 1, 1024))
    if answer.ByteSize() > tight.max_message_bytes:
        with pytest.raises(FieldInvalidError, match="use less"):
            require_answer_fits(loaded, rows=rows, steps=steps, with_state=with_state, config=tight, advice="use less")
    require_answer_fits(loaded, rows=rows, steps=steps, with_state=with_state, config=ServerConfig(), advice="use less")


def test_step_outputs_have_the_shape_of_the_inputs(lstm: LoadedModel) -> None:
    result = RunResult([np.ones((2, 1, UNITS), np.float32)], None, 1, 1, False)
    assert [list(tensor.shape) for tensor in step_outputs(lstm, result.outputs, 2)] == [[2, UNITS]]
    alone = RunResult([np.ones((1, 1, UNITS), np.float32)], None, 1, 1, False)
    assert [list(tensor.shape) for tensor in step_outputs(lstm, alone.outputs, None)] == [[UNITS]]
    assert np.dtype(FLOAT32) == lstm.description.dtype
