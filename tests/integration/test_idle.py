"""Idle costs nothing: with thousands of open sessions that nobody steps, hardly anything happens in ten minutes.

No test waits for ten minutes: where the event loop would sleep its time jumps instead.
"""

from __future__ import annotations

import asyncio
import selectors
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cellserve_client import aio, rnn
from cellserve_server.app import SWEEP_MAX_S
from cellserve_server.config import ServerConfig
from tests.integration.edges import DEPTH, UNITS
from tests.integration.greedy import gauge
from tests.servers import RPC_TIMEOUT_S, TEST_CONFIG, LoopThread, RunningApp, running_app

SESSIONS = 2000
TTL_S = 3600.0
TEN_MINUTES_S = 600.0
SHORTEST_TIMER_S = 0.999  # a second, and what passes until a timer is seen


class JumpingTime:
    """The time of an event loop, which jumps over every sleep while it is told to.

    Args:
        loop: it is changed until ``end``.

    Attributes:
        jumps: how long the loop would have slept, each time, in seconds.
        timers_s: after how long the timers ring that were set meanwhile.
    """

    def __init__(self, loop: Any) -> None:
        self.jumps: list[float] = []
        self.timers_s: list[float] = []
        self.is_jumping = False
        self._loop = loop
        self._jumped_s = 0.0
        self._select: Callable[[float | None], list[Any]] = loop._selector.select
        self._call_at: Callable[..., asyncio.TimerHandle] = loop.call_at
        loop.time = self.now
        loop._selector.select = self._select_or_jump
        loop.call_at = self._note_timer

    def now(self) -> float:
        """As the loop's ``time``: seconds."""
        return time.monotonic() + self._jumped_s

    def end(self) -> None:
        """The loop is as it was; no timers of the time between may be left."""
        del self._loop.time, self._loop._selector.select, self._loop.call_at

    def _select_or_jump(self, timeout_s: float | None = None) -> list[Any]:
        if not self.is_jumping or not timeout_s:
            return self._select(timeout_s)
        events = self._select(0)
        if not events:
            self.jumps.append(timeout_s)
            self._jumped_s += timeout_s
        return events

    def _note_timer(self, when: float, *arguments: Any, **named: Any) -> asyncio.TimerHandle:
        if self.is_jumping:
            self.timers_s.append(when - self.now())
        return self._call_at(when, *arguments, **named)


@pytest.fixture
def jumping(loop_thread: LoopThread) -> Iterator[JumpingTime]:
    """The time of the loop of the tests' servers."""

    async def running_loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    loop = loop_thread.run(running_loop())
    made = loop_thread.call(lambda: JumpingTime(loop))
    yield made
    loop_thread.call(made.end)


def test_ten_minutes_of_idle_sessions(loop_thread: LoopThread, jumping: JumpingTime) -> None:
    """The server, and a client that has them open on its stream."""
    config = replace(TEST_CONFIG, defined_model_ttl_s=4 * TTL_S)

    async def pass_by(seconds: float) -> None:
        jumping.jumps.clear()
        jumping.timers_s.clear()
        jumping.is_jumping = True
        try:
            await asyncio.sleep(seconds)
        finally:
            jumping.is_jumping = False

    async def use(address: str) -> aio.Server:
        remote = aio.connect(address)
        cell = await remote.cell(rnn.BasicLSTMCell(UNITS), seed=3, input_size=DEPTH)
        group = await cell.session_group(SESSIONS, ttl_s=TTL_S)
        await group.step(np.zeros((SESSIONS, DEPTH), np.float32))
        session = await cell.session(ttl_s=TTL_S)
        await session.step(np.zeros(DEPTH, np.float32))
        return remote

    with running_app(loop_thread, config, jumping.now) as server:
        remote = loop_thread.run(use(server.address))
        try:
            loop_thread.run(pass_by(TEN_MINUTES_S))
            assert gauge(server, "cellserve_sessions") == SESSIONS + 1
            _check(jumping, TEN_MINUTES_S, config)
            # And when their time comes they go, all together.
            loop_thread.run(pass_by(TTL_S))
            assert gauge(server, "cellserve_sessions") == 0
            _check(jumping, TTL_S, config)
        finally:
            loop_thread.run(remote.close())


def _check(jumping: JumpingTime, seconds: float, config: ServerConfig) -> None:
    assert sum(jumping.jumps) >= seconds - 1
    # The folder of models is looked at every five seconds, and who uses defined models about once a minute.
    assert len(jumping.jumps) <= seconds / config.models_poll_s + seconds / SWEEP_MAX_S + 10
    assert min(jumping.timers_s) >= SHORTEST_TIMER_S


def test_the_metrics_page_has_no_timer(
    start_server: Callable[[ServerConfig], RunningApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits_s: list[float | None] = []

    class NotingSelector(selectors.DefaultSelector):
        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            waits_s.append(timeout)
            return super().select(timeout)

    monkeypatch.setattr("socketserver._ServerSelector", NotingSelector)
    server = start_server(replace(TEST_CONFIG, http_port=0))
    with urllib.request.urlopen(f"http://127.0.0.1:{server.app.http_port}/metrics", timeout=RPC_TIMEOUT_S) as page:
        assert b"cellserve_sessions" in page.read()
    assert waits_s
    assert all(timeout is None or timeout >= 1 for timeout in waits_s), waits_s
