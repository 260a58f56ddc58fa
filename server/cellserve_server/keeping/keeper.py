"""What stands between the sessions in memory and where they are kept: one contract, and the keeper of a server without
a store, for which memory is all there is. ``store_keeper`` has the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from cellserve.errors import CellServeError
from cellserve.tensors import Array
from cellserve_server.keeping.residents import Birth, Residents
from cellserve_server.keys import SessionKey
from cellserve_server.metrics import SessionMetrics
from cellserve_server.sessions.session import Origin, Session, SessionSnapshot

Outcome: TypeAlias = Session | CellServeError


class Keeper(Protocol):
    """Finds, makes and ends sessions, wherever they are. Whoever changes a session's life holds it meanwhile.

    Attributes:
        may_depart: whether sessions that live may leave memory.
    """

    may_depart: bool

    async def find(self, wanted: Sequence[tuple[SessionKey, str]], *, sure: bool = False) -> list[Outcome]:
        """The sessions of these keys, in memory from now on, each key once.

        Args:
            wanted: keys, each with the uid of the life that is meant, or an empty one.
            sure: whether it has to be known that no other replica has them by now. A step need not know: it is
                written, or refused. Whoever is only told of a session has to.

        Returns:
            For each the session, or why it is not to be had: ``SessionNotFoundError``, ``SessionMovedError``,
            ``RecordCorruptError``, ``ModelChangedError``, ``StoreUnavailableError``, ...
        """
        ...

    async def create(self, births: Sequence[Birth]) -> list[Outcome]:
        """Makes sessions, each key once.

        Returns:
            For each the session, or why it was not made: ``SessionExistsError``, ``QuotaExceededError``, ...
        """
        ...

    async def rewrite(
        self, session: Session, uid: str, step_count: int, leaves: Sequence[Array] | None, origin: Origin
    ) -> None:
        """A session that is held, and lives, is about to begin another life with this state; None: zeros.

        Raises:
            CellServeError: it cannot be kept; it is not to begin.
        """
        ...

    async def bury(self, session: Session, origin: Origin) -> None:
        """A session that is held, and lives, is about to be deleted.

        Raises:
            CellServeError: it cannot be noted; it is not to be deleted.
        """
        ...

    async def was_deleted_by(self, key: SessionKey, origin: Origin) -> bool:
        """Whether a session that is not there was deleted by this very request."""
        ...

    async def list_after(
        self, tenant: str, after_id: str, limit: int, model: str, id_contains: str
    ) -> tuple[list[SessionSnapshot], int]:
        """As ``SessionTable.list_after``, of all that there are."""
        ...


class MemoryKeeper:
    """Keeps nothing beside what is in memory.

    Args:
        residents: the sessions.
        metrics: told of sessions that are made.
    """

    def __init__(self, residents: Residents, metrics: SessionMetrics) -> None:
        self.may_depart = False
        self._residents = residents
        self._sessions = residents.sessions
        self._metrics = metrics

    async def find(self, wanted: Sequence[tuple[SessionKey, str]], *, sure: bool = False) -> list[Outcome]:
        """As ``Keeper.find``."""
        found: list[Outcome] = []
        for key, uid in wanted:
            try:
                found.append(self._sessions.get(key, uid))
            except CellServeError as error:
                found.append(error)
        return found

    async def create(self, births: Sequence[Birth]) -> list[Outcome]:
        """As ``Keeper.create``."""
        made: list[Outcome] = []
        for birth in births:
            try:
                made.append(self._residents.seat(birth))
            except CellServeError as error:
                made.append(error)
            else:
                self._metrics.session_created()
        return made

    async def rewrite(
        self, session: Session, uid: str, step_count: int, leaves: Sequence[Array] | None, origin: Origin
    ) -> None:
        """As ``Keeper.rewrite``: there is nothing to do."""

    async def bury(self, session: Session, origin: Origin) -> None:
        """As ``Keeper.bury``: there is nothing to do."""

    async def was_deleted_by(self, key: SessionKey, origin: Origin) -> bool:
        """As ``Keeper.was_deleted_by``: what this process knows of requests is remembered elsewhere."""
        return False

    async def list_after(
        self, tenant: str, after_id: str, limit: int, model: str, id_contains: str
    ) -> tuple[list[SessionSnapshot], int]:
        """As ``Keeper.list_after``."""
        return await self._sessions.list_after(tenant, after_id, limit, model, id_contains)
