"""Writes states to the store after steps were answered: what has changed, once in an interval."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import numpy as np
import structlog

from cellserve.errors import StoreUnavailableError
from cellserve.tensors import Array
from cellserve_server.engine.engine import Engine
from cellserve_server.engine.state_writer import GRACE_S
from cellserve_server.keeping.peers import Peers
from cellserve_server.keeping.store_watch import StoreWatch
from cellserve_server.keeping.unbroken import unbroken
from cellserve_server.metrics import StoreMetrics
from cellserve_server.sessions.records import encode_states
from cellserve_server.sessions.seats import DIRTY, EXPIRE, FLAGS, PLACE, RUN_FIRST, RUN_ID, STEP_COUNT, WRITING, Seats
from cellserve_server.sessions.session import Kept, Session
from cellserve_server.stores.base import Held, Store, Write

# Sessions that are written in one go; then the event loop gets its turn.
SESSIONS_PER_WRITE = 512
# After so many intervals without success no more steps are answered that could be lost.
PATIENCE_INTERVALS = 2


class _Taken(NamedTuple):
    """What one write is about."""

    sessions: list[Session]
    kept: list[Kept]
    writes: list[Write]
    owners: list[int]  # for each write the place of its session


class Flusher:
    """Writes what has changed.

    Args:
        store: where to.
        engine: whose states are written; it is told to take no more steps while nothing can be written.
        interval_s: how often.
        clock: the engine's.
        peers: knows as whom this replica holds records.
        metrics: told how long a write takes, and of those that fail.
        watch: told of failures.
        on_fenced: called with sessions that another replica has by now: takes them out of memory.

    Attributes:
        lock: held while states are written; who rewrites a record holds it, so that the two cannot pass each other.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine,
        interval_s: float,
        clock: Callable[[], float],
        peers: Peers,
        metrics: StoreMetrics,
        watch: StoreWatch,
        on_fenced: Callable[[Sequence[Session]], Awaitable[None]],
    ) -> None:
        self._store = store
        self._engine = engine
        self._interval_s = interval_s
        self._clock = clock
        self._peers = peers
        self._metrics = metrics
        self._watch = watch
        self._on_fenced = on_fenced
        self._changed = asyncio.Event()
        self.lock = asyncio.Lock()
        self._written_at = clock()  # when all that had changed by then was in the store
        self._is_behind = False  # whether anything has changed since
        self._log = structlog.get_logger("cellserve.flusher")

    def note_change(self) -> None:
        """Something has changed."""
        self._changed.set()

    def unwritten_s(self) -> float:
        """How long ago the oldest change was made that the store may not have, in seconds; 0: it has all."""
        return self._clock() - self._written_at if self._is_behind else 0.0

    async def run(self) -> None:
        """Flushes until it is cancelled. While nothing changes, nothing is done."""
        while True:
            if not self._changed.is_set():
                self._is_behind = False
                await self._changed.wait()
                self._written_at = self._clock()
                self._is_behind = True
            await asyncio.sleep(self._interval_s)
            self._changed.clear()
            try:
                await self.flush()
            except StoreUnavailableError as error:
                self._changed.set()
                self._note_failure(error)

    async def flush(self) -> None:
        """Writes what has changed until now.

        Raises:
            StoreUnavailableError: some of it is not written; what is not stays changed.
        """
        async with self.lock:  # Nothing is on its way: what is not changed now is in the store.
            began = self._clock()
            changed = [(seats, _changed_of(seats)) for seats in self._engine.lanes.tables()]
        for seats, sessions in changed:
            for start in range(0, len(sessions), SESSIONS_PER_WRITE):
                # One portion at a time, so that a single session that another replica waits for comes in between.
                async with self.lock:
                    part = list(filter(_is_changed, sessions[start : start + SESSIONS_PER_WRITE]))
                    await unbroken(self._write(seats, part))
        self._note_success(began)

    async def flush_one(self, session: Session) -> None:
        """Writes one session's state, if it has changed.

        Raises:
            StoreUnavailableError: it is not written.
        """
        async with self.lock:
            await self.flush_alone(session)

    async def flush_alone(self, session: Session) -> None:
        """As ``flush_one``, for who has the lock."""
        if _is_changed(session):
            await unbroken(self._write(session.seats, [session]))

    async def _write(self, seats: Seats[Session], sessions: list[Session]) -> None:
        sessions = await self._claim_doubted(sessions)
        if not sessions:
            return
        taken = _take(seats, sessions)
        started = time.perf_counter()
        try:
            outcomes = await self._store.write(taken.writes)
        except BaseException as error:
            if isinstance(error, StoreUnavailableError):
                self._metrics.store_failed("write")
            for session, kept in _unchanged(taken):
                kept.is_doubted = True
                session.seats.words[session.base + FLAGS] |= DIRTY
            self._changed.set()
            raise
        finally:
            for session in taken.sessions:
                if not session.ended:
                    session.seats.words[session.base + FLAGS] &= ~WRITING
        self._metrics.store_seconds("write", time.perf_counter() - started)
        refused = {owner for owner, good in zip(taken.owners, outcomes, strict=True) if not good}
        if refused:
            same = {session for session, _ in _unchanged(taken)}
            await self._on_fenced([taken.sessions[place] for place in refused if taken.sessions[place] in same])

    async def _claim_doubted(self, sessions: list[Session]) -> list[Session]:
        """Claims those anew whose last write may come late; the sessions that are ours, and live, after that."""
        doubted = [session for session in sessions if session.kept is not None and session.kept.is_doubted]
        if not doubted:
            return sessions
        lost = await self._claim(
            [(session, session.kept.held.epoch) for session in doubted if session.kept is not None]
        )
        if lost:
            # Of an earlier claim the answer may have been lost. Then we have them still, by another epoch: as long as a
            # session is in memory nobody claims it in this replica's name but this.
            found = await self._store.look([session.key for session in lost])
            ours = [
                (session, what.epoch)
                for session, what in zip(lost, found, strict=True)
                if what is not None and not what.tombstone and what.owner == self._peers.owner
            ]
            others = set(lost).difference(session for session, _ in ours)
            await self._on_fenced([*others, *(await self._claim(ours) if ours else ())])
        return [session for session in sessions if not session.ended]

    async def _claim(self, held: Sequence[tuple[Session, int]]) -> list[Session]:
        """Claims sessions anew that are at these epochs; those that are not, and live in memory."""
        claimed = await self._store.claim([(session.key, epoch) for session, epoch in held], self._peers.owner)
        lost = []
        for (session, _), stored in zip(held, claimed, strict=True):
            if session.ended or session.kept is None:
                continue
            if stored is None:
                lost.append(session)
            else:
                session.kept.held = Held(stored.ref, stored.epoch)
                session.kept.is_doubted = False
        return lost

    def _note_success(self, began: float) -> None:
        self._written_at = began
        if self._engine.store_refusal is not None:
            self._engine.store_refusal = None
            self._log.info("store_back")

    def _note_failure(self, error: StoreUnavailableError) -> None:
        self._watch.note_failure()
        late_s = self._clock() - self._written_at
        self._log.warning("flush_failed", error=error.message, unwritten_for_s=round(late_s, 3))
        if late_s >= PATIENCE_INTERVALS * self._interval_s and self._engine.store_refusal is None:
            self._log.error("steps_refused", reason="nothing could be written for two intervals")
            self._engine.store_refusal = StoreUnavailableError(
                f"no steps are taken: nothing could be written to the store for {late_s:.1f} s; {error.message}",
                retry_after_s=self._interval_s,
            )


def _is_changed(session: Session) -> bool:
    return not session.ended and bool(session.seats.words[session.base + FLAGS] & DIRTY)


def _changed_of(seats: Seats[Session]) -> list[Session]:
    return [session for seat in seats.dirty().tolist() if (session := seats.occupants[seat]) is not None]


def _take(seats: Seats[Session], sessions: list[Session]) -> _Taken:
    """The states of sessions as they are now, which are no longer changed but on their way."""
    index = np.array([session.seat for session in sessions], dtype=np.int64)
    kept = [session.kept for session in sessions if session.kept is not None]
    assert len(kept) == len(sessions), "sessions of a server with a store have a record there"
    records: Array = seats.records.take(index, axis=0)
    # Until the store has them they are not to leave memory: from there nobody could write them again.
    seats.records[index, FLAGS] = records[:, FLAGS] & ~DIRTY | WRITING
    places = seats.places(index, records[:, FLAGS])
    states = encode_states(records, seats.slab.read(places), seats.rows)
    # The state before, from which a repeat of the last run is computed.
    repeatable = np.flatnonzero(records[:, RUN_ID])
    before = records[repeatable]
    before[:, STEP_COUNT] = before[:, RUN_FIRST]
    before[:, RUN_ID] = 0
    states_before = encode_states(before, seats.slab.read(places[repeatable] ^ 1), seats.rows) if len(before) else []
    expiry = (records.view(np.float64)[:, EXPIRE] + GRACE_S).tolist()
    flags = (records[:, FLAGS] & PLACE).tolist()
    writes, owners = [], []
    for owner, state in enumerate(states):
        held = kept[owner].held
        writes.append(Write(held.ref, held.epoch, flags[owner], state, expiry[owner]))
        owners.append(owner)
    for owner, state in zip(repeatable.tolist(), states_before, strict=True):
        held = kept[owner].held
        writes.append(Write(held.ref, held.epoch, flags[owner] ^ 1, state, expiry[owner]))
        owners.append(owner)
    return _Taken(sessions, kept, writes, owners)


def _unchanged(taken: _Taken) -> list[tuple[Session, Kept]]:
    """The sessions that still live in memory, by the same claim."""
    return [
        (session, kept)
        for session, kept in zip(taken.sessions, taken.kept, strict=True)
        if not session.ended and session.kept is kept
    ]
