"""1,000 to 1,000,000 open sessions: steps a second of random 1024 of them, and the server's memory a session.

Each size has a server and a client process of its own, all there at the same time, and they take turns: so a million is
compared with a thousand in the same minute.
"""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil

from benchmarks import processes
from benchmarks.bursts import Caller, Rhythm, alternate, call_one_by_one
from benchmarks.command import run
from benchmarks.contestants import SEED, UNITS, lstm, normal
from benchmarks.processes import ServerProcess
from benchmarks.progress import Progress
from benchmarks.results import Result
from benchmarks.samples import Sample, absolutes, median_ratio
from benchmarks.workers import Commands, Worker
from cellserve_client import aio

STEPPED = 1024
STATE_BYTES = 2 * UNITS * np.dtype(np.float32).itemsize
# The server keeps the state and the one before it, for repeats.
BYTES_ALLOWED = 2.2 * 2 * STATE_BYTES + 400
# Of a client process a session: only there to see beforehand whether the machine is large enough.
CLIENT_BYTES_GUESSED = 1000
OPENING_TIMEOUT_S = 300.0
SUBSETS = 256
FLAGS = ("--max-sessions", "1100000", "--max-state-bytes", str(8 << 30), "--max-stream-handles", "1100000")


@dataclass(frozen=True)
class Plan:
    """How much: the numbers of open sessions, ascending."""

    sessions: tuple[int, ...]
    rhythm: Rhythm


FULL = Plan((1_000, 10_000, 100_000, 1_000_000), Rhythm(rounds=8, warmup_s=0.2, seconds=0.8))
QUICK = Plan((1_000, 10_000), Rhythm(rounds=2, warmup_s=0.1, seconds=0.3))


class Station:
    """A server with so many open sessions, and the client process that steps them."""

    def __init__(self, sessions: int, server: ServerProcess, client: Worker) -> None:
        self.sessions = sessions
        self._server = server
        self._client = client

    async def open(self) -> dict[str, float]:
        """Opens the sessions and steps each once, so that each has its two states. Says how long and how large."""
        before = self._server.resident_bytes()
        seconds: dict[str, float] = await self._client.ask("open")
        grown = self._server.resident_bytes() - before
        return {**seconds, "bytes_per_session": grown / self.sessions}

    async def burst(self, rhythm: Rhythm) -> Sample:
        """Steps random subsets for a while."""
        found: Sample = await self._client.ask(rhythm)
        return found


async def step_subsets(commands: Commands, server: ServerProcess, sessions: int) -> None:
    """What a client process does: ``open``, then a burst for every ``Rhythm`` that it is sent."""
    subset = min(STEPPED, sessions)
    random = np.random.default_rng(SEED)
    subsets = [np.sort(random.choice(sessions, subset, replace=False)) for _ in range(SUBSETS)]
    inputs = normal(subset, UNITS)
    async with aio.connect(server.address, timeout_s=OPENING_TIMEOUT_S) as connection:
        cell = await lstm(connection)
        while await commands.next() != "open":
            pass
        start = time.perf_counter()
        group = await connection.session_group(cell, sessions)
        opened = time.perf_counter()
        for first in range(0, sessions, subset):
            members = np.arange(first, min(first + subset, sessions))
            await group.step(inputs[: len(members)], members=members)
        commands.answer({"open_s": opened - start, "first_steps_s": time.perf_counter() - opened})
        turn = 0

        async def step_next(values: Any) -> None:
            nonlocal turn
            turn = (turn + 1) % SUBSETS
            await group.step(values, members=subsets[turn])

        caller = Caller(step_next, inputs)
        while (rhythm := await commands.next()) is not None:
            await call_one_by_one(f"{sessions} sessions", caller, server, rhythm.warmup_s, subset)
            commands.answer(await call_one_by_one(f"{sessions} sessions", caller, server, rhythm.seconds, subset))


async def measure(plan: Plan, progress: Progress) -> Result:
    """Keys: ``rate_ratio`` (of the most sessions to the fewest), ``bytes_per_session`` (at the most sessions),
    ``bytes_allowed``, ``open_s``, and for each size ``rate_N`` and its CPU.
    """
    result = Result(notes=[f"LSTM of {UNITS} units, {STATE_BYTES} bytes of state; {STEPPED} stepped at a time"])
    sizes = _that_fit(plan.sessions, result)
    progress.expect(len(sizes) + plan.rhythm.rounds)
    async with AsyncExitStack() as stack:
        stations, opening = [], []
        for sessions in sizes:
            server = stack.enter_context(processes.cellserve(*FLAGS))
            station = Station(sessions, server, stack.enter_context(Worker(step_subsets, server, sessions)))
            stations.append(station)
            opening.append(await station.open())
            progress.advance(f"opened {sessions:,}")
        turns = [lambda station=station: station.burst(plan.rhythm) for station in stations]
        rounds = await alternate(plan.rhythm.rounds, turns, progress, "taking turns")
    most = len(sizes) - 1
    result.keys |= {
        "rate_ratio": median_ratio(rounds, lambda sample: sample.rate, over=most, under=0),
        "bytes_per_session": opening[most]["bytes_per_session"],
        "bytes_allowed": BYTES_ALLOWED,
        "open_s": opening[most]["open_s"],
        "sessions": sizes[most],
    }
    for place, sessions in enumerate(sizes):
        found = absolutes([samples[place] for samples in rounds])
        result.rows.append({"open sessions": sessions, **found, **opening[place]})
        result.keys |= {f"{key}_{sessions}": value for key, value in found.items()}
    result.samples = [sample.as_record() for samples in rounds for sample in samples]
    return result


def _that_fit(sizes: tuple[int, ...], result: Result) -> list[int]:
    """The sizes that this machine's free memory can hold together with the smaller ones."""
    free = psutil.virtual_memory().available
    fitting: list[int] = []
    for sessions in sizes:
        free -= int(sessions * (BYTES_ALLOWED + CLIENT_BYTES_GUESSED))
        if free > 0 or not fitting:
            fitting.append(sessions)
        else:
            result.notes.append(f"{sessions:,} sessions were left out: the machine has not the memory")
    return fitting


if __name__ == "__main__":
    run("scale", measure, FULL, QUICK)
