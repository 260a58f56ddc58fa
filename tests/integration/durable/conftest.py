"""Fixtures of the tests of servers with a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cellserve_server.stores.base import Store
from cellserve_server.stores.memory import MemoryStore
from cellserve_server.stores.redis import RedisStore
from cellserve_server.stores.sqlite import SqliteStore
from tests.clocks import ManualClock
from tests.integration.durable.replicas import Replicas
from tests.servers import LoopThread
from tests.stores.redis_servers import RedisServer, redis_server


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for all these tests."""
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=[pytest.param("memory", marks=pytest.mark.slow), "sqlite", "redis"])
def open_store(request: pytest.FixtureRequest, clock: ManualClock, tmp_path: Path) -> Callable[[], Store]:
    """Makes a store on the same records each time, as another process would."""
    kind: str = request.param
    if kind == "memory":
        memory = MemoryStore(clock, is_volatile=False)
        return lambda: memory
    if kind == "sqlite":
        return lambda: SqliteStore(str(tmp_path / "sessions.db"), clock)
    server: RedisServer = request.getfixturevalue("shared_redis")
    server.command("FLUSHALL")
    return lambda: RedisStore(server.url, clock)


@pytest.fixture
def replicas(loop_thread: LoopThread, clock: ManualClock, open_store: Callable[[], Store]) -> Iterator[Replicas]:
    """Replicas on a store that outlives them."""
    with ExitStack() as stack:
        yield Replicas(loop_thread, clock, open_store, stack)
