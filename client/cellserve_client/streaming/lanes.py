"""A session's place on the stream, and the groups of those that share a model and a batch size."""

from __future__ import annotations

import asyncio
import weakref
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from cellserve.errors import CellServeError
from cellserve_client.outcomes import was_surely_not_applied
from cellserve_client.streaming.columns import StepBytes, StepColumns

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

NO_HANDLE = -1


class Waiter(Protocol):
    """Who waits for a step: an asyncio future, or a thread."""

    def done(self) -> bool:
        """Whether nobody waits any more: it was told, or has given up."""
        ...

    def set_result(self, result: Any, /) -> None:
        """Tells the outputs."""
        ...

    def set_exception(self, error: Exception, /) -> None:
        """Tells why there are none."""
        ...


class StepRefused(Exception):
    """A step's position was answered with an error; whether to try again is for the caller to decide.

    Attributes:
        error: why.
    """

    def __init__(self, error: CellServeError) -> None:
        super().__init__(error)
        self.error = error


class StreamLeft(StepRefused):
    """The stream has ended or is about to, and the step is to be sent on another replica's.

    Whether it may have been applied is what its lane says, not the error.
    """


class NotOnStreamError(Exception):
    """The stream does not take this session: its step is to be sent alone."""


class Outcome(Enum):
    """What became of a run that nobody waited for."""

    APPLIED = auto()
    NOT_APPLIED = auto()
    UNKNOWN = auto()


class Verdict(NamedTuple):
    """What became of a run, and the session's step count after it where it was applied."""

    outcome: Outcome
    step_count: int = 0


UNKNOWN = Verdict(Outcome.UNKNOWN)
NOT_APPLIED = Verdict(Outcome.NOT_APPLIED)


def verdict_of(error: CellServeError) -> Verdict:
    """What a position's error says of a run that was sent once.

    The server itself answers positions: unlike grpc it means by CANCELLED and DEADLINE_EXCEEDED that the run had
    not begun.
    """
    dropped = error.code.name in ("CANCELLED", "DEADLINE_EXCEEDED")
    return NOT_APPLIED if dropped or was_surely_not_applied(error) else UNKNOWN


class LostRun:
    """A run that was sent and given up before it was answered. It takes its lane's place in the message.

    Attributes:
        run_id: its id.
        waiter: itself: nobody waits.
    """

    __slots__ = ("_told", "run_id", "verdict")

    def __init__(self, run_id: int) -> None:
        self.run_id = run_id
        self.verdict: Verdict | None = None
        self._told: asyncio.Future[None] | None = None

    @property
    def waiter(self) -> LostRun:
        """As of a lane."""
        return self

    def done(self) -> bool:
        """As of a waiter."""
        return True

    def hear(self, verdict: Verdict) -> None:
        """The answer came, or will not come."""
        self.verdict = verdict
        if self._told is not None and not self._told.done():
            self._told.set_result(None)

    async def wait(self, patience_s: float) -> Verdict:
        """What became of it; UNKNOWN when that is not known in time."""
        if self.verdict is None:
            self._told = asyncio.get_running_loop().create_future()
            await asyncio.wait((self._told,), timeout=patience_s)
        return self.verdict or UNKNOWN


class Lane:
    """One session's place on the stream. It carries one run at a time, which is what the fields below are about.

    Attributes:
        name: ``sessions/{id}``.
        uid: the life of the session that runs name.
        step_count: the steps applied, as far as is known.
        group: the sessions of the same model and batch size; None as long as it was never on the stream.
        handle: the session's number on the stream that is up; ``NO_HANDLE``: it has none.
        opening: the number of the ``Open`` under way for it; 0: none.
        alone_on: the number of the stream that does not take it; 0: none.
        data: the inputs.
        waiter: who waits.
        deadline_at: until when, on the connection's clock.
        timeout_s: how long that was from the beginning.
        run_id: that of a run that was sent before; 0: one is drawn.
        may_be_applied: it was sent on a stream that broke.
        late: what came of it when its caller had given up and had not said so yet.
        trace: that its caller is in; None: none that is sampled.
    """

    __slots__ = (
        "__weakref__",
        "alone_on",
        "data",
        "deadline_at",
        "group",
        "handle",
        "late",
        "may_be_applied",
        "name",
        "opening",
        "run_id",
        "step_count",
        "timeout_s",
        "trace",
        "uid",
        "waiter",
    )

    def __init__(self, name: str, uid: str, step_count: int) -> None:
        self.name = name
        self.uid = uid
        self.step_count = step_count
        self.group: LaneGroup | None = None
        self.handle = NO_HANDLE
        self.opening = 0
        self.alone_on = 0
        self.data: StepBytes = b""
        self.waiter: Waiter | None = None
        self.deadline_at = 0.0
        self.timeout_s = 0.0
        self.run_id = 0
        self.may_be_applied = False
        self.late: Verdict | None = None
        self.trace: SpanContext | None = None

    @property
    def is_waited_for(self) -> bool:
        """Whether its caller waits for a step."""
        return self.waiter is not None and not self.waiter.done()

    def hear(self, verdict: Verdict) -> None:
        """As ``LostRun.hear``, before the caller that has given up could say so."""
        self.late = verdict

    def leave(self) -> None:
        """Gives the handle back: the session has another life from now on, or is done with."""
        self.alone_on = 0
        self.opening = 0
        if self.group is not None and self.handle != NO_HANDLE:
            self.group.give_back(self.handle)
            self.handle = NO_HANDLE


def tell_error(lane: Lane, error: Exception) -> None:
    """Tells a lane's caller, if it still waits, why there are no outputs."""
    if lane.waiter is not None and not lane.waiter.done():
        lane.waiter.set_exception(error)


class LaneGroup:
    """The lanes of one model version and batch size.

    Args:
        model: ``models/{model}/versions/{version}``.
        batch_size: as on the wire: 0 without a batch dimension.
        columns: how their steps lie in bytes.
        max_positions: how many steps one message may have.
        given_back: where handles go that are to be closed, with their group. Whoever drops a session without closing
            it appends to it, in whatever thread.

    Attributes:
        number: the group's on the stream that is up; 0: it has none.
        pending: lanes with a step to send, in order.
        unopened: lanes with a step to send that have no handle yet.
    """

    def __init__(
        self,
        model: str,
        batch_size: int,
        columns: StepColumns,
        max_positions: int,
        given_back: list[tuple[LaneGroup, int]],
    ) -> None:
        self.model = model
        self.batch_size = batch_size
        self.columns = columns
        self.max_positions = max_positions
        self.number = 0
        self.pending: dict[Lane, None] = {}
        self.unopened: dict[Lane, None] = {}
        self._lanes: list[weakref.ref[Lane] | None] = []  # by handle
        self._free: list[int] = []
        self._given_back = given_back

    @property
    def is_empty(self) -> bool:
        """Whether no handle is in use on the stream."""
        return len(self._free) == len(self._lanes)

    def allot(self, lane: Lane) -> int:
        """A handle that is not in use on the stream: small numbers."""
        handle = self._free.pop() if self._free else len(self._lanes)
        # A session that is dropped without being closed leaves too.
        reference = weakref.ref(lane, lambda _: self._given_back.append((self, handle)))
        if handle == len(self._lanes):
            self._lanes.append(reference)
        else:
            self._lanes[handle] = reference
        return handle

    def give_back(self, handle: int) -> None:
        """The session under a handle leaves; the server is told with the next message."""
        self._lanes[handle] = None
        self._given_back.append((self, handle))

    def free(self, handle: int) -> None:
        """A handle is not in use any more, and may be allotted again in what is sent from now on."""
        self._lanes[handle] = None
        self._free.append(handle)

    def forget_handles(self) -> None:
        """The stream has ended, or does not know the group: all handles are gone."""
        for reference in self._lanes:
            lane = None if reference is None else reference()
            if lane is not None:
                lane.handle = NO_HANDLE
                lane.opening = 0
        self._lanes = []
        self._free = []
        self.number = 0
        self.unopened.update(self.pending)
        self.pending.clear()
