"""The sessions of this server: who is there, who has been, and when each goes."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterator

from cellserve.errors import QuotaExceededError, SessionExistsError, SessionNotFoundError
from cellserve_server.config import ServerConfig
from cellserve_server.expiry import ExpiryQueue
from cellserve_server.keys import SessionKey
from cellserve_server.models import LoadedModel
from cellserve_server.seats import LIFE, QUOTA_RETRY_S, Seats
from cellserve_server.session import Session

EXPIRED_AT_ONCE = 1000
_CAUSES = {
    "expired": "it expired after its ttl without use",
    "deleted": "it was deleted",
    "reset": "it was reset, which began a new life under another uid",
    "set": "its state was set, which began a new life under another uid",
    "unloaded": "its model was unloaded",
    "unknown": "no session of that id is known here; it never was, ended long ago, or ended with an earlier server "
    "process, whose sessions were in its memory",
    "other_life": "it was another life of that id: the session was reset, set, or deleted and made again",
}


class SessionTable:
    """All sessions by key, with their limits, expiry, and the reasons why sessions ended.

    Args:
        config: the limits.
        clock: unix seconds.
        new_id: makes uids.
        on_end: called with a session that is over, whatever ended it, after it left the table.
    """

    def __init__(
        self,
        config: ServerConfig,
        clock: Callable[[], float],
        new_id: Callable[[], str],
        on_end: Callable[[Session], None],
    ) -> None:
        self._config = config
        self._clock = clock
        self._new_id = new_id
        self._on_end = on_end
        self._sessions: dict[SessionKey, Session] = {}
        self._tombstones: OrderedDict[SessionKey, tuple[str, str]] = OrderedDict()  # key -> (uid, cause)
        self._expiry: ExpiryQueue[Session] = ExpiryQueue(
            lambda session: session.expire_time, lambda session: bool(session.ended)
        )
        self._lives = 0
        self.state_bytes = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    def get(self, key: SessionKey, uid: str = "") -> Session:
        """A living session.

        Raises:
            SessionNotFoundError: it is not there, or another life of its name is; the message says why.
        """
        session = self._sessions.get(key)
        if session is not None and session.expire_time <= self._clock() and not session.busy:
            self.end(session, "expired")
            session = None
        if session is None or (uid and uid != session.uid):
            raise self._not_found(key, uid, session)
        return session

    def check_life(self, session: Session, uid: str) -> None:
        """Checks that a session that was looked up before still lives, in the life that is meant.

        Raises:
            SessionNotFoundError: it ended, or another life of its name began.
        """
        if session.ended:
            raise self.ended_error(session)
        if uid and uid != session.uid:
            raise self._not_found(session.key, uid, session)

    def ended_error(self, session: Session) -> SessionNotFoundError:
        """What the users of a session that has ended are told."""
        return self._not_found(session.key, session.uid, self._sessions.get(session.key))

    def create(
        self, key: SessionKey, model: LoadedModel, batch_size: int, ttl_s: float, seats: Seats[Session]
    ) -> Session:
        """Makes a session; the caller gives it a state.

        Args:
            seats: those of the model and batch size.

        Raises:
            SessionExistsError: the id is taken.
            QuotaExceededError: the limit of sessions or of state bytes is reached.
            MemoryError: there is no memory for its state.
        """
        now = self._clock()
        known = self._sessions.get(key)
        if known is not None:
            if known.expire_time > now or known.busy:
                raise SessionExistsError(
                    f"session_id: expected an id that is free; {key.id!r} is taken", metadata={"session": key.id}
                )
            self.end(known, "expired")
        state_bytes = 2 * seats.rows * model.state_bytes_per_row
        self._require_quota("max_sessions", len(self) + 1, self._config.max_sessions)
        self._require_quota("max_state_bytes", self.state_bytes + state_bytes, self._config.max_state_bytes)
        session = Session(key, self._new_id(), model, batch_size, seats, self._next_life())
        session.set_times(now, ttl_s)
        self._sessions[key] = session
        self.state_bytes += state_bytes
        self._expiry.add(session)
        return session

    def begin_life(self, session: Session, cause: str) -> None:
        """Gives a session a new uid; ``cause`` (reset, set) is what the old one's users are told."""
        self._bury(session.key, session.uid, cause)
        session.uid = self._new_id()
        session.seats.words[session.base + LIFE] = self._next_life()
        session.renew(self._clock())

    def end(self, session: Session, cause: str) -> None:
        """Takes a session out; ``cause`` is what its users are told."""
        self._end(session, cause)
        self._expiry.note_ended(self._sessions.values())

    def _end(self, session: Session, cause: str) -> None:
        session.ended = cause
        del self._sessions[session.key]
        self.state_bytes -= session.state_bytes
        self._bury(session.key, session.uid, cause)
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
            session = self._expiry.pop(now)
            if session is None:
                break
            if session.ended:
                continue
            if session.busy:
                session.renew(now)
            if session.expire_time > now:
                self._expiry.add(session)
            else:
                self._end(session, "expired")
        return self._expiry.next_time()

    def list_after(self, tenant: str, after_id: str, limit: int, model: str = "") -> tuple[list[Session], int]:
        """A page of a tenant's sessions by id, from the first above ``after_id``, and how many there are in all.

        Args:
            model: only sessions of this model, ``models/{model}`` or with a version; empty: all.
        """
        now = self._clock()
        chosen = {
            session.key.id: session
            for session in self._sessions.values()
            if session.key.tenant == tenant
            and (session.expire_time > now or session.busy)
            and (not model or f"{session.model.resource_name}/".startswith(f"{model}/"))
        }
        page = heapq.nsmallest(limit, (id_ for id_ in chosen if id_ > after_id))
        return [chosen[id_] for id_ in page], len(chosen)

    def _next_life(self) -> int:
        self._lives += 1
        return self._lives

    def _require_quota(self, quota: str, wanted: int, limit: int) -> None:
        if wanted > limit:
            raise QuotaExceededError(
                f"{quota}: expected at most {limit}; this session would make it {wanted}",
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

    def _not_found(self, key: SessionKey, uid: str, living: Session | None) -> SessionNotFoundError:
        buried_uid, cause = self._tombstones.get(key, ("", "unknown"))
        if uid and uid != buried_uid:
            cause = "other_life" if living is not None or buried_uid else "unknown"
        life = f" (uid {uid})" if uid else ""
        return SessionNotFoundError(
            f"sessions/{key.id}{life} is not there: {_CAUSES[cause]}", metadata={"session": key.id, "cause": cause}
        )
