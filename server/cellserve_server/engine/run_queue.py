"""How much work is under way, and who waits for room."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple

from cellserve.errors import QueueFullError
from cellserve_server.config import ServerConfig

# Streams, which wait for room, leave a part of the queue to those who send single calls, which are refused.
STREAM_SHARE = 0.75


class _Turn(NamedTuple):
    """Somebody who waits for room."""

    granted: asyncio.Future[None]
    runs: int
    size_bytes: int


class RunQueue:
    """Counts the runs under way (the steps of blocks among them) and their bytes, within limits.

    Args:
        config: the limits.

    Attributes:
        runs: that wait or are under way.
        size_bytes: of their inputs, outputs and working states.
        idle: set while there is none.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.runs = 0
        self.size_bytes = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self._config = config
        self._line: deque[_Turn] = deque()
        self._is_granted = False  # Somebody has room and has not used it yet.
        self._is_closed = False
        self.stream_runs = int(config.max_queued_runs * STREAM_SHARE)
        self.stream_bytes = int(config.max_queued_bytes * STREAM_SHARE)

    def add(self, runs: int, size_bytes: int) -> None:
        """So many runs are under way from now on."""
        self.runs += runs
        self.size_bytes += size_bytes
        self.idle.clear()

    def remove(self, runs: int, size_bytes: int) -> None:
        """So many are over."""
        self.runs -= runs
        self.size_bytes -= size_bytes
        if not self.runs:
            self.idle.set()
        if self._line:
            self._grant()

    def require_room(self, size_bytes: int) -> None:
        """Refuses one run more when the queue is full. Where there is none, any is taken.

        Raises:
            QueueFullError: with what there is and what the limits are.
        """
        most_runs, most_bytes = self._config.max_queued_runs, self._config.max_queued_bytes
        if self._line:
            # Streams wait. Calls that fill up whatever becomes free would have them wait for ever.
            most_runs, most_bytes = max(most_runs - self.stream_runs, 1), max(most_bytes - self.stream_bytes, 1)
        if self.runs and (self.runs >= most_runs or self.size_bytes + size_bytes > most_bytes):
            raise self.full(f"{self.runs} of {most_runs} runs, {self.size_bytes} of {most_bytes} bytes")

    def full(self, how: str) -> QueueFullError:
        """What is told where there is no room."""
        return QueueFullError(f"the queue is full: {how}", retry_after_s=self._config.queue_full_retry_ms / 1000)

    async def wait_for_room(self, runs: int, size_bytes: int) -> None:
        """Waits until a stream may add so many runs, which it is to do at once; those who came before come first.

        Returns at once when the queue is closed: adding is refused then.
        """
        if self._is_closed or (not self._line and self._has_stream_room(runs, size_bytes)):
            return
        turn = _Turn(asyncio.get_running_loop().create_future(), runs, size_bytes)
        self._line.append(turn)
        try:
            await turn.granted
        finally:
            if turn in self._line:
                self._line.remove(turn)
            else:
                self._is_granted = False
            # After what the one who goes on now adds.
            asyncio.get_running_loop().call_soon(self._grant)

    def close(self) -> None:
        """Nobody waits for room any more: the server stops."""
        self._is_closed = True
        self._grant()

    def _has_stream_room(self, runs: int, size_bytes: int) -> bool:
        return not self.runs or (
            self.runs + runs <= self.stream_runs and self.size_bytes + size_bytes <= self.stream_bytes
        )

    def _grant(self) -> None:
        if self._is_granted or not self._line:
            return
        first = self._line[0]
        if self._is_closed or self._has_stream_room(first.runs, first.size_bytes):
            self._line.popleft()
            self._is_granted = True
            if not first.granted.done():
                first.granted.set_result(None)
