"""Coalescing: the steps of many callers go out as few messages on one stream.

What is pending when the writer is free is the next message. At most two messages that have no part of an answer yet
(*fresh* ones) are under way; what comes meanwhile gathers. When nothing is under way and many steps are pending they go
out as two messages, so that client and server work at the same time from then on. A step that comes alone is sent at
once.
"""

from __future__ import annotations

import asyncio
import math
import weakref
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import grpc.aio

from cellserve.errors import CellServeError, DeadlineExceededError, DrainingError, RunCancelledError
from cellserve.v1 import stream_pb2
from cellserve_client.models import ModelInfo
from cellserve_client.retry import Retrier
from cellserve_client.streaming.columns import StepColumns
from cellserve_client.streaming.lane_handles import LaneHandles
from cellserve_client.streaming.lane_messages import LaneMessage
from cellserve_client.streaming.lanes import (
    NO_HANDLE,
    NOT_APPLIED,
    UNKNOWN,
    Lane,
    LaneGroup,
    LostRun,
    NotOnStreamError,
    StreamLeft,
    tell_error,
)
from cellserve_client.streaming.link import Link
from cellserve_client.streaming.stream import Request, StepStream
from cellserve_client.streaming.window import SendWindow

if TYPE_CHECKING:
    from cellserve_client.tracing import Tracing

# From so many steps on the first message is cut in two.
HALVED_FROM = 32
SHORTEST_SWEEP_S = 0.001


class Wire(Protocol):
    """What the mux needs of a connection: a ``Transport``."""

    max_message_bytes: int

    @property
    def clock(self) -> Callable[[], float]: ...
    @property
    def sleep(self) -> Callable[[float], Awaitable[None]]: ...
    @property
    def retrier(self) -> Retrier: ...
    @property
    def tracing(self) -> Tracing | None: ...
    def stream_error(self, rpc_error: grpc.aio.AioRpcError) -> CellServeError: ...
    def too_late(self, timeout_s: float) -> DeadlineExceededError: ...
    def leaves_stream(self, error: CellServeError) -> bool: ...


class Mux:
    """Sends the steps of a connection's sessions. It belongs to the event loop in which it is made.

    Args:
        wire: the connection.
        begin_stream: begins a call of StreamSteps.

    Attributes:
        loop: the event loop.
        link: the stream.
    """

    def __init__(self, wire: Wire, begin_stream: Callable[[], Any]) -> None:
        self.loop = asyncio.get_running_loop()
        self.link = Link(
            begin_stream, wire.stream_error, self._next_request, self._note_answer, self._note_draining, self._note_end
        )
        self._wire = wire
        self._clock = wire.clock
        self._tracing = wire.tracing
        self._groups: weakref.WeakValueDictionary[tuple[str, int], LaneGroup] = weakref.WeakValueDictionary()
        self._ready: dict[LaneGroup, None] = {}  # those with steps to send, in the order of their turns
        self._handles = LaneHandles(self._note_opened)
        self._window = SendWindow(self.loop, self._wake_writer)
        self._sent: dict[int, LaneMessage] = {}
        self._wants_waking = True  # nothing is pending, and whoever submits has to wake the writer
        self._sweep_at = math.inf
        self._sweeping: asyncio.TimerHandle | None = None
        self._retrying: asyncio.Task[None] | None = None
        self._is_closed = False

    # --- for those who step ---------------------------------------------------------------------------------------

    def group_of(self, model: ModelInfo, batch_size: int | None) -> LaneGroup | None:
        """The group that sessions of a model and batch size belong to; None: a step does not fit into a message."""
        key = (model.resource_name, batch_size or 0)
        group = self._groups.get(key)
        if group is None:
            columns = StepColumns(model, batch_size)
            limit = min(model.limits.max_message_bytes, self._wire.max_message_bytes)
            group = LaneGroup(*key, columns, columns.max_positions(limit), self._handles.given_back)
            if group.max_positions:
                self._groups[key] = group
        return group if group.max_positions else None

    def takes(self, lane: Lane) -> bool:
        """Whether the stream that is up, or the next one, would take a lane that has a group."""
        if self.link.refusal is not None:
            return False
        return not lane.alone_on or lane.alone_on != self.link.serial or self.link.current is None

    def submit(self, lane: Lane) -> None:
        """Sends a lane's step with the next message. Its fields for the run are set; its waiter is told.

        Raises:
            FailedPreconditionError: the connection is closed, or belongs to another event loop or process.
        """
        group = lane.group
        assert group is not None, "a lane on the stream has a group"
        queue = group.pending if lane.handle != NO_HANDLE else group.unopened
        if not lane.opening:  # Otherwise it is in line already, once its handle is there.
            if not queue:
                self._ready[group] = None
            queue[lane] = None
        if lane.deadline_at < self._sweep_at:
            self._sweep_by(lane.deadline_at)
        if self._wants_waking:
            try:
                self._wake()
            except BaseException:
                queue.pop(lane, None)
                raise

    def withdraw(self, lane: Lane) -> LostRun:
        """Takes a step back whose caller has given up. What is returned tells what became of it, now or later."""
        group = lane.group
        assert group is not None, "a lane on the stream has a group"
        self._unqueue(lane, group)
        for message in self._sent.values():
            found = message.lose(lane)
            if found is not None:
                position, lost = found
                self._cancel(message.seq, group.number, position)
                return lost
        lost = LostRun(lane.run_id)
        lost.verdict, lane.late = lane.late or (UNKNOWN if lane.may_be_applied else NOT_APPLIED), None
        return lost

    def next_group_number(self) -> int:
        """A number for a group on the stream, used once."""
        return self._handles.next_group_number()

    async def close(self) -> None:
        """Ends the stream; callers are told that the connection was closed."""
        self._is_closed = True
        error = RunCancelledError("the connection was closed while the request was under way")
        if self._sweeping is not None:
            self._sweeping.cancel()
        retrying, self._retrying = self._retrying, None
        if retrying is not None:
            retrying.cancel()
            await asyncio.gather(retrying, return_exceptions=True)
        self._requeue()
        self._fail_all(error)
        await self.link.close(error)

    # --- what goes out --------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Has the writer look for work; without a stream begins one, unless that is waited for already."""
        if self.link.refusal is not None:
            self._fail_all(NotOnStreamError())
        elif self._retrying is None:
            self.link.stream().wake()
            self._wants_waking = False

    def _next_request(self, stream: StepStream) -> Request | None:
        """The next message, if one is due now."""
        for group in list(self._ready):
            if group.unopened:
                opening = self._handles.close_request(stream)
                return opening or self._handles.open_request(stream, self.link.serial, group)
            if not group.pending:  # withdrawn, all of them
                del self._ready[group]
        if not self._ready:
            self._wants_waking = True
            return None
        self._wants_waking = False
        room = self._window.room()
        if room == 0:
            return None
        group = next(iter(self._ready))
        return self._handles.close_request(stream) or self._steps_request(stream, group, min(room, group.max_positions))

    def _wake_writer(self) -> None:
        if self._ready and self.link.current is not None:
            self.link.current.wake()

    def _steps_request(self, stream: StepStream, group: LaneGroup, room: int) -> Request:
        pending = group.pending
        count = len(pending)
        if self._window.is_idle and count >= HALVED_FROM:
            count = (count + 1) // 2
        count = min(count, room)
        del self._ready[group]
        if count == len(pending):
            lanes = list(pending)
            pending.clear()
        else:
            lanes = list(islice(pending, count))
            for lane in lanes:
                del pending[lane]
            self._ready[group] = None  # Behind the others.
        message = LaneMessage(self._note_positions, stream.next_seq(), group, lanes, self._clock())
        stream.expect(message.seq, message)
        self._sent[message.seq] = message
        self._window.note_sent(message.seq, count)
        request = message.request()
        if self._tracing is not None:
            self._tracing.mark(request.steps, [lane.trace for lane in lanes])
        return request

    def _cancel(self, seq: int, group: int, position: int) -> None:
        assert self.link.current is not None, "what was sent was sent on a stream"
        cancel = stream_pb2.Cancel(seq=seq, group=group, positions=[position])
        self.link.current.send_first(Request(cancel=cancel))

    # --- what comes back ------------------------------------------------------------------------------------------

    def _note_answer(self, seq: int) -> None:
        self._wire.retrier.succeeded()
        if seq in self._sent:
            self._window.note_answer(seq)

    def _note_positions(self, message: LaneMessage, answered: int, is_last: bool) -> None:
        """So many positions of a message were answered."""
        self._window.unanswered -= answered
        if is_last:
            del self._sent[message.seq]
        self._wake_writer()

    def _note_opened(self, group: LaneGroup, lanes: list[Lane]) -> None:
        """Lanes have handles now: their steps can go out."""
        for lane in lanes:
            if lane.is_waited_for:
                self._ready[group] = None
                group.pending[lane] = None
        self._wake_writer()

    # --- deadlines ------------------------------------------------------------------------------------------------

    def _sweep_by(self, at: float) -> None:
        """Has those who wait looked at again when the earliest deadline may be over: one timer for all."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._sweep_at = at
        self._sweeping = self.loop.call_later(max(at - self._clock(), SHORTEST_SWEEP_S), self._sweep)

    def _sweep(self) -> None:
        self._sweeping, self._sweep_at = None, math.inf
        now, earliest = self._clock(), math.inf
        for lane in list(self._waiting()):
            if lane.deadline_at > now:
                earliest = min(earliest, lane.deadline_at)
            else:
                assert lane.group is not None, "a lane on the stream has a group"
                self._unqueue(lane, lane.group)
                tell_error(lane, self._wire.too_late(lane.timeout_s))
        if earliest < math.inf:
            self._sweep_by(earliest)

    def _waiting(self) -> Iterator[Lane]:
        """The lanes whose callers wait."""
        for group in self._ready:
            yield from group.pending
            yield from group.unopened
        yield from self._handles.opening()
        for message in self._sent.values():
            yield from message.waiting()

    def _unqueue(self, lane: Lane, group: LaneGroup) -> None:
        group.pending.pop(lane, None)
        group.unopened.pop(lane, None)

    # --- streams that end -----------------------------------------------------------------------------------------

    def _note_draining(self) -> None:
        """The server is about to stop: what was not sent yet goes to another replica, if there is one.

        What was sent is still answered.
        """
        error = DrainingError("the server is stopping and takes no new steps", retry_after_s=0.0)
        if self._wire.leaves_stream(error):
            self._fail_all(StreamLeft(error))
            if self.link.current is not None:
                self.link.current.drop_unsent(error)

    def _note_end(self, stream: StepStream, error: CellServeError) -> None:
        """A stream has ended: what was not answered is sent again, on the next one or on another replica's."""
        self._requeue()
        if self.link.refusal is not None:
            self._fail_all(NotOnStreamError())
            return
        if not self._is_closed and self._wire.leaves_stream(error):
            self._fail_all(StreamLeft(error))
            return
        waiting = list(self._waiting())
        if not waiting or self._is_closed:
            # A group may still be in line though all its callers have given up.
            self._wants_waking = True
            return
        now = self._clock()
        longest_s = max(lane.deadline_at for lane in waiting) - now
        delay_s = self._wire.retrier.delay_s(error, self.link.failures, longest_s)
        if delay_s is None:
            self._fail_all(error)
            return
        for lane in waiting:
            if lane.deadline_at <= now + delay_s:  # Its time would be over before the next attempt.
                assert lane.group is not None, "a lane on the stream has a group"
                self._unqueue(lane, lane.group)
                tell_error(lane, error)
        self._retrying = self.loop.create_task(self._retry(delay_s), name="cellserve stream retry")

    async def _retry(self, delay_s: float) -> None:
        await self._wire.sleep(delay_s)
        self._retrying = None
        if self._ready:
            self._wake()

    def _requeue(self) -> None:
        """Puts what was not answered in line again, and forgets the stream."""
        again = [lane for message in self._sent.values() for lane in message.broken_lanes()]
        unopened, groups = self._handles.forget_all()
        self._sent.clear()
        self._window.clear()
        for lane in (*again, *unopened):
            assert lane.group is not None, "a lane on the stream has a group"
            lane.group.unopened[lane] = None
        for group in groups:
            if group.unopened:
                self._ready[group] = None

    def _fail_all(self, error: Exception) -> None:
        """Tells all who wait for a step to be sent."""
        ready, self._ready = self._ready, {}
        for group in ready:
            lanes = [*group.pending, *group.unopened]
            group.pending.clear()
            group.unopened.clear()
            for lane in lanes:
                tell_error(lane, error)
        self._wants_waking = True
