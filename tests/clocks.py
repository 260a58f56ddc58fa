"""A clock that moves when a test says so."""

from __future__ import annotations


class ManualClock:
    """Unix seconds, handed to the server in place of the real clock.

    Args:
        now: where it begins.
    """

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._now = now

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Moves the clock forward."""
        assert seconds >= 0, "the server's clock never goes back"
        self._now += seconds
