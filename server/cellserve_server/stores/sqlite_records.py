"""What the SQLite store does to records: each function is the body of one transaction, for many records at once.

Where the file turns out to be damaged, the transaction is done again record by record (``sqlite.py``), and then the
``*_without_places`` functions stand in for records whose states cannot be reached.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from cellserve_server.keys import SessionKey
from cellserve_server.stores.base import Burial, Draft, Found, Held, Rewrite, Stored, Write, next_epoch
from cellserve_server.stores.sqlite_file import is_damage

PLACES = (0, 1)

# Each of the three rows of a record may have the latest expiry; mostly the first that is asked is late enough.
_ALIVE = """(sessions.expire > :now
    OR EXISTS (SELECT 1 FROM place_0 WHERE place_0.id = sessions.id AND place_0.expire > :now)
    OR EXISTS (SELECT 1 FROM place_1 WHERE place_1.id = sessions.id AND place_1.expire > :now))"""
_BURIED = "tombstone = :tombstone, owner = '', expire = :expire"


def _update_of(place: int) -> str:
    other = 1 - place
    return f"""UPDATE place_{place} SET expire = ?, state = ? WHERE id = ? AND epoch = ? AND (expire > ?
        OR EXISTS (SELECT 1 FROM place_{other} AS other WHERE other.id = place_{place}.id AND other.expire > ?)
        OR EXISTS (SELECT 1 FROM sessions WHERE sessions.id = place_{place}.id AND sessions.expire > ?))"""


_UPDATES = (_update_of(0), _update_of(1))


class UnreadableError(sqlite3.OperationalError):
    """A row has values of kinds that this store never writes: damage that SQLite itself did not notice."""


class Claim(NamedTuple):
    """A record that is to be claimed at an epoch, and for whom."""

    key: SessionKey
    epoch: int
    owner: str


def look(connection: sqlite3.Connection, keys: Sequence[SessionKey], now: float) -> list[Found | None]:
    """What there is of each; None: nothing."""
    return [_look(connection, key, now, _ALIVE) for key in keys]


def look_without_places(connection: sqlite3.Connection, key: SessionKey, now: float) -> Found | None:
    """As ``look``; a record whose states cannot be read counts as not expired."""
    return _look(connection, key, now, ":now > 0")


def _look(connection: sqlite3.Connection, key: SessionKey, now: float, condition: str) -> Found | None:
    row = connection.execute(
        f"SELECT epoch, owner, tombstone FROM sessions WHERE tenant = :tenant AND name = :id AND {condition}",
        {**key._asdict(), "now": now},
    ).fetchone()
    if row is None:
        return None
    epoch, owner, tombstone = row
    _require(isinstance(epoch, int) and isinstance(owner, str) and isinstance(tombstone, bytes | None))
    return Found(epoch, owner, tombstone or b"")


def claim(connection: sqlite3.Connection, claims: Sequence[Claim], now: float) -> list[Stored | None]:
    """Takes records that are at these epochs; None: another epoch, or nothing lives there."""
    return [_claim(connection, item, now) for item in claims]


def _claim(connection: sqlite3.Connection, item: Claim, now: float) -> Stored | None:
    row = _raise_epoch(connection, item, now, _ALIVE)
    if row is None:
        return None
    ref, epoch, meta, expire = row
    states = []
    for place in PLACES:
        connection.execute(f"UPDATE place_{place} SET epoch = ? WHERE id = ?", (epoch, ref))
        # A place without a row is damage that SQLite itself does not notice.
        state, until = connection.execute(
            f"SELECT state, expire FROM place_{place} WHERE id = ?", (ref,)
        ).fetchone() or (None, 0.0)
        states.append(state)
        expire = latest(expire, until)
    return stored(item.key, ref, epoch, item.owner, meta, states, expire)


def claim_without_places(connection: sqlite3.Connection, item: Claim, now: float) -> Stored | None:
    """Takes a record whose states cannot be read: with an empty ``meta``."""
    row = _raise_epoch(connection, item, now, ":now > 0")
    if row is None:
        return None
    ref, epoch, _, expire = row
    return Stored(item.key, ref, epoch, item.owner, b"", (b"", b""), expire)


def _raise_epoch(
    connection: sqlite3.Connection, item: Claim, now: float, condition: str
) -> tuple[int, int, bytes, float] | None:
    row = connection.execute(
        f"""SELECT id, :next, meta, expire FROM sessions
        WHERE tenant = :tenant AND name = :id AND epoch = :epoch AND tombstone IS NULL AND {condition}""",
        {**item.key._asdict(), "epoch": item.epoch, "next": next_epoch(item.epoch, now), "now": now},
    ).fetchone()
    if row is not None:
        connection.execute("UPDATE sessions SET epoch = ?, owner = ? WHERE id = ?", (row[1], item.owner, row[0]))
    return row  # type: ignore[no-any-return]


def stored(
    key: SessionKey, ref: int, epoch: int, owner: str, meta: object, states: Sequence[object], expire: float
) -> Stored:
    """A record as it was read; one of which a part is missing has an empty ``meta``, which no sound one has."""
    first, second = states
    if isinstance(meta, bytes) and isinstance(first, bytes) and isinstance(second, bytes):
        return Stored(key, ref, epoch, owner, meta, (first, second), expire)
    return Stored(key, ref, epoch, owner, b"", (b"", b""), expire)


def _require(is_sound: bool) -> None:
    if not is_sound:
        raise UnreadableError("a row has values of the wrong kinds")


def latest(*times: object) -> float:
    """The latest of these times, unix seconds; what is none is left out."""
    return max((time for time in times if isinstance(time, int | float)), default=0.0)


def create(connection: sqlite3.Connection, drafts: Sequence[Draft], now: float) -> list[Held | None]:
    """Makes records; None: a living one is there."""
    return [_create(connection, draft, now) for draft in drafts]


def _create(connection: sqlite3.Connection, draft: Draft, now: float) -> Held | None:
    epoch = draft.epoch
    old = connection.execute(
        f"""SELECT id, epoch, tombstone IS NULL AND {_ALIVE} FROM sessions
        WHERE tenant = :tenant AND name = :id""",
        {**draft.key._asdict(), "now": now},
    ).fetchone()
    if old is not None:
        if old[2]:
            return None
        epoch = max(epoch, old[1] + 1)
        delete(connection, old[0])
    ref = connection.execute(
        "INSERT INTO sessions (tenant, name, epoch, owner, expire, meta) VALUES (?, ?, ?, ?, ?, ?)",
        (*draft.key, epoch, draft.owner, draft.expire_time, draft.meta),
    ).lastrowid
    assert ref is not None
    for place in PLACES:
        connection.execute(
            f"INSERT INTO place_{place} (id, epoch, expire, state) VALUES (?, ?, ?, ?)",
            (ref, epoch, draft.expire_time, draft.states[place]),
        )
    return Held(ref, epoch)


def delete(connection: sqlite3.Connection, ref: int) -> None:
    """Removes a record, whatever it is."""
    for table in ("sessions", "place_0", "place_1"):
        connection.execute(f"DELETE FROM {table} WHERE id = ?", (ref,))


def write(connection: sqlite3.Connection, writes: Sequence[Write], now: float) -> list[bool]:
    """Overwrites one state each. False: another holds the record now, or it is gone."""
    changed = 0
    for place in PLACES:
        rows = [
            (item.expire_time, item.state, item.ref, item.epoch, now, now, now)
            for item in writes
            if item.place == place
        ]
        if rows:
            changed += connection.executemany(_UPDATES[place], rows).rowcount
    if changed == len(writes):
        return [True] * len(writes)
    # Nobody else changes anything while this transaction lasts, so what was refused can be asked for afterwards. A
    # write whose new expiry has passed already counts as refused, though it was done: nobody will see anything of it.
    return [_is_held(connection, item, now) for item in writes]


def _is_held(connection: sqlite3.Connection, item: Write, now: float) -> bool:
    question = f"""SELECT 1 FROM place_{item.place} AS place JOIN sessions USING (id)
        WHERE place.id = :ref AND place.epoch = :epoch AND {_ALIVE}"""
    parameters = {"ref": item.ref, "epoch": item.epoch, "now": now}
    return connection.execute(question, parameters).fetchone() is not None


def rewrite(connection: sqlite3.Connection, rewrites: Sequence[Rewrite], now: float) -> list[bool]:
    """Overwrites records. False: as of ``write``."""
    return [_rewrite(connection, item, now) for item in rewrites]


def _rewrite(connection: sqlite3.Connection, item: Rewrite, now: float) -> bool:
    if not _change(connection, "meta = :meta, expire = :expire", item, now, {"meta": item.meta}):
        return False
    for place in PLACES:
        connection.execute(
            f"UPDATE place_{place} SET expire = ?, state = ? WHERE id = ?",
            (item.expire_time, item.states[place], item.ref),
        )
    return True


def bury(connection: sqlite3.Connection, burials: Sequence[Burial], now: float) -> list[bool]:
    """Puts tombstones in records' places. False: as of ``write``."""
    return [_bury(connection, item, now) for item in burials]


def _bury(connection: sqlite3.Connection, item: Burial, now: float) -> bool:
    if not _change(connection, "meta = x'', " + _BURIED, item, now, {"tombstone": item.tombstone}):
        return False
    for place in PLACES:
        connection.execute(f"DELETE FROM place_{place} WHERE id = ?", (item.ref,))
    return True


def set_aside(connection: sqlite3.Connection, burials: Sequence[Burial], now: float) -> list[bool]:
    """As ``bury``, but keeps what the record was."""
    return [_set_aside(connection, item, now) for item in burials]


def _set_aside(connection: sqlite3.Connection, item: Burial, now: float) -> bool:
    if not _change(connection, _BURIED, item, now, {"tombstone": item.tombstone}):
        return False
    for place in PLACES:
        # No holder has an epoch below 0, so nobody writes there any more.
        connection.execute(
            f"UPDATE place_{place} SET epoch = -1 - epoch, expire = ? WHERE id = ?", (item.expire_time, item.ref)
        )
    return True


def bury_without_places(connection: sqlite3.Connection, item: Burial, now: float) -> bool:
    """Puts a tombstone on a record whose states cannot be reached; they stay where they are."""
    return _change(connection, _BURIED, item, now, {"tombstone": item.tombstone}, ":now > 0")


def _change(
    connection: sqlite3.Connection,
    assignments: str,
    item: Rewrite | Burial,
    now: float,
    parameters: dict[str, object],
    condition: str = _ALIVE,
) -> bool:
    """Changes the row of ``sessions`` of a living record that is held at this epoch; False: it is not."""
    rows = connection.execute(
        f"""UPDATE sessions SET {assignments}
        WHERE id = :ref AND epoch = :epoch AND tombstone IS NULL AND {condition}""",
        {"ref": item.ref, "epoch": item.epoch, "expire": item.expire_time, "now": now, **parameters},
    ).rowcount
    return rows == 1


def release(connection: sqlite3.Connection, held: Sequence[Held], now: float) -> list[None]:
    """Lets records go; those that others hold stay theirs."""
    connection.executemany("UPDATE sessions SET owner = '' WHERE id = ? AND epoch = ?", held)
    return [None] * len(held)


def unreadable(key: SessionKey, ref: int = 0, epoch: int = 0, owner: str = "") -> Stored:
    """What stands for a record of which nothing can be read; by the default ``ref`` nothing is ever found."""
    return Stored(key, ref, epoch, owner, b"", (b"", b""), 0.0)


def create_nothing(connection: sqlite3.Connection, draft: Draft, now: float) -> None:
    """Tells damage in what is there by a name, which cannot be made then, from damage where new records go.

    Raises:
        UnreadableError: nothing is there, yet nothing can be made.
    """
    try:
        row = connection.execute("SELECT 1 FROM sessions WHERE tenant = ? AND name = ?", draft.key).fetchone()
    except sqlite3.Error as error:
        if is_damage(error):
            return
        raise
    if row is None:
        cannot_create(connection, draft, now)


def cannot_create(connection: sqlite3.Connection, draft: Draft, now: float) -> None:
    """Gives up.

    Raises:
        UnreadableError: always.
    """
    raise UnreadableError("the file is damaged where new records go")
