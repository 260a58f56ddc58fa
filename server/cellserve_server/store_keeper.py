"""Keeps sessions in a store: what is in memory is a copy that this replica holds until somebody claims it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

import numpy as np
import structlog

from cellserve.errors import CellServeError, RecordCorruptError, StoreUnavailableError
from cellserve.tensors import Array
from cellserve.v1 import record_pb2
from cellserve_server.config import ServerConfig
from cellserve_server.flusher import Flusher
from cellserve_server.keeper import Outcome
from cellserve_server.keys import SessionKey
from cellserve_server.metrics import Metrics
from cellserve_server.models import LoadedModel
from cellserve_server.peers import Peers, address_of
from cellserve_server.records import decode_meta, encode_meta, encode_states
from cellserve_server.residents import Birth, Residents
from cellserve_server.seats import COLUMNS, EXPIRE, STEP_COUNT
from cellserve_server.session import Kept, Origin, Session, SessionSnapshot
from cellserve_server.sessions import DOUBTED, MOVED, RELEASED, exists_error
from cellserve_server.state_writer import GRACE_S
from cellserve_server.store_watch import StoreWatch
from cellserve_server.stored_listing import StoredListing
from cellserve_server.stores.base import Burial, Draft, Found, Held, Rewrite, Store
from cellserve_server.takeover import Takeover

# So long after a session has moved away, whoever asks for it here is sent there: two replicas that are both asked for
# a session would otherwise pull it to and fro with every step.
HOLD_S = 0.25
RELEASED_AT_ONCE = 1000

T = TypeVar("T")


class StoreKeeper:
    """Keeps sessions in a store.

    Args:
        config: the settings.
        store: the store.
        residents: the sessions in memory.
        takeover: brings sessions from the store.
        peers: the other replicas.
        metrics: told of sessions that are made.
        watch: told of failures of the store.
        clock: unix seconds.
        new_id: makes uids.

    Attributes:
        flusher: writes states after steps were answered; None: they are written before.
    """

    def __init__(
        self,
        config: ServerConfig,
        store: Store,
        residents: Residents,
        takeover: Takeover,
        peers: Peers,
        metrics: Metrics,
        watch: StoreWatch,
        clock: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self.flusher: Flusher | None = None
        self._config = config
        self._store = store
        self._residents = residents
        self._sessions = residents.sessions
        self._engine = residents.engine
        self._takeover = takeover
        self._peers = peers
        self._metrics = metrics
        self._watch = watch
        self._clock = clock
        self._new_id = new_id
        self._listing = StoredListing(store, self._sessions, clock)
        self._moved_at: dict[SessionKey, float] = {}  # in the order of their times
        self._changing: dict[SessionKey, asyncio.Future[None]] = {}
        self._asked: dict[SessionKey, tuple[int, str]] = {}  # of those that change: the epoch and the taker
        self._log = structlog.get_logger("cellserve.keeper")

    # --- as of Keeper ------------------------------------------------------------------------------------------------

    async def find(self, wanted: Sequence[tuple[SessionKey, str]], *, sure: bool = False) -> list[Outcome]:
        """As ``Keeper.find``."""
        outcomes: dict[SessionKey, Outcome] = {}
        here = [(self._sessions.resident(key), uid) for key, uid in wanted]
        # Another replica may have begun a life that is not known here.
        doubtful = [found for found, uid in here if found is not None and (sure or (uid and uid != found.uid))]
        if doubtful:
            await self.confirm(doubtful)
        missing = self._residents_of([key for key, _ in wanted], outcomes)
        missing += [key for key, _ in wanted if key in self._changing and key in outcomes]
        if missing:
            async with self._alone_with(missing):
                missing = self._residents_of(missing, outcomes)
                missing = await self._send_after_those_that_moved(missing, outcomes)
                if missing:
                    outcomes |= await self._watched("claim", lambda: self._takeover.bring(missing), missing)
        return [self._checked(key, uid, outcomes[key]) for key, uid in wanted]

    async def create(self, births: Sequence[Birth]) -> list[Outcome]:
        """As ``Keeper.create``."""
        outcomes: dict[SessionKey, Outcome] = {}
        async with self._alone_with([birth.key for birth in births]):
            fresh = []
            for birth in births:
                if self._sessions.resident(birth.key) is not None:
                    outcomes[birth.key] = exists_error(birth.key)
                else:
                    fresh.append(birth)
            if fresh:
                await self._create(fresh, outcomes)
        return [self._checked(birth.key, "", outcomes[birth.key]) for birth in births]

    async def rewrite(
        self, session: Session, uid: str, step_count: int, leaves: Sequence[Array] | None, origin: Origin
    ) -> None:
        """As ``Keeper.rewrite``."""
        assert session.kept is not None, "sessions of a server with a store have a record there"
        meta = _meta_of(session.model, session.batch_size, uid, session.ttl_s, session.create_time, origin)
        expire_time = self._clock() + session.ttl_s
        state = _state_bytes(session.model, session.rows, step_count, expire_time, leaves)
        states = (state, b"") if session.place == 0 else (b"", state)
        kept, record = session.kept, encode_meta(meta)

        def change() -> Awaitable[list[bool]]:
            return self._store.rewrite([Rewrite(*kept.held, record, states, expire_time + GRACE_S)])

        async with self._all_written(session):
            await self._change(session, "rewrite", change)
        session.kept = Kept(kept.held, origin)

    async def bury(self, session: Session, origin: Origin) -> None:
        """As ``Keeper.bury``."""
        assert session.kept is not None, "sessions of a server with a store have a record there"
        meta = record_pb2.SessionRecord(
            uid=session.uid,
            ended="deleted",
            request_id=origin.request_id,
            request_fingerprint=origin.fingerprint,
        )
        kept, tombstone = session.kept, encode_meta(meta)
        until = self._clock() + self._config.tombstone_ttl_s

        def change() -> Awaitable[list[bool]]:
            return self._store.bury([Burial(*kept.held, tombstone, until)])

        # Whoever looks for the key meanwhile finds it gone.
        async with self._alone_with([session.key]), self._all_written(session):
            await self._change(session, "bury", change)

    async def was_deleted_by(self, key: SessionKey, origin: Origin) -> bool:
        """As ``Keeper.was_deleted_by``."""
        (found,) = await self._store.look([key])
        if found is None or not found.tombstone:
            return False
        with contextlib.suppress(RecordCorruptError):  # Then it is not known, and the caller is told that it has gone.
            meta = decode_meta(found.tombstone)
            return Origin(meta.request_id, meta.request_fingerprint) == origin
        return False

    async def list_after(self, tenant: str, after_id: str, limit: int, model: str) -> tuple[list[SessionSnapshot], int]:
        """As ``Keeper.list_after``."""
        return await self._listing.page(tenant, after_id, limit, model)

    async def confirm(self, sessions: Sequence[Session]) -> None:
        """Looks whether sessions are still held here; those that another replica has taken unasked leave memory.

        Raises:
            StoreUnavailableError: it is not known.
        """
        # While a flush claims sessions anew, their epochs in the store are ahead of those here.
        async with self._nothing_on_its_way():
            held = [(session, session.kept) for session in sessions if not session.ended and session.kept]
            if not held:
                return
            keys = [session.key for session, _ in held]
            found = await self._watched("look", lambda: self._store.look(keys), keys)
        lost = [
            (session, what)
            for (session, kept), what in zip(held, found, strict=True)
            if what is None or what.tombstone or not self._is_ours(kept, what)
        ]
        for session, what in lost:
            if not session.ended:
                self._depart(session, MOVED, "" if what is None else address_of(what.owner))
        if lost:
            self._log.warning("lost_unasked", sessions=len(lost), example=lost[0][0].key.id)

    # --- letting go --------------------------------------------------------------------------------------------------

    def heard_from(self, taker: str) -> None:
        """Another replica asks for sessions: it is there."""
        self._peers.heard_from(taker)

    async def let_go(self, key: SessionKey, epoch: int, taker: str) -> bool:
        """Another replica wants a session: it goes once what is under way is over, and is in the store.

        Returns:
            Whether it was here, held by this epoch, or perhaps by this one.

        Raises:
            StoreUnavailableError: it could not be written; it stays.
        """
        session = self._sessions.resident(key)
        if session is None and key in self._changing:
            # It may be on its way into memory, claimed by this very epoch. Waiting for that might be waiting for one
            # another: it may be brought with others that the taker is asked for.
            self._asked[key] = (epoch, taker)
        if session is None or session.kept is None:
            return False
        if session.kept.held.epoch != epoch and not session.kept.is_doubted:
            return False
        async with self._engine.holding(session):
            if session.ended:
                return False
            await self._write_before_it_goes(session)
            if not session.ended:
                self._depart(session, MOVED, taker)
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
                self._depart(session, MOVED, "" if what is None else address_of(what.owner))

    def on_doubt(self, sessions: Sequence[Session], error: StoreUnavailableError) -> None:
        """It is not known what the store has of these sessions: it is read again when they are asked for."""
        self._metrics.store_failed("write")
        self._watch.note_failure()
        self._log.warning("store_write_failed", sessions=len(sessions), error=error.message)
        for session in sessions:
            self._depart(session, DOUBTED, why=error.message)

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
                    self._depart(session, RELEASED)

    @property
    def unwritten(self) -> int:
        """The sessions of which the store does not have all that was answered."""
        return sum(len(seats.dirty()) for seats in self._engine.lanes.tables())

    def _depart(self, session: Session, cause: str, new_owner: str = "", why: str = "") -> None:
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

    # -----------------------------------------------------------------------------------------------------------------

    def _residents_of(self, keys: Sequence[SessionKey], outcomes: dict[SessionKey, Outcome]) -> list[SessionKey]:
        """Notes the sessions that are in memory; gives the keys of the others."""
        missing = []
        for key in keys:
            session = self._sessions.resident(key)
            if session is None:
                missing.append(key)
            else:
                outcomes[key] = session
        return missing

    async def _send_after_those_that_moved(
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

    def _checked(self, key: SessionKey, uid: str, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Session):
            if outcome.ended:  # While the others were looked for.
                return self._sessions.ended_error(outcome)
            if uid and uid != outcome.uid:
                return self._sessions.not_found(key, uid)
        return outcome

    async def _create(self, births: Sequence[Birth], outcomes: dict[SessionKey, Outcome]) -> None:
        now = self._clock()
        uids = [self._new_id() for _ in births]
        drafts = []
        for birth, uid in zip(births, uids, strict=True):
            meta = _meta_of(birth.model, birth.batch_size, uid, birth.ttl_s, now, birth.origin)
            state = _state_bytes(birth.model, birth.rows, birth.step_count, now + birth.ttl_s, birth.leaves)
            # Microseconds: no earlier record of the key had as high a number.
            epoch, expire_time = int(now * 1e6), now + birth.ttl_s + GRACE_S
            drafts.append(Draft(birth.key, epoch, self._peers.owner, encode_meta(meta), (state, b""), expire_time))
        keys = [birth.key for birth in births]
        made = await self._watched("create", lambda: self._store.create(drafts), keys)
        for birth, uid, held in zip(births, uids, made, strict=True):
            if held is None:
                outcomes[birth.key] = exists_error(birth.key)
                continue
            try:
                await self._residents.make_room(birth)
                session = self._residents.seat(birth, uid, is_soft=True)
            except CellServeError as error:
                outcomes[birth.key] = error
                await self._take_back(uid, held)
            else:
                session.kept = Kept(held, birth.origin)
                session.need(True)
                outcomes[birth.key] = session
                self._metrics.session_created()

    async def _take_back(self, uid: str, held: Held) -> None:
        """There was no room for a session that the store has already."""
        tombstone = encode_meta(record_pb2.SessionRecord(uid=uid, ended="unknown"))
        await self._store.bury([Burial(held.ref, held.epoch, tombstone, self._clock())])

    async def _change(self, session: Session, operation: str, change: Callable[[], Awaitable[list[bool]]]) -> None:
        """Changes a session's record, or sends the session away and raises why."""
        try:
            (done,) = await self._watched(operation, change, [session.key])
        except (StoreUnavailableError, asyncio.CancelledError) as error:
            # Whether it is done is not known: be it that the store failed, or that the caller has gone.
            if not session.ended:
                self._depart(session, DOUBTED, why=str(error))
            raise
        if not done:
            await self.on_fenced([session])
            raise self._sessions.ended_error(session)

    async def _watched(self, operation: str, do: Callable[[], Awaitable[T]], keys: Sequence[SessionKey]) -> T:
        """Does an operation of the store, counted and, if it fails, logged."""
        started = time.perf_counter()
        try:
            result = await do()
        except StoreUnavailableError as error:
            self._metrics.store_failed(operation)
            self._watch.note_failure()
            self._log.warning("store_failed", operation=operation, sessions=len(keys), error=error.message)
            raise
        self._metrics.store_seconds(operation, time.perf_counter() - started)
        return result

    @contextlib.asynccontextmanager
    async def _all_written(self, session: Session) -> AsyncIterator[None]:
        """While a record is changed no state of the life before may come later.

        It has been written before: were the outcome of the change not known, the session would leave memory.

        Raises:
            CellServeError: it could not be written, or another replica has it.
        """
        async with self._nothing_on_its_way():
            if self.flusher is not None:
                await self.flusher.flush_alone(session)
            if session.ended:
                raise self._sessions.ended_error(session)
            yield

    def _nothing_on_its_way(self) -> contextlib.AbstractAsyncContextManager[object]:
        """No states are being written meanwhile, and no sessions claimed anew whose last write may come late."""
        return contextlib.nullcontext() if self.flusher is None else self.flusher.lock

    @contextlib.asynccontextmanager
    async def _alone_with(self, keys: Sequence[SessionKey]) -> AsyncIterator[None]:
        """Nobody else here brings or makes these sessions meanwhile."""
        while others := {self._changing[key] for key in keys if key in self._changing}:
            await asyncio.wait(others)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._changing.update(dict.fromkeys(keys, done))
        try:
            yield
        finally:
            for key in keys:
                del self._changing[key]
                self._send_if_asked(key)
            done.set_result(None)

    def _send_if_asked(self, key: SessionKey) -> None:
        """A session that was asked for while it was brought or made has gone to the taker before anybody used it."""
        epoch, taker = self._asked.pop(key, (0, ""))
        session = self._sessions.resident(key)
        if session is not None and session.kept is not None and session.kept.held.epoch == epoch:
            self._depart(session, MOVED, taker)


def _meta_of(
    model: LoadedModel, batch_size: int, uid: str, ttl_s: float, create_time: float, origin: Origin
) -> record_pb2.SessionRecord:
    return record_pb2.SessionRecord(
        uid=uid,
        model=model.resource_name,
        model_digest=model.digest,
        model_defined=model.tenant is not None,
        batch_size=batch_size,
        leaf_sizes=model.leaf_sizes,
        dtype=np.dtype(model.description.dtype).name,
        ttl=ttl_s,
        create_time=create_time,
        request_id=origin.request_id,
        request_fingerprint=origin.fingerprint,
    )


def _state_bytes(
    model: LoadedModel, rows: int, step_count: int, expire_time: float, leaves: Sequence[Array] | None
) -> bytes:
    """A state with which a life begins; None: zeros."""
    record = np.zeros((1, COLUMNS), np.int64)
    record[0, STEP_COUNT] = step_count
    record.view(np.float64)[0, EXPIRE] = expire_time
    if leaves is None:
        leaves = [np.zeros((rows, size), model.description.dtype) for size in model.leaf_sizes]
    (state,) = encode_states(record, leaves, rows)
    return state
