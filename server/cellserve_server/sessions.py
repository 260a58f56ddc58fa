"""The sessions of this server: who is there, who has been, and when each goes."""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from cellserve.errors import CellServeError, QuotaExceededError, SessionExistsError, SessionNotFoundError
from cellserve.tensors import Array
from cellserve_server.config import ServerConfig
from cellserve_server.models import LoadedModel

QUOTA_RETRY_S = 1.0
EXPIRED_AT_ONCE = 1000
_CAUSES = {
    "expired": "it expired after its ttl without use",
    "deleted": "it was deleted",
    "reset": "it was reset, which began a new life under another uid",
    "set": "its state was set, which began a new life under another uid",
    "unloaded": "its model was unloaded",
    "no_memory": "there was no memory for its state",
    "unknown": "no session of that id is known here; it never was, ended long ago, or ended with an earlier server "
    "process, whose sessions were in its memory",
    "other_life": "it was another life of that id: the session was reset, set, or deleted and made again",
}


class SessionKey(NamedTuple):
    """Whose session, and its id."""

    tenant: str
    id: str


class LastRun(NamedTuple):
    """What identifies the last run that was applied, so that its repeat is known."""

    run_id: int
    first_step: int
    steps: int
    input_digest: int


class SessionSnapshot(NamedTuple):
    """A session as it was at one moment, for answers; the fields are those of ``Session``.

    ``leaves`` is a copy of the state, ``[rows, units]`` each, where it was asked for.
    """

    key: SessionKey
    uid: str
    model: LoadedModel
    batch_size: int
    step_count: int
    last_run_id: int
    ttl_s: float
    create_time: float
    expire_time: float
    leaves: list[Array] | None = None


class Work(Protocol):
    """What is under way on a session: a run."""

    def refuse(self, error: CellServeError) -> None:
        """Has it fail with this error as soon as it can."""
        ...


class Session:
    """A kept state of one model.

    Attributes:
        key: tenant and id.
        uid: its life; new at creation, at reset and when the state is set.
        model: the model version that it began on.
        batch_size: as asked for; 0: one row, inputs and outputs without a batch dimension.
        step_count: steps applied in this life.
        ttl_s: seconds that it lives unused.
        create_time, expire_time: unix seconds.
        ended: why it is gone; empty while it lives.
        state_rows, previous_rows: the slab rows of its state, and of the state before its last run.
        active: the run under way.
        waiting: what is to be done when the work before it is over, in the order in which it came.
    """

    __slots__ = (
        "active",
        "batch_size",
        "create_time",
        "ended",
        "expire_time",
        "key",
        "last_run",
        "model",
        "previous_rows",
        "serial",
        "state_rows",
        "step_count",
        "ttl_s",
        "uid",
        "waiting",
    )

    def __init__(
        self, key: SessionKey, uid: str, model: LoadedModel, batch_size: int, ttl_s: float, now: float
    ) -> None:
        self.key = key
        self.uid = uid
        self.model = model
        self.batch_size = batch_size
        self.ttl_s = ttl_s
        self.create_time = now
        self.expire_time = now + ttl_s
        self.step_count = 0
        self.serial = 0
        self.ended = ""
        self.state_rows: tuple[int, ...] = ()
        self.previous_rows: tuple[int, ...] = ()
        self.last_run: LastRun | None = None
        self.active: Work | None = None
        self.waiting: deque[Callable[[], None]] | None = None  # Made when something waits: most never need it.

    @property
    def rows(self) -> int:
        """The rows that are stepped together, at least 1."""
        return max(self.batch_size, 1)

    @property
    def busy(self) -> bool:
        """Whether a run is under way or waits."""
        return self.active is not None or bool(self.waiting)

    def snapshot(self, leaves: list[Array] | None = None) -> SessionSnapshot:
        """The session as it is now."""
        return SessionSnapshot(
            self.key,
            self.uid,
            self.model,
            self.batch_size,
            self.step_count,
            0 if self.last_run is None else self.last_run.run_id,
            self.ttl_s,
            self.create_time,
            self.expire_time,
            leaves,
        )

    @property
    def state_bytes(self) -> int:
        """The bytes of its state and of the copy from before its last run."""
        return 2 * self.rows * self.model.state_bytes_per_row


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
        # One entry a session, corrected when it comes up: renewing a session costs nothing here. Entries of sessions
        # that ended otherwise stay as stale ones until they are half of the heap.
        self._expiry: list[tuple[float, int, SessionKey]] = []
        self._next_serial = 0
        self._stale_entries = 0
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

    def create(self, key: SessionKey, model: LoadedModel, batch_size: int, ttl_s: float) -> Session:
        """Makes a session; the caller gives it rows.

        Raises:
            SessionExistsError: the id is taken.
            QuotaExceededError: the limit of sessions or of state bytes is reached.
        """
        now = self._clock()
        known = self._sessions.get(key)
        if known is not None:
            if known.expire_time > now or known.busy:
                raise SessionExistsError(
                    f"session_id: expected an id that is free; {key.id!r} is taken", metadata={"session": key.id}
                )
            self.end(known, "expired")
        session = Session(key, self._new_id(), model, batch_size, ttl_s, now)
        self._require_quota("max_sessions", len(self) + 1, self._config.max_sessions)
        self._require_quota("max_state_bytes", self.state_bytes + session.state_bytes, self._config.max_state_bytes)
        self._sessions[key] = session
        self.state_bytes += session.state_bytes
        self._next_serial += 1
        session.serial = self._next_serial
        heapq.heappush(self._expiry, (session.expire_time, session.serial, key))
        return session

    def begin_life(self, session: Session, cause: str) -> None:
        """Gives a session a new uid; ``cause`` (reset, set) is what the old one's users are told."""
        self._bury(session.key, session.uid, cause)
        session.uid = self._new_id()
        session.last_run = None
        self.renew(session)

    def renew(self, session: Session) -> None:
        """Puts a session's expiry off, because it was used."""
        session.expire_time = self._clock() + session.ttl_s

    def end(self, session: Session, cause: str) -> None:
        """Takes a session out; ``cause`` is what its users are told."""
        session.ended = cause
        del self._sessions[session.key]
        self.state_bytes -= session.state_bytes
        self._bury(session.key, session.uid, cause)
        if session.serial:
            self._drop_expiry_entry()
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
            if not self._expiry:
                return None
            due, serial, key = self._expiry[0]
            if due > now:
                return due
            session = self._sessions.get(key)
            if session is None or session.serial != serial:
                heapq.heappop(self._expiry)
                self._stale_entries -= 1
                continue
            if session.busy:
                self.renew(session)
            if session.expire_time > now:
                heapq.heapreplace(self._expiry, (session.expire_time, serial, key))
            else:
                heapq.heappop(self._expiry)
                session.serial = 0  # It has no entry any more.
                self.end(session, "expired")
        return self._expiry[0][0] if self._expiry else None

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

    def _drop_expiry_entry(self) -> None:
        self._stale_entries += 1
        if self._stale_entries > max(len(self._expiry) // 2, 1024):
            self._expiry = [(live.expire_time, live.serial, live.key) for live in self._sessions.values()]
            heapq.heapify(self._expiry)
            self._stale_entries = 0

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
