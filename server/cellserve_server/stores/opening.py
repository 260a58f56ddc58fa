"""From ``--store`` to a store."""

from __future__ import annotations

from collections.abc import Callable

from cellserve_server.binding import StartError
from cellserve_server.stores.base import Store
from cellserve_server.stores.memory import MemoryStore
from cellserve_server.stores.redis import RedisStore
from cellserve_server.stores.redis_link import without_password
from cellserve_server.stores.sqlite import SqliteStore

FORMS = "memory:, sqlite:PATH, redis://HOST:PORT/DB or rediss://HOST:PORT/DB"


def make_store(url: str, clock: Callable[[], float], *, fsync: bool, timeout_s: float) -> Store:
    """Makes the store that a URL names; it is not opened yet.

    Args:
        url: ``memory:``, ``sqlite:PATH``, ``redis://...`` or ``rediss://...``.
        clock: unix seconds.
        fsync: SQLite: whether each commit reaches the disk.
        timeout_s: how long one operation waits for the store.

    Raises:
        StartError: the URL is none of these.
    """
    scheme, _, rest = url.partition(":")
    if url == "memory:":
        return MemoryStore(clock)
    if scheme == "sqlite" and rest not in ("", ":memory:"):  # Each connection would have a memory of its own.
        return SqliteStore(rest, clock, fsync, timeout_s=timeout_s)
    if scheme in ("redis", "rediss") and rest.startswith("//"):
        return RedisStore(url, clock, timeout_s)
    raise StartError(f"--store: expected {FORMS}; got {_shown(url)!r}")


def _shown(url: str) -> str:
    """What is no URL of a store may be meant for one, and have a password."""
    if "//" in url:
        return without_password(url)
    scheme, _, rest = url.partition(":")
    return f"{scheme}:***" if "@" in rest or "?" in rest else url
