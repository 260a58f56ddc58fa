"""The sessions in memory: made, found, ended when their time is over, and sent away when others need the room."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from cellserve.tensors import Array
from cellserve_server.config import ServerConfig
from cellserve_server.engine.engine import Engine
from cellserve_server.keys import SessionKey
from cellserve_server.metrics import Metrics
from cellserve_server.models.repository import LoadedModel, ModelRepository
from cellserve_server.sessions.activity import Activity
from cellserve_server.sessions.seats import NEEDED
from cellserve_server.sessions.session import NO_ORIGIN, Origin, Session
from cellserve_server.sessions.table import EVICTED, SessionTable
from cellserve_server.tenant_limits import TenantLimits

EXPIRY_TIMER_MIN_S = 1.0
EXPIRY_TIMER_MAX_S = 3600.0
# What is sent away when there is no more room, at least: finding who was idle longest looks at everyone.
EVICTED_SHARE = 64
# How long room is waited for while all that could go is busy.
ROOM_WAIT_S = 1.0
ROOM_POLL_S = 0.005


class Birth(NamedTuple):
    """A session that is to be made.

    Attributes:
        key: of the session.
        model: that it is of.
        batch_size: 0: one row, and vectors as inputs and outputs.
        ttl_s: seconds that it lives unused.
        leaves: the state to begin with, ``[rows, units]`` each, checked before; None: zeros.
        step_count: to begin with.
        origin: the request that has it made.
    """

    key: SessionKey
    model: LoadedModel
    batch_size: int
    ttl_s: float
    leaves: Sequence[Array] | None = None
    step_count: int = 0
    origin: Origin = NO_ORIGIN

    @property
    def rows(self) -> int:
        """The rows that are stepped together, at least 1."""
        return max(self.batch_size, 1)

    @property
    def state_bytes(self) -> int:
        """The bytes of its state and of the copy from before its last run."""
        return 2 * self.rows * self.model.state_bytes_per_row


async def _nothing() -> None:
    """What is to be written where nothing is."""


class Residents:
    """The sessions in memory.

    Args:
        config: the limits.
        models: where the sessions of each model are counted.
        metrics: told of sessions that begin and end.
        clock: unix seconds, never going back.
        new_id: makes uids, and the ids under which bugs are logged.
        limits: those of tenants; None: as the settings say.

    Attributes:
        limits: as given.
        sessions: them.
        engine: steps them.
        activity: finds those that are the most active.
        flush: writes what the store does not have yet.
    """

    def __init__(
        self,
        config: ServerConfig,
        models: ModelRepository,
        metrics: Metrics,
        clock: Callable[[], float],
        new_id: Callable[[], str],
        limits: TenantLimits | None = None,
    ) -> None:
        self.limits = limits or TenantLimits(config)
        self.sessions = SessionTable(config, clock, new_id, self._release, self.limits)
        self.engine = Engine(config, self.sessions, metrics.engine, clock, new_id, self.limits)
        self.activity = Activity(self.engine.lanes, clock)
        self._models = models
        self._metrics = metrics.sessions
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = 0.0  # unix seconds
        self.flush: Callable[[], Awaitable[None]] = _nothing
        metrics.engine.watch(
            queue_runs=lambda: self.engine.queue.runs, queue_bytes=lambda: self.engine.queue.size_bytes
        )
        metrics.sessions.watch(
            sessions=lambda: len(self.sessions),
            state_bytes=lambda: self.sessions.held.state_bytes,
            slab_bytes=self.engine.lanes.slab_bytes,
            slab_rows=self.engine.lanes.slab_rows,
        )
        metrics.sessions.watch_models(self.engine.lanes.sessions_by_model)

    def seat(self, birth: Birth, uid: str | None = None, *, is_soft: bool = False) -> Session:
        """Makes a session in memory.

        Args:
            uid: of its life; None: a new one.
            is_soft: it may be beyond the limits, up to twice as many: it goes to the store again when it is idle.

        Raises:
            SessionExistsError, QuotaExceededError, ModelNotFoundError, MemoryError: nothing was made.
        """
        model = birth.model
        self._models.acquire(model)
        try:
            seats = self.engine.lanes[model].seats(birth.rows)
            session = self.sessions.create(birth.key, model, birth.batch_size, birth.ttl_s, seats, uid, is_soft=is_soft)
        except BaseException:
            self._models.release(model)
            raise
        session.write_state(birth.leaves)
        session.step_count = birth.step_count
        self._watch_expiry(session.expire_time)
        return session

    async def make_room(self, birth: Birth) -> None:
        """Sends those away that were idle longest, until there is room for one that is to come.

        What is busy stays, and what the store does not have yet is written before. Of those that are about to be
        stepped as many stay as ``seat`` takes. If there is no room for long, ``seat`` is to say so.

        Raises:
            StoreUnavailableError: they cannot be written.
        """
        clock = asyncio.get_running_loop().time
        give_up = clock() + ROOM_WAIT_S
        while not self._has_made_room(birth) and clock() < give_up:
            await self.flush()
            if self._has_made_room(birth):
                return
            await asyncio.sleep(ROOM_POLL_S)  # Those that are busy are done soon.

    def _has_made_room(self, birth: Birth) -> bool:
        if not self._has_room(birth, is_soft=False):
            self._evict(birth, NEEDED, is_soft=False)
        if not self._has_room(birth, is_soft=True):
            self._evict(birth, 0, is_soft=True)
        return self._has_room(birth, is_soft=True)

    def _has_room(self, birth: Birth, *, is_soft: bool) -> bool:
        size = birth.state_bytes, birth.rows
        return self.sessions.has_room(*size, is_soft=is_soft) and self.sessions.tenant_has_room(
            birth.key.tenant, *size, is_soft=is_soft
        )

    def _evict(self, birth: Birth, spared: int, *, is_soft: bool) -> None:
        idlest = self.engine.lanes.idlest(spared)
        if not self.sessions.tenant_has_room(birth.key.tenant, birth.state_bytes, birth.rows, is_soft=is_soft):
            # Who has more than its part makes room among its own.
            idlest = [session for session in idlest if session.key.tenant == birth.key.tenant]
        least = len(idlest) // EVICTED_SHARE
        for number, session in enumerate(idlest):
            if number >= least and self._has_room(birth, is_soft=is_soft):
                return
            self.sessions.depart(session, EVICTED)

    def end_sessions_of(self, model: LoadedModel) -> None:
        """Ends every session of a model that is unloaded by force."""
        for session in self.sessions:
            if session.model is model:
                self.sessions.end(session, "unloaded")

    def stop(self) -> None:
        """Stops the timers."""
        self.activity.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _release(self, session: Session) -> None:
        self.engine.release(session)
        self._metrics.session_ended(session.ended)
        self._models.release(session.model)

    def _watch_expiry(self, expire_time: float) -> None:
        """Sees to it that the timer rings for this time; never more often than once a second."""
        now = self._clock()
        rings_at = min(max(expire_time, now + EXPIRY_TIMER_MIN_S), now + EXPIRY_TIMER_MAX_S)
        if self._timer is not None:
            if self._rings_at <= rings_at:
                return
            self._timer.cancel()
        self._rings_at = rings_at
        self._timer = asyncio.get_running_loop().call_later(rings_at - now, self.expire_now)

    def expire_now(self) -> None:
        """Ends the sessions whose time is over, a portion at a time, and sees to it that the next ones are."""
        if self._timer is not None:
            self._timer.cancel()  # One that was set since this was due.
            self._timer = None
        due = self.sessions.expire_due()
        if due is None:
            return
        if due <= self._clock():
            asyncio.get_running_loop().call_soon(self.expire_now)  # There are more; the others get their turn between.
        else:
            self._watch_expiry(due)
