"""Keeps sessions in a store: what is in memory is a copy that this replica holds until somebody claims it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from cellserve.errors import CellServeError, RecordCorruptError, StoreUnavailableError
from cellserve.tensors import Array
from cellserve_server.config import ServerConfig
from cellserve_server.engine.state_writer import GRACE_S
from cellserve_server.keeping.departures import Departures
from cellserve_server.keeping.keeper import Outcome
from cellserve_server.keeping.new_lives import first_state, meta_of, tombstone_of
from cellserve_server.keeping.peers import Peers
from cellserve_server.keeping.residents import Birth, Residents
from cellserve_server.keeping.store_watch import StoreWatch
from cellserve_server.keeping.stored_listing import StoredListing
from cellserve_server.keeping.stored_quota import StoredQuota
from cellserve_server.keeping.takeover import Takeover
from cellserve_server.keys import SessionKey
from cellserve_server.metrics import SessionMetrics
from cellserve_server.sessions.records import decode_meta, encode_meta
from cellserve_server.sessions.session import Kept, Origin, Session, SessionSnapshot
from cellserve_server.sessions.table import DOUBTED, MOVED, exists_error
from cellserve_server.stores.base import Burial, Draft, Held, Rewrite, Store


class StoreKeeper:
    """Keeps sessions in a store.

    Args:
        config: the settings.
        store: the store.
        residents: the sessions in memory.
        takeover: brings sessions from the store.
        departures: sends sessions away.
        peers: the other replicas.
        metrics: told of sessions that are made.
        watch: does the operations of the store.
        clock: unix seconds.
        new_id: makes uids.
    """

    def __init__(
        self,
        config: ServerConfig,
        store: Store,
        residents: Residents,
        takeover: Takeover,
        departures: Departures,
        peers: Peers,
        metrics: SessionMetrics,
        watch: StoreWatch,
        clock: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self.may_depart = True
        self._config = config
        self._store = store
        self._residents = residents
        self._sessions = residents.sessions
        self._takeover = takeover
        self._departures = departures
        self._peers = peers
        self._metrics = metrics
        self._watch = watch
        self._clock = clock
        self._new_id = new_id
        self._quota = StoredQuota(store, residents.limits, clock)
        self._listing = StoredListing(store, self._sessions, clock)
        self._changing: dict[SessionKey, asyncio.Future[None]] = {}
        self._asked: dict[SessionKey, tuple[int, str]] = {}  # of those that change: the epoch and the taker

    # --- as of Keeper ------------------------------------------------------------------------------------------------

    async def find(self, wanted: Sequence[tuple[SessionKey, str]], *, sure: bool = False) -> list[Outcome]:
        """As ``Keeper.find``."""
        outcomes: dict[SessionKey, Outcome] = {}
        here = [(self._sessions.resident(key), uid) for key, uid in wanted]
        # Another replica may have begun a life that is not known here.
        doubtful = [found for found, uid in here if found is not None and (sure or (uid and uid != found.uid))]
        if doubtful:
            await self._departures.confirm(doubtful)
        missing = self._residents_of([key for key, _ in wanted], outcomes)
        missing += [key for key, _ in wanted if key in self._changing and key in outcomes]
        if missing:
            async with self._alone_with(missing):
                missing = self._residents_of(missing, outcomes)
                missing = await self._departures.send_after_those_that_moved(missing, outcomes)
                if missing:
                    outcomes |= await self._watch.watched("claim", lambda: self._takeover.bring(missing), missing)
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
        meta = meta_of(session.model, session.batch_size, uid, session.ttl_s, session.create_time, origin)
        expire_time = self._clock() + session.ttl_s
        state = first_state(session.model, session.rows, step_count, expire_time, leaves)
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
        kept, tombstone = session.kept, tombstone_of(session.uid, "deleted", origin)
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

    async def list_after(
        self, tenant: str, after_id: str, limit: int, model: str, id_contains: str
    ) -> tuple[list[SessionSnapshot], int]:
        """As ``Keeper.list_after``."""
        return await self._listing.page(tenant, after_id, limit, model, id_contains)

    # --- letting go --------------------------------------------------------------------------------------------------

    def is_asked_by_a_peer(self, taker: str, holder: str) -> bool:
        """Whether it is another replica that asks for sessions.

        Args:
            taker: its address.
            holder: whom it asks, as only the store says it.
        """
        if not self._peers.is_owner(holder):
            return False
        self._peers.heard_from(taker)
        return True

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
        return await self._departures.let_go(session, taker)

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

    def _checked(self, key: SessionKey, uid: str, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Session):
            if outcome.ended:  # While the others were looked for.
                return self._sessions.ended_error(outcome)
            if uid and uid != outcome.uid:
                return self._sessions.not_found(key, uid)
        return outcome

    async def _create(self, births: Sequence[Birth], outcomes: dict[SessionKey, Outcome]) -> None:
        tenant = births[0].key.tenant  # They are of one request.
        given = await self._quota.take(tenant, len(births))
        outcomes.update((birth.key, self._quota.error(tenant)) for birth in births[given:])
        births = births[:given]
        now = self._clock()
        uids = [self._new_id() for _ in births]
        drafts = []
        for birth, uid in zip(births, uids, strict=True):
            meta = meta_of(birth.model, birth.batch_size, uid, birth.ttl_s, now, birth.origin)
            state = first_state(birth.model, birth.rows, birth.step_count, now + birth.ttl_s, birth.leaves)
            # Microseconds: no earlier record of the key had as high a number.
            epoch, expire_time = int(now * 1e6), now + birth.ttl_s + GRACE_S
            drafts.append(Draft(birth.key, epoch, self._peers.owner, encode_meta(meta), (state, b""), expire_time))
        keys = [birth.key for birth in births]
        made = await self._watch.watched("create", lambda: self._store.create(drafts), keys)
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
        await self._store.bury([Burial(*held, tombstone_of(uid, "unknown"), self._clock())])

    async def _change(self, session: Session, operation: str, change: Callable[[], Awaitable[list[bool]]]) -> None:
        """Changes a session's record, or sends the session away and raises why."""
        try:
            (done,) = await self._watch.watched(operation, change, [session.key])
        except (StoreUnavailableError, asyncio.CancelledError) as error:
            # Whether it is done is not known: be it that the store failed, or that the caller has gone.
            if not session.ended:
                self._departures.depart(session, DOUBTED, why=str(error))
            raise
        if not done:
            await self._departures.on_fenced([session])
            raise self._sessions.ended_error(session)

    @contextlib.asynccontextmanager
    async def _all_written(self, session: Session) -> AsyncIterator[None]:
        """While a record is changed no state of the life before may come later.

        It has been written before: were the outcome of the change not known, the session would leave memory.

        Raises:
            CellServeError: it could not be written, or another replica has it.
        """
        async with self._departures.nothing_on_its_way():
            if self._departures.flusher is not None:
                await self._departures.flusher.flush_alone(session)
            if session.ended:
                raise self._sessions.ended_error(session)
            yield

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
            self._departures.depart(session, MOVED, taker)
