"""The queue's limits, and who waits for room in it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from cellserve.errors import QueueFullError
from cellserve_server.config import ServerConfig
from cellserve_server.engine.run_queue import RunQueue
from cellserve_server.keys import Client
from cellserve_server.security import DEFAULT_TENANT

FULL, NEW = Client(DEFAULT_TENANT, "full"), Client(DEFAULT_TENANT, "new")


def drive(test: Callable[[RunQueue], Awaitable[None]]) -> None:
    async def main() -> None:
        await test(RunQueue(ServerConfig(max_queued_runs=100, max_queued_bytes=10_000)))

    asyncio.run(main())


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_one_run_always_fits_and_more_up_to_the_limits() -> None:
    async def test(queue: RunQueue) -> None:
        queue.require_room(1_000_000)
        queue.add(1, 9_000)
        queue.require_room(1_000)
        with pytest.raises(QueueFullError, match="9000 of 10000 bytes"):
            queue.require_room(1_001)
        queue.add(99, 0)
        with pytest.raises(QueueFullError, match="100 of 100 runs"):
            queue.require_room(0)
        queue.remove(100, 9_000)
        assert queue.idle.is_set()

    drive(test)


def test_room_is_given_in_the_order_in_which_it_was_asked_for() -> None:
    async def test(queue: RunQueue) -> None:
        order: list[str] = []

        async def stream(name: str, runs: int) -> None:
            await queue.wait_for_room(runs, 0)
            queue.add(runs, 0)
            order.append(name)

        queue.add(70, 0)
        tasks = [asyncio.create_task(stream("large", 60))]
        await turns()
        # There would be room for these, but the large one came first; small ones that keep coming would starve it.
        tasks += [asyncio.create_task(stream(f"small {number}", 5)) for number in range(3)]
        await turns()
        assert order == []
        queue.remove(56, 0)
        await turns(20)
        assert order == ["large"]
        assert queue.runs == 74
        queue.remove(60, 0)
        await asyncio.gather(*tasks)
        assert order == ["large", "small 0", "small 1", "small 2"]
        assert queue.runs == 29

    drive(test)


def test_who_gives_up_waiting_holds_nobody_up() -> None:
    async def test(queue: RunQueue) -> None:
        queue.add(75, 0)
        first, second = (asyncio.create_task(queue.wait_for_room(10, 0)) for _ in range(2))
        await turns()
        first.cancel()
        await turns()
        queue.remove(10, 0)
        await second
        third = asyncio.create_task(queue.wait_for_room(1, 0))
        queue.add(10, 0)
        await turns()
        fourth = asyncio.create_task(queue.wait_for_room(1, 0))
        await turns()
        queue.remove(1, 0)
        third.cancel()  # It has room, and does not use it.
        await fourth
        assert first.cancelled()

    drive(test)


def test_a_queue_that_is_closed_keeps_nobody_waiting() -> None:
    async def test(queue: RunQueue) -> None:
        queue.add(75, 0)
        waiting = [asyncio.create_task(queue.wait_for_room(50, 0)) for _ in range(3)]
        await turns()
        queue.close()
        await asyncio.gather(*waiting)
        await queue.wait_for_room(50, 0)

    drive(test)


def test_who_comes_to_a_queue_that_another_one_fills_does_not_wait() -> None:
    async def test(queue: RunQueue) -> None:
        queue.add(75, 0, FULL)
        waits = asyncio.create_task(queue.wait_for_room(5, 0, FULL))
        await turns()
        await asyncio.wait_for(queue.wait_for_room(25, 0, NEW), 1)
        queue.require_room(0, NEW)
        with pytest.raises(QueueFullError, match="75 of 25 runs"):
            queue.require_room(0, FULL)
        assert not waits.done()
        waits.cancel()

    drive(test)


def test_modest_ones_fill_the_queue_and_no_more() -> None:
    async def test(queue: RunQueue) -> None:
        for number in range(20):
            client = Client(DEFAULT_TENANT, str(number))
            while queue._is_modest(1, 0, client):
                queue.add(1, 0, client)
        assert queue.runs == 100

    drive(test)


def test_a_tenant_that_has_its_part_waits_alone() -> None:
    async def test(queue: RunQueue) -> None:
        mine, others = Client("mine", "1"), Client("others", "1")
        queue.add(50, 0, mine)
        with pytest.raises(QueueFullError, match=r"50 of 50 runs.* that this tenant may have") as caught:
            queue.require_room(0, mine)
        assert caught.value.metadata == {"quota": "max_queued_runs", "limit": "50"}
        queue.require_room(0, others)
        queue.remove(15, 0, mine)
        waits = asyncio.create_task(queue.wait_for_room(20, 0, Client("mine", "2")))
        await turns()
        assert not waits.done(), "three quarters of half of the queue is what a tenant's streams may fill"
        await asyncio.wait_for(queue.wait_for_room(30, 0, others), 1)
        queue.add(30, 0, others)
        queue.remove(35, 0, mine)
        await asyncio.wait_for(waits, 1)

    drive(test)


def test_what_was_added_and_removed_leaves_nothing() -> None:
    async def test(queue: RunQueue) -> None:
        clients = [Client(tenant, connection) for tenant in "ab" for connection in "12"]
        for client in clients:
            queue.add(3, 30, client)
        for client in clients:
            queue.remove(2, 20, client)
            queue.remove(1, 10, client)
        assert (queue.runs, queue.size_bytes, queue._tenants) == (0, 0, {})

    drive(test)
