"""Sessions, for asyncio: the state stays on the server, and each step is applied once, whatever the network does."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from cellserve.errors import CellServeError, FailedPreconditionError, PartialRunError, SessionNotFoundError
from cellserve.states import NestedState
from cellserve.tensors import Array
from cellserve.v1 import recurrent_service_pb2 as pb
from cellserve.v1 import session_pb2
from cellserve_client import methods
from cellserve_client.account import Account
from cellserve_client.arrays import (
    Inputs,
    Outputs,
    as_inputs,
    as_lengths,
    as_outputs,
    as_state,
    own_state,
    require_leading,
)
from cellserve_client.deadlines import Deadline
from cellserve_client.definitions import duration
from cellserve_client.fleet import Fleet
from cellserve_client.hints import batch_size_explained
from cellserve_client.ids import new_request_id, new_run_id, new_session_id
from cellserve_client.models import ModelInfo
from cellserve_client.opening import close_after
from cellserve_client.pieces import Gathered, OutputMode, Piece, cut, lengths_within, selection_of
from cellserve_client.sequences import answer_arrays, longest_piece, piece_of
from cellserve_client.session_info import SessionInfo, checked_batch_size, info_from_proto, session_name
from cellserve_client.stepping import new_stepper


class Session:
    """A session: its state is kept on the server.

    Made without a batch size it takes vectors ``(depth,)`` and gives ``(units,)``; its state has arrays ``[1, units]``
    all the same. Calls may be made by many coroutines; they are applied in the order in which they were made.

    After an error whose outcome is unknown (``DeadlineExceededError``, ``UnavailableError``, a cancellation), the
    next operation finds out first whether the lost run was applied; ``await refresh()`` does that alone, after which
    ``step_count`` tells it.

    Attributes:
        model: the model version that it runs on.
        batch_size: its rows; None: one row without a batch dimension.
        stepper: what steps it, for the blocking client.
    """

    def __init__(self, fleet: Fleet, model: ModelInfo, session: session_pb2.Session) -> None:
        self.model = model
        self.batch_size: int | None = session.batch_size or None
        self._fleet = fleet
        self._account = Account(fleet, session)
        self.stepper = new_stepper(fleet, self._account, model, self.batch_size)

    @property
    def id(self) -> str:
        """Its id."""
        return self._account.id

    @property
    def uid(self) -> str:
        """The server's id of this life of it: new at creation, reset and set_state."""
        return self._account.uid

    @property
    def step_count(self) -> int:
        """The steps applied since creation or reset, as far as this client knows."""
        return self._account.step_count

    def step(self, inputs: Inputs, *, timeout_s: float | None = None) -> Coroutine[Any, Any, Outputs]:
        """One step. The steps of many sessions that are awaited at the same time go out together, in few messages.

        Args:
            inputs: ``[batch_size, input_size]``, or ``[input_size]`` for a session without a batch size.
            timeout_s: how long it may take, waiting for earlier calls and retries included; None: the connection's.

        Returns:
            The output, shaped as the inputs.

        Raises:
            StepOutOfOrderError: somebody else stepped the session; ``refresh`` learns its true step count.
            StateRolledBackError: a server of durability ``async`` has lost the last steps in a crash; ``step_count`` is
                what it has left, and the steps from there are to be fed again.
            SessionNotFoundError: it expired, or was deleted or reset by somebody else.
            ShapeMismatchError, DtypeMismatchError: the state has not moved.
        """
        # Its coroutine itself, not one around it: that would cost every step.
        return self.stepper.step(inputs, timeout_s)

    async def run(
        self,
        sequence: Inputs,
        lengths: npt.ArrayLike | None = None,
        outputs: OutputMode = "all",
        *,
        timeout_s: float | None = None,
    ) -> Outputs:
        """Many steps, sent in as many requests as the server's limits ask for.

        Args:
            sequence: ``[batch_size, time, input_size]``, or ``[time, input_size]`` without a batch size.
            lengths: how many steps of each row count; longer than time means all. None: all. Without a batch size
                one number. The session's step count grows by the longest.
            outputs: ``all``: ``[batch_size, time, units]``, exactly 0 past a row's length; ``last``: each row's own
                last output, ``[batch_size, units]``, 0 for a row of length 0; ``none``: None. Without a batch size
                the first dimension is left out.
            timeout_s: for the whole call; None: the connection's timeout for each request.

        Raises:
            PartialRunError: some requests were applied, then one failed. A request without an answer, as after a
                timeout, is not counted in ``steps_applied`` and may have been applied: see ``refresh``.
            CellServeError: as for ``step``; nothing was applied, or (timeout, lost connection) it is not known yet.
        """
        self._account.require_not_ended()
        selection_of(outputs)
        arrays, row_lengths = self._as_sequence(sequence, lengths)
        rows, steps = arrays[0].shape[:2]
        longest = longest_piece(self._fleet, self.model, rows, outputs, with_state=False)
        gathered = Gathered(outputs, self.model.outputs, rows, steps)
        deadline = self._fleet.deadline(timeout_s)
        applied = 0
        async with self._account.turn(deadline):
            await self._account.settle(deadline)
            for piece in cut(steps, row_lengths, longest):
                if timeout_s is None and piece.start > 0:
                    deadline = self._fleet.deadline(None)
                try:
                    answer = await self._run_piece(arrays, row_lengths, piece, outputs, deadline)
                except CellServeError as error:
                    if applied == 0:
                        raise
                    raise PartialRunError(applied, self._as_result(gathered.first(applied)), error) from error
                gathered.add(piece, lengths_within(row_lengths, piece), answer_arrays(answer))
                applied += answer.steps_applied
        return self._as_result(gathered.whole())

    def _as_sequence(self, sequence: Inputs, lengths: npt.ArrayLike | None) -> tuple[list[Array], Array | None]:
        """The inputs with a batch dimension, and the lengths as a vector."""
        specs = self.model.inputs
        arrays = as_inputs(sequence, specs, "sequence")
        if self.batch_size is None:
            with batch_size_explained(None, arrays, specs, leading=1):
                require_leading(arrays, specs, ("time",), "sequence")
            arrays = [array[np.newaxis] for array in arrays]
            lengths = lengths if lengths is None else np.atleast_1d(np.asarray(lengths))
        rows, steps = require_leading(arrays, specs, ("batch", "time"), "sequence")
        if lengths is None:
            return arrays, None
        return arrays, as_lengths(lengths, rows, steps, negative_is_zero=False, field="lengths")

    def _as_result(self, arrays: Sequence[Array] | None) -> Outputs:
        if arrays is None:
            return None
        return as_outputs([array if self.batch_size else array[0] for array in arrays], self.model.outputs)

    async def _run_piece(
        self, arrays: Sequence[Array], lengths: Array | None, piece: Piece, outputs: OutputMode, deadline: Deadline
    ) -> pb.RunSequenceResponse:
        within = lengths_within(lengths, piece)
        request = pb.RunSequenceRequest(
            session=self._account.name,
            uid=self._account.uid,
            inputs=piece_of(arrays, lengths, piece),
            outputs=selection_of(outputs),
            expected_step=self._account.step_count,
            run_id=new_run_id(),
        )
        steps = piece.stop - piece.start if within is None else int(within.max(initial=0))
        answer: pb.RunSequenceResponse = await self._account.apply(methods.RUN_SEQUENCE, request, steps, deadline)
        return answer

    async def state(self, *, timeout_s: float | None = None) -> NestedState:
        """Its state, nested as the model's ``state_size``, every part ``[rows, units]``."""
        deadline = self._fleet.deadline(timeout_s)
        async with self._account.turn(deadline):
            session = await self._account.read(session_pb2.SESSION_VIEW_FULL, deadline)
            await self._account.settle_by(session, deadline)
            return own_state(self.model.state_size, session.state)

    async def set_state(
        self, state: NestedState, *, step_count: int | None = None, timeout_s: float | None = None
    ) -> None:
        """Replaces its state.

        Args:
            state: nested as the model's ``state_size``, every part ``[rows, units]``; without a batch size
                ``[1, units]``.
            step_count: the steps that it counts from now on; None: as before.
        """
        self._account.require_not_ended()
        message = as_state(self.model.state_size, state, self.model.working_dtype(), "state")
        deadline = self._fleet.deadline(timeout_s)
        async with self._account.turn(deadline):
            await self._account.settle(deadline, steps_matter=False)
            request = pb.SetSessionStateRequest(
                name=self._account.name,
                uid=self._account.uid,
                state=message,
                step_count=step_count,
                request_id=new_request_id(),
            )
            await self._account.change(methods.SET_SESSION_STATE, request, deadline)

    async def reset(self, *, timeout_s: float | None = None) -> None:
        """Sets its state to zeros and its step count to 0."""
        deadline = self._fleet.deadline(timeout_s)
        async with self._account.turn(deadline):
            await self._account.settle(deadline, steps_matter=False)
            request = pb.ResetSessionRequest(
                name=self._account.name, uid=self._account.uid, request_id=new_request_id()
            )
            await self._account.change(methods.RESET_SESSION, request, deadline)

    async def fork(self, session_id: str | None = None, *, timeout_s: float | None = None) -> Session:
        """Makes a second session with a copy of its state and step count.

        Args:
            session_id: the copy's; None: one is made up.

        Raises:
            SessionExistsError: the id is taken.
            FailedPreconditionError: ``connect(..., pinned=True)``, and the id belongs to another server.
        """
        new_id = self._id_beside(session_id)
        session_name(new_id)
        deadline = self._fleet.deadline(timeout_s)
        async with self._account.turn(deadline):
            await self._account.settle(deadline)
            request = pb.ForkSessionRequest(
                name=self._account.name, uid=self._account.uid, session_id=new_id, request_id=new_request_id()
            )
            answer: pb.ForkSessionResponse = await self._account.invoke(methods.FORK_SESSION, request, deadline)
            return Session(self._fleet, self.model, answer.session)

    def _id_beside(self, session_id: str | None) -> str:
        """The id of a copy. A pinned one can only be made where its id puts it, which is where this session is."""
        if not self._fleet.is_pinned:
            return new_session_id() if session_id is None else session_id
        here = self._account.route.current()
        new_id = new_session_id() if session_id is None else session_id
        while self._fleet.route(new_id).current() is not here:
            if session_id is not None:
                raise FailedPreconditionError(
                    f"session_id: {session_id!r} belongs to another server than {self.id!r}, and sessions are pinned "
                    "to theirs; without an id one is made up that will do"
                )
            new_id = new_session_id()
        return new_id

    async def refresh(self, *, timeout_s: float | None = None) -> SessionInfo:
        """Reads the session and takes over its uid and step count, whoever changed them."""
        deadline = self._fleet.deadline(timeout_s)
        async with self._account.turn(deadline):
            session = await self._account.read(session_pb2.SESSION_VIEW_BASIC, deadline)
            self._account.adopt(session)
            return info_from_proto(session)

    async def close(self, *, timeout_s: float | None = None) -> None:
        """Deletes it on the server. That it is gone already, or closed or detached here, is no error."""
        deadline = self._fleet.deadline(timeout_s)
        async with self._account.turn(deadline, closing=True):
            if self._account.is_ended:
                return
            try:
                await self._account.settle(deadline, steps_matter=False)
                request = pb.DeleteSessionRequest(
                    name=self._account.name, uid=self._account.uid, request_id=new_request_id()
                )
                await self._account.invoke(methods.DELETE_SESSION, request, deadline)
            except SessionNotFoundError:
                pass  # It is gone, which is what was asked for.
            self._account.end("closed")

    def detach(self) -> str:
        """Leaves it on the server, for ``Server.open_session``. This object is done with. Returns its id."""
        self._account.end("detached")
        return self.id

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await close_after(error, self.close, f"the session {self.id!r}")


async def create_session(
    fleet: Fleet,
    model: ModelInfo,
    *,
    session_id: str | None,
    batch_size: int | None,
    ttl_s: float | None,
    initial_state: NestedState | None,
    deadline: Deadline,
) -> Session:
    """Makes a session on a model version; see ``Server.session``."""
    fleet.require_kept(model)
    batch_size = checked_batch_size(batch_size)
    new_id = new_session_id() if session_id is None else session_id
    session_name(new_id)
    message = session_pb2.Session(model=model.resource_name, batch_size=batch_size or 0, ttl=duration(ttl_s, "ttl_s"))
    if initial_state is not None:
        message.state.CopyFrom(as_state(model.state_size, initial_state, model.working_dtype(), "initial_state"))
    request = pb.CreateSessionRequest(session_id=new_id, session=message, request_id=new_request_id())
    answer: pb.CreateSessionResponse = await fleet.invoke(
        methods.CREATE_SESSION, request, deadline, way=fleet.route(new_id), model=model.resource_name
    )
    return Session(fleet, model, answer.session)
