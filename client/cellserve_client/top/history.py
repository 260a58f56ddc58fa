"""The readings before, as far as they are needed: for rates, and for their course over time."""

from __future__ import annotations

from collections import deque

from cellserve_client.top.figures import Figures, figures_of
from cellserve_client.top.reading import Reading

# Of shorter times a rate says little; who presses keys reads more often.
SHORTEST_S = 0.9
COURSE_LENGTH = 240


class History:
    """Makes figures of readings as they come.

    Attributes:
        course: the rates of all servers together, in steps a second, the oldest first.
    """

    def __init__(self) -> None:
        self.course: deque[float] = deque(maxlen=COURSE_LENGTH)
        self._base: Reading | None = None
        self._last: Reading | None = None

    def figures(self, reading: Reading) -> Figures:
        """Those of a new reading, with what has changed since one that is long enough ago."""
        is_next = self._last is None or reading.time - self._last.time >= SHORTEST_S
        if is_next:
            self._base, self._last = self._last, reading
        figures = figures_of(reading, self._base)
        if is_next and figures.steps_per_second is not None:
            self.course.append(figures.steps_per_second)
        return figures
