"""128 coroutines that step while 8 clients of another process run sequences of 1000 steps without end."""

from __future__ import annotations

import asyncio
import statistics
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass

import numpy as np

from benchmarks.bursts import Caller, Rhythm, alternate, answer_times, call_in_loops
from benchmarks.command import run
from benchmarks.contestants import UNITS, lstm, normal, product
from benchmarks.processes import ServerProcess
from benchmarks.progress import Progress
from benchmarks.results import Cell, Result
from benchmarks.samples import Sample, absolutes, median_of, median_ratio, percentiles, rate_between
from benchmarks.workers import Commands, Worker
from cellserve_client import aio

SEQUENCE_STEPS = 1000


@dataclass(frozen=True)
class Plan:
    """How much."""

    steppers: int
    sequence_clients: int
    rhythm: Rhythm


FULL = Plan(128, 8, Rhythm(rounds=4, warmup_s=0.5, seconds=4.0))
QUICK = Plan(128, 8, Rhythm(rounds=1, warmup_s=0.5, seconds=2.0))


async def run_sequences(commands: Commands, server: ServerProcess, clients: int) -> None:
    """What the other process does: for every ``Rhythm`` that it is sent, so many clients run sequences for so long.

    Each client has a connection and a session of its own. The steps are counted between a client's first and last
    answer, for a sequence takes a good part of the time.
    """
    sequence = normal(SEQUENCE_STEPS, UNITS)
    async with AsyncExitStack() as stack:
        callers = []
        for _ in range(clients):
            connection = await stack.enter_async_context(aio.connect(server.address))
            session = await (await lstm(connection)).session()
            callers.append(Caller(session.run, sequence))
        while (rhythm := await commands.next()) is not None:
            answers, window, client_cpu_s, server_cpu_s = await answer_times(callers, server, rhythm)
            seconds = window[1] - window[0]
            steps = rate_between(answers, *window) * SEQUENCE_STEPS * seconds
            durations = [np.diff(times) for times in answers]
            p50_s, p99_s = percentiles(np.concatenate(durations))
            commands.answer(Sample("sequences", seconds, steps, client_cpu_s, server_cpu_s, p50_s, p99_s))


async def measure(plan: Plan, progress: Progress) -> Result:
    """Keys: ``p99_ratio`` (of the steppers beside sequences to alone), ``sequences_ratio`` (of the sequences' steps a
    second beside steppers to alone), and the absolutes of both, alone and mixed.
    """
    progress.expect(plan.rhythm.rounds)
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(product())
        sessions = [await ours.cell.session() for _ in range(plan.steppers)]
        steppers = [Caller(one.step, row) for one, row in zip(sessions, normal(plan.steppers, UNITS), strict=True)]
        others = stack.enter_context(Worker(run_sequences, ours.process, plan.sequence_clients))
        mixed_sequences: list[Sample] = []

        async def steps_alone() -> Sample:
            return await call_in_loops("steps alone", steppers, ours.process, plan.rhythm)

        async def sequences_alone() -> Sample:
            found: Sample = await others.ask(plan.rhythm)
            return found

        async def mixed() -> Sample:
            asked = asyncio.create_task(others.ask(plan.rhythm))
            found = await call_in_loops("steps mixed", steppers, ours.process, plan.rhythm)
            mixed_sequences.append(await asked)
            return found

        turns = [steps_alone, sequences_alone, mixed]
        rounds = await alternate(plan.rhythm.rounds, turns, progress, "alone, alone, together")
    alone, sequences, together = ([samples[place] for samples in rounds] for place in range(3))
    keys = {
        "p99_ratio": median_ratio(rounds, lambda sample: sample.p99_s, over=2, under=0),
        "sequences_ratio": statistics.median(
            beside.rate / best.rate for beside, best in zip(mixed_sequences, sequences, strict=True)
        ),
        "sequence_steps_mixed": median_of(mixed_sequences, lambda sample: sample.rate),
    }
    rows: list[dict[str, Cell]] = []
    parts = {"steps_alone": alone, "steps_mixed": together, "sequences_alone": sequences}
    for part, samples in parts.items():
        found = absolutes(samples)
        keys |= {f"{key}_{part}": value for key, value in found.items()}
        rows.append({"who": part.replace("_", " "), **found})
    rows.append({"who": "sequences mixed", **absolutes(mixed_sequences)})
    records = [asdict(sample) for sample in (*alone, *sequences, *together, *mixed_sequences)]
    return Result(keys, rows, records, ["mixed: the server's CPU is that of steppers and sequences together"])


if __name__ == "__main__":
    run("mixed", measure, FULL, QUICK)
