"""The steps of one session: over the stream that a connection's sessions share, or each in a request of its own."""

from __future__ import annotations

import asyncio
from asyncio import Future, get_running_loop
from typing import TYPE_CHECKING

import numpy as np

from cellserve.errors import (
    FailedPreconditionError,
    ModelNotFoundError,
    StateRolledBackError,
    StepOutOfOrderError,
)
from cellserve.v1 import recurrent_service_pb2 as pb
from cellserve_client import methods
from cellserve_client.account import Account
from cellserve_client.arrays import Inputs, Outputs, as_inputs, as_outputs, own_arrays, to_tensors
from cellserve_client.deadlines import Deadline
from cellserve_client.fleet import Fleet, Pursuit, Replica
from cellserve_client.hints import batch_size_explained
from cellserve_client.ids import new_run_id
from cellserve_client.models import ModelInfo
from cellserve_client.streaming.columns import StepBytes, StepColumns
from cellserve_client.streaming.lanes import UNKNOWN, NotOnStreamError, StepRefused, StreamLeft, Waiter, verdict_of
from cellserve_client.streaming.mux import Mux
from cellserve_client.transport import checked_timeout

if TYPE_CHECKING:
    from cellserve_client.tracing import Tracing


class Stepper:
    """Steps one session.

    Args:
        fleet: the connection.
        account: the session's.
        model: that it runs on.
        batch_size: its rows; None: one row without a batch dimension.
    """

    def __init__(self, fleet: Fleet, account: Account, model: ModelInfo, batch_size: int | None) -> None:
        self.account = account
        self._fleet = fleet
        self._model = model
        self._batch_size = batch_size
        self._lane = account.lane
        self._columns = StepColumns(model, batch_size) if fleet.coalesce else None
        self._mux: Mux | None = None  # since the first step on the stream
        self._replica: Replica | None = None  # whose stream that is
        self._loop: asyncio.AbstractEventLoop | None = None

    async def step(self, inputs: Inputs, timeout_s: float | None) -> Outputs:
        """One step; see ``Session.step``. What the most usual call does stands here in one piece, for speed."""
        account = self.account
        columns = self._columns
        if (
            not account.is_free
            or type(inputs) is not np.ndarray
            or columns is None
            or inputs.dtype != columns.dtype
            or inputs.shape != columns.shape
        ):
            return await self._step_with_care(inputs, timeout_s)
        timeout_s = self._fleet.timeout_s if timeout_s is None else checked_timeout(timeout_s)
        data = inputs.tobytes()
        account.is_free, account.is_taken = False, True
        try:
            waiter: asyncio.Future[Outputs] = Future(loop=self._loop)
            self.submit(data, waiter, self._fleet.clock() + timeout_s, timeout_s)
            return await waiter
        except BaseException as error:
            return await self.recover(error)
        finally:
            account.give_turn_back()

    def deadline(self, timeout_s: float | None) -> Deadline:
        """That of a step that begins now."""
        return self._fleet.deadline(timeout_s)

    def snapshot(self, inputs: Inputs) -> bytes | None:
        """The bytes of the usual inputs of a session on the stream, an array as it is due; None: anything else.

        May be called in any thread.
        """
        columns = self._columns
        if (
            type(inputs) is np.ndarray
            and columns is not None
            and inputs.dtype == columns.dtype
            and inputs.shape == columns.shape
        ):
            return inputs.tobytes()
        return None

    def submit(self, data: StepBytes, waiter: Waiter, deadline_at: float, timeout_s: float) -> None:
        """Hands a new step to the stream, within a turn. The waiter is told."""
        assert self._mux is not None, "a session that is free has been on the stream"
        lane = self._lane
        lane.data = data
        lane.waiter = waiter
        lane.deadline_at = deadline_at
        lane.timeout_s = timeout_s
        lane.run_id = 0
        lane.may_be_applied = False
        self._mux.submit(lane)

    async def step_packed(self, data: StepBytes, deadline: Deadline) -> Outputs:
        """One step of checked inputs: waits for its turn and settles what is open before."""
        async with self.account.turn(deadline):
            await self.account.settle(deadline)
            lane = self._lane
            lane.data, lane.deadline_at, lane.timeout_s = data, deadline.at, deadline.timeout_s
            lane.run_id, lane.may_be_applied = 0, False
            if not self._joins_stream():
                return await self._step_alone()
            try:
                return await self._submit_again()
            except BaseException as error:
                return await self.recover(error)

    async def _step_with_care(self, inputs: Inputs, timeout_s: float | None) -> Outputs:
        account = self.account
        account.require_not_ended()
        arrays = as_inputs(inputs, self._model.inputs)
        deadline = self._fleet.deadline(timeout_s)
        if self._columns is not None:
            return await self.step_packed(self._columns.pack(arrays), deadline)
        async with account.turn(deadline):
            await account.settle(deadline)
            request = pb.StepRequest(
                name=account.name,
                uid=account.uid,
                inputs=to_tensors(arrays),
                expected_step=account.step_count,
                run_id=new_run_id(),
            )
            with batch_size_explained(self._batch_size, arrays, self._model.inputs, leading=0):
                answer: pb.StepResponse = await account.apply(methods.STEP, request, 1, deadline)
            return as_outputs(own_arrays(answer.outputs), self._model.outputs)

    def _joins_stream(self) -> bool:
        """Whether the session can step on the stream; the first time, and after a move, it gets its place there."""
        account = self.account
        account.has_to_look = False
        mux = self._fleet.mux(account.route)
        if self._mux is not mux:
            self._lane.leave()  # Whatever place it had at another replica.
            self._mux, self._loop, self._replica = mux, mux.loop, account.route.current()
            self._lane.group = mux.group_of(self._model, self._batch_size)
        return self._lane.group is not None and mux.takes(self._lane)

    async def _submit_again(self) -> Outputs:
        assert self._mux is not None, "a session that steps on the stream has been there"
        waiter: asyncio.Future[Outputs] = self._mux.loop.create_future()
        self._lane.waiter = waiter
        self._mux.submit(self._lane)
        return await waiter

    async def recover(self, error: BaseException) -> Outputs:
        """Within a turn, after a step on the stream has failed: repeats it as long as that is worth it.

        Raises:
            BaseException: what the caller is to get in the end.
        """
        if get_running_loop() is not self._loop:
            # Found out here alone: to ask for the running loop takes as long as a tenth of a step.
            error = FailedPreconditionError(
                "this connection belongs to another event loop; call connect(...) again in this one"
            )
        pursuit: Pursuit | None = None
        while True:
            if isinstance(error, NotOnStreamError):
                return await self._step_alone()
            if not isinstance(error, StepRefused):
                self.give_up()
                if isinstance(error, StateRolledBackError):
                    self.account.roll_back(error)
                raise error
            if pursuit is None:
                lane = self._lane
                deadline = Deadline(lane.deadline_at, lane.timeout_s, self._fleet.clock)
                pursuit = Pursuit(self._fleet, deadline, self._model.resource_name)
            try:
                if not await self._repeats(error, pursuit) or not self._joins_stream():
                    return await self._step_alone()
                return await self._submit_again()
            except BaseException as latest:
                error = latest

    async def _repeats(self, refusal: StepRefused, pursuit: Pursuit) -> bool:
        """Returns when a refused step is to be sent again, and whether on a stream; raises its error if it is not."""
        lane, error = self._lane, refusal.error
        # Of a stream that was left the lane knows whether the step was sent.
        is_unknown = lane.may_be_applied or (not isinstance(refusal, StreamLeft) and verdict_of(error) is UNKNOWN)
        if isinstance(error, StepOutOfOrderError) and not is_unknown:
            deadline = Deadline(lane.deadline_at, lane.timeout_s, self._fleet.clock)
            if await self.account.was_lost_run(deadline):
                return True
        lane.may_be_applied = is_unknown
        if isinstance(error, ModelNotFoundError) and self._fleet.made_models.of(self._model.resource_name) is None:
            return False  # A request of its own says what became of the session.
        route = self.account.route
        await pursuit.failed(self._replica_of_stream(), error, route)
        return True

    def _replica_of_stream(self) -> Replica:
        """The replica whose stream the step was on: not the route's, which may have changed meanwhile."""
        assert self._replica is not None, "a step on the stream was submitted"
        return self._replica

    def give_up(self) -> None:
        """Within a turn: nobody waits for the step on the stream any more."""
        assert self._mux is not None, "a step on the stream was submitted"
        self.account.lose(self._mux.withdraw(self._lane))

    async def _step_alone(self) -> Outputs:
        """The step in a request of its own: the stream does not take it."""
        lane = self._lane
        columns = self._columns
        assert columns is not None, "steps that are never on the stream are not packed for it"
        request = pb.StepRequest(
            name=lane.name,
            uid=lane.uid,
            inputs=columns.tensors(lane.data),
            expected_step=lane.step_count,
            run_id=lane.run_id or new_run_id(),
        )
        deadline = Deadline(lane.deadline_at, lane.timeout_s, self._fleet.clock)
        answer: pb.StepResponse = await self.account.apply(
            methods.STEP, request, 1, deadline, may_be_applied=lane.may_be_applied
        )
        return as_outputs(own_arrays(answer.outputs), self._model.outputs)


class TracedStepper(Stepper):
    """Steps one session, and notes with each step which trace its caller is in.

    A class of its own, so that a step that nobody traces does not even ask. Both ways to the stream are run in the
    context of who called ``step``.

    Args:
        tracing: tells the caller's trace.
    """

    def __init__(
        self, fleet: Fleet, account: Account, model: ModelInfo, batch_size: int | None, tracing: Tracing
    ) -> None:
        super().__init__(fleet, account, model, batch_size)
        self._tracing = tracing

    def submit(self, data: StepBytes, waiter: Waiter, deadline_at: float, timeout_s: float) -> None:
        """As of ``Stepper``."""
        self._lane.trace = self._tracing.of_caller()
        super().submit(data, waiter, deadline_at, timeout_s)

    def _joins_stream(self) -> bool:
        self._lane.trace = self._tracing.of_caller()
        return super()._joins_stream()


def new_stepper(fleet: Fleet, account: Account, model: ModelInfo, batch_size: int | None) -> Stepper:
    """The stepper of a session, of the kind that its connection asks for."""
    if fleet.tracing is None:
        return Stepper(fleet, account, model, batch_size)
    return TracedStepper(fleet, account, model, batch_size, fleet.tracing)
