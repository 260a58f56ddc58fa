"""TensorFlow 1's ``tf.nn.rnn_cell`` and its loops, on cells that a server computes.

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
    CudnnCompatibleGRUCell,
    DropoutWrapper,
    EmbeddingWrapper,
    GRUCell,
    InputProjectionWrapper,
    LayerNormBasicLSTMCell,
    LSTMCell,
    MinGRUCell,
    MinLSTMCell,
    MultiRNNCell,
    OutputProjectionWrapper,
    ResidualWrapper,
)
from cellserve.states import LSTMStateTuple, NestedState
from cellserve_client.arrays import Inputs
from cellserve_client.raw_loop import LoopFunction

__all__ = [
    "BasicLSTMCell",
    "BasicRNNCell",
    "CudnnCompatibleGRUCell",
    "DropoutWrapper",
    "EmbeddingWrapper",
    "GRUCell",
    "InputProjectionWrapper",
    "LSTMCell",
    "LSTMStateTuple",
    "LayerNormBasicLSTMCell",
    "MinGRUCell",
    "MinLSTMCell",
    "MultiRNNCell",
    "OutputProjectionWrapper",
    "ResidualWrapper",
    "bidirectional_dynamic_rnn",
    "dynamic_rnn",
    "raw_rnn",
    "static_rnn",
]

Answer = TypeVar("Answer", covariant=True)
Other = TypeVar("Other", contravariant=True)


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


class RunsBothWays(Protocol[Other, Answer]):
    """A cell or model of a server, and what can be its other direction: one of the same client."""

    def bidirectional_dynamic_rnn(
        self,
        cell_bw: Other,
        inputs: Inputs,
        sequence_length: npt.ArrayLike | None = None,
        initial_state_fw: NestedState | None = None,
        initial_state_bw: NestedState | None = None,
        dtype: npt.DTypeLike | None = None,
        *,
        time_major: bool = False,
        timeout_s: float | None = None,
    ) -> Answer: ...


class RunsLoops(Protocol[Answer]):
    """A cell or model of a server."""

    def raw_rnn(self, loop_fn: LoopFunction, *, timeout_s: float | None = None) -> Answer: ...


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


def bidirectional_dynamic_rnn(
    cell_fw: RunsBothWays[Other, Answer],
    cell_bw: Other,
    inputs: Inputs,
    sequence_length: npt.ArrayLike | None = None,
    initial_state_fw: NestedState | None = None,
    initial_state_bw: NestedState | None = None,
    dtype: npt.DTypeLike | None = None,
    *,
    time_major: bool = False,
    timeout_s: float | None = None,
) -> Answer:
    """Runs a cell forwards and another backwards, as TensorFlow 1's ``tf.nn.bidirectional_dynamic_rnn``.

    The second cell reads every row from the row's own last step to its first; its outputs stand where the steps stand
    that they are for.

    Args:
        cell_fw: a cell or model of a server.
        cell_bw: another one of the same client and, with the blocking client, of the same connection.
        inputs: ``[batch, time, input_size]``, or ``[time, batch, input_size]`` when ``time_major``.
        sequence_length: how many steps of each row count, ``[batch]``, each 0 to time; fractions are cut off.
            None: all.
        initial_state_fw, initial_state_bw: nested as the cell's ``state_size``, every part ``[batch, units]``; None:
            zeros, and ``dtype`` is needed.
        dtype: the cells'.
        time_major: the layout of inputs and outputs.
        timeout_s: for the whole call, in seconds; None: the connection's timeout for each of its requests.

    Returns:
        ``(output_fw, output_bw), (output_state_fw, output_state_bw)``: the outputs, as ``dynamic_rnn``'s, and the
        states, the backward one after each row's first step.

    Raises:
        ValueError: as for ``dynamic_rnn``; and a length that is negative or above time, unlike there.
        TypeError: a description alone, or cells of different clients.
    """
    _require_remote(cell_fw, "cell_fw")
    _require_remote(cell_bw, "cell_bw")
    return cell_fw.bidirectional_dynamic_rnn(
        cell_bw,
        inputs,
        sequence_length,
        initial_state_fw,
        initial_state_bw,
        dtype,
        time_major=time_major,
        timeout_s=timeout_s,
    )


def raw_rnn(cell: RunsLoops[Answer], loop_fn: LoopFunction, *, timeout_s: float | None = None) -> Answer:
    """Runs a cell under a function that decides on every step, as TensorFlow 1's ``tf.nn.raw_rnn``.

    Where TensorFlow has a ``TensorArray`` there is a numpy array here, and ``loop_fn`` is called anew for every step.
    Each step is a request of its own. ``loop_fn`` is no coroutine, with neither client; it runs in the caller's thread.

    Args:
        cell: a cell or model of a server.
        loop_fn: ``loop_fn(time, cell_output, cell_state, loop_state)`` returns ``(elements_finished, next_input,
            next_cell_state, emit_output, next_loop_state)``. It is first called with time 0 and None for the rest, and
            returns the first input, the initial state, and as ``emit_output`` None or what one row emits in a step
            (its shape and type count when there is no step at all); and then after each step, with time 1 and up.
            ``elements_finished`` is bool ``[batch]``; ``next_input`` does not count when all are;
            ``emit_output`` is an array ``[batch, ...]``, or a tuple, list or dict of such; ``next_loop_state`` is
            anything, None: as it was.
        timeout_s: for each step, in seconds; None: the connection's timeout.

    Returns:
        What was emitted, stacked, ``[time, batch, ...]``; the final state; the final loop state. A row emits zeros and
        keeps its state from the step after that in which it was finished. It ends when all rows are finished.

    Raises:
        ValueError: an array is not of its form; more than 2**20 steps.
        CellServeError: what the server said.
    """
    _require_remote(cell)
    return cell.raw_rnn(loop_fn, timeout_s=timeout_s)


def _require_remote(cell: object, field: str = "cell") -> None:
    if isinstance(cell, CellDescription):
        raise TypeError(f"{field}: expected a cell on a server: server.cell({cell!r}); got the description alone")
