"""TensorFlow 1's ``tf.nn.rnn_cell`` and ``dynamic_rnn``, on cells that a server computes.

The cells here are descriptions; ``server.cell(rnn.BasicLSTMCell(128))`` makes one that computes. The functions take the
cells of both clients: with one of ``cellserve_client.aio`` what they return is to be awaited.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy.typing as npt

from cellserve.cells import (
    BasicLSTMCell,
    BasicRNNCell,
    CellDescription,
    GRUCell,
    MultiRNNCell,
    OutputProjectionWrapper,
)
from cellserve.states import LSTMStateTuple, NestedState
from cellserve_client.arrays import Inputs

__all__ = [
    "BasicLSTMCell",
    "BasicRNNCell",
    "GRUCell",
    "LSTMStateTuple",
    "MultiRNNCell",
    "OutputProjectionWrapper",
    "dynamic_rnn",
    "static_rnn",
]

Answer = TypeVar("Answer", covariant=True)


class RunsSequences(Protocol[Answer]):
    """A cell or model of a server."""

    def dynamic_rnn(
        self,
        inputs: Inputs,
        sequence_length: npt.ArrayLike | None = None,
        initial_state: NestedState | None = None,
        dtype: npt.DTypeLike | None = None,
        *,
        time_major: bool = False,
        timeout_s: float | None = None,
    ) -> Answer: ...


class RunsSteps(Protocol[Answer]):
    """A cell or model of a server."""

    def static_rnn(
        self,
        inputs: Sequence[Inputs],
        initial_state: NestedState | None = None,
        dtype: npt.DTypeLike | None = None,
        sequence_length: npt.ArrayLike | None = None,
        *,
        timeout_s: float | None = None,
    ) -> Answer: ...


def dynamic_rnn(
    cell: RunsSequences[Answer],
    inputs: Inputs,
    sequence_length: npt.ArrayLike | None = None,
    initial_state: NestedState | None = None,
    dtype: npt.DTypeLike | None = None,
    *,
    time_major: bool = False,
    timeout_s: float | None = None,
) -> Answer:
    """Runs a whole sequence, as TensorFlow 1's ``tf.nn.dynamic_rnn``. Long ones are sent in several requests.

    Args:
        cell: a cell or model of a server.
        inputs: ``[batch, time, input_size]``, or ``[time, batch, input_size]`` when ``time_major``.
        sequence_length: how many steps of each row count, ``[batch]``: above time means all, below 0 none, fractions
            are cut off. None: all.
        initial_state: nested as ``cell.state_size``, every part ``[batch, units]``; None: zeros, and ``dtype`` is
            needed.
        dtype: the cell's.
        time_major: the layout of inputs and outputs.
        timeout_s: for the whole call, in seconds; None: the connection's timeout for each of its requests.

    Returns:
        The outputs, ``[batch, time, output_size]`` (time major: ``[time, batch, output_size]``), exactly 0 past a row's
        length, and the state after each row's own last step, with an ``LSTMStateTuple`` for each LSTM.

    Raises:
        ValueError: a shape, a type or a length is not of its form; no ``initial_state`` and no ``dtype``.
        CellServeError: what the server said. Nothing is kept there: the call can be made again.
    """
    _require_remote(cell)
    return cell.dynamic_rnn(inputs, sequence_length, initial_state, dtype, time_major=time_major, timeout_s=timeout_s)


def static_rnn(
    cell: RunsSteps[Answer],
    inputs: Sequence[Inputs],
    initial_state: NestedState | None = None,
    dtype: npt.DTypeLike | None = None,
    sequence_length: npt.ArrayLike | None = None,
    *,
    timeout_s: float | None = None,
) -> Answer:
    """Runs a list of steps, as TensorFlow 1's ``tf.nn.static_rnn``.

    Args:
        cell: a cell or model of a server.
        inputs: a list or tuple of ``[batch, input_size]``, one for each step.
        initial_state, dtype, sequence_length, timeout_s: as for ``dynamic_rnn``.

    Returns:
        A list of outputs, ``[batch, output_size]``, one for each step, and the state after each row's own last step.

    Raises:
        TypeError: ``inputs`` is no list. ValueError: it is empty, or as for ``dynamic_rnn``.
    """
    _require_remote(cell)
    return cell.static_rnn(inputs, initial_state, dtype, sequence_length, timeout_s=timeout_s)


def _require_remote(cell: object) -> None:
    if isinstance(cell, CellDescription):
        raise TypeError(f"cell: expected a cell on a server: server.cell({cell!r}); got the description alone")
