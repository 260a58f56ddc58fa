"""Ways to Redis beside a plain connection to one server: TLS, and a cluster whose buckets move."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from cellserve.buckets import bucket_of
from cellserve.errors import StoreUnavailableError
from cellserve_server.binding import StartError
from cellserve_server.stores.base import Burial
from cellserve_server.stores.redis import RedisStore, key_of, record_key
from tests.clocks import START_S, ManualClock
from tests.stores.redis_servers import RedisServer, free_port, redis_server
from tests.stores.samples import OTHER, TENANT, Run, key, make, write

IDS = [f"s{index}" for index in range(200)]
SLOTS = 16_384
WAIT_S = 20.0


@pytest.mark.parametrize("tenant", ["default", "a/b", "{1}:s:x", ""])
def test_records_names_can_be_read_back(tenant: str) -> None:
    assert key_of(record_key(key("a:b~c", tenant))) == key("a:b~c", tenant)


def test_tls_is_checked(tmp_path: Path, run: Run, clock: ManualClock) -> None:
    certificate, private = make_certificate(tmp_path)
    port = free_port()
    tls = ("--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(private))
    with redis_server(tmp_path, *tls, "--tls-auth-clients", "no"):
        trusting = RedisStore(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}", clock)
        run(trusting.open())
        (held,) = run(make(trusting, "a"))
        assert run(trusting.write([write(held)])) == [True]
        run(trusting.close())
        doubting = RedisStore(f"rediss://127.0.0.1:{port}/0", clock)
        with pytest.raises(StartError, match=r"it cannot be reached .*certificate"):
            run(doubting.open())
        run(doubting.close())


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of its own for 127.0.0.1; where there is no openssl the test is skipped, as without a server."""
    if shutil.which("openssl") is None:
        reason = "openssl is not installed"
        if os.environ.get("CELLSERVE_REQUIRE_ALL"):
            pytest.fail(reason)
        pytest.skip(reason)
    certificate, private = folder / "server.crt", folder / "server.key"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=redis"
    subprocess.run(
        [*command.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", private, "-out", certificate],
        check=True,
        capture_output=True,
    )
    return certificate, private


@pytest.fixture
def two_nodes(tmp_path: Path) -> Iterator[tuple[RedisServer, RedisServer]]:
    """A cluster of two nodes, each with half of the slots."""
    with ExitStack() as stack:
        nodes = []
        buses = free_port(), free_port()
        for number, bus in enumerate(buses):
            folder = tmp_path / str(number)
            folder.mkdir()
            options = ("--cluster-enabled", "yes", "--cluster-port", str(bus))
            nodes.append(stack.enter_context(redis_server(folder, *options)))
        one, two = nodes
        one.command("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS // 2 - 1)
        two.command("CLUSTER", "ADDSLOTSRANGE", SLOTS // 2, SLOTS - 1)
        two.command("CLUSTER", "SET-CONFIG-EPOCH", 2)
        one.command("CLUSTER", "MEET", "127.0.0.1", two.port, buses[1])
        for node in nodes:
            wait_until_well(node)
        yield one, two


def wait_until_well(node: RedisServer) -> None:
    give_up = time.monotonic() + WAIT_S
    while True:
        state = node.command("CLUSTER", "INFO").decode()
        if "cluster_state:ok" in state and f"cluster_slots_assigned:{SLOTS}" in state:
            return
        assert time.monotonic() < give_up, state


def move_empty_slot(slot: int, target: RedisServer, nodes: tuple[RedisServer, RedisServer]) -> None:
    name = target.command("CLUSTER", "MYID").decode()
    for node in nodes:
        node.command("CLUSTER", "SETSLOT", slot, "NODE", name)


def can_be_asked(run: Run, store: RedisStore) -> bool:
    try:
        run(store.count(TENANT))
    except StoreUnavailableError:
        return False
    return True


@pytest.mark.slow
def test_a_cluster_of_two_and_a_bucket_that_moves(
    two_nodes: tuple[RedisServer, RedisServer], run: Run, clock: ManualClock
) -> None:
    one, two = two_nodes
    store, other = RedisStore(one.url, clock), RedisStore(two.url, clock)
    run(store.open())
    run(other.open())
    held = run(make(store, *IDS))
    assert all(one.command("DBSIZE") > 10 for one in two_nodes), "both have records"
    assert run(store.write([write(item) for item in held])) == [True] * len(IDS)
    assert [record.key.id for record in run(other.list_after(TENANT, "", 1000))] == sorted(IDS)
    assert run(other.count(TENANT)) == len(IDS)

    # A bucket without records goes to the other node; the store learns of it from the node that had it.
    moving = bucket_of("s0")
    doomed = [item for item in held if bucket_of(key_of(item.ref).id) == moving]
    assert all(run(store.bury([Burial(*item, b"x", START_S + 1) for item in doomed])))
    slot = one.command("CLUSTER", "KEYSLOT", str(doomed[0].ref))
    had, gets = (one, two) if slot < SLOTS // 2 else (two, one)
    with redis.Redis(port=had.port) as client:
        client.delete(*(str(item.ref) for item in doomed))
    move_empty_slot(slot, gets, two_nodes)
    (new,) = run(make(store, "s0", epoch=5))
    everyone = [item for item in held if item not in doomed] + [new]
    assert run(store.write([write(item) for item in everyone])) == [True] * len(everyone)
    (record,) = run(other.claim([(key("s0"), 5)], OTHER))
    assert record is not None
    assert run(store.write([write(new)])) == [False]

    gets.end()
    with pytest.raises(StoreUnavailableError):
        run(store.write([write(item) for item in everyone]))
    gets.start()
    # It lost its records: nothing but the names in the other half are still there.
    give_up = time.monotonic() + WAIT_S
    while not can_be_asked(run, store):
        assert time.monotonic() < give_up
    assert 0 < run(store.write([write(item) for item in everyone])).count(True) < len(everyone)
    run(store.close())
    run(other.close())
