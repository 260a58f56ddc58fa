"""The Redis store when its server dies, stops, is full, is read-only, or wants a password."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cellserve.errors import StoreUnavailableError
from cellserve_server.binding import StartError
from cellserve_server.stores.base import Held
from cellserve_server.stores.redis import RedisStore
from tests.clocks import START_S, ManualClock
from tests.stores.redis_servers import RedisServer, free_port, redis_server
from tests.stores.samples import OTHER, SMALL, TENANT, Run, draft, key, make, states_of, write

IDS = [f"s{index}" for index in range(300)]
SECRET = "hunter2?/@"
QUOTED = "hunter2%3F%2F%40"
SHORT_S = 0.15

OpenRedis = Callable[..., RedisStore]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of the test's own, which writes everything to its disk."""
    with redis_server(tmp_path, "--appendonly", "yes") as running:
        yield running


@pytest.fixture
def open_redis(run: Run, clock: ManualClock) -> Iterator[OpenRedis]:
    stores: list[RedisStore] = []

    def open_one(url: str, timeout_s: float = 5.0) -> RedisStore:
        store = RedisStore(url, clock, timeout_s)
        stores.append(store)
        run(store.open())
        return store

    yield open_one
    for store in stores:
        run(store.close())


def unavailable(run: Run, store: RedisStore, held: Held) -> str:
    """Writes to a store that cannot do it, and says what it said."""
    with pytest.raises(StoreUnavailableError) as caught:
        run(store.write([write(held)]))
    assert caught.value.retry_after_s is not None
    assert caught.value.message.startswith(f"the store {store.url}: ")
    return caught.value.message


def write_once_it_works(run: Run, store: RedisStore, held: Held) -> list[bool]:
    """Writes; a connection that was cut while nobody looked is found out by the first that uses it."""
    try:
        return run(store.write([write(held)]))
    except StoreUnavailableError:
        return run(store.write([write(held)]))


def test_nothing_is_lost_when_the_server_is_killed(server: RedisServer, open_redis: OpenRedis, run: Run) -> None:
    store = open_redis(server.url)
    held = run(make(store, *IDS))
    assert all(run(store.write([write(item) for item in held])))
    server.end(signal.SIGKILL)
    assert "it cannot be reached" in unavailable(run, store, held[0])
    with pytest.raises(StoreUnavailableError):
        run(store.look([key("s0")]))
    server.start()
    # The new server knows neither the connections nor the scripts.
    assert all(run(store.write([write(item, b"again", place=0) for item in held])))
    assert set(run(states_of(store, IDS)).values()) == {(b"again", SMALL)}
    assert run(store.count(TENANT)) == len(IDS)


def test_connections_that_were_cut_are_made_again(server: RedisServer, open_redis: OpenRedis, run: Run) -> None:
    store = open_redis(server.url)
    (held,) = run(make(store, "a"))
    for _ in range(3):
        server.command("CLIENT", "KILL", "TYPE", "normal")
        assert write_once_it_works(run, store, held) == [True]


def test_full_memory_and_room_again(server: RedisServer, open_redis: OpenRedis, run: Run) -> None:
    store = open_redis(server.url)
    (held,) = run(make(store, "a"))
    server.command("CONFIG", "SET", "maxmemory", "1mb")
    assert "it is out of memory (maxmemory)" in unavailable(run, store, held)
    with pytest.raises(StoreUnavailableError, match="out of memory"):
        run(store.create([draft("b")]))
    assert run(store.look([key("a"), key("b")])) != [None, None]
    server.command("CONFIG", "SET", "maxmemory", "0")
    assert run(store.write([write(held)])) == [True]


def test_a_replica_is_read_only_until_it_is_promoted(server: RedisServer, open_redis: OpenRedis, run: Run) -> None:
    store = open_redis(server.url)
    (held,) = run(make(store, "a"))
    server.command("REPLICAOF", "127.0.0.1", free_port())
    assert "it is a read-only replica" in unavailable(run, store, held)
    server.command("REPLICAOF", "NO", "ONE")
    assert run(store.write([write(held)])) == [True]


def test_too_few_replicas(server: RedisServer, open_redis: OpenRedis, run: Run) -> None:
    store = open_redis(server.url)
    (held,) = run(make(store, "a"))
    server.command("CONFIG", "SET", "min-replicas-to-write", 1)
    assert "too few replicas" in unavailable(run, store, held)
    server.command("CONFIG", "SET", "min-replicas-to-write", 0)
    assert run(store.write([write(held)])) == [True]


def test_a_server_that_cannot_save(server: RedisServer, open_redis: OpenRedis, run: Run, tmp_path: Path) -> None:
    store = open_redis(server.url)
    (held,) = run(make(store, "a"))
    (tmp_path / "dump.rdb").mkdir()
    server.command("CONFIG", "SET", "save", "3600 1000000")
    server.command("BGSAVE")
    while server.command("INFO", "persistence")["rdb_bgsave_in_progress"]:
        pass
    assert "cannot save to its disk" in unavailable(run, store, held)


def test_a_server_that_does_not_answer(server: RedisServer, open_redis: OpenRedis, run: Run) -> None:
    store = open_redis(server.url, SHORT_S)
    (held,) = run(make(store, "a"))
    server.command("CLIENT", "PAUSE", 60_000)
    assert f"no answer within {SHORT_S} s" in unavailable(run, store, held)
    server.end()
    server.start()
    assert run(store.write([write(held)])) == [True]


def test_a_server_that_stands_still(server: RedisServer, open_redis: OpenRedis, run: Run) -> None:
    store = open_redis(server.url, SHORT_S)
    held = run(make(store, *IDS))

    async def many() -> list[list[bool] | BaseException]:
        return await asyncio.gather(*(store.write([write(item)]) for item in held), return_exceptions=True)

    server.send(signal.SIGSTOP)
    start = time.monotonic()
    results = run(many())
    # They are 300 and four at a time can wait; none waits behind those that waited in vain.
    assert time.monotonic() - start < 10 * SHORT_S
    assert {type(result) for result in results} == {StoreUnavailableError}
    server.send(signal.SIGCONT)
    give_up = time.monotonic() + 10
    while True:
        try:
            assert run(store.write([write(item) for item in held])) == [True] * len(IDS)
            break
        except StoreUnavailableError:
            assert time.monotonic() < give_up


def test_passwords_are_needed_and_not_shown(tmp_path: Path, open_redis: OpenRedis, run: Run) -> None:
    with redis_server(tmp_path, "--requirepass", SECRET) as server:
        address = f"127.0.0.1:{server.port}/0"
        for url in (
            f"redis://:wrong-one@{address}",
            f"redis://somebody:wrong-one@{address}",
            f"redis://{address}?password=wrong-one",
            f"redis://{address}",
        ):
            with pytest.raises(StartError, match=r"--store: the store redis://.*password") as caught:
                open_redis(url)
            assert "wrong-one" not in str(caught.value)
        store = open_redis(f"redis://:{QUOTED}@{address}", SHORT_S)
        assert store.url == f"redis://:***@{address}"
        (held,) = run(make(store, "a"))
        server.end()
        message = unavailable(run, store, held)
        assert QUOTED not in message
        assert SECRET not in message


def test_a_password_that_was_changed(tmp_path: Path, open_redis: OpenRedis, run: Run) -> None:
    with redis_server(tmp_path) as server:
        store = open_redis(server.url)
        (held,) = run(make(store, "a"))
        server.command("CONFIG", "SET", "requirepass", SECRET)
        server.command("CLIENT", "KILL", "TYPE", "normal", password=SECRET)
        # A connection that was cut while nobody looked is found out by the first that uses it.
        assert any("wants a password" in unavailable(run, store, held) for _ in range(2))


def test_no_server_at_all(open_redis: OpenRedis) -> None:
    with pytest.raises(StartError, match=r"--store: the store redis://127\.0\.0\.1:\d+/0: it cannot be reached"):
        open_redis(f"redis://127.0.0.1:{free_port()}/0")


def test_something_else_at_its_port(open_redis: OpenRedis) -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        with pytest.raises(StartError, match=f"no answer within {SHORT_S} s"):
            open_redis(f"redis://127.0.0.1:{mute.getsockname()[1]}/0", SHORT_S)


@pytest.mark.parametrize("options", ["no_such_option=1", "socket_timeout=soon"])
def test_options_that_do_not_exist(shared_redis: RedisServer, open_redis: OpenRedis, options: str) -> None:
    with pytest.raises(StartError, match=f"the URL is not understood.*{options.partition('=')[0]}"):
        open_redis(f"{shared_redis.url}?{options}")


def test_the_driver_is_named_when_it_is_missing(open_redis: OpenRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(StartError, match=r"pip install 'cellserve-server\[redis\]'"):
        open_redis("redis://127.0.0.1:1/0")


def test_a_closed_store_says_so(shared_redis: RedisServer, open_redis: OpenRedis, run: Run) -> None:
    store = open_redis(shared_redis.url)
    run(store.close())
    with pytest.raises(StoreUnavailableError, match="closed"):
        run(store.look([key("a")]))


def test_settings_that_lose_sessions_are_warned_of(server: RedisServer, open_redis: OpenRedis) -> None:
    with capture_logs() as logs:
        open_redis(server.url)
    assert logs == []
    server.command("CONFIG", "SET", "maxmemory", "1gb")
    server.command("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    server.command("CONFIG", "SET", "appendonly", "no")
    with capture_logs() as logs:
        open_redis(server.url)
    assert [line["event"] for line in logs] == ["store_evicts", "store_not_persistent"]
    server.command("ACL", "SETUSER", "default", "-config")
    with capture_logs() as logs:
        open_redis(server.url)
    assert [line["event"] for line in logs] == ["store_settings_unknown"]


def test_redis_removes_what_nobody_asks_for_any_more(
    shared_redis: RedisServer, open_redis: OpenRedis, run: Run
) -> None:
    """Redis is told to keep records some time beyond their expiry, and no longer."""
    shared_redis.command("FLUSHALL")
    store = open_redis(shared_redis.url)
    (held,) = run(make(store, "a", expire_time=START_S + 100))
    name = str(held.ref)
    assert 160_000 < shared_redis.command("PTTL", name) <= 220_000
    run(store.write([write(held, expire_time=START_S + 1000)]))
    assert 1_060_000 < shared_redis.command("PTTL", name) <= 1_120_000
    run(store.claim([(key("a"), held.epoch)], OTHER))
    assert shared_redis.command("PTTL", name) > 1_060_000


def test_names_that_redis_removed_leave_the_index(shared_redis: RedisServer, open_redis: OpenRedis, run: Run) -> None:
    shared_redis.command("FLUSHALL")
    store = open_redis(shared_redis.url)
    held = run(make(store, *IDS))
    shared_redis.command("DEL", *(str(item.ref) for item in held[:200]))
    assert run(store.count(TENANT)) == 300
    for _ in range(20):
        run(store.sweep(64))
    assert run(store.count(TENANT)) == 100
    shared_redis.command("DEL", *(str(item.ref) for item in held[200:250]))
    assert len(run(store.list_after(TENANT, "", 1000))) == 50
    assert run(store.count(TENANT)) == 50


def test_tenants_without_sessions_are_forgotten(
    shared_redis: RedisServer, open_redis: OpenRedis, run: Run, clock: ManualClock
) -> None:
    shared_redis.command("FLUSHALL")
    store = open_redis(shared_redis.url)
    run(make(store, "a", tenant="one", expire_time=START_S + 10))
    run(make(store, "a", tenant="two", expire_time=START_S + 1e6))
    clock.advance(100)
    run(store.sweep(100))
    run(store.sweep(100))
    assert run(store.tenants()) == ["one", "two"]
    clock.advance(100_000)
    run(store.sweep(100))
    run(store.sweep(100))
    assert run(store.tenants()) == ["two"]
