"""numpy arrays <-> ``Tensor``."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cellserve.errors import DtypeMismatchError, FieldInvalidError, ShapeMismatchError
from cellserve.v1 import tensor_pb2

type_names = {
    tensor_pb2.DATA_TYPE_FLOAT32: "float32",
    tensor_pb2.DATA_TYPE_FLOAT64: "float64",
    tensor_pb2.DATA_TYPE_INT32: "int32",
    tensor_pb2.DATA_TYPE_INT64: "int64",
}
MAX_DIMENSIONS = 8
MAX_ELEMENTS = 1 << 40

Array = npt.NDArray[Any]
_DTYPES = {number: np.dtype(name).newbyteorder("<") for number, name in type_names.items()}
_NUMBERS = {np.dtype(name): number for number, name in type_names.items()}
_LITTLE_ENDIAN_HOST = sys.byteorder == "little"


def dtype_of(data_type: tensor_pb2.DataType, field: str) -> np.dtype[Any]:
    """The numpy dtype of a ``DataType``.

    Raises:
        DtypeMismatchError: the type is unspecified or unknown; ``field`` is named.
    """
    dtype = _DTYPES.get(data_type)
    if dtype is None:
        known = ", ".join(type_names.values())
        raise DtypeMismatchError(f"{field}: expected one of {known}; got data type number {int(data_type)}")
    return dtype


def data_type_of(dtype: npt.DTypeLike, field: str) -> tensor_pb2.DataType:
    """The ``DataType`` of a numpy dtype.

    Raises:
        DtypeMismatchError: the wire has no such type; ``field`` is named.
    """
    known_dtype = np.dtype(dtype)
    # Compared by kind and size: byte order is the wire's business.
    number = _NUMBERS.get(known_dtype if known_dtype.isnative else known_dtype.newbyteorder("="))
    if number is None:
        known = ", ".join(type_names.values())
        raise DtypeMismatchError(f"{field}: expected one of {known}; got {known_dtype.name}")
    return number


def tensor_from_array(array: Array, field: str = "tensor") -> tensor_pb2.Tensor:
    """Packs an array of any layout as a ``Tensor``; the bytes are copied once.

    Raises:
        DtypeMismatchError: the wire has no such element type.
    """
    number = data_type_of(array.dtype, field)
    little = array if _LITTLE_ENDIAN_HOST and array.dtype.isnative else array.astype(_DTYPES[number])
    return tensor_pb2.Tensor(data_type=number, shape=array.shape, data=little.tobytes())


def tensor_spec_of(name: str, array: Array) -> tensor_pb2.TensorSpec:
    """Describes a whole array (a variable, say) under a name.

    Raises:
        DtypeMismatchError: the wire has no such element type.
    """
    return tensor_pb2.TensorSpec(name=name, data_type=data_type_of(array.dtype, name), shape=array.shape)


def array_from_tensor(tensor: tensor_pb2.Tensor, field: str = "tensor") -> Array:
    """Unpacks a ``Tensor``. The array is read-only: it looks into the message's bytes.

    Raises:
        DtypeMismatchError: unknown element type.
        ShapeMismatchError: a negative or an excessive dimension, or another number of bytes than the shape says.
    """
    dtype = dtype_of(tensor.data_type, field)
    # As many as are shown: a long one is refused, and may have millions.
    shape = tuple(tensor.shape[: MAX_DIMENSIONS + 1])
    # A length of 0 counts as 1 here: numpy refuses [0, 1 << 62] though it has no elements.
    if (
        len(shape) > MAX_DIMENSIONS
        or any(length < 0 for length in shape)
        or math.prod(max(length, 1) for length in shape) > MAX_ELEMENTS
    ):
        raise ShapeMismatchError(
            f"{field}: expected at most {MAX_DIMENSIONS} dimensions, none negative, and at most {MAX_ELEMENTS} elements"
            f"; got {shape_text(shape)}"
        )
    return array_from_bytes(tensor.data, dtype, shape, field)


def array_from_bytes(data: bytes, dtype: np.dtype[Any], shape: Sequence[int], field: str) -> Array:
    """Looks at bytes as an array of a known type and shape. The array is read-only.

    Raises:
        ShapeMismatchError: another number of bytes than the shape says.
    """
    expected_bytes = math.prod(shape) * dtype.itemsize
    if len(data) != expected_bytes:
        raise ShapeMismatchError(
            f"{field}: expected {expected_bytes} bytes for {dtype.name}{list(shape)}; got {len(data)}",
            metadata={"field": field, "expected_bytes": str(expected_bytes), "actual_bytes": str(len(data))},
        )
    return np.frombuffer(data, dtype=dtype).reshape(tuple(shape))


def require_dtype(array: Array, dtype: np.dtype[Any], field: str) -> None:
    """Raises ``DtypeMismatchError`` unless the array has this element type."""
    if array.dtype != dtype:
        raise DtypeMismatchError(
            f"{field}: expected {dtype.name}; got {array.dtype.name}",
            metadata={"field": field, "expected": dtype.name, "actual": array.dtype.name},
        )


def require_shape(array: Array, shape: Sequence[int | str], field: str) -> None:
    """Raises ``ShapeMismatchError`` unless the shape is this one; a word in ``shape`` stands for any length."""
    fits = len(shape) == array.ndim and all(
        isinstance(want, str) or want == have for want, have in zip(shape, array.shape, strict=True)
    )
    if not fits:
        raise ShapeMismatchError(
            f"{field}: expected shape {shape_text(shape)}; got {shape_text(array.shape)}",
            metadata={"field": field, "expected": shape_text(shape), "actual": shape_text(array.shape)},
        )


def shape_text(shape: Iterable[int | str]) -> str:
    """A shape for people: ``[32, time, 100]``."""
    return "[" + ", ".join(str(length) for length in shape) + "]"


def require_count(items: Sequence[object], count: int, field: str) -> None:
    """Raises ``FieldInvalidError`` unless a repeated field has this many entries."""
    if len(items) != count:
        raise FieldInvalidError(f"{field}: expected {count} entries; got {len(items)}")
