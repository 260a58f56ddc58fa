"""A thread with a connection to a SQLite file, and how operations on many records are done in it, damage or none."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, NamedTuple, TypeVar

from cellserve.errors import StoreUnavailableError
from cellserve_server.stores.sqlite_file import Connect, is_busy, is_damage, is_stale, unavailable

T = TypeVar("T")
Item = TypeVar("Item")
R = TypeVar("R")

READING = "BEGIN"
# The lock for writing is taken before anything is read, so that what a comparison saw still holds when it is set.
WRITING = "BEGIN IMMEDIATE"


class SqliteThread:
    """Does jobs one after the other on a connection of its own, which is made anew when it has broken.

    Args:
        name: of the thread.
        url: of the store, for messages.
        connect: opens a connection.
    """

    def __init__(self, name: str, url: str, connect: Connect) -> None:
        self._url = url
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        self._executor = ThreadPoolExecutor(1, name)
        self._jobs = 0  # that the thread has
        self._count = threading.Lock()
        self._is_closed = False

    async def run(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Does a job.

        Raises:
            StoreUnavailableError: SQLite failed; it says why.
        """
        if self._is_closed:
            raise StoreUnavailableError(f"the store {self._url}: it is closed")
        with self._count:
            self._jobs += 1
        under_way = self._executor.submit(self._run, job)
        # Not when whoever waits for it stops waiting: the thread goes on, with the connection.
        under_way.add_done_callback(self._note_done)
        return await asyncio.wrap_future(under_way)

    def run_here(self, job: Callable[[sqlite3.Connection], T]) -> T | None:
        """Does a short job on the event loop, where no lock of another process has to be waited for.

        Returns:
            What the job gave; None: it is to be given to the thread, nothing was done.

        Raises:
            StoreUnavailableError: as of ``run``.
        """
        connection = self._connection
        if self._jobs or self._is_closed or connection is None:
            return None
        (timeout_ms,) = connection.execute("PRAGMA busy_timeout").fetchone()
        connection.execute("PRAGMA busy_timeout = 0")
        try:
            return self._run(job)
        except StoreUnavailableError as error:
            if isinstance(error.__cause__, sqlite3.Error) and is_busy(error.__cause__):
                return None
            raise
        finally:
            if self._connection is connection:
                connection.execute(f"PRAGMA busy_timeout = {timeout_ms}")

    async def close(self) -> None:
        """Lets the connection go once the jobs that were begun are done."""
        if self._is_closed:
            return
        self._is_closed = True
        await asyncio.get_running_loop().run_in_executor(self._executor, self._drop)
        self._executor.shutdown()

    def _note_done(self, _: Future[Any]) -> None:
        with self._count:
            self._jobs -= 1

    def _run(self, job: Callable[[sqlite3.Connection], T]) -> T:
        try:
            if self._connection is None:
                self._connection = self._connect()
            return job(self._connection)
        except sqlite3.Error as error:
            if is_stale(error) or (self._connection is not None and self._connection.in_transaction):
                self._drop()
            raise unavailable(self._url, error) from error

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def transaction(connection: sqlite3.Connection, begin: str, body: Callable[[], T]) -> T:
    """Does something in a transaction, which is undone when it raises.

    Raises:
        sqlite3.Error: of the body, or of the transaction's end.
    """
    connection.execute(begin)
    try:
        result = body()
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    return result


class Batch(NamedTuple, Generic[Item, R]):
    """An operation on many records.

    Attributes:
        begin: ``READING`` or ``WRITING``.
        whole: does it for some records, in order.
        instead: does it for one record that ``whole`` could not do because the file is damaged; may fail likewise.
        lost: the result for a record of which nothing can be done; may raise ``sqlite3.Error``.
    """

    begin: str
    whole: Callable[[sqlite3.Connection, Sequence[Item], float], list[R]]
    instead: Callable[[sqlite3.Connection, Item, float], R]
    lost: Callable[[sqlite3.Connection, Item, float], R]

    def apply(self, connection: sqlite3.Connection, items: Sequence[Item], now: float) -> list[R]:
        """Does it in one transaction; where the file is damaged once more, in one for each record.

        SQLite never commits a transaction in which it met damage, not even when the statement that did was undone.
        """
        try:
            return transaction(connection, self.begin, lambda: self.whole(connection, items, now))
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
        return [self._apply_to_one(connection, item, now) for item in items]

    def _apply_to_one(self, connection: sqlite3.Connection, item: Item, now: float) -> R:
        ways: tuple[Callable[[], R], ...] = (
            lambda: self.whole(connection, (item,), now)[0],
            lambda: self.instead(connection, item, now),
        )
        for way in ways:
            try:
                return transaction(connection, self.begin, way)
            except sqlite3.Error as error:
                if not is_damage(error):
                    raise
        return self.lost(connection, item, now)
