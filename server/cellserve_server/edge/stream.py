"""StreamSteps: many steps of many sessions over one stream, answered in parts as ticks finish them.

A reader takes the client's messages in and a writer sends what is ready; between them stand the answers that are due.
Their number and bytes are bounded: beyond that the reader stops until the writer has sent one off, so a client that
does not read is held back by HTTP/2 and costs no memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from google.rpc import status_pb2

from cellserve.errors import CellServeError, FieldInvalidError, SessionNotFoundError, status_of
from cellserve.v1 import stream_pb2
from cellserve_server.config import ServerConfig
from cellserve_server.edge.encoding import ANSWER_OVERHEAD_BYTES, duration_of
from cellserve_server.edge.handles import Handle
from cellserve_server.edge.refusals import Refusals
from cellserve_server.edge.step_submission import StepSubmission
from cellserve_server.edge.stream_answers import Answer, Outgoing, PendingSteps
from cellserve_server.edge.stream_groups import Group, Groups
from cellserve_server.engine.engine import draining_error
from cellserve_server.engine.runs import cancelled_error
from cellserve_server.keeping.operations import SessionOperations
from cellserve_server.keys import Client
from cellserve_server.step_rates import StepRates

if TYPE_CHECKING:
    from cellserve_server.tracing.steps import StepsTrace
    from cellserve_server.tracing.tracing import Tracing

DELETIONS_PER_TURN = 256

Response = stream_pb2.StreamStepsResponse


class StepStream:
    """One stream.

    Args:
        config: the limits.
        operations: the sessions and the engine.
        refusals: told of every error that is answered here.
        groups: the stream's groups.
        rates: counts steps a second.
        client: whose stream it is.
        write: sends a message; returns when the transport has taken it.
        tracing: makes spans of steps whose callers are traced; None: nobody traces.
    """

    def __init__(
        self,
        config: ServerConfig,
        operations: SessionOperations,
        refusals: Refusals,
        groups: Groups,
        rates: StepRates,
        client: Client,
        write: Callable[[Response], Awaitable[None]],
        tracing: Tracing | None = None,
    ) -> None:
        self._config = config
        self._operations = operations
        self._engine = operations.engine
        self._refusals = refusals
        self._groups = groups
        self._rates = rates
        self._client = client
        self._submission = StepSubmission(operations, client)
        self._write = write
        self._tracing = tracing
        self._notices: deque[Response] = deque()  # the drain notice: one at most
        self._outbox: deque[Outgoing] = deque()  # answers with something to send
        self._pending: dict[tuple[int, int], PendingSteps] = {}  # by (group, seq), for Cancel
        self._due: set[Outgoing] = set()  # answers that are not sent to their end
        self._due_bytes = 0
        self._due_positions = 0
        self._deletions: set[asyncio.Task[None]] = set()
        self._bug: BaseException | None = None
        self._waits_for_write = False
        self._taking = False
        self._writing = False
        self._finishing = False
        self._wake = asyncio.Event()
        self._room = asyncio.Event()

    @property
    def unanswered(self) -> int:
        """Messages whose answers were not sent to their end."""
        return len(self._due)

    async def serve(self, requests: AsyncIterator[stream_pb2.StreamStepsRequest]) -> None:
        """Reads and answers until the client has ended its side and has its answers."""
        reader = asyncio.ensure_future(self._read(requests))
        reader.add_done_callback(lambda _: self._wake.set())
        try:
            await self._send(reader)
        finally:
            reader.cancel()
            # Nobody waits for these answers any more; what has begun is done to its end, sessions stay.
            for answer in self._due:
                if isinstance(answer, PendingSteps):
                    answer.cancel(None)
            await asyncio.gather(reader, *self._deletions, return_exceptions=True)

    def tell_draining(self, grace_s: float) -> None:
        """Has the client told, before anything else that waits to be sent."""
        notice = stream_pb2.Draining(whole_stream=True, grace=duration_of(grace_s))
        self._notices.append(Response(draining=notice))
        self._wake.set()

    def finish(self) -> None:
        """Has the stream end once its answers were sent; nothing more is read."""
        self._finishing = True
        self._wake.set()

    # --- out -----------------------------------------------------------------------------------------------------

    async def _send(self, reader: asyncio.Future[None]) -> None:
        limit_bytes = self._config.max_message_bytes - ANSWER_OVERHEAD_BYTES
        while True:
            if self._bug is not None:
                raise self._bug
            if reader.done():
                if not reader.cancelled():
                    reader.result()  # Raises what ended it.
            elif self._finishing and not self._taking:
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)
            if self._writing:
                self._waits_for_write = True  # The reader does; a stream has one message on its way at a time.
                await self._woken()
                self._waits_for_write = False
            elif self._notices:
                await self._put(self._notices.popleft())
            elif self._outbox:
                await self._send_part(self._outbox.popleft(), limit_bytes)
            elif self._due or self._taking or not (reader.done() or self._finishing):
                # Everything that one tick finishes is noted before this goes on, and so goes out together.
                await self._woken()
            elif self._finishing:
                raise draining_error()
            else:
                return

    async def _woken(self) -> None:
        self._wake.clear()
        await self._wake.wait()

    async def _send_part(self, answer: Outgoing, limit_bytes: int) -> None:
        message, last = answer.take(limit_bytes)
        if answer.ready and not last:
            self._outbox.append(answer)  # Behind the others: one large answer does not hold them up.
        await self._put(message)
        if not last:
            return
        self._due.discard(answer)
        self._due_bytes -= answer.size_bytes
        self._due_positions -= answer.positions
        if isinstance(answer, PendingSteps) and self._pending.get((answer.group, answer.seq)) is answer:
            del self._pending[answer.group, answer.seq]
        self._room.set()

    def _refused(self, error: CellServeError) -> status_pb2.Status:
        self._refusals.note(error)
        return status_of(error)

    def _owe(self, answer: Outgoing) -> None:
        self._due.add(answer)
        self._due_bytes += answer.size_bytes
        self._due_positions += answer.positions

    def _mark_ready(self, answer: Outgoing) -> None:
        self._outbox.append(answer)
        self._wake.set()

    def _answer(self, message: Response) -> None:
        answer = Answer(message)
        self._owe(answer)
        self._mark_ready(answer)

    async def _answer_at_once(self, message: Response) -> None:
        """Sends an answer from where its request was read, if nothing else is being sent: a turn of the loop less."""
        if self._writing or self._outbox or self._notices:
            self._answer(message)
            return
        self._taking = True  # It was read, so it is answered even when the server stops.
        try:
            await self._put(message)
        finally:
            self._taking = False
            if self._outbox or self._notices or self._finishing or self._waits_for_write:
                self._wake.set()

    async def _put(self, message: Response) -> None:
        self._writing = True
        try:
            await self._write(message)
        finally:
            self._writing = False

    # --- in ------------------------------------------------------------------------------------------------------

    async def _read(self, requests: AsyncIterator[stream_pb2.StreamStepsRequest]) -> None:
        async for request in requests:
            match request.WhichOneof("kind"):
                case "steps":
                    await self._take_steps(request.steps)
                case "open":
                    await self._take_open(request.open)
                case "cancel":
                    self._take_cancel(request.cancel)
                case "close":
                    await self._take_close(request.close)
                case _:
                    raise FieldInvalidError("kind: expected open, steps, cancel or close; got an empty message")
            while self._is_full():
                self._room.clear()
                await self._room.wait()

    def _is_full(self) -> bool:
        return (
            len(self._due) >= self._config.stream_window_messages
            or self._due_bytes >= self._config.stream_window_bytes
            or self._due_positions >= self._config.stream_window_steps
        )

    async def _take_open(self, request: stream_pb2.Open) -> None:
        self._taking = True  # It was read, so it is answered even when the server stops.
        try:
            opened = await self._groups.open(request)
        except CellServeError as error:
            opened = stream_pb2.Opened(seq=request.seq, group=request.group, status=self._refused(error))
        finally:
            self._taking = False
        self._answer(Response(opened=opened))

    async def _take_steps(self, request: stream_pb2.Steps) -> None:
        tracing: StepsTrace | None = None
        if self._tracing is not None:
            tracing = self._tracing.steps(request.traces, len(request.handles))
        try:
            group = self._groups.get(request.group)
            self._check_columns(request)
            count = len(request.handles)
            inputs = group.columns.split(request.inputs, count)
            if delay_s := self._rates.reserve(self._client.tenant, count):
                await asyncio.sleep(delay_s)  # Nothing more is read meanwhile, which holds the client back.
            if count == 1 and (stepped := self._submission.at_once(group, request, inputs)) is not None:
                if tracing is not None:
                    tracing.done_at_once()
                await self._answer_at_once(Response(stepped=stepped))
                return
            absent = await self._submission.bring_back(group, request.handles)
            await self._wait_for_room(group, count)
        except CellServeError as error:
            if tracing is not None:
                tracing.refused(error)
            stepped = stream_pb2.Stepped(seq=request.seq, group=request.group, status=self._refused(error))
            self._answer(Response(stepped=stepped))
            return
        except asyncio.CancelledError:
            if tracing is not None:
                tracing.refused(cancelled_error())
            raise
        if not count:
            self._answer(Response(stepped=stream_pb2.Stepped(seq=request.seq, group=request.group)))
            return
        self._submission.submit(group, request, inputs, self._owed(group, request, count, tracing), absent)

    def _owed(self, group: Group, request: stream_pb2.Steps, count: int, tracing: StepsTrace | None) -> PendingSteps:
        """The answer to a Steps, which is due from now on."""
        pending = PendingSteps(
            request.seq,
            request.group,
            group.columns,
            count,
            on_ready=self._mark_ready,
            on_error=self._refusals.note,
            tracing=tracing,
        )
        self._owe(pending)
        self._pending[request.group, request.seq] = pending
        return pending

    async def _wait_for_room(self, group: Group, count: int) -> None:
        """Waits until the engine takes the whole message: were a step refused, the next one could overtake it.

        Meanwhile nothing more is read, which holds the client back.
        """
        size_bytes = count * group.columns.run_bytes
        most_bytes = self._engine.queue.stream_bytes
        if count > 1 and size_bytes > most_bytes:
            raise FieldInvalidError(
                f"handles: these steps would hold {size_bytes} bytes; expected at most {most_bytes}, three quarters of "
                "max_queued_bytes: send fewer in one message"
            )
        self._taking = True
        try:
            await self._engine.queue.wait_for_room(count, size_bytes, self._client)
        finally:
            self._taking = False

    def _check_columns(self, request: stream_pb2.Steps) -> None:
        count = len(request.handles)
        most = max(self._engine.queue.stream_runs, 1)
        if count > most:
            raise FieldInvalidError(
                f"handles: expected at most {most}, three quarters of max_queued_runs; got {count}",
                metadata={"field": "handles", "limit": str(most)},
            )
        columns = (
            ("expected_steps", request.expected_steps),
            ("run_ids", request.run_ids),
            ("timeouts_ms", request.timeouts_ms),
        )
        for field, column in columns:
            if column and len(column) != count:
                raise FieldInvalidError(
                    f"{field}: expected none or {count}, one for each handle; got {len(column)}",
                    metadata={"field": field},
                )

    def _take_cancel(self, request: stream_pb2.Cancel) -> None:
        # What is not known was answered already: the two have crossed.
        pending = self._pending.get((request.group, request.seq))
        if pending is not None:
            pending.cancel(list(request.positions) or None)

    async def _take_close(self, request: stream_pb2.Close) -> None:
        closed = stream_pb2.Closed(seq=request.seq, group=request.group)
        try:
            if request.delete_sessions and self._engine.draining:
                raise draining_error()
            sessions = self._groups.close(request)
        except CellServeError as error:
            closed.status.CopyFrom(self._refused(error))
            sessions = []
        answer = Answer(Response(closed=closed))
        self._owe(answer)
        if not request.delete_sessions or not sessions:
            self._mark_ready(answer)
            return
        deletions = await self._queue_deletions(sessions)
        task = asyncio.ensure_future(_all_deleted(deletions))
        self._deletions.add(task)
        task.add_done_callback(partial(self._note_deleted, answer, closed))

    def _note_deleted(self, answer: Answer, closed: stream_pb2.Closed, task: asyncio.Task[None]) -> None:
        self._deletions.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, CellServeError):
            closed.status.CopyFrom(self._refused(error))
            answer.amend(Response(closed=closed))
        elif error is not None:
            self._bug = error
        self._mark_ready(answer)

    async def _queue_deletions(self, sessions: Sequence[Handle]) -> list[asyncio.Future[None]]:
        deletions: list[asyncio.Future[None]] = []
        for start in range(0, len(sessions), DELETIONS_PER_TURN):
            for session, uid, _ in sessions[start : start + DELETIONS_PER_TURN]:
                deletions.append(asyncio.ensure_future(self._operations.delete(session.key, uid)))
            # Each is in line, or done, before anything else is read: an Open that follows finds them gone.
            await asyncio.sleep(0)
        return deletions


async def _all_deleted(deletions: Sequence[asyncio.Future[None]]) -> None:
    """Waits for all of them; raises why one of them failed: a bug, if any met one."""
    outcomes = await asyncio.gather(*deletions, return_exceptions=True)
    errors = [
        outcome
        for outcome in outcomes
        if isinstance(outcome, BaseException) and not isinstance(outcome, SessionNotFoundError)
    ]
    for error in sorted(errors, key=lambda error: isinstance(error, CellServeError)):
        raise error
