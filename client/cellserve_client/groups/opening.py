"""How a session group's members get onto the stream that is up, and off it again."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TypeVar

import numpy as np
from google.protobuf.duration_pb2 import Duration

from cellserve.errors import CellServeError, SessionNotFoundError, error_of
from cellserve.tensors import Array
from cellserve.v1 import stream_pb2
from cellserve_client.deadlines import Deadline
from cellserve_client.groups.members import GroupMembers
from cellserve_client.models import ModelInfo
from cellserve_client.session_info import SESSIONS_PREFIX
from cellserve_client.streaming.stream import Request, StepStream
from cellserve_client.transport import Transport

# Names in one Open, and how many of those are under way: the server makes a batch while the next one is read.
NAMES = 8192
OPENS = 3

T = TypeVar("T")


class GroupOpening:
    """Keeps the members of a group open on the connection's stream, each under its index as the handle.

    Args:
        transport: the connection.
        model: the group's.
        batch_size: rows of each session; None: one row without a batch dimension.
        ttl: of the sessions that are made; None: the server's default.
        members: the group's.
    """

    def __init__(
        self,
        transport: Transport,
        model: ModelInfo,
        batch_size: int | None,
        ttl: Duration | None,
        members: GroupMembers,
    ) -> None:
        self._transport = transport
        self._model = model
        self._batch_size = batch_size or 0
        self._ttl = ttl
        self._members = members
        self._stream: StepStream | None = None
        self._number = 0

    async def ready(self, deadline: Deadline) -> tuple[StepStream, int]:
        """A stream on which all members are open, and the group's number there.

        Members whose session is gone, or has begun another life, are noted as absent.

        Raises:
            CellServeError: there is no such stream within the time and the retries.
        """
        attempt = 0
        while True:
            stream = self._transport.mux.link.stream()
            if stream is self._stream:
                return stream, self._number
            try:
                await self._reopen(stream, deadline)
            except CellServeError as error:
                attempt += 1
                await self._transport.before_retry(error, attempt, deadline)

    async def _reopen(self, stream: StepStream, deadline: Deadline) -> None:
        number = self._transport.mux.next_group_number()
        indices = self._members.indices()
        lives = self._members.lives[indices]
        failed = await self._open(stream, number, indices, deadline, create=False)
        self._stream, self._number = stream, number
        for position, error in failed.items():
            self._members.absent[int(indices[position])] = error
        changed = np.flatnonzero(self._members.lives[indices] != lives)
        changed = np.setdiff1d(changed, list(failed))
        if changed.size:  # They are on the stream, in a life that is not ours.
            close = stream_pb2.Close(seq=stream.next_seq(), group=number, handles=indices[changed].tolist())
            stream.send(Request(close=close))
        self._members.lives[indices] = lives
        for position in changed.tolist():
            index = int(indices[position])
            self._members.absent[index] = another_life(self._members.id_of(index))

    async def add(self, ids: list[str], timeout_s: float | None, *, is_new: bool) -> Array:
        """Opens sessions, which are made where they are not there, and makes them members. Returns their indices.

        Args:
            timeout_s: for all; None: the connection's timeout for each message.
            is_new: the ids were made up here: when one of the sessions cannot be made the others are deleted again.

        Raises:
            CellServeError: why the first one could not be opened.
        """
        indices = self._members.reserve(ids)
        joined = False
        try:
            # A stream that breaks has opened some of them perhaps: the same names are opened on the next one.
            attempt = 0
            while not joined:
                deadline = self._transport.deadline(timeout_s)
                stream, number = await self._ready_or_new(deadline)
                try:
                    failed = await self._open(stream, number, indices, deadline, create=True, each_s=timeout_s is None)
                except CellServeError as error:
                    attempt += 1
                    await self._transport.before_retry(error, attempt, deadline)
                    continue
                if failed:
                    await self._take_back(stream, number, indices, failed, delete=is_new)
                    first = failed[min(failed)]
                    first.add_note(f"{len(failed)} of {len(ids)} sessions could not join the group; so none has")
                    raise first
                self._members.join(indices)
                joined = True
        finally:
            if not joined:
                self._members.leave(indices)
        return indices

    async def _ready_or_new(self, deadline: Deadline) -> tuple[StepStream, int]:
        if len(self._members):
            return await self.ready(deadline)
        stream = self._transport.mux.link.stream()
        if stream is not self._stream:
            self._stream, self._number = stream, self._transport.mux.next_group_number()
        return stream, self._number

    async def _open(
        self,
        stream: StepStream,
        number: int,
        indices: Array,
        deadline: Deadline,
        *,
        create: bool,
        each_s: bool = False,
    ) -> dict[int, CellServeError]:
        """Opens sessions, some thousand a message. Returns the errors by position.

        Raises:
            CellServeError: the stream broke, an Open was refused as a whole, or the time was over.
        """
        errors: dict[int, CellServeError] = {}
        under_way: list[tuple[int, asyncio.Future[stream_pb2.Opened]]] = []
        starts = list(range(0, len(indices), NAMES))
        try:
            while starts or under_way:
                if starts and len(under_way) < OPENS:
                    start = starts.pop(0)
                    part = indices[start : start + NAMES]
                    under_way.append((start, self._send_open(stream, number, part, create)))
                    continue
                start, future = under_way.pop(0)
                if each_s:
                    deadline = self._transport.deadline(None)
                opened = await self._in_time(future, deadline)
                self._note(opened, indices[start : start + NAMES], start, errors, create)
        finally:
            for _, future in under_way:
                future.cancel()
        return errors

    def _send_open(
        self, stream: StepStream, number: int, indices: Array, create: bool
    ) -> asyncio.Future[stream_pb2.Opened]:
        future: asyncio.Future[stream_pb2.Opened] = asyncio.get_running_loop().create_future()
        seq = stream.next_seq()
        stream.expect_opened(seq, partial(_tell, future))
        request = stream_pb2.Open(
            seq=seq,
            group=number,
            model=self._model.resource_name,
            names=[SESSIONS_PREFIX + id_ for id_ in self._members.ids_of(indices)],
            handles=indices.tolist(),
            batch_size=self._batch_size,
            ttl=self._ttl,
            create_if_missing=create,
        )
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
            raise self._transport.too_late(deadline.timeout_s) from None

    async def _take_back(
        self, stream: StepStream, number: int, indices: Array, failed: dict[int, CellServeError], *, delete: bool
    ) -> None:
        opened = np.delete(indices, sorted(failed))
        if opened.size:
            close = stream_pb2.Close(seq=stream.next_seq(), group=number, handles=opened.tolist())
            close.delete_sessions = delete
            stream.send(Request(close=close))

    async def close(self, indices: Array | None, delete: bool, deadline: Deadline) -> None:
        """Gives handles back; None: all, and the group. Returns when the server has done it.

        Args:
            delete: delete the sessions too.

        Raises:
            CellServeError: the server did not say in time that it has.
        """
        if indices is None and not len(self._members):
            return
        attempt = 0
        while True:
            stream, number = await self.ready(deadline)
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            seq = stream.next_seq()
            stream.expect_closed(seq, partial(_tell, done))
            handles = () if indices is None else self._present(indices)
            close = stream_pb2.Close(seq=seq, group=number, handles=handles, delete_sessions=delete)
            stream.send(Request(close=close))
            if indices is None:
                self._stream = None
            try:
                await self._in_time(done, deadline)
                return
            except CellServeError as error:
                attempt += 1
                await self._transport.before_retry(error, attempt, deadline)

    def _present(self, indices: Array) -> list[int]:
        """Those that have a handle: an absent one has none, or one of another life."""
        return [index for index in indices.tolist() if index not in self._members.absent]

    def leave(self) -> None:
        """Gives all handles back without waiting."""
        stream, self._stream = self._stream, None
        if stream is not None and not stream.is_over:
            stream.send(Request(close=stream_pb2.Close(seq=stream.next_seq(), group=self._number)))


def another_life(session_id: str) -> SessionNotFoundError:
    """Why a member cannot be stepped whose uid has changed."""
    return SessionNotFoundError(f"session {session_id!r}: somebody else reset it, set its state or made it anew")


def _tell(future: asyncio.Future[T], answer: T | CellServeError) -> None:
    if future.done():
        return
    if isinstance(answer, CellServeError):
        future.set_exception(answer)
    else:
        future.set_result(answer)
