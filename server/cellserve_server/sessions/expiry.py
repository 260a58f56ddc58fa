"""Which sessions may have expired: a heap of seconds, and the sessions of each second.

Renewing a session costs nothing here: it is looked at when its old second has come, and moved to its new one.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from typing import Generic, Protocol, TypeAlias, TypeVar

from cellserve_server.keys import SessionKey

MIN_STALE = 1024

Line: TypeAlias = list[SessionKey]


class Perishable(Protocol):
    """What expires.

    Attributes:
        line: where it is in line; the queue's own.
    """

    line: Line | None

    @property
    def key(self) -> SessionKey:
        """By what it is found among those that live."""
        ...

    @property
    def expire_time(self) -> float:
        """Unix seconds; what it is now, not when it was put in line."""
        ...


S = TypeVar("S", bound=Perishable)


class ExpiryQueue(Generic[S]):
    """Sessions by the whole second in which they are looked at, the first at or after their expiry.

    One that has ended is left in line until they are many: by its key alone, for it may be the last that has its model.

    Args:
        living: those that live, by key.
    """

    def __init__(self, living: Mapping[SessionKey, S]) -> None:
        self._living = living
        self._seconds: list[int] = []  # a heap; each once
        self._lines: dict[int, Line] = {}  # by second
        self._count = 0
        self._stale = 0

    def add(self, session: S) -> float:
        """Puts a session in line, and says when it will be looked at, unix seconds."""
        second = math.ceil(session.expire_time)
        line = self._lines.get(second)
        if line is None:
            line = self._lines[second] = []
            heapq.heappush(self._seconds, second)
        line.append(session.key)
        session.line = line
        self._count += 1
        return float(second)

    def note_ended(self) -> None:
        """A session in line has ended before its time. When half of the line has, it is made anew."""
        self._stale += 1
        if self._stale > max(self._count // 2, MIN_STALE):
            self._seconds, self._lines, self._count, self._stale = [], {}, 0, 0
            for session in self._living.values():
                self.add(session)

    def is_due(self, now: float) -> bool:
        """Whether somebody in line is to be looked at, be it one that has ended."""
        return bool(self._seconds) and self._seconds[0] <= now

    def pop(self) -> S | None:
        """Takes the next one out of the line; None: it has ended. There has to be one."""
        second = self._seconds[0]
        line = self._lines[second]
        session = self._living.get(line.pop())
        self._count -= 1
        if not line:
            heapq.heappop(self._seconds)
            del self._lines[second]
        if session is None or session.line is not line:  # One of the same key, made since, is in a line of its own.
            self._stale -= 1
            return None
        session.line = None
        return session

    def next_time(self) -> float | None:
        """When the next ones are to be looked at, unix seconds; None: nobody is in line."""
        return float(self._seconds[0]) if self._seconds else None
