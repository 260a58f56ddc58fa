"""Short bursts of work, taken in turns: A, B, A, B, ... so that both meet the same weather."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.processes import ServerProcess
from benchmarks.progress import Progress
from benchmarks.samples import Pair, Sample, durations_within, percentiles

Call = Callable[[Any], Awaitable[object]]


@dataclass(frozen=True)
class Rhythm:
    """How much is measured.

    Attributes:
        rounds: how often each contestant gets its turn.
        warmup_s: how long it works before it is measured, each time.
        seconds: how long it is measured, each time.
    """

    rounds: int
    warmup_s: float
    seconds: float


@dataclass(frozen=True)
class Caller:
    """Somebody who makes one call after the other: ``await call(argument)``."""

    call: Call
    argument: Any


Contestant = Callable[[], Awaitable[Sample]]


async def alternate(
    rounds: int, contestants: Sequence[Contestant], progress: Progress, what: str, *, there_and_back: bool = False
) -> list[Pair]:
    """Gives each contestant its turn, round after round.

    Args:
        there_and_back: every second round begins with the last one, so that no place in the round is anybody's.

    Returns:
        The rounds, each in the contestants' order.
    """
    found = []
    for number in range(rounds):
        way = -1 if there_and_back and number % 2 else 1
        found.append(tuple([await contestant() for contestant in contestants[::way]][::way]))
        progress.advance(what)
    return found


async def call_in_loops(name: str, callers: Sequence[Caller], server: ServerProcess, rhythm: Rhythm) -> Sample:
    """All callers at once, each making its next call when it has its last answer."""
    answers, window, client_cpu_s, server_cpu_s = await answer_times(callers, server, rhythm)
    steps, durations = durations_within(answers, *window)
    p50_s, p99_s = percentiles(durations)
    return Sample(name, window[1] - window[0], steps, client_cpu_s, server_cpu_s, p50_s, p99_s)


async def answer_times(
    callers: Sequence[Caller], server: ServerProcess, rhythm: Rhythm
) -> tuple[list[np.ndarray[Any, np.dtype[np.float64]]], tuple[float, float], float, float]:
    """As ``call_in_loops``, unreduced.

    Returns:
        For each caller when it began and when its answers came; the measured window; the processor time in it of this
        process and of the server's. All in seconds, by ``time.perf_counter``.
    """
    end = time.perf_counter() + rhythm.warmup_s + rhythm.seconds
    records = [array("d") for _ in callers]
    async with asyncio.TaskGroup() as group:
        for caller, record in zip(callers, records, strict=True):
            group.create_task(_call_until(end, caller, record))
        await asyncio.sleep(rhythm.warmup_s)
        start = _Reading.now(server)
        await asyncio.sleep(end - time.perf_counter())
        stop = _Reading.now(server)
    answers = [np.asarray(record) for record in records]
    return answers, (start.time_s, stop.time_s), stop.client_s - start.client_s, stop.server_s - start.server_s


async def _call_until(end: float, caller: Caller, record: array[float]) -> None:
    # Nothing but the call and one look at the clock: at 100,000 steps a second a microsecond here is a tenth of all.
    call, argument, note, clock = caller.call, caller.argument, record.append, time.perf_counter
    now = clock()
    note(now)
    while now < end:
        await call(argument)
        now = clock()
        note(now)


async def call_one_by_one(
    name: str, caller: Caller, server: ServerProcess | None, seconds: float, steps_per_call: int
) -> Sample:
    """Whole calls, one after the other, until so many seconds have passed; at least one."""
    durations: list[float] = []
    start = now = _Reading.now(server)
    while not durations or now.time_s < start.time_s + seconds:
        began = time.perf_counter()
        await caller.call(caller.argument)
        durations.append(time.perf_counter() - began)
        now = _Reading.now(server)
    p50_s, p99_s = percentiles(np.asarray(durations))
    return Sample(
        name,
        now.time_s - start.time_s,
        len(durations) * steps_per_call,
        now.client_s - start.client_s,
        now.server_s - start.server_s,
        p50_s,
        p99_s,
    )


@dataclass(frozen=True)
class _Reading:
    """The clocks at one moment, in seconds."""

    time_s: float
    client_s: float
    server_s: float

    @staticmethod
    def now(server: ServerProcess | None) -> _Reading:
        return _Reading(time.perf_counter(), time.process_time(), 0.0 if server is None else server.cpu_s())
