"""A closed loop: each session sends its next request when the last one is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cellserve_client.load.caller import PAUSE_AFTER_ERROR_S, Caller
from cellserve_client.load.clock import LoadClock
from cellserve_client.load.distributions import Distribution

# How often the number of sessions is looked at, which stages and ramps change.
LEVEL_INTERVAL_S = 0.05


class ClosedLoop:
    """The sessions of one process.

    Args:
        callers: as many as there may be at once.
        clock: of the test.
        level: how many there are to be, so many seconds after the test began.
        thinking: seconds between an answer and the session's next request.
    """

    def __init__(
        self, callers: list[Caller], clock: LoadClock, level: Callable[[float], int], thinking: Distribution
    ) -> None:
        self._callers = callers
        self._clock = clock
        self._level = level
        self._thinking = None if thinking.is_zero else thinking
        self._wanted = 0
        self._running: dict[int, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Sends until the end of the test, and waits for the last answers."""
        # A group waits for all its tasks, even when it is interrupted.
        async with asyncio.TaskGroup() as group:
            while not self._clock.is_over:
                before, self._wanted = self._wanted, self._level(self._clock.now() - self._clock.began)
                for index in range(before, self._wanted):
                    if index not in self._running or self._running[index].done():
                        self._running[index] = group.create_task(self._send(index))
                await self._clock.pause(LEVEL_INTERVAL_S)

    async def _send(self, index: int) -> None:
        """The requests of one session, as long as there are to be so many."""
        caller, clock = self._callers[index], self._clock
        while not clock.is_over:
            if index >= self._wanted:
                await caller.close()
                if index >= self._wanted:  # It may be wanted again meanwhile.
                    return
            if not await caller.open() or clock.is_over:
                continue
            if not await caller.request(None):
                await clock.pause(PAUSE_AFTER_ERROR_S)
            elif self._thinking is not None:
                await clock.pause(self._thinking.draw(caller.random))
