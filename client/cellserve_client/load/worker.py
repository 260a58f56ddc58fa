"""What one process of a load test does."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from cellserve_client import aio
from cellserve_client.load.caller import Caller, Traffic
from cellserve_client.load.clock import LAST_ANSWERS_S, LoadClock
from cellserve_client.load.closed_loop import ClosedLoop
from cellserve_client.load.distributions import parse_distribution
from cellserve_client.load.inputs import random_inputs, read_inputs
from cellserve_client.load.messages import Assignment, Done, FromProcess, Ready
from cellserve_client.load.open_loop import OpenLoop, due_times
from cellserve_client.load.plan import SEQUENCE, STEP, LoadPlan, step_share
from cellserve_client.load.recorder import INTERVAL_S, Recorder

OPENING_AT_ONCE = 64
CLOSING_AT_ONCE = 64
# Sessions of a server that is lost are left to expire after so long.
CLOSING_S = 20.0
LAG_INTERVAL_S = 0.02


async def work(
    assignment: Assignment, tell: Callable[[FromProcess], None], began: Awaitable[float], clock: LoadClock
) -> None:
    """Opens sessions, says that it is ready, sends requests from a moment on until the end, and deletes its sessions.

    Args:
        assignment: what to do.
        tell: takes what is to be told.
        began: the moment, in the clock's seconds.
        clock: of the test, which others may stop.

    Raises:
        CellServeError: the server cannot be reached. Later failures are counted.
    """
    plan = assignment.plan
    recorder = Recorder(clock, plan.is_open)
    async with contextlib.AsyncExitStack() as stack:
        models = [await (await stack.enter_async_context(server)).model(assignment.model) for server in _servers(plan)]
        callers = _callers(assignment, models, recorder, clock)
        first = _first_sessions(assignment)
        await asyncio.gather(*(caller.open() for caller in callers[:first]))
        # What was loaded stays: to go through it again and again would take time from the requests.
        gc.collect()
        gc.freeze()
        tell(Ready())
        clock.begin(await began)
        reporting = asyncio.create_task(_report(recorder, clock, tell))
        watching = asyncio.create_task(_watch_lag(recorder))
        try:
            await _send(_loop(assignment, callers, first, recorder, clock), clock)
        finally:
            watching.cancel()
            reporting.cancel()
            tell(recorder.take(_interval_number(clock), clock.now(), time.process_time()))
            await _close(callers)
            tell(recorder.take(_interval_number(clock), clock.now(), time.process_time()))
    tell(Done())


def _servers(plan: LoadPlan) -> list[aio.Server]:
    """The connections: one for each way in which steps are sent."""
    ways = {"stream": (True,), "unary": (False,), "mixed": (True, False)}[plan.transport]
    return [replace(plan.connection, coalesce=coalesce).connect_aio() for coalesce in ways]


def _callers(assignment: Assignment, models: list[aio.Model], recorder: Recorder, clock: LoadClock) -> list[Caller]:
    plan, info = assignment.plan, models[0].info
    seeds = np.random.default_rng([plan.seed, assignment.part])
    traffic = Traffic(
        inputs=random_inputs(info, seeds) if plan.inputs is None else read_inputs(Path(plan.inputs), info),
        step_share=step_share(plan.traffic),
        sequence_length=parse_distribution(plan.sequence_length, "sequence_length"),
        session_length=None
        if plan.session_length is None
        else parse_distribution(plan.session_length, "session_length"),
        timeout_s=plan.timeout_s,
        opening=asyncio.Semaphore(OPENING_AT_ONCE),
    )
    return [
        Caller(models[index % len(models)], traffic, recorder, clock, np.random.default_rng(seeds.integers(2**63)))
        for index in range(_part_of(plan.peak_sessions, assignment))
    ]


def _part_of(count: int, assignment: Assignment) -> int:
    """How many of so many sessions are this process's: those whose number leaves its own when divided."""
    return len(range(assignment.part, count, assignment.plan.processes))


def _first_sessions(assignment: Assignment) -> int:
    plan = assignment.plan
    return _part_of(plan.sessions if plan.is_open else round(plan.level.at(0.0)), assignment)


def _loop(
    assignment: Assignment, callers: list[Caller], first: int, recorder: Recorder, clock: LoadClock
) -> ClosedLoop | OpenLoop:
    plan, level = assignment.plan, assignment.plan.level
    if not plan.is_open:
        return ClosedLoop(callers, clock, lambda time_s: _part_of(round(level.at(time_s)), assignment), plan.thinking)
    random = np.random.default_rng([plan.seed, assignment.part, plan.processes])
    times = due_times(level, plan.arrivals, assignment.part, plan.processes, random)
    kind = STEP if step_share(plan.traffic) > 0 else SEQUENCE
    return OpenLoop(callers, first, clock, (clock.began + time_s for time_s in times), recorder, kind)


async def _send(loop: ClosedLoop | OpenLoop, clock: LoadClock) -> None:
    """Sends until the end of the test, and waits for the last answers.

    Requests that are sent near the end have timeouts that suit it. Those that were sent before somebody ended the test
    have longer ones, and are cut off.
    """
    with contextlib.suppress(TimeoutError):  # That they were is counted.
        async with asyncio.timeout(None) as limit:
            cutting = asyncio.create_task(_cut_off(limit, clock))
            try:
                await loop.run()
            finally:
                cutting.cancel()


async def _cut_off(limit: asyncio.Timeout, clock: LoadClock) -> None:
    await clock.stopped()
    limit.reschedule(asyncio.get_running_loop().time() + LAST_ANSWERS_S)


def _interval_number(clock: LoadClock) -> int:
    """Of the interval that is under way."""
    return int((clock.now() - clock.measure_from) // INTERVAL_S)


async def _report(recorder: Recorder, clock: LoadClock, tell: Callable[[FromProcess], None]) -> None:
    while True:
        number = _interval_number(clock)
        await asyncio.sleep(clock.measure_from + (number + 1) * INTERVAL_S - clock.now())
        tell(recorder.take(number, clock.now(), time.process_time()))


async def _watch_lag(recorder: Recorder) -> None:
    while True:
        due = time.monotonic() + LAG_INTERVAL_S
        await asyncio.sleep(LAG_INTERVAL_S)
        recorder.lag(max(time.monotonic() - due, 0.0))


async def _close(callers: list[Caller]) -> None:
    """Deletes all sessions, some at a time."""
    left, until = iter(callers), time.monotonic() + CLOSING_S

    async def close_some() -> None:
        for caller in left:
            if time.monotonic() < until:
                await caller.close()

    await asyncio.gather(*(close_some() for _ in range(CLOSING_AT_ONCE)))
