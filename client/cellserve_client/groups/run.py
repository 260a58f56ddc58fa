"""One step of many members of a session group: cut into messages, sent, sent again where it has to be, put together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np

from cellserve.errors import CellServeError, error_of
from cellserve.tensors import Array
from cellserve.v1 import stream_pb2
from cellserve_client.deadlines import Deadline
from cellserve_client.retry import Retrier, is_retryable
from cellserve_client.streaming.columns import StepColumns, draw_run_ids
from cellserve_client.streaming.lanes import Outcome, verdict_of
from cellserve_client.streaming.stream import Request, StepStream

# Messages of one group under way at once: the server works on some while others are made or read here.
MAX_MESSAGES = 4
# What became of a position so far.
UNANSWERED, APPLIED, REFUSED, UNKNOWN = 0, 1, 2, 3


class GroupRun:
    """A step of some members.

    Args:
        columns: the group's layout.
        members: their indices, int64 ``[n]``; the positions of the arrays below are those of this one.
        expected: the step counts of these members, int64 ``[n]``.
        inputs: the packed inputs, one array of bytes ``[n, bytes]`` for each input of the model.
        chunk: the positions of one message.

    Attributes:
        members: as given.
        run_ids: uint64 ``[n]``.
        outputs: one array for each output of the model, ``[n, ...]``; zeros where there is none.
        step_counts: after the step where it was applied, int64 ``[n]``.
        outcome: what became of each, uint8 ``[n]``.
        errors: of the positions that were refused.
        quiet: whether nothing of it is under way.
    """

    def __init__(self, columns: StepColumns, members: Array, expected: Array, inputs: list[Array], chunk: int) -> None:
        count = len(members)
        self.members = members
        self.run_ids = draw_run_ids(count)
        self.outputs = columns.empty(count)
        self.step_counts = expected.copy()
        self.outcome = np.zeros(count, np.uint8)
        self.errors: dict[int, CellServeError] = {}
        self._may_be_applied = np.zeros(count, bool)
        self._columns = columns
        self._expected = expected
        self._inputs = inputs
        self._chunk = chunk
        self._under_way: dict[int, _Message] = {}
        self._broken: CellServeError | None = None
        self._stream: StepStream | None = None
        self._group = 0
        self._progress: asyncio.Future[None] | None = None

    @property
    def quiet(self) -> bool:
        """Whether nothing of it is under way."""
        return not self._under_way

    async def execute(
        self,
        ready: Callable[[], Awaitable[tuple[StepStream, int]]],
        retrier: Retrier,
        sleep: Callable[[float], Awaitable[None]],
        deadline: Deadline,
    ) -> None:
        """Sends it until every position is answered, is not worth repeating, or the time is over.

        Args:
            ready: gives a stream on which the members are open, and the group's number there.
            retrier, sleep: of the connection.
            deadline: of the whole.

        Raises:
            CellServeError: no stream can be had. Otherwise what became of each position is in ``outcome``.
        """
        todo = np.arange(len(self.members))
        attempt = 0
        while True:
            self._broken = None
            stream, group = await ready()
            await self._send(stream, group, todo, deadline)
            todo, error = self._to_repeat()
            if error is None:
                return
            attempt = 1 if self._broken is not None and stream.has_stepped else attempt + 1
            delay_s = retrier.delay_s(error, attempt, deadline.remaining_s())
            if delay_s is None:
                self._fail(todo, error)
                return
            await sleep(delay_s)
            for position in todo.tolist():
                self.errors.pop(position, None)
            self.outcome[todo] = UNANSWERED

    async def _send(self, stream: StepStream, group: int, todo: Array, deadline: Deadline) -> None:
        self._stream, self._group = stream, group
        parts = _even_parts(todo, self._chunk)
        while (parts or self._under_way) and self._broken is None:
            if parts and len(self._under_way) < MAX_MESSAGES:
                self._send_part(stream, group, parts.pop(0), deadline)
                continue
            self._progress = asyncio.get_running_loop().create_future()
            await self._progress

    def _send_part(self, stream: StepStream, group: int, positions: Array, deadline: Deadline) -> None:
        message = _Message(self, stream.next_seq(), positions)
        request = Request()
        steps = request.steps
        steps.seq, steps.group = message.seq, group
        steps.handles.extend(self.members[positions].tolist())
        steps.expected_steps.extend(self._expected[positions].tolist())
        steps.run_ids.extend(self.run_ids[positions].tolist())
        timeout_ms = max(int(deadline.remaining_s() * 1000) + 1, 1)
        steps.timeouts_ms.extend([timeout_ms] * len(positions))
        steps.inputs.extend(_rows(column, positions).tobytes() for column in self._inputs)
        self._under_way[message.seq] = message
        stream.expect(message.seq, message)
        stream.send(request)

    def _to_repeat(self) -> tuple[Array, CellServeError | None]:
        """The positions to send again, and why; nothing when all is said."""
        if self._broken is not None:
            return np.flatnonzero(self.outcome == UNANSWERED), self._broken
        again = [position for position, error in self.errors.items() if is_retryable(error)]
        if not again:
            return np.empty(0, np.int64), None
        return np.array(sorted(again)), self.errors[again[0]]

    def _fail(self, positions: Array, error: CellServeError) -> None:
        for position in positions.tolist():
            self.errors.setdefault(position, error)
            if self.outcome[position] == UNANSWERED:
                self.outcome[position] = UNKNOWN

    # --- answers --------------------------------------------------------------------------------------------------

    def note_applied(self, positions: Array, message: stream_pb2.Stepped) -> None:
        """Some positions were applied."""
        for whole, part in zip(self.outputs, self._columns.arrays(message.outputs, len(positions)), strict=True):
            whole[_span(positions)] = part
        self.step_counts[positions] = message.step_counts
        self.outcome[positions] = APPLIED

    def note_refused(self, position: int, error: CellServeError) -> None:
        """A position was refused."""
        self.errors[position] = error
        is_sure = verdict_of(error).outcome is Outcome.NOT_APPLIED and not self._may_be_applied[position]
        self.outcome[position] = REFUSED if is_sure else UNKNOWN
        self._may_be_applied[position] = not is_sure

    def note_end(self, seq: int, positions: Array, error: CellServeError | None) -> None:
        """The message of these positions was answered to its end, or the stream broke."""
        if error is not None:
            self._may_be_applied[positions[self.outcome[positions] == UNANSWERED]] = True
        self._under_way.pop(seq, None)
        self._broken = self._broken or error
        if self._progress is not None and not self._progress.done():
            self._progress.set_result(None)

    def give_up(self) -> None:
        """Nobody waits any more: what has not begun is taken back. Answers are still noted."""
        for message in self._under_way.values():
            if self._stream is not None and not self._stream.is_over:
                cancel = stream_pb2.Cancel(seq=message.seq, group=self._group)
                self._stream.send_first(Request(cancel=cancel))

    async def wait_quiet(self, patience_s: float) -> None:
        """Waits a little until everything is answered."""
        loop = asyncio.get_running_loop()
        until = loop.time() + patience_s
        while self._under_way and (left_s := until - loop.time()) > 0:
            self._progress = loop.create_future()
            await asyncio.wait((self._progress,), timeout=left_s)

    def take_over(self, positions: Array, repeated: GroupRun) -> None:
        """Some positions, all refused, were run again: what came of that counts."""
        for whole, part in zip(self.outputs, repeated.outputs, strict=True):
            whole[positions] = part
        for column in ("step_counts", "outcome", "run_ids"):
            getattr(self, column)[positions] = getattr(repeated, column)
        for position in positions.tolist():
            del self.errors[position]
        self.errors.update((int(positions[index]), error) for index, error in repeated.errors.items())

    def spread(self, members: Array, positions: Array) -> GroupRun:
        """The same among more members, of which the others were not run: a run that is over."""
        wider = GroupRun(self._columns, members, np.zeros(len(members), np.int64), [], self._chunk)
        for whole, part in zip(wider.outputs, self.outputs, strict=True):
            whole[positions] = part
        wider.outcome[positions] = self.outcome
        return wider

    def not_applied(self) -> None:
        """What was never sent was surely not applied: called when nothing is under way."""
        never = (self.outcome == UNANSWERED) & ~self._may_be_applied
        self.outcome[never] = REFUSED


class _Message:
    """One ``Steps`` of a run."""

    def __init__(self, run: GroupRun, seq: int, positions: Array) -> None:
        self.seq = seq
        self._run = run
        self._positions = positions
        self._left = len(positions)

    def stepped(self, message: stream_pb2.Stepped) -> bool:
        """As ``Sink.stepped``."""
        if message.HasField("status"):
            error = error_of(message.status)
            for position in self._positions.tolist():
                self._run.note_refused(position, error)
            self._left = 0
        elif not message.positions and not message.errors:
            self._run.note_applied(self._positions, message)
            self._left = 0
        else:
            if message.positions:
                self._run.note_applied(self._positions[np.array(message.positions)], message)
            for failed in message.errors:
                self._run.note_refused(int(self._positions[failed.position]), error_of(failed.status))
            self._left -= len(message.positions) + len(message.errors)
        if self._left == 0:
            self._run.note_end(self.seq, self._positions, None)
        return self._left == 0

    def broken(self, error: CellServeError) -> None:
        """As ``Sink.broken``."""
        self._run.note_end(self.seq, self._positions, error)


def _even_parts(positions: Array, most: int) -> list[Array]:
    count = -(-len(positions) // most)
    return list(np.array_split(positions, count)) if count else []


def _span(positions: Array) -> slice | Array:
    """The same positions as a slice where they follow one another: that copies in one go."""
    if len(positions) and positions[-1] - positions[0] == len(positions) - 1:
        return slice(int(positions[0]), int(positions[-1]) + 1)
    return positions


def _rows(column: Array, positions: Array) -> Array:
    rows: Array = column[_span(positions)]
    return rows
