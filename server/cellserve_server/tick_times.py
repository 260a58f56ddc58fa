"""When the parts of a tick were done."""

from __future__ import annotations

import time

PHASES = ("queue", "gather", "cell", "commit", "scatter", "encode")


class TickTimes:
    """When the parts of a tick were done, in seconds of ``time.perf_counter``.

    A part that a tick does not have takes no time: ``commit`` without a store; ``encode`` of longer runs, which are
    encoded when they are over.

    Args:
        arrived: when the first of what the tick took came; None: it did not wait.

    Attributes:
        arrived: as given.
        began, gathered, computed, committed, scattered, encoded: set as they are reached; until then they are those
            before.
    """

    __slots__ = ("arrived", "began", "committed", "computed", "encoded", "gathered", "scattered")

    def __init__(self, arrived: float | None) -> None:
        self.began = self.gathered = self.computed = self.committed = self.scattered = self.encoded = (
            time.perf_counter()
        )
        self.arrived = self.began if arrived is None else arrived

    def note_gathered(self) -> None:
        """The inputs and states lie side by side."""
        self.gathered = self.computed = self.committed = self.scattered = self.encoded = time.perf_counter()

    def note_computed(self) -> None:
        """The cell is done."""
        self.computed = self.committed = self.scattered = self.encoded = time.perf_counter()

    def note_committed(self) -> None:
        """The store has the states."""
        self.committed = self.scattered = self.encoded = time.perf_counter()

    def note_scattered(self) -> None:
        """The states are the sessions'."""
        self.scattered = self.encoded = time.perf_counter()

    def note_encoded(self) -> None:
        """The answers are made."""
        self.encoded = time.perf_counter()

    @property
    def seconds(self) -> float:
        """What the tick took, without the wait before it, and without the store: other ticks go on meanwhile."""
        return self.encoded - self.committed + self.computed - self.began

    def phases(self) -> tuple[float, float, float, float, float, float]:
        """The seconds of each of ``PHASES``, in this order."""
        return (
            self.began - self.arrived,
            self.gathered - self.began,
            self.computed - self.gathered,
            self.committed - self.computed,
            self.scattered - self.committed,
            self.encoded - self.scattered,
        )
