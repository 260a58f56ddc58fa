"""What can be done with a session besides stepping it. Each operation waits its turn behind the runs before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cellserve.errors import CellServeError, SessionExistsError, SessionNotFoundError
from cellserve.tensors import Array
from cellserve_server.engine.engine import Engine, draining_error
from cellserve_server.keeping.keeper import Keeper, Outcome
from cellserve_server.keeping.residents import Birth, Residents
from cellserve_server.keeping.unbroken import unbroken
from cellserve_server.keys import SessionKey
from cellserve_server.models.repository import LoadedModel
from cellserve_server.sessions.activity import Activity
from cellserve_server.sessions.session import NO_ORIGIN, Origin, Session, SessionSnapshot
from cellserve_server.sessions.table import SessionTable


class SessionOperations:
    """Finds, creates, reads, resets, sets, forks and deletes sessions.

    Args:
        residents: the sessions in memory, and the engine.
        keeper: where they are kept.
        new_id: makes uids.
        default_ttl_s: how long a session lives unused that does not say, in seconds.

    Attributes:
        sessions: the sessions in memory.
        engine: steps them.
        activity: finds those in memory that are the most active.
        keeper: as given.
    """

    def __init__(self, residents: Residents, keeper: Keeper, new_id: Callable[[], str], default_ttl_s: float) -> None:
        self.sessions: SessionTable = residents.sessions
        self.engine: Engine = residents.engine
        self.activity: Activity = residents.activity
        self.keeper = keeper
        self._new_id = new_id
        self._default_ttl_s = default_ttl_s

    async def find(self, key: SessionKey, uid: str = "", *, sure: bool = False) -> Session:
        """A session, in memory from now on.

        Args:
            uid: the life that is meant; empty: whichever there is.
            sure: as of ``Keeper.find``.

        Raises:
            CellServeError: it is not there, another replica has it, its record is damaged, ...; as of ``Keeper.find``.
        """
        return _the_one(await self.keeper.find([(key, uid)], sure=sure))

    async def create(
        self,
        key: SessionKey,
        model: LoadedModel,
        batch_size: int,
        ttl_s: float | None = None,
        leaves: Sequence[Array] | None = None,
        *,
        step_count: int = 0,
        origin: Origin = NO_ORIGIN,
    ) -> Session:
        """Makes a session; if this very request made it before, gives that one.

        Args:
            batch_size: 0: one row, and vectors as inputs and outputs.
            ttl_s: None: the server's default.
            leaves: the state to begin with, ``[rows, units]`` each, checked before; None: zeros.
            step_count: to begin with.
            origin: the request.

        Raises:
            CellServeError: ``SessionExistsError``, ``QuotaExceededError``, ``StoreUnavailableError``, ...: nothing was
                made.
        """
        birth = Birth(key, model, batch_size, self._ttl_of(ttl_s), leaves, step_count, origin)
        try:
            session = _the_one(await self._create([birth]))
        except SessionExistsError as error:
            session = await self._made_before(birth, error)
        session.need(False)
        return session

    async def _made_before(self, birth: Birth, error: SessionExistsError) -> Session:
        """The session of an id that is taken, if this very request made it; a new one if it only seemed to be taken.

        What is there may have expired, or be an old copy of a session that another replica has ended.
        """
        try:
            session = await self.find(birth.key, sure=True)
        except SessionNotFoundError:
            return _the_one(await self._create([birth]))
        except CellServeError:
            if birth.origin.request_id:
                raise  # Whose it is is not known.
            raise error from None
        if not _was_begun_by(session, birth.origin):
            raise error
        return session

    async def open(
        self, keys: Sequence[SessionKey], model: LoadedModel, batch_size: int, ttl_s: float | None, *, create: bool
    ) -> list[Outcome]:
        """The sessions of some keys, each once; if asked for, those that are not there are made.

        Returns:
            For each the session, whatever its model and batch size, or why it is not to be had.
        """
        if self.engine.draining:
            raise draining_error()  # What came now would be let go at once.
        if not create:
            return await self.keeper.find([(key, "") for key in keys], sure=True)
        # In this order, because in bulk most of them are new.
        births = [Birth(key, model, batch_size, self._ttl_of(ttl_s)) for key in keys]
        opened = await self._create(births)
        there = _which(opened, SessionExistsError)
        if there:
            _put(opened, there, await self.keeper.find([(keys[index], "") for index in there], sure=True))
        # As of ``_made_before``: what seemed to be there.
        gone = [index for index in there if isinstance(opened[index], SessionNotFoundError)]
        if gone:
            _put(opened, gone, await self._create([births[index] for index in gone]))
        # While the others were looked for, some of the first may have left memory again.
        return [self._unless_ended(outcome) for outcome in opened]

    def _unless_ended(self, outcome: Outcome) -> Outcome:
        return self.sessions.ended_error(outcome) if isinstance(outcome, Session) and outcome.ended else outcome

    async def read(self, key: SessionKey, with_state: bool) -> SessionSnapshot:
        """The session as it is after the runs that arrived before, with a copy of its state if asked for.

        Raises:
            CellServeError: as of ``find``.
        """
        session = await self.find(key, sure=True)

        def read() -> SessionSnapshot:
            self.sessions.check_life(session, "")
            session.need(False)
            return session.snapshot(session.read_state() if with_state else None)

        return await self.engine.in_turn(session, read)

    async def delete(self, key: SessionKey, uid: str = "", origin: Origin = NO_ORIGIN) -> None:
        """Ends a session when its turn comes; if this very request did it before, that was it.

        Raises:
            CellServeError: as of ``find``.
        """
        try:
            session = await self.find(key, uid)
        except SessionNotFoundError:
            if origin.request_id and await self.keeper.was_deleted_by(key, origin):
                return
            raise
        async with self.engine.holding(session):
            self.sessions.check_life(session, uid)
            await unbroken(self._bury(session, origin))

    async def reset(self, key: SessionKey, uid: str = "", origin: Origin = NO_ORIGIN) -> SessionSnapshot:
        """Zeros a session's state and step count and begins a new life.

        Raises:
            CellServeError: as of ``find``.
        """
        return await self._begin_life(key, uid, "reset", None, 0, origin)

    async def set_state(
        self,
        key: SessionKey,
        uid: str,
        leaves: Sequence[Array],
        step_count: int | None = None,
        origin: Origin = NO_ORIGIN,
    ) -> SessionSnapshot:
        """Replaces a session's state and begins a new life.

        Args:
            leaves: ``[rows, units]`` each, checked before.
            step_count: the new count; None: it stays.

        Raises:
            CellServeError: as of ``find``.
        """
        return await self._begin_life(key, uid, "set", leaves, step_count, origin)

    async def fork(self, key: SessionKey, uid: str, new_key: SessionKey, origin: Origin = NO_ORIGIN) -> SessionSnapshot:
        """Makes a second session with a copy of the first one's state and step count.

        Raises:
            CellServeError: the first is not to be had, as of ``find``, or the second was not made, as of ``create``.
        """
        session = await self.find(key, uid, sure=True)

        def read() -> tuple[int, list[Array]]:
            self.sessions.check_life(session, uid)
            return session.step_count, session.read_state()

        step_count, leaves = await self.engine.in_turn(session, read)
        copy = await self.create(
            new_key,
            session.model,
            session.batch_size,
            session.ttl_s,
            leaves,
            step_count=step_count,
            origin=origin,
        )
        return copy.snapshot()

    async def _create(self, births: Sequence[Birth]) -> list[Outcome]:
        if self.engine.draining:
            raise draining_error()
        return await self.keeper.create(births)

    async def _begin_life(
        self,
        key: SessionKey,
        uid: str,
        cause: str,
        leaves: Sequence[Array] | None,
        step_count: int | None,
        origin: Origin,
    ) -> SessionSnapshot:
        # With a request_id the life that is there may be the one that this very request began; who has it by now has to
        # be known, for an old copy would deny the life that is meant.
        session = await self.find(key, "" if origin.request_id else uid, sure=bool(origin.request_id))
        async with self.engine.holding(session):
            if _was_begun_by(session, origin):
                return session.snapshot()
            self.sessions.check_life(session, uid)
            count = session.step_count if step_count is None else step_count
            return await unbroken(self._rewrite(session, cause, leaves, count, origin))

    # A caller who goes in the midst of these would leave one life in the store and another one in memory.

    async def _bury(self, session: Session, origin: Origin) -> None:
        await self.keeper.bury(session, origin)
        if not session.ended:
            self.sessions.end(session, "deleted")

    async def _rewrite(
        self, session: Session, cause: str, leaves: Sequence[Array] | None, step_count: int, origin: Origin
    ) -> SessionSnapshot:
        old_uid, new_uid = session.uid, self._new_id()
        await self.keeper.rewrite(session, new_uid, step_count, leaves, origin)
        self.sessions.check_life(session, old_uid)
        session.write_state(leaves)
        session.step_count = step_count
        self.sessions.begin_life(session, new_uid, cause)
        return session.snapshot()

    def _ttl_of(self, ttl_s: float | None) -> float:
        return self._default_ttl_s if ttl_s is None else ttl_s


def _which(outcomes: Sequence[Outcome], kind: type[CellServeError]) -> list[int]:
    return [index for index, outcome in enumerate(outcomes) if isinstance(outcome, kind)]


def _put(outcomes: list[Outcome], places: Sequence[int], others: Sequence[Outcome]) -> None:
    for place, other in zip(places, others, strict=True):
        outcomes[place] = other


def _was_begun_by(session: Session, origin: Origin) -> bool:
    return bool(origin.request_id) and session.kept is not None and session.kept.origin == origin


def _the_one(outcomes: Sequence[Outcome]) -> Session:
    (outcome,) = outcomes
    if isinstance(outcome, CellServeError):
        raise outcome
    return outcome
