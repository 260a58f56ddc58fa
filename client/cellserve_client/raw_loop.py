"""The loop of TensorFlow 1's ``raw_rnn``: what a caller's ``loop_fn`` decides around each step of a cell."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cellserve.errors import DtypeMismatchError, InvalidArgumentError
from cellserve.states import NestedState, Structure, check_leaves, flatten, unflatten
from cellserve.tensors import Array, require_shape
from cellserve_client.arrays import Inputs, Outputs

# What a step emits: an array [batch, ...], or a tuple, list or dict of such, nested.
Emitted: TypeAlias = Any
# (time, cell_output, cell_state, loop_state) ->
# (elements_finished, next_input, next_cell_state, emit_output, next_loop_state).
LoopFunction: TypeAlias = Callable[
    [int, Outputs | None, NestedState | None, Any], tuple[npt.ArrayLike, Inputs | None, NestedState, Emitted, Any]
]
# The emitted outputs [time, batch, ...], the final state, the final loop state.
RawResult: TypeAlias = tuple[Emitted, NestedState, Any]
# A loop_fn that never finishes would fill the memory with what it emits.
MAX_RAW_STEPS = 1 << 20


def raw_steps(
    loop_fn: LoopFunction, state_size: Structure, output_size: Any, dtype: np.dtype[Any]
) -> Generator[tuple[Inputs, NestedState], tuple[Outputs, NestedState], RawResult]:
    """Yields the inputs and the state of each step of the cell, is sent the answers, and returns the result.

    It is a generator for both clients' sake: ``loop_fn`` runs in the caller's thread, where it may call other cells.
    """
    told, inputs, given_state, emit_structure, loop_state = loop_fn(0, None, None, None)
    rows = len(np.atleast_1d(np.asarray(told)))
    finished = _finished(told, rows, 0)
    state = _leaves(state_size, given_state, rows, dtype, 0)
    emitted: list[Emitted] = []
    while not finished.all():
        if len(emitted) == MAX_RAW_STEPS:
            raise InvalidArgumentError(f"loop_fn: expected every row to be finished within {MAX_RAW_STEPS} steps")
        if inputs is None:
            raise InvalidArgumentError(
                f"loop_fn at time {len(emitted)}: next_input: expected inputs, not every row is finished; got None"
            )
        output, cell_state = yield inputs, unflatten(state_size, state)
        time = len(emitted) + 1
        told, inputs, given_state, emit, next_loop_state = loop_fn(time, output, cell_state, loop_state)
        loop_state = loop_state if next_loop_state is None else next_loop_state
        # Both go by who was finished before this step: a row's last step is the one in which it says so.
        emitted.append(_mapped(partial(_zero_where, finished, time), emit))
        going_on = _leaves(state_size, given_state, rows, dtype, time)
        state = [np.where(finished[:, None], old, new) for old, new in zip(state, going_on, strict=True)]
        finished = finished | _finished(told, rows, time)
    if emitted:
        stacked = _stacked(emitted)
    else:
        shape = output_size if isinstance(output_size, tuple) else (output_size,)
        structure = np.zeros(shape, dtype) if emit_structure is None else emit_structure
        stacked = _mapped(partial(_nothing, rows), structure)
    return stacked, unflatten(state_size, state), loop_state


def _finished(told: npt.ArrayLike, rows: int, time: int) -> Array:
    field = f"loop_fn at time {time}: elements_finished"
    finished = np.asarray(told)
    require_shape(finished, (rows,), field)
    if finished.size and finished.dtype.kind != "b":
        raise DtypeMismatchError(f"{field}: expected bool; got {finished.dtype.name}")
    return finished.astype(bool)


def _leaves(structure: Structure, state: NestedState, rows: int, dtype: np.dtype[Any], time: int) -> list[Array]:
    field = f"loop_fn at time {time}: next_cell_state"
    leaves = flatten(structure, state, field)
    check_leaves(structure, leaves, rows, dtype, field)
    return leaves


def _mapped(function: Callable[[Any], Array], value: Emitted) -> Emitted:
    """Applies a function to the arrays in a nested value."""
    if isinstance(value, dict):
        return {key: _mapped(function, part) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        parts = [_mapped(function, part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return function(value)


def _stacked(steps: list[Emitted]) -> Emitted:
    first = steps[0]
    if isinstance(first, dict):
        return {key: _stacked([step[key] for step in steps]) for key in first}
    if isinstance(first, (tuple, list)):
        parts = [_stacked([step[index] for step in steps]) for index in range(len(first))]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    for time, step in enumerate(steps, start=1):
        require_shape(step, first.shape, f"loop_fn at time {time}: emit_output")
    return np.stack(steps)


def _zero_where(finished: Array, time: int, part: Any) -> Array:
    field = f"loop_fn at time {time}: emit_output"
    array = np.asarray(part)
    if array.dtype.kind not in "biuf":
        raise DtypeMismatchError(f"{field}: expected numbers; got {type(part).__name__}")
    require_shape(array, (len(finished), *array.shape[1:]), field)
    rows = finished.reshape(-1, *[1] * (array.ndim - 1))
    return np.where(rows, np.zeros((), array.dtype), array)


def _nothing(rows: int, part: Any) -> Array:
    """No steps of what has the shape and type of this array in one row."""
    array = np.asarray(part)
    return np.zeros((0, rows, *array.shape), array.dtype)
