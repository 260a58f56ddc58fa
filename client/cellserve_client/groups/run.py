"""One step of many members of a session group: cut into messages, sent to where they are, put together."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np

from cellserve.errors import CellServeError, error_of
from cellserve.tensors import Array
from cellserve.v1 import stream_pb2
from cellserve_client.deadlines import Deadline
from cellserve_client.streaming.columns import StepColumns, draw_run_ids
from cellserve_client.streaming.lanes import Outcome, verdict_of
from cellserve_client.streaming.stream import Request, StepStream

if TYPE_CHECKING:
    from cellserve_client.tracing import Tracing

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
        self._under_way: set[_Message] = set()
        self._quiet: asyncio.Future[None] | None = None

    @property
    def quiet(self) -> bool:
        """Whether nothing of it is under way."""
        return not self._under_way

    async def send(
        self,
        stream: StepStream,
        group: int,
        positions: Array,
        deadline: Deadline,
        tracing: Tracing | None,
    ) -> CellServeError | None:
        """Sends some positions on a stream on which they are open, and waits for what comes of them.

        Args:
            stream: on which.
            group: the group's number there.
            positions: which; all of one place.
            deadline: of the whole.
            tracing: tells which trace the caller is in; None: nobody traces.

        Returns:
            Why the stream broke, if it did: then some of the positions may have no outcome.
        """
        part = _Part(stream, group, tracing)
        for position in positions.tolist():
            self.errors.pop(position, None)
        self.outcome[positions] = UNANSWERED
        parts = _even_parts(positions, self._chunk)
        while (parts or part.under_way) and part.broken is None:
            if parts and part.under_way < MAX_MESSAGES:
                self._send_part(part, parts.pop(0), deadline)
                continue
            part.progress = asyncio.get_running_loop().create_future()
            await part.progress
        return part.broken

    def _send_part(self, part: _Part, positions: Array, deadline: Deadline) -> None:
        stream = part.stream
        message = _Message(self, part, stream.next_seq(), positions)
        request = Request()
        steps = request.steps
        steps.seq, steps.group = message.seq, part.group
        steps.handles.extend(self.members[positions].tolist())
        steps.expected_steps.extend(self._expected[positions].tolist())
        steps.run_ids.extend(self.run_ids[positions].tolist())
        timeout_ms = max(int(deadline.remaining_s() * 1000) + 1, 1)
        steps.timeouts_ms.extend([timeout_ms] * len(positions))
        steps.inputs.extend(_rows(column, positions).tobytes() for column in self._inputs)
        tracing = part.tracing
        if tracing is not None:
            tracing.mark(steps, [tracing.of_caller()])  # One caller has them all stepped: the first stands for them.
        self._under_way.add(message)
        part.under_way += 1
        stream.expect(message.seq, message)
        stream.send(request)

    def unanswered(self, positions: Array) -> Array:
        """Those without an outcome."""
        without: Array = positions[self.outcome[positions] == UNANSWERED]
        return without

    def fail(self, positions: Array, errors: dict[int, CellServeError]) -> None:
        """They are not tried again: why, by position."""
        for position in positions.tolist():
            self.errors[position] = errors[position]
            if self.outcome[position] == UNANSWERED:
                self.outcome[position] = UNKNOWN if self._may_be_applied[position] else REFUSED

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

    def note_end(self, message: _Message, positions: Array, error: CellServeError | None) -> None:
        """The message of these positions was answered to its end, or the stream broke."""
        if error is not None:
            self._may_be_applied[positions[self.outcome[positions] == UNANSWERED]] = True
        self._under_way.discard(message)
        if self._quiet is not None and not self._under_way and not self._quiet.done():
            self._quiet.set_result(None)

    def give_up(self) -> None:
        """Nobody waits any more: what has not begun is taken back. Answers are still noted."""
        for message in self._under_way:
            message.cancel()

    async def wait_quiet(self, patience_s: float) -> None:
        """Waits a little until everything is answered."""
        if self._under_way:
            self._quiet = asyncio.get_running_loop().create_future()
            await asyncio.wait((self._quiet,), timeout=patience_s)

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


class _Part:
    """What of a run is sent on one stream, in one go.

    Attributes:
        under_way: how many of its messages are.
        broken: why the stream has ended; None: it has not.
        progress: told when one of them is answered to its end, or the stream has ended.
    """

    def __init__(self, stream: StepStream, group: int, tracing: Tracing | None) -> None:
        self.stream = stream
        self.group = group
        self.tracing = tracing
        self.under_way = 0
        self.broken: CellServeError | None = None
        self.progress: asyncio.Future[None] | None = None

    def note_end(self, error: CellServeError | None) -> None:
        """One of its messages is over."""
        self.under_way -= 1
        self.broken = self.broken or error
        if self.progress is not None and not self.progress.done():
            self.progress.set_result(None)


class _Message:
    """One ``Steps`` of a run."""

    def __init__(self, run: GroupRun, part: _Part, seq: int, positions: Array) -> None:
        self.seq = seq
        self._run = run
        self._part = part
        self._positions = positions
        self._left = len(positions)

    def cancel(self) -> None:
        """Takes back what of it has not begun."""
        stream = self._part.stream
        if not stream.is_over:
            stream.send_first(Request(cancel=stream_pb2.Cancel(seq=self.seq, group=self._part.group)))

    def _end(self, error: CellServeError | None) -> None:
        self._run.note_end(self, self._positions, error)
        self._part.note_end(error)

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
            self._end(None)
        return self._left == 0

    def broken(self, error: CellServeError) -> None:
        """As ``Sink.broken``."""
        self._end(error)


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
