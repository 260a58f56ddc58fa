"""What becomes of requests that are under way when somebody stops a load test, and are not answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import numpy as np
import pytest

from cellserve.specs import ArraySpec
from cellserve_client import aio
from cellserve_client.load import worker
from cellserve_client.load.caller import CUT_OFF, Caller, Traffic
from cellserve_client.load.clock import LoadClock
from cellserve_client.load.closed_loop import ClosedLoop
from cellserve_client.load.distributions import parse_distribution
from cellserve_client.load.inputs import InputSource
from cellserve_client.load.open_loop import NOT_SENT, OpenLoop
from cellserve_client.load.recorder import Interval, Recorder

ZERO = parse_distribution("0", "think_time")


class SilentSession:
    """Never answers."""

    def __init__(self, is_asked: asyncio.Event) -> None:
        self._is_asked = is_asked

    async def open(self) -> SilentSession:
        """It, at once."""
        return self

    async def step(self, inputs: object, *, timeout_s: float) -> None:
        """Waits for ever, as a server that hangs would have it."""
        self._is_asked.set()
        await asyncio.Event().wait()


class SilentModel:
    """Makes sessions that never answer."""

    def __init__(self, is_asked: asyncio.Event) -> None:
        self._is_asked = is_asked

    def session(self, *, timeout_s: float) -> SilentSession:
        """One of them."""
        return SilentSession(self._is_asked)


def stopped(make: Callable[[Caller, LoadClock, Recorder], ClosedLoop | OpenLoop], *, is_open: bool) -> Interval:
    """What is counted when a loop of one session is stopped while its request is under way."""

    async def run() -> Interval:
        clock = LoadClock(0.0, 600.0)
        clock.begin(clock.now())
        recorder, is_asked = Recorder(clock, is_open), asyncio.Event()
        inputs = InputSource([ArraySpec("inputs", np.dtype(np.float32), (1,))], [np.zeros((1, 1))], is_random=False)
        traffic = Traffic(inputs, 1.0, ZERO, None, 600.0, asyncio.Semaphore(1))
        model = cast(aio.Model, SilentModel(is_asked))
        loop = make(Caller(model, traffic, recorder, clock, np.random.default_rng(0)), clock, recorder)
        running = asyncio.create_task(worker._send(loop, clock))
        await is_asked.wait()
        clock.stop()
        async with asyncio.timeout(20.0):
            await running
        return recorder.take(0, clock.now(), 0.0)

    return asyncio.run(run())


def test_a_closed_loop_counts_them_as_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "LAST_ANSWERS_S", 0.0)
    interval = stopped(lambda caller, clock, _: ClosedLoop([caller], clock, lambda _: 1, ZERO), is_open=False)
    assert interval.errors == {CUT_OFF: 1}
    assert interval.kinds["step"].failed == 1


def test_an_open_loop_also_counts_what_still_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "LAST_ANSWERS_S", 0.0)

    def loop(caller: Caller, clock: LoadClock, recorder: Recorder) -> OpenLoop:
        due = (clock.began + time_s for time_s in (0.0, 0.0, 0.0, 300.0))
        return OpenLoop([caller], 1, clock, due, recorder, "step")

    interval = stopped(loop, is_open=True)
    assert interval.errors == {CUT_OFF: 1, NOT_SENT: 2}
    assert interval.offered == 3
