"""Cell descriptions: TensorFlow's sizes and variables, and descriptions <-> Cell messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellserve.cell_messages import MAX_CELLS, MAX_DEPTH, cell_from_proto, cell_to_proto
from cellserve.cells import (
    ACTIVATIONS,
    MAX_STACK,
    MAX_UNITS,
    BasicLSTMCell,
    BasicRNNCell,
    CellDescription,
    GRUCell,
    MultiRNNCell,
    OutputProjectionWrapper,
    place,
)
from cellserve.errors import FieldInvalidError, InvalidArgumentError, ShapeMismatchError
from cellserve.states import LSTMStateTuple
from cellserve.v1 import cell_pb2
from cellserve.v1.cell_pb2 import Cell

units = st.integers(1, 9)
activations = st.none() | st.sampled_from(ACTIVATIONS)
names = st.none() | st.text("abcXYZ019_.-", min_size=1, max_size=8)
plain_cells: st.SearchStrategy[CellDescription] = st.one_of(
    st.builds(BasicRNNCell, units, activations, name=names),
    st.builds(GRUCell, units, activations, name=names),
    st.builds(BasicLSTMCell, units, st.floats(-4, 4), st.booleans(), activations, name=names),
)
cells: st.SearchStrategy[CellDescription] = st.recursive(
    plain_cells,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(MultiRNNCell),
        st.builds(OutputProjectionWrapper, inner, units, activations, name=names),
    ),
    max_leaves=5,
)


def through_the_wire(cell: CellDescription) -> CellDescription:
    return cell_from_proto(Cell.FromString(cell_to_proto(cell).SerializeToString()))


def variable_shapes(cell: CellDescription, input_size: int) -> dict[str, tuple[int, ...]]:
    return {variable.name: variable.shape for variable in cell.variables(input_size)}


@pytest.mark.parametrize(
    ("cell", "state_size", "output_size"),
    [
        (BasicRNNCell(num_units=128), 128, 128),
        (BasicLSTMCell(128), LSTMStateTuple(c=128, h=128), 128),
        (BasicLSTMCell(128, state_is_tuple=False), 256, 128),
        (GRUCell(64), 64, 64),
        (MultiRNNCell([BasicRNNCell(128), BasicRNNCell(128)]), (128, 128), 128),
        (MultiRNNCell([BasicLSTMCell(8), GRUCell(4)]), (LSTMStateTuple(8, 8), 4), 4),
        (MultiRNNCell([GRUCell(8), GRUCell(4)], state_is_tuple=False), 12, 4),
        (OutputProjectionWrapper(BasicLSTMCell(8), 3), LSTMStateTuple(8, 8), 3),
    ],
)
def test_sizes_are_what_tensorflow_prints(cell: CellDescription, state_size: Any, output_size: int) -> None:
    assert cell.state_size == state_size
    assert repr(cell.state_size) == repr(state_size)
    assert cell.output_size == output_size


def test_variables_have_tensorflows_names_shapes_and_order() -> None:
    stack = MultiRNNCell([BasicLSTMCell(8), GRUCell(4), BasicRNNCell(2)])
    assert list(variable_shapes(stack, 5).items()) == [
        ("multi_rnn_cell/cell_0/basic_lstm_cell/kernel", (13, 32)),
        ("multi_rnn_cell/cell_0/basic_lstm_cell/bias", (32,)),
        ("multi_rnn_cell/cell_1/gru_cell/gates/kernel", (12, 8)),
        ("multi_rnn_cell/cell_1/gru_cell/gates/bias", (8,)),
        ("multi_rnn_cell/cell_1/gru_cell/candidate/kernel", (12, 4)),
        ("multi_rnn_cell/cell_1/gru_cell/candidate/bias", (4,)),
        ("multi_rnn_cell/cell_2/basic_rnn_cell/kernel", (6, 2)),
        ("multi_rnn_cell/cell_2/basic_rnn_cell/bias", (2,)),
    ]
    begins = {variable.name.removeprefix("gru_cell/"): variable.initializer for variable in GRUCell(4).variables(5)}
    assert begins["gates/bias"] == "ones"
    assert begins["candidate/bias"] == "zeros"
    assert begins["gates/kernel"] == "glorot_uniform"
    wrapped = variable_shapes(OutputProjectionWrapper(BasicRNNCell(8, name="a"), 3, name="out"), 5)
    assert wrapped == {"out/a/kernel": (13, 8), "out/a/bias": (8,), "out/kernel": (8, 3), "out/bias": (3,)}


def test_one_cell_used_several_times_has_one_set_of_weights() -> None:
    shared = BasicLSTMCell(8)
    stack = MultiRNNCell([shared] * 3)
    assert list(variable_shapes(stack, 8)) == [
        "multi_rnn_cell/cell_0/basic_lstm_cell/kernel",
        "multi_rnn_cell/cell_0/basic_lstm_cell/bias",
    ]
    assert stack.state_size == (LSTMStateTuple(8, 8),) * 3
    placed = place(stack, 8)
    assert placed.inner[0] is placed.inner[1] is placed.inner[2]
    equal_but_apart = MultiRNNCell([BasicLSTMCell(8), BasicLSTMCell(8)])
    assert len(variable_shapes(equal_but_apart, 8)) == 4


def test_a_shared_cell_cannot_have_two_widths() -> None:
    with pytest.raises(ShapeMismatchError, match=r"^BasicLSTMCell: .* got 5 and 8$"):
        MultiRNNCell([BasicLSTMCell(8)] * 2).variables(5)


@given(cell=cells)
def test_a_description_survives_the_wire(cell: CellDescription) -> None:
    received = through_the_wire(cell)
    assert received == cell
    assert received.variables(4) == cell.variables(4)


@given(use=st.lists(st.integers(0, 2), min_size=1, max_size=6), members=st.lists(plain_cells, min_size=3, max_size=3))
def test_what_is_one_object_is_one_object_again(use: list[int], members: list[CellDescription]) -> None:
    received = through_the_wire(MultiRNNCell([members[index] for index in use]))
    assert isinstance(received, MultiRNNCell)
    for left, first in enumerate(use):
        for right, second in enumerate(use):
            assert (received.cells[left] is received.cells[right]) == (first == second)


def test_sharing_survives_in_nests() -> None:
    lstm = BasicLSTMCell(8)
    wrapped = OutputProjectionWrapper(lstm, 8)
    received = through_the_wire(MultiRNNCell([wrapped, lstm, wrapped]))
    assert isinstance(received, MultiRNNCell)
    first, second, third = received.cells
    assert first is third
    assert isinstance(first, OutputProjectionWrapper)
    assert first.cell is second
    assert variable_shapes(received, 8) == variable_shapes(MultiRNNCell([wrapped, lstm, wrapped]), 8)


def test_a_shared_stack_survives() -> None:
    inner = MultiRNNCell([BasicRNNCell(4), GRUCell(4)])
    received = through_the_wire(MultiRNNCell([inner, inner]))
    assert isinstance(received, MultiRNNCell)
    assert received.cells[0] is received.cells[1]


def test_unshared_cells_carry_no_share_id() -> None:
    message = cell_to_proto(MultiRNNCell([GRUCell(4), GRUCell(4)]))
    assert [inner.share_id for inner in message.multi_rnn_cell.cells] == [0, 0]


def test_a_forget_bias_of_zero_is_not_the_default() -> None:
    assert cell_from_proto(Cell(basic_lstm_cell=cell_pb2.BasicLstmCell(num_units=4))) == BasicLSTMCell(4, 1.0)
    assert through_the_wire(BasicLSTMCell(4, 0.0)) == BasicLSTMCell(4, 0.0)


def test_an_activation_that_is_not_said_is_the_default() -> None:
    assert through_the_wire(GRUCell(4)) == GRUCell(4, None)
    assert through_the_wire(GRUCell(4, "identity")) == GRUCell(4, "identity")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BasicRNNCell(0), r"^num_units: expected an integer from 1 to 1048576; got 0$"),
        (lambda: BasicLSTMCell(-3), r"^num_units: .* got -3$"),
        (lambda: GRUCell(MAX_UNITS + 1), r"^num_units: "),
        (lambda: BasicRNNCell(True), r"^num_units: .* got True$"),
        (lambda: BasicRNNCell(2.5), r"^num_units: .* got 2\.5$"),  # type: ignore[arg-type]
        (lambda: BasicRNNCell(4, "swish"), r"^activation: expected one of tanh, .*; got 'swish'$"),
        (lambda: GRUCell(4, name=""), r"^name: "),
        (lambda: GRUCell(4, name="a/b"), r"^name: .* got 'a/b'$"),
        (lambda: GRUCell(4, name="x" * 129), r"^name: "),
        (lambda: BasicLSTMCell(4, float("nan")), r"^forget_bias: expected a finite number; got nan$"),
        (lambda: BasicLSTMCell(4, float("inf")), r"^forget_bias: "),
        (lambda: MultiRNNCell([]), r"^Must specify at least one cell for MultiRNNCell\.$"),
        (lambda: MultiRNNCell([GRUCell(1)] * (MAX_STACK + 1)), r"^cells: expected at most 64; got 65$"),
        (lambda: MultiRNNCell([BasicLSTMCell(4)], state_is_tuple=False), r"^Some cells return tuples of states"),
        (lambda: OutputProjectionWrapper(GRUCell(4), 0), r"^output_size: "),
    ],
)
def test_options_out_of_range(make: Callable[[], CellDescription], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        make()


def test_what_is_no_cell_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="cells must be a list or tuple"):
        MultiRNNCell(GRUCell(4))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"cells\[1\]: expected a cell"):
        MultiRNNCell([GRUCell(4), 128])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="cell: expected a cell"):
        OutputProjectionWrapper("gru", 4)  # type: ignore[arg-type]


def nested(depth: int) -> Cell:
    message = Cell(gru_cell=cell_pb2.GruCell(num_units=2))
    for _ in range(depth):
        message = Cell(multi_rnn_cell=cell_pb2.MultiRnnCell(cells=[message]))
    return message


GRU = Cell(gru_cell=cell_pb2.GruCell(num_units=2))


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (Cell(), r"^cell: expected one kind of cell; got an empty message$"),
        (Cell(name="x"), r"^cell: expected one kind of cell"),
        (Cell(gru_cell=cell_pb2.GruCell()), r"^cell\.gru_cell: num_units: .* got 0$"),
        (Cell(gru_cell=cell_pb2.GruCell(num_units=1 << 40)), r"^cell\.gru_cell: num_units: "),
        (Cell(basic_rnn_cell=cell_pb2.BasicRnnCell(num_units=2), name="a b"), r"^cell\.basic_rnn_cell: name: "),
        (
            Cell(gru_cell=cell_pb2.GruCell(num_units=2, activation=77)),  # type: ignore[arg-type]
            r"^cell\.gru_cell\.activation: expected a known activation; got number 77$",
        ),
        (
            Cell(basic_lstm_cell=cell_pb2.BasicLstmCell(num_units=2, forget_bias=float("nan"))),
            r"^cell\.basic_lstm_cell: forget_bias: ",
        ),
        (Cell(multi_rnn_cell=cell_pb2.MultiRnnCell()), r"^cell\.multi_rnn_cell\.cells: expected 1 to 64; got 0$"),
        (
            Cell(multi_rnn_cell=cell_pb2.MultiRnnCell(cells=[GRU] * 65)),
            r"^cell\.multi_rnn_cell\.cells: expected 1 to 64; got 65$",
        ),
        (
            Cell(multi_rnn_cell=cell_pb2.MultiRnnCell(cells=[GRU, Cell()])),
            r"^cell\.multi_rnn_cell\.cells\[1\]: expected one kind of cell",
        ),
        (
            Cell(multi_rnn_cell=cell_pb2.MultiRnnCell(cells=[GRU]), name="x"),
            r"^cell\.multi_rnn_cell: a MultiRNNCell has no name of its own; got 'x'$",
        ),
        (
            Cell(multi_rnn_cell=cell_pb2.MultiRnnCell(cells=[GRU]), name="x" * 10_000),
            r"^cell\.multi_rnn_cell: a MultiRNNCell has no name of its own; got 'x{80}'\.\.\. \(10000 characters\)$",
        ),
        (
            Cell(gru_cell=cell_pb2.GruCell(num_units=1), name="x" * 10_000),
            r"^cell\.gru_cell: name: expected 1 to 128 .*; got 'x{80}'\.\.\. \(10000 characters\)$",
        ),
        (
            Cell(output_projection_wrapper=cell_pb2.OutputProjectionWrapper(output_size=2)),
            r"^cell\.output_projection_wrapper\.cell: expected one kind of cell",
        ),
        (
            Cell(output_projection_wrapper=cell_pb2.OutputProjectionWrapper(cell=GRU)),
            r"^cell\.output_projection_wrapper: output_size: ",
        ),
        (nested(MAX_DEPTH), r"expected cells nested at most 16 deep$"),
    ],
)
def test_a_bad_message_names_its_place(message: Cell, text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=text):
        cell_from_proto(message)


def test_cells_of_one_share_id_have_to_be_the_same() -> None:
    one = Cell(gru_cell=cell_pb2.GruCell(num_units=2), share_id=1)
    other = Cell(gru_cell=cell_pb2.GruCell(num_units=3), share_id=1)
    with pytest.raises(FieldInvalidError, match=r"^cell\.multi_rnn_cell\.cells\[1\]\.share_id: .* with 1 differ$"):
        cell_from_proto(Cell(multi_rnn_cell=cell_pb2.MultiRnnCell(cells=[one, other])))


def test_the_number_of_cells_is_limited() -> None:
    level = Cell(multi_rnn_cell=cell_pb2.MultiRnnCell(cells=[GRU] * 31))
    assert cell_from_proto(Cell(multi_rnn_cell=cell_pb2.MultiRnnCell(cells=[level] * 31))).output_size == 2
    with pytest.raises(FieldInvalidError, match=rf"expected at most {MAX_CELLS} cells in all$"):
        cell_from_proto(Cell(multi_rnn_cell=cell_pb2.MultiRnnCell(cells=[level] * 32)))


def test_a_nest_at_the_limit_is_taken() -> None:
    assert cell_to_proto(cell_from_proto(nested(MAX_DEPTH - 1))) == nested(MAX_DEPTH - 1)
