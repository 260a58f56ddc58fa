"""What every cell on a server can do, for asyncio: the calls of TensorFlow 1's cells, pure, the state travels."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from cellserve.errors import (
    DtypeMismatchError,
    FieldInvalidError,
    InvalidArgumentError,
)
from cellserve.specs import ArraySpec
from cellserve.states import NestedState, Structure, zeros
from cellserve.tensors import Array, require_shape
from cellserve.v1 import recurrent_service_pb2 as pb
from cellserve_client import methods
from cellserve_client.arrays import (
    Inputs,
    Outputs,
    as_inputs,
    as_lengths,
    as_outputs,
    as_state,
    each_output,
    own_arrays,
    own_state,
    require_leading,
    to_tensors,
)
from cellserve_client.deadlines import Deadline
from cellserve_client.fleet import Fleet
from cellserve_client.groups import SessionGroup, create_group
from cellserve_client.models import ModelInfo
from cellserve_client.opening import Opening
from cellserve_client.raw_loop import LoopFunction, RawResult, raw_steps
from cellserve_client.reversal import lengths_to_reverse, reversed_rows
from cellserve_client.sequences import run_stateless
from cellserve_client.sessions import Session, create_session

Result = TypeVar("Result")
MAX_ZERO_STATE_ROWS = 1 << 31
NO_DTYPE = "If no initial_state is provided, argument `dtype` must be specified"


class RemoteCell(ABC):
    """What cells that a client describes and models that a server has share."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    @property
    @abstractmethod
    def state_size(self) -> Structure:
        """The widths of the state, as TensorFlow prints them: 128, ``LSTMStateTuple(c=128, h=128)``, (128, 128)."""

    @property
    @abstractmethod
    def output_size(self) -> Any:
        """The width of the output: an int."""

    @property
    @abstractmethod
    def dtype(self) -> np.dtype[Any]:
        """The type of weights, states, and floating-point inputs and outputs."""

    @property
    @abstractmethod
    def info(self) -> ModelInfo | None:
        """The model on the server; None as long as a described cell has not been built."""

    @property
    @abstractmethod
    def _input_specs(self) -> tuple[ArraySpec, ...]: ...

    @abstractmethod
    async def _with_model(
        self, input_size: int | None, deadline: Deadline, operation: Callable[[ModelInfo], Awaitable[Result]]
    ) -> Result:
        """Does something with the model, which is made first where that is due."""

    def zero_state(self, batch_size: int, dtype: npt.DTypeLike | None = None) -> NestedState:
        """A state of zeros, every part ``[batch_size, units]``. Nothing is sent.

        Args:
            dtype: None: the cell's.

        Raises:
            FieldInvalidError: ``batch_size`` is not a number from 0.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)):
            raise FieldInvalidError(f"batch_size: expected an integer; got {batch_size!r}")
        if not 0 <= batch_size <= MAX_ZERO_STATE_ROWS:
            raise FieldInvalidError(f"batch_size: expected 0 to {MAX_ZERO_STATE_ROWS}; got {batch_size}")
        return zeros(self.state_size, int(batch_size), self.dtype if dtype is None else np.dtype(dtype))

    async def call(
        self, inputs: Inputs, state: NestedState, *, timeout_s: float | None = None
    ) -> tuple[Outputs, NestedState]:
        """One step: nothing is kept on the server.

        Args:
            inputs: ``[batch, input_size]``, of the cell's dtype.
            state: the state before the step, nested as ``state_size``; for an LSTM a plain pair (c, h) will do.
            timeout_s: how long it may take, in seconds; None: the connection's timeout.

        Returns:
            The output, ``[batch, output_size]``, and the next state.

        Raises:
            ShapeMismatchError, DtypeMismatchError: an array is not of its form; both are a ValueError.
            DeadlineExceededError, UnavailableError: no answer in time, or no server.
        """
        arrays = as_inputs(inputs, self._input_specs)
        message = as_state(self.state_size, state, self.dtype, "state")
        deadline = self._fleet.deadline(timeout_s)

        async def send(info: ModelInfo) -> tuple[Outputs, NestedState]:
            request = pb.CallRequest(model=info.resource_name, inputs=to_tensors(arrays), state=message)
            answer: pb.CallResponse = await self._fleet.invoke(
                methods.CALL, request, deadline, model=info.resource_name
            )
            outputs = as_outputs(own_arrays(answer.outputs), info.outputs)
            return outputs, own_state(info.state_size, answer.state)

        return await self._with_model(self._width(arrays, ("batch",)), deadline, send)

    async def __call__(
        self, inputs: Inputs, state: NestedState, *, timeout_s: float | None = None
    ) -> tuple[Outputs, NestedState]:
        """As ``call``."""
        return await self.call(inputs, state, timeout_s=timeout_s)

    async def dynamic_rnn(
        self,
        inputs: Inputs,
        sequence_length: npt.ArrayLike | None = None,
        initial_state: NestedState | None = None,
        dtype: npt.DTypeLike | None = None,
        *,
        time_major: bool = False,
        timeout_s: float | None = None,
    ) -> tuple[Outputs, NestedState]:
        """Runs a whole sequence, as TensorFlow's dynamic_rnn: see ``cellserve_client.rnn.dynamic_rnn``."""
        arrays = as_inputs(inputs, self._input_specs)
        require_leading(arrays, self._input_specs, ("time", "batch") if time_major else ("batch", "time"))
        if time_major:
            arrays = [array.swapaxes(0, 1) for array in arrays]
        outputs, state, info = await self._run(arrays, sequence_length, initial_state, dtype, timeout_s)
        if time_major:
            outputs = [array.swapaxes(0, 1) for array in outputs]
        return as_outputs(outputs, info.outputs), state

    async def static_rnn(
        self,
        inputs: Sequence[Inputs],
        initial_state: NestedState | None = None,
        dtype: npt.DTypeLike | None = None,
        sequence_length: npt.ArrayLike | None = None,
        *,
        timeout_s: float | None = None,
    ) -> tuple[list[Outputs], NestedState]:
        """Runs a list of steps, as TensorFlow's static_rnn: see ``cellserve_client.rnn.static_rnn``."""
        if not isinstance(inputs, (list, tuple)):
            raise TypeError("inputs must be a sequence")
        if not inputs:
            raise InvalidArgumentError("inputs must not be empty")
        steps = [as_inputs(step, self._input_specs, f"inputs[{index}]") for index, step in enumerate(inputs)]
        for index, step in enumerate(steps):
            for array, first in zip(step, steps[0], strict=True):
                require_shape(array, first.shape, f"inputs[{index}]")
        require_leading(steps[0], self._input_specs, ("batch",), "inputs[0]")
        arrays = [np.stack([step[index] for step in steps], axis=1) for index in range(len(steps[0]))]
        outputs, state, info = await self._run(arrays, sequence_length, initial_state, dtype, timeout_s)
        return [as_outputs([array[:, time] for array in outputs], info.outputs) for time in range(len(steps))], state

    async def bidirectional_dynamic_rnn(
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
        """Runs this cell forwards and another backwards: see ``cellserve_client.rnn.bidirectional_dynamic_rnn``."""
        if not isinstance(cell_bw, RemoteCell):
            raise TypeError(f"cell_bw: expected a cell of the client for asyncio, as cell_fw is; got {cell_bw!r}")
        specs = self._input_specs
        arrays = as_inputs(inputs, specs)
        rows_and_steps = require_leading(arrays, specs, ("time", "batch") if time_major else ("batch", "time"))
        if time_major:
            arrays = [array.swapaxes(0, 1) for array in arrays]
        lengths = None
        if sequence_length is not None:
            rows, steps = reversed(rows_and_steps) if time_major else rows_and_steps
            lengths = lengths_to_reverse(sequence_length, rows, steps)
        turned = as_outputs([reversed_rows(array, lengths) for array in arrays], specs)
        (output_fw, state_fw), (output_bw, state_bw) = await _both(
            self.dynamic_rnn(as_outputs(arrays, specs), lengths, initial_state_fw, dtype, timeout_s=timeout_s),
            cell_bw.dynamic_rnn(turned, lengths, initial_state_bw, dtype, timeout_s=timeout_s),
        )
        output_bw = each_output(lambda array: reversed_rows(array, lengths), output_bw)
        if time_major:
            output_fw, output_bw = (
                each_output(lambda array: array.swapaxes(0, 1), output) for output in (output_fw, output_bw)
            )
        return (output_fw, output_bw), (state_fw, state_bw)

    async def raw_rnn(self, loop_fn: LoopFunction, *, timeout_s: float | None = None) -> RawResult:
        """Runs steps that a function decides on: see ``cellserve_client.rnn.raw_rnn``."""
        loop = raw_steps(loop_fn, self.state_size, self.output_size, self.dtype)
        answer: tuple[Outputs, NestedState] | None = None
        while True:
            try:
                inputs, state = next(loop) if answer is None else loop.send(answer)
            except StopIteration as end:
                result: RawResult = end.value
                return result
            answer = await self.call(inputs, state, timeout_s=timeout_s)

    async def _run(
        self,
        arrays: list[Array],
        sequence_length: npt.ArrayLike | None,
        initial_state: NestedState | None,
        dtype: npt.DTypeLike | None,
        timeout_s: float | None,
    ) -> tuple[list[Array], NestedState, ModelInfo]:
        if initial_state is None and dtype is None:
            raise InvalidArgumentError(NO_DTYPE)
        if dtype is not None and np.dtype(dtype) != self.dtype:
            raise DtypeMismatchError(f"dtype: expected {self.dtype.name}, the cell's; got {np.dtype(dtype).name}")
        rows, steps = arrays[0].shape[:2]
        lengths = None
        if sequence_length is not None:
            lengths = as_lengths(sequence_length, rows, steps, negative_is_zero=True, field="sequence_length")
        # Packed even when zeros are due: a state that is told has its shape checked.
        begin = self.zero_state(rows) if initial_state is None else initial_state
        message = as_state(self.state_size, begin, self.dtype, "initial_state")

        deadline = self._fleet.deadline(timeout_s)

        async def send(info: ModelInfo) -> tuple[list[Array], NestedState, ModelInfo]:
            outputs, state = await run_stateless(
                self._fleet, info, arrays, lengths, message, deadline, for_each_piece=timeout_s is None
            )
            return outputs, state, info

        return await self._with_model(self._width(arrays, ("batch", "time")), deadline, send)

    def _width(self, arrays: Sequence[Array], leading: tuple[str, ...]) -> int | None:
        """The input width that a cell which is not built takes from its first inputs; None when it needs none."""
        if self.info is not None:
            return None
        require_leading(arrays, self._input_specs, leading)
        return int(arrays[0].shape[-1]) if self._input_specs[0].shape else None

    def session(
        self,
        *,
        session_id: str | None = None,
        batch_size: int | None = None,
        ttl_s: float | None = None,
        initial_state: NestedState | None = None,
        timeout_s: float | None = None,
    ) -> Opening[Session]:
        """Makes a session on this cell: ``await`` it, or use it in ``async with``. See ``Server.session``."""

        async def create() -> Session:
            deadline = self._fleet.deadline(timeout_s)

            async def send(info: ModelInfo) -> Session:
                return await create_session(
                    self._fleet,
                    info,
                    session_id=session_id,
                    batch_size=batch_size,
                    ttl_s=ttl_s,
                    initial_state=initial_state,
                    deadline=deadline,
                )

            return await self._with_model(None, deadline, send)

        return Opening(create)

    def session_group(
        self,
        count: int | None = None,
        *,
        ids: Sequence[str] | None = None,
        batch_size: int | None = None,
        ttl_s: float | None = None,
        timeout_s: float | None = None,
    ) -> Opening[SessionGroup]:
        """Makes many sessions on this cell that one array steps. See ``Server.session_group``."""

        async def create() -> SessionGroup:
            async def send(info: ModelInfo) -> SessionGroup:
                return await create_group(
                    self._fleet, info, count=count, ids=ids, batch_size=batch_size, ttl_s=ttl_s, timeout_s=timeout_s
                )

            return await self._with_model(None, self._fleet.deadline(timeout_s), send)

        return Opening(create)


async def _both(first: Coroutine[Any, Any, Result], second: Coroutine[Any, Any, Result]) -> tuple[Result, Result]:
    """Waits for two calls that run at once; when one fails the other is ended."""
    tasks = (asyncio.create_task(first), asyncio.create_task(second))
    try:
        return await tasks[0], await tasks[1]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
