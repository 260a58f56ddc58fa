"""The sessions of this server: who is there, who has been, and when each goes."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator

from cellserve.errors import (
    SHOWN_CHARS,
    CellServeError,
    QuotaExceededError,
    RecordCorruptError,
    SessionExistsError,
    SessionMovedError,
    SessionNotFoundError,
    StoreUnavailableError,
)
from cellserve_server.config import ServerConfig
from cellserve_server.keys import SessionKey
from cellserve_server.models.repository import LoadedModel
from cellserve_server.sessions.expiry import ExpiryQueue
from cellserve_server.sessions.seats import LIFE, QUOTA_RETRY_S, Seats
from cellserve_server.sessions.session import Session, SessionSnapshot
from cellserve_server.tenant_limits import TenantLimits

EXPIRED_AT_ONCE = 1000
# Sessions of a list that are looked at before others have their turn.
LISTED_AT_ONCE = 1000
# Sessions that are needed at once may be more than the limits say, by this factor.
SOFT = 2
STORE_RETRY_S = 0.1
# Why a session has left memory that lives on in the store.
EVICTED = "evicted"  # others needed the room
MOVED = "moved"  # another replica has it
DOUBTED = "doubted"  # it is not known whether the store has its last write
RELEASED = "released"  # the server stops
CORRUPT = "corrupt"
_CAUSES = {
    "expired": "it expired after its ttl without use",
    "deleted": "it was deleted",
    "reset": "it was reset, which began a new life under another uid",
    "set": "its state was set, which began a new life under another uid",
    "unloaded": "its model was unloaded",
    "unknown": "no session of that id is known here; it never was, ended long ago, or ended with an earlier server "
    "process, whose sessions were in its memory",
    CORRUPT: "its record in the store was damaged, and is set aside",
    "other_life": "it was another life of that id: the session was reset, set, or deleted and made again",
}

_DEPARTURES = {
    EVICTED: "it was just moved out of memory",
    DOUBTED: "the store did not confirm its last write, so what the store has is read again",
    RELEASED: "the server stops and has let it go",
}


def exists_error(key: SessionKey) -> SessionExistsError:
    """What is told to who wants to make a session whose id is taken."""
    return SessionExistsError(
        f"session_id: expected an id that is free; {key.id!r} is taken", metadata={"session": key.id}
    )


def _id_of(session: Session | SessionSnapshot) -> str:
    return session.key.id


class Held:
    """What all sessions in memory, or those of a tenant, take.

    Attributes:
        sessions: their number.
        state_bytes: of their states, both copies counted.
        rows: of all of them; one without a batch dimension has one.
    """

    __slots__ = ("rows", "sessions", "state_bytes")

    def __init__(self) -> None:
        self.sessions = 0
        self.state_bytes = 0
        self.rows = 0

    def add(self, session: Session, sign: int) -> None:
        """Counts a session in, or with -1 out."""
        self.sessions += sign
        self.state_bytes += sign * session.state_bytes
        self.rows += sign * session.rows

    def excess(self, limits: ServerConfig, state_bytes: int, rows: int, factor: int) -> tuple[str, int, int] | None:
        """The limit that another session would be beyond, what it would make it, and what is allowed; None: it fits."""
        for quota, wanted, most in (
            ("max_sessions", self.sessions + 1, limits.max_sessions),
            ("max_state_bytes", self.state_bytes + state_bytes, limits.max_state_bytes),
            ("max_state_rows", self.rows + rows, limits.max_state_rows),
        ):
            if wanted > factor * most:
                return quota, wanted, factor * most
        return None


class SessionTable:
    """All sessions by key, with their limits, expiry, and the reasons why sessions ended.

    Args:
        config: the limits.
        clock: unix seconds.
        new_id: makes uids.
        on_end: called with a session that is over, whatever ended it, after it left the table.
        limits: those of tenants; None: as the settings say.

    Attributes:
        held: what the sessions in memory take.
        held_by: the same by tenant; who has none is not in it.
        new_owners: of sessions that have moved away lately, the replicas that have them; empty: not known.
    """

    def __init__(
        self,
        config: ServerConfig,
        clock: Callable[[], float],
        new_id: Callable[[], str],
        on_end: Callable[[Session], None],
        limits: TenantLimits | None = None,
    ) -> None:
        self._config = config
        self._limits = limits or TenantLimits(config)
        self._clock = clock
        self._new_id = new_id
        self._on_end = on_end
        self._sessions: dict[SessionKey, Session] = {}
        self._by_tenant: dict[str, dict[str, Session]] = {}  # the same by tenant and id; who has none is not in it
        self._tombstones: OrderedDict[SessionKey, tuple[str, str]] = OrderedDict()  # key -> (uid, cause)
        self._expiry: ExpiryQueue[Session] = ExpiryQueue(self._sessions)
        self._lives = 0
        self.held = Held()
        self.held_by: dict[str, Held] = {}
        self.new_owners: OrderedDict[SessionKey, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    def count_of(self, tenant: str) -> int:
        """How many of them are a tenant's."""
        held = self.held_by.get(tenant)
        return 0 if held is None else held.sessions

    def get(self, key: SessionKey, uid: str = "") -> Session:
        """A living session.

        Raises:
            SessionNotFoundError: it is not there, or another life of its name is; the message says why.
        """
        session = self.resident(key)
        if session is None or (uid and uid != session.uid):
            raise self.not_found(key, uid)
        return session

    def resident(self, key: SessionKey) -> Session | None:
        """The session of a key that is in memory and has not expired; None: there is none."""
        session = self._sessions.get(key)
        if session is not None and session.expire_time <= self._clock() and not session.busy:
            self.end(session, "expired")
            return None
        return session

    def check_life(self, session: Session, uid: str) -> None:
        """Checks that a session that was looked up before still lives, in the life that is meant.

        Raises:
            SessionNotFoundError: it ended, or another life of its name began.
        """
        if session.ended:
            raise self.ended_error(session)
        if uid and uid != session.uid:
            raise self.not_found(session.key, uid)

    def ended_error(self, session: Session) -> CellServeError:
        """What the users of a session that has ended, or is not in memory any more, are told."""
        match session.ended:
            case "moved":
                return self.moved_error(session.key)
            case "doubted" | "evicted" | "released":
                return StoreUnavailableError(
                    f"sessions/{session.key.id}: {_DEPARTURES[session.ended]}; it was not applied, or will be "
                    f"recognised when it is repeated{f' ({session.ended_why})' if session.ended_why else ''}",
                    metadata={"session": session.key.id},
                    retry_after_s=STORE_RETRY_S,
                )
        return self.not_found(session.key, session.uid)

    def moved_error(self, key: SessionKey) -> SessionMovedError:
        """What is told of a session that another replica has."""
        owner = self.new_owners.get(key, "")
        where = f"{owner} has it" if owner else "another server has it"
        return SessionMovedError(
            f"sessions/{key.id} has moved: {where} now", metadata={"session": key.id, "owner": owner}
        )

    def ending_error(self, key: SessionKey, uid: str, cause: str) -> CellServeError:
        """What is told of a session whose tombstone in the store has this cause."""
        if cause == CORRUPT:
            return RecordCorruptError(
                f"sessions/{key.id}: {_CAUSES[CORRUPT]}; other sessions are not affected, and the id may be used again",
                metadata={"session": key.id},
            )
        self._bury(key, uid, cause if cause in _CAUSES else "unknown")
        return self.not_found(key, uid)

    def create(
        self,
        key: SessionKey,
        model: LoadedModel,
        batch_size: int,
        ttl_s: float,
        seats: Seats[Session],
        uid: str | None = None,
        *,
        is_soft: bool = False,
    ) -> Session:
        """Makes a session; the caller gives it a state.

        Args:
            seats: those of the model and batch size.
            uid: of its life; None: a new one.
            is_soft: the limits are twice as high.

        Raises:
            SessionExistsError: the id is taken.
            QuotaExceededError: a limit of sessions, state bytes or rows is reached, that of all or of the tenant.
            MemoryError: there is no memory for its state.
        """
        now = self._clock()
        if self.resident(key) is not None:
            raise exists_error(key)
        state_bytes = 2 * seats.rows * model.state_bytes_per_row
        self._require_quotas(key.tenant, state_bytes, seats.rows, is_soft=is_soft)
        session = Session(key, uid or self._new_id(), model, batch_size, seats, self._next_life())
        session.set_times(now, ttl_s)
        self._sessions[key] = session
        self._by_tenant.setdefault(key.tenant, {})[key.id] = session
        self._count(session, 1)
        self._expiry.add(session)
        return session

    def has_room(self, state_bytes: int, rows: int, *, is_soft: bool = False) -> bool:
        """Whether one session more, of so many bytes and rows, is within the limits of all; soft ones are twice as
        high."""
        return self.held.excess(self._config, state_bytes, rows, SOFT if is_soft else 1) is None

    def tenant_has_room(self, tenant: str, state_bytes: int, rows: int, *, is_soft: bool = False) -> bool:
        """As ``has_room``, within the limits of a tenant."""
        held = self.held_by.get(tenant) or Held()
        return held.excess(self._limits.of(tenant), state_bytes, rows, SOFT if is_soft else 1) is None

    def begin_life(self, session: Session, uid: str, cause: str) -> None:
        """Gives a session a new uid; ``cause`` (reset, set) is what the old one's users are told."""
        self._bury(session.key, session.uid, cause)
        session.uid = uid
        session.seats.words[session.base + LIFE] = self._next_life()
        session.renew(self._clock())

    def end(self, session: Session, cause: str) -> None:
        """Takes a session out; ``cause`` is what its users are told."""
        self._end(session, cause)
        self._expiry.note_ended()

    def depart(self, session: Session, cause: str, new_owner: str = "", why: str = "") -> None:
        """Takes a session out of memory that lives on in the store.

        Args:
            cause: one of those above.
            new_owner: of one that has moved, the address of the replica that has it; empty: not known.
            why: what its users are told besides.
        """
        session.ended_why = why
        if cause == MOVED:
            self.new_owners.pop(session.key, None)
            while len(self.new_owners) >= max(self._config.max_tombstones, 1):
                self.new_owners.popitem(last=False)
            self.new_owners[session.key] = new_owner
        self._take_out(session, cause)
        self._expiry.note_ended()

    def _end(self, session: Session, cause: str) -> None:
        self._bury(session.key, session.uid, cause)
        self._take_out(session, cause)

    def _take_out(self, session: Session, cause: str) -> None:
        session.ended = cause
        tenant, id_ = session.key
        del self._sessions[session.key]
        del self._by_tenant[tenant][id_]
        if not self._by_tenant[tenant]:
            del self._by_tenant[tenant]
        self._count(session, -1)
        self._on_end(session)

    def expire_due(self, limit: int = EXPIRED_AT_ONCE) -> float | None:
        """Ends sessions whose time is over.

        Args:
            limit: entries that are looked at, so that a million sessions that expire together do not hold all up.

        Returns:
            When to look again: a time that has passed when there are more; None: no session is left.
        """
        now = self._clock()
        for _ in range(limit):
            if not self._expiry.is_due(now):
                break
            session = self._expiry.pop()
            if session is None:
                continue
            if session.busy:
                session.renew(now)
            if session.expire_time > now:
                self._expiry.add(session)
            else:
                self._end(session, "expired")
        return self._expiry.next_time()

    async def list_after(
        self, tenant: str, after_id: str, limit: int, model: str = "", id_contains: str = ""
    ) -> tuple[list[SessionSnapshot], int]:
        """A page of a tenant's sessions by id, from the first above ``after_id``, and how many there are in all.

        Of many each is as it was when it was looked at: others have their turn in between.

        Args:
            model: only sessions of this model, ``models/{model}`` or with a version; empty: all.
            id_contains: only sessions with this in their ids.
        """
        prefix = f"{model}/" if model else ""
        sessions = list(self._by_tenant.get(tenant, {}).values())
        page: list[SessionSnapshot] = []
        total = 0
        for start in range(0, len(sessions), LISTED_AT_ONCE):
            if start:
                await asyncio.sleep(0)
            now = self._clock()
            chosen = [
                session
                for session in sessions[start : start + LISTED_AT_ONCE]
                if not session.ended
                and id_contains in session.key.id
                and f"{session.model.resource_name}/".startswith(prefix)
                and (session.expire_time > now or session.busy)
            ]
            total += len(chosen)
            first: list[Session | SessionSnapshot] = [*page, *(each for each in chosen if each.key.id > after_id)]
            first.sort(key=_id_of)
            page = [each.snapshot() if isinstance(each, Session) else each for each in first[:limit]]
        return page, total

    def _next_life(self) -> int:
        self._lives += 1
        return self._lives

    def _count(self, session: Session, sign: int) -> None:
        self.held.add(session, sign)
        tenant = session.key.tenant
        held = self.held_by.setdefault(tenant, Held())
        held.add(session, sign)
        if not held.sessions:
            del self.held_by[tenant]

    def _require_quotas(self, tenant: str, state_bytes: int, rows: int, *, is_soft: bool) -> None:
        factor = SOFT if is_soft else 1
        held = self.held_by.get(tenant) or Held()
        for whose, what, limits in (("", self.held, self._config), (" of this tenant", held, self._limits.of(tenant))):
            excess = what.excess(limits, state_bytes, rows, factor)
            if excess is not None:
                quota, wanted, limit = excess
                raise QuotaExceededError(
                    f"{quota}: expected at most {limit}{whose}; this session would make it {wanted}",
                    metadata={"quota": quota, "limit": str(limit)},
                    retry_after_s=QUOTA_RETRY_S,
                )

    def _bury(self, key: SessionKey, uid: str, cause: str) -> None:
        if self._config.max_tombstones == 0:
            return
        self._tombstones.pop(key, None)
        if len(self._tombstones) >= self._config.max_tombstones:
            self._tombstones.popitem(last=False)
        self._tombstones[key] = (uid, cause)

    def not_found(self, key: SessionKey, uid: str = "") -> SessionNotFoundError:
        """What is told of a life that is not there: why, as far as it is known."""
        living = self._sessions.get(key)
        buried_uid, cause = self._tombstones.get(key, ("", "unknown"))
        if uid and uid != buried_uid:
            cause = "other_life" if living is not None or buried_uid else "unknown"
        life = f" (uid {uid[:SHOWN_CHARS]})" if uid else ""
        return SessionNotFoundError(
            f"sessions/{key.id}{life} is not there: {_CAUSES[cause]}", metadata={"session": key.id, "cause": cause}
        )
