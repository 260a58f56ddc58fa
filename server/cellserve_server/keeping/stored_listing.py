"""Lists the sessions of a store, as they are where this replica has a newer copy in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import structlog

from cellserve.errors import RecordCorruptError
from cellserve_server.sessions.records import decode_meta, newest_numbers
from cellserve_server.sessions.session import SessionSnapshot
from cellserve_server.sessions.table import SessionTable
from cellserve_server.stores.base import Store, Stored

RECORDS_AT_ONCE = 500


class StoredListing:
    """Lists sessions.

    Args:
        store: where they are.
        sessions: those in memory.
        clock: unix seconds.
    """

    def __init__(self, store: Store, sessions: SessionTable, clock: Callable[[], float]) -> None:
        self._store = store
        self._sessions = sessions
        self._clock = clock
        self._log = structlog.get_logger("cellserve.listing")

    async def page(
        self, tenant: str, after_id: str, limit: int, model: str, id_contains: str
    ) -> tuple[list[SessionSnapshot], int]:
        """A page of a tenant's sessions by id, and how many there are in all; as of ``SessionTable.list_after``.

        With a model, or a part of the ids, all of the tenant's records are read, to know how many are meant.

        Raises:
            StoreUnavailableError: it is not known what there is.
        """
        page: list[SessionSnapshot] = []
        if not model and not id_contains:
            async for snapshot in self._all(tenant, after_id):
                page.append(snapshot)
                if len(page) == limit:
                    break
            return page, await self._store.count(tenant)
        total, prefix = 0, f"{model}/" if model else ""
        async for snapshot in self._all(tenant, ""):
            if id_contains not in snapshot.key.id or not f"{snapshot.model_name}/".startswith(prefix):
                continue
            total += 1
            if snapshot.key.id > after_id and len(page) < limit:
                page.append(snapshot)
        return page, total

    async def _all(self, tenant: str, after_id: str) -> AsyncIterator[SessionSnapshot]:
        while records := await self._store.list_after(tenant, after_id, RECORDS_AT_ONCE):
            for stored in records:
                snapshot = self._snapshot(stored)
                if snapshot is not None:
                    yield snapshot
            after_id = records[-1].key.id

    def _snapshot(self, stored: Stored) -> SessionSnapshot | None:
        """The session; None: it has expired, or its record is damaged, which its users are told when they ask."""
        session = self._sessions.resident(stored.key)
        if session is not None:
            return session.snapshot()
        try:
            meta = decode_meta(stored.meta)
            numbers = newest_numbers(stored.states)
        except RecordCorruptError as error:
            self._log.warning("record_unreadable", session=stored.key.id, tenant=stored.key.tenant, error=str(error))
            return None
        if numbers.expire_time <= self._clock():
            return None
        return SessionSnapshot(
            stored.key,
            meta.uid,
            meta.model,
            None,
            meta.batch_size,
            numbers.step_count,
            numbers.run_id,
            meta.ttl,
            meta.create_time,
            numbers.expire_time,
        )
