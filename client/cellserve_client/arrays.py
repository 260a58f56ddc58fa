"""What callers pass as inputs, lengths and states -> arrays of the model's types, and answers -> arrays to keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cellserve.errors import DtypeMismatchError, FieldInvalidError, InvalidArgumentError, ShapeMismatchError
from cellserve.specs import ArraySpec
from cellserve.states import NestedState, Structure, flatten, leaf_names, state_from_proto, state_to_proto, unflatten
from cellserve.tensors import Array, array_from_tensor, require_shape, tensor_from_array
from cellserve.v1 import state_pb2, tensor_pb2
from cellserve_client.hints import require_dtype_or_say_how

# One array; for a model of several inputs a mapping from their names to arrays.
Inputs: TypeAlias = npt.ArrayLike | Mapping[str, npt.ArrayLike]
# One array; for a model of several outputs a dict from their names to arrays.
Outputs: TypeAlias = Any
# The width of an input in the specs of a cell that has not met its first input yet.
UNKNOWN_WIDTH = -1
_PYTHON_NUMBERS = (bool, int, float)


def as_array(value: npt.ArrayLike, dtype: np.dtype[Any], field: str) -> Array:
    """An array of the type that is due. Only Python's own numbers, alone or in lists, are converted.

    Raises:
        DtypeMismatchError: an array of another type, as in TensorFlow; or fractions where ids are due.
        ShapeMismatchError: lists of unequal lengths.
        FieldInvalidError: a number that the type cannot hold.
    """
    if isinstance(value, np.ndarray) or not _holds_python_numbers(value):
        array = np.asarray(value)
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        require_dtype_or_say_how(array, dtype, field)
        return array
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ShapeMismatchError(f"{field}: expected lists of equal lengths: {error}") from error
    if array.size == 0:
        return array.astype(dtype)
    if array.dtype.kind not in ("biu" if dtype.kind == "i" else "biuf"):
        raise DtypeMismatchError(f"{field}: expected {dtype.name}; got {array.dtype.name}")
    if dtype.kind == "i":
        bounds = np.iinfo(dtype)
        if array.min() < bounds.min or array.max() > bounds.max:
            raise FieldInvalidError(f"{field}: expected numbers from {bounds.min} to {bounds.max}")
    with np.errstate(over="ignore"):  # A number beyond float32 becomes infinite, as in TensorFlow's constants.
        return array.astype(dtype)


def _holds_python_numbers(value: object) -> bool:
    """Whether the first element, however deep in lists, is Python's own number (or there is none)."""
    while isinstance(value, (list, tuple)):
        if not value:
            return True
        value = value[0]
    # numpy's float64 is a Python float too, but it is an array's element and says what type it is of.
    return isinstance(value, _PYTHON_NUMBERS) and not isinstance(value, np.generic)


def as_inputs(value: Inputs, specs: Sequence[ArraySpec], field: str = "inputs") -> list[Array]:
    """One array for each input of a model, in its order. Types are checked here, shapes by the server.

    Raises:
        InvalidArgumentError: a wrong type, or not the inputs that the model declares.
    """
    if len(specs) == 1 and not isinstance(value, Mapping):
        return [as_array(value, specs[0].dtype, field)]
    names = [spec.name for spec in specs]
    if not isinstance(value, Mapping) or set(value) != set(names):
        got = sorted(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
        raise FieldInvalidError(f"{field}: expected a mapping with exactly the keys {names}; got {got}")
    return [as_array(value[spec.name], spec.dtype, f"{field}[{spec.name!r}]") for spec in specs]


def require_leading(
    arrays: Sequence[Array], specs: Sequence[ArraySpec], leading: Sequence[str], field: str = "inputs"
) -> tuple[int, ...]:
    """The leading dimensions of arrays, such as batch and time: what has to be known to cut them.

    Args:
        leading: what these dimensions are called.

    Raises:
        ShapeMismatchError: a wrong number of dimensions, or arrays that disagree.
    """
    for array, spec in zip(arrays, specs, strict=True):
        # As words, the lengths of a step's shape are told and not checked: the server does that.
        step_shape = ["input_size" if length == UNKNOWN_WIDTH else str(length) for length in spec.shape]
        require_shape(array, (*leading, *step_shape), field)
    common = arrays[0].shape[: len(leading)]
    for array in arrays[1:]:
        if array.shape[: len(leading)] != common:
            raise ShapeMismatchError(f"{field}: expected {list(common)} in front in all of them; got {array.shape}")
    return common


def as_outputs(arrays: Sequence[Array], specs: Sequence[ArraySpec]) -> Outputs:
    """What the caller gets: one output's array, or a dict of several by name."""
    if len(arrays) == 1:
        return arrays[0]
    return {spec.name: array for spec, array in zip(specs, arrays, strict=True)}


def each_output(function: Callable[[Array], Array], outputs: Outputs) -> Outputs:
    """Applies a function to one output's array, or to every array of several."""
    if isinstance(outputs, dict):
        return {name: function(array) for name, array in outputs.items()}
    return function(outputs)


def as_lengths(value: npt.ArrayLike, rows: int, steps: int, *, negative_is_zero: bool, field: str) -> Array:
    """Lengths as int64 ``[rows]``, each 0 to ``steps``; as in TensorFlow fractions are cut off, longer ones mean all.

    Args:
        negative_is_zero: as in TensorFlow's dynamic_rnn; otherwise a negative length is an error.

    Raises:
        InvalidArgumentError: not a vector of numbers, one for each row.
    """
    lengths = np.asarray(value)
    if lengths.ndim != 1:
        raise ShapeMismatchError(
            f"Argument {field} must be a vector of length batch_size. Received {field} of shape: {lengths.shape}"
        )
    if len(lengths) != rows:
        raise ShapeMismatchError(f"{field}: expected {rows} lengths, one for each row; got {len(lengths)}")
    if lengths.size and lengths.dtype.kind not in "iuf":
        raise DtypeMismatchError(f"{field}: expected integers; got {lengths.dtype.name}")
    if not np.all(np.isfinite(lengths)):
        raise FieldInvalidError(f"{field}: expected finite numbers")
    whole = np.trunc(lengths)
    if not negative_is_zero and np.any(whole < 0):
        row = int(np.argmax(whole < 0))
        raise InvalidArgumentError(f"{field}[{row}]: expected 0 or more; got {whole[row]:g}")
    clipped: Array = np.clip(whole, 0, steps).astype(np.int64)
    return clipped


def as_state(structure: Structure, state: NestedState, dtype: np.dtype[Any], field: str) -> state_pb2.State:
    """Packs a nested state. Nesting and types are checked here, shapes by the server.

    Raises:
        ShapeMismatchError: another nesting. DtypeMismatchError: another element type. The part is named.
    """
    leaves = flatten(structure, state, field)
    for name, leaf in zip(leaf_names(structure, field), leaves, strict=True):
        require_dtype_or_say_how(leaf, dtype, name)
    return state_to_proto(structure, leaves)


def own_state(structure: Structure, state: state_pb2.State) -> NestedState:
    """Unpacks a state into nested arrays that are the caller's own, to keep and to change."""
    return unflatten(structure, [leaf.copy() for leaf in state_from_proto(structure, state)])


def own_arrays(tensors: Sequence[tensor_pb2.Tensor], field: str = "outputs") -> list[Array]:
    """Unpacks tensors into arrays that are the caller's own, to keep and to change."""
    return [array_from_tensor(tensor, field).copy() for tensor in tensors]


def to_tensors(arrays: Sequence[Array], field: str = "inputs") -> list[tensor_pb2.Tensor]:
    """Packs arrays."""
    return [tensor_from_array(array, field) for array in arrays]
