"""The memory of request_ids."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cellserve.errors import FieldInvalidError, QuotaExceededError, SessionExistsError
from cellserve_server.config import ServerConfig
from cellserve_server.edge.requests import RequestMemory
from cellserve_server.tenant_limits import TenantLimits
from tests.clocks import ManualClock

TENANT = "default"
REMEMBER_S = 600.0


class Work:
    """Something that is done, counted, and may be held up."""

    def __init__(self) -> None:
        self.done = 0
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def __call__(self) -> int:
        await self.may_end.wait()
        self.done += 1
        return self.done


def _memory(clock: ManualClock, max_requests: int = 10, **settings: Any) -> RequestMemory:
    config = ServerConfig(max_remembered_requests=max_requests, **settings)
    return RequestMemory(TenantLimits(config), max_requests, REMEMBER_S, clock)


def test_a_repeat_gets_the_first_answer(clock: ManualClock) -> None:
    async def run() -> None:
        memory, work = _memory(clock), Work()
        answers = [await memory.once(TENANT, "id", b"same", work) for _ in range(3)]
        assert answers == [1, 1, 1]
        assert await memory.once("other tenant", "id", b"same", work) == 2

    asyncio.run(run())


def test_without_an_id_every_request_is_done(clock: ManualClock) -> None:
    async def run() -> None:
        memory, work = _memory(clock), Work()
        assert [await memory.once(TENANT, "", b"same", work) for _ in range(3)] == [1, 2, 3]
        assert len(memory) == 0

    asyncio.run(run())


def test_a_repeat_waits_for_the_first_while_it_is_under_way(clock: ManualClock) -> None:
    async def run() -> None:
        memory, work = _memory(clock), Work()
        work.may_end.clear()
        callers = [asyncio.ensure_future(memory.once(TENANT, "id", b"same", work)) for _ in range(3)]
        await asyncio.sleep(0)
        callers[0].cancel()  # Going away takes nothing from the others.
        await asyncio.sleep(0)
        work.may_end.set()
        assert await asyncio.gather(*callers[1:]) == [1, 1]
        assert await memory.once(TENANT, "id", b"same", work) == 1

    asyncio.run(run())


def test_a_request_whose_caller_went_away_is_done_and_remembered(clock: ManualClock) -> None:
    async def run() -> None:
        memory, work = _memory(clock), Work()
        work.may_end.clear()
        caller = asyncio.ensure_future(memory.once(TENANT, "id", b"same", work))
        await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        work.may_end.set()
        assert await memory.once(TENANT, "id", b"same", work) == 1

    asyncio.run(run())


@pytest.mark.parametrize("under_way", [True, False])
def test_the_same_id_on_another_request(clock: ManualClock, under_way: bool) -> None:
    async def run() -> None:
        memory, work = _memory(clock), Work()
        if under_way:
            work.may_end.clear()
        first = asyncio.ensure_future(memory.once(TENANT, "id", b"one", work))
        await asyncio.sleep(0)
        if not under_way:
            await first
        with pytest.raises(FieldInvalidError, match=r"request_id.*'id'"):
            await memory.once(TENANT, "id", b"other", work)
        work.may_end.set()
        assert await first == 1

    asyncio.run(run())


def test_errors_are_not_remembered(clock: ManualClock) -> None:
    async def fail() -> int:
        raise SessionExistsError("taken")

    async def run() -> None:
        memory, work = _memory(clock), Work()
        with pytest.raises(SessionExistsError):
            await memory.once(TENANT, "id", b"same", fail)
        assert await memory.once(TENANT, "id", b"same", work) == 1

    asyncio.run(run())


def test_answers_are_forgotten_after_their_time(clock: ManualClock) -> None:
    async def run() -> None:
        memory, work = _memory(clock), Work()
        await memory.once(TENANT, "id", b"same", work)
        clock.advance(REMEMBER_S - 1)
        assert await memory.once(TENANT, "id", b"same", work) == 1
        clock.advance(1)
        assert await memory.once(TENANT, "id", b"other", work) == 2

    asyncio.run(run())


def test_beyond_the_limit_the_oldest_is_forgotten(clock: ManualClock) -> None:
    async def run() -> None:
        memory, work = _memory(clock, max_requests=3), Work()
        for number in range(5):
            await memory.once(TENANT, f"id-{number}", b"same", work)
        assert len(memory) == 3
        assert await memory.once(TENANT, "id-4", b"same", work) == 5
        assert await memory.once(TENANT, "id-0", b"same", work) == 6

    asyncio.run(run())


def test_too_many_under_way(clock: ManualClock) -> None:
    async def run() -> None:
        memory, work = _memory(clock, max_requests=2), Work()
        work.may_end.clear()
        callers = [asyncio.ensure_future(memory.once(TENANT, f"id-{n}", b"same", work)) for n in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(QuotaExceededError) as caught:
            await memory.once(TENANT, "one more", b"same", work)
        assert caught.value.retry_after_s is not None
        work.may_end.set()
        assert sorted(await asyncio.gather(*callers)) == [1, 2]

    asyncio.run(run())


def test_the_length_of_an_id(clock: ManualClock) -> None:
    async def run() -> None:
        memory, work = _memory(clock), Work()
        assert await memory.once(TENANT, "x" * 128, b"same", work) == 1
        with pytest.raises(FieldInvalidError, match=r"128.*129"):
            await memory.once(TENANT, "x" * 129, b"same", work)

    asyncio.run(run())


# --- tenants ----------------------------------------------------------------------------------------------------------


def test_a_tenant_that_asks_much_forgets_its_own(clock: ManualClock) -> None:
    async def run() -> None:
        memory, work = _memory(clock, max_requests=6, tokens_file="some"), Work()
        assert await memory.once("a", "id", b"same", work) == 1
        for number in range(10):
            await memory.once("b", f"id-{number}", b"same", work)
        assert len(memory) == 1 + 3, "half of all is a tenant's part"
        assert await memory.once("a", "id", b"same", work) == 1
        assert await memory.once("b", "id-9", b"same", work) == 11
        assert await memory.once("b", "id-0", b"same", work) == 12

    asyncio.run(run())


def test_beyond_the_limit_of_all_who_has_most_forgets(clock: ManualClock) -> None:
    async def run() -> None:
        memory, work = _memory(clock, max_requests=6, tokens_file="some"), Work()
        assert await memory.once("a", "id", b"same", work) == 1
        for number in range(10):
            for tenant in ("b", "c"):
                await memory.once(tenant, f"id-{number}", b"same", work)
        assert len(memory) == 6
        assert await memory.once("a", "id", b"same", work) == 1
        assert await memory.once("c", "id-9", b"same", work) == 21
        clock.advance(REMEMBER_S)
        assert await memory.once("a", "id", b"same", work) == 22
        assert len(memory) == 1

    asyncio.run(run())


def test_what_is_under_way_of_one_tenant_refuses_no_other(clock: ManualClock) -> None:
    async def run() -> None:
        memory, work = _memory(clock, max_requests=4, tokens_file="some"), Work()
        work.may_end.clear()
        callers = [asyncio.ensure_future(memory.once("b", f"id-{n}", b"same", work)) for n in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(QuotaExceededError, match=r"at most 2 requests of a tenant"):
            await memory.once("b", "one more", b"same", work)
        callers += [asyncio.ensure_future(memory.once("a", f"id-{n}", b"same", work)) for n in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(QuotaExceededError, match=r"at most 4 requests with"):
            await memory.once("c", "id", b"same", work)
        work.may_end.set()
        assert sorted(await asyncio.gather(*callers)) == [1, 2, 3, 4]
        assert await memory.once("c", "id", b"same", work) == 5

    asyncio.run(run())
