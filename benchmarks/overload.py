"""What a server still does for its callers when four times as much is asked of it as it can do.

Steps come by a schedule, at random moments, whether or not the server keeps up (an open loop); each has a deadline, and
goodput is what is answered in time. First the capacity is found: what callers get who wait for their answers. Then
levels at and far above it take turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from benchmarks.bursts import Caller, Rhythm, call_in_loops
from benchmarks.command import run
from benchmarks.contestants import SEED, normal
from benchmarks.processes import ServerProcess, cellserve
from benchmarks.progress import Progress
from benchmarks.results import Cell, Result
from benchmarks.samples import percentiles
from cellserve.errors import CellServeError
from cellserve.tensors import Array
from cellserve_client import RetryPolicy, aio, rnn

LAYERS, UNITS, INPUTS, ROWS = 4, 1024, 16, 32
# A step of one session takes some 25 ms: at four times the capacity few enough come for grpc itself to be no matter.
CELL = rnn.MultiRNNCell([rnn.BasicLSTMCell(UNITS) for _ in range(LAYERS)])
MEMORY_INTERVAL_S = 0.05
MIB = 1 << 20
# How steps are sent: together on one stream; each a request of its own, given up when it is refused, or repeated.
WAYS = {
    "stream": (True, RetryPolicy()),
    "once": (False, RetryPolicy(max_attempts=1)),
    "retried": (False, RetryPolicy()),
}


@dataclass(frozen=True)
class Plan:
    """How much.

    Attributes:
        sessions: that steps are sent to, for each way.
        deadline_s: of a step.
        levels: what is offered, in parts of the capacity; the last one is the overload.
        callers: who wait for their answers while the capacity is found.
        rhythm: of each level.
    """

    sessions: int
    deadline_s: float
    levels: tuple[float, ...]
    callers: int
    rhythm: Rhythm


FULL = Plan(96, 0.5, (1.0, 2.0, 4.0), 16, Rhythm(rounds=4, warmup_s=0.5, seconds=3.0))
QUICK = Plan(64, 0.5, (1.0, 4.0), 16, Rhythm(rounds=1, warmup_s=0.5, seconds=2.0))


@dataclass
class Burst:
    """What became of the steps of one level.

    Attributes:
        way, number, level: which, in which round.
        capacity: what the server can do, in steps a second.
        seconds: how long was measured.
        offered: steps that were due in that time.
        good: that were answered within their deadline.
        errors: that were not, by reason.
        latencies_s: of those that were.
        lag_s: by how much the schedule was late at most.
        peak_bytes: the most memory that the server held.
        server_cpu_s: the processor time that it took meanwhile.
    """

    way: str
    number: int
    level: float
    capacity: float
    seconds: float
    offered: int = 0
    good: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    latencies_s: list[float] = field(default_factory=list)
    lag_s: float = 0.0
    peak_bytes: int = 0
    server_cpu_s: float = 0.0

    @property
    def rate(self) -> float:
        """Steps a second that are to be offered."""
        return self.level * self.capacity

    @property
    def goodput(self) -> float:
        """Steps a second that were answered in time."""
        return self.good / self.seconds

    @property
    def work(self) -> float:
        """Steps that were answered in time, for each second of the server's processor time."""
        return self.good / self.server_cpu_s

    def note_error(self, reason: str) -> None:
        """A step was not answered in time."""
        self.errors[reason] = self.errors.get(reason, 0) + 1


class Offer:
    """Sends steps by a schedule to sessions that are free.

    Args:
        sessions: where they go, in turns.
        inputs: of each step.
        deadline_s: how long one may take.
        burst: what is counted.
    """

    def __init__(self, sessions: list[aio.Session], inputs: Array, deadline_s: float, burst: Burst) -> None:
        self._free = deque(sessions)
        self._inputs = inputs
        self._deadline_s = deadline_s
        self._burst = burst

    async def run(self, rate: float, rhythm: Rhythm) -> None:
        """Offers so many steps a second, and waits for what becomes of them."""
        random = np.random.default_rng(SEED)
        began = due = time.perf_counter()
        measured_from, end = began + rhythm.warmup_s, began + rhythm.warmup_s + rhythm.seconds
        async with asyncio.TaskGroup() as group:
            while (due := due + random.exponential(1 / rate)) < end:
                # Also when it is late: answers are to be read.
                await asyncio.sleep(max(due - time.perf_counter(), 0.0))
                is_measured = due >= measured_from
                if is_measured:
                    self._burst.offered += 1
                    self._burst.lag_s = max(self._burst.lag_s, time.perf_counter() - due)
                if self._free:
                    group.create_task(self._step(self._free.popleft(), is_measured))
                elif is_measured:
                    self._burst.note_error("NO_SESSION")

    async def _step(self, session: aio.Session, is_measured: bool) -> None:
        sent = time.perf_counter()
        try:
            await session.step(self._inputs, timeout_s=self._deadline_s)
        except CellServeError as error:
            if is_measured:
                self._burst.note_error(error.reason or error.code.name)
        else:
            took_s = time.perf_counter() - sent
            if is_measured and took_s <= self._deadline_s:
                self._burst.good += 1
                self._burst.latencies_s.append(took_s)
        finally:
            self._free.append(session)


async def watch_memory(server: ServerProcess, burst: Burst) -> None:
    """Notes the most memory that a server holds, until it is cancelled."""
    while True:
        burst.peak_bytes = max(burst.peak_bytes, server.resident_bytes())
        await asyncio.sleep(MEMORY_INTERVAL_S)


async def watch_processor(server: ServerProcess, burst: Burst, rhythm: Rhythm) -> None:
    """Notes the processor time that a server takes while it is measured."""
    await asyncio.sleep(rhythm.warmup_s)
    spent_s = server.cpu_s()
    await asyncio.sleep(rhythm.seconds)
    burst.server_cpu_s = server.cpu_s() - spent_s


@contextlib.asynccontextmanager
async def pool(server: ServerProcess, way: str, sessions: int, inputs: Array) -> AsyncIterator[list[aio.Session]]:
    """So many sessions of one way, each with a step behind it."""
    coalesce, policy = WAYS[way]
    async with aio.connect(server.address, coalesce=coalesce, retry=policy) as remote:
        cell = await remote.cell(CELL, seed=SEED, input_size=INPUTS)

        async def opened() -> aio.Session:
            session = await cell.session(batch_size=ROWS)
            await session.step(inputs)
            return session

        found = await asyncio.gather(*(opened() for _ in range(sessions)))
        yield found
        await asyncio.gather(*(session.close() for session in found))


async def offer(server: ServerProcess, sessions: list[aio.Session], inputs: Array, plan: Plan, burst: Burst) -> None:
    """Offers what a burst is to be."""
    watching = asyncio.create_task(watch_memory(server, burst))
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(watch_processor(server, burst, plan.rhythm))
            await Offer(sessions, inputs, plan.deadline_s, burst).run(burst.rate, plan.rhythm)
    finally:
        watching.cancel()


async def measure(plan: Plan, progress: Progress) -> Result:
    """Keys, for each way and for the worst of them (without a name), each at the last level, x the best of all:
    ``goodput_ratio``; ``work_ratio``, the same of what a second of the server's processor time gave,
    which a busy machine changes less; and ``rss_growth``, the server's memory, x that at the first level.
    """
    progress.expect(plan.rhythm.rounds * len(WAYS))
    inputs = normal(ROWS, INPUTS)
    bursts: list[Burst] = []
    async with contextlib.AsyncExitStack() as stack:
        server = stack.enter_context(cellserve("--log-level", "error"))
        pools = {way: await stack.enter_async_context(pool(server, way, plan.sessions, inputs)) for way in WAYS}
        callers = [Caller(session.step, inputs) for session in pools["stream"][: plan.callers]]
        for number in range(plan.rhythm.rounds):
            capacity = (await call_in_loops("capacity", callers, server, plan.rhythm)).rate
            for way, sessions in pools.items():
                # There and back, so that no place in the round is a level's.
                for level in plan.levels[:: -1 if number % 2 else 1]:
                    burst = Burst(way, number, level, capacity, plan.rhythm.seconds)
                    await offer(server, sessions, inputs, plan, burst)
                    bursts.append(burst)
                progress.advance(way)
    return result_of(bursts, plan)


def result_of(bursts: Sequence[Burst], plan: Plan) -> Result:
    """What the bursts say together."""
    keys: dict[str, float] = {"capacity": statistics.median(burst.capacity for burst in bursts)}
    rows: list[dict[str, Cell]] = []
    for way in WAYS:
        levels = [[one for one in bursts if (one.way, one.level) == (way, level)] for level in plan.levels]
        keys[f"goodput_ratio_{way}"] = to_best(levels, lambda one: one.goodput)
        keys[f"work_ratio_{way}"] = to_best(levels, lambda one: one.work)
        keys[f"rss_growth_{way}"] = statistics.median(
            last.peak_bytes / first.peak_bytes for first, last in zip(levels[0], levels[-1], strict=True)
        )
        rows += [row_of(level) for level in levels]
    keys["goodput_ratio"] = min(keys[f"goodput_ratio_{way}"] for way in WAYS)
    keys["work_ratio"] = min(keys[f"work_ratio_{way}"] for way in WAYS)
    keys["rss_growth"] = max(keys[f"rss_growth_{way}"] for way in WAYS)
    notes = [f"in time is within {plan.deadline_s:g} s; a step is {ROWS} rows through {LAYERS} LSTMs of {UNITS} units"]
    return Result(keys, rows, [asdict(burst) for burst in bursts], notes)


def to_best(levels: Sequence[Sequence[Burst]], value: Callable[[Burst], float]) -> float:
    """A value of the last level, x the best of all, in medians over the rounds; 0 where there is nothing."""
    medians = [statistics.median(value(burst) for burst in bursts) for bursts in levels]
    return medians[-1] / (max(medians) or 1.0)


def row_of(bursts: Sequence[Burst]) -> dict[str, Cell]:
    """One way and level, in medians over the rounds."""

    def median(value: Callable[[Burst], float]) -> float:
        return statistics.median(value(burst) for burst in bursts)

    return {
        "way": bursts[0].way,
        "level": bursts[0].level,
        "offered": median(lambda burst: burst.offered / burst.seconds),
        "in time": median(lambda burst: burst.goodput),
        "refused": median(lambda burst: burst.errors.get("QUEUE_FULL", 0) / burst.seconds),
        "too late": median(lambda burst: burst.errors.get("DEADLINE_EXCEEDED", 0) / burst.seconds),
        "p50_ms": median(lambda burst: percentiles(np.asarray(burst.latencies_s))[0] * 1e3),
        "p99_ms": median(lambda burst: percentiles(np.asarray(burst.latencies_s))[1] * 1e3),
        "cpu_ms": median(lambda burst: 1e3 / burst.work if burst.good else float("inf")),
        "rss_mb": median(lambda burst: burst.peak_bytes / MIB),
    }


if __name__ == "__main__":
    run("overload", measure, FULL, QUICK)
