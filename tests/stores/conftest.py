"""The stores that the suite goes through, each in two objects on the same records."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from cellserve_server.stores.base import Store
from cellserve_server.stores.memory import MemoryStore
from cellserve_server.stores.redis import RedisStore
from cellserve_server.stores.sqlite import SqliteStore
from tests.clocks import ManualClock
from tests.stores.redis_servers import RedisServer, free_port, redis_server
from tests.stores.samples import Run

KINDS = ("memory", "sqlite", "redis", "cluster")
OpenStore: TypeAlias = Callable[[], Store]


@pytest.fixture
def run() -> Iterator[Run]:
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server for all tests that do no harm to it."""
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A cluster of one node that has all slots."""
    bus = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    with redis_server(tmp_path_factory.mktemp("cluster"), *bus) as server:
        server.command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        # It calls itself well only after a while.
        while b"cluster_state:ok" not in server.command("CLUSTER", "INFO"):
            pass
        yield server


# A cluster takes two seconds to start.
@pytest.fixture(params=[pytest.param(kind, marks=pytest.mark.slow if kind == "cluster" else ()) for kind in KINDS])
def open_store(request: pytest.FixtureRequest, run: Run, clock: ManualClock, tmp_path: Path) -> Iterator[OpenStore]:
    """Opens one more store on the same records; they are closed with the test."""
    kind: str = request.param
    make: OpenStore
    if kind == "memory":
        shared = MemoryStore(clock, is_volatile=False)

        def make() -> Store:
            return shared

    elif kind == "sqlite":

        def make() -> Store:
            return SqliteStore(str(tmp_path / "sessions.db"), clock)

    else:
        server: RedisServer = request.getfixturevalue("shared_redis" if kind == "redis" else "shared_cluster")
        server.command("FLUSHALL")

        def make() -> Store:
            return RedisStore(server.url, clock)

    stores: list[Store] = []

    def open_one() -> Store:
        stores.append(make())
        run(stores[-1].open())
        return stores[-1]

    yield open_one
    for store in stores:
        run(store.close())


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    return open_store()
