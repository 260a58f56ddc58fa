"""A name whose addresses are replicas."""

from __future__ import annotations

import asyncio

import pytest

from cellserve.errors import UnavailableError
from cellserve_client.fleet import Fleet


class Name:
    """A resolver: answers with these hosts; none of them is an error. ``asked`` is set whenever it was asked."""

    def __init__(self, *hosts: str) -> None:
        self.hosts = list(hosts)
        self.asked = asyncio.Event()

    async def resolve(self, host: str, port: int) -> list[str]:
        assert (host, port) == ("cells", 1)
        self.asked.set()
        if not self.hosts:
            raise OSError(2, "unknown host")
        return list(self.hosts)


def addresses(fleet: Fleet) -> list[str]:
    return [replica.address for replica in fleet.replicas.values()]


class Sleeps:
    """Waits that end when the test says so."""

    def __init__(self) -> None:
        self.waiting: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()

    async def sleep(self, _delay_s: float) -> None:
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.put_nowait(over)
        await over


async def resolved_again(name: Name, sleeps: Sleeps) -> None:
    """Ends waits until the name was asked for again, and the answer taken."""
    name.asked.clear()
    while not name.asked.is_set():
        over = await sleeps.waiting.get()
        if not over.done():
            over.set_result(None)
        for _ in range(5):
            await asyncio.sleep(0)


def test_every_address_of_a_name_is_a_replica_and_they_come_and_go() -> None:
    async def run() -> None:
        name, sleeps = Name("10.0.0.1", "10.0.0.2"), Sleeps()
        fleet = Fleet("dns:///cells:1", resolve=name.resolve, sleep=sleeps.sleep)
        assert not fleet.replicas
        await asyncio.gather(fleet.ready(), fleet.ready())
        assert addresses(fleet) == ["10.0.0.1:1", "10.0.0.2:1"]
        routes = [fleet.route(f"s{number}") for number in range(30)]
        before = [route.current().address for route in routes]
        name.hosts = ["10.0.0.3", "10.0.0.2"]
        await resolved_again(name, sleeps)
        assert addresses(fleet) == ["10.0.0.2:1", "10.0.0.3:1"]
        after = [route.current().address for route in routes]
        assert set(after) == {"10.0.0.2:1", "10.0.0.3:1"}
        stayed = sum(old == new for old, new in zip(before, after, strict=True) if old == "10.0.0.2:1")
        assert stayed > 0
        name.hosts = []
        await resolved_again(name, sleeps)
        assert addresses(fleet) == ["10.0.0.2:1", "10.0.0.3:1"], "known addresses are better than none"
        await fleet.close()

    asyncio.run(run())


def test_a_name_without_addresses_is_told() -> None:
    async def run() -> None:
        fleet = Fleet("dns:///cells:1", resolve=Name().resolve)
        with pytest.raises(UnavailableError, match=r"the name 'cells' cannot be resolved \(unknown host\)"):
            await fleet.ready()
        await fleet.close()

    asyncio.run(run())
