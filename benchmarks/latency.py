"""One session, one step at a time, against a bare grpc.aio bidirectional echo: what a lone caller waits."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

import grpc

from benchmarks.bursts import Call, Caller, Rhythm, alternate, call_in_loops
from benchmarks.command import run
from benchmarks.contestants import ECHOED, UNITS, normal, product, reference
from benchmarks.progress import Progress
from benchmarks.results import Result
from benchmarks.samples import compare
from benchmarks.tables import beside


@dataclass(frozen=True)
class Plan:
    """How much."""

    rhythm: Rhythm


FULL = Plan(Rhythm(rounds=14, warmup_s=0.2, seconds=0.7))
QUICK = Plan(Rhythm(rounds=4, warmup_s=0.1, seconds=0.4))


async def measure(plan: Plan, progress: Progress) -> Result:
    """Keys: those of ``compare``; ``ratio_p50`` is the one that counts."""
    progress.expect(plan.rhythm.rounds)
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(product())
        bare = await stack.enter_async_context(reference())
        session = await ours.cell.session()
        stream = bare.stream()
        stack.callback(stream.cancel)
        stepper, echo = Caller(session.step, normal(UNITS)), Caller(one_by_one(stream), ECHOED)
        pairs = await alternate(
            plan.rhythm.rounds,
            [
                lambda: call_in_loops("cellserve", [stepper], ours.process, plan.rhythm),
                lambda: call_in_loops("reference", [echo], bare.process, plan.rhythm),
            ],
            progress,
            "1 caller",
        )
    found = compare(pairs)
    return Result(found, [{"callers": 1, **beside(found)}], [sample.as_record() for pair in pairs for sample in pair])


def one_by_one(stream: grpc.aio.StreamStreamCall[bytes, bytes]) -> Call:
    """Sends a message and waits for it to come back."""

    async def call(message: bytes) -> None:
        await stream.write(message)
        await stream.read()

    return call


if __name__ == "__main__":
    run("latency", measure, FULL, QUICK)
