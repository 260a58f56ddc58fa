"""Records in a SQLite file: the store of one machine. They outlive the process, and with fsync the loss of power.

One thread writes, another reads, a third brings what was written from the log into the file. Several processes may use
one file; SQLite's locks keep them apart.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

import structlog

from cellserve.errors import StoreUnavailableError
from cellserve_server.binding import StartError
from cellserve_server.keys import SessionKey
from cellserve_server.stores import sqlite_records as records
from cellserve_server.stores import sqlite_upkeep as upkeep
from cellserve_server.stores.base import Burial, Draft, Found, Held, Rewrite, Store, Stored, Write, next_epoch
from cellserve_server.stores.sqlite_file import PAGE_BYTES, connect, is_damage, prepare
from cellserve_server.stores.sqlite_thread import READING, WRITING, Batch, SqliteThread, transaction

Item = TypeVar("Item")
R = TypeVar("R")

# The first with upserts.
OLDEST_SQLITE = (3, 24)
DEFAULT_TIMEOUT_S = 2.0
# The log is brought into the file when about so much of it was written: 32 MiB.
CHECKPOINT_PAGES = 8192
# So many states, some 2 us each, are written on the event loop. A thread that writes beside a busy loop loses and
# regains the interpreter's lock at each row: 128 took 2.3 ms there, where they take 0.3 ms here, and twice the CPU.
MAX_WRITES_HERE = 512
# The log begins anew at a write that finds all of it brought in, and under load none does: more is written meanwhile.
# When it has grown to 256 MiB, the writing thread brings in the rest itself, and writes wait.
MAX_LOG_PAGES = 65_536


def _refuse(_: sqlite3.Connection, __: object, ___: float) -> bool:
    # Whoever holds the record drops its copy, claims it again, and learns that it cannot be read.
    return False


_LOOK: Batch[SessionKey, Found | None] = Batch(
    READING, records.look, records.look_without_places, lambda *_: Found(0, "", b"")
)
_CLAIM: Batch[records.Claim, Stored | None] = Batch(
    WRITING,
    records.claim,
    records.claim_without_places,
    lambda _, claim, now: records.unreadable(claim.key, epoch=next_epoch(claim.epoch, now), owner=claim.owner),
)
_READ: Batch[tuple[SessionKey, int], Stored | None] = Batch(
    READING, upkeep.read, upkeep.read_without_places, lambda _, row, __: records.unreadable(*row)
)
_CREATE: Batch[Draft, Held | None] = Batch(WRITING, records.create, records.create_nothing, records.cannot_create)
_WRITE: Batch[Write, bool] = Batch(WRITING, records.write, _refuse, _refuse)
_REWRITE: Batch[Rewrite, bool] = Batch(WRITING, records.rewrite, _refuse, _refuse)
_BURY: Batch[Burial, bool] = Batch(WRITING, records.bury, records.bury_without_places, _refuse)
_SET_ASIDE: Batch[Burial, bool] = Batch(WRITING, records.set_aside, records.bury_without_places, _refuse)
_RELEASE: Batch[Held, None] = Batch(WRITING, records.release, lambda *_: None, lambda *_: None)
_REMOVE: Batch[int, bool] = Batch(WRITING, upkeep.remove_expired, _refuse, _refuse)


class SqliteStore(Store):
    """Keeps records in a file.

    Args:
        path: of the file; it is made if it is not there, its folder is not.
        clock: unix seconds.
        fsync: whether each commit reaches the disk.
        timeout_s: how long another process's lock is waited for.
        max_pages: how large the file may become, in pages of 4 KiB; None: as large as the disk allows.
    """

    def __init__(
        self,
        path: str,
        clock: Callable[[], float],
        fsync: bool = False,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_pages: int | None = None,
    ) -> None:
        self.url = f"sqlite:{path}"
        self.is_volatile = False
        self._path = path
        self._fsync = fsync
        self._clock = clock
        open_file = partial(connect, path, timeout_s, fsync, max_pages)
        self._writer = SqliteThread("sqlite-writer", self.url, open_file)
        self._reader = SqliteThread("sqlite-reader", self.url, open_file)
        self._checkpointer = SqliteThread("sqlite-checkpointer", self.url, open_file)
        self._pages = 0
        self._checkpoint: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("cellserve.stores.sqlite")

    async def open(self) -> None:
        """Makes the file if it is not there, and looks it over.

        Raises:
            StartError: it cannot be used; the message says what is wrong and what to do.
        """
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise StartError(
                f"--store: {self.url} needs SQLite 3.24 or newer; this Python has {sqlite3.sqlite_version}"
            )
        try:
            await self._writer.run(lambda connection: prepare(connection, self.url, self._path))
        except StoreUnavailableError as error:
            cause = error.__cause__
            is_damaged = isinstance(cause, sqlite3.Error) and is_damage(cause)
            remedy = (
                "restore it from a copy, move it away, or name another one"
                if is_damaged
                else "expected a file that this user may write, its -wal and -shm too, in a folder that may be written"
            )
            raise StartError(f"--store: {error.message.removeprefix('the store ')}; {remedy}") from error

    async def close(self) -> None:
        """Lets the file go. Operations under way are finished."""
        if self._checkpoint is not None:
            await self._checkpoint
        for thread in (self._reader, self._checkpointer, self._writer):
            await thread.close()

    async def look(self, keys: Sequence[SessionKey]) -> list[Found | None]:
        """What there is of each; None: nothing. Of one that cannot be read: epoch 0, for ``claim``."""
        return await self._do(self._reader, _LOOK, keys)

    async def claim(self, found: Sequence[tuple[SessionKey, int]], owner: str) -> list[Stored | None]:
        """Takes records that are at these epochs; None: another epoch, or nothing lives there."""
        return await self._do(self._writer, _CLAIM, [records.Claim(key, epoch, owner) for key, epoch in found])

    async def create(self, drafts: Sequence[Draft]) -> list[Held | None]:
        """Makes records; None: a living one is there, or one that cannot be read."""
        made = await self._do(self._writer, _CREATE, drafts)
        self._note_written(len(draft.meta) + sum(map(len, draft.states)) for draft in drafts)
        return made

    async def write(self, writes: Sequence[Write]) -> list[bool]:
        """Overwrites one state each. False: another holds the record now, it is gone, or it is damaged."""
        written = self._write_here(writes)
        if written is None:
            written = await self._do(self._writer, _WRITE, writes)
        self._note_written(len(write.state) for write in writes)
        return written

    async def rewrite(self, rewrites: Sequence[Rewrite]) -> list[bool]:
        """Overwrites records. False: as of ``write``."""
        written = await self._do(self._writer, _REWRITE, rewrites)
        self._note_written(len(item.meta) + sum(map(len, item.states)) for item in rewrites)
        return written

    async def bury(self, burials: Sequence[Burial]) -> list[bool]:
        """Puts tombstones in records' places. False: as of ``write``."""
        return await self._do(self._writer, _BURY, burials)

    async def set_aside(self, burials: Sequence[Burial]) -> list[bool]:
        """As ``bury``, but keeps what the record was."""
        return await self._do(self._writer, _SET_ASIDE, burials)

    async def release(self, held: Sequence[Held]) -> None:
        """Lets records go; those that others hold stay theirs."""
        await self._do(self._writer, _RELEASE, held)

    async def list_after(self, tenant: str, after_id: str, limit: int) -> list[Stored]:
        """The tenant's living records by id, from the first above ``after_id``."""
        found: list[Stored] = []
        while len(found) < limit:
            wanted = limit - len(found)
            rows = await self._reader.run(partial(upkeep.read_ids, tenant=tenant, after_id=after_id, limit=wanted))
            found += [record for record in await self._do(self._reader, _READ, rows) if record is not None]
            if len(rows) < wanted:
                break
            after_id = rows[-1][0].id
        return found

    async def count(self, tenant: str) -> int:
        """How many living records the tenant has, those that expired since the last sweep among them."""
        return await self._reader.run(partial(upkeep.count, tenant=tenant))

    async def tenants(self) -> list[str]:
        """Everyone who has records, or had some lately."""
        return await self._reader.run(upkeep.tenants)

    async def put_model(self, tenant: str, name: str, content: bytes, expire_time: float) -> None:
        """Keeps a model that a client defined, at least until then."""
        model = (tenant, name, content, expire_time)
        await self._write_alone(lambda connection: upkeep.put_model(connection, *model))
        self._note_written([len(content)])

    async def get_model(self, tenant: str, name: str) -> bytes | None:
        """Such a model; None: it is not there."""
        return await self._reader.run(partial(upkeep.get_model, tenant=tenant, name=name, now=self._clock()))

    async def keep_model(self, tenant: str, name: str, expire_time: float) -> bool:
        """Puts a model's expiry off; False: it is not there."""
        now = self._clock()
        return await self._write_alone(lambda connection: upkeep.keep_model(connection, tenant, name, expire_time, now))

    async def sweep(self, limit: int) -> int:
        """Removes records and models that expired, about so many at most; returns how many."""
        now = self._clock()
        refs = await self._reader.run(partial(upkeep.read_expired, limit=limit, now=now))
        removed = sum(await self._do(self._writer, _REMOVE, refs))
        return removed + await self._write_alone(
            lambda connection: upkeep.remove_expired_models(connection, limit, now)
        )

    def _write_here(self, writes: Sequence[Write]) -> list[bool] | None:
        """Writes on the event loop what is soon written; None: it is the thread's to write."""
        if self._fsync or not 0 < len(writes) <= MAX_WRITES_HERE:
            return None
        now = self._clock()
        return self._writer.run_here(lambda connection: _WRITE.apply(connection, writes, now))

    async def _do(self, thread: SqliteThread, batch: Batch[Item, R], items: Sequence[Item]) -> list[R]:
        if not items:
            return []
        now = self._clock()
        return await thread.run(lambda connection: batch.apply(connection, items, now))

    async def _write_alone(self, body: Callable[[sqlite3.Connection], R]) -> R:
        return await self._writer.run(lambda connection: transaction(connection, WRITING, lambda: body(connection)))

    def _note_written(self, sizes: Iterable[int]) -> None:
        """Counts about how many pages the log has grown by, from the bytes of the rows written."""
        self._pages += sum(1 + size // PAGE_BYTES for size in sizes)
        if self._pages >= CHECKPOINT_PAGES and (self._checkpoint is None or self._checkpoint.done()):
            self._pages = 0
            self._checkpoint = asyncio.get_running_loop().create_task(self._bring_in())

    async def _bring_in(self) -> None:
        """Brings the log into the file beside the writing, and lets it begin anew."""
        try:
            if await self._checkpointer.run(_checkpoint) >= MAX_LOG_PAGES:
                await self._writer.run(_checkpoint)
        except StoreUnavailableError as error:
            # The records are safe in the log; it is tried again when as much more was written.
            self._log.warning("store_checkpoint_failed", store=self.url, error=error.message)


def _checkpoint(connection: sqlite3.Connection) -> int:
    """Brings into the file what it can without keeping anyone waiting; returns how many pages the log had by then."""
    _, logged, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return int(logged)
