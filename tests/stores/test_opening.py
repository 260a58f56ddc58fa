"""From --store to a store."""

from __future__ import annotations

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
    ["", "memory", "memory:x", "sqlite", "sqlite:", "redis:host", "postgres://u:secret@h/db?password=secret", "/a"],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(StartError, match=r"--store: expected memory:, sqlite:PATH, redis://.*; got ") as caught:
        make_store(url, ManualClock(), fsync=False, timeout_s=1.0)
    assert "secret" not in str(caught.value)


def test_passwords_are_not_shown() -> None:
    store = make_store("redis://user:secret@host:1/2?password=secret", ManualClock(), fsync=False, timeout_s=1.0)
    assert store.url == "redis://user:***@host:1/2"
