"""The schedule of an open loop and its pool of sessions, with sessions whose answers a test decides on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

import pytest

from cellserve_client.load import open_loop
from cellserve_client.load.caller import Caller
from cellserve_client.load.clock import LoadClock
from cellserve_client.load.open_loop import NOT_SENT, OpenLoop
from cellserve_client.load.recorder import Interval, Recorder

MEASURED_S = 0.05


class Answers(NamedTuple):
    """How the sessions of a test answer.

    Attributes:
        clock: of the test.
        at_once: or at the end of the test.
        sent: when each request was due, in the order in which they were sent.
        by: which sessions sent them.
        begun: set when the first was sent.
    """

    clock: LoadClock
    at_once: bool
    sent: list[float]
    by: set[int]
    begun: asyncio.Event


class KnownCaller(Caller):
    """A session without a server."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    async def open(self) -> bool:
        return True

    async def request(self, due: float | None) -> bool:
        assert due is not None
        self._answers.sent.append(due)
        self._answers.by.add(id(self))
        self._answers.begun.set()
        await self._answers.clock.pause(0.0 if self._answers.at_once else MEASURED_S)
        return True


def run(due: Iterable[float], *, at_once: bool, sessions: int, first: int) -> tuple[Answers, Interval]:
    """Runs a loop with requests that are due so many seconds after its beginning."""

    async def running() -> tuple[Answers, Interval]:
        clock = LoadClock(0.0, MEASURED_S)
        clock.begin(clock.now())
        answers = Answers(clock, at_once, [], set(), asyncio.Event())
        recorder = Recorder(clock, is_open=True)
        callers: list[Caller] = [KnownCaller(answers) for _ in range(sessions)]
        times = (clock.began + time_s for time_s in due)
        await OpenLoop(callers, first, clock, times, recorder, "step").run()
        return answers, recorder.take(0, clock.now(), 0.0)

    return asyncio.run(running())


def test_every_request_is_sent_when_sessions_are_free() -> None:
    answers, interval = run([0.0, 0.01, 0.01, 0.02], at_once=True, sessions=2, first=2)
    assert len(answers.sent) == interval.offered == 4
    assert answers.sent == sorted(answers.sent)
    assert interval.errors == {}


def test_requests_that_still_wait_at_the_end_are_sent_then() -> None:
    answers, interval = run([0.0] * 5, at_once=False, sessions=1, first=1)
    assert len(answers.sent) == 5
    assert interval.errors == {}


def test_what_cannot_be_sent_any_more_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_loop, "LAST_ANSWERS_S", 0.0)
    answers, interval = run([0.0] * 5, at_once=False, sessions=1, first=1)
    assert len(answers.sent) == 1
    assert interval.errors == {NOT_SENT: 4}
    assert interval.kinds["step"].failed == 4
    assert interval.offered == 5


def test_what_waits_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_loop, "MAX_WAITING", 3)
    answers, interval = run([0.0] * 10, at_once=False, sessions=1, first=1)
    assert len(answers.sent) + interval.errors[NOT_SENT] == 10
    assert len(answers.sent) <= 4


def test_the_pool_grows_when_all_are_busy() -> None:
    answers, _ = run([0.0, 0.001, 0.002, 0.003], at_once=False, sessions=3, first=1)
    assert len(answers.by) == 3


def test_the_pool_does_not_grow_for_nothing() -> None:
    answers, _ = run([0.0, 0.02], at_once=True, sessions=3, first=2)
    assert len(answers.by) <= 2


def test_a_test_that_is_stopped_asks_for_no_more() -> None:
    async def stopped() -> int:
        clock = LoadClock(0.0, 600.0)
        clock.begin(clock.now())
        answers = Answers(clock, True, [], set(), asyncio.Event())
        recorder = Recorder(clock, is_open=True)
        times = (clock.began + time_s for time_s in (0.0, 300.0))
        loop = OpenLoop([KnownCaller(answers)], 1, clock, times, recorder, "step")
        running = asyncio.create_task(loop.run())
        await answers.begun.wait()
        clock.stop()
        await running
        return recorder.take(0, clock.now(), 0.0).offered

    assert asyncio.run(stopped()) == 1


def test_sessions_that_cannot_be_had_are_not_asked_for_after_a_stop() -> None:
    async def asked() -> list[bool]:
        clock = LoadClock(0.0, 600.0)
        clock.begin(clock.now())
        stopped: list[bool] = []

        class RefusedCaller(KnownCaller):
            async def open(self) -> bool:
                stopped.append(clock.is_stopped)
                answers.begun.set()
                # As ``Caller``: refused at once after the stop, and after a pause before it.
                await clock.pause(600.0)
                return False

        answers = Answers(clock, True, [], set(), asyncio.Event())
        times = (clock.began + time_s for time_s in (0.0, 300.0))
        recorder = Recorder(clock, is_open=True)
        running = asyncio.create_task(OpenLoop([RefusedCaller(answers)], 1, clock, times, recorder, "step").run())
        await answers.begun.wait()
        clock.stop()
        await running
        return stopped

    assert asyncio.run(asked()) == [False]
