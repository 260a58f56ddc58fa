"""The servicer of RecurrentService: decodes, checks everything before it is queued, has the engine do it, encodes."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import grpc
from google.protobuf.message import Message

from cellserve.errors import FieldInvalidError, shown
from cellserve.v1 import recurrent_service_pb2 as messages
from cellserve.v1 import recurrent_service_pb2_grpc, session_pb2, stream_pb2
from cellserve_server.config import ServerConfig
from cellserve_server.edge.decoding import state_leaves
from cellserve_server.edge.encoding import (
    require_answer_fits,
    sequence_message,
    session_message,
    state_message,
    step_outputs,
)
from cellserve_server.edge.fields import (
    batch_size_of,
    id_part_of,
    last_of_page_token,
    order_of,
    page_size_of,
    page_token_of,
    require_steppable,
    seconds_of,
    session_id,
    session_id_of,
    step_number_of,
)
from cellserve_server.edge.requests import RequestMemory
from cellserve_server.edge.run_requests import (
    Caller,
    run_of_call,
    run_of_plain_sequence,
    run_of_session_sequence,
    run_of_step,
    step_of,
)
from cellserve_server.edge.streams import Streams
from cellserve_server.engine.runs import Run, RunResult
from cellserve_server.keeping.model_finder import ModelFinder
from cellserve_server.keeping.operations import SessionOperations
from cellserve_server.keys import Client, SessionKey
from cellserve_server.security import tenant_of
from cellserve_server.sessions.session import Origin, Session
from cellserve_server.step_rates import StepRates
from cellserve_server.tenant_limits import TenantLimits

if TYPE_CHECKING:
    from cellserve_server.tracing.tracing import Tracing

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
Answer = TypeVar("Answer", bound=Message)


class RecurrentService(recurrent_service_pb2_grpc.RecurrentServiceServicer):
    """RecurrentService.

    Args:
        limits: those of tenants.
        rates: counts steps a second.
        models: where models are found.
        operations: the sessions and the engine.
        streams: serves StreamSteps.
        requests: the memory of request_ids.
        new_id: makes the ids of sessions whose clients did not.
        tracing: makes spans of runs; None: nobody traces.
    """

    def __init__(
        self,
        limits: TenantLimits,
        rates: StepRates,
        models: ModelFinder,
        operations: SessionOperations,
        streams: Streams,
        requests: RequestMemory,
        new_id: Callable[[], str],
        tracing: Tracing | None = None,
    ) -> None:
        self._limits = limits
        self._rates = rates
        self._models = models
        self._operations = operations
        self._engine = operations.engine
        self._streams = streams
        self._requests = requests
        self._new_id = new_id
        self._tracing = tracing

    # --- steps -------------------------------------------------------------------------------------------------------

    async def Call(self, request: messages.CallRequest, context: Context) -> messages.CallResponse:
        """One step without a session."""
        caller = self._caller_of(context)
        model = await self._models.resolve(caller.client.tenant, request.model)
        run = run_of_call(request, model, caller, self._limits_of(context))
        self._rates.charge(caller.client.tenant, 1)
        result = await self._execute(run)
        return messages.CallResponse(
            outputs=step_outputs(model, result.outputs, run.rows), state=state_message(model, result.leaves)
        )

    async def Step(self, request: messages.StepRequest, context: Context) -> messages.StepResponse:
        """One step of a session."""
        step = step_of(request, await self._session_of(context, request.name, request.uid), self._limits_of(context))
        session, model = step.session, step.session.model
        self._rates.charge(session.key.tenant, 1)
        rows = step.rows if session.batch_size else None
        inputs = [array[:, 0] for array in step.inputs]
        done = self._engine.step_at_once(session, session.life, inputs, step.expected_step, step.run_id)
        if done is not None:
            if self._tracing is not None:
                self._tracing.done_at_once()
            step_count, outputs = done
            return messages.StepResponse(outputs=step_outputs(model, outputs, rows), step_count=step_count)
        result = await self._execute(run_of_step(step, self._caller_of(context)))
        return messages.StepResponse(
            outputs=step_outputs(model, result.outputs, rows), step_count=result.step_count, replayed=result.replayed
        )

    async def RunSequence(self, request: messages.RunSequenceRequest, context: Context) -> messages.RunSequenceResponse:
        """Many steps, of a session or from a state that comes along."""
        if bool(request.session) == bool(request.model):
            got = "both" if request.session else "neither"
            raise FieldInvalidError(f"session, model: expected exactly one of the two; got {got}")
        caller = self._caller_of(context)
        if request.session:
            session = await self._session_of(context, request.session, request.uid, "session")
            run = run_of_session_sequence(request, session, caller, self._limits_of(context))
        else:
            model = await self._models.resolve(caller.client.tenant, request.model)
            run = run_of_plain_sequence(request, model, caller, self._limits_of(context))
        self._rates.charge(caller.client.tenant, run.steps)
        result = await self._execute(run)
        return messages.RunSequenceResponse(
            outputs=sequence_message(run.model, result),
            state=state_message(run.model, result.leaves),
            steps_applied=result.steps_applied,
            step_count=result.step_count,
            replayed=result.replayed,
        )

    async def StreamSteps(
        self, request_iterator: AsyncIterator[stream_pb2.StreamStepsRequest], context: Context
    ) -> None:
        """Many steps of many sessions over one stream."""

        async def write(message: stream_pb2.StreamStepsResponse) -> None:
            try:
                await context.write(message)
            except grpc.aio.InternalError as error:
                # The transport has lost the caller, which is no fault of ours: as if it had cancelled.
                raise asyncio.CancelledError("the caller has gone") from error

        await self._streams.serve(Client(tenant_of(context), context.peer()), request_iterator, write)

    # --- sessions ----------------------------------------------------------------------------------------------------

    async def CreateSession(
        self, request: messages.CreateSessionRequest, context: Context
    ) -> messages.CreateSessionResponse:
        """Makes a session."""
        tenant, limits = tenant_of(context), self._limits_of(context)

        async def create(origin: Origin) -> messages.CreateSessionResponse:
            id_ = session_id(request.session_id) if request.session_id else self._new_id()
            asked = request.session
            batch_size = batch_size_of(asked.batch_size, limits, "session.batch_size")
            ttl_s = None
            if asked.HasField("ttl"):
                ttl_s = seconds_of(asked.ttl, limits.max_ttl_s, "session.ttl")
            model = await self._models.resolve(tenant, asked.model, "session.model")
            require_steppable(model, "a session")
            leaves = None
            if asked.HasField("state"):
                leaves = state_leaves(model, asked.state, max(batch_size, 1), "session.state")
            session = await self._operations.create(
                SessionKey(tenant, id_), model, batch_size, ttl_s, leaves, origin=origin
            )
            return messages.CreateSessionResponse(session=session_message(session.snapshot()))

        return await self._once(tenant, request, request.request_id, create)

    async def GetSession(self, request: messages.GetSessionRequest, context: Context) -> messages.GetSessionResponse:
        """Reads a session."""
        if request.view not in session_pb2.SessionView.values():
            raise FieldInvalidError(f"view: expected BASIC or FULL; got number {request.view}")
        session = await self._session_of(context, request.name, "")
        with_state = request.view == session_pb2.SESSION_VIEW_FULL
        if with_state:
            require_answer_fits(
                session.model,
                rows=session.rows,
                steps=0,
                with_state=True,
                config=self._limits_of(context),
                advice="ask for the basic view",
            )
        return messages.GetSessionResponse(
            session=session_message(await self._operations.read(session.key, with_state))
        )

    async def ListSessions(
        self, request: messages.ListSessionsRequest, context: Context
    ) -> messages.ListSessionsResponse:
        """Lists sessions."""
        if request.model and not request.model.startswith("models/"):
            raise FieldInvalidError(f"model: expected models/{{model}}; got {shown(request.model)}")
        page_size, order = page_size_of(request.page_size), order_of(request.order_by)
        tenant, id_part = tenant_of(context), id_part_of(request.id_contains)
        if order is not None:
            if request.page_token:
                raise FieldInvalidError(
                    f"page_token: expected none with order_by, of which there is the first page alone; "
                    f"got {shown(request.page_token)}"
                )
            active = await self._operations.activity.first(
                tenant, order, page_size, model=request.model, id_contains=id_part
            )
            return messages.ListSessionsResponse(
                sessions=[session_message(each.session, each.steps_per_second) for each in active],
                total_size=self._operations.sessions.count_of(tenant),
            )
        after = last_of_page_token(request.page_token)
        # One more than the page: whether there is a next one.
        found, total = await self._operations.keeper.list_after(tenant, after, page_size + 1, request.model, id_part)
        page = found[:page_size]
        return messages.ListSessionsResponse(
            sessions=[session_message(session) for session in page],
            next_page_token=page_token_of(page[-1].key.id) if len(found) > page_size else "",
            total_size=total,
        )

    async def DeleteSession(
        self, request: messages.DeleteSessionRequest, context: Context
    ) -> messages.DeleteSessionResponse:
        """Ends a session."""
        key = self._key_of(context, request.name)

        async def delete(origin: Origin) -> messages.DeleteSessionResponse:
            await self._operations.delete(key, request.uid, origin)
            return messages.DeleteSessionResponse()

        return await self._once(key.tenant, request, request.request_id, delete)

    async def ResetSession(
        self, request: messages.ResetSessionRequest, context: Context
    ) -> messages.ResetSessionResponse:
        """Begins again from zeros."""
        key = self._key_of(context, request.name)

        async def reset(origin: Origin) -> messages.ResetSessionResponse:
            session = await self._operations.reset(key, request.uid, origin)
            return messages.ResetSessionResponse(session=session_message(session))

        return await self._once(key.tenant, request, request.request_id, reset)

    async def ForkSession(self, request: messages.ForkSessionRequest, context: Context) -> messages.ForkSessionResponse:
        """Copies a session."""
        key = self._key_of(context, request.name)

        async def fork(origin: Origin) -> messages.ForkSessionResponse:
            id_ = session_id(request.session_id) if request.session_id else self._new_id()
            session = await self._operations.fork(key, request.uid, SessionKey(key.tenant, id_), origin)
            return messages.ForkSessionResponse(session=session_message(session))

        return await self._once(key.tenant, request, request.request_id, fork)

    async def SetSessionState(
        self, request: messages.SetSessionStateRequest, context: Context
    ) -> messages.SetSessionStateResponse:
        """Replaces a session's state."""
        key = self._key_of(context, request.name)

        async def set_state(origin: Origin) -> messages.SetSessionStateResponse:
            step_count = step_number_of(request.step_count, "step_count") if request.HasField("step_count") else None
            known = await self._operations.find(key, "" if origin.request_id else request.uid)
            leaves = state_leaves(known.model, request.state, known.rows, "state")
            session = await self._operations.set_state(key, request.uid, leaves, step_count, origin)
            return messages.SetSessionStateResponse(session=session_message(session))

        return await self._once(key.tenant, request, request.request_id, set_state)

    # -----------------------------------------------------------------------------------------------------------------

    async def _execute(self, run: Run) -> RunResult:
        if self._tracing is not None:
            return await self._tracing.execute(run, self._engine.execute)
        return await self._engine.execute(run)

    def _limits_of(self, context: Context) -> ServerConfig:
        return self._limits.of(tenant_of(context))

    def _key_of(self, context: Context, name: str, field: str = "name") -> SessionKey:
        return SessionKey(tenant_of(context), session_id_of(name, field))

    async def _session_of(self, context: Context, name: str, uid: str, field: str = "name") -> Session:
        return await self._operations.find(self._key_of(context, name, field), uid)

    def _caller_of(self, context: Context) -> Caller:
        remaining_s = context.time_remaining()
        deadline = None if remaining_s is None else self._engine.clock() + remaining_s
        return Caller(Client(tenant_of(context), context.peer()), deadline)

    async def _once(
        self, tenant: str, request: Message, request_id: str, do: Callable[[Origin], Coroutine[Any, Any, Answer]]
    ) -> Answer:
        fingerprint = hashlib.sha256(request.DESCRIPTOR.full_name.encode())
        fingerprint.update(request.SerializeToString(deterministic=True))
        origin = Origin(request_id, fingerprint.digest())
        return await self._requests.once(tenant, request_id, origin.fingerprint, partial(do, origin))
