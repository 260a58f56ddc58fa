"""What a stream still has to answer: a Steps whose positions get done in parts, or a message that is ready."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from google.rpc import status_pb2

from cellserve.errors import CellServeError, status_of
from cellserve.tensors import Array
from cellserve.v1 import stream_pb2
from cellserve_server.edge.columns import StepColumns
from cellserve_server.engine.blocks import StepBlock
from cellserve_server.engine.runs import Run, cancelled_error

if TYPE_CHECKING:
    from cellserve_server.tracing.steps import StepsTrace

# Positions that one Stepped answers at most: building it holds the event loop up.
PART_POSITIONS = 4096
# What a position takes in a Stepped besides its outputs at most: its number, step count and replay mark.
POSITION_BYTES = 32


class Outgoing(Protocol):
    """An answer to one message of the client.

    Attributes:
        size_bytes: what waiting for it, and holding it, takes.
        positions: the steps that it answers.
        ready: whether ``take`` has something now.
    """

    @property
    def size_bytes(self) -> int: ...

    @property
    def positions(self) -> int: ...

    @property
    def ready(self) -> bool: ...

    def take(self, limit_bytes: int) -> tuple[stream_pb2.StreamStepsResponse, bool]:
        """The next part of the answer, of about ``limit_bytes`` at most, and whether it is the last one."""
        ...


class Answer:
    """An answer that is ready as it is."""

    def __init__(self, message: stream_pb2.StreamStepsResponse) -> None:
        self._message = message
        self.size_bytes = message.ByteSize()
        self.positions = 0
        self.ready = True

    def amend(self, message: stream_pb2.StreamStepsResponse) -> None:
        """It is another one by now; what it counts for stays."""
        self._message = message

    def take(self, limit_bytes: int) -> tuple[stream_pb2.StreamStepsResponse, bool]:
        """As ``Outgoing.take``."""
        return self._message, True


class _Done(NamedTuple):
    """Positions that were stepped together: ascending, with their sessions' step counts, and a column an output."""

    positions: Array
    step_counts: Array
    outputs: Sequence[bytes]


class PendingSteps:
    """A Steps under way: the sink of its blocks. Every position is answered exactly once, in parts and in any order.

    Args:
        seq, group: of the Steps.
        columns: how the group's outputs lie in bytes.
        positions: how many there are, at least 1.
        on_ready: called with it when there is something to take and there was nothing before.
        on_error: called with the error of each position that fails.
        tracing: the spans of those positions whose callers are traced; None: there are none.
    """

    def __init__(
        self,
        seq: int,
        group: int,
        columns: StepColumns,
        positions: int,
        on_ready: Callable[[PendingSteps], None],
        on_error: Callable[[CellServeError], None],
        tracing: StepsTrace | None = None,
    ) -> None:
        self.seq = seq
        self.group = group
        self.positions = positions
        self.size_bytes = positions * (columns.input_bytes + columns.output_bytes)
        self._columns = columns
        self._left = positions
        self._on_ready = on_ready
        self._on_error = on_error
        self._tracing = tracing
        self._block: StepBlock | None = None
        self._runs: dict[int, Run] = {}
        self._done: deque[_Done] = deque()
        self._replayed: set[int] = set()
        self._failed: deque[tuple[int, CellServeError]] = deque()

    @property
    def ready(self) -> bool:
        """Whether ``take`` has something."""
        return bool(self._done or self._failed)

    # --- what becomes of its positions -------------------------------------------------------------------------------

    def add_block(self, block: StepBlock) -> None:
        """The positions that are about to be submitted as a block."""
        self._block = block
        if self._tracing is not None:
            self._tracing.follow_block(block)

    def add_run(self, position: int, run: Run) -> None:
        """A run that is about to be submitted; its ``on_done`` is to call ``finish``."""
        self._runs[position] = run
        if self._tracing is not None:
            self._tracing.follow_run(position, run)

    def stepped(self, positions: Array, step_counts: Array, outputs: Sequence[Array]) -> None:
        """As ``StepSink.stepped``."""
        was_ready = self.ready
        if self._tracing is not None:
            self._tracing.answered(positions)
        self._done.append(_Done(positions, step_counts, self._columns.encode(outputs)))
        if not was_ready:
            self._on_ready(self)

    def finish(self, position: int, run: Run) -> None:
        """A run is over."""
        self._runs.pop(position, None)  # Its inputs are not needed any more.
        if run.error is not None:
            self.fail(position, run.error)
            return
        assert run.result is not None, "a run that is done has a result or an error"
        if run.result.replayed:
            self._replayed.add(position)
        self.stepped(np.array([position]), np.array([run.result.step_count]), run.result.outputs)

    def fail(self, position: int, error: CellServeError) -> None:
        """A position has failed, before or after it was submitted."""
        was_ready = self.ready
        if self._tracing is not None:
            self._tracing.failed(position, error)
        self._on_error(error)
        self._failed.append((position, error))
        if not was_ready:
            self._on_ready(self)

    def cancel(self, positions: Iterable[int] | None) -> None:
        """Takes steps back that have not begun; None: all. Positions that are done are passed over."""
        wanted = None if positions is None else list(positions)
        if self._block is not None:
            self._block.cancel(cancelled_error(), wanted)
        for position in list(self._runs) if wanted is None else wanted:
            run = self._runs.get(position)
            if run is not None:
                run.cancel()

    # --- what is answered --------------------------------------------------------------------------------------------

    def take(self, limit_bytes: int) -> tuple[stream_pb2.StreamStepsResponse, bool]:
        """As ``Outgoing.take``."""
        room = max(1, min(PART_POSITIONS, limit_bytes // (self._columns.output_bytes + POSITION_BYTES)))
        stepped = stream_pb2.Stepped(seq=self.seq, group=self.group)
        count = 0
        if self._done:
            done = self._take_done(room)
            count = len(done.positions)
            stepped.step_counts.extend(done.step_counts.tolist())
            stepped.outputs.extend(done.outputs)
            if count < self.positions:  # Otherwise it is all of them, which goes without saying.
                stepped.positions.extend(done.positions.tolist())
            if self._replayed:
                stepped.replayed.extend(position for position in done.positions.tolist() if position in self._replayed)
        left_bytes = limit_bytes - count * (self._columns.output_bytes + POSITION_BYTES)
        failed = self._take_errors(stepped, left_bytes) if left_bytes > 0 or not count else 0
        self._left -= count + failed
        return stream_pb2.StreamStepsResponse(stepped=stepped), self._left == 0

    def _take_done(self, room: int) -> _Done:
        """The positions that are done, at most so many, ascending."""
        if len(self._done) == 1 and len(self._done[0].positions) <= room:
            return self._done.popleft()
        taken: list[_Done] = []
        count = 0
        while self._done and count < room:
            first = self._done.popleft()
            if count + len(first.positions) > room:
                first, rest = self._split(first, room - count)
                self._done.appendleft(rest)
            taken.append(first)
            count += len(first.positions)
        return self._merged(taken)

    def _split(self, done: _Done, count: int) -> tuple[_Done, _Done]:
        cuts = [count * size for size in self._columns.output_sizes]
        first = [column[:cut] for column, cut in zip(done.outputs, cuts, strict=True)]
        rest = [column[cut:] for column, cut in zip(done.outputs, cuts, strict=True)]
        return (
            _Done(done.positions[:count], done.step_counts[:count], first),
            _Done(done.positions[count:], done.step_counts[count:], rest),
        )

    def _merged(self, parts: Sequence[_Done]) -> _Done:
        positions = np.concatenate([part.positions for part in parts])
        step_counts = np.concatenate([part.step_counts for part in parts])
        columns = [b"".join(column) for column in zip(*(part.outputs for part in parts), strict=True)]
        if np.all(positions[1:] > positions[:-1]):
            return _Done(positions, step_counts, columns)
        order = np.argsort(positions)
        columns = [
            np.frombuffer(column, np.uint8).reshape(len(positions), size)[order].tobytes()
            for column, size in zip(columns, self._columns.output_sizes, strict=True)
        ]
        return _Done(positions[order], step_counts[order], columns)

    def _take_errors(self, stepped: stream_pb2.Stepped, limit_bytes: int) -> int:
        packed: dict[int, status_pb2.Status] = {}  # Many positions may share one error object.
        used = count = 0
        while self._failed and count < PART_POSITIONS and used < limit_bytes:
            position, error = self._failed.popleft()
            status = packed.get(id(error))
            if status is None:
                status = packed[id(error)] = status_of(error)
            stepped.errors.add(position=position, status=status)
            used += status.ByteSize() + POSITION_BYTES
            count += 1
        return count
