"""The time of a load test, the same in all its processes, and its end, which may come earlier than was planned."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time

# How long the answers of the last requests are waited for: a server that is lost would be asked again for much longer.
LAST_ANSWERS_S = 5.0
SHORTEST_TIMEOUT_S = 0.01


class LoadClock:
    """When the test began and when it ends, in seconds of this machine's monotonic clock.

    Args:
        before_s: how long requests are sent before they are measured.
        measured_s: how long they are measured.

    Attributes:
        began: when requests began to be sent; infinity before ``begin``.
        measure_from: requests that are due from then on are measured.
        end: from when on none is sent.
    """

    def __init__(self, before_s: float, measured_s: float) -> None:
        self.began = self.measure_from = self.end = math.inf
        self._before_s = before_s
        self._measured_s = measured_s
        self._stopped = asyncio.Event()

    def begin(self, moment: float) -> None:
        """The test begins then."""
        self.began = moment
        self.measure_from = moment + self._before_s
        self.end = self.measure_from + self._measured_s
        if self._stopped.is_set():
            self.end = min(self.end, self.now())

    @staticmethod
    def now() -> float:
        """The clock."""
        return time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether no more requests are to be sent."""
        return time.monotonic() >= self.end

    @property
    def is_stopped(self) -> bool:
        """Whether it was ended before its time."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Ends the test now."""
        self.end = min(self.end, time.monotonic())
        self._stopped.set()

    async def stopped(self) -> None:
        """Waits until the test was ended before its time."""
        await self._stopped.wait()

    def left_for_answers_s(self) -> float:
        """How long an answer may take that is asked for now."""
        return max(self.end + LAST_ANSWERS_S - time.monotonic(), SHORTEST_TIMEOUT_S)

    async def pause(self, seconds: float) -> None:
        """Lets time pass, not beyond the end of the test."""
        await self.until(time.monotonic() + seconds)

    async def until(self, moment: float) -> None:
        """Lets time pass until a moment, not beyond the end of the test."""
        left = min(moment, self.end) - time.monotonic()
        if left > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._stopped.wait()
