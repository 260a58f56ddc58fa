"""Writes states to the store before steps are answered: one write at a time, or two that overlap, of all that is due.

What ticks bring while a write is under way is the next one, as what arrives while a tick computes is the next tick.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import numpy as np

from cellserve.errors import StoreUnavailableError
from cellserve.tensors import Array
from cellserve_server.metrics import StoreMetrics
from cellserve_server.sessions.seats import EXPIRE, FLAGS, PLACE
from cellserve_server.sessions.session import Session
from cellserve_server.stores.base import Store, Write

# One is written while the next is on its way.
MAX_UNDER_WAY = 2
MAX_WRITES = 4096
# The store keeps a record so much longer than its session lives: a session that is used must not go before we say so.
GRACE_S = 300.0


class _Batch(NamedTuple):
    """What a tick brought."""

    sessions: Sequence[Session]
    writes: list[Write]
    settle: Callable[[], None]


class StateWriter:
    """Writes states.

    Args:
        store: where to.
        metrics: told how long it takes.
        on_fenced: called with sessions that another replica has by now: takes them out of memory.
        on_doubt: called with sessions of which nobody knows what the store has, and why: takes them out of memory.
        on_bug: called with an error that is none of the store's: the server is of no more use.
    """

    def __init__(
        self,
        store: Store,
        metrics: StoreMetrics,
        on_fenced: Callable[[Sequence[Session]], Awaitable[None]],
        on_doubt: Callable[[Sequence[Session], StoreUnavailableError], None],
        on_bug: Callable[[BaseException], None],
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._on_fenced = on_fenced
        self._on_doubt = on_doubt
        self._on_bug = on_bug
        self._due: list[_Batch] = []
        self._under_way: set[asyncio.Task[None]] = set()

    def add(
        self, sessions: Sequence[Session], records: Array, states: Sequence[bytes], settle: Callable[[], None]
    ) -> None:
        """Has states written. The sessions are busy until ``settle``, so that each has one write at a time.

        Args:
            sessions: each at most once.
            records: as they are to be, int64 ``[sessions, COLUMNS]``.
            states: as bytes, of these records.
            settle: called when the outcome is known; sessions that were refused have ended by then.
        """
        places = (records[:, FLAGS] & PLACE).tolist()
        expiry = (records.view(np.float64)[:, EXPIRE] + GRACE_S).tolist()
        writes = []
        for session, place, state, expire_time in zip(sessions, places, states, expiry, strict=True):
            assert session.kept is not None, "sessions of a server with a store have a record there"
            held = session.kept.held
            writes.append(Write(held.ref, held.epoch, place, state, expire_time))
        self._due.append(_Batch(sessions, writes, settle))
        self._begin()

    async def stop(self) -> None:
        """Waits for what is under way; what is due besides is given up."""
        self._due.clear()
        await asyncio.gather(*self._under_way)

    def _begin(self) -> None:
        if not self._due or len(self._under_way) >= MAX_UNDER_WAY:
            return
        task = asyncio.get_running_loop().create_task(self._write(), name="cellserve-write")
        self._under_way.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_bug(error)
            return
        self._begin()

    async def _write(self) -> None:
        batches = self._take()
        if not batches:
            return  # The one before it took all.
        sessions = [session for batch in batches for session in batch.sessions]
        started = time.perf_counter()
        try:
            outcomes = await self._store.write([write for batch in batches for write in batch.writes])
        except StoreUnavailableError as error:
            self._on_doubt(_living(sessions), error)
        else:
            self._metrics.store_seconds("write", time.perf_counter() - started)
            if not all(outcomes):
                fenced = [session for session, good in zip(sessions, outcomes, strict=True) if not good]
                await self._on_fenced(_living(fenced))
        for batch in batches:
            batch.settle()

    def _take(self) -> list[_Batch]:
        """The batches of the next write, at least one if there is any."""
        taken: list[_Batch] = []
        count = 0
        while self._due and (not taken or count + len(self._due[0].writes) <= MAX_WRITES):
            batch = self._due.pop(0)
            taken.append(batch)
            count += len(batch.writes)
        return taken


def _living(sessions: Sequence[Session]) -> list[Session]:
    return [session for session in sessions if not session.ended]
