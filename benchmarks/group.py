"""A ``SessionGroup`` of 1024, stepped by one array, against the same cell called in process on the same batch."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

import numpy as np

from benchmarks.bursts import Caller, Rhythm, alternate, call_one_by_one
from benchmarks.command import run
from benchmarks.contestants import CELL, UNITS, network_of, normal, plain, product
from benchmarks.progress import Progress
from benchmarks.results import Result
from benchmarks.samples import compare
from benchmarks.tables import beside
from cellserve.tensors import Array

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Plan:
    """How much."""

    sessions: int
    rhythm: Rhythm


FULL = Plan(1024, Rhythm(rounds=12, warmup_s=0.0, seconds=0.8))
QUICK = Plan(1024, Rhythm(rounds=3, warmup_s=0.0, seconds=0.4))


class InProcess:
    """The cell in this process, its state carried on from step to step."""

    def __init__(self, rows: int) -> None:
        self._network = network_of(CELL, UNITS)
        self._leaves: list[Array] = [np.zeros((rows, size), np.float32) for size in self._network.leaf_sizes]

    def step(self, inputs: Array) -> Array:
        """One step of all rows."""
        (output,), self._leaves = self._network.step([inputs], self._leaves)
        return output


async def measure(plan: Plan, progress: Progress) -> Result:
    """Keys: those of ``compare``. The reference has no server: its time is its caller's."""
    progress.expect(plan.rhythm.rounds)
    inputs = normal(plan.sessions, UNITS)
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(product())
        group = await ours.server.session_group(ours.cell, plan.sessions)
        alone = InProcess(plan.sessions)
        np.testing.assert_allclose(await group.step(inputs), alone.step(inputs), rtol=0, atol=TOLERANCE)
        stepper, cell = Caller(group.step, inputs), Caller(plain(alone.step), inputs)
        seconds = plan.rhythm.seconds
        pairs = await alternate(
            plan.rhythm.rounds,
            [
                lambda: call_one_by_one("cellserve", stepper, ours.process, seconds, plan.sessions),
                lambda: call_one_by_one("reference", cell, None, seconds, plan.sessions),
            ],
            progress,
            f"{plan.sessions} sessions",
        )
    found = compare(pairs)
    samples = [sample.as_record(sessions=plan.sessions) for pair in pairs for sample in pair]
    return Result(found, [{"sessions": plan.sessions, **beside(found)}], samples)


if __name__ == "__main__":
    run("group", measure, FULL, QUICK)
