"""Bare loops over the stores: the commits that a server makes for its sessions, and nothing else.

Plain ``sqlite3`` and plain ``redis``, none of CellServe's code: a transaction, or a pipeline, of so many states, each
written if its epoch is what it should be.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

# What a state of an LSTM of 128 units takes in the store: 1,024 bytes, and what is known of it.
STATE_BYTES = 1088
EPOCH = 1_700_000_000_000_000

_COMPARE_AND_SET = """
for n = 1, #KEYS do
  if redis.call('HGET', KEYS[n], 'e') == ARGV[1] then
    redis.call('HSET', KEYS[n], '0', ARGV[1 + n])
  end
end
return #KEYS
"""


class BareSqlite:
    """A file with a row for each session.

    Args:
        path: the file; made anew.
        sessions: how many.
    """

    def __init__(self, path: Path, sessions: int) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.execute("CREATE TABLE states (id INTEGER PRIMARY KEY, epoch INTEGER, state BLOB)")
        rows = [(number, EPOCH, bytes(STATE_BYTES)) for number in range(sessions)]
        self._connection.executemany("INSERT INTO states VALUES (?, ?, ?)", rows)
        self._sessions = sessions
        self._turn = 0

    def commit(self, _: object) -> None:
        """Writes a state of every session in one transaction."""
        self._turn += 1
        state = self._turn.to_bytes(8, "little") * (STATE_BYTES // 8)
        rows = [(state, number, EPOCH) for number in range(self._sessions)]
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany("UPDATE states SET state = ? WHERE id = ? AND epoch = ?", rows)
        self._connection.execute("COMMIT")

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()


class BareRedis:
    """A hash for each session.

    Args:
        url: of the server.
        sessions: how many.
    """

    def __init__(self, url: str, sessions: int) -> None:
        import redis

        self._client: Any = redis.Redis.from_url(url)
        self._keys = [f"bare:{number}" for number in range(sessions)]
        for key in self._keys:
            self._client.hset(key, mapping={"e": EPOCH, "0": bytes(STATE_BYTES)})
        self._script = self._client.script_load(_COMPARE_AND_SET)
        self._turn = 0

    def commit(self, _: object) -> None:
        """Writes a state of every session in one script."""
        self._turn += 1
        state = self._turn.to_bytes(8, "little") * (STATE_BYTES // 8)
        states = [state] * len(self._keys)
        self._client.evalsha(self._script, len(self._keys), *self._keys, EPOCH, *states)

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()
