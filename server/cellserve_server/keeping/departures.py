"""Sessions leave memory for the store: another replica has them, nobody knows whether it has, or the server stops."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import structlog

from cellserve.errors import StoreUnavailableError
from cellserve_server.keeping.flusher import Flusher
from cellserve_server.keeping.keeper import Outcome
from cellserve_server.keeping.peers import Peers, address_of
from cellserve_server.keeping.residents import Residents
from cellserve_server.keeping.store_watch import StoreWatch
from cellserve_server.keys import SessionKey
from cellserve_server.metrics import StoreMetrics
from cellserve_server.sessions.session import Kept, Session
from cellserve_server.sessions.table import DOUBTED, MOVED, RELEASED
from cellserve_server.stores.base import Found, Store

# So long after a session has moved away, whoever asks for it here is sent there: two replicas that are both asked for
# a session would otherwise pull it to and fro with every step.
HOLD_S = 0.25
RELEASED_AT_ONCE = 1000


class Departures:
    """Sends sessions away, and knows where those are that went lately.

    Args:
        store: where they are.
        residents: the sessions in memory.
        peers: the other replicas.
        metrics: told of writes that were refused.
        watch: does the operations of the store.
        clock: unix seconds.

    Attributes:
        flusher: writes states after steps were answered; None: they are written before.
    """

    def __init__(
        self,
        store: Store,
        residents: Residents,
        peers: Peers,
        metrics: StoreMetrics,
        watch: StoreWatch,
        clock: Callable[[], float],
    ) -> None:
        self.flusher: Flusher | None = None
        self._store = store
        self._sessions = residents.sessions
        self._engine = residents.engine
        self._peers = peers
        self._metrics = metrics
        self._watch = watch
        self._clock = clock
        self._moved_at: dict[SessionKey, float] = {}  # in the order of their times
        self._log = structlog.get_logger("cellserve.departures")

    def depart(self, session: Session, cause: str, new_owner: str = "", why: str = "") -> None:
        self._sessions.depart(session, cause, new_owner, why)
        if cause == MOVED:
            self._forget_moves()
            self._moved_at.pop(session.key, None)
            self._moved_at[session.key] = self._clock()

    def _forget_moves(self) -> None:
        """Forgets what has moved away so long ago that it may come back."""
        now = self._clock()
        while self._moved_at and self._moved_at[oldest := next(iter(self._moved_at))] + HOLD_S <= now:
            del self._moved_at[oldest]

    async def send_after_those_that_moved(
        self, keys: Sequence[SessionKey], outcomes: dict[SessionKey, Outcome]
    ) -> list[SessionKey]:
        """Sends those after sessions that have just moved to a replica that is there; gives the other keys."""
        self._forget_moves()
        left = []
        is_there: dict[str, bool] = {"": False, self._peers.own: False}
        for key in keys:
            owner = self._sessions.new_owners.get(key, "") if key in self._moved_at else ""
            if owner not in is_there:
                is_there[owner] = await self._peers.is_there(owner)
            if is_there[owner]:
                outcomes[key] = self._sessions.moved_error(key)
            else:
                left.append(key)
        return left

    # --- what is found out by the store -------------------------------------------------------------------------------

    async def confirm(self, sessions: Sequence[Session]) -> None:
        """Looks whether sessions are still held here; those that another replica has taken unasked leave memory.

        Raises:
            StoreUnavailableError: it is not known.
        """
        # While a flush claims sessions anew, their epochs in the store are ahead of those here.
        async with self.nothing_on_its_way():
            held = [(session, session.kept) for session in sessions if not session.ended and session.kept]
            if not held:
                return
            keys = [session.key for session, _ in held]
            found = await self._watch.watched("look", lambda: self._store.look(keys), keys)
        lost = [
            (session, what)
            for (session, kept), what in zip(held, found, strict=True)
            if what is None or what.tombstone or not self._is_ours(kept, what)
        ]
        for session, what in lost:
            if not session.ended:
                self.depart(session, MOVED, "" if what is None else address_of(what.owner))
        if lost:
            self._log.warning("lost_unasked", sessions=len(lost), example=lost[0][0].key.id)

    def _is_ours(self, kept: Kept, what: Found) -> bool:
        """Whether a session in memory is still held here, by what the store has of it."""
        # A claim of ours may have come through whose answer was lost.
        return what.epoch == kept.held.epoch or (kept.is_doubted and what.owner == self._peers.owner)

    async def on_fenced(self, sessions: Sequence[Session]) -> None:
        """The store has refused states of these sessions: another replica has them."""
        if not sessions:
            return
        keys = [session.key for session in sessions]
        try:
            found = await self._store.look(keys)
        except StoreUnavailableError:
            found = [None] * len(keys)  # Then the callers are not told where, only that it has moved.
        self._metrics.fenced(len(keys))
        self._log.warning("fenced", sessions=len(keys), example=keys[0].id)
        for session, what in zip(sessions, found, strict=True):
            if not session.ended:
                self.depart(session, MOVED, "" if what is None else address_of(what.owner))

    def on_doubt(self, sessions: Sequence[Session], error: StoreUnavailableError) -> None:
        """It is not known what the store has of these sessions: it is read again when they are asked for."""
        self._metrics.store_failed("write")
        self._watch.note_failure()
        self._log.warning("store_write_failed", sessions=len(sessions), error=error.message)
        for session in sessions:
            self.depart(session, DOUBTED, why=error.message)

    async def release_all(self) -> None:
        """The server stops, and nothing is under way: all is written, and nobody has to be asked for it any more.

        Raises:
            StoreUnavailableError: some of it is not.
        """
        if self.flusher is not None:
            await self.flusher.flush()
        sessions = list(self._sessions)
        for start in range(0, len(sessions), RELEASED_AT_ONCE):
            part = [session for session in sessions[start : start + RELEASED_AT_ONCE] if not session.ended]
            held = [session.kept.held for session in part if session.kept is not None]
            await self._store.release(held)
            for session in part:
                if not session.ended:
                    self.depart(session, RELEASED)

    @property
    def unwritten(self) -> int:
        """The sessions of which the store does not have all that was answered."""
        return sum(len(seats.dirty()) for seats in self._engine.lanes.tables())

    # --- on purpose ---------------------------------------------------------------------------------------------------

    async def let_go(self, session: Session, taker: str) -> bool:
        """Another replica wants a session that is held here: it goes once what is under way is over, and is written.

        Returns:
            Whether it was still here.

        Raises:
            StoreUnavailableError: it could not be written; it stays.
        """
        async with self._engine.holding(session):
            if session.ended:
                return False
            await self._write_before_it_goes(session)
            if not session.ended:
                self.depart(session, MOVED, taker)
        return True

    async def _write_before_it_goes(self, session: Session) -> None:
        if self.flusher is None:
            return
        try:
            await self.flusher.flush_one(session)
        except StoreUnavailableError:
            # As long as steps are answered here, none is given up for another replica's sake. After that it is as after
            # a crash: what could not be written for two intervals is lost, and told, and callers go on elsewhere.
            if self._engine.store_refusal is None:
                raise

    def nothing_on_its_way(self) -> contextlib.AbstractAsyncContextManager[object]:
        """No states are being written meanwhile, and no sessions claimed anew whose last write may come late."""
        return contextlib.nullcontext() if self.flusher is None else self.flusher.lock
