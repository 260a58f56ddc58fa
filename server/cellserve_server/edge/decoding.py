"""Tensors, sequences and states in requests -> arrays, with every check that can come before the queue. Pure.

Every error names the field, what was expected and what came.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cellserve.errors import FieldInvalidError, ShapeMismatchError, shown
from cellserve.specs import ArraySpec
from cellserve.states import check_leaves, state_from_proto
from cellserve.tensors import Array, array_from_tensor, data_type_of, require_count, require_dtype, require_shape
from cellserve.v1 import sequence_pb2, state_pb2, tensor_pb2
from cellserve_server.config import ServerConfig
from cellserve_server.models.repository import LoadedModel


class SequenceInputs(NamedTuple):
    """The inputs of many steps.

    Attributes:
        arrays: one for each input of the model, ``[rows, time, ...]``.
        lengths: int64 ``[rows]``, each from 0 to time; None: all steps of all rows.
        rows: the batch size; may be 0.
    """

    arrays: list[Array]
    lengths: Array | None
    rows: int


def step_inputs(
    model: LoadedModel, tensors: Sequence[tensor_pb2.Tensor], batch_size: int | None, config: ServerConfig
) -> tuple[list[Array], int]:
    """The inputs of one step and the number of rows.

    Args:
        batch_size: the session's (0: no batch dimension); None: whatever the first input has.

    Returns:
        One ``[rows, 1, ...]`` for each input of the model; the arrays look into the message's bytes.

    Raises:
        FieldInvalidError: another number of inputs, too many rows, or an id out of range.
        ShapeMismatchError, DtypeMismatchError: an input is of another shape or type.
    """
    if batch_size is not None and len(tensors) == len(model.inputs):
        quick = [_expected_array(spec, tensor, batch_size) for spec, tensor in zip(model.inputs, tensors, strict=True)]
        arrays = [array for array in quick if array is not None]
        if len(arrays) == len(quick):
            model.network.check_inputs([array[:, 0] for array in arrays], "inputs")
            return arrays, max(batch_size, 1)
    require_count(tensors, len(model.inputs), "inputs")
    lead: tuple[int | str, ...] = () if batch_size == 0 else ("batch" if batch_size is None else batch_size,)
    arrays = []
    for index, (spec, tensor) in enumerate(zip(model.inputs, tensors, strict=True)):
        array = _input_array(spec, tensor, lead, f"inputs[{index}]")
        arrays.append(array)
        if lead == ("batch",):
            lead = (_require_rows(array.shape[0], config, f"inputs[{index}]"),)
    rows = lead[0] if lead else 1
    assert isinstance(rows, int), "a model has at least one input"
    model.network.check_inputs(arrays if lead else [array[np.newaxis] for array in arrays], "inputs")
    return [array.reshape(rows, 1, *spec.shape) for spec, array in zip(model.inputs, arrays, strict=True)], rows


def _expected_array(spec: ArraySpec, tensor: tensor_pb2.Tensor, batch_size: int) -> Array | None:
    """The input if it is all that it should be, ``[rows, 1, ...]``; else the long way says what is wrong with it."""
    shape = (batch_size, *spec.shape) if batch_size else spec.shape
    data = tensor.data
    if (
        tensor.data_type != data_type_of(spec.dtype, spec.name)
        or len(tensor.shape) != len(shape)
        or tuple(tensor.shape) != shape
        or len(data) != math.prod(shape) * spec.dtype.itemsize
    ):
        return None
    array: Array = np.frombuffer(data, spec.dtype.newbyteorder("<")).reshape(max(batch_size, 1), 1, *spec.shape)
    return array


def sequence_inputs(
    model: LoadedModel, sequence: sequence_pb2.Sequence, rows: int | None, config: ServerConfig
) -> SequenceInputs:
    """The inputs of many steps.

    Args:
        rows: the session's; None: whatever the first input has.

    Raises:
        FieldInvalidError: another number of inputs or lengths, a negative length, too many rows or steps, or an id
            out of range.
        ShapeMismatchError, DtypeMismatchError: an input is of another shape or type.
    """
    require_count(sequence.values, len(model.inputs), "inputs.values")
    lead: tuple[int | str, ...] = ("batch" if rows is None else rows, "time")
    arrays = []
    for index, (spec, tensor) in enumerate(zip(model.inputs, sequence.values, strict=True)):
        array = _input_array(spec, tensor, lead, f"inputs.values[{index}]")
        arrays.append(array)
        lead = array.shape[:2]
    batch, time = arrays[0].shape[:2]
    _require_rows(batch, config, "inputs.values[0]")
    if time > config.max_sequence_steps:
        raise FieldInvalidError(
            f"inputs.values[0]: expected at most {config.max_sequence_steps} steps (max_sequence_steps); got {time}",
            metadata={"field": "inputs.values[0]", "max_sequence_steps": str(config.max_sequence_steps)},
        )
    lengths = _lengths(sequence, batch, time)
    model.network.check_inputs(arrays, "inputs.values", lengths)
    return SequenceInputs(arrays, lengths, batch)


def _input_array(spec: ArraySpec, tensor: tensor_pb2.Tensor, lead: Sequence[int | str], field: str) -> Array:
    named = f"{field} ({shown(spec.name)})"
    array = array_from_tensor(tensor, named)
    require_dtype(array, spec.dtype, named)
    require_shape(array, (*lead, *spec.shape), named)
    return array


def _require_rows(rows: int, config: ServerConfig, field: str) -> int:
    if rows > config.max_rows:
        raise FieldInvalidError(
            f"{field}: expected a batch of at most {config.max_rows} rows (max_rows); got {rows}",
            metadata={"field": field, "max_rows": str(config.max_rows)},
        )
    return rows


def _lengths(sequence: sequence_pb2.Sequence, rows: int, time: int) -> Array | None:
    """int64 ``[rows]``, clipped to ``time``; None where every row has all steps."""
    if not sequence.lengths:
        return None
    if len(sequence.lengths) != rows:
        raise ShapeMismatchError(
            f"inputs.lengths: expected {rows} entries, one for each row of the batch; got {len(sequence.lengths)}",
            metadata={"field": "inputs.lengths", "expected": str(rows), "actual": str(len(sequence.lengths))},
        )
    lengths = np.array(sequence.lengths, np.int64)
    negative = np.flatnonzero(lengths < 0)
    if negative.size:
        row = int(negative[0])
        raise FieldInvalidError(
            f"inputs.lengths[{row}]: expected 0 or more; got {int(lengths[row])}",
            metadata={"field": f"inputs.lengths[{row}]"},
        )
    lengths = np.minimum(lengths, time)
    return None if bool((lengths == time).all()) else lengths


def state_leaves(model: LoadedModel, state: state_pb2.State, rows: int, field: str) -> list[Array]:
    """The leaves of a state that came along, ``[rows, units]`` each; they look into the message's bytes.

    Raises:
        FieldInvalidError, ShapeMismatchError, DtypeMismatchError: the part is named.
    """
    leaves = state_from_proto(model.structure, state, field)
    check_leaves(model.structure, leaves, rows, model.description.dtype, field)
    return leaves
