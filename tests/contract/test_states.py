"""Nested states <-> State, and states <-> their leaves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellserve.errors import DtypeMismatchError, FieldInvalidError, ShapeMismatchError
from cellserve.states import (
    LSTMStateTuple,
    Structure,
    check_leaves,
    flatten,
    leaf_names,
    leaf_sizes,
    spec_from_proto,
    spec_to_proto,
    state_from_proto,
    state_to_proto,
    unflatten,
    zeros,
)
from cellserve.tensors import Array, tensor_from_array
from cellserve.v1.state_pb2 import LstmState, State, StateSpec, TupleState
from cellserve.v1.tensor_pb2 import Tensor, TensorSpec

FLOAT32 = np.dtype(np.float32)
LSTM = LSTMStateTuple(c=3, h=3)
STACK = (LSTM, 2, (4, LSTM))

structures: st.SearchStrategy[Structure] = st.recursive(
    st.integers(1, 5) | st.integers(1, 5).map(lambda n: LSTMStateTuple(n, n)),
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(tuple),
    max_leaves=6,
)


def counting(structure: Structure, rows: int) -> list[Array]:
    """Leaves whose elements are all different, to see that none is mixed up."""
    return [
        (np.arange(rows * size, dtype=np.float32) + 100 * index).reshape(rows, size)
        for index, size in enumerate(leaf_sizes(structure))
    ]


def tensor_state(rows: int, size: int) -> State:
    return State(tensor=tensor_from_array(np.zeros((rows, size), np.float32)))


def assert_same_leaves(left: list[Array], right: list[Array]) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


def test_leaves_are_named_and_ordered_as_tensorflow_nests_them() -> None:
    assert leaf_sizes(STACK) == [3, 3, 2, 4, 3, 3]
    assert leaf_names(STACK) == [
        "state[0].c",
        "state[0].h",
        "state[1]",
        "state[2][0]",
        "state[2][1].c",
        "state[2][1].h",
    ]
    assert leaf_names(LSTM, "initial_state") == ["initial_state.c", "initial_state.h"]
    assert leaf_names(7) == ["state"]


def test_an_lstm_state_is_a_named_pair() -> None:
    state = zeros(LSTM, 2, FLOAT32)
    assert isinstance(state, LSTMStateTuple)
    assert state._fields == ("c", "h")
    assert repr(LSTMStateTuple(c=128, h=128)) == "LSTMStateTuple(c=128, h=128)"
    assert state.c.shape == state.h.shape == (2, 3)
    assert state.c is not state.h


@given(structure=structures, rows=st.integers(1, 3))
def test_a_state_survives_flattening(structure: Structure, rows: int) -> None:
    leaves = counting(structure, rows)
    nested = unflatten(structure, leaves)
    assert_same_leaves(flatten(structure, nested), leaves)
    assert type(nested) is (np.ndarray if isinstance(structure, int) else type(structure))


@given(structure=structures, rows=st.integers(1, 3))
def test_a_state_survives_the_wire(structure: Structure, rows: int) -> None:
    leaves = counting(structure, rows)
    message = State.FromString(state_to_proto(structure, leaves).SerializeToString())
    assert_same_leaves(state_from_proto(structure, message), leaves)


@given(structure=structures)
def test_a_structure_survives_the_wire(structure: Structure) -> None:
    message = StateSpec.FromString(spec_to_proto(structure, FLOAT32).SerializeToString())
    received = spec_from_proto(message)
    assert received == structure
    assert repr(received) == repr(structure)  # a plain pair equals an LSTMStateTuple, its name tells them apart


def test_a_plain_pair_or_a_list_will_do_where_tensorflow_takes_it() -> None:
    c, h = np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)
    assert_same_leaves(flatten(LSTM, (c, h)), [c, h])
    assert_same_leaves(flatten((LSTM, 3), [[c, h], h]), [c, h, h])
    assert_same_leaves(flatten(3, c), [c])


@pytest.mark.parametrize(
    ("structure", "state", "message"),
    [
        (3, (1, 2), r"^state: expected one array \[batch, 3\]; got a tuple of 2$"),
        (LSTM, np.zeros(3), r"^state: expected a pair \(c, h\); got ndarray$"),
        (LSTM, (1, 2, 3), r"^state: expected a pair \(c, h\); got a tuple of 3$"),
        ((3, 3), (1,), r"^state: expected a tuple of 2 states; got a tuple of 1$"),
        ((3, LSTM), (1, 2), r"^state\[1\]: expected a pair \(c, h\); got int$"),
        ((3, (3, LSTM)), (1, (2, (3, 4, 5))), r"^state\[1\]\[1\]: expected a pair"),
        ((3, 3), None, r"^state: expected a tuple of 2 states; got NoneType$"),
    ],
)
def test_a_state_that_is_nested_in_another_way(structure: Structure, state: Any, message: str) -> None:
    with pytest.raises(ShapeMismatchError, match=message):
        flatten(structure, state)


@pytest.mark.parametrize(
    ("structure", "message", "text"),
    [
        (3, State(lstm=LstmState()), r"^state: expected one tensor \[batch, 3\]; got an LSTM's \(c, h\)$"),
        (3, State(tuple=TupleState()), r"^state: expected one tensor \[batch, 3\]; got a tuple of 0$"),
        (LSTM, tensor_state(1, 3), r"^state: expected an LSTM's \(c, h\); got one tensor$"),
        ((3, 3), tensor_state(1, 3), r"^state: expected a tuple of 2 states; got one tensor$"),
        ((3, 3), State(tuple=TupleState(items=[tensor_state(1, 3)])), r"got a tuple of 1$"),
        ((3, LSTM), State(tuple=TupleState(items=[tensor_state(1, 3)] * 2)), r"^state\[1\]: expected an LSTM's"),
    ],
)
def test_a_message_that_is_nested_in_another_way(structure: Structure, message: State, text: str) -> None:
    with pytest.raises(ShapeMismatchError, match=text):
        state_from_proto(structure, message)


@pytest.mark.parametrize("structure", [3, LSTM, (3, 3)])
def test_an_empty_message_is_not_a_state(structure: Structure) -> None:
    with pytest.raises(FieldInvalidError, match=r"^initial_state: expected a state; got an empty message$"):
        state_from_proto(structure, State(), "initial_state")


def test_a_part_that_is_no_tensor_is_named() -> None:
    good = tensor_from_array(np.zeros((1, 3), np.float32))
    with pytest.raises(DtypeMismatchError, match=r"^state\.h: "):
        state_from_proto(LSTM, State(lstm=LstmState(c=good)))
    cut = Tensor(data_type=good.data_type, shape=good.shape, data=good.data[:-1])
    with pytest.raises(ShapeMismatchError, match=r"^state\.c: expected 12 bytes"):
        state_from_proto(LSTM, State(lstm=LstmState(c=cut, h=good)))


def test_leaves_are_checked_against_rows_width_and_dtype() -> None:
    leaves = counting(STACK, 2)
    check_leaves(STACK, leaves, 2, FLOAT32, "state")
    check_leaves(STACK, leaves, "batch", FLOAT32, "state")
    with pytest.raises(ShapeMismatchError, match=r"^state\[0\]\.c: expected shape \[3, 3\]; got \[2, 3\]$"):
        check_leaves(STACK, leaves, 3, FLOAT32, "state")
    with pytest.raises(DtypeMismatchError, match=r"^state\[0\]\.c: expected float64; got float32$"):
        check_leaves(STACK, leaves, 2, np.dtype(np.float64), "state")
    leaves[2] = np.zeros((2, 9), np.float32)
    with pytest.raises(ShapeMismatchError, match=r"^state\[1\]: expected shape \[batch, 2\]; got \[2, 9\]$"):
        check_leaves(STACK, leaves, "batch", FLOAT32, "state")


def test_a_spec_that_is_empty_or_no_vector() -> None:
    with pytest.raises(FieldInvalidError, match="expected a state's sizes; got an empty message"):
        spec_from_proto(StateSpec())
    with pytest.raises(FieldInvalidError, match=r"^h: expected a vector; got shape \[2, 2\]$"):
        spec_from_proto(StateSpec(tensor=TensorSpec(name="h", shape=[2, 2])))


@given(structure=structures, rows=st.integers(1, 3))
def test_zeros_have_the_structures_shapes(structure: Structure, rows: int) -> None:
    leaves = flatten(structure, zeros(structure, rows, FLOAT32))
    assert [leaf.shape for leaf in leaves] == [(rows, size) for size in leaf_sizes(structure)]
    assert not any(leaf.any() for leaf in leaves)
    assert {leaf.dtype for leaf in leaves} == {FLOAT32}
