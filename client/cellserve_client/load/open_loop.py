"""An open loop: requests are due by a schedule, whether or not the server keeps up with it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator

import numpy as np

from cellserve_client.load.caller import Caller
from cellserve_client.load.clock import LAST_ANSWERS_S, LoadClock
from cellserve_client.load.plan import Arrivals
from cellserve_client.load.recorder import Recorder
from cellserve_client.load.stages import Level

# Requests that wait for a session; those that come when there are so many are given up.
MAX_WAITING = 200_000
NOT_SENT = "NOT_SENT"
# Requests that are due, and put into the queue, before others get their turn.
MOST_AT_ONCE = 64


def due_times(level: Level, arrivals: Arrivals, part: int, parts: int, random: np.random.Generator) -> Iterator[float]:
    """When the requests of one process are due, in seconds since the test began, until its end.

    Args:
        level: requests a second of all processes together.
        part: the number of this process, from 0, of so many.
        random: of this process.
    """
    # Independent Poisson streams together are one of the sum of their rates; even ones take turns.
    count = part + 0.5 if arrivals == "constant" else parts * random.exponential()
    while (time_s := level.time_of(count)) is not None:
        yield time_s
        count += parts if arrivals == "constant" else parts * random.exponential()


class OpenLoop:
    """The schedule of one process, and its pool of sessions.

    A request that is due goes to a session that is free, and waits for one otherwise: its latency runs from when it was
    due. When the test ends those that wait are still sent, for as long as answers are waited for.

    Args:
        callers: as many as there may be at once.
        first: how many of them there are from the beginning; others come when all are busy.
        clock: of the test.
        due: when requests are due, in the clock's seconds.
        recorder: told of them.
        kind: as what a request counts that is not sent.
    """

    def __init__(
        self,
        callers: list[Caller],
        first: int,
        clock: LoadClock,
        due: Iterator[float],
        recorder: Recorder,
        kind: str,
    ) -> None:
        self._callers = callers
        self._first = first
        self._clock = clock
        self._due = due
        self._recorder = recorder
        self._kind = kind
        self._waiting: deque[float] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._is_over = False

    async def run(self) -> None:
        """Sends until the end of the test, and waits for the last answers."""
        try:
            await self._send_all()
        finally:
            while self._waiting:
                self._give_up(self._waiting.popleft())

    async def _send_all(self) -> None:
        async with asyncio.TaskGroup() as group:
            started = [group.create_task(self._send(caller)) for caller in self._callers[: self._first]]
            for number, moment in enumerate(self._due):
                if moment > self._clock.now():
                    await self._clock.until(moment)
                elif number % MOST_AT_ONCE == 0:
                    await asyncio.sleep(0)  # Answers are to be read, even if the schedule alone is too much.
                if self._clock.is_stopped:
                    break
                self._recorder.offered(moment)
                if len(self._waiting) >= MAX_WAITING:
                    self._give_up(moment)
                    continue
                self._waiting.append(moment)
                if self._idle:
                    self._wake_one()
                elif len(started) < len(self._callers):
                    started.append(group.create_task(self._send(self._callers[len(started)])))
            self._is_over = True
            while self._idle:
                self._wake_one()

    async def _send(self, caller: Caller) -> None:
        """One session's part of the requests."""
        while self._clock.now() < self._clock.end + LAST_ANSWERS_S:
            if not await caller.open():
                if self._is_over or self._clock.is_stopped:  # After that ``open`` fails at once, without any pause.
                    return
            elif self._waiting:
                await caller.request(self._waiting.popleft())
            elif self._is_over:
                return
            else:
                idle = asyncio.get_running_loop().create_future()
                self._idle.append(idle)
                await idle

    def _wake_one(self) -> None:
        """Has a session look that has nothing to do; unless its task was cancelled meanwhile."""
        idle = self._idle.popleft()
        if not idle.done():
            idle.set_result(None)

    def _give_up(self, due: float) -> None:
        self._recorder.failed(self._kind, NOT_SENT, due, self._clock.now())
