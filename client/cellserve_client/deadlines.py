"""Until when a call may take: one deadline for its waits, its requests and their retries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from cellserve.errors import DeadlineExceededError


@dataclass(frozen=True)
class Deadline:
    """Until when a call may take, retries and waits for a turn included.

    Attributes:
        at: on ``clock``, in seconds.
        timeout_s: the whole time that the call was given.
        clock: what tells the time.
    """

    at: float
    timeout_s: float
    clock: Callable[[], float]

    def remaining_s(self) -> float:
        """The seconds that are left; not above 0 when it is over."""
        return self.at - self.clock()


@asynccontextmanager
async def held(lock: asyncio.Lock, deadline: Deadline, waiting_for: str) -> AsyncIterator[None]:
    """Holds a lock that is to be had before the deadline.

    Args:
        waiting_for: what the error says: ``{waiting_for}: waited 3 s for earlier calls on it``.

    Raises:
        DeadlineExceededError: the lock was not free in time.
    """
    try:
        async with asyncio.timeout(max(deadline.remaining_s(), 0.0)):
            await lock.acquire()
    except TimeoutError:
        raise DeadlineExceededError(
            f"{waiting_for}: waited {deadline.timeout_s:g} s for earlier calls on it",
            metadata={"timeout_s": f"{deadline.timeout_s:g}"},
        ) from None
    try:
        yield
    finally:
        lock.release()
