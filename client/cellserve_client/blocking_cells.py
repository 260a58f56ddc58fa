"""Cells and models of the blocking client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cellserve.errors import FieldInvalidError
from cellserve.states import NestedState, Structure
from cellserve_client import cells, remote
from cellserve_client.arrays import Inputs, Outputs
from cellserve_client.blocking_groups import SessionGroup
from cellserve_client.blocking_sessions import Connection, Session
from cellserve_client.models import ModelInfo
from cellserve_client.raw_loop import LoopFunction, RawResult, raw_steps


class RemoteCell:
    """What cells that a client describes and models that a server has share; see ``remote.RemoteCell``."""

    def __init__(self, connection: Connection, cell: remote.RemoteCell) -> None:
        # The connection is held, so that it lives as long as its cells.
        self._connection = connection
        self.remote = cell

    @property
    def state_size(self) -> Structure:
        """The widths of the state, as TensorFlow prints them: 128, ``LSTMStateTuple(c=128, h=128)``, (128, 128)."""
        return self.remote.state_size

    @property
    def output_size(self) -> Any:
        """The width of the output: an int."""
        return self.remote.output_size

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of weights, states, and floating-point inputs and outputs."""
        return self.remote.dtype

    @property
    def info(self) -> ModelInfo | None:
        """The model on the server; None as long as a described cell has not been built."""
        return self.remote.info

    def zero_state(self, batch_size: int, dtype: npt.DTypeLike | None = None) -> NestedState:
        """A state of zeros, every part ``[batch_size, units]``. Nothing is sent."""
        return self.remote.zero_state(batch_size, dtype)

    def call(
        self, inputs: Inputs, state: NestedState, *, timeout_s: float | None = None
    ) -> tuple[Outputs, NestedState]:
        """One step, the state travels; see ``remote.RemoteCell.call``."""
        return self._connection.run(self.remote.call(inputs, state, timeout_s=timeout_s))

    def __call__(
        self, inputs: Inputs, state: NestedState, *, timeout_s: float | None = None
    ) -> tuple[Outputs, NestedState]:
        """As ``call``."""
        return self.call(inputs, state, timeout_s=timeout_s)

    def dynamic_rnn(
        self,
        inputs: Inputs,
        sequence_length: npt.ArrayLike | None = None,
        initial_state: NestedState | None = None,
        dtype: npt.DTypeLike | None = None,
        *,
        time_major: bool = False,
        timeout_s: float | None = None,
    ) -> tuple[Outputs, NestedState]:
        """Runs a whole sequence; see ``rnn.dynamic_rnn``."""
        running = self.remote.dynamic_rnn(
            inputs, sequence_length, initial_state, dtype, time_major=time_major, timeout_s=timeout_s
        )
        return self._connection.run(running)

    def static_rnn(
        self,
        inputs: Sequence[Inputs],
        initial_state: NestedState | None = None,
        dtype: npt.DTypeLike | None = None,
        sequence_length: npt.ArrayLike | None = None,
        *,
        timeout_s: float | None = None,
    ) -> tuple[list[Outputs], NestedState]:
        """Runs a list of steps; see ``rnn.static_rnn``."""
        running = self.remote.static_rnn(inputs, initial_state, dtype, sequence_length, timeout_s=timeout_s)
        return self._connection.run(running)

    def bidirectional_dynamic_rnn(
        self,
        cell_bw: RemoteCell,
        inputs: Inputs,
        sequence_length: npt.ArrayLike | None = None,
        initial_state_fw: NestedState | None = None,
        initial_state_bw: NestedState | None = None,
        dtype: npt.DTypeLike | None = None,
        *,
        time_major: bool = False,
        timeout_s: float | None = None,
    ) -> tuple[tuple[Outputs, Outputs], tuple[NestedState, NestedState]]:
        """Runs this cell forwards and another one of this connection backwards; see ``rnn.bidirectional_dynamic_rnn``.

        Raises:
            ValueError: the other cell is one of another connection.
        """
        if not isinstance(cell_bw, RemoteCell):
            raise TypeError(f"cell_bw: expected a cell of the blocking client, as cell_fw is; got {cell_bw!r}")
        if cell_bw._connection is not self._connection:
            raise FieldInvalidError("cell_bw: expected a cell of the connection that cell_fw has; got one of another")
        running = self.remote.bidirectional_dynamic_rnn(
            cell_bw.remote,
            inputs,
            sequence_length,
            initial_state_fw,
            initial_state_bw,
            dtype,
            time_major=time_major,
            timeout_s=timeout_s,
        )
        return self._connection.run(running)

    def raw_rnn(self, loop_fn: LoopFunction, *, timeout_s: float | None = None) -> RawResult:
        """Runs steps that a function decides on, in this thread; see ``rnn.raw_rnn``."""
        loop = raw_steps(loop_fn, self.state_size, self.output_size, self.dtype)
        answer: tuple[Outputs, NestedState] | None = None
        while True:
            try:
                inputs, state = next(loop) if answer is None else loop.send(answer)
            except StopIteration as end:
                result: RawResult = end.value
                return result
            answer = self.call(inputs, state, timeout_s=timeout_s)

    def session(
        self,
        *,
        session_id: str | None = None,
        batch_size: int | None = None,
        ttl_s: float | None = None,
        initial_state: NestedState | None = None,
        timeout_s: float | None = None,
    ) -> Session:
        """Makes a session on this cell; see ``aio.Server.session``."""
        opening = self.remote.session(
            session_id=session_id,
            batch_size=batch_size,
            ttl_s=ttl_s,
            initial_state=initial_state,
            timeout_s=timeout_s,
        )
        return Session(self._connection, self._connection.run(opening.open()))

    def session_group(
        self,
        count: int | None = None,
        *,
        ids: Sequence[str] | None = None,
        batch_size: int | None = None,
        ttl_s: float | None = None,
        timeout_s: float | None = None,
    ) -> SessionGroup:
        """Makes many sessions on this cell that one array steps; see ``aio.Server.session_group``."""
        opening = self.remote.session_group(count, ids=ids, batch_size=batch_size, ttl_s=ttl_s, timeout_s=timeout_s)
        return SessionGroup(self._connection, self._connection.run(opening.open()))


class Cell(RemoteCell):
    """A cell that the client describes; see ``cells.Cell``."""

    remote: cells.Cell

    @property
    def input_size(self) -> int | None:
        """The width of the inputs; 0 where they are ids, None as long as it is not known."""
        return self.remote.input_size

    def build(self, input_shape: Sequence[int] | int | None = None, *, timeout_s: float | None = None) -> ModelInfo:
        """Makes the model for inputs of this shape, of which the last dimension counts, or of this width.

        A cell on ids needs none.
        """
        return self._connection.run(self.remote.build(input_shape, timeout_s=timeout_s))


class Model(RemoteCell):
    """A model that the server has, pinned to one version; see ``cells.Model``."""

    remote: cells.Model

    @property
    def info(self) -> ModelInfo:
        """What the server tells about it."""
        return self.remote.info

    @property
    def name(self) -> str:
        """Its name, without ``models/``."""
        return self.remote.name

    @property
    def version(self) -> int:
        """Its version, which does not change."""
        return self.remote.version

    @property
    def labels(self) -> tuple[str, ...]:
        """What the output's elements are called; empty when they have no names."""
        return self.remote.labels
