"""Plain ``Step`` calls through the generated stub, 64 callers, against a bare grpc.aio unary echo of the same bytes."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

from benchmarks.bursts import Caller, Rhythm, alternate, call_in_loops
from benchmarks.command import run
from benchmarks.contestants import ECHOED, UNITS, Product, bare_channel, normal, product, reference
from benchmarks.progress import Progress
from benchmarks.results import Result
from benchmarks.samples import compare
from benchmarks.tables import beside
from cellserve.tensors import tensor_from_array
from cellserve.v1 import recurrent_service_pb2 as pb
from cellserve.v1 import recurrent_service_pb2_grpc


@dataclass(frozen=True)
class Plan:
    """How much."""

    callers: int
    rhythm: Rhythm


FULL = Plan(64, Rhythm(rounds=10, warmup_s=0.3, seconds=1.0))
QUICK = Plan(64, Rhythm(rounds=3, warmup_s=0.2, seconds=0.4))


async def measure(plan: Plan, progress: Progress) -> Result:
    """Keys: those of ``compare``."""
    progress.expect(plan.rhythm.rounds)
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(product())
        bare = await stack.enter_async_context(reference())
        channel = await stack.enter_async_context(bare_channel(ours.process.address))
        step = recurrent_service_pb2_grpc.RecurrentServiceStub(channel).Step
        steppers = [Caller(step, request) for request in await _requests(ours, plan.callers)]
        echoes = [Caller(bare.unary, ECHOED) for _ in steppers]
        pairs = await alternate(
            plan.rhythm.rounds,
            [
                lambda: call_in_loops("cellserve", steppers, ours.process, plan.rhythm),
                lambda: call_in_loops("reference", echoes, bare.process, plan.rhythm),
            ],
            progress,
            f"{plan.callers} callers",
        )
    found = compare(pairs)
    samples = [sample.as_record(callers=plan.callers) for pair in pairs for sample in pair]
    return Result(found, [{"callers": plan.callers, **beside(found)}], samples)


async def _requests(ours: Product, count: int) -> list[pb.StepRequest]:
    """A step for each of so many new sessions, to be sent again and again: it says no step count and no run id."""
    requests = []
    for row in normal(count, UNITS):
        session = await ours.cell.session()
        requests.append(pb.StepRequest(name=f"sessions/{session.detach()}", inputs=[tensor_from_array(row)]))
    return requests


if __name__ == "__main__":
    run("unary", measure, FULL, QUICK)
