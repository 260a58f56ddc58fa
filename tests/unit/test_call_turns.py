"""Which unary calls are worked on while several tenants use the server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from cellserve.errors import QueueFullError
from cellserve_server.edge import call_turns
from cellserve_server.edge.call_turns import MOST_AT_ONCE, CallTurns
from tests.unit.engine_bench import until

SIZE_BYTES = 10
MOST_BYTES = 10 * SIZE_BYTES


class Calls:
    """Calls that last until they are told to end.

    Attributes:
        begun: their names, in the order in which they had their turns.
    """

    def __init__(self, *, is_shared: bool = True) -> None:
        self.is_shared = is_shared
        self.turns = CallTurns(lambda: self.is_shared, lambda _: MOST_BYTES, 0.5)
        self.begun: list[str] = []
        self._news = asyncio.Condition()
        self._ends: dict[str, asyncio.Future[None]] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def begin(self, *names: str) -> None:
        """Begins calls; a name begins with its tenant's."""
        for name in names:
            self._ends[name] = asyncio.get_running_loop().create_future()
            self.tasks[name] = asyncio.create_task(self._call(name))
        await turn_of_the_loop()

    async def end(self, name: str, error: Exception | None = None) -> None:
        """Ends a call."""
        if error is None:
            self._ends[name].set_result(None)
        else:
            self._ends[name].set_exception(error)
        await asyncio.gather(self.tasks[name], return_exceptions=True)
        await turn_of_the_loop()

    async def all_begun(self, count: int) -> None:
        """Waits until so many have had their turns."""
        async with self._news:
            await self._news.wait_for(lambda: len(self.begun) >= count)

    async def _call(self, name: str) -> None:
        async with self.turns.turn(name[0], SIZE_BYTES):
            self.begun.append(name)
            async with self._news:
                self._news.notify_all()
            await self._ends[name]


async def turn_of_the_loop() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def run(test: Callable[[Calls], Awaitable[None]], *, is_shared: bool = True) -> None:
    async def main() -> None:
        calls = Calls(is_shared=is_shared)
        await test(calls)
        for task in calls.tasks.values():
            task.cancel()
        await asyncio.gather(*calls.tasks.values(), return_exceptions=True)
        assert calls.turns.waiting == 0

    asyncio.run(main())


def test_a_tenant_that_is_alone_waits_for_nothing() -> None:
    async def test(calls: Calls) -> None:
        await calls.begin("a1", "a2", "a3", "a4")
        assert calls.begun == ["a1", "a2", "a3", "a4"]

    run(test, is_shared=False)


def test_beside_others_a_tenants_calls_go_one_after_the_other_and_the_others_at_once() -> None:
    assert MOST_AT_ONCE == 2

    async def test(calls: Calls) -> None:
        await calls.begin("a1", "a2", "a3", "a4", "a5", "b1")
        assert calls.begun == ["a1", "a2", "b1"]
        assert calls.turns.waiting == 3
        await calls.end("a2")
        assert calls.begun[3:] == ["a3"]
        await calls.begin("a6")
        await calls.end("a1")
        await calls.end("a3")
        await calls.end("a4")
        assert calls.begun[4:] == ["a4", "a5", "a6"], "who came later comes later"

    run(test)


def test_requests_that_wait_are_bounded_by_their_bytes_and_those_of_callers_who_have_gone_do_not_count() -> None:
    async def test(calls: Calls) -> None:
        names = [f"a{number}" for number in range(MOST_AT_ONCE + MOST_BYTES // SIZE_BYTES)]
        await calls.begin(*names, "a too many", "b1")
        assert calls.turns.waiting == MOST_BYTES // SIZE_BYTES
        assert "b1" in calls.begun
        with pytest.raises(QueueFullError, match="have 100 of 100 bytes") as refused:
            await calls.tasks["a too many"]
        assert refused.value.metadata == {"quota": "max_queued_bytes", "limit": "100"}
        assert refused.value.retry_after_s == 0.5
        calls.tasks[names[-1]].cancel()
        await turn_of_the_loop()
        assert calls.turns.waiting == MOST_BYTES // SIZE_BYTES - 1
        await calls.begin("a one more")
        assert not calls.tasks["a one more"].done()
        await calls.end(names[0])
        assert calls.begun[-1] == names[MOST_AT_ONCE]

    run(test)


def test_one_that_is_too_large_waits_where_nobody_else_does() -> None:
    async def test(calls: Calls) -> None:
        calls.turns = CallTurns(lambda: True, lambda _: SIZE_BYTES - 1, 0.5)
        await calls.begin("a1", "a2", "a3", "a4")
        assert calls.turns.waiting == 1
        with pytest.raises(QueueFullError):
            await calls.tasks["a4"]
        await calls.end("a1")
        assert calls.begun == ["a1", "a2", "a3"]

    run(test)


def test_when_the_others_have_gone_all_may() -> None:
    async def test(calls: Calls) -> None:
        await calls.begin("a1", "a2", "a3", "a4", "a5")
        calls.is_shared = False
        await calls.end("a1")
        assert calls.begun == ["a1", "a2", "a3", "a4", "a5"]

    run(test)


def test_a_caller_that_has_gone_has_no_turn() -> None:
    async def test(calls: Calls) -> None:
        await calls.begin("a1", "a2", "a3", "a4")
        calls.tasks["a3"].cancel()
        await turn_of_the_loop()
        await calls.end("a1")
        assert calls.begun == ["a1", "a2", "a4"]

    run(test)


def test_a_caller_that_goes_as_its_turn_comes_gives_it_on() -> None:
    async def test(calls: Calls) -> None:
        await calls.begin("a1", "a2", "a3", "a4")
        calls._ends["a1"].set_result(None)
        await asyncio.gather(calls.tasks["a1"])  # The turn is the third one's, which has not heard of it yet.
        calls.tasks["a3"].cancel()
        await turn_of_the_loop()
        assert "a4" in calls.begun

    run(test)


def test_calls_that_take_long_hold_nobody_up() -> None:
    async def test(calls: Calls) -> None:
        await calls.begin("a1", "a2", "a3", "a4", "a5")
        assert calls.turns.waiting == 3
        async with asyncio.timeout(10):
            await calls.all_begun(5)  # By the turns' own timer.

    run(test)


def test_one_that_is_refused_keeps_its_place_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(calls: Calls) -> None:
        await calls.begin("a1", "a2", "a3")
        await calls.end("a1", QueueFullError("full"))
        assert calls.begun == ["a1", "a2"], "those that come again at once would be refused all the time"
        monkeypatch.setattr(call_turns, "LONG_S", 0.0)
        await calls.end("a2")
        assert calls.begun == ["a1", "a2", "a3"]
        await calls.end("a3", QueueFullError("full"))
        await until(lambda: not calls.turns._tenants)

    run(test)
