"""How a session group's members get onto the stream of one place, and off it again."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Protocol, TypeVar

import numpy as np

from cellserve.errors import CellServeError, DrainingError, SessionNotFoundError, error_of
from cellserve.tensors import Array
from cellserve.v1 import stream_pb2
from cellserve_client.deadlines import Deadline
from cellserve_client.fleet import Fleet, Place, Replica
from cellserve_client.groups.members import GroupMembers
from cellserve_client.session_info import SESSIONS_PREFIX
from cellserve_client.streaming.stream import Request, StepStream

# Names in one Open, and how many of those are under way: the server makes a batch while the next one is read.
NAMES = 8192
OPENS = 3

T = TypeVar("T")


class Parts(Protocol):
    """What a part needs of the parts of its group."""

    def next_opening(self) -> int:
        """A number for one part on one stream, used once."""
        ...

    def release(self, indices: Array) -> None:
        """Gives handles back that members have where they are no more."""
        ...


class GroupPart:
    """The members of a group that are at one place, each under its index as the handle.

    Args:
        fleet: the connection.
        place: the replica, and the stream to it.
        pattern: an ``Open`` with what is the same in all of them.
        members: the group's.
        parts: those of the group.

    Attributes:
        replica: the place's.
        number: the group's on the stream.
        opening: the number of this part on the stream that is up, used once; 0: it was on none yet.
    """

    def __init__(
        self, fleet: Fleet, place: Place, pattern: stream_pb2.Open, members: GroupMembers, parts: Parts
    ) -> None:
        self.replica: Replica = place.replica
        self.number = 0
        self.opening = 0
        self._fleet = fleet
        self._mux = place.mux
        self._pattern = pattern
        self._members = members
        self._parts = parts
        self._stream: StepStream | None = None
        self._is_spoiled = False

    @property
    def has_ended_well(self) -> bool:
        """Whether its stream has ended, and had answered steps before."""
        return self._stream is not None and self._stream.is_over and self._stream.has_stepped

    def begin(self) -> None:
        """Nothing of the group is under way: what was given up half opened is closed."""
        if self._is_spoiled:
            self._is_spoiled = False
            self.leave()

    def stream(self) -> StepStream:
        """The stream that is up.

        Raises:
            DrainingError: its server is about to stop, and another one can be had.
            CellServeError: there is none.
        """
        stream = self._mux.link.stream()
        if stream.draining and self._fleet.is_many and not self._fleet.is_pinned:
            raise DrainingError(f"the server at {self.replica.address} is stopping", retry_after_s=0.0)
        if stream is not self._stream:
            self._stream = stream
            self.number, self.opening = self._mux.next_group_number(), self._parts.next_opening()
        return stream

    async def ready(self, indices: Array, deadline: Deadline) -> tuple[StepStream, dict[int, CellServeError]]:
        """Has members open on the stream that is up.

        Members whose session is gone, or has begun another life, are noted as absent.

        Returns:
            The stream, and why some could not be opened, by index.

        Raises:
            CellServeError: no stream can be had, or it refuses them all.
        """
        stream = self.stream()
        closed = indices[self._members.opened[indices] != self.opening]
        if not closed.size:
            return stream, {}
        lives = self._members.lives[closed]
        try:
            failed = await self.open(stream, closed, deadline, create=False)
            changed = closed[self._members.lives[closed] != lives]
        finally:
            self._members.lives[closed] = lives
        errors = {int(closed[position]): error for position, error in failed.items()}
        for index, error in errors.items():
            if isinstance(error, SessionNotFoundError):
                self._members.absent[index] = error
        changed = np.setdiff1d(changed, list(errors))
        if changed.size:  # They are on the stream, in a life that is not ours.
            self._parts.release(changed)
        for index in changed.tolist():
            errors[index] = self._members.absent[index] = another_life(self._members.id_of(index))
        return stream, errors

    async def open(
        self, stream: StepStream, indices: Array, deadline: Deadline, *, create: bool, each_s: bool = False
    ) -> dict[int, CellServeError]:
        """Opens sessions, some thousand a message. Returns the errors by position.

        Args:
            create: make those that are not there.
            each_s: the connection's timeout counts for each message, not the deadline for all.

        Raises:
            CellServeError: the stream broke, an Open was refused as a whole, or the time was over.
        """
        self._parts.release(indices)
        opening = self.opening
        errors: dict[int, CellServeError] = {}
        under_way: list[tuple[int, asyncio.Future[stream_pb2.Opened]]] = []
        starts = list(range(0, len(indices), NAMES))
        try:
            while starts or under_way:
                if starts and len(under_way) < OPENS:
                    start = starts.pop(0)
                    part = indices[start : start + NAMES]
                    under_way.append((start, self._send_open(stream, part, create)))
                    continue
                start, future = under_way[0]
                if each_s:
                    deadline = self._fleet.deadline(None)
                opened = await self._in_time(future, deadline)
                del under_way[0]
                part = indices[start : start + NAMES]
                self._note(opened, part, start, errors, create)
                self._members.opened[part] = opening
                refused = [position - start for position in errors if position >= start]
                self._members.opened[part[refused]] = 0
        finally:
            if any(not future.done() for _, future in under_way):
                self._is_spoiled = True  # Some may be open without our knowing.
            for _, future in under_way:
                future.cancel()
        return errors

    def _send_open(self, stream: StepStream, indices: Array, create: bool) -> asyncio.Future[stream_pb2.Opened]:
        future: asyncio.Future[stream_pb2.Opened] = asyncio.get_running_loop().create_future()
        # Who gave up and does not look at it any more is no reason for a warning.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        request = stream_pb2.Open()
        request.CopyFrom(self._pattern)
        request.seq, request.group, request.create_if_missing = stream.next_seq(), self.number, create
        request.names.extend(SESSIONS_PREFIX + id_ for id_ in self._members.ids_of(indices))
        request.handles.extend(indices.tolist())
        stream.expect_opened(request.seq, partial(_tell, future))
        stream.send(Request(open=request))
        return future

    def _note(
        self, opened: stream_pb2.Opened, indices: Array, start: int, errors: dict[int, CellServeError], create: bool
    ) -> None:
        if opened.HasField("status"):
            raise error_of(opened.status)
        self._members.lives[indices] = np.fromiter(map(hash, opened.uids), np.int64, len(indices))
        if create:  # Members know better: what was lost is settled by asking.
            self._members.step_counts[indices] = np.fromiter(opened.step_counts, np.int64, len(indices))
        for failed in opened.errors:
            errors[start + failed.position] = error_of(failed.status)

    async def _in_time(self, future: asyncio.Future[T], deadline: Deadline) -> T:
        try:
            return await asyncio.wait_for(future, max(deadline.remaining_s(), 0.0))
        except TimeoutError:
            self._is_spoiled = True
            raise self._fleet.too_late(deadline.timeout_s) from None

    async def close(self, indices: Array, delete: bool, deadline: Deadline) -> dict[int, CellServeError]:
        """Gives handles back, and returns when the server has done it; all are opened before where that is due.

        Args:
            delete: delete the sessions too.

        Returns:
            Why some could not be opened, by index.

        Raises:
            CellServeError: the server did not say in time that it has.
        """
        stream, errors = await self.ready(indices, deadline)
        handles = indices[self._members.opened[indices] == self.opening]
        if not handles.size:
            return errors
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        seq = stream.next_seq()
        stream.expect_closed(seq, partial(_tell, done))
        close = stream_pb2.Close(seq=seq, group=self.number, handles=handles.tolist(), delete_sessions=delete)
        stream.send(Request(close=close))
        await self._in_time(done, deadline)
        self._members.opened[handles] = 0
        return errors

    def release(self, indices: Array, *, delete: bool = False) -> None:
        """Gives handles back without waiting."""
        self._send_close(indices.tolist(), delete)

    def leave(self) -> None:
        """Gives all handles back, and the group, without waiting."""
        if self._stream is not None:
            self._send_close((), False)
        self._stream, self.opening = None, 0

    def _send_close(self, handles: list[int] | tuple[()], delete: bool) -> None:
        stream = self._stream
        if stream is None or stream.is_over:
            return
        close = stream_pb2.Close(seq=stream.next_seq(), group=self.number, handles=handles, delete_sessions=delete)
        stream.expect_closed(close.seq, _ignore)  # What a server has closed by itself it may refuse to close.
        stream.send(Request(close=close))


def another_life(session_id: str) -> SessionNotFoundError:
    """Why a member cannot be stepped whose uid has changed."""
    return SessionNotFoundError(f"session {session_id!r}: somebody else reset it, set its state or made it anew")


def _ignore(refusal: CellServeError | None) -> None:
    """Nobody waits for this answer."""


def _tell(future: asyncio.Future[T], answer: T | CellServeError) -> None:
    if future.done():
        return
    if isinstance(answer, CellServeError):
        future.set_exception(answer)
    else:
        future.set_result(answer)
