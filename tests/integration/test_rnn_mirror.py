"""TensorFlow 1's calls on a real server: its own numbers, its own shapes, and its own ways with odd arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from cellserve.errors import DtypeMismatchError, ShapeMismatchError
from cellserve.states import unflatten
from cellserve.tensors import Array
from cellserve_client import Server, rnn
from tests.clients import KINDS, client
from tests.golden_cases import GoldenCase, golden_cases
from tests.servers import LoopThread

# The bidirectional cases are in test_rnn_mirror_all.
CASES = [case for case in golden_cases() if case.cell is not None]
DEPTH, UNITS, ROWS, STEPS = 5, 4, 2, 3


@pytest.fixture(params=KINDS, scope="module")
def remote(request: pytest.FixtureRequest, loop_thread: LoopThread, server_address: str) -> Iterator[Server]:
    """Either client, connected to the server that all tests share."""
    with ExitStack() as stack:
        yield stack.enter_context(client(request.param, loop_thread, server_address))


@pytest.fixture
def frames() -> Array:
    """Inputs ``[ROWS, STEPS, DEPTH]``."""
    return np.random.default_rng(2).standard_normal((ROWS, STEPS, DEPTH)).astype(np.float32)


@pytest.fixture
def cell(remote: Server) -> Any:
    """A cell whose output is its state."""
    return remote.cell(rnn.BasicRNNCell(UNITS), seed=1)


def golden_cell(remote: Server, case: GoldenCase) -> Any:
    assert case.cell is not None
    return remote.cell(case.cell, weights=case.weights)


def assert_golden(case: GoldenCase, outputs: Array, state: Any) -> None:
    want = unflatten(case.description.state_size, case.final_leaves)
    assert outputs.dtype == case.dtype
    np.testing.assert_allclose(outputs, case.outputs, atol=case.tolerance, rtol=case.tolerance)
    for got_part, want_part in zip(_leaves(state), _leaves(want), strict=True):
        np.testing.assert_allclose(got_part, want_part, atol=case.tolerance, rtol=case.tolerance)


def _leaves(state: Any) -> list[Array]:
    if isinstance(state, tuple):
        return [leaf for part in state for leaf in _leaves(part)]
    return [state]


# --- TensorFlow's numbers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_tensorflows_numbers(remote: Server, case: GoldenCase) -> None:
    cell = golden_cell(remote, case)
    assert repr(cell.state_size) == case.state_size_repr
    assert cell.output_size == case.output_size
    initial = unflatten(case.description.state_size, case.initial_leaves)
    inputs = case.inputs.swapaxes(0, 1) if case.time_major else case.inputs
    outputs, state = rnn.dynamic_rnn(
        cell,
        inputs,
        sequence_length=case.sequence_length,
        initial_state=initial if case.initial_state_passed else None,
        dtype=case.dtype,
        time_major=case.time_major,
    )
    assert_golden(case, outputs.swapaxes(0, 1) if case.time_major else outputs, state)
    outputs, state = rnn.static_rnn(
        cell, list(case.inputs.swapaxes(0, 1)), initial_state=initial, sequence_length=case.sequence_length
    )
    assert_golden(case, np.stack(outputs, axis=1), state)
    if case.sequence_length is None:
        state, steps = initial, []
        for step in range(case.inputs.shape[1]):
            output, state = cell(case.inputs[:, step], state)
            steps.append(output)
        assert_golden(case, np.stack(steps, axis=1), state)


# --- what the seed programs print ------------------------------------------------------------------------------------


def test_a_basic_rnn_cell(remote: Server) -> None:
    cell = remote.cell(rnn.BasicRNNCell(num_units=128))
    assert cell.state_size == 128
    h0 = cell.zero_state(32, np.float32)
    output, h1 = cell.call(np.ones((32, 100), np.float32), h0)
    assert h1.shape == (32, 128)
    np.testing.assert_array_equal(output, h1)


def test_a_basic_lstm_cell(remote: Server) -> None:
    cell = remote.cell(rnn.BasicLSTMCell(num_units=128))
    assert repr(cell.state_size) == "LSTMStateTuple(c=128, h=128)"
    h0 = cell.zero_state(32, np.float32)
    output, h1 = cell.call(np.ones((32, 100), np.float32), h0)
    assert h1.h.shape == h1.c.shape == (32, 128)
    np.testing.assert_array_equal(output, h1.h)


def test_dynamic_rnn_from_an_initial_state(remote: Server) -> None:
    cell = remote.cell(rnn.BasicLSTMCell(128))
    outputs, state = rnn.dynamic_rnn(
        cell, np.ones((32, 6, 100), np.float32), initial_state=cell.zero_state(32, np.float32)
    )
    assert outputs.shape == (32, 6, 128)
    np.testing.assert_array_equal(outputs[:, -1], state.h)


def test_a_multi_rnn_cell(remote: Server) -> None:
    cell = remote.cell(rnn.MultiRNNCell([rnn.BasicRNNCell(num_units=128) for _ in range(2)]))
    assert cell.state_size == (128, 128)
    output, h1 = cell.call(np.ones((32, 100), np.float32), cell.zero_state(32, np.float32))
    assert output.shape == (32, 128)
    assert [part.shape for part in h1] == [(32, 128), (32, 128)]
    assert type(h1) is tuple


def test_an_output_projection(remote: Server, frames: Array) -> None:
    cell = remote.cell(rnn.OutputProjectionWrapper(rnn.BasicLSTMCell(UNITS), 7))
    outputs, state = rnn.dynamic_rnn(cell, frames, dtype=np.float32)
    assert cell.output_size == 7
    assert outputs.shape == (ROWS, STEPS, 7)
    assert state.h.shape == (ROWS, UNITS)


def test_one_cell_twice_shares_its_weights(remote: Server, frames: Array) -> None:
    one = rnn.BasicRNNCell(DEPTH)
    shared, apart = rnn.MultiRNNCell([one] * 2), rnn.MultiRNNCell([rnn.BasicRNNCell(DEPTH), rnn.BasicRNNCell(DEPTH)])
    made = [remote.cell(cell, input_size=DEPTH) for cell in (shared, apart)]
    counts = [cell.info.parameter_count for cell in made if cell.info is not None]
    assert 2 * counts[0] == counts[1]
    with pytest.raises(ShapeMismatchError, match="equally wide"):
        remote.cell(shared).call(frames[:, 0, :-1], made[0].zero_state(ROWS))


# --- TensorFlow's ways with odd arguments (golden/tf1_behaviours.json) -----------------------------------------------


def nonzero_steps(outputs: Array) -> list[list[int]]:
    return [np.flatnonzero(row.any(axis=-1)).tolist() for row in outputs]


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([0, 0], [[], []]),
        ([9, 2], [[0, 1, 2], [0, 1]]),
        ([-1, 2], [[], [0, 1]]),
        ([1.9, 2.0], [[0], [0, 1]]),
        (np.array([3, 1], np.int32), [[0, 1, 2], [0]]),
    ],
)
def test_lengths(cell: Any, frames: Array, lengths: Any, expected: list[list[int]]) -> None:
    outputs, state = rnn.dynamic_rnn(cell, frames, sequence_length=lengths, dtype=np.float32)
    assert nonzero_steps(outputs) == expected
    assert [bool(row.any()) for row in state] == [bool(steps) for steps in expected]


def test_a_length_of_zero_carries_the_initial_state(cell: Any, frames: Array) -> None:
    initial = np.full((ROWS, UNITS), 0.5, np.float32)
    _, state = rnn.dynamic_rnn(cell, frames, sequence_length=[0, 0], initial_state=initial)
    np.testing.assert_array_equal(state, initial)


@pytest.mark.parametrize("lengths", [2, [1, 2, 3], [[1, 2]]])
def test_lengths_of_another_shape_are_a_value_error(cell: Any, frames: Array, lengths: Any) -> None:
    with pytest.raises(ValueError, match="sequence_length"):
        rnn.dynamic_rnn(cell, frames, sequence_length=lengths, dtype=np.float32)


def test_no_time_gives_no_outputs_and_the_initial_state(cell: Any, frames: Array) -> None:
    initial = np.full((ROWS, UNITS), 0.5, np.float32)
    for time_major in (False, True):
        inputs = frames[:, :0].swapaxes(0, 1) if time_major else frames[:, :0]
        outputs, state = rnn.dynamic_rnn(cell, inputs, initial_state=initial, time_major=time_major)
        assert outputs.shape == ((0, ROWS, UNITS) if time_major else (ROWS, 0, UNITS))
        np.testing.assert_array_equal(state, initial)


def test_no_rows(cell: Any, frames: Array) -> None:
    outputs, state = rnn.dynamic_rnn(cell, frames[:0], dtype=np.float32)
    assert outputs.shape == (0, STEPS, UNITS)
    assert state.shape == (0, UNITS)


def test_nan_past_a_length_does_not_leak(cell: Any, frames: Array) -> None:
    frames[0, 1:] = np.nan
    outputs, state = rnn.dynamic_rnn(cell, frames, sequence_length=[1, 3], dtype=np.float32)
    assert np.isfinite(outputs).all()
    assert np.isfinite(state).all()


def test_without_an_initial_state_the_dtype_is_required(cell: Any, frames: Array) -> None:
    message = "^If no initial_state is provided, argument `dtype` must be specified$"
    with pytest.raises(ValueError, match=message):
        rnn.dynamic_rnn(cell, frames)
    with pytest.raises(ValueError, match=message):
        rnn.static_rnn(cell, list(frames))


def test_a_plain_pair_will_do_and_the_answer_is_named(remote: Server, frames: Array) -> None:
    cell: Any = remote.cell(rnn.BasicLSTMCell(UNITS))
    pair = (np.zeros((ROWS, UNITS), np.float32), np.zeros((ROWS, UNITS), np.float32))
    for state in (cell.call(frames[:, 0], pair)[1], rnn.dynamic_rnn(cell, frames, initial_state=pair)[1]):
        assert type(state) is rnn.LSTMStateTuple


def test_a_list_of_states_will_do(remote: Server, frames: Array) -> None:
    cell: Any = remote.cell(rnn.MultiRNNCell([rnn.BasicRNNCell(UNITS), rnn.GRUCell(UNITS)]))
    _, state = rnn.dynamic_rnn(cell, frames, initial_state=list(cell.zero_state(ROWS)))
    assert type(state) is tuple


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (np.zeros((ROWS + 1, UNITS), np.float32), ShapeMismatchError),
        (np.zeros((1, UNITS), np.float32), ShapeMismatchError),
        (np.zeros((ROWS, UNITS - 1), np.float32), ShapeMismatchError),
        (np.zeros((ROWS, UNITS)), DtypeMismatchError),
        ((np.zeros((ROWS, UNITS), np.float32),) * 2, ShapeMismatchError),
    ],
)
def test_states_that_do_not_fit_are_a_value_error(cell: Any, frames: Array, state: Any, error: type[Exception]) -> None:
    uses: list[Callable[[], object]] = [
        lambda: cell.call(frames[:, 0], state),
        lambda: rnn.dynamic_rnn(cell, frames, initial_state=state),
    ]
    for use in uses:
        with pytest.raises(error) as caught:
            use()
        assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("shape", [(DEPTH,), (ROWS, STEPS, DEPTH), ()])
def test_call_takes_a_batch_of_vectors(cell: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"inputs: expected shape \[batch, "):
        cell.call(np.zeros(shape, np.float32), cell.zero_state(ROWS))


@pytest.mark.parametrize("dtype", [np.int32, np.float64, np.float16])
def test_inputs_of_another_type_are_a_value_error(cell: Any, frames: Array, dtype: Any) -> None:
    with pytest.raises(DtypeMismatchError, match="inputs: expected float32; got"):
        rnn.dynamic_rnn(cell, frames.astype(dtype), dtype=np.float32)


def test_the_dtype_has_to_be_the_cells(cell: Any, frames: Array) -> None:
    with pytest.raises(DtypeMismatchError, match="dtype: expected float32, the cell's; got float64"):
        rnn.dynamic_rnn(cell, frames, dtype=np.float64)


def test_another_width_later_is_a_value_error(cell: Any, frames: Array) -> None:
    rnn.dynamic_rnn(cell, frames, dtype=np.float32)
    with pytest.raises(ValueError, match="expected shape"):
        rnn.dynamic_rnn(cell, frames[:, :, 1:], dtype=np.float32)


def test_static_rnn_takes_a_list(cell: Any, frames: Array) -> None:
    with pytest.raises(TypeError, match="inputs must be a sequence"):
        rnn.static_rnn(cell, frames, dtype=np.float32)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="inputs must not be empty"):
        rnn.static_rnn(cell, [], dtype=np.float32)
    with pytest.raises(ShapeMismatchError, match=r"inputs\[1\]: expected shape \[2, 5\]; got \[1, 5\]"):
        rnn.static_rnn(cell, [frames[:, 0], frames[:1, 1]], dtype=np.float32)
    with pytest.raises(ShapeMismatchError, match=r"inputs\[0\]: expected shape \[batch, input_size\]; got \[5\]"):
        rnn.static_rnn(cell, [frames[0, 0]], dtype=np.float32)


def test_zero_state(cell: Any) -> None:
    assert cell.zero_state(0).shape == (0, UNITS)
    assert cell.zero_state(np.int64(3), np.float64).dtype == np.float64
    for batch_size in (-1, 2.0, None, True):
        with pytest.raises(ValueError, match="batch_size: expected"):
            cell.zero_state(batch_size)


def test_a_description_alone_computes_nothing(frames: Array) -> None:
    description: Any = rnn.BasicRNNCell(UNITS)
    with pytest.raises(TypeError, match=r"expected a cell on a server: server\.cell\(BasicRNNCell\(num_units=4"):
        rnn.dynamic_rnn(description, frames, dtype=np.float32)
    with pytest.raises(TypeError, match="expected a cell on a server"):
        rnn.static_rnn(description, list(frames), dtype=np.float32)


def test_chunks_with_the_state_passed_on_are_the_whole(cell: Any, frames: Array) -> None:
    whole, last = rnn.dynamic_rnn(cell, frames, dtype=np.float32)
    first, state = rnn.dynamic_rnn(cell, frames[:, :1], dtype=np.float32)
    rest, state = rnn.dynamic_rnn(cell, frames[:, 1:], initial_state=state)
    np.testing.assert_allclose(np.concatenate([first, rest], axis=1), whole, atol=1e-5)
    np.testing.assert_allclose(state, last, atol=1e-5)
