"""From --store to a store."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cellserve_server.binding import StartError
from cellserve_server.stores.memory import MemoryStore
from cellserve_server.stores.opening import make_store
from cellserve_server.stores.redis import RedisStore
from cellserve_server.stores.sqlite import SqliteStore
from tests.clocks import ManualClock


@pytest.mark.parametrize(
    ("url", "kind", "is_volatile"),
    [
        ("memory:", MemoryStore, True),
        ("sqlite:{}/a.db", SqliteStore, False),
        ("sqlite:relative.db", SqliteStore, False),
        ("redis://localhost", RedisStore, False),
        ("rediss://cache.example:6380/3", RedisStore, False),
    ],
)
def test_urls_name_stores(url: str, kind: type, is_volatile: bool, tmp_path: Path) -> None:
    url = url.format(tmp_path)
    store = make_store(url, ManualClock(), fsync=True, timeout_s=1.0)
    assert isinstance(store, kind)
    assert store.url == url
    assert store.is_volatile is is_volatile


@pytest.mark.parametrize(
    "url",
    [
        "",
        "memory",
        "memory:x",
        "sqlite",
        "sqlite:",
        "sqlite::memory:",
        "redis:host",
        "postgres://u:secret@h/db?password=secret",
        "/a",
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(StartError, match=r"--store: expected memory:, sqlite:PATH, redis://.*; got ") as caught:
        make_store(url, ManualClock(), fsync=False, timeout_s=1.0)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:secret@host:1/2?password=secret", "redis://user:***@host:1/2"),
        ("rediss://:secret@host", "rediss://:***@host"),
        ("redis://secret@host/0", "redis://***@host/0"),
        ("redis://:secret/secret@host/0", "redis://***"),
        ("redis://:secret#secret@host/0", "redis://***"),
        ("redis://host/0?password=secret@secret", "redis://***"),
        ("redis://host/0?password=secret", "redis://host/0"),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str) -> None:
    assert make_store(url, ManualClock(), fsync=False, timeout_s=1.0).url == shown


@pytest.mark.parametrize("url", ["redis://:secret/x@host/0", "redis://:secret#x@host", "redis://host/zero"])
def test_urls_that_are_not_understood(url: str) -> None:
    store = make_store(url, ManualClock(), fsync=False, timeout_s=1.0)
    with pytest.raises(StartError, match=r"--store: redis://.*the URL is not understood") as caught:
        asyncio.run(store.open())
    assert "secret" not in str(caught.value)
    asyncio.run(store.close())
