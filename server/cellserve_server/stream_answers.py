"""What a stream still has to answer: a Steps whose positions get done one by one, or a message that is ready."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from google.rpc import status_pb2

from cellserve.errors import CellServeError, status_of
from cellserve.v1 import stream_pb2
from cellserve_server.columns import StepColumns
from cellserve_server.runs import Run, RunResult

# Positions that one Stepped answers at most: building it holds the event loop up.
PART_POSITIONS = 4096
# What a position takes in a Stepped besides its outputs at most: its number, step count and replay mark.
POSITION_BYTES = 32

Entry = TypeVar("Entry")


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

    def take(self, limit_bytes: int) -> tuple[stream_pb2.StreamStepsResponse, bool]:
        """As ``Outgoing.take``."""
        return self._message, True


class PendingSteps:
    """A Steps under way. Every position is answered exactly once, in parts and in any order.

    Args:
        seq, group: of the Steps.
        columns: how the group's outputs lie in bytes.
        positions: how many there are, at least 1.
        size_bytes: of the inputs and outputs.
        on_ready: called with it when there is something to take and there was nothing before.
        on_error: called with the error of each position that fails.
    """

    def __init__(
        self,
        seq: int,
        group: int,
        columns: StepColumns,
        positions: int,
        size_bytes: int,
        on_ready: Callable[[PendingSteps], None],
        on_error: Callable[[CellServeError], None],
    ) -> None:
        self.seq = seq
        self.group = group
        self.size_bytes = size_bytes
        self._columns = columns
        self.positions = positions
        self._left = positions
        self._on_ready = on_ready
        self._on_error = on_error
        self._runs: dict[int, Run] = {}
        self._done: deque[tuple[int, RunResult]] = deque()
        self._failed: deque[tuple[int, CellServeError]] = deque()

    @property
    def ready(self) -> bool:
        """Whether ``take`` has something."""
        return bool(self._done or self._failed)

    def add(self, position: int, run: Run) -> None:
        """A run that is about to be submitted; its ``on_done`` is to call ``finish``."""
        self._runs[position] = run

    def finish(self, position: int, run: Run) -> None:
        """A run is over."""
        if run.error is not None:
            self.fail(position, run.error)
            return
        assert run.result is not None, "a run that is done has a result or an error"
        was_ready = self.ready
        # The result alone: the inputs are not needed any more.
        self._runs.pop(position, None)
        self._done.append((position, run.result))
        if not was_ready:
            self._on_ready(self)

    def fail(self, position: int, error: CellServeError) -> None:
        """A position has failed, before or after it became a run."""
        was_ready = self.ready
        self._on_error(error)
        self._runs.pop(position, None)
        self._failed.append((position, error))
        if not was_ready:
            self._on_ready(self)

    def cancel(self, positions: Iterable[int] | None) -> None:
        """Takes runs back that have not begun; None: all. Positions without a run are passed over."""
        for position in list(self._runs) if positions is None else positions:
            run = self._runs.get(position)
            if run is not None:
                run.cancel()

    def take(self, limit_bytes: int) -> tuple[stream_pb2.StreamStepsResponse, bool]:
        """As ``Outgoing.take``."""
        room = max(1, min(PART_POSITIONS, limit_bytes // (self._columns.output_bytes + POSITION_BYTES)))
        done = sorted(_pop(self._done, room), key=lambda entry: entry[0])
        stepped = stream_pb2.Stepped(seq=self.seq, group=self.group)
        stepped.step_counts.extend(result.step_count for _, result in done)
        stepped.outputs.extend(self._columns.join([result for _, result in done]) if done else ())
        stepped.replayed.extend(position for position, result in done if result.replayed)
        if len(done) < self.positions:  # Otherwise it is all of them, which goes without saying.
            stepped.positions.extend(position for position, _ in done)
        left_bytes = limit_bytes - len(done) * (self._columns.output_bytes + POSITION_BYTES)
        failed = self._take_errors(stepped, left_bytes) if left_bytes > 0 or not done else 0
        self._left -= len(done) + failed
        return stream_pb2.StreamStepsResponse(stepped=stepped), self._left == 0

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


def _pop(entries: deque[Entry], count: int) -> list[Entry]:
    return [entries.popleft() for _ in range(min(count, len(entries)))]
