"""What can be done with a session besides stepping it. Each operation waits its turn behind the runs before it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from cellserve.tensors import Array
from cellserve_server.config import ServerConfig
from cellserve_server.engine import Engine, draining_error
from cellserve_server.keys import SessionKey
from cellserve_server.metrics import Metrics
from cellserve_server.models import LoadedModel, ModelRepository
from cellserve_server.session import Session, SessionSnapshot
from cellserve_server.sessions import SessionTable

EXPIRY_TIMER_MIN_S = 1.0
EXPIRY_TIMER_MAX_S = 3600.0


class SessionOperations:
    """Creates, reads, resets, sets, forks, deletes and expires sessions.

    Args:
        config: the limits.
        models: where the sessions of each model are counted.
        metrics: told of sessions that begin and end.
        clock: unix seconds, never going back.
        new_id: makes uids, and the ids under which bugs are logged.
    """

    def __init__(
        self,
        config: ServerConfig,
        models: ModelRepository,
        metrics: Metrics,
        clock: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self.sessions = SessionTable(config, clock, new_id, self._release)
        self.engine = Engine(config, self.sessions, metrics, clock, new_id)
        self._config = config
        self._models = models
        self._metrics = metrics
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = 0.0  # unix seconds
        metrics.watch(
            queue_runs=lambda: self.engine.queue.runs,
            queue_bytes=lambda: self.engine.queue.size_bytes,
            sessions=lambda: len(self.sessions),
            state_bytes=lambda: self.sessions.state_bytes,
            slab_bytes=self.engine.lanes.slab_bytes,
            slab_rows=self.engine.lanes.slab_rows,
        )

    def create(
        self,
        key: SessionKey,
        model: LoadedModel,
        batch_size: int,
        ttl_s: float | None = None,
        leaves: Sequence[Array] | None = None,
    ) -> Session:
        """Makes a session at once.

        Args:
            batch_size: 0: one row, and vectors as inputs and outputs.
            ttl_s: None: the server's default.
            leaves: the state to begin with, ``[rows, units]`` each, checked before; None: zeros.

        Raises:
            DrainingError, SessionExistsError, QuotaExceededError, ModelNotFoundError, MemoryError: nothing was made.
        """
        if self.engine.draining:
            raise draining_error()
        self._models.acquire(model)
        try:
            session = self.sessions.create(
                key,
                model,
                batch_size,
                self._config.default_ttl_s if ttl_s is None else ttl_s,
                self.engine.lanes[model].seats(max(batch_size, 1)),
            )
        except BaseException:
            self._models.release(model)
            raise
        session.write_state(leaves)
        self._metrics.session_created()
        self._watch_expiry(session.expire_time)
        return session

    async def read(self, key: SessionKey, with_state: bool) -> SessionSnapshot:
        """The session as it is after the runs that arrived before, with a copy of its state if asked for.

        Raises:
            SessionNotFoundError: it is not there.
        """
        session = self.sessions.get(key)

        def read() -> SessionSnapshot:
            self.sessions.check_life(session, "")
            return session.snapshot(session.read_state() if with_state else None)

        return await self.engine.in_turn(session, read)

    def delete(self, key: SessionKey, uid: str = "") -> asyncio.Future[None]:
        """Ends a session when its turn comes; the future tells when it has.

        Raises:
            SessionNotFoundError: it is not there, or another life of its name is; the future may raise it too.
        """
        session = self.sessions.get(key, uid)

        def delete() -> None:
            self.sessions.check_life(session, uid)
            self.sessions.end(session, "deleted")

        return self.engine.in_turn(session, delete)

    async def reset(self, key: SessionKey, uid: str = "") -> SessionSnapshot:
        """Zeros a session's state and step count and begins a new life.

        Raises:
            SessionNotFoundError: it is not there, or another life of its name is.
        """
        session = self.sessions.get(key, uid)

        def reset() -> SessionSnapshot:
            self._begin_life(session, uid, "reset", None)
            session.step_count = 0
            return session.snapshot()

        return await self.engine.in_turn(session, reset)

    async def set_state(
        self, key: SessionKey, uid: str, leaves: Sequence[Array], step_count: int | None = None
    ) -> SessionSnapshot:
        """Replaces a session's state and begins a new life.

        Args:
            leaves: ``[rows, units]`` each, checked before.
            step_count: the new count; None: it stays.

        Raises:
            SessionNotFoundError: it is not there, or another life of its name is.
        """
        session = self.sessions.get(key, uid)

        def set_state() -> SessionSnapshot:
            self._begin_life(session, uid, "set", leaves)
            if step_count is not None:
                session.step_count = step_count
            return session.snapshot()

        return await self.engine.in_turn(session, set_state)

    async def fork(self, key: SessionKey, uid: str, new_key: SessionKey) -> SessionSnapshot:
        """Makes a second session with a copy of the first one's state and step count.

        Raises:
            SessionNotFoundError: the first is not there, or another life of its name is.
            SessionExistsError, QuotaExceededError, DrainingError: the second was not made.
        """
        session = self.sessions.get(key, uid)

        def fork() -> SessionSnapshot:
            self.sessions.check_life(session, uid)
            # Read before: making the copy may end the session, if the copy is to take its own, expired name.
            step_count, leaves = session.step_count, session.read_state()
            copy = self.create(new_key, session.model, session.batch_size, session.ttl_s, leaves)
            copy.step_count = step_count
            return copy.snapshot()

        return await self.engine.in_turn(session, fork)

    def end_sessions_of(self, model: LoadedModel) -> None:
        """Ends every session of a model that is unloaded by force."""
        for session in self.sessions:
            if session.model is model:
                self.sessions.end(session, "unloaded")

    def stop(self) -> None:
        """Stops the expiry timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin_life(self, session: Session, uid: str, cause: str, leaves: Sequence[Array] | None) -> None:
        self.sessions.check_life(session, uid)
        session.write_state(leaves)
        self.sessions.begin_life(session, cause)

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
