"""How much may be under way: what the next message waits for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

MAX_FRESH = 2
# A fresh message older than this holds nobody back any more.
FRESH_S = 0.002
# Steps without an answer, in all: the server's own window (`stream_window_steps`), beyond which it stops reading.
MAX_UNANSWERED = 4096
# Messages whose answers are not complete, in all: fewer than the server's own window (`stream_window_messages`). What
# lies on the way to a server that does not read has a deadline that nobody looks at.
MAX_MESSAGES = 48


class SendWindow:
    """At most two *fresh* messages, those without any part of an answer yet, and a number of messages and steps in all.

    A fresh message stops counting when a later one is answered before it, or after two milliseconds when somebody
    waits: a slow session holds nobody back.

    Args:
        loop: the event loop.
        on_time: called when the oldest fresh message has had its time, if it was waited for.

    Attributes:
        unanswered: the steps under way.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_time: Callable[[], None]) -> None:
        self.unanswered = 0
        self._messages = 0
        self._loop = loop
        self._on_time = on_time
        self._fresh: deque[tuple[int, float]] = deque()  # (number, when it was sent)
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no fresh message is under way."""
        return not self._fresh

    def room(self) -> int:
        """How many steps may be sent now. When it is 0 an answer or ``on_time`` says when to ask again."""
        if self._messages >= MAX_MESSAGES or (len(self._fresh) >= MAX_FRESH and not self._is_overdue()):
            return 0
        return max(MAX_UNANSWERED - self.unanswered, 0)

    def _is_overdue(self) -> bool:
        left_s = self._fresh[0][1] + FRESH_S - self._loop.time()
        if left_s <= 0:
            self._fresh.popleft()
            return True
        if self._timer is None:
            self._timer = self._loop.call_later(left_s, self._end)
        return False

    def _end(self) -> None:
        self._timer = None
        self._on_time()

    def note_sent(self, seq: int, steps: int) -> None:
        """A message goes out."""
        self._fresh.append((seq, self._loop.time()))
        self.unanswered += steps
        self._messages += 1

    def note_answer(self, seq: int) -> None:
        """A message has a part of its answer: it and those before it hold nobody back any more."""
        fresh = self._fresh
        while fresh and fresh[0][0] <= seq:
            fresh.popleft()

    def note_answered(self, steps: int, *, is_last: bool) -> None:
        """So many steps of a message were answered, and with the last of them the message."""
        self.unanswered -= steps
        self._messages -= is_last

    def clear(self) -> None:
        """Nothing is under way any more."""
        self.unanswered = 0
        self._messages = 0
        self._fresh.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
