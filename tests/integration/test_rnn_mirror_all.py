"""TensorFlow 1's other loops and cells on a real server: bidirectional_dynamic_rnn, raw_rnn, ids, nested states."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

import cellserve_client
from cellserve.cells import CellDescription
from cellserve.errors import DtypeMismatchError, InvalidArgumentError, ShapeMismatchError
from cellserve.specs import Bidirectional
from cellserve.states import flatten, leaf_sizes, unflatten
from cellserve.tensors import Array
from cellserve_client import LSTMStateTuple, Server, rnn
from cellserve_client.raw_loop import LoopFunction
from cellserve_client.reversal import reversed_rows
from tests.clients import KINDS, client
from tests.golden_cases import GoldenCase, golden_cases
from tests.servers import LoopThread, server_process

pytestmark = pytest.mark.slow

BIDIRECTIONAL = [case for case in golden_cases() if case.cell is None]
CASES = [case for case in golden_cases() if case.cell is not None]
DEPTH, UNITS, ROWS, STEPS = 5, 4, 3, 4


@pytest.fixture(scope="module")
def server_address() -> Iterator[str]:
    """A server process of these tests' own: they define more models than one tenant may by default."""
    with server_process(["--max-defined-models", "512"]) as server:
        yield server.address


@pytest.fixture(params=KINDS, scope="module")
def remote(request: pytest.FixtureRequest, loop_thread: LoopThread, server_address: str) -> Iterator[Server]:
    """Either client, connected to the same server."""
    with ExitStack() as stack:
        yield stack.enter_context(client(request.param, loop_thread, server_address))


@pytest.fixture
def frames() -> Array:
    """Inputs ``[ROWS, STEPS, DEPTH]``."""
    return np.random.default_rng(7).standard_normal((ROWS, STEPS, DEPTH)).astype(np.float32)


@pytest.fixture
def cell(remote: Server) -> Any:
    """A cell whose output is its state."""
    return remote.cell(rnn.BasicRNNCell(UNITS), seed=1)


@pytest.fixture
def other(remote: Server) -> Any:
    """Another cell, of another width."""
    return remote.cell(rnn.GRUCell(UNITS + 1), seed=2)


def assert_close(case: GoldenCase, got: Any, want: Any) -> None:
    np.testing.assert_allclose(got, want, atol=case.tolerance, rtol=case.tolerance)


# --- bidirectional_dynamic_rnn ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("time_major", [False, True])
@pytest.mark.parametrize("case", BIDIRECTIONAL, ids=[case.id for case in BIDIRECTIONAL])
def test_tensorflows_bidirectional_numbers(remote: Server, case: GoldenCase, time_major: bool) -> None:
    layer = case.description.layers[0]
    assert isinstance(layer, Bidirectional)
    both = {"fw": layer.forward, "bw": layer.backward}
    cells: dict[str, Any] = {
        way: remote.cell(cell, weights={name: value for name, value in case.weights.items() if f"/{way}/" in name})
        for way, cell in both.items()
    }
    initial_fw, initial_bw = unflatten(case.description.state_size, case.initial_leaves)
    outputs, states = rnn.bidirectional_dynamic_rnn(
        cells["fw"],
        cells["bw"],
        case.inputs.swapaxes(0, 1) if time_major else case.inputs,
        sequence_length=case.sequence_length,
        initial_state_fw=initial_fw,
        initial_state_bw=initial_bw,
        time_major=time_major,
    )
    side_by_side = np.concatenate(outputs, axis=2)
    assert_close(case, side_by_side.swapaxes(0, 1) if time_major else side_by_side, case.outputs)
    for got, want in zip(flatten(case.description.state_size, states), case.final_leaves, strict=True):
        assert_close(case, got, want)


def test_backwards_is_the_reversed_rows_forwards(cell: Any, other: Any, frames: Array) -> None:
    lengths = np.array([4, 0, 2])
    (output_fw, output_bw), (state_fw, state_bw) = rnn.bidirectional_dynamic_rnn(
        cell, other, frames, sequence_length=lengths, dtype=np.float32
    )
    want_fw, want_state_fw = rnn.dynamic_rnn(cell, frames, lengths, dtype=np.float32)
    np.testing.assert_array_equal(output_fw, want_fw)
    np.testing.assert_array_equal(state_fw, want_state_fw)
    turned = frames.copy()
    turned[0], turned[2, :2] = frames[0, ::-1], frames[2, 1::-1]
    want_bw, want_state_bw = rnn.dynamic_rnn(other, turned, lengths, dtype=np.float32)
    np.testing.assert_array_equal(state_bw, want_state_bw)
    np.testing.assert_array_equal(output_bw[0], want_bw[0, ::-1])
    np.testing.assert_array_equal(output_bw[2, :2], want_bw[2, 1::-1])
    assert not output_bw[1].any()
    assert not output_bw[2, 2:].any()


@pytest.mark.parametrize("lengths", [[9, 2, 1], [-1, 2, 1], [1, 2], 2])
def test_bidirectional_lengths_out_of_range_are_a_value_error(
    cell: Any, other: Any, frames: Array, lengths: Any
) -> None:
    with pytest.raises(ValueError, match="sequence_length"):
        rnn.bidirectional_dynamic_rnn(cell, other, frames, sequence_length=lengths, dtype=np.float32)


def test_bidirectional_needs_a_dtype_or_both_states(cell: Any, other: Any, frames: Array) -> None:
    with pytest.raises(ValueError, match="argument `dtype` must be specified"):
        rnn.bidirectional_dynamic_rnn(cell, other, frames, initial_state_fw=cell.zero_state(ROWS))


def test_nan_past_a_length_leaks_neither_way(cell: Any, other: Any, frames: Array) -> None:
    frames[0, 1:] = np.nan
    outputs, states = rnn.bidirectional_dynamic_rnn(cell, other, frames, [1, 4, 4], dtype=np.float32)
    assert all(np.isfinite(array).all() for array in (*outputs, *states))


def test_bidirectional_takes_two_cells_of_one_client(cell: Any, remote: Server, frames: Array) -> None:
    description: Any = rnn.BasicRNNCell(UNITS)
    with pytest.raises(TypeError, match="cell_fw: expected a cell on a server"):
        rnn.bidirectional_dynamic_rnn(description, cell, frames, dtype=np.float32)
    with pytest.raises(TypeError, match="cell_bw: expected a cell on a server"):
        rnn.bidirectional_dynamic_rnn(cell, description, frames, dtype=np.float32)
    stranger: Any = object()
    with pytest.raises(TypeError, match="cell_bw: expected a cell of the"):
        rnn.bidirectional_dynamic_rnn(cell, stranger, frames, dtype=np.float32)


def test_blocking_cells_of_two_connections_are_refused(server_address: str, frames: Array) -> None:
    with cellserve_client.connect(server_address) as one, cellserve_client.connect(server_address) as two:
        cells = [server.cell(rnn.BasicRNNCell(UNITS)) for server in (one, two)]
        with pytest.raises(ValueError, match="cell_bw: expected a cell of the connection"):
            rnn.bidirectional_dynamic_rnn(cells[0], cells[1], frames, dtype=np.float32)


def test_reversed_rows() -> None:
    array = np.arange(8).reshape(2, 4)
    np.testing.assert_array_equal(reversed_rows(array, None), [[3, 2, 1, 0], [7, 6, 5, 4]])
    turned = reversed_rows(array, np.array([3, 0]))
    np.testing.assert_array_equal(turned, [[2, 1, 0, 3], [4, 5, 6, 7]])
    np.testing.assert_array_equal(reversed_rows(turned, np.array([3, 0])), array)


# --- raw_rnn ---------------------------------------------------------------------------------------------------------


def loop_over(inputs: Array, lengths: Array, initial: Any) -> LoopFunction:
    """TensorFlow's own example: dynamic_rnn as a ``loop_fn``; the loop state counts the calls."""

    def loop_fn(time: int, output: Any, state: Any, loop_state: Any) -> tuple[Any, Any, Any, Any, Any]:
        assert (output is None) == (state is None) == (time == 0)
        frame = inputs[:, min(time, inputs.shape[1] - 1)]
        return time >= lengths, frame, initial if time == 0 else state, output, (loop_state or 0) + 1

    return loop_fn


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_tensorflows_numbers_in_a_raw_loop(remote: Server, case: GoldenCase) -> None:
    assert case.cell is not None
    cell: Any = remote.cell(case.cell, weights=case.weights)
    initial = unflatten(case.description.state_size, case.initial_leaves)
    outputs, state, calls = rnn.raw_rnn(cell, loop_over(case.inputs, case.lengths, initial))
    steps = int(case.lengths.max())
    assert calls == steps + 1
    assert outputs.shape == (steps, len(case.inputs), case.output_size)
    assert outputs.dtype == case.dtype
    assert_close(case, outputs.swapaxes(0, 1), case.outputs[:, :steps])
    for got, want in zip(flatten(case.description.state_size, state), case.final_leaves, strict=True):
        assert_close(case, got, want)


def test_a_raw_loop_feeds_outputs_back_and_emits_what_it_likes(cell: Any) -> None:
    seen: list[Any] = []

    def loop_fn(time: int, output: Any, state: Any, loop_state: Any) -> tuple[Any, Any, Any, Any, Any]:
        seen.append(loop_state)
        if time == 0:
            return [False, False], np.ones((2, UNITS), np.float32), cell_zero, None, "begun"
        emitted = {"sum": output.sum(axis=1), "pair": (output, np.full(2, time))}
        return [time >= 1, time >= 3], output, state, emitted, None

    cell_zero = cell.zero_state(2)
    emitted, state, loop_state = rnn.raw_rnn(cell, loop_fn)
    assert seen == [None, "begun", "begun", "begun"]
    assert loop_state == "begun"
    np.testing.assert_array_equal(emitted["pair"][1], [[1, 1], [0, 2], [0, 3]])
    assert emitted["sum"].shape == (3, 2)
    assert not emitted["sum"][1:, 0].any()
    np.testing.assert_array_equal(state, [emitted["pair"][0][0, 0], emitted["pair"][0][2, 1]])


@pytest.mark.parametrize(
    ("structure", "shape", "dtype"), [(None, (0, 2, UNITS), np.float32), (np.zeros(3, np.int32), (0, 2, 3), np.int32)]
)
def test_a_raw_loop_without_steps(cell: Any, structure: Any, shape: tuple[int, ...], dtype: Any) -> None:
    initial = np.full((2, UNITS), 0.5, np.float32)
    outputs, state, loop_state = rnn.raw_rnn(cell, lambda *_: ([True, True], None, initial, structure, None))
    assert outputs.shape == shape
    assert outputs.dtype == dtype
    np.testing.assert_array_equal(state, initial)
    assert loop_state is None


@pytest.mark.parametrize(
    ("finished", "state", "emit", "error", "message"),
    [
        ([True], None, 0, ShapeMismatchError, r"at time 1: elements_finished: expected shape \[2\]"),
        ([1, 0], None, 0, DtypeMismatchError, "at time 1: elements_finished: expected bool; got int64"),
        ([True] * 2, np.zeros((1, UNITS), np.float32), 0, ShapeMismatchError, "at time 1: next_cell_state"),
        ([True] * 2, np.zeros((2, UNITS)), 0, DtypeMismatchError, "at time 1: next_cell_state"),
        ([True] * 2, None, np.zeros(3), ShapeMismatchError, r"emit_output: expected shape \[2\]; got \[3\]"),
        ([True] * 2, None, None, DtypeMismatchError, "emit_output: expected numbers; got NoneType"),
    ],
)
def test_a_loop_function_that_answers_wrongly_is_told(
    cell: Any, finished: Any, state: Any, emit: Any, error: type[Exception], message: str
) -> None:
    inputs, initial = np.ones((2, DEPTH), np.float32), cell.zero_state(2)

    def loop_fn(time: int, output: Any, cell_state: Any, loop_state: Any) -> tuple[Any, Any, Any, Any, Any]:
        if time == 0:
            return [False, False], inputs, initial, None, None
        return finished, inputs, cell_state if state is None else state, output if isinstance(emit, int) else emit, None

    with pytest.raises(error, match=message):
        rnn.raw_rnn(cell, loop_fn)


def test_a_loop_function_that_gives_no_input_is_told(cell: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="at time 0: next_input: expected inputs, not every row is finished"):
        rnn.raw_rnn(cell, lambda *_: ([True, False], None, cell.zero_state(2), None, None))


def test_with_the_blocking_client_a_loop_function_may_call_cells(server_address: str, frames: Array) -> None:
    with cellserve_client.connect(server_address) as server:
        calls_itself(server.cell(rnn.BasicRNNCell(UNITS)), frames)


def calls_itself(cell: cellserve_client.Cell, frames: Array) -> None:
    def loop_fn(time: int, output: Any, state: Any, loop_state: Any) -> tuple[Any, Any, Any, Any, Any]:
        if time == 0:
            return [False] * ROWS, frames[:, 0], cell.zero_state(ROWS), None, None
        again, _ = cell.call(frames[:, 0], cell.zero_state(ROWS))
        return [True] * ROWS, None, state, output - again, None

    emitted, _, _ = rnn.raw_rnn(cell, loop_fn)
    np.testing.assert_array_equal(emitted, np.zeros((1, ROWS, UNITS)))


# --- ids -------------------------------------------------------------------------------------------------------------


def test_ids(remote: Server) -> None:
    classes, size = 6, 3
    description = rnn.EmbeddingWrapper(rnn.BasicLSTMCell(UNITS), classes, size)
    random = np.random.default_rng(5)
    weights = {
        f"rnn/{name}": random.standard_normal(shape).astype(np.float32) for name, shape, _ in description.variables(0)
    }
    cell: Any = remote.cell(description, weights=weights)
    inside = {
        name.replace("rnn/embedding_wrapper/", ""): value
        for name, value in weights.items()
        if not name.endswith("/embedding")
    }
    plain: Any = remote.cell(description.cell, weights=inside)
    table = weights["rnn/embedding_wrapper/embedding"]
    ids = np.array([[1, 5, 0], [2, 2, 4]], np.int32)
    want, want_state = rnn.dynamic_rnn(plain, table[ids], dtype=np.float32)
    outputs, state = rnn.dynamic_rnn(cell, ids, dtype=np.float32)
    np.testing.assert_allclose(outputs, want, atol=1e-6)
    np.testing.assert_allclose(state.c, want_state.c, atol=1e-6)
    outputs, _ = rnn.dynamic_rnn(cell, ids.T, sequence_length=[3, 1], dtype=np.float32, time_major=True)
    np.testing.assert_allclose(outputs[:, 0], want[0], atol=1e-6)
    steps, _ = rnn.static_rnn(cell, list(ids.T), dtype=np.float32)
    np.testing.assert_allclose(np.stack(steps, axis=1), want, atol=1e-6)
    output, _ = cell.call(ids[:, 0], cell.zero_state(2))
    np.testing.assert_allclose(output, want[:, 0], atol=1e-6)
    output, _ = cell.call([1, 2], cell.zero_state(2))
    np.testing.assert_allclose(output, want[:, 0], atol=1e-6)
    with cell.session(batch_size=2) as session:
        np.testing.assert_allclose(session.step(ids[:, 0]), want[:, 0], atol=1e-6)
        np.testing.assert_allclose(session.step(ids[:, 1]), want[:, 1], atol=1e-6)
    ways, _ = rnn.bidirectional_dynamic_rnn(cell, cell, ids, dtype=np.float32)
    np.testing.assert_allclose(ways[0], want, atol=1e-6)


def test_a_cell_on_ids_is_built_without_a_width(remote: Server) -> None:
    description = rnn.OutputProjectionWrapper(rnn.EmbeddingWrapper(rnn.GRUCell(UNITS), 6, 3), 2)
    cell: Any = remote.cell(description, seed=1)
    assert cell.input_size == 0
    with cell.session() as session:
        assert session.step(3).shape == (2,)
    fresh: Any = remote.cell(description, seed=1)
    assert fresh.info is None
    assert fresh.call(np.array([5], np.int32), fresh.zero_state(1))[0].shape == (1, 2)
    models = [cell.info, fresh.info, fresh.build(), fresh.build((None,)), fresh.build(0)]
    assert len({model.name for model in models}) == 1
    with pytest.raises(ShapeMismatchError, match="input_size: expected none, the inputs are ids; got 5"):
        remote.cell(description, input_size=5)
    with pytest.raises(InvalidArgumentError, match="input_shape: expected the shape"):
        remote.cell(rnn.BasicRNNCell(UNITS)).build()


def test_ids_that_do_not_fit_are_a_value_error(remote: Server) -> None:
    cell: Any = remote.cell(rnn.EmbeddingWrapper(rnn.BasicRNNCell(UNITS), 6, 3))
    with pytest.raises(DtypeMismatchError, match="inputs: expected int32; got float32"):
        cell.call(np.zeros(2, np.float32), cell.zero_state(2))
    with pytest.raises(ShapeMismatchError, match=r"inputs: expected shape \[batch\]; got \[2, 3\]"):
        cell.call(np.zeros((2, 3), np.int32), cell.zero_state(2))
    for wrong in (6, -1):
        with pytest.raises(ValueError, match="inputs"):
            cell.call(np.array([0, wrong], np.int32), cell.zero_state(2))


# --- all cells, nested ------------------------------------------------------------------------------------------------

NESTS: list[tuple[CellDescription, str]] = [
    (rnn.LSTMCell(UNITS, use_peepholes=True, num_proj=2), "LSTMStateTuple(c=4, h=2)"),
    (rnn.LSTMCell(UNITS, num_proj=2, state_is_tuple=False), "6"),
    (rnn.CudnnCompatibleGRUCell(UNITS), "4"),
    (rnn.LayerNormBasicLSTMCell(UNITS), "LSTMStateTuple(c=4, h=4)"),
    (rnn.MinGRUCell(UNITS), "4"),
    (rnn.MinLSTMCell(UNITS), "4"),
    (rnn.InputProjectionWrapper(rnn.BasicLSTMCell(UNITS), 3), "LSTMStateTuple(c=4, h=4)"),
    (rnn.ResidualWrapper(rnn.BasicRNNCell(DEPTH)), "5"),
    (rnn.MultiRNNCell([rnn.ResidualWrapper(rnn.GRUCell(DEPTH)), rnn.GRUCell(3)]), "(5, 3)"),
    (rnn.MultiRNNCell([rnn.GRUCell(UNITS), rnn.BasicRNNCell(3)], state_is_tuple=False), "7"),
    (
        rnn.MultiRNNCell(
            [rnn.BasicLSTMCell(UNITS, state_is_tuple=False), rnn.LSTMCell(3, state_is_tuple=False)],
            state_is_tuple=False,
        ),
        "14",
    ),
    (
        rnn.OutputProjectionWrapper(
            rnn.MultiRNNCell(
                [
                    rnn.DropoutWrapper(rnn.InputProjectionWrapper(rnn.BasicLSTMCell(UNITS), UNITS), 0.5),
                    rnn.ResidualWrapper(
                        rnn.MultiRNNCell([rnn.GRUCell(3), rnn.MultiRNNCell([rnn.LSTMCell(UNITS), rnn.GRUCell(UNITS)])])
                    ),
                ]
            ),
            2,
        ),
        "(LSTMStateTuple(c=4, h=4), (3, (LSTMStateTuple(c=4, h=4), 4)))",
    ),
]


@pytest.mark.parametrize(("description", "state_size"), NESTS, ids=[f"{index}" for index in range(len(NESTS))])
def test_nested_states(remote: Server, frames: Array, description: CellDescription, state_size: str) -> None:
    random = np.random.default_rng(3)
    weights = {
        f"rnn/{name}": random.normal(0, 0.4, shape).astype(np.float32)
        for name, shape, _ in description.variables(DEPTH)
    }
    cell: Any = remote.cell(description, weights=weights)
    assert cell.input_size == DEPTH
    assert repr(cell.state_size) == state_size
    zeros = cell.zero_state(ROWS, np.float32)
    assert [leaf.shape[1] for leaf in flatten(cell.state_size, zeros)] == leaf_sizes(cell.state_size)
    outputs, last = rnn.dynamic_rnn(cell, frames, initial_state=zeros)
    assert outputs.shape == (ROWS, STEPS, cell.output_size)
    state = zeros
    for step in range(STEPS):
        output, state = cell.call(frames[:, step], state)
        np.testing.assert_allclose(output, outputs[:, step], atol=1e-5)
    assert _types(state) == _types(last) == _types(cell.state_size)
    for got, want in zip(flatten(cell.state_size, state), flatten(cell.state_size, last), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)
    _, middle = rnn.dynamic_rnn(cell, frames[:, :2], sequence_length=[2, 1, 0], dtype=np.float32)
    _, again = rnn.dynamic_rnn(cell, frames[:, 2:], initial_state=middle)
    first_row = [leaf[0] for leaf in flatten(cell.state_size, again)]
    for got, want in zip(first_row, flatten(cell.state_size, last), strict=True):
        np.testing.assert_allclose(got, want[0], atol=1e-5)


def _types(state: Any) -> Any:
    if isinstance(state, tuple):
        kind = LSTMStateTuple if isinstance(state, LSTMStateTuple) else tuple
        return kind, [_types(part) for part in state]
    return None


def test_a_residual_cell_takes_no_other_width(remote: Server) -> None:
    for width in (1, DEPTH):
        cell: Any = remote.cell(rnn.ResidualWrapper(rnn.BasicRNNCell(UNITS)))
        with pytest.raises(ShapeMismatchError, match="ResidualWrapper: expected inputs as wide"):
            cell.call(np.zeros((2, width), np.float32), cell.zero_state(2))


@pytest.mark.parametrize("count", [1, 3])
def test_a_stack_takes_a_state_for_each_cell(remote: Server, frames: Array, count: int) -> None:
    cell: Any = remote.cell(rnn.MultiRNNCell([rnn.GRUCell(UNITS), rnn.GRUCell(UNITS)]))
    with pytest.raises(ShapeMismatchError, match=f"state: expected a tuple of 2 states; got a tuple of {count}"):
        cell.call(frames[:, 0], (np.zeros((ROWS, UNITS), np.float32),) * count)


def test_a_single_array_is_no_lstm_state(remote: Server, frames: Array) -> None:
    cell: Any = remote.cell(rnn.BasicLSTMCell(UNITS))
    with pytest.raises(ShapeMismatchError, match=r"state: expected a pair \(c, h\); got ndarray"):
        cell.call(frames[:, 0], np.zeros((ROWS, UNITS), np.float32))


def test_no_rows_in_a_step(remote: Server) -> None:
    cell: Any = remote.cell(rnn.BasicLSTMCell(UNITS))
    assert cell.call(np.zeros((0, DEPTH), np.float32), cell.zero_state(0))[0].shape == (0, UNITS)
