"""What callers pass as inputs, lengths and states."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cellserve.errors import DtypeMismatchError, FieldInvalidError, InvalidArgumentError, ShapeMismatchError
from cellserve.specs import ArraySpec
from cellserve.states import LSTMStateTuple
from cellserve.tensors import Array
from cellserve_client.arrays import (
    UNKNOWN_WIDTH,
    as_array,
    as_inputs,
    as_lengths,
    as_outputs,
    as_state,
    own_state,
    require_leading,
)

FLOAT32, FLOAT64, INT32 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int32)
ONE = (ArraySpec("inputs", FLOAT32, (3,)),)
TWO = (ArraySpec("frame", FLOAT32, (3,)), ArraySpec("id", INT32, ()))


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ([[1.0, 2.5]], FLOAT32),
        ([[1, 2]], FLOAT32),
        ((True, 2.0), FLOAT64),
        (7, INT32),
        ([1, 2], INT32),
        ([], FLOAT32),
        ([[]], INT32),
        (0.5, FLOAT64),
    ],
)
def test_pythons_own_numbers_become_what_is_due(value: Any, dtype: np.dtype[Any]) -> None:
    array = as_array(value, dtype, "inputs")
    assert array.dtype == dtype
    assert array.shape == np.shape(value)


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (np.zeros(3), FLOAT32, "inputs: expected float32; got float64"),
        (np.zeros(3, np.float32), FLOAT64, "inputs: expected float64; got float32"),
        (np.zeros(3, np.int64), FLOAT32, "inputs: expected float32; got int64"),
        (np.zeros(3, np.int64), INT32, "inputs: expected int32; got int64"),
        (np.float64(1.0), FLOAT32, "inputs: expected float32; got float64"),
        ([np.zeros(3), np.zeros(3)], FLOAT32, "inputs: expected float32; got float64"),
        ([1.5], INT32, "inputs: expected int32; got float64"),
        ("text", FLOAT32, "inputs: expected float32; got str"),
        (None, FLOAT32, "inputs: expected float32; got object"),
    ],
)
def test_arrays_of_another_type_are_refused(value: Any, dtype: np.dtype[Any], message: str) -> None:
    with pytest.raises(DtypeMismatchError, match=message):
        as_array(value, dtype, "inputs")


def test_bytes_in_another_order_are_the_same_type() -> None:
    array = as_array(np.array([1.0, 2.0], ">f4"), FLOAT32, "inputs")
    assert array.dtype == FLOAT32
    assert array.tolist() == [1.0, 2.0]


def test_numbers_beyond_the_type() -> None:
    assert as_array([1e300], FLOAT32, "inputs").tolist() == [float("inf")]
    with pytest.raises(FieldInvalidError, match="expected numbers from -2147483648 to 2147483647"):
        as_array([1 << 31], INT32, "inputs")


def test_ragged_lists_are_refused() -> None:
    with pytest.raises(ShapeMismatchError, match="inputs: expected lists of equal lengths"):
        as_array([[1.0], [1.0, 2.0]], FLOAT32, "inputs")


def test_one_input_is_an_array_or_a_mapping() -> None:
    frame = np.zeros((2, 3), np.float32)
    assert as_inputs(frame, ONE)[0] is frame
    assert as_inputs({"inputs": frame}, ONE)[0] is frame


def test_several_inputs_are_a_mapping_in_any_order() -> None:
    frame = np.zeros((2, 3), np.float32)
    arrays = as_inputs({"id": [1, 2], "frame": frame}, TWO)
    assert arrays[0] is frame
    assert arrays[1].dtype == INT32


@pytest.mark.parametrize("value", [np.zeros(3, np.float32), {"frame": [0.0]}, {"frame": [0.0], "id": 1, "more": 2}])
def test_several_inputs_have_to_be_the_declared_ones(value: Any) -> None:
    with pytest.raises(FieldInvalidError, match=r"exactly the keys \['frame', 'id'\]"):
        as_inputs(value, TWO)


def test_several_outputs_are_a_dict() -> None:
    arrays: list[Array] = [np.zeros(3), np.ones(())]
    assert as_outputs(arrays[:1], ONE) is arrays[0]
    assert as_outputs(arrays, TWO) == {"frame": arrays[0], "id": arrays[1]}


def test_leading_dimensions_are_told() -> None:
    arrays: list[Array] = [np.zeros((2, 5, 3), np.float32), np.zeros((2, 5), np.int32)]
    assert require_leading(arrays, TWO, ("batch", "time")) == (2, 5)


def test_a_missing_dimension_is_named() -> None:
    with pytest.raises(ShapeMismatchError, match=r"inputs: expected shape \[time, batch, 3\]; got \[4, 3\]"):
        require_leading([np.zeros((4, 3), np.float32)], ONE, ("time", "batch"))
    unknown = (ArraySpec("inputs", FLOAT32, (UNKNOWN_WIDTH,)),)
    with pytest.raises(ShapeMismatchError, match=r"expected shape \[batch, input_size\]; got \[3\]"):
        require_leading([np.zeros(3, np.float32)], unknown, ("batch",))


def test_inputs_that_disagree_are_refused() -> None:
    with pytest.raises(ShapeMismatchError, match=r"expected \[2, 5\] in front"):
        require_leading([np.zeros((2, 5, 3)), np.zeros((2, 4))], TWO, ("batch", "time"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [([1, 9, 0], [1, 4, 0]), ([1.9, 2.0, 4.99], [1, 2, 4]), ([-1, 2, -7], [0, 2, 0]), ((4, 4, 4), [4, 4, 4])],
)
def test_lengths_as_tensorflow_takes_them(value: Any, expected: list[int]) -> None:
    lengths = as_lengths(value, 3, 4, negative_is_zero=True, field="sequence_length")
    assert lengths.dtype == np.int64
    assert lengths.tolist() == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (2, "must be a vector of length batch_size"),
        ([[1, 2]], "must be a vector of length batch_size"),
        ([1, 2, 3], "expected 2 lengths, one for each row; got 3"),
        (["a", "b"], "expected integers; got str"),
        ([True, False], "expected integers; got bool"),
        ([float("nan"), 1], "expected finite numbers"),
    ],
)
def test_other_lengths_are_a_value_error(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_lengths(value, 2, 4, negative_is_zero=True, field="sequence_length")


def test_negative_lengths_can_be_an_error() -> None:
    with pytest.raises(InvalidArgumentError, match=r"lengths\[1\]: expected 0 or more; got -2"):
        as_lengths([1, -2], 2, 4, negative_is_zero=False, field="lengths")


def test_states_go_and_come_as_they_are() -> None:
    structure = (LSTMStateTuple(2, 2), 3)
    c, h, gru = (np.full((1, size), size, np.float32) for size in (2, 2, 3))
    state = own_state(structure, as_state(structure, ((c, h), gru), FLOAT32, "state"))
    assert isinstance(state[0], LSTMStateTuple)
    state[0].c[0, 0] = 9  # The caller's own, to change.
    np.testing.assert_array_equal(state[1], gru)


def test_states_of_another_type_are_refused() -> None:
    pair = (np.zeros((1, 2), np.float32), np.zeros((1, 2)))
    with pytest.raises(DtypeMismatchError, match=r"state\.h: expected float32; got float64"):
        as_state(LSTMStateTuple(2, 2), pair, FLOAT32, "state")
