"""1 to 1024 coroutines, each awaiting ``session.step``, against as many callers of a bare grpc.aio unary echo."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

from benchmarks.bursts import Caller, Rhythm, alternate, call_in_loops
from benchmarks.command import run
from benchmarks.contestants import ECHOED, UNITS, Product, Reference, normal, product, reference
from benchmarks.progress import Progress
from benchmarks.results import Result
from benchmarks.samples import Pair, compare
from benchmarks.tables import beside
from cellserve_client import aio


@dataclass(frozen=True)
class Plan:
    """How much: each number of callers gets the whole rhythm."""

    callers: tuple[int, ...]
    rhythm: Rhythm


FULL = Plan((1, 16, 64, 256, 1024), Rhythm(rounds=6, warmup_s=0.3, seconds=1.0))
QUICK = Plan((1, 64, 256), Rhythm(rounds=2, warmup_s=0.2, seconds=0.4))


async def measure(plan: Plan, progress: Progress) -> Result:
    """Keys: those of ``compare``, followed by ``_`` and the number of callers."""
    result = Result()
    progress.expect(len(plan.callers) * plan.rhythm.rounds)
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(product())
        bare = await stack.enter_async_context(reference())
        sessions = [await ours.cell.session() for _ in range(max(plan.callers))]
        for count in plan.callers:
            pairs = await _measure_callers(ours, sessions[:count], bare, plan.rhythm, progress)
            found = compare(pairs)
            result.keys |= {f"{key}_{count}": value for key, value in found.items()}
            result.rows.append({"callers": count, **beside(found)})
            result.samples += [sample.as_record(callers=count) for pair in pairs for sample in pair]
    return result


async def _measure_callers(
    ours: Product, sessions: list[aio.Session], bare: Reference, rhythm: Rhythm, progress: Progress
) -> list[Pair]:
    inputs = normal(len(sessions), UNITS)
    steppers = [Caller(session.step, row) for session, row in zip(sessions, inputs, strict=True)]
    echoes = [Caller(bare.unary, ECHOED) for _ in sessions]
    return await alternate(
        rhythm.rounds,
        [
            lambda: call_in_loops("cellserve", steppers, ours.process, rhythm),
            lambda: call_in_loops("reference", echoes, bare.process, rhythm),
        ],
        progress,
        f"{len(sessions)} callers",
    )


if __name__ == "__main__":
    run("steps", measure, FULL, QUICK)
