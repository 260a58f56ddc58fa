"""Handles of lanes on the stream that is up: opened many at a time, given back many at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

from cellserve.errors import CellServeError, ModelNotFoundError, SessionMovedError, error_of
from cellserve.v1 import stream_pb2
from cellserve_client.retry import is_retryable
from cellserve_client.streaming.lanes import Lane, LaneGroup, NotOnStreamError, StepRefused, tell_error
from cellserve_client.streaming.stream import Request, StepStream

# Names in one Open: far below what the server takes, so that its answer comes soon.
MAX_NAMES = 8192


class LaneHandles:
    """The handles of all lanes of a connection.

    Args:
        on_opened: called after an answer to an ``Open``, with the lanes that have handles now and their group.

    Attributes:
        given_back: handles that are to be closed, with their groups. Appended to from any thread.
    """

    def __init__(self, on_opened: Callable[[LaneGroup, list[Lane]], None]) -> None:
        self.given_back: list[tuple[LaneGroup, int]] = []
        self._on_opened = on_opened
        self._opening: dict[int, list[Lane]] = {}  # by the number of the Open
        self._numbered: dict[int, LaneGroup] = {}  # those that the stream knows
        self._last_number = 0

    def next_group_number(self) -> int:
        """A number for a group on the stream, used once."""
        self._last_number += 1
        return self._last_number

    def opening(self) -> Iterator[Lane]:
        """The lanes whose handles are being opened and whose callers wait."""
        for lanes in self._opening.values():
            yield from (lane for lane in lanes if lane.is_waited_for)

    def open_request(self, stream: StepStream, serial: int, group: LaneGroup) -> Request:
        """Opens what a group has unopened.

        Args:
            serial: the stream's number.
        """
        lanes = list(islice(group.unopened, MAX_NAMES))
        for lane in lanes:
            del group.unopened[lane]
        if not group.number:
            group.number = self.next_group_number()
            self._numbered[group.number] = group
        seq = stream.next_seq()
        handles = [group.allot(lane) for lane in lanes]
        for lane in lanes:
            lane.opening = seq
        self._opening[seq] = lanes
        stream.expect_opened(seq, partial(self._note_opened, group, handles, seq, serial))
        opening = stream_pb2.Open(seq=seq, group=group.number, model=group.model, batch_size=group.batch_size)
        opening.names.extend(lane.name for lane in lanes)
        opening.handles.extend(handles)
        return Request(open=opening)

    def close_request(self, stream: StepStream) -> Request | None:
        """Gives handles of one group back, where there are some; and the group itself, when they were the last."""
        if not self.given_back:
            return None
        taken = self.given_back[:]
        del self.given_back[: len(taken)]  # Whatever is appended meanwhile stays.
        group = taken[0][0]
        handles = [handle for of, handle in taken if of is group]
        self.given_back.extend(item for item in taken if item[0] is not group)
        for handle in handles:
            group.free(handle)
        close = stream_pb2.Close(seq=stream.next_seq(), group=group.number, handles=handles)
        if group.is_empty and not group.pending and not group.unopened:
            close.ClearField("handles")
            self._forget(group)
        return Request(close=close)

    def forget_all(self) -> tuple[list[Lane], list[LaneGroup]]:
        """The stream has ended. Returns the lanes that waited to be opened, and the groups that it knew."""
        waiting = list(self.opening())
        self._opening.clear()
        self.given_back.clear()
        numbered, self._numbered = self._numbered, {}
        for group in numbered.values():
            group.forget_handles()
        return waiting, list(numbered.values())

    def _forget(self, group: LaneGroup) -> None:
        del self._numbered[group.number]
        group.forget_handles()

    def _note_opened(
        self, group: LaneGroup, handles: list[int], seq: int, serial: int, answer: stream_pb2.Opened | CellServeError
    ) -> None:
        lanes = self._opening.pop(seq, [])
        if isinstance(answer, CellServeError):
            return  # The stream has ended, which is seen to elsewhere.
        if answer.HasField("status"):
            self._refuse(group, lanes, handles, serial, error_of(answer.status))
            return
        errors = {failed.position: error_of(failed.status) for failed in answer.errors}
        opened: list[Lane] = []
        for position, (lane, handle, uid) in enumerate(zip(lanes, handles, answer.uids, strict=True)):
            error = errors.get(position)
            if error is not None:
                group.free(handle)
            elif lane.opening != seq or uid != lane.uid:
                group.give_back(handle)
            if lane.opening != seq:
                continue  # It has left meanwhile.
            lane.opening = 0
            if error is not None:
                tell_error(lane, StepRefused(error))
            elif uid != lane.uid:
                # Somebody else began another life of it; a request of its own is refused in the server's own words.
                tell_error(lane, NotOnStreamError())
            else:
                lane.handle = handle
                opened.append(lane)
        self._on_opened(group, opened)

    def _refuse(
        self, group: LaneGroup, lanes: list[Lane], handles: list[int], serial: int, error: CellServeError
    ) -> None:
        """An Open was refused: what is not for now is for this whole stream, and these sessions step alone."""
        for lane, handle in zip(lanes, handles, strict=True):
            group.free(handle)
            lane.opening = 0
            if is_retryable(error) or isinstance(error, (ModelNotFoundError, SessionMovedError)):
                tell_error(lane, StepRefused(error))
            else:
                lane.alone_on = serial
                tell_error(lane, NotOnStreamError())
        if group.is_empty and group.number:
            # It may be the group itself that was refused: the next Open makes it anew.
            self._forget(group)
