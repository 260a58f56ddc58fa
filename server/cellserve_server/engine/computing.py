"""Where the arithmetic of a tick is done: on the event loop, or in a thread beside it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

from cellserve.tensors import Array
from cellserve_server.sessions.lanes import Lane

Results: TypeAlias = tuple[list[Array], list[Array]]
FORGETTING = 0.2
MOST_SLOWNESS = 8.0
TINY_S = 1e-9


class Computing:
    """Does the arithmetic of ticks, one at a time.

    Handing work to a thread and back takes some 140 us, and beside a busy event loop it takes longer: after each numpy
    call the thread has to get the interpreter's lock again. So what is short is done on the loop.

    Args:
        inline_us: what is predicted to take longer goes to the thread, in microseconds.
    """

    def __init__(self, inline_us: int) -> None:
        self._inline_s = inline_us / 1e6
        # Of the last ticks, the longer ones counting for more: the time they took, and the processor time of it.
        self._took_s = self._computed_s = TINY_S
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cellserve-compute")

    @property
    def slowness(self) -> float:
        """How many times longer than its processor time a tick takes here: others use the processors too.

        At most ``MOST_SLOWNESS``: one hiccup is no reason for small ticks.
        """
        return min(self._took_s / self._computed_s, MOST_SLOWNESS)

    def expected_s(self, lane: Lane, rows: int, steps: int = 1) -> float:
        """How long so many time steps of so many rows will take, by those before; 0: there were none."""
        return (lane.predicted_seconds(rows) or 0.0) * steps * self.slowness

    async def do(
        self, lane: Lane, rows: int, steps: int, work: Callable[[], Results]
    ) -> tuple[list[Array], list[Array], bool]:
        """Does so many time steps of so many rows.

        Returns:
            What the work gave, and whether others had their turn meanwhile.
        """
        predicted_s = lane.predicted_seconds(rows)
        began = time.perf_counter()
        waits = predicted_s is None or predicted_s * steps > self._inline_s
        if waits:
            outputs, leaves, seconds = await asyncio.get_running_loop().run_in_executor(self._thread, _timed, work)
        else:
            outputs, leaves, seconds = _timed(work)
        lane.observe(rows, seconds / steps)
        self.note(seconds, time.perf_counter() - began)
        return outputs, leaves, waits

    def note(self, computed_s: float, took_s: float) -> None:
        """Learns how long work has taken, and how much processor time of it."""
        self._computed_s += computed_s - FORGETTING * self._computed_s
        self._took_s += max(took_s, computed_s) - FORGETTING * self._took_s

    def stop(self) -> None:
        """Waits for the thread and ends it."""
        self._thread.shutdown(wait=True)


def _timed(work: Callable[[], Results]) -> tuple[list[Array], list[Array], float]:
    """What work gives, and the processor time that it took this thread: waiting for a processor predicts nothing."""
    started = time.thread_time()
    outputs, leaves = work()
    return outputs, leaves, time.thread_time() - started
