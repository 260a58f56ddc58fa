"""What the SQLite store does beside holding records: listing, counting, sweeping, and the models of clients."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from cellserve_server.keys import SessionKey
from cellserve_server.stores.base import Stored
from cellserve_server.stores.sqlite_records import delete, latest, stored, unreadable


def read_ids(connection: sqlite3.Connection, tenant: str, after_id: str, limit: int) -> list[tuple[SessionKey, int]]:
    """The tenant's sessions by name, from the first above ``after_id``, with their ids, living or not."""
    rows = connection.execute(
        "SELECT name, id FROM sessions WHERE tenant = ? AND name > ? ORDER BY name LIMIT ?", (tenant, after_id, limit)
    )
    return [(SessionKey(tenant, name), ref) for name, ref in rows]


def read(connection: sqlite3.Connection, rows: Sequence[tuple[SessionKey, int]], now: float) -> list[Stored | None]:
    """Records as they are; None: gone, expired or a tombstone."""
    return [_read(connection, key, ref, now) for key, ref in rows]


def _read(connection: sqlite3.Connection, key: SessionKey, ref: int, now: float) -> Stored | None:
    row = connection.execute(
        """SELECT s.epoch, s.owner, s.meta, a.state, b.state, s.expire, a.expire, b.expire
        FROM sessions AS s LEFT JOIN place_0 AS a ON a.id = s.id LEFT JOIN place_1 AS b ON b.id = s.id
        WHERE s.id = ? AND s.tombstone IS NULL""",
        (ref,),
    ).fetchone()
    if row is None:
        return None
    epoch, owner, meta, *states = row[:5]
    expire = latest(*row[5:])
    return stored(key, ref, epoch, owner, meta, states, expire) if expire > now else None


def read_without_places(connection: sqlite3.Connection, row: tuple[SessionKey, int], now: float) -> Stored | None:
    """What stands for a living record whose states cannot be read; None: a tombstone."""
    key, ref = row
    found = connection.execute(
        "SELECT epoch, owner FROM sessions WHERE id = ? AND tombstone IS NULL", (ref,)
    ).fetchone()
    return None if found is None else unreadable(key, ref, *found)


def count(connection: sqlite3.Connection, tenant: str) -> int:
    """How many records the tenant has that are no tombstones, expired ones among them."""
    (number,) = connection.execute(
        "SELECT count(*) FROM sessions WHERE tenant = ? AND tombstone IS NULL", (tenant,)
    ).fetchone()
    return int(number)


def tenants(connection: sqlite3.Connection) -> list[str]:
    """Everyone who has rows. Asked one after the other, so that nobody's million rows are read."""
    found: list[str] = []
    row = connection.execute("SELECT min(tenant) FROM sessions").fetchone()
    while row[0] is not None:
        found.append(row[0])
        row = connection.execute("SELECT min(tenant) FROM sessions WHERE tenant > ?", row).fetchone()
    return found


def read_expired(connection: sqlite3.Connection, limit: int, now: float) -> list[int]:
    """The ids of records that may have expired, those that did so first before the others."""
    rows = connection.execute("SELECT id FROM sessions WHERE expire <= ? ORDER BY expire LIMIT ?", (now, limit))
    return [ref for (ref,) in rows]


def remove_expired(connection: sqlite3.Connection, refs: Sequence[int], now: float) -> list[bool]:
    """Removes what has expired, and puts off what only may have. False: it was put off."""
    return [_remove_if_expired(connection, ref, now) for ref in refs]


def _remove_if_expired(connection: sqlite3.Connection, ref: int, now: float) -> bool:
    until = latest(
        *connection.execute(
            "SELECT (SELECT expire FROM place_0 WHERE id = ?), (SELECT expire FROM place_1 WHERE id = ?)", (ref, ref)
        ).fetchone()
    )
    if until > now:
        connection.execute("UPDATE sessions SET expire = ? WHERE id = ?", (until, ref))
        return False
    delete(connection, ref)
    return True


def remove_expired_models(connection: sqlite3.Connection, limit: int, now: float) -> int:
    """Removes models that expired, at most so many; returns how many."""
    return connection.execute(
        """DELETE FROM models WHERE (tenant, name) IN
        (SELECT tenant, name FROM models WHERE expire <= ? LIMIT ?)""",
        (now, limit),
    ).rowcount


def put_model(connection: sqlite3.Connection, tenant: str, name: str, content: bytes, expire_time: float) -> None:
    """Keeps a model, at least until then."""
    connection.execute(
        """INSERT INTO models (tenant, name, expire, content) VALUES (?, ?, ?, ?)
        ON CONFLICT (tenant, name) DO UPDATE
        SET expire = max(models.expire, excluded.expire), content = excluded.content""",
        (tenant, name, expire_time, content),
    )


def get_model(connection: sqlite3.Connection, tenant: str, name: str, now: float) -> bytes | None:
    """A model; None: it is not there."""
    row = connection.execute(
        "SELECT content FROM models WHERE tenant = ? AND name = ? AND expire > ?", (tenant, name, now)
    ).fetchone()
    return None if row is None else row[0]


def keep_model(connection: sqlite3.Connection, tenant: str, name: str, expire_time: float, now: float) -> bool:
    """Puts a model's expiry off; False: it is not there."""
    rows = connection.execute(
        "UPDATE models SET expire = max(expire, ?) WHERE tenant = ? AND name = ? AND expire > ?",
        (expire_time, tenant, name, now),
    ).rowcount
    return rows == 1
