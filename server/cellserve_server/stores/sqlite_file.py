"""The file of the SQLite store: its layout and versions, how it is opened and looked over, what its errors mean.

Tried with 256 updates of states of 1,100 bytes a transaction, 20,000 sessions, 150 transactions each; milliseconds a
transaction, on average, for the same sessions each time, made together / for sessions drawn at random (two cores, a
virtual disk, not quite idle):

- with a checkpoint each 4 MiB: pages of 4 KiB 1.1 / 4.7, 8 KiB 0.9 / 6.5, 16 KiB 0.8 / 10. A commit writes every page
  that it touches, and a tick's sessions are neighbours only if they were made together. ``WITHOUT ROWID`` (4 KiB):
  1.8 / 10; such rows may have a quarter of a page, and the rest of them stands elsewhere;
- pages of 4 KiB, a checkpoint each 32 MiB: 0.9 / 3.3; each 128 MiB: 0.8 / 3.1. A commit with a checkpoint in it took
  up to 60 ms, so checkpoints are another thread's work (``sqlite.py``);
- a larger page cache, ``mmap_size`` and sorting by id make no difference; ``synchronous=FULL`` adds 0.3 to 0.5.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable

import structlog

from cellserve.errors import StoreUnavailableError
from cellserve_server.binding import StartError

SCHEMA_VERSION = 1
PAGE_BYTES = 4096
# Files above this size are not looked through at the start: it would take longer than anybody waits.
MAX_CHECKED_BYTES = 1 << 30
MAX_CHECK_LINES = 10
# A log that grew beyond this under load is cut when it begins anew.
MAX_IDLE_LOG_BYTES = 64 << 20
RETRY_AFTER_S = 1.0

# A session is a row of ``sessions`` and one of each place. What every step writes is a row of a place alone, small,
# with the epoch beside it, so that it is fenced without a look elsewhere. ``AUTOINCREMENT``: no id ever means another
# session. ``sessions.expire`` is only the earliest time at which the record may have expired; the latest of the three
# counts.
_SCHEMA = """
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    owner TEXT NOT NULL,
    expire REAL NOT NULL,
    tombstone BLOB,
    meta BLOB NOT NULL,
    UNIQUE (tenant, name)
);
CREATE INDEX sessions_by_expire ON sessions (expire);
CREATE INDEX living_sessions ON sessions (tenant) WHERE tombstone IS NULL;
CREATE TABLE place_0 (id INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, expire REAL NOT NULL, state BLOB NOT NULL);
CREATE TABLE place_1 (id INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, expire REAL NOT NULL, state BLOB NOT NULL);
CREATE TABLE models (
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    expire REAL NOT NULL,
    content BLOB NOT NULL,
    PRIMARY KEY (tenant, name)
);
CREATE INDEX models_by_expire ON models (expire);
"""
# What leads from each version to the next one, from 0, an empty file, on.
_MIGRATIONS: tuple[str, ...] = (_SCHEMA,)

_CORRUPT = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})
# After these a connection may hold on to something that is not there any more.
_STALE = frozenset(
    {
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)
_MEANINGS: dict[int, str] = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_READONLY: "the file cannot be written",
    sqlite3.SQLITE_PERM: "the file cannot be written",
    sqlite3.SQLITE_BUSY: "another process has kept the file locked for too long",
    sqlite3.SQLITE_LOCKED: "another process has kept the file locked for too long",
    sqlite3.SQLITE_IOERR: "the disk failed",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened",
    sqlite3.SQLITE_CORRUPT: "the file is damaged",
    sqlite3.SQLITE_NOTADB: "the file is no SQLite database, or its first page is damaged",
    sqlite3.SQLITE_FORMAT: "the file is damaged",
    sqlite3.SQLITE_TOOBIG: "a record is larger than SQLite allows",
}

Connect = Callable[[], sqlite3.Connection]


def error_code(error: sqlite3.Error) -> int:
    """The primary code of SQLite's error; 0 where the module itself raised it."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error says that something in the file cannot be read.

    The module itself raises ``OperationalError`` for a text that is no UTF-8.
    """
    code = error_code(error)
    return code in _CORRUPT or (code == 0 and isinstance(error, sqlite3.OperationalError))


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another process has the file locked; nothing was done."""
    return error_code(error) == sqlite3.SQLITE_BUSY


def is_stale(error: sqlite3.Error) -> bool:
    """Whether the connection is to be made anew before the next operation."""
    return error_code(error) in _STALE


def meaning(error: sqlite3.Error) -> str:
    """What an error means, for people."""
    known = _MEANINGS.get(error_code(error))
    return f"{known} ({error})" if known else str(error)


def unavailable(url: str, error: sqlite3.Error) -> StoreUnavailableError:
    """The error that callers see in place of SQLite's."""
    return StoreUnavailableError(f"the store {url}: {meaning(error)}", retry_after_s=RETRY_AFTER_S)


def connect(path: str, timeout_s: float, fsync: bool, max_pages: int | None) -> sqlite3.Connection:
    """Opens a connection; SQLite itself waits for other processes' locks, so long at most.

    Raises:
        sqlite3.Error: it cannot be had.
    """
    connection = sqlite3.connect(path, timeout=timeout_s, isolation_level=None, check_same_thread=False)
    try:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {'FULL' if fsync else 'NORMAL'}")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute(f"PRAGMA journal_size_limit = {MAX_IDLE_LOG_BYTES}")
        if max_pages is not None:
            connection.execute(f"PRAGMA max_page_count = {max_pages}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def prepare(connection: sqlite3.Connection, url: str, path: str) -> None:
    """Makes the tables of a new file, brings those of an older version up to this one, and looks for damage.

    Raises:
        StartError: a newer version of CellServe made the file, or it is not one of CellServe's.
        sqlite3.Error: it cannot be read or written.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version > SCHEMA_VERSION:
            raise StartError(
                f"--store: {url} was written by a newer CellServe (schema {version}; this one knows up to "
                f"{SCHEMA_VERSION}); run that version, or name another file"
            )
        if version == 0 and tables:
            raise StartError(f"--store: {url} is a database of something else; name another file")
        for number in range(version, SCHEMA_VERSION):
            for statement in filter(str.strip, _MIGRATIONS[number].split(";")):
                connection.execute(statement)
        # Written anew be it the same: a file that cannot be written is told of now, not with the first session.
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    _look_for_damage(connection, url, path)


def _look_for_damage(connection: sqlite3.Connection, url: str, path: str) -> None:
    """Says in the log what of a file is damaged. It is served all the same: the sessions elsewhere in it live."""
    log = structlog.get_logger("cellserve.stores.sqlite")
    size = os.path.getsize(path)
    if size > MAX_CHECKED_BYTES:
        log.info("store_not_checked", store=url, bytes=size, why="too large to look through at every start")
        return
    try:
        lines = [line for (line,) in connection.execute(f"PRAGMA quick_check({MAX_CHECK_LINES})")]
    except sqlite3.Error as error:
        if not is_damage(error):
            raise
        lines = [str(error)]
    if lines != ["ok"]:
        log.warning(
            "store_damaged",
            store=url,
            damage=lines,
            consequence="sessions in damaged places fail with DATA_LOSS; the others live",
            remedy="restore the file from a copy, or move it away to begin with an empty one",
        )
