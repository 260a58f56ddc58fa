"""Which runs the next tick takes. Pure: no clock, no arrays, no I/O.

Each lane (a model) has a queue of runs that are ready for a step. Lanes take turns, and within a lane runs do: a run
that wants more steps goes to the end of its lane again. So with N ready runs ahead of it in its lane and L lanes with
work, a run's next step waits at most ``L * N`` ticks and the one under way, however long the sequences are that it
shares them with; far fewer as ticks take many runs at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

Lane = TypeVar("Lane", bound=Hashable)
R = TypeVar("R")


class Scheduler(Generic[Lane, R]):
    """Ready runs by lane.

    Args:
        max_tick_rows: rows that one tick takes at most; a larger run is taken alone.
    """

    def __init__(self, max_tick_rows: int) -> None:
        self._max_tick_rows = max_tick_rows
        self._lanes: dict[Lane, deque[tuple[R, int]]] = {}

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def add(self, lane: Lane, run: R, rows: int) -> None:
        """Puts a run that is ready for a step at the end of its lane."""
        self._lanes.setdefault(lane, deque()).append((run, rows))

    def next_tick(self) -> tuple[Lane, list[R]]:
        """Takes the runs of the next tick: the lane whose turn it is, its runs in order until the rows are full.

        Raises:
            LookupError: nothing is ready.
        """
        if not self._lanes:
            raise LookupError("nothing is ready")
        lane = next(iter(self._lanes))
        waiting = self._lanes.pop(lane)
        taken: list[R] = []
        rows_taken = 0
        while waiting and (not taken or rows_taken + waiting[0][1] <= self._max_tick_rows):
            run, rows = waiting.popleft()
            taken.append(run)
            rows_taken += rows
        if waiting:
            self._lanes[lane] = waiting  # At the end of the dict: the other lanes come first.
        return lane, taken
