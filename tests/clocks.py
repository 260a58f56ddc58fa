"""A clock that stands still until a test moves it, so that no test sleeps."""

from __future__ import annotations

import threading

START_S = 1_700_000_000.0


class ManualClock:
    """Unix seconds; may be read and moved from several threads."""

    def __init__(self, now_s: float = START_S) -> None:
        self._now_s = now_s
        self._lock = threading.Lock()

    def __call__(self) -> float:
        with self._lock:
            return self._now_s

    def advance(self, seconds: float) -> None:
        """Moves the clock on."""
        assert seconds >= 0, "clocks do not go back"
        with self._lock:
            self._now_s += seconds
