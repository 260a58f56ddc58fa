"""numpy arrays <-> Tensor: the same bytes on every machine, and bad tensors are named."""

from __future__ import annotations

import struct
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cellserve.errors import DtypeMismatchError, FieldInvalidError, InvalidArgumentError, ShapeMismatchError
from cellserve.tensors import (
    MAX_DIMENSIONS,
    Array,
    array_from_bytes,
    array_from_tensor,
    data_type_of,
    dtype_of,
    require_count,
    require_dtype,
    require_shape,
    tensor_from_array,
    type_names,
)
from cellserve.v1 import tensor_pb2
from cellserve.v1.tensor_pb2 import Tensor

DTYPES = list(type_names.values())

arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)


def test_every_data_type_of_the_contract_has_a_dtype() -> None:
    assert set(type_names) == set(tensor_pb2.DataType.values()) - {tensor_pb2.DATA_TYPE_UNSPECIFIED}
    for number, name in type_names.items():
        assert dtype_of(number, "x") == np.dtype(name)
        assert data_type_of(name, "x") == number
        assert tensor_pb2.DataType.Name(number) == f"DATA_TYPE_{name.upper()}"


@given(array=arrays)
def test_an_array_survives_bit_by_bit(array: Array) -> None:
    received = array_from_tensor(Tensor.FromString(tensor_from_array(array).SerializeToString()))
    assert received.dtype == array.dtype
    assert received.shape == array.shape
    assert received.tobytes() == array.tobytes()  # NaN payloads and -0.0 too


@pytest.mark.parametrize(("dtype", "code"), [("float32", "f"), ("float64", "d"), ("int32", "i"), ("int64", "q")])
def test_bytes_are_little_endian_and_row_major(dtype: str, code: str) -> None:
    tensor = tensor_from_array(np.arange(6, dtype=dtype).reshape(2, 3))
    assert list(tensor.shape) == [2, 3]
    assert tensor.data == struct.pack(f"<6{code}", *range(6))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["<", ">"])
def test_any_byte_order_and_layout_is_taken(dtype: str, order: Literal["<", ">"]) -> None:
    plain = np.arange(24, dtype=dtype).reshape(2, 3, 4)
    expected = tensor_from_array(plain)
    turned = np.asfortranarray(plain.astype(np.dtype(dtype).newbyteorder(order)))
    assert tensor_from_array(turned) == expected
    assert tensor_from_array(plain.transpose(2, 1, 0)).data != expected.data
    strided = np.repeat(plain, 2, axis=2)[:, :, ::2]
    assert tensor_from_array(strided) == expected


def test_a_received_array_is_read_only() -> None:
    received = array_from_tensor(tensor_from_array(np.zeros(3, np.float32)))
    with pytest.raises(ValueError, match="read-only"):
        received[0] = 1


@pytest.mark.parametrize("dtype", ["bool", "float16", "uint8", "complex64", "object", "U3"])
def test_a_dtype_that_the_wire_does_not_know(dtype: str) -> None:
    with pytest.raises(DtypeMismatchError, match=r"^x: expected one of float32, float64, int32, int64; got"):
        tensor_from_array(np.zeros(2, dtype), "x")


@pytest.mark.parametrize("number", [0, 5, 99, -1])
def test_an_unknown_data_type(number: Any) -> None:
    with pytest.raises(DtypeMismatchError, match=rf"^x: expected one of .*; got data type number {number}$"):
        array_from_tensor(Tensor(data_type=number, shape=[1], data=b"1234"), "x")


@pytest.mark.parametrize(
    ("shape", "data", "message"),
    [
        ([2], b"1234", r"expected 8 bytes for float32\[2\]; got 4"),
        ([2], b"123456789", r"expected 8 bytes for float32\[2\]; got 9"),
        ([], b"", r"expected 4 bytes for float32\[\]; got 0"),
        ([0], b"1", r"expected 0 bytes for float32\[0\]; got 1"),
        ([1 << 62, 1 << 62], b"", "at most 1099511627776 elements"),
        ([0, 1 << 62], b"", "at most 1099511627776 elements"),
        ([-1], b"", r"expected at most 8 dimensions, none negative, .*; got \[-1\]"),
        ([-1, -4], b"1234" * 4, "none negative"),
        ([1] * (MAX_DIMENSIONS + 1), b"1234", "expected at most 8 dimensions"),
    ],
)
def test_bytes_that_do_not_fit_the_shape(shape: list[int], data: bytes, message: str) -> None:
    with pytest.raises(ShapeMismatchError, match="^x: .*" + message):
        array_from_tensor(Tensor(data_type=tensor_pb2.DATA_TYPE_FLOAT32, shape=shape, data=data), "x")


@given(
    number=st.integers(-1, 6),
    shape=st.lists(st.integers(-2, 1 << 62) | st.integers(0, 4), max_size=10),
    data=st.just(b"") | st.binary(max_size=64),
)
def test_no_tensor_gives_anything_but_an_array_or_an_error_that_names_the_field(
    number: Any, shape: list[int], data: bytes
) -> None:
    complaint = ""
    try:
        array = array_from_tensor(Tensor(data_type=number, shape=shape, data=data), "x")
    except InvalidArgumentError as error:
        complaint = error.message
    else:
        assert list(array.shape) == shape
        assert array.tobytes() == data
    assert complaint == "" or complaint.startswith("x: ")


def test_errors_carry_their_facts_for_programs() -> None:
    array = np.zeros((2, 3), np.float32)
    with pytest.raises(ShapeMismatchError, match=r"^x: expected shape \[batch, 4\]; got \[2, 3\]$") as shape:
        require_shape(array, ("batch", 4), "x")
    assert shape.value.metadata == {"field": "x", "expected": "[batch, 4]", "actual": "[2, 3]"}
    with pytest.raises(DtypeMismatchError, match=r"^x: expected float64; got float32$") as dtype:
        require_dtype(array, np.dtype(np.float64), "x")
    assert dtype.value.metadata == {"field": "x", "expected": "float64", "actual": "float32"}
    with pytest.raises(ShapeMismatchError) as size:
        array_from_bytes(b"123", np.dtype("<f4"), (1,), "x")
    assert size.value.metadata == {"field": "x", "expected_bytes": "4", "actual_bytes": "3"}
    with pytest.raises(FieldInvalidError, match=r"^x: expected 2 entries; got 1$"):
        require_count([1], 2, "x")


def test_what_fits_passes() -> None:
    array = np.zeros((2, 3), np.float32)
    require_shape(array, (2, 3), "x")
    require_shape(array, ("batch", 3), "x")
    require_dtype(array, np.dtype(np.float32), "x")
    require_count([1, 2], 2, "x")
    for shape in [(2,), (2, 3, 1), (3, 2), ()]:
        with pytest.raises(ShapeMismatchError):
            require_shape(array, shape, "x")
