"""Which sessions may have expired: a heap of seconds, and the sessions of each second.

Renewing a session costs nothing here: it is looked at when its old second has come, and moved to its new one.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

MIN_STALE = 1024

S = TypeVar("S")


class ExpiryQueue(Generic[S]):
    """Sessions by the whole second in which they are looked at, the first at or after their expiry.

    Args:
        expire_time: of a session, unix seconds; what it is now, not when it was put here.
        has_ended: whether a session is over; such are left where they are until they are many.
    """

    def __init__(self, expire_time: Callable[[S], float], has_ended: Callable[[S], bool]) -> None:
        self._expire_time = expire_time
        self._has_ended = has_ended
        self._seconds: list[int] = []  # a heap; each once
        self._sessions: dict[int, list[S]] = {}  # by second
        self._count = 0
        self._stale = 0

    def add(self, session: S) -> float:
        """Puts a session in line, and says when it will be looked at, unix seconds."""
        second = math.ceil(self._expire_time(session))
        line = self._sessions.get(second)
        if line is None:
            line = self._sessions[second] = []
            heapq.heappush(self._seconds, second)
        line.append(session)
        self._count += 1
        return float(second)

    def note_ended(self, living: Iterable[S]) -> None:
        """A session in line has ended before its time.

        Args:
            living: all that live; read when half of the line has ended, to make the line anew.
        """
        self._stale += 1
        if self._stale > max(self._count // 2, MIN_STALE):
            self._seconds, self._sessions, self._count, self._stale = [], {}, 0, 0
            for session in living:
                self.add(session)

    def pop(self, now: float) -> S | None:
        """Takes the next session whose second has come; None: there is none. Those that have ended come too."""
        if not self._seconds or self._seconds[0] > now:
            return None
        second = self._seconds[0]
        line = self._sessions[second]
        session = line.pop()
        self._count -= 1
        if self._has_ended(session):
            self._stale -= 1
        if not line:
            heapq.heappop(self._seconds)
            del self._sessions[second]
        return session

    def next_time(self) -> float | None:
        """When the next ones are to be looked at, unix seconds; None: nobody is in line."""
        return float(self._seconds[0]) if self._seconds else None
